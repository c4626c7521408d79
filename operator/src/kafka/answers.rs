//! What is asked of Kafka and what it answers, copied out of librdkafka. Without Kafka.

use rdkafka::types::RDKafkaErrorCode;

#[cfg(doc)]
use super::admin::Admin;

/// The most members of a group, and partitions that are assigned to all of them, that are read.
pub const MOST_MEMBERS: usize = 5_000;
/// See [`MOST_MEMBERS`].
pub const MOST_ASSIGNED: usize = 200_000;
/// The most bytes of a committed offset's metadata that are read. A broker keeps 4 KiB by default;
/// a larger one holds no report.
pub const LARGEST_METADATA: usize = 16 * 1_024;

/// Which end of a partition is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset that can be read.
    Start,
    /// The end: with `committed` the last stable offset, else the high watermark.
    End {
        /// Whether the consumer reads committed records only.
        committed: bool,
    },
}

/// A partition's offset, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset; negative values are librdkafka's way of saying that it does not know.
    pub offset: Option<i64>,
    /// The metadata that was committed with the offset, unless it is too large.
    pub metadata: Option<String>,
    /// Whether there is more metadata than [`LARGEST_METADATA`].
    pub is_metadata_too_large: bool,
    /// What the broker said of this partition, if it was an error.
    pub failure: Option<Failure>,
}

/// What a broker (or librdkafka) said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Failure {
    /// The code.
    pub code: RDKafkaErrorCode,
    /// The words.
    pub words: String,
}

/// A topic as it was described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id and the leader of each partition, or what the broker said.
    pub described: Result<(String, Vec<i32>), Failure>,
}

/// The leader of a partition that has none.
pub const NO_LEADER: i32 = -1;

/// A group as it was described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its state.
    pub state: State,
    /// Its members: client id and assignment.
    pub members: Vec<(String, Vec<(String, i32)>)>,
    /// Whether there are more than [`MOST_MEMBERS`], or more than [`MOST_ASSIGNED`] partitions are
    /// assigned to them.
    pub is_cut: bool,
}

/// A group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Without members, or unknown to the broker.
    Empty,
    /// Members have their partitions.
    Stable,
    /// Partitions are moving between members.
    Rebalancing,
    /// Something else.
    Other,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Admin::list_offsets`], [`Admin::group_offsets`] and [`Admin::alter_group_offsets`].
    Offsets(Vec<PartitionOffset>),
    /// To [`Admin::describe_topics`].
    Topics(Vec<Topic>),
    /// To [`Admin::describe_group`].
    Group(GroupDescription),
    /// To [`Admin::broker_settings`].
    Setting(Option<String>),
    /// To [`Admin::describe_cluster`]: the brokers' ids.
    Brokers(Vec<i32>),
}
