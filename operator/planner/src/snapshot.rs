//! What was read of one consumer's topics and group at one moment: the planner's input, made by the operator's reader.
//!
//! Unknown is not zero: what could not be read is `None` (or [`Committed::Unknown`]), and the planner then holds.

use std::{collections::BTreeMap, sync::Arc};

use sluice_crds::report::ProgressReport;

/// Milliseconds since the Unix epoch by the operator's clock.
pub type Millis = i64;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: i32,
}

/// All that was read of one consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// When the newest end offsets in it were read.
    pub at: Millis,
    /// Every partition of every topic of the consumer, sorted by topic and number.
    pub partitions: Vec<Partition>,
    /// The group, if it was described: that costs requests, so it is done only near a decision.
    pub group: Option<Group>,
}

/// One partition at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// Which one.
    pub id: TopicPartition,
    /// The first offset that can still be read.
    pub start: Option<i64>,
    /// The end: the last stable offset when the consumer reads committed, else the high watermark.
    pub end: Option<i64>,
    /// When `end` was read; older than the snapshot's `at` where a broker did not answer this time.
    pub end_at: Millis,
    /// The group's committed offset.
    pub committed: Committed,
    /// When `committed` and `report` were read.
    pub committed_at: Millis,
    /// The report that came with the committed offset; `None` where another client (or the operator) committed it.
    pub report: Option<Arc<ProgressReport>>,
}

/// A committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It could not be read.
    Unknown,
    /// It was read, and there is none.
    None,
    /// The offset of the next record to handle.
    At(i64),
}

/// The group at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// When it was described.
    pub at: Millis,
    /// Its state.
    pub state: GroupState,
    /// Its members.
    pub members: Vec<Member>,
}

/// A group's state, of the classic and the consumer protocol alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// No such group, or one without members.
    Empty,
    /// Members have their partitions.
    Stable,
    /// Partitions are moving.
    Rebalancing,
    /// Something else, or not known.
    Other,
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The client id; that of our pods is their name and a suffix.
    pub client_id: String,
    /// What it is assigned.
    pub partitions: Vec<TopicPartition>,
}

impl Snapshot {
    /// The newest report of each pod, sorted by the pods' names: what follows from them must not
    /// depend on the order of a hash map.
    pub fn newest_reports(&self) -> BTreeMap<&str, &ProgressReport> {
        let mut newest: BTreeMap<&str, &ProgressReport> = BTreeMap::new();
        for report in self.partitions.iter().filter_map(|p| p.report.as_deref()) {
            let entry = newest.entry(report.pod.as_str()).or_insert(report);
            if (report.boot, report.at) > (entry.boot, entry.at) {
                *entry = report;
            }
        }
        newest
    }
}

impl Partition {
    /// Unprocessed records: end − committed offset, less those beyond it that the report says are
    /// processed. Where nothing was committed, or less than the log still has, it counts from the
    /// log's start. `None` where an input is unknown.
    pub fn lag(&self) -> Option<i64> {
        let (start, end) = (self.start?, self.end?);
        let (committed, beyond) = match self.committed {
            Committed::Unknown => return None,
            Committed::None => (start, 0),
            Committed::At(offset) => {
                (offset, self.report.as_ref().map_or(0, |report| report.done_beyond as i64))
            }
        };
        Some((end - committed.max(start) - beyond).max(0))
    }
}
