//! Asks the engine to stop: with a drain first, or at once.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use super::wake::Waker;

const DRAIN: u8 = 1;
const NOW: u8 = 2;

/// Set by signals, read by the fetch thread.
#[derive(Debug)]
pub(crate) struct Stop {
    level: AtomicU8,
    waker: Arc<Waker>,
}

impl Stop {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self { level: AtomicU8::new(0), waker }
    }

    /// Finish what is in work, commit, leave.
    pub(crate) fn drain(&self) {
        self.level.fetch_max(DRAIN, Relaxed);
        self.waker.wake();
    }

    /// Commit what is done, leave.
    pub(crate) fn now(&self) {
        self.level.fetch_max(NOW, Relaxed);
        self.waker.wake();
    }

    pub(crate) fn asked(&self) -> bool {
        self.level.load(Relaxed) >= DRAIN
    }

    pub(crate) fn hurries(&self) -> bool {
        self.level.load(Relaxed) >= NOW
    }
}
