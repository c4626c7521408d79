//! Reads a topic again: what was produced, as Kafka has it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hasher},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::{
    load::{Manifest, payload::Payload},
    offsets::OffsetSet,
};

/// No record for this long although the end is not reached: the broker is gone.
const SILENCE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(15);

/// What stands in a topic.
#[derive(Clone, Debug, Default)]
pub struct Produced {
    /// The topic.
    pub topic: String,
    /// The records of each partition, by ascending offset.
    pub partitions: BTreeMap<i32, Vec<Record>>,
    /// What the brokers acknowledged, where a manifest is known.
    pub acknowledged: BTreeMap<i32, OffsetSet>,
    /// Records that stand in the topic before an earlier one of their key, or twice: a fault of Kafka or of the load, and
    /// then nothing can be said of the consumers.
    pub misplaced: u64,
}

/// One record, as far as a comparison needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Kafka's CreateTime, milliseconds since the Unix epoch.
    pub created: i64,
    /// Its key as a number that only this partition's records of the same key have; `None` without a key.
    pub key: Option<u32>,
}

impl Produced {
    /// Adds what a load's brokers acknowledged: it must be in the topic.
    pub fn expect(&mut self, manifest: &Manifest) {
        for (partition, acknowledged) in &manifest.partitions {
            let set = self.acknowledged.entry(*partition).or_default();
            for (first, last) in acknowledged.offsets.ranges() {
                set.insert_range(first, last);
            }
        }
    }
}

/// Reads a topic from its start to the end that it has when the reading begins.
#[derive(Clone, Debug)]
pub struct TopicReader {
    bootstrap_servers: String,
    topic: String,
    runs: Option<BTreeSet<String>>,
    committed_only: bool,
}

impl TopicReader {
    /// Reads all committed records of a topic.
    pub fn new(bootstrap_servers: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            topic: topic.into(),
            runs: None,
            committed_only: true,
        }
    }

    /// Only the records of these loads.
    #[must_use]
    pub fn runs(mut self, runs: impl IntoIterator<Item = String>) -> Self {
        self.runs = Some(runs.into_iter().collect());
        self
    }

    /// Also records of transactions that were aborted or are not committed.
    #[must_use]
    pub fn uncommitted(mut self) -> Self {
        self.committed_only = false;
        self
    }

    /// Reads. Blocks; about half a million records a second.
    ///
    /// # Errors
    /// When the brokers do not answer, or the topic does not exist.
    pub fn read(&self) -> anyhow::Result<Produced> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "sluice-lab-verify")
            .set("group.id", "sluice-lab-verify")
            .set("allow.auto.create.topics", "false")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.message.max.bytes", "8000000")
            .set(
                "isolation.level",
                if self.committed_only { "read_committed" } else { "read_uncommitted" },
            )
            .create()?;
        let metadata = consumer
            .fetch_metadata(Some(&self.topic), TIMEOUT)
            .with_context(|| format!("cannot look up the topic {:?}", self.topic))?;
        let topic = metadata.topics().first().context("the broker's answer has no topic")?;
        if let Some(error) = topic.error() {
            return Err(KafkaError::MetadataFetch(error.into()))
                .with_context(|| format!("the topic {:?}", self.topic));
        }
        let mut open: BTreeSet<i32> =
            topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
        let mut produced = Produced { topic: self.topic.clone(), ..Produced::default() };
        let mut assignment = TopicPartitionList::new();
        for &partition in &open {
            assignment.add_partition_offset(&self.topic, partition, Offset::Beginning)?;
            produced.partitions.insert(partition, Vec::new());
        }
        consumer.assign(&assignment)?;

        let mut keys = Keys::default();
        let mut last_sign = Instant::now();
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    last_sign = Instant::now();
                    self.take(&message, &mut keys, &mut produced);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    last_sign = Instant::now();
                    open.remove(&partition);
                }
                Some(Err(error)) => tracing::debug!(%error, "reading the topic again"),
                None => {}
            }
            if last_sign.elapsed() > SILENCE {
                bail!(
                    "no broker has sent anything of {:?} for {} s, partitions {open:?} are not read",
                    self.topic,
                    SILENCE.as_secs()
                );
            }
        }
        Ok(produced)
    }

    fn take(&self, message: &impl Message, keys: &mut Keys, produced: &mut Produced) {
        let payload = message.payload().and_then(Payload::read);
        if let Some(runs) = &self.runs
            && !payload.as_ref().is_some_and(|payload| runs.contains(payload.run))
        {
            return;
        }
        let partition = message.partition();
        let key = message.key().map(|key| keys.number(partition, key));
        if let Some(payload) = &payload
            && !keys.is_next(payload.run, partition, key, payload.key_seq)
        {
            produced.misplaced += 1;
        }
        let created = message.timestamp().to_millis().unwrap_or(0);
        produced.partitions.entry(partition).or_default().push(Record {
            offset: message.offset(),
            created,
            key,
        });
    }
}

/// Numbers for keys, and the last record of each.
#[derive(Default)]
struct Keys {
    numbers: HashMap<(i32, u64), u32>,
    last: HashMap<(u64, i32, Option<u32>), u64>,
}

impl Keys {
    fn number(&mut self, partition: i32, key: &[u8]) -> u32 {
        let next = self.numbers.len() as u32;
        *self.numbers.entry((partition, hash(key))).or_insert(next)
    }

    /// Whether a record of a load comes after all earlier ones of its key (or, without a key, of its partition).
    fn is_next(&mut self, run: &str, partition: i32, key: Option<u32>, sequence: u64) -> bool {
        self.last
            .insert((hash(run.as_bytes()), partition, key), sequence)
            .is_none_or(|last| last < sequence)
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
