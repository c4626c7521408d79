//! Reads a group and its topics from Kafka as any client may: end offsets, committed offsets, members.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

/// A call that takes longer is given up: the row then has no value.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often added partitions are looked for.
const METADATA: Duration = Duration::from_secs(5);

/// Reads one group.
pub struct GroupReader {
    consumer: BaseConsumer,
    group: String,
    topics: Vec<String>,
    partitions: Option<(Instant, TopicPartitionList)>,
}

/// One reading. What could not be read is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupSample {
    /// The sum of the end offsets.
    pub produced: Option<i64>,
    /// The sum of the committed offsets; a partition without one counts as 0.
    pub committed: Option<i64>,
    /// The sum of end less committed.
    pub lag: Option<i64>,
    /// The group's members.
    pub members: Option<usize>,
    /// The group's state, in the broker's word.
    pub state: Option<String>,
}

impl std::fmt::Debug for GroupReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupReader")
            .field("group", &self.group)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

impl GroupReader {
    /// A reader that joins nothing and commits nothing.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(bootstrap_servers: &str, group: &str, topics: &[String]) -> anyhow::Result<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("client.id", "sluice-lab-record")
            .set("group.id", group)
            .set("allow.auto.create.topics", "false")
            .set("enable.auto.commit", "false")
            .create()?;
        Ok(Self { consumer, group: group.to_owned(), topics: topics.to_vec(), partitions: None })
    }

    /// Reads. Blocks for some milliseconds, seconds when brokers do not answer.
    pub fn read(&mut self) -> GroupSample {
        let mut sample = GroupSample::default();
        if let Err(error) = self.read_offsets(&mut sample) {
            tracing::debug!(%error, "the offsets could not be read");
        }
        match self.consumer.client().fetch_group_list(Some(&self.group), TIMEOUT) {
            Ok(list) => {
                if let Some(group) = list.groups().iter().find(|group| group.name() == self.group) {
                    sample.members = Some(group.members().len());
                    sample.state = Some(group.state().to_owned());
                }
            }
            Err(error) => tracing::debug!(%error, "the group could not be read"),
        }
        sample
    }

    fn read_offsets(&mut self, sample: &mut GroupSample) -> anyhow::Result<()> {
        let partitions = self.partitions()?;
        let mut ends_asked = partitions.clone();
        ends_asked.set_all_offsets(Offset::End)?;
        let ends = self.consumer.offsets_for_times(ends_asked, TIMEOUT).context("end offsets")?;
        let ends: HashMap<(String, i32), i64> = known(&ends);
        anyhow::ensure!(ends.len() == partitions.count(), "not all end offsets are known");
        sample.produced = Some(ends.values().sum());
        let committed =
            self.consumer.committed_offsets(partitions, TIMEOUT).context("committed offsets")?;
        let committed = known(&committed);
        sample.committed = Some(committed.values().sum());
        sample.lag = Some(
            ends.iter()
                .map(|(partition, end)| {
                    (end - committed.get(partition).copied().unwrap_or(0)).max(0)
                })
                .sum(),
        );
        Ok(())
    }

    fn partitions(&mut self) -> anyhow::Result<TopicPartitionList> {
        if let Some((at, known)) = &self.partitions
            && at.elapsed() < METADATA
        {
            return Ok(known.clone());
        }
        let mut list = TopicPartitionList::new();
        for topic in &self.topics {
            let metadata = self.consumer.fetch_metadata(Some(topic), TIMEOUT)?;
            for partition in
                metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions)
            {
                list.add_partition(topic, partition.id());
            }
        }
        anyhow::ensure!(list.count() > 0, "the topics {:?} have no partitions", self.topics);
        self.partitions = Some((Instant::now(), list.clone()));
        Ok(list)
    }
}

fn known(list: &TopicPartitionList) -> HashMap<(String, i32), i64> {
    list.elements()
        .iter()
        .filter_map(|element| match (element.offset(), element.error()) {
            (Offset::Offset(offset), Ok(())) => {
                Some(((element.topic().to_owned(), element.partition()), offset))
            }
            _ => None,
        })
        .collect()
}
