//! What is known of topics and groups between rounds, what of it is due, and the snapshot that follows. Without Kafka.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::types::RDKafkaErrorCode;
use sluice_crds::{
    conditions::reason, kafkaconsumer::kafka::GroupProtocol, report::ProgressReport,
};
use sluice_planner::snapshot::{
    Committed, Group, GroupState as State, Member, Millis, Partition, Snapshot, TopicPartition,
};

use super::{
    admin::{self, Failure, GroupDescription, PartitionOffset},
    brokers::Search,
};
use crate::kafka::port::ReadError;

/// A topic, as far as it is known.
#[derive(Clone, Debug)]
pub struct TopicState {
    /// Its name, shared with all snapshots.
    name: Arc<str>,
    /// Its id.
    pub id: Option<String>,
    /// Its partitions, or what the broker said of it.
    pub partitions: Result<Vec<PartitionState>, Option<Failure>>,
}

/// A partition, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    leader: i32,
    start: Option<i64>,
    /// The last stable offset, and the high watermark.
    committed_end: End,
    end: End,
}

/// An end of a partition, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct End {
    /// The offset, and when it was read.
    known: Option<(i64, Millis)>,
    /// Why it could not be read the last time.
    failure: Option<Failure>,
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

    fn partition(&mut self, number: i32) -> Option<&mut PartitionState> {
        self.partitions.as_mut().ok()?.get_mut(usize::try_from(number).ok()?)
    }
}

/// A topic after it was described: what is known of its partitions stays, unless it was made anew.
pub fn described(known: Option<TopicState>, topic: &admin::Topic) -> TopicState {
    let name =
        known.as_ref().map_or_else(|| Arc::from(topic.name.as_str()), |k| Arc::clone(&k.name));
    match &topic.described {
        Ok((id, leaders)) => {
            let same = known.filter(|k| k.id.as_ref() == Some(id)).and_then(|k| k.partitions.ok());
            let mut partitions = same.unwrap_or_default();
            partitions.resize(leaders.len(), PartitionState::default());
            for (partition, leader) in partitions.iter_mut().zip(leaders) {
                partition.leader = *leader;
            }
            TopicState { name, id: Some(id.clone()), partitions: Ok(partitions) }
        }
        Err(failure) => TopicState { name, id: None, partitions: Err(Some(failure.clone())) },
    }
}

