//! Commits: every second while something moves, every 30 s when idle, at each revoke and stop; always with a report.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use sluice_crds::report::MAX_BYTES;

use super::{
    batch_queue,
    context::Context,
    partition::{Partition, PodReport},
    state::State,
};
use crate::status::now_millis;

/// The pause between two commits while records flow.
const EVERY: Duration = Duration::from_secs(1);
/// The pause when nothing moves: it keeps the offsets from expiring, and shows that the pod is there.
const IDLE_EVERY: Duration = Duration::from_secs(30);
/// A commit that has not been answered for this long is given up; the next one says the same and more.
///
/// Short, since librdkafka does not always answer a commit that a rebalance overtook: with 30 s here, twelve pods that had
/// just shared out a topic committed nothing for 30 s.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);
/// Tries of the last commit of a partition.
const LAST_TRIES: u32 = 3;

/// The commit under way.
#[derive(Debug)]
pub(super) struct CommitState {
    every: Duration,
    tick: Instant,
    under_way: Option<Instant>,
    /// The longest report that is worth sending: a broker may take less than the protocol's default.
    longest: usize,
}

impl CommitState {
    pub(super) fn new(now: Instant, every: Option<Duration>) -> Self {
        Self { every: every.unwrap_or(EVERY), tick: now, under_way: None, longest: MAX_BYTES }
    }
}

impl State {
    /// Commits what has changed, if it is time. Never waits.
    pub(super) fn tick(&mut self, consumer: &BaseConsumer<Context>, now: Instant) {
        if now.duration_since(self.commit.tick) < self.commit.every {
            return;
        }
        self.commit.tick = now;
        self.follow_position(consumer);
        let reading = self.meter.read(now);
        self.status.busy_permille.set((reading.busy * 1e3) as u64);
        self.status.handler_p99_micros.set(reading.handler_p99.as_micros() as u64);
        if self.commit.under_way.is_some_and(|since| now.duration_since(since) < GIVE_UP_AFTER) {
            return;
        }
        let idle_since = now.checked_sub(IDLE_EVERY);
        let list = self.list(now, |partition| {
            partition.report_due
                || partition.tracker.open() > 0
                || partition.tracker.committable() != partition.committed
                || partition
                    .committed_at
                    .is_none_or(|at| idle_since.is_some_and(|limit| at <= limit))
        });
        if list.count() == 0 {
            return;
        }
        match batch_queue::commit(consumer, &list) {
            Ok(()) => self.commit.under_way = Some(now),
            Err(code) => self.refused(&KafkaError::ConsumerCommit(code)),
        }
    }

    /// A rebalance came between: an answer to what was under way may never come.
    pub(super) fn commit_anew(&mut self) {
        self.commit.under_way = None;
    }

    /// Commits these partitions for the last time, and waits for it.
    pub(super) fn commit_now(
        &mut self,
        consumer: &BaseConsumer<Context>,
        which: impl Fn(&Partition) -> bool,
    ) {
        self.follow_position(consumer);
        self.commit_anew();
        for _ in 0..LAST_TRIES {
            let list = self.list(Instant::now(), &which);
            if list.count() == 0 {
                return;
            }
            let result = consumer.commit(&list, CommitMode::Sync);
            let again = result
                .as_ref()
                .err()
                .and_then(KafkaError::rdkafka_error_code)
                .is_some_and(is_worth_another_try);
            self.settle(&result, &list);
            if !again {
                return;
            }
        }
    }

    /// Whether the broker has confirmed all that is done.
    pub(super) fn is_settled(&self) -> bool {
        let settled = |partition: &Partition| {
            partition.tracker.committable().is_none()
                || partition.committed == partition.tracker.committable()
        };
        self.partitions.iter().all(settled)
    }

    /// The broker's answer to a commit that nobody waited for.
    pub(super) fn committed(&mut self, result: &KafkaResult<()>, list: &TopicPartitionList) {
        self.commit.under_way = None;
        self.settle(result, list);
    }

