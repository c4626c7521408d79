//! What the engine shows of itself: written by the fetch thread, read by the health server.
//!
//! All fields are atomics that are written once a batch or once a tick, never once a record.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A call of the handler that takes longer than this is counted in [`EngineStatus::hung`] and logged.
pub const HANGS_AFTER: Duration = Duration::from_mins(1);

/// A call that takes longer than this fails liveness: the pod is started again, and its records go to others meanwhile.
pub const DEAD_AFTER: Duration = Duration::from_mins(15);

/// A fetch thread that has not shown itself for this long fails liveness. A drain shows itself all the time; what blocks
/// is a call into the client (a synchronous commit at a revoke waits for a broker for at most 10 s).
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_mins(1);

/// The engine's state and counters. Counters grow from the start of the process.
#[derive(Debug, Default)]
pub struct EngineStatus {
    joined: AtomicBool,
    stopping: AtomicBool,
    heartbeat: AtomicI64,
    oldest_call: AtomicI64,
    tuning_broken: AtomicBool,
    /// Batches in work for longer than [`HANGS_AFTER`].
    pub hung: Gauge,
    /// Lanes whose first record was tried more than `maxRetries` times.
    pub blocked_lanes: Gauge,
    /// Lanes that wait for their next try, blocked ones included.
    pub waiting_lanes: Gauge,
    /// Partitions that the pod has.
    pub partitions: Gauge,
    /// Partitions that stand because the committed offset is above the log's end.
    pub above_end: Gauge,
    /// Batches in work.
    pub in_work: Gauge,
    /// Records taken from Kafka and not done.
    pub open: Gauge,
    /// Bytes of them (keys, values and headers).
    pub open_bytes: Gauge,
    /// Busy fraction of the last second, in thousandths.
    pub busy_permille: Gauge,
    /// 99th percentile of a call in the last minute, microseconds.
    pub handler_p99_micros: Gauge,
    /// How long the partitions stood at the last rebalance, milliseconds.
    pub rebalance_pause_ms: Gauge,
    /// The knob in force: records in a batch, at most.
    pub batch_size: Gauge,
    /// The knob in force: batches in work at once, at most.
    pub concurrency: Gauge,
    /// The revision of the knobs in force; 0 before a file was read.
    pub revision: Gauge,
    /// Records done.
    pub handled: Counter,
    /// Bytes of them.
    pub handled_bytes: Counter,
    /// Calls of the handler that ended.
    pub batches: Counter,
    /// Time of these calls together, microseconds.
    pub handler_micros: Counter,
    /// Tries of records that failed and are tried again.
    pub retries: Counter,
    /// Tries that the handler called dead.
    pub dead: Counter,
    /// Calls that panicked.
    pub panics: Counter,
    /// Completions that came after their partition was gone.
    pub stale: Counter,
    /// Batches that were cancelled because their partition was gone and `drainTimeout` was over.
    pub cancelled: Counter,
    /// Rebalances that touched this pod.
    pub rebalances: Counter,
    /// Partitions that were lost instead of revoked.
    pub partitions_lost: Counter,
    /// Records that were gone before they could be read.
    pub records_lost: Counter,
    /// Commits that the broker took.
    pub commits: Counter,
    /// Commits that failed, those around a rebalance included.
    pub commit_failures: Counter,
    /// Errors that the Kafka client reported.
    pub client_errors: Counter,
}

impl EngineStatus {
    /// Whether the pod is ready: a member of its group, with or without partitions, and not about to stop.
    pub fn ready(&self) -> bool {
        self.joined.load(Relaxed) && !self.stopping.load(Relaxed)
    }

    /// Whether the pod is a member of its group.
    pub fn joined(&self) -> bool {
        self.joined.load(Relaxed)
    }

    /// Whether the pod has been asked to stop.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Whether the tuning file cannot be read, so that the knobs in force are older than it.
    pub fn tuning_broken(&self) -> bool {
        self.tuning_broken.load(Relaxed)
    }

    /// What is wrong with the process, if it should be started again.
    pub fn dead_because(&self) -> Option<String> {
        let now = now_millis();
        let heartbeat = self.heartbeat.load(Relaxed);
        if heartbeat > 0 && now - heartbeat > HEARTBEAT_TIMEOUT.as_millis() as i64 {
            return Some(format!(
                "the fetch thread has not moved for {} s",
                (now - heartbeat) / 1_000
            ));
        }
        let oldest = self.oldest_call.load(Relaxed);
        if oldest > 0 && now - oldest > DEAD_AFTER.as_millis() as i64 {
            return Some(format!("a call of the handler has taken {} s", (now - oldest) / 1_000));
        }
        None
    }

    pub(crate) fn set_joined(&self, joined: bool) {
        self.joined.store(joined, Relaxed);
    }

    pub(crate) fn set_stopping(&self) {
        self.stopping.store(true, Relaxed);
    }

    pub(crate) fn set_tuning_broken(&self, broken: bool) {
        self.tuning_broken.store(broken, Relaxed);
    }

    /// The fetch thread moves. 0 when there is none any more.
    pub(crate) fn beat(&self, at: i64) {
        self.heartbeat.store(at, Relaxed);
    }

    /// When the oldest call that is still in work began; 0 for none.
    pub(crate) fn set_oldest_call(&self, since: i64) {
        self.oldest_call.store(since, Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
