//! What is known of topics between rounds, and what of it is due. Without Kafka.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::types::RDKafkaErrorCode;
use sluice_planner::snapshot::Millis;

use super::{
    answers::{self, Failure, PartitionOffset},
    requests::PartitionList,
};

/// A topic whose ends have not moved for this long is idle.
const IDLE_AFTER: Duration = Duration::from_secs(300);
/// The ends of an idle topic are read this often: less than half of what the planner takes for stale.
const IDLE_ENDS: Duration = Duration::from_millis(4_500);
/// The log's start moves by retention only.
const STARTS: Duration = Duration::from_secs(10);
const IDLE_STARTS: Duration = Duration::from_secs(60);
/// A topic, as far as it is known.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Its name, shared with all snapshots.
    name: Arc<str>,
    /// Its id.
    pub id: Option<String>,
    /// Its partitions, or what the broker said of it.
    pub partitions: Result<Vec<PartitionState>, Option<Failure>>,
    /// Whether a broker has answered that the topic does not exist, once, though it did before.
    is_missing_once: bool,
    /// When an end last moved, or the topic was found.
    moved_at: Instant,
    /// When its ends of each kind, and its starts, were last read.
    committed_ends_at: Option<Instant>,
    ends_at: Option<Instant>,
    starts_at: Option<Instant>,
    /// Whether something was read, or could not be, since it was last published.
    is_touched: bool,
}

/// What the followers of a topic need.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    committed: bool,
    uncommitted: bool,
    is_active: bool,
}

impl Need {
    /// One more follower.
    pub fn add(&mut self, committed: bool, is_active: bool) {
        self.committed |= committed;
        self.uncommitted |= !committed;
        self.is_active |= is_active;
    }
}

/// What of a topic is to be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The last stable offsets.
    pub committed_ends: bool,
    /// The high watermarks.
    pub ends: bool,
    /// The starts.
    pub starts: bool,
}

/// A partition, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    leader: i32,
    /// The first offset that can be read.
    pub start: Option<i64>,
    /// The last stable offset.
    pub committed_end: End,
    /// The high watermark.
    pub end: End,
}

/// An end of a partition, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The offset, and when it was read.
    pub known: Option<(i64, Millis)>,
    /// Why it could not be read the last time.
    pub failure: Option<Failure>,
}

impl PartitionState {
    fn end(&mut self, committed: bool) -> &mut End {
        if committed { &mut self.committed_end } else { &mut self.end }
    }
}

impl TopicState {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its partitions: number, leader, and whether the log's start was ever read.
    pub fn partitions(&self) -> impl Iterator<Item = (i32, i32, bool)> {
        (0..)
            .zip(self.partitions.iter().flatten())
            .map(|(number, state)| (number, state.leader, state.start.is_some()))
    }

    /// How many partitions it has, where that is known.
    pub fn count(&self) -> Option<usize> {
        self.partitions.as_ref().ok().map(Vec::len)
    }

    /// A partition's leader.
    pub fn leader(&self, number: i32) -> Option<i32> {
        let partitions = self.partitions.as_ref().ok()?;
        partitions.get(usize::try_from(number).ok()?).map(|partition| partition.leader)
    }

    /// Whether records have arrived within five minutes.
    pub fn is_active(&self) -> bool {
        self.moved_at.elapsed() < IDLE_AFTER
    }

    /// Whether it is not known, or a broker has said so.
    pub fn is_to_be_described_again(&self) -> bool {
        self.partitions.is_err() || self.is_missing_once
    }

    /// Whether one broker has answered that it does not exist, and none has confirmed it.
    pub fn is_missing_once(&self) -> bool {
        self.is_missing_once
    }

    /// Whether there is something to publish.
    pub fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// Notes that all was published.
    pub fn was_published(&mut self) {
        self.is_touched = false;
    }

    /// What is to be read now.
    pub fn due(&self, need: Need) -> Due {
        let older = |at: Option<Instant>, than| at.is_none_or(|at| at.elapsed() >= than);
        let (ends, starts) =
            if need.is_active { (Duration::ZERO, STARTS) } else { (IDLE_ENDS, IDLE_STARTS) };
        Due {
            committed_ends: need.committed && older(self.committed_ends_at, ends),
            ends: need.uncommitted && older(self.ends_at, ends),
            starts: older(self.starts_at, starts),
        }
    }

    fn partition(&mut self, number: i32) -> Option<&mut PartitionState> {
        self.partitions.as_mut().ok()?.get_mut(usize::try_from(number).ok()?)
    }
}

