//! All that the fetch thread owns, and how batches go out and come back.

use std::{
    any::Any,
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use rdkafka::error::RDKafkaErrorCode;
use sluice_crds::{error::sentence, kafkaconsumer::Ordering, tuning::Knobs};

use super::{
    EngineConfig, Error, Stop,
    backoff::Backoff,
    batch_queue::Taken,
    commit::CommitState,
    knobs::KnobsFile,
    lanes::{Judge, Pending},
    meter::{Load, Meter},
    partition::Partition,
    tracker::Slot,
    wake::Waker,
};
use crate::{
    Batch, EngineStatus, Handler, Outcomes, Record,
    status::{HANGS_AFTER, now_millis},
};

/// How often the gauges are set.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// How long to wait before a partition that has gone astray is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A batch that is out.
struct InWork {
    epoch: u64,
    tickets: Vec<(Slot, i64)>,
    since: Instant,
    since_millis: i64,
    told: bool,
}

/// A batch that is back.
pub(super) struct Completion {
    batch: u64,
    records: Vec<Record>,
    /// `None` when it was cancelled.
    outcomes: Option<Outcomes>,
    panicked: bool,
    took: Duration,
}

/// The fetch thread's own.
pub(super) struct State {
    pub(super) config: EngineConfig,
    pub(super) status: Arc<EngineStatus>,
    pub(super) stop: Arc<Stop>,
    pub(super) waker: Arc<Waker>,
    handler: Arc<dyn Handler>,
    runtime: tokio::runtime::Handle,
    pub(super) partitions: Vec<Partition>,
    pub(super) last_epoch: u64,
    /// Whose turn it is.
    turn: usize,
    in_work: HashMap<u64, InWork>,
    last_batch: u64,
    /// At most as many completions are on their way as batches are out, so the channel needs no bound of its own, and
    /// neither side can wait for the other.
    completions: mpsc::Receiver<Completion>,
    completed: mpsc::Sender<Completion>,
    backoff: Backoff,
    pub(super) knobs: Knobs,
    pub(super) revision: u64,
    pub(super) tuning_broken: bool,
    pub(super) knobs_file: Arc<KnobsFile>,
    pub(super) meter: Meter,
    /// Batches in which something went well.
    good: u64,
    pub(super) handled: u64,
    pub(super) rebalance_pause: Duration,
    pub(super) commit: CommitState,
    /// No new records: the pod stops.
    pub(super) closing: bool,
    /// The drain of the stop is over.
    pub(super) finished: bool,
    shown_at: Option<Instant>,
    /// Set where the engine cannot go on.
    pub(super) failed: Option<Error>,
}

impl State {
    pub(super) fn new(
        config: EngineConfig,
        handler: Arc<dyn Handler>,
        status: Arc<EngineStatus>,
        runtime: tokio::runtime::Handle,
        stop: Arc<Stop>,
        waker: Arc<Waker>,
    ) -> Option<Self> {
        let now = Instant::now();
        let (completed, completions) = mpsc::channel();
        Some(Self {
            status,
            stop,
            waker,
            handler,
            runtime,
            partitions: Vec::new(),
            last_epoch: 0,
            turn: 0,
            in_work: HashMap::new(),
            last_batch: 0,
            completions,
            completed,
            backoff: Backoff::new(&config.consumer.retry),
            knobs: config.consumer.initial,
            revision: 0,
            tuning_broken: false,
            knobs_file: Arc::new(KnobsFile::new(&config.tuning_dir)),
            meter: Meter::new(now)?,
            good: 0,
            handled: 0,
            rebalance_pause: Duration::ZERO,
            commit: CommitState::new(now, config.overrides.commit_every),
            closing: false,
            finished: false,
            shown_at: None,
            failed: None,
            config,
        })
    }

    /// One turn: what has ended comes back, what has room is filled, what is free gets work. True when there may be more
    /// to take at once.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        self.take_back();
        let more = self.fetch();
        self.dispatch(now);
        self.show(now);
        more
    }

    /// Takes records from the queues of partitions that have room.
    fn fetch(&mut self) -> bool {
        if self.closing {
            return false;
        }
        let count = self.partitions.len();
        let mut held: usize = self.partitions.iter().map(Partition::cost).sum();
        let mut more = false;
        for partition in &mut self.partitions {
            let room = partition.room(self.knobs, held, count);
            // Taken out only to be put back: a queue that is dropped is never read again.
            if room == 0 {
                continue;
            }
            let Some(queue) = partition.queue.take() else { continue };
            let before = partition.cost();
            more |= queue.take(room, |taken| match taken {
                Taken::Record(record) => partition.deliver(record),
                Taken::Error(code, reason) => partition.strayed(code, &reason, &self.status),
            });
            partition.queue = Some(queue);
            held += partition.cost() - before;
        }
        more
    }

    /// Sends out batches while slots are free, one partition after the other.
    pub(super) fn dispatch(&mut self, now: Instant) {
        let count = self.partitions.len();
        let mut idle = 0;
        while idle < count && self.in_work.len() < self.knobs.concurrency as usize {
            let index = self.turn % count;
            self.turn = (index + 1) % count;
            let batch = self.last_batch + 1;
            let Some(partition) = self.partitions.get_mut(index) else { return };
            let pending = partition.lanes.take(now, self.knobs.batch_size as usize, batch);
            if pending.is_empty() {
                idle += 1;
                continue;
            }
            idle = 0;
            self.last_batch = batch;
            partition.in_work += 1;
            self.meter.sent(pending.len() >= self.knobs.batch_size as usize);
            let (tickets, records) =
                pending.into_iter().map(|one| ((one.slot, one.since), one.record)).unzip();
            let (epoch, token) = (partition.epoch, partition.cancel.clone());
            let since_millis = now_millis();
            self.in_work
                .insert(batch, InWork { epoch, tickets, since: now, since_millis, told: false });
            let records = Batch::new(records).with_cancellation(token);
            self.runtime.spawn(call(
                Arc::clone(&self.handler),
                records,
                batch,
                self.completed.clone(),
                Arc::clone(&self.waker),
            ));
        }
        self.meter.load(now, self.load());
    }

    fn load(&self) -> Load {
        let concurrency = self.knobs.concurrency as usize;
        let (slots, held_by_order) = match self.config.consumer.ordering {
            Ordering::Partition => (concurrency.min(self.partitions.len()), false),
            Ordering::Key => {
                let free = self.in_work.len() < concurrency;
                let slots = if self.partitions.is_empty() { 0 } else { concurrency };
                (
                    slots,
                    free && self.partitions.iter().any(|partition| partition.lanes.held_by_order()),
                )
            }
        };
        Load { in_use: self.in_work.len(), slots, held_by_order }
    }

    /// Takes back what has ended.
    pub(super) fn take_back(&mut self) {
        while let Ok(completion) = self.completions.try_recv() {
            self.complete(completion);
        }
    }

    fn complete(&mut self, completion: Completion) {
        let now = Instant::now();
        let Some(work) = self.in_work.remove(&completion.batch) else { return };
        self.status.batches.add(1);
        self.status.handler_micros.add(completion.took.as_micros() as u64);
        self.status.panics.add(u64::from(completion.panicked));
        self.status.cancelled.add(u64::from(completion.outcomes.is_none()));
        let Some(partition) =
            self.partitions.iter_mut().find(|partition| partition.epoch == work.epoch)
        else {
            // The partition went while this was in work: what is said of it no longer counts.
            self.status.stale.add(1);
            return;
        };
        partition.in_work -= 1;
        let Some(outcomes) = completion.outcomes.filter(|_| !partition.cancel.is_cancelled())
        else {
            return;
        };
        self.meter.ended(now, completion.took);
        let pending =
            completion.records.into_iter().zip(work.tickets).map(|(record, (slot, since))| {
                let tries = record.attempt - 1;
                Pending { record, slot, tries, since }
            });
        let judge = Judge { backoff: self.backoff, now, now_millis: now_millis(), good: self.good };
        let tracker = &mut partition.tracker;
        let verdict = partition
            .lanes
            .complete(pending.collect(), outcomes, &judge, |slot| tracker.done(slot));
        partition.handled += verdict.done as u64;
        partition.open_bytes -= verdict.done_bytes.min(partition.open_bytes);
        partition.report_due |= verdict.newly_blocked > 0;
        self.good += u64::from(verdict.done > 0);
        self.handled += verdict.done as u64;
        self.status.handled.add(verdict.done as u64);
        self.status.handled_bytes.add(verdict.done_bytes as u64);
        self.status.retries.add(verdict.failed as u64);
        self.status.dead.add(verdict.dead as u64);
        if let Some((offset, tries, reason)) = verdict.reason {
            let (topic, partition) = (&*partition.topic, partition.number);
            if verdict.newly_blocked > 0 {
                tracing::error!(
                    topic,
                    partition,
                    offset,
                    tries,
                    reason,
                    lanes = verdict.newly_blocked,
                    "records fail again and again; their lanes are blocked and go on being tried at the longest backoff"
                );
            } else {
                tracing::debug!(
                    topic,
                    partition,
                    offset,
                    tries,
                    failed = verdict.failed,
                    reason,
                    "records failed"
                );
            }
        }
    }

    /// Whether something is to be finished of partitions that are being taken away.
    pub(super) fn unfinished_of_leaving(&self) -> bool {
        self.partitions.iter().any(|partition| partition.leaving && partition.unfinished())
    }

    /// Takes what the watch has found.
    pub(super) fn take_knobs(&mut self) {
        if let Some(found) = self.knobs_file.take_found() {
            self.apply_knobs(found);
        }
    }

    /// Reads the tuning file now.
    pub(super) fn read_knobs(&mut self) {
        if self.revision > 0 || self.tuning_broken || self.knobs_file.exists() {
            let read = self.knobs_file.read();
            self.apply_knobs(read);
        }
    }

    /// New knobs are in force from the next batch on. That is a safe point for both: a lane is a key and not a hash bucket,
    /// so no record changes its lane with them, and what is out stays as it is.
    fn apply_knobs(&mut self, read: Result<sluice_crds::tuning::Tuning, super::knobs::Error>) {
        let before = (self.knobs, self.revision, self.tuning_broken);
        match read {
            Ok(tuning) => {
                (self.knobs, self.revision, self.tuning_broken) =
                    (tuning.knobs, tuning.revision, false);
            }
            Err(error) => {
                self.tuning_broken = true;
                if !before.2 {
                    tracing::error!(error = %sentence(&error), batch_size = self.knobs.batch_size,
                        concurrency = self.knobs.concurrency, revision = self.revision, "the tuning file is not taken; the knobs stay");
                }
            }
        }
        if before != (self.knobs, self.revision, self.tuning_broken) {
            if !self.tuning_broken {
                tracing::info!(
                    batch_size = self.knobs.batch_size,
                    concurrency = self.knobs.concurrency,
                    revision = self.revision,
                    "knobs in force"
                );
            }
            self.partitions.iter_mut().for_each(|partition| partition.report_due = true);
        }
        self.show_knobs();
    }

    pub(super) fn show_knobs(&self) {
        self.status.batch_size.set(u64::from(self.knobs.batch_size));
        self.status.concurrency.set(u64::from(self.knobs.concurrency));
        self.status.revision.set(self.revision);
        self.status.set_tuning_broken(self.tuning_broken);
    }

    /// Sets the gauges, now and then.
    pub(super) fn show(&mut self, now: Instant) {
        self.status.beat(now_millis());
        if self.shown_at.is_some_and(|at| now.duration_since(at) < SHOW_EVERY) {
            return;
        }
        self.shown_at = Some(now);
        let sum =
            |of: fn(&Partition) -> usize| self.partitions.iter().map(of).sum::<usize>() as u64;
        self.status.partitions.set(self.partitions.len() as u64);
        self.status.above_end.set(sum(|partition| usize::from(partition.above_end)));
        self.status.open.set(sum(|partition| partition.tracker.open()));
        self.status.open_bytes.set(sum(|partition| partition.open_bytes));
        self.status.blocked_lanes.set(sum(|partition| partition.lanes.blocked_lanes()));
        self.status.waiting_lanes.set(sum(|partition| partition.lanes.waiting_lanes()));
        self.status.in_work.set(self.in_work.len() as u64);
        self.status.set_oldest_call(
            self.in_work.values().map(|work| work.since_millis).min().unwrap_or(0),
        );
        let mut hung = 0;
        for work in
            self.in_work.values_mut().filter(|work| now.duration_since(work.since) > HANGS_AFTER)
        {
            hung += 1;
            if !std::mem::replace(&mut work.told, true) {
                tracing::error!(
                    records = work.tickets.len(),
                    seconds = HANGS_AFTER.as_secs(),
                    "a call of the handler hangs; its lanes stand still"
                );
            }
        }
        self.status.hung.set(hung);
    }

    /// How long the thread may sleep, unless it is woken: until the next lane is to be tried again, or the next tick.
    pub(super) fn nap(&self, now: Instant) -> Duration {
        // What wakes it is an event; this is for the ticks, and a net under the events.
        let longest = Duration::from_millis(50);
        if self.closing {
            return Duration::from_millis(10);
        }
        if self.in_work.len() >= self.knobs.concurrency as usize {
            return longest;
        }
        let next = self.partitions.iter().filter_map(|partition| partition.lanes.next_try()).min();
        next.map_or(longest, |next| {
            next.saturating_duration_since(now).clamp(Duration::from_millis(1), longest)
        })
    }
}

