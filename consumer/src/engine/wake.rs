//! Wakes the fetch thread: when a queue has something, when a batch has ended, when the knobs change, at a stop.

use std::{
    sync::OnceLock,
    thread::{self, Thread},
    time::Duration,
};

/// The fetch thread, once it runs.
#[derive(Debug, Default)]
pub(crate) struct Waker(OnceLock<Thread>);

impl Waker {
    /// The calling thread is the one to wake.
    pub(crate) fn register(&self) {
        let _ = self.0.set(thread::current());
    }

    /// Wakes it. Never blocks; a wake while it is awake keeps it from sleeping once.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }

    /// The calling thread, which has to be the registered one, sleeps until it is woken, or as long.
    pub(crate) fn sleep(at_most: Duration) {
        if at_most > Duration::ZERO {
            thread::park_timeout(at_most);
        }
    }
}