/// Takes log starts in.
pub fn take_starts(topics: &mut BTreeMap<String, TopicState>, offsets: &[PartitionOffset]) {
    for offset in offsets {
        if let (Some(partition), Some(start)) = (
            topics.get_mut(&offset.topic).and_then(|t| t.partition(offset.partition)),
            offset.offset,
        ) {
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
    for offset in offsets {
        let Some(partition) =
            topics.get_mut(&offset.topic).and_then(|t| t.partition(offset.partition))
        else {
            continue;
        };
        let end = partition.end(committed);
        match offset.offset {
            Some(offset) => *end = End { known: Some((offset, now)), failure: None },
            // What was known before still is; it says itself how old it is.
            None => end.failure = Some(offset.failure.unwrap_or_else(no_leader_answered)),
        }
    }
}

/// Notes that a leader did not tell the ends of its partitions.
pub fn fail_ends(
    topics: &mut BTreeMap<String, TopicState>,
    leader: i32,
    committed: bool,
    failure: &Failure,
) {
    for partition in topics.values_mut().flat_map(|t| t.partitions.iter_mut().flatten()) {
        if partition.leader == leader {
            partition.end(committed).failure = Some(failure.clone());
        }
    }
}

/// librdkafka hides a leader that is away as success without an offset.
fn no_leader_answered() -> Failure {
    Failure {
        code: RDKafkaErrorCode::BrokerTransportFailure,
        words: "its leader did not answer".to_owned(),
    }
}

/// What was committed for a partition, and the report that came with it.
type Commit = (Committed, Option<Arc<ProgressReport>>);

/// A group, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct GroupState {
    /// When its offsets were last read.
    pub read_at: Option<Instant>,
    /// When this process last committed for it.
    changed_at: Option<Instant>,
    /// Whether it has arrivals or lag: then its offsets are read every round.
    active: bool,
    /// Whether a committed offset is below what was taken for the log's start: the start is then read anew.
    pub has_expired_offset: bool,
    /// When its members were last read.
    members_at: Option<Instant>,
    /// Who coordinates it.
    pub coordinator: Search,
    /// Why its offsets could not be read.
    pub failed: Option<ReadError>,
    offsets: HashMap<(String, i32), Commit>,
    offsets_at: Millis,
    members: Option<Group>,
    /// The ends when it was last looked at.
    ends: i64,
}

impl GroupState {
    /// Whether its offsets are to be read in this round.
    pub fn is_due(&self, seldom: Duration) -> bool {
        self.active
            || self.failed.is_some()
            || self.coordinator.is_open()
            || self.read_at.is_none_or(|at| at.elapsed() >= seldom)
    }

    /// Whether its members, where they are wanted, are to be read in this round.
    pub fn members_are_due(&self) -> bool {
        self.members_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
    }

    /// Notes that its offsets were changed from here: what was asked for before is not to be taken any more.
    pub fn was_changed(&mut self) {
        self.changed_at = Some(Instant::now());
        self.read_at = None;
    }

    /// Takes committed offsets in that were asked for at `asked` and read at `now`.
    pub fn take_offsets(&mut self, offsets: Vec<PartitionOffset>, asked: Instant, now: Millis) {
        if self.changed_at.is_some_and(|changed| asked < changed) {
            return;
        }
        self.read_at = Some(Instant::now());
        self.offsets_at = now;
        self.failed = None;
        self.offsets = offsets
            .into_iter()
            .map(|offset| {
                let committed = match (&offset.failure, offset.offset) {
                    (Some(_), _) => Committed::Unknown,
                    (None, Some(offset)) => Committed::At(offset),
                    (None, None) => Committed::None,
                };
                let report = offset
                    .metadata
                    .and_then(|text| ProgressReport::from_metadata(&text).ok())
                    .map(Arc::new);
                ((offset.topic, offset.partition), (committed, report))
            })
            .collect();
    }

    /// Takes the members in that were read at `now`.
    pub fn take_members(&mut self, description: GroupDescription, now: Millis) {
        self.members_at = Some(Instant::now());
        let state = match description.state {
            admin::State::Empty => State::Empty,
            admin::State::Stable => State::Stable,
            admin::State::Rebalancing => State::Rebalancing,
            admin::State::Other => State::Other,
        };
        let members = description.members.into_iter().map(|(client_id, partitions)| Member {
            client_id,
            partitions: partitions
                .into_iter()
                .map(|(topic, partition)| TopicPartition { topic: topic.into(), partition })
                .collect(),
        });
        self.members = Some(Group { at: now, state, members: members.collect() });
    }
}

/// All that is known of a group's topics and offsets, and what is in the way. `None` while a topic is not known, or no
/// end was ever read.
pub fn snapshot(
    addresses: &str,
    names: &[String],
    topics: &BTreeMap<String, TopicState>,
    group: &mut GroupState,
    committed_only: bool,
) -> (Option<Snapshot>, Option<ReadError>) {
    let mut partitions = Vec::new();
    let mut silent = Vec::new();
    for name in names {
        let Some(topic) = topics.get(name) else { return (None, None) };
        match &topic.partitions {
            Ok(known) => {
                for (number, state) in (0..).zip(known) {
                    let end = if committed_only { &state.committed_end } else { &state.end };
                    let unread = (Committed::Unknown, None);
                    let (committed, report) =
                        group.offsets.get(&(name.clone(), number)).cloned().unwrap_or(unread);
                    let id = TopicPartition { topic: Arc::clone(&topic.name), partition: number };
                    silent.extend(end.failure.as_ref().map(|failure| (id.clone(), failure)));
                    partitions.push(Partition {
                        id,
                        start: state.start,
                        end: end.known.map(|(end, _)| end),
                        end_at: end.known.map_or(0, |(_, at)| at),
                        committed,
                        committed_at: group.offsets_at,
                        report,
                    });
                }
            }
            Err(failure) => {
                let error = failure.as_ref().map(|failure| topic_error(name, failure));
                return (None, error);
            }
        }
    }
    partitions.sort_by(|a, b| a.id.cmp(&b.id));
    let ends: i64 = partitions.iter().filter_map(|p| p.end).sum();
    let lag = partitions.iter().any(|p| p.lag() != Some(0));
    let below = |p: &Partition| matches!((p.committed, p.start), (Committed::At(offset), Some(start)) if offset < start);
    group.has_expired_offset = partitions.iter().any(below);
    group.active = lag || ends != group.ends;
    group.ends = ends;
    let error = ends_error(addresses, &silent, partitions.len()).or_else(|| group.failed.clone());
    let at = partitions.iter().map(|p| p.end_at).max().unwrap_or(0);
    ((at != 0).then(|| Snapshot { at, partitions, group: group.members.clone() }), error)
}

/// What is wrong where the ends of some partitions, or of `all`, could not be read.
fn ends_error(
    addresses: &str,
    silent: &[(TopicPartition, &Failure)],
    all: usize,
) -> Option<ReadError> {
    let (first, failure) = silent.first()?;
    if silent.len() == all {
        return Some(read_error(addresses, failure));
    }
    let first = format!("{}-{}", first.topic, first.partition);
    let which = if silent.len() == 1 { first } else { format!("{first} and others") };
    let message =
        format!("{} of {all} partitions could not be read ({which}): {failure}", silent.len());
    Some(ReadError { reason: reason::PARTLY_KNOWN, message })
}

/// What `Auto` means on a broker with this group heartbeat interval (none: it does not know the consumer protocol).
pub fn protocol(heartbeat_millis: Option<&str>) -> GroupProtocol {
    // A member learns of its new partitions only by heartbeat: above a second the classic protocol moves them faster.
    match heartbeat_millis.and_then(|text| text.parse::<u64>().ok()) {
        Some(millis) if millis <= 1_000 => GroupProtocol::Consumer,
        _ => GroupProtocol::Classic,
    }
}

/// Whether nobody answered, rather than somebody with an error.
pub fn is_transport(failure: &Failure) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        failure.code,
        Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::Retry
    )
}

