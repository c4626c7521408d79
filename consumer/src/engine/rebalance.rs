//! Partitions come and go: the same code for eager, cooperative and KIP-848 groups.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, RebalanceProtocol},
    error::{KafkaResult, RDKafkaErrorCode},
};

use super::{
    Error, batch_queue::BatchQueue, context::Context, partition::Partition, starts, state::State,
    wake::Waker,
};
use crate::status::now_millis;

impl State {
    /// Partitions come. Their queues are split before librdkafka is told, or records would land in the main queue.
    pub(super) fn assign(&mut self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let began = Instant::now();
        self.read_knobs();
        self.status.rebalances.add(1);
        let names = names(list);
        let asked: Vec<(&str, i32)> =
            names.iter().map(|(topic, number)| (&**topic, *number)).collect();
        // A pod that stops handles none of them and gives them back at once: the group must not wait for where they begin,
        // which librdkafka does not answer to a client that leaves.
        let starts = if self.closing {
            vec![starts::Start::default(); asked.len()]
        } else {
            starts::of(consumer, &asked)
        };
        let mut assignment = TopicPartitionList::with_capacity(names.len());
        for ((topic, number), start) in names.iter().zip(starts) {
            let starts::Start { offset: start, lost } = start;
            // An assignment that was never taken back (the client does not do that) must not be there twice.
            self.forget(|partition| partition.topic == *topic && partition.number == *number);
            self.last_epoch += 1;
            let ordering = self.config.consumer.ordering;
            let mut partition = Partition::new(
                Arc::clone(topic),
                *number,
                self.last_epoch,
                now_millis(),
                ordering,
                start,
            );
            partition.lost = lost;
            self.status.records_lost.add(lost);
            partition.queue =
                BatchQueue::split(consumer, Arc::clone(topic), *number, Arc::clone(&self.waker));
            let offset = if self.closing {
                partition.leave();
                // Not the committed one: librdkafka aborts when a client leaves while it asks for that.
                Offset::End
            } else {
                // Unknown: librdkafka reads the committed offset itself, and an error tells when there is none.
                start.map_or(Offset::Stored, Offset::Offset)
            };
            let _ = assignment.add_partition_offset(topic, *number, offset);
            self.partitions.push(partition);
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&assignment),
            _ => consumer.assign(&assignment),
        };
        self.check(result, "assign");
        self.commit_anew();
        self.rebalance_pause += began.elapsed();
        self.show_rebalance_pause();
        self.say("partitions came", &names, began.elapsed());
    }

    /// Partitions go: finish what is in work, commit, and only then let librdkafka give them away.
    pub(super) fn revoke(&mut self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let began = Instant::now();
        let lost = consumer.assignment_lost();
        let names = names(list);
        self.status.rebalances.add(1);
        self.read_knobs();
        for partition in &mut self.partitions {
            if names
                .iter()
                .any(|(topic, number)| partition.topic == *topic && partition.number == *number)
            {
                partition.leave();
            }
        }
        if lost {
            // Somebody else may have them already: what is in work no longer counts, and nothing may be committed.
            self.status.set_joined(false);
            self.status.partitions_lost.add(names.len() as u64);
        } else {
            if !self.finished {
                self.drain(self.config.consumer.drain_timeout.to_std());
            }
            // What was late is cancelled first, so that nothing is done after the commit that it does not tell.
            self.partitions
                .iter()
                .filter(|partition| partition.leaving)
                .for_each(|partition| partition.cancel.cancel());
            let done_with = |partition: &Partition| {
                partition.committed == partition.tracker.committable() && !partition.report_due
            };
            let finished = self.finished;
            self.commit_now(consumer, |partition| {
                partition.leaving && !(finished && done_with(partition))
            });
        }
        // The epoch ends here, after the drain and the commit: completions that come from now on are stale.
        self.forget(|partition| partition.leaving);
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        self.check(result, "unassign");
        self.rebalance_pause = began.elapsed();
        self.show_rebalance_pause();
        self.say(
            if lost { "partitions were lost" } else { "partitions went" },
            &names,
            began.elapsed(),
        );
    }

    fn show_rebalance_pause(&self) {
        self.status.rebalance_pause_ms.set(self.rebalance_pause.as_millis() as u64);
    }

    /// Waits for what is in work of partitions that leave, and keeps the others busy from their cushion meanwhile:
    /// librdkafka gives nothing from any partition until the revoke is answered.
    fn drain(&mut self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        loop {
            self.take_back();
            let now = Instant::now();
            self.dispatch(now);
            self.show(now);
            if !self.unfinished_of_leaving() || now >= deadline || self.stop.hurries() {
                return;
            }
            Waker::sleep(deadline.saturating_duration_since(now).min(Duration::from_millis(50)));
        }
    }

    /// Drops partitions; what is in work of them is cancelled.
    pub(super) fn forget(&mut self, which: impl Fn(&Partition) -> bool) {
        self.partitions.retain(|partition| {
            let goes = which(partition);
            if goes {
                partition.cancel.cancel();
            }
            !goes
        });
    }

    /// Partitions whose fetcher has stopped because their offset does not exist: decide where they go on.
    pub(super) fn bring_back(&mut self, consumer: &BaseConsumer<Context>, now: Instant) {
        for index in 0..self.partitions.len() {
            let Some(partition) = self.partitions.get_mut(index) else { return };
            if partition.leaving || partition.astray.is_none_or(|at| at > now) {
                continue;
            }
            partition.look_again(now);
            let (topic, number) = (Arc::clone(&partition.topic), partition.number);
            let (start, end) = match starts::log(consumer, &topic, number) {
                Ok(Some(edges)) => edges,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(topic = &*topic, partition = number, %error, "the log's bounds could not be read; looking again");
                    continue;
                }
            };
            let before = partition.lost;
            let go_on = partition.place(start, end);
            self.status.records_lost.add(partition.lost - before);
            let Some(go_on) = go_on else { continue };
            partition.tracker.jump(go_on);
            partition.queue =
                BatchQueue::split(consumer, Arc::clone(&topic), number, Arc::clone(&self.waker));
            let result = self.restart(consumer, index, go_on);
            if let (Ok(()), Some(partition)) = (&result, self.partitions.get_mut(index)) {
                partition.astray = None;
            }
            if let Err(error) = result {
                tracing::warn!(topic = &*topic, partition = number, %error, "the partition could not be set to its offset; trying again");
            }
        }
    }

    /// Makes librdkafka fetch a partition from another offset. `seek` does not start a fetcher that has stopped, so the
    /// partition is unassigned and assigned again; the group sees nothing of it.
    fn restart(
        &mut self,
        consumer: &BaseConsumer<Context>,
        index: usize,
        offset: i64,
    ) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        let one = self.partitions.get(index);
        if let RebalanceProtocol::Cooperative = consumer.rebalance_protocol() {
            if let Some(partition) = one {
                let _ = list.add_partition_offset(
                    &partition.topic,
                    partition.number,
                    Offset::Offset(offset),
                );
            }
            consumer.incremental_unassign(&list)?;
            return consumer.incremental_assign(&list);
        }
        for partition in &mut self.partitions {
            // `assign` starts all of them anew, and all have to be split again.
            partition.queue = BatchQueue::split(
                consumer,
                Arc::clone(&partition.topic),
                partition.number,
                Arc::clone(&self.waker),
            );
            let next = partition.tracker.next().map_or(Offset::Stored, Offset::Offset);
            let _ = list.add_partition_offset(&partition.topic, partition.number, next);
        }
        consumer.assign(&list)
    }

    fn check(&mut self, result: KafkaResult<()>, what: &str) {
        if let Err(error) = result {
            tracing::error!(%error, "the client refused to {what}");
            self.failed = Some(Error::Fatal {
                code: RDKafkaErrorCode::State,
                reason: format!("{what}: {error}"),
            });
        }
    }

    fn say(&self, what: &str, names: &[(Arc<str>, i32)], took: Duration) {
        let mut text = String::new();
        for (topic, number) in names.iter().take(64) {
            text.push_str(if text.is_empty() { "" } else { " " });
            let _ = write!(text, "{topic}-{number}");
        }
        tracing::info!(
            count = names.len(),
            partitions = text,
            now = self.partitions.len(),
            millis = took.as_millis() as u64,
            batch_size = self.knobs.batch_size,
            concurrency = self.knobs.concurrency,
            "{what}"
        );
    }
}

