//! One partition that the pod owns: a value that is made when it is assigned and dropped when it is revoked.

use std::{sync::Arc, time::Instant};

use sluice_crds::{
    config,
    kafkaconsumer::Ordering,
    report::{BlockedLane, ProgressReport, VERSION},
    tuning::Knobs,
};
use tokio_util::sync::CancellationToken;

use super::{
    batch_queue::BatchQueue,
    lanes::{Lanes, Pending, bytes_of},
    meter::Reading,
    tracker::Tracker,
};
use crate::Record;

/// Records that may be open in one partition (more if batches are that large): beyond it, no new ones are taken.
const MAX_OPEN: usize = 10_000;
/// Records that may wait for a commit behind one that is not done, so many that others flow for a while past a lane that is
/// blocked, and so few that memory, and what would be handled again after a crash, stay bounded.
const MAX_HELD: usize = 50_000;
/// Records that wait in the pod for their turn, at least: the cushion from which it works while a rebalance holds the client.
const MIN_CUSHION: usize = 256;
/// What a record costs beside its bytes.
const RECORD_COST: usize = 256;
/// Bytes of open records that the whole pod may hold.
pub(super) const BUDGET: usize = 16 << 20;

/// A partition of this pod.
// Its flags are independent of each other; a state machine would only hide that.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) number: i32,
    /// Unlike that of any other assignment in this process: completions name it.
    pub(super) epoch: u64,
    /// When it was assigned, milliseconds since the Unix epoch.
    pub(super) assigned_at: i64,
    pub(super) queue: Option<BatchQueue>,
    pub(super) tracker: Tracker,
    pub(super) lanes: Lanes,
    /// Cancelled when what is in work no longer counts.
    pub(super) cancel: CancellationToken,
    /// It is being taken away: no new batches.
    pub(super) leaving: bool,
    pub(super) in_work: usize,
    pub(super) open_bytes: usize,
    pub(super) handled: u64,
    pub(super) lost: u64,
    pub(super) above_end: bool,
    /// The fetcher has stopped because the offset it was to go on at does not exist: when to look again.
    pub(super) astray: Option<Instant>,
    /// Whether the client's position can be believed: an error that it delivers moves it, a record sets it right.
    pub(super) position_holds: bool,
    pub(super) committed: Option<i64>,
    /// The offset of the commit under way.
    pub(super) committing: Option<i64>,
    pub(super) committed_at: Option<Instant>,
    pub(super) sequence: u64,
    /// Something happened that the next report should tell soon.
    pub(super) report_due: bool,
}

/// What the whole pod adds to each partition's report.
pub(super) struct PodReport<'a> {
    pub(super) pod: &'a str,
    pub(super) boot: i64,
    pub(super) at: i64,
    pub(super) handled: u64,
    pub(super) reading: Reading,
    pub(super) rebalance_pause_ms: u64,
    pub(super) partitions: u32,
    pub(super) revision: u64,
    pub(super) tuning_broken: bool,
}

impl Partition {
    pub(super) fn new(
        topic: Arc<str>,
        number: i32,
        epoch: u64,
        assigned_at: i64,
        ordering: Ordering,
        start: Option<i64>,
    ) -> Self {
        Self {
            topic,
            number,
            epoch,
            assigned_at,
            queue: None,
            tracker: Tracker::starting_at(start),
            lanes: Lanes::new(ordering),
            cancel: CancellationToken::new(),
            leaving: false,
            in_work: 0,
            open_bytes: 0,
            handled: 0,
            lost: 0,
            above_end: false,
            astray: None,
            position_holds: true,
            committed: None,
            committing: None,
            committed_at: None,
            sequence: 0,
            report_due: true,
        }
    }

    /// Whether something that was begun is not finished, blocked lanes left out.
    pub(super) fn unfinished(&self) -> bool {
        self.in_work > 0 || self.lanes.unfinished() > 0
    }

    /// How many records may be taken now, given what all partitions of the pod hold together.
    pub(super) fn room(&self, knobs: Knobs, held_by_pod: usize, partitions: usize) -> usize {
        if self.leaving {
            return 0;
        }
        let batch = knobs.batch_size as usize;
        let cushion = (2 * batch).max(MIN_CUSHION);
        let most = batch.saturating_mul(knobs.concurrency as usize + 2).max(MAX_OPEN);
        if self.tracker.open() >= most || self.tracker.held() >= MAX_HELD.max(2 * most) {
            return 0;
        }
        // Each partition may hold its share of the budget, and more while others do not use theirs.
        let over = self.cost() >= BUDGET / partitions.max(1) && held_by_pod >= BUDGET;
        if over && self.tracker.open() > 0 {
            return 0;
        }
        // What waits behind work counts for less, so that a hot key does not keep others from their turn; but it counts: at a
        // revoke all of it has to be finished.
        cushion.saturating_sub(self.lanes.waiting() + self.lanes.behind_work() / 4)
    }

    /// Bytes that it holds.
    pub(super) fn cost(&self) -> usize {
        self.open_bytes + self.tracker.open() * RECORD_COST
    }

    /// A record arrives. One that arrived before is dropped.
    pub(super) fn deliver(&mut self, record: Record) {
        self.position_holds = true;
        if let Some(slot) = self.tracker.deliver(record.offset, record.timestamp) {
            self.open_bytes += bytes_of(&record);
            self.lanes.push(Pending::new(record, slot));
        }
    }

    /// No more records for it; what was begun may end.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.queue = None;
        self.lanes.finish_begun();
    }

    pub(super) fn report(&mut self, pod: &PodReport<'_>) -> ProgressReport {
        self.sequence += 1;
        ProgressReport {
            version: VERSION,
            pod: pod.pod.to_owned(),
            boot: pod.boot,
            epoch: self.assigned_at,
            sequence: self.sequence,
            at: pod.at,
            handled: self.handled,
            done_beyond: self.tracker.done_beyond() as u64,
            open: self.tracker.open() as u64,
            oldest_open: self.tracker.oldest_open(),
            blocked: self.lanes.blocked().map(|blocked| BlockedLane {
                offset: blocked.offset,
                since: blocked.since,
                attempts: blocked.tries,
                lanes: blocked.lanes,
            }),
            lost: self.lost,
            above_end: self.above_end,
            pod_handled: pod.handled,
            slot_seconds: round(pod.reading.slot_seconds),
            busy: round(pod.reading.busy),
            usable_slots: round(pod.reading.usable_slots),
            full_batches: round(pod.reading.full_batches),
            handler_p99_ms: round(pod.reading.handler_p99.as_secs_f64() * 1e3),
            rebalance_pause_ms: pod.rebalance_pause_ms,
            partitions: pod.partitions,
            revision: pod.revision,
            tuning_broken: pod.tuning_broken,
            config_format: config::VERSION,
        }
    }
}

/// Three digits behind the point are enough, and all reports are read every second.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
