//! What a pass needs of a consumer's group in Kafka. The readers of `kafka` provide it; tests provide their own.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sluice_crds::{config::KafkaConfig, kafkaconsumer::kafka::GroupProtocol};
use sluice_planner::snapshot::{Millis, Snapshot, TopicPartition};

/// What was read of a consumer's topics and group.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The newest that is known, or nothing yet.
    pub snapshot: Option<Arc<Snapshot>>,
    /// What keeps the rest from being known.
    pub error: Option<ReadError>,
    /// The Kafka cluster's id.
    pub cluster_id: Option<String>,
    /// Ids of the topics, by name.
    pub topic_ids: BTreeMap<String, String>,
    /// What `Auto` means on this cluster, once that is known.
    pub protocol: Option<GroupProtocol>,
    /// What of it is not known as of the last round.
    pub unread: Unread,
    /// When the reader last ended a round, whatever the brokers answered. It ends one every `interval`; a reading that is
    /// several intervals old comes from a reader that hangs or has died.
    pub read_at: Option<Millis>,
    /// The time between two rounds: longer than a second where the cluster answers slowly.
    pub interval: Option<Duration>,
}

/// What could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unread {
    /// All was read.
    Nothing,
    /// The ends or the committed offsets of these partitions, sorted; the others were read.
    Partitions(Arc<[TopicPartition]>),
    /// The ends of all partitions, or the group's offsets.
    #[default]
    All,
}

impl Unread {
    /// Whether this partition was read.
    pub fn is_known(&self, id: &TopicPartition) -> bool {
        match self {
            Self::Nothing => true,
            Self::Partitions(unread) => unread.binary_search(id).is_err(),
            Self::All => false,
        }
    }
}

impl Reading {
    /// Whether nothing was read yet, and nothing went wrong either.
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.error.is_none()
    }

    /// Its age at `now`, where there should be a newer one.
    pub fn late(&self, now: Millis) -> Option<Duration> {
        let age = Duration::from_millis(u64::try_from(now - self.read_at?).ok()?);
        is_late(age, self.interval?).then_some(age)
    }
}

/// What went wrong with Kafka, in words that a status may say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReadError {
    /// A word of `conditions::reason`.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// Called when there is a new reading.
pub type OnReading = Arc<dyn Fn() + Send + Sync>;

/// Where groups are read: the readers, or a test.
pub trait Kafka: Send + Sync {
    /// Follows a consumer's topics and group until the answer is dropped.
    fn follow(&self, what: &KafkaConfig, on_reading: OnReading) -> Arc<dyn Group>;

    /// How the readers fare, where there are any.
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}

/// How the readers fare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The clusters that are read.
    pub clusters: Vec<ClusterStatistics>,
    /// Requests that failed, or were not answered, since the operator started.
    pub failures: u64,
    /// Threads that were started again because they hung or had died.
    pub restarts: u64,
}

/// How the reader of one cluster fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatistics {
    /// The addresses by which the cluster is known.
    pub bootstrap_servers: String,
    /// The age of the newest reading; before the first, how long it has been waited for.
    pub age: Duration,
    /// The time between two rounds.
    pub interval: Duration,
    /// How long the last round took.
    pub last_round: Duration,
}

impl ClusterStatistics {
    /// Whether there should be a newer reading.
    pub fn is_late(&self) -> bool {
        is_late(self.age, self.interval)
    }
}

/// Whether a reading of this age is older than one that a working reader has published: a round
/// ends after one and a half intervals at the latest.
pub fn is_late(age: Duration, interval: Duration) -> bool {
    age > interval * 3
}

/// One consumer's topics and group.
pub trait Group: Send + Sync {
    /// The newest reading. It costs nothing.
    fn reading(&self) -> Reading;

    /// Whether the members are to be read too: that costs requests, so only near a decision.
    fn with_members(&self, wanted: bool);

    /// Commits offsets while the group has no members.
    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'_, Result<(), ReadError>>;
}