impl Partition {
    /// Where to go on, given the log's bounds; `None` when somebody has to decide.
    fn place(&mut self, start: i64, end: i64) -> Option<i64> {
        let (topic, partition) = (&*self.topic, self.number);
        let above = self.tracker.next().is_some_and(|next| next > end);
        if above != self.above_end {
            self.above_end = above;
            self.report_due = true;
        }
        match self.tracker.next() {
            Some(next) if next < start => {
                let lost = (start - next) as u64;
                self.lost += lost;
                self.report_due = true;
                starts::say_lost(topic, partition, next, start);
                Some(start)
            }
            Some(next) if next > end => {
                tracing::error!(
                    topic,
                    partition,
                    offset = next,
                    end,
                    "the committed offset is above the log's end: the partition stands until the offset is reset"
                );
                None
            }
            Some(next) => Some(next),
            None => {
                tracing::info!(
                    topic,
                    partition,
                    start,
                    "nothing was committed; beginning at the log's start"
                );
                Some(start)
            }
        }
    }
}

fn names(list: &TopicPartitionList) -> Vec<(Arc<str>, i32)> {
    // `elements` of an empty list is undefined (rust-rdkafka#681).
    if list.count() == 0 {
        return Vec::new();
    }
    list.elements()
        .iter()
        .map(|element| (Arc::from(element.topic()), element.partition()))
        .collect()
}