/// A topic after it was described: what is known of its partitions stays, unless it was recreated. A broker that has just
/// started knows no topic for a moment: what is known is dropped when a second answer says the same.
pub fn described(known: Option<TopicState>, topic: &answers::Topic) -> TopicState {
    use RDKafkaErrorCode as Code;
    let state = |name, id, partitions| TopicState {
        name,
        id,
        partitions,
        is_missing_once: false,
        moved_at: Instant::now(),
        committed_ends_at: None,
        ends_at: None,
        starts_at: None,
        is_touched: true,
    };
    let name =
        known.as_ref().map_or_else(|| Arc::from(topic.name.as_str()), |k| Arc::clone(&k.name));
    match &topic.described {
        Ok((id, leaders)) => {
            let same = known.filter(|k| k.id.as_ref() == Some(id) && k.partitions.is_ok());
            let mut same = same.unwrap_or_else(|| state(name, Some(id.clone()), Ok(Vec::new())));
            same.is_missing_once = false;
            if let Ok(partitions) = &mut same.partitions {
                if partitions.len() != leaders.len() {
                    partitions.resize(leaders.len(), PartitionState::default());
                    (same.moved_at, same.is_touched) = (Instant::now(), true);
                }
                for (partition, leader) in partitions.iter_mut().zip(leaders) {
                    partition.leader = *leader;
                }
            }
            same
        }
        Err(failure) => {
            let is_missing =
                matches!(failure.code, Code::UnknownTopicOrPartition | Code::UnknownTopic);
            match known {
                Some(mut known)
                    if is_missing && known.partitions.is_ok() && !known.is_missing_once =>
                {
                    known.is_missing_once = true;
                    known
                }
                _ => state(name, None, Err(Some(failure.clone()))),
            }
        }
    }
}

/// Takes log starts in.
pub fn take_starts(topics: &mut BTreeMap<String, TopicState>, offsets: &[PartitionOffset]) {
    let now = Instant::now();
    for offset in offsets {
        let Some(topic) = topics.get_mut(&offset.topic) else { continue };
        (topic.starts_at, topic.is_touched) = (Some(now), true);
        if let (Some(partition), Some(start)) = (topic.partition(offset.partition), offset.offset) {
            partition.start = Some(start);
        }
    }
}

/// Takes ends in that were read at `now`.
pub fn take_ends(
    topics: &mut BTreeMap<String, TopicState>,
    offsets: Vec<PartitionOffset>,
    committed: bool,
    now: Millis,
) {
    let instant = Instant::now();
    for offset in offsets {
        let Some(topic) = topics.get_mut(&offset.topic) else { continue };
        let Some(partition) = topic.partition(offset.partition) else { continue };
        let end = partition.end(committed);
        let mut has_moved = false;
        match offset.offset {
            Some(offset) => {
                // The first reading is no arrival: a topic that is idle when the operator starts is active for five
                // minutes since it was found.
                has_moved = end.known.is_some_and(|(known, _)| known != offset);
                *end = End { known: Some((offset, now)), failure: None };
            }
            // What was known before still is; it says itself how old it is.
            None => end.failure = Some(offset.failure.unwrap_or_else(no_leader_answered)),
        }
        let is_known = end.failure.is_none();
        topic.is_touched = true;
        if has_moved {
            topic.moved_at = instant;
        }
        if is_known {
            *(if committed { &mut topic.committed_ends_at } else { &mut topic.ends_at }) =
                Some(instant);
        }
    }
}

/// Notes that a leader did not tell the ends of these partitions.
pub fn fail_ends(
    topics: &mut BTreeMap<String, TopicState>,
    partitions: &[(Arc<str>, i32)],
    committed: bool,
    failure: &Failure,
) {
    for (name, number) in partitions {
        let Some(topic) = topics.get_mut(&**name) else { continue };
        topic.is_touched = true;
        if let Some(partition) = topic.partition(*number) {
            partition.end(committed).failure = Some(failure.clone());
        }
    }
}

/// librdkafka hides a leader that is unavailable as success without an offset.
fn no_leader_answered() -> Failure {
    Failure {
        code: RDKafkaErrorCode::BrokerTransportFailure,
        words: "its leader did not answer".to_owned(),
    }
}

/// What is asked of one leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderQueries {
    /// Partitions whose log's start is asked for.
    pub starts: PartitionList,
    /// Partitions whose last stable offset is asked for.
    pub committed_ends: PartitionList,
    /// Partitions whose high watermark is asked for.
    pub ends: PartitionList,
}

/// What is to be asked now, by leader.
pub fn queries(
    topics: &BTreeMap<String, TopicState>,
    needs: BTreeMap<&str, Need>,
) -> BTreeMap<i32, LeaderQueries> {
    let mut leaders: BTreeMap<i32, LeaderQueries> = BTreeMap::new();
    for (name, need) in needs {
        let Some(topic) = topics.get(name) else { continue };
        let due = topic.due(need);
        for (number, leader, has_start) in topic.partitions() {
            let queries = leaders.entry(leader).or_default();
            for (list, is_due) in [
                (&mut queries.starts, due.starts || !has_start),
                (&mut queries.committed_ends, due.committed_ends),
                (&mut queries.ends, due.ends),
            ] {
                if is_due {
                    list.push((Arc::clone(topic.name()), number));
                }
            }
        }
    }
    leaders
}
