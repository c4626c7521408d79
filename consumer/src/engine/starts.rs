//! Where a partition begins. Never left to chance: `auto.offset.reset` is `error`, and each case is answered here.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
};

/// A question to the brokers inside a callback or between two batches: short, since the engine stands meanwhile.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The offsets at which to begin, one for each element; `None` where Kafka did not say, and librdkafka has to find out.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[(&str, i32)],
) -> Vec<Option<i64>> {
    let mut starts = vec![None; partitions.len()];
    if partitions.is_empty() {
        return starts;
    }
    let committed = match consumer.committed_offsets(list(partitions, Offset::Invalid), TIMEOUT) {
        Ok(committed) => committed,
        Err(error) => {
            tracing::warn!(%error, "the committed offsets could not be read; the client tries again by itself");
            return starts;
        }
    };
    let mut fresh = Vec::new();
    for (start, partition) in starts.iter_mut().zip(partitions) {
        let Some(element) = committed.find_partition(partition.0, partition.1) else { continue };
        match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => *start = Some(offset),
            (Ok(()), _) => fresh.push(*partition),
            (Err(error), _) => {
                tracing::warn!(topic = partition.0, partition = partition.1, %error, "no committed offset");
            }
        }
    }
    // Nothing was committed: a partition that came later. It begins at its first record.
    if !fresh.is_empty() {
        match edges(consumer, &fresh, Offset::Beginning) {
            Ok(found) => {
                for (start, partition) in starts.iter_mut().zip(partitions) {
                    if let Some(position) = fresh.iter().position(|one| one == partition) {
                        *start = found.get(position).copied().flatten();
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the log's start could not be read; looking again soon"),
        }
    }
    starts
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