/// Nobody answers, as a condition says it.
pub fn unreachable(addresses: &str, words: &str) -> ReadError {
    ReadError {
        reason: reason::UNREACHABLE,
        message: format!("no broker of {addresses} answers: {words}"),
    }
}

/// A failed request as a condition says it.
pub fn read_error(addresses: &str, failure: &Failure) -> ReadError {
    use RDKafkaErrorCode as Code;
    if is_transport(failure) {
        return unreachable(addresses, &failure.words);
    }
    let reason = match failure.code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => reason::ACCESS_DENIED,
        _ => reason::BROKER_ERROR,
    };
    ReadError { reason, message: format!("Kafka at {addresses} says: {failure}") }
}

/// Committed offsets that could not be read, as a condition says it.
pub fn offsets_error(addresses: &str, failure: &Failure) -> ReadError {
    let words = format!("the committed offsets could not be read: {failure}");
    if is_transport(failure) || failure.code == RDKafkaErrorCode::NotCoordinator {
        return ReadError { reason: reason::PARTLY_KNOWN, message: words };
    }
    read_error(addresses, &Failure { words, ..failure.clone() })
}

fn topic_error(name: &str, failure: &Failure) -> ReadError {
    use RDKafkaErrorCode as Code;
    let (reason, message) = match failure.code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => (
            reason::UNKNOWN_TOPIC,
            format!("the topic {name} does not exist: create it, or correct spec.kafka.topics"),
        ),
        Code::TopicAuthorizationFailed => {
            (reason::ACCESS_DENIED, format!("Kafka refuses access to the topic {name}: {failure}"))
        }
        _ => (reason::BROKER_ERROR, format!("Kafka says of the topic {name}: {failure}")),
    };
    ReadError { reason, message }
}
