//! What a reader's thread shows of itself, so that one that hangs or has died is noticed. Without Kafka.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{pace, port::ClusterStatistics};

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

/// A request failed.
pub fn request_failed() {
    FAILURES.fetch_add(1, Ordering::Relaxed);
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
#[derive(Debug)]
pub struct Numbers(Mutex<Rounds>);

#[derive(Clone, Copy, Debug)]
struct Rounds {
    /// When the last one ended; before the first, since when it is waited for.
    ended: Instant,
    /// How long it took, and the interval to the next one.
    took: Duration,
    interval: Duration,
}

impl Default for Numbers {
    fn default() -> Self {
        let (ended, took, interval) = (Instant::now(), Duration::ZERO, pace::INTERVAL);
        Self(Mutex::new(Rounds { ended, took, interval }))
    }
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

    /// A round ended that took so long; the next one follows after `interval`. One of a thread that
    /// was replaced says nothing.
    pub fn round(&self, took: Duration, interval: Duration) {
        if !self.is_abandoned() {
            *self.numbers.lock() = Rounds { ended: Instant::now(), took, interval };
        }
    }
}

impl Numbers {
    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pretends that no round ever ended.
    #[cfg(test)]
    pub(super) fn is_late(&self) {
        self.lock().interval = Duration::ZERO;
    }

    /// What is shown of the cluster at these addresses.
    pub fn statistics(&self, bootstrap_servers: &str) -> ClusterStatistics {
        let Rounds { ended, took, interval } = *self.lock();
        ClusterStatistics {
            bootstrap_servers: bootstrap_servers.to_owned(),
            age: ended.elapsed(),
            interval,
            last_round: took,
        }
    }
}
