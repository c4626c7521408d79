//! What a reader's thread shows of itself, so that one that hangs or has died is noticed. Without Kafka.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Counters of the process: clusters come and go.
static FAILURES: AtomicU64 = AtomicU64::new(0);
static RESTARTS: AtomicU64 = AtomicU64::new(0);

/// How many requests failed or were not answered, since the process started.
pub fn failures() -> u64 {
    FAILURES.load(Ordering::Relaxed)
}

/// How many threads were started again, since the process started.
pub fn restarts() -> u64 {
    RESTARTS.load(Ordering::Relaxed)
}

/// A thread is started again.
pub fn restarted() {
    RESTARTS.fetch_add(1, Ordering::Relaxed);
}

/// Signs of life of one thread.
#[derive(Debug)]
pub struct Pulse {
    last: Mutex<Instant>,
    is_abandoned: AtomicBool,
    numbers: Arc<Numbers>,
}

/// What is counted for a cluster, whichever thread reads it.
#[derive(Debug, Default)]
pub struct Numbers {
    /// How long the last round took, in microseconds.
    round: AtomicU64,
    /// When the last round ended.
    read_at: Mutex<Option<Instant>>,
}

impl Pulse {
    /// Of a thread that is about to start.
    pub fn new(numbers: Arc<Numbers>) -> Self {
        Self { last: Mutex::new(Instant::now()), is_abandoned: AtomicBool::new(false), numbers }
    }

    /// The thread lives. Whether it is to go on: another may have taken its place.
    pub fn beat(&self) -> bool {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        !self.is_abandoned()
    }

    /// How long ago it last lived.
    pub fn silence(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Another thread takes its place: what this one still publishes is dropped.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::SeqCst);
    }

    /// Whether another thread has taken its place.
    pub fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::SeqCst)
    }

    /// A request failed.
    pub fn failed(&self) {
        FAILURES.fetch_add(1, Ordering::Relaxed);
    }

    /// A round ended that took so long.
    pub fn round(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.numbers.round.store(micros, Ordering::Relaxed);
        *self.numbers.read_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Numbers {
    /// How long the last round took.
    pub fn round(&self) -> Duration {
        Duration::from_micros(self.round.load(Ordering::Relaxed))
    }

    /// How long ago the last round ended; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        self.read_at.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}
