//! Records, topics and offsets, asked of and sent to the lab's Kafka by a plain client.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, anyhow};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    groups::GroupInfo,
    metadata::MetadataTopic,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

const TIMEOUT: Duration = Duration::from_secs(15);

/// A plain client of the lab's Kafka.
#[derive(Clone, Debug)]
pub struct Kafka {
    bootstrap: String,
}

/// A record to send.
#[derive(Clone, Debug, Default)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Its key, or none.
    pub key: Option<&'a [u8]>,
    /// Its value, or none (a tombstone).
    pub value: Option<&'a [u8]>,
}

impl Kafka {
    /// A client of the brokers at these addresses.
    pub fn new(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned() }
    }

    /// The addresses.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("allow.auto.create.topics", "false");
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    /// Creates a topic.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let answers = self
            .admin()?
            .create_topics([&topic], &AdminOptions::new().operation_timeout(Some(TIMEOUT)))
            .await?;
        for answer in answers {
            answer.map_err(|(topic, code)| anyhow!("topic {topic} was not created: {code}"))?;
        }
        Ok(())
    }

    /// Grows a topic to this many partitions.
    pub async fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let answers = self
            .admin()?
            .create_partitions([&NewPartitions::new(name, partitions)], &AdminOptions::new())
            .await?;
        for answer in answers {
            answer.map_err(|(topic, code)| anyhow!("topic {topic} did not grow: {code}"))?;
        }
        Ok(())
    }

    /// Deletes a partition's records before an offset.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let answer = self.admin()?.delete_records(&list, &AdminOptions::new()).await?;
        for element in answer.elements() {
            element
                .error()
                .map_err(|e| anyhow!("records of {topic}/{partition} were not deleted: {e}"))?;
        }
        Ok(())
    }

    /// The names of all topics.
    pub fn topics(&self) -> Result<Vec<String>> {
        let consumer: BaseConsumer = self.config().create()?;
        let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
        Ok(metadata.topics().iter().map(|t| t.name().to_owned()).collect())
    }

    /// Sends records and waits until the broker has confirmed them all.
    pub fn send(&self, topic: &str, records: &[Record<'_>]) -> Result<()> {
        let producer: ThreadedProducer<DefaultProducerContext> =
            self.config().set("acks", "all").set("message.max.bytes", "1000000").create()?;
        for record in records {
            let mut message = BaseRecord::<[u8], [u8]>::to(topic).partition(record.partition);
            if let Some(key) = record.key {
                message = message.key(key);
            }
            if let Some(value) = record.value {
                message = message.payload(value);
            }
            producer.send(message).map_err(|(e, _)| e).context("a record was not sent")?;
        }
        producer.flush(TIMEOUT)?;
        Ok(())
    }

    /// Sends `count` records to a partition in one transaction, and commits or aborts it: a marker ends the partition.
    pub fn send_transaction(
        &self,
        topic: &str,
        partition: i32,
        count: usize,
        commit: bool,
    ) -> Result<()> {
        let producer: ThreadedProducer<DefaultProducerContext> =
            self.config().set("transactional.id", format!("{topic}-{partition}")).create()?;
        producer.init_transactions(TIMEOUT)?;
        producer.begin_transaction()?;
        for n in 0..count {
            let key = n.to_string();
            producer
                .send(
                    BaseRecord::to(topic)
                        .partition(partition)
                        .key(&key)
                        .payload("in a transaction"),
                )
                .map_err(|(e, _)| e)?;
        }
        let ended = if commit {
            producer.commit_transaction(TIMEOUT)
        } else {
            producer.abort_transaction(TIMEOUT)
        };
        Ok(ended?)
    }

    /// Start and end offset of each partition of a topic.
    pub fn watermarks(&self, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
        let consumer: BaseConsumer = self.config().create()?;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let partitions =
            metadata.topics().first().map(MetadataTopic::partitions).unwrap_or_default();
        partitions
            .iter()
            .map(|p| Ok((p.id(), consumer.fetch_watermarks(topic, p.id(), TIMEOUT)?)))
            .collect()
    }

    /// The committed offset of each partition of a topic, where there is one.
    pub fn committed(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create()?;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let mut list = TopicPartitionList::new();
        for partition in
            metadata.topics().first().map(MetadataTopic::partitions).unwrap_or_default()
        {
            list.add_partition(topic, partition.id());
        }
        let committed = consumer.committed_offsets(list, TIMEOUT)?;
        Ok(committed
            .elements()
            .iter()
            .filter_map(|e| {
                if let Offset::Offset(o) = e.offset() { Some((e.partition(), o)) } else { None }
            })
            .collect())
    }

    /// The client ids of a group's members.
    pub fn members(&self, group: &str) -> Result<Vec<String>> {
        let consumer: BaseConsumer = self.config().create()?;
        let list = consumer.fetch_group_list(Some(group), TIMEOUT)?;
        Ok(list
            .groups()
            .iter()
            .flat_map(GroupInfo::members)
            .map(|m| m.client_id().to_owned())
            .collect())
    }
}