impl Partition {
    /// The fetcher reports an error in place of a record.
    fn strayed(&mut self, code: RDKafkaErrorCode, reason: &str, status: &EngineStatus) {
        status.client_errors.add(1);
        // librdkafka 2.12 counts an error as a delivered offset, so that its position would skip a record.
        self.position_holds = false;
        let (topic, partition) = (&*self.topic, self.number);
        match code {
            RDKafkaErrorCode::AutoOffsetReset
            | RDKafkaErrorCode::OffsetOutOfRange
            | RDKafkaErrorCode::NoOffset => {
                tracing::warn!(topic, partition, %code, reason, "the offset to go on at does not exist");
                self.astray = Some(Instant::now());
            }
            _ => {
                tracing::warn!(topic, partition, %code, reason, "the partition cannot be fetched; the client tries again");
            }
        }
    }

    /// Looks again in a while.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.astray = Some(now + LOOK_AGAIN);
    }
}

/// Runs the handler on one batch.
async fn call(
    handler: Arc<dyn Handler>,
    records: Batch,
    batch: u64,
    completed: mpsc::Sender<Completion>,
    waker: Arc<Waker>,
) {
    let began = Instant::now();
    let cancelled = records.cancellation().clone();
    let ended = AssertUnwindSafe(async {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => None,
            outcomes = handler.handle(&records) => Some(outcomes),
        }
    })
    .catch_unwind()
    .await;
    let panicked = ended.is_err();
    let outcomes = ended.unwrap_or_else(|panic| {
        let said = panic_message(&*panic);
        tracing::error!(
            topic = records.topic(),
            partition = records.partition(),
            "the handler panicked: {said}"
        );
        Some(Outcomes::retry(format!("the handler panicked: {said}")))
    });
    // The engine is gone only when nobody waits for this any more.
    let _ = completed.send(Completion {
        batch,
        records: records.into_records(),
        outcomes,
        panicked,
        took: began.elapsed(),
    });
    waker.wake();
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("?")
}
