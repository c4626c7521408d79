//! Where a partition begins. Never left to chance: `auto.offset.reset` is `error`, and each case is answered here.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
};

/// A question to the brokers inside a callback or between two batches: short, since the engine stands meanwhile.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Where one partition begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// The offset; `None` where Kafka did not say, and librdkafka has to find out.
    pub(super) offset: Option<i64>,
    /// Records after the committed offset that are gone.
    pub(super) lost: u64,
}

/// Where these partitions begin, in their order: one request for the committed offsets, one for the logs' starts.
pub(super) fn of<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[(&str, i32)],
) -> Vec<Start> {
    if partitions.is_empty() {
        return Vec::new();
    }
    let committed = match consumer.committed_offsets(list(partitions, Offset::Invalid), TIMEOUT) {
        Ok(committed) => committed,
        Err(error) => {
            tracing::warn!(%error, "the committed offsets could not be read; the client tries again by itself");
            return vec![Start::default(); partitions.len()];
        }
    };
    let logs = edges(consumer, partitions, Offset::Beginning).unwrap_or_else(|error| {
        tracing::warn!(%error, "the logs' starts could not be read; what is missing shows when it is fetched");
        vec![None; partitions.len()]
    });
    let start = |((topic, partition), log): (&(&str, i32), Option<i64>)| {
        let element = committed.find_partition(topic, *partition)?;
        match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => Some(place(topic, *partition, offset, log)),
            // Nothing was committed: a partition that came later. It begins at its first record.
            (Ok(()), _) => Some(Start { offset: log, lost: 0 }),
            (Err(error), _) => {
                tracing::warn!(topic, partition, %error, "no committed offset");
                None
            }
        }
    };
    partitions.iter().zip(logs).map(|one| start(one).unwrap_or_default()).collect()
}

fn place(topic: &str, partition: i32, committed: i64, log: Option<i64>) -> Start {
    match log {
        Some(start) if committed < start => {
            say_lost(topic, partition, committed, start);
            Start { offset: Some(start), lost: (start - committed) as u64 }
        }
        _ => Start { offset: Some(committed), lost: 0 },
    }
}

/// Records are gone.
pub(super) fn say_lost(topic: &str, partition: i32, from: i64, to: i64) {
    tracing::error!(
        topic,
        partition,
        from,
        to,
        lost = to - from,
        "records were deleted before they could be read; going on at the log's start"
    );
}

/// First and next offset of one partition's log.
pub(super) fn log<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> KafkaResult<Option<(i64, i64)>> {
    let start = edges(consumer, &[(topic, partition)], Offset::Beginning)?;
    let end = edges(consumer, &[(topic, partition)], Offset::End)?;
    Ok(start.first().copied().flatten().zip(end.first().copied().flatten()))
}

/// One request for all of a broker's partitions. (librdkafka's "time stamps" -2 and -1 are the log's start and end.)
fn edges<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[(&str, i32)],
    edge: Offset,
) -> KafkaResult<Vec<Option<i64>>> {
    let found = consumer.offsets_for_times(list(partitions, edge), TIMEOUT)?;
    let offset = |(topic, partition): &(&str, i32)| match found.find_partition(topic, *partition) {
        Some(element) if element.error().is_ok() => match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        },
        _ => None,
    };
    Ok(partitions.iter().map(offset).collect())
}

fn list(partitions: &[(&str, i32)], offset: Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        // Fails only for offsets that librdkafka has no number for.
        let _ = list.add_partition_offset(topic, *partition, offset);
    }
    list
}