    fn settle(&mut self, result: &KafkaResult<()>, list: &TopicPartitionList) {
        let now = Instant::now();
        if let Err(error) = result {
            self.refused(error);
        }
        let mut took = false;
        if list.count() > 0 {
            for element in list.elements() {
                let offset = element.offset();
                let find = |one: &&mut Partition| {
                    *one.topic == *element.topic() && one.number == element.partition()
                };
                let Some(partition) = self.partitions.iter_mut().find(find) else { continue };
                // Of an earlier assignment of the same partition: no answer to what this one asked.
                let Some(committing) =
                    partition.committing.take_if(|one| Offset::Offset(*one) == offset)
                else {
                    continue;
                };
                match element.error() {
                    Ok(()) if result.is_ok() => {
                        took = true;
                        partition.committed = Some(committing);
                        partition.committed_at = Some(now);
                    }
                    Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetMetadataTooLarge)) => {
                        self.commit.longest =
                            self.commit.longest.min(element.metadata().len().saturating_sub(1));
                        partition.report_due = true;
                    }
                    _ => partition.report_due = true,
                }
            }
        }
        self.status.commits.add(u64::from(took));
    }

    fn refused(&mut self, error: &KafkaError) {
        self.status.commit_failures.add(1);
        match error.rdkafka_error_code() {
            // Normal around a rebalance: the next tick says it again, if the partition is still ours.
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::RebalanceInProgress
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::StaleMemberEpoch
                | RDKafkaErrorCode::FencedMemberEpoch
                | RDKafkaErrorCode::AssignmentLost
                | RDKafkaErrorCode::NoOffset,
            ) => tracing::debug!(%error, "a commit was refused around a rebalance"),
            Some(RDKafkaErrorCode::OffsetMetadataTooLarge) => {
                // Each partition's own error is not always told: halve, and be content with offsets alone in the end.
                self.commit.longest = if self.commit.longest > 512 { 512 } else { 0 };
                tracing::warn!(
                    longest = self.commit.longest,
                    "the broker takes shorter commit metadata only (offset.metadata.max.bytes); offsets go without reports if need be"
                );
            }
            _ => tracing::warn!(%error, "a commit failed; the next one says the same and more"),
        }
    }

    /// Offsets and reports of these partitions.
    fn list(&mut self, now: Instant, which: impl Fn(&Partition) -> bool) -> TopicPartitionList {
        let reading = self.meter.read(now);
        let pod = PodReport {
            pod: &self.config.pod,
            boot: self.config.boot,
            at: now_millis(),
            handled: self.handled,
            reading,
            rebalance_pause_ms: self.rebalance_pause.as_millis() as u64,
            partitions: self.partitions.len() as u32,
            revision: self.revision,
            tuning_broken: self.tuning_broken,
        };
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for partition in self.partitions.iter_mut().filter(|partition| which(partition)) {
            let Some(offset) = partition.tracker.committable() else { continue };
            partition.committing = Some(offset);
            partition.report_due = false;
            let report = partition
                .report(&pod)
                .to_metadata()
                .ok()
                .filter(|text| text.len() <= self.commit.longest);
            let mut element = list.add_partition(&partition.topic, partition.number);
            // Fails only for offsets that librdkafka has no number for.
            let _ = element.set_offset(Offset::Offset(offset));
            if let Some(report) = report {
                element.set_metadata(report);
            }
        }
        list
    }

    /// Where nothing is open, the commit follows the client past offsets that are never delivered.
    fn follow_position(&mut self, consumer: &BaseConsumer<Context>) {
        if !self.partitions.iter().any(|partition| partition.tracker.open() == 0) {
            return;
        }
        let Ok(positions) = consumer.position() else { return };
        if positions.count() == 0 {
            return;
        }
        for element in positions.elements() {
            let Offset::Offset(position) = element.offset() else { continue };
            let find = |one: &&mut Partition| {
                *one.topic == *element.topic() && one.number == element.partition()
            };
            // A queue that is gone may have been emptied without us.
            if let Some(partition) = self.partitions.iter_mut().find(find)
                && partition.position_holds
                && partition.queue.is_some()
                && partition.astray.is_none()
            {
                partition.tracker.follow(position);
            }
        }
    }
}

fn is_worth_another_try(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::OffsetMetadataTooLarge
    )
}
