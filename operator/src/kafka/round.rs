//! What is known of topics and groups between rounds, what of it is due, and the snapshot that follows. Without Kafka.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use sluice_crds::{TopicName, kafkaconsumer::kafka::GroupProtocol, report::ProgressReport};
use sluice_planner::snapshot::{
    Committed, Group, GroupState as State, Member, Millis, Partition, Snapshot, TopicPartition,
};

use super::{
    answers::{self, Failure, GroupDescription, PartitionOffset},
    brokers::Search,
    errors::{
        commits_error, ends_error, is_search, is_transport, metadata_error, too_many_members,
        topic_error,
    },
    port::{ReadError, Unread},
    requests::Partitions,
    topics::TopicState,
};

/// A group that this client may not read is asked for again after so long.
const REFUSED: Duration = Duration::from_secs(10);
/// A group whose next record has expired: how far the log's start is by now.
const EXPIRED_STARTS: Duration = Duration::from_secs(5);
/// A reading in which nothing is new, and nothing is unprocessed, wakes its consumer this often.
const QUIET: Duration = Duration::from_millis(4_500);
const IDLE_QUIET: Duration = Duration::from_millis(9_500);

/// What was committed for a partition, and the report that came with it.
#[derive(Clone, Debug)]
struct Commit {
    committed: Committed,
    at: Millis,
    report: Option<Arc<ProgressReport>>,
    /// The hash of the metadata that the report was read from.
    hash: u64,
    /// Whether it carries more metadata than is read.
    is_metadata_too_large: bool,
    /// Why it could not be read.
    failure: Option<Failure>,
}

const UNREAD: Commit = Commit {
    committed: Committed::Unknown,
    at: 0,
    report: None,
    hash: 0,
    is_metadata_too_large: false,
    failure: None,
};

/// A group, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct GroupState {
    /// When its offsets were last read.
    pub read_at: Option<Instant>,
    /// When this process last committed for it.
    changed_at: Option<Instant>,
    /// When it was last refused to this client.
    refused_at: Option<Instant>,
    /// Whether it has arrivals or lag: then its offsets are read every round.
    active: bool,
    /// Partitions whose committed offset is below what was taken for the log's start: that is then read again.
    expired: Vec<(Arc<str>, i32)>,
    expired_at: Option<Instant>,
    /// When its members were last read.
    members_at: Option<Instant>,
    /// When a broker last refused to tell them.
    members_refused_at: Option<Instant>,
    /// Who coordinates it.
    pub coordinator: Search,
    /// Why its offsets could not be read.
    pub failed: Option<ReadError>,
    /// Why its members could not be read.
    members_failed: Option<ReadError>,
    /// By topic, then by partition.
    offsets: HashMap<Arc<str>, Vec<Commit>>,
    members: Option<Group>,
    /// Whether something was read since it was last published.
    is_touched: bool,
    /// Whether that was anything new.
    is_new: bool,
    /// The ends when it was last looked at.
    ends: i64,
    /// What makes one metadata's hash differ from another's.
    hasher: RandomState,
}

impl GroupState {
    /// Whether its offsets are to be read in this round. Quiet groups are spread over the rounds by their number.
    pub fn is_due(&self, group: u64, now: Instant) -> bool {
        let older = |at: Option<Instant>, than| at.is_none_or(|at| now.duration_since(at) >= than);
        if !older(self.refused_at, REFUSED) {
            return false;
        }
        self.active
            || self.failed.is_some()
            || self.coordinator.is_open()
            || older(self.read_at, Duration::from_millis(7_000 + group % 5 * 700))
    }

    /// Whether its members, where they are wanted, are to be read in this round.
    pub fn members_are_due(&self, now: Instant) -> bool {
        let older = |at: Option<Instant>, than| at.is_none_or(|at| now.duration_since(at) >= than);
        older(self.members_refused_at, REFUSED) && older(self.members_at, Duration::from_secs(1))
    }

    /// Notes that the members could not be read. Another broker may coordinate the group by now,
    /// which its offsets find out; a broker that does not tell members is asked less often.
    pub fn members_not_read(&mut self, failure: &Failure, now: Instant) {
        if is_transport(failure) || is_search(failure) {
            self.read_at = None;
        } else {
            self.members_refused_at = Some(now);
        }
    }

    /// Whether there is something to publish.
    pub fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// The partitions whose log's start is to be read again now.
    pub fn expired_that_are_due(&mut self, now: Instant) -> Vec<(Arc<str>, i32)> {
        let is_early = |at| now.duration_since(at) < EXPIRED_STARTS;
        if self.expired.is_empty() || self.expired_at.is_some_and(is_early) {
            return Vec::new();
        }
        self.expired_at = Some(now);
        self.expired.clone()
    }

    /// Notes that its offsets were changed from here: what was asked for before is not to be taken any more.
    pub fn was_changed(&mut self) {
        self.changed_at = Some(Instant::now());
        self.read_at = None;
    }

    /// Notes that this client may not read it: it is asked less often.
    pub fn was_refused(&mut self, error: ReadError, now: Instant) {
        self.refused_at = Some(now);
        self.failed(error);
    }

    /// Notes that its offsets could not be read.
    pub fn failed(&mut self, error: ReadError) {
        self.failed = Some(error);
        self.is_touched = true;
    }

    /// Takes committed offsets in of `partitions`, which were asked for at `asked` and read at `now`.
    /// A broker may answer with others too, of any number: those are nobody's.
    pub fn take_offsets(
        &mut self,
        offsets: Vec<PartitionOffset>,
        partitions: &Partitions,
        asked: Instant,
        now: Millis,
    ) {
        if self.changed_at.is_some_and(|changed| asked < changed) {
            return;
        }
        self.read_at = Some(Instant::now());
        (self.failed, self.refused_at, self.is_touched) = (None, None, true);
        for (place, offset) in offsets.into_iter().enumerate() {
            let Ok(number) = usize::try_from(offset.partition) else { continue };
            let is_it = |(topic, partition): &(Arc<str>, i32)| {
                **topic == *offset.topic && *partition == offset.partition
            };
            // Brokers answer in the order of the question.
            if !partitions.get(place).is_some_and(is_it) && !partitions.iter().any(is_it) {
                continue;
            }
            if !self.offsets.contains_key(offset.topic.as_str()) {
                self.offsets.insert(Arc::from(offset.topic.as_str()), Vec::new());
            }
            let Some(commits) = self.offsets.get_mut(offset.topic.as_str()) else { continue };
            if commits.len() <= number {
                commits.resize(number + 1, UNREAD);
            }
            let Some(commit) = commits.get_mut(number) else { continue };
            let committed = match (&offset.failure, offset.offset) {
                (Some(_), _) => Committed::Unknown,
                (None, Some(offset)) => Committed::At(offset),
                (None, None) => Committed::None,
            };
            let hash = offset.metadata.as_ref().map_or(0, |text| self.hasher.hash_one(text));
            if hash != commit.hash || offset.metadata.is_none() {
                let text = offset.metadata.as_deref();
                commit.report =
                    text.and_then(|text| ProgressReport::from_metadata(text).ok()).map(Arc::new);
            }
            self.is_new |= hash != commit.hash || committed != commit.committed;
            (commit.hash, commit.committed, commit.at) = (hash, committed, now);
            commit.is_metadata_too_large = offset.is_metadata_too_large;
            commit.failure = offset.failure;
        }
    }

    /// Takes the members in that were read at `now`.
    pub fn take_members(&mut self, description: GroupDescription, now: Millis) {
        (self.members_at, self.members_refused_at) = (Some(Instant::now()), None);
        (self.is_touched, self.is_new) = (true, true);
        self.members_failed = description.is_cut.then(too_many_members);
        if description.is_cut {
            self.members = None;
            return;
        }
        let state = match description.state {
            answers::State::Empty => State::Empty,
            answers::State::Stable => State::Stable,
            answers::State::Rebalancing => State::Rebalancing,
            answers::State::Other => State::Other,
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

/// All that is known of a group's topics and offsets at the end of a round.
#[derive(Debug)]
pub struct View {
    /// `None` while a topic is not known, or no end was ever read.
    pub snapshot: Option<Snapshot>,
    /// What is in the way.
    pub error: Option<ReadError>,
    /// Which of it is not known.
    pub unread: Unread,
    /// Where nothing is new, and nothing is unprocessed: how often to say so.
    pub quiet: Option<Duration>,
}

impl View {
    /// Nothing is known, for this reason.
    pub fn none(error: Option<ReadError>) -> Self {
        Self { snapshot: None, error, unread: Unread::All, quiet: None }
    }
}

/// Looks at all that is known of a group's topics and offsets.
pub fn view(
    addresses: &str,
    names: &[TopicName],
    topics: &BTreeMap<String, TopicState>,
    group: &mut GroupState,
    committed_only: bool,
) -> View {
    group.is_touched = false;
    let is_new = std::mem::take(&mut group.is_new);
    let mut names: Vec<&TopicName> = names.iter().collect();
    names.sort_unstable();
    let mut known = Vec::with_capacity(names.len());
    for name in names {
        let Some(topic) = topics.get(&**name) else { return View::none(None) };
        match &topic.partitions {
            Ok(partitions) => known.push((topic, partitions)),
            Err(failure) => {
                return View::none(failure.as_ref().map(|failure| topic_error(name, failure)));
            }
        }
    }
    let mut partitions = Vec::with_capacity(known.iter().map(|(_, list)| list.len()).sum());
    let (mut silent, mut uncommitted, mut oversized) = (Vec::new(), Vec::new(), Vec::new());
    for (topic, states) in &known {
        let commits = group.offsets.get(&**topic.name()).map_or(&[][..], Vec::as_slice);
        for (index, state) in states.iter().enumerate() {
            let Ok(partition) = i32::try_from(index) else { break };
            let end = if committed_only { &state.committed_end } else { &state.end };
            let commit = commits.get(index).unwrap_or(&UNREAD);
            let id = TopicPartition { topic: Arc::clone(topic.name()), partition };
            silent.extend(end.failure.as_ref().map(|failure| (id.clone(), failure)));
            uncommitted.extend(commit.failure.as_ref().map(|failure| (id.clone(), failure)));
            oversized.extend(commit.is_metadata_too_large.then(|| id.clone()));
            partitions.push(Partition {
                id,
                start: state.start,
                end: end.known.map(|(end, _)| end),
                end_at: end.known.map_or(0, |(_, at)| at),
                committed: commit.committed,
                committed_at: commit.at,
                report: commit.report.clone(),
            });
        }
    }
    let ends: i64 = partitions.iter().filter_map(|p| p.end).sum();
    let has_lag = partitions.iter().any(|p| p.lag() != Some(0));
    let is_expired = |p: &&Partition| matches!((p.committed, p.start), (Committed::At(offset), Some(start)) if offset < start);
    group.expired = partitions
        .iter()
        .filter(is_expired)
        .map(|p| (Arc::clone(&p.id.topic), p.id.partition))
        .collect();
    let has_moved = ends != group.ends;
    group.active = has_lag || has_moved;
    group.ends = ends;
    let unread = if group.failed.is_some() || silent.len() == partitions.len() {
        Unread::All
    } else if silent.is_empty() && uncommitted.is_empty() {
        Unread::Nothing
    } else {
        let ids: BTreeSet<_> =
            silent.iter().chain(&uncommitted).map(|(id, _)| id.clone()).collect();
        Unread::Partitions(ids.into_iter().collect())
    };
    let all = partitions.len();
    let error = ends_error(addresses, &silent, all)
        .or_else(|| group.failed.clone())
        .or_else(|| commits_error(&uncommitted, all))
        .or_else(|| metadata_error(&oversized, all))
        .or_else(|| group.members_failed.clone());
    let is_idle = !known.iter().any(|(topic, _)| topic.is_active(Instant::now()));
    let is_quiet = !is_new && !group.active && error.is_none();
    let quiet = is_quiet.then_some(if is_idle { IDLE_QUIET } else { QUIET });
    let at = partitions.iter().map(|p| p.end_at).max().unwrap_or(0);
    let snapshot = Snapshot { at, partitions, group: group.members.clone() };
    View { snapshot: (at != 0).then_some(snapshot), error, unread, quiet }
}

/// What `Auto` means on a broker with this group heartbeat interval (none: it does not know the consumer protocol).
pub fn protocol(heartbeat_millis: Option<&str>) -> GroupProtocol {
    // A member learns of its new partitions only by heartbeat: above a second the classic protocol moves them faster.
    match heartbeat_millis.and_then(|text| text.parse::<u64>().ok()) {
        Some(millis) if millis <= 1_000 => GroupProtocol::Consumer,
        _ => GroupProtocol::Classic,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaErrorCode;
    use sluice_crds::conditions::reason;

    use super::{
        super::{brokers::Brokers, topics},
        *,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn report(sequence: u64) -> String {
        let report = ProgressReport { version: 1, sequence, ..ProgressReport::default() };
        report.to_metadata().unwrap()
    }

    fn committed(offset: i64, metadata: Option<String>) -> Vec<PartitionOffset> {
        let (topic, offset) = ("orders".to_owned(), Some(offset));
        vec![PartitionOffset {
            topic,
            partition: 0,
            offset,
            metadata,
            is_metadata_too_large: false,
            failure: None,
        }]
    }

    fn take(group: &mut GroupState, offsets: Vec<PartitionOffset>) -> Option<Arc<ProgressReport>> {
        group.is_new = false;
        group.take_offsets(offsets, &[("orders".into(), 0)], Instant::now(), 0);
        group.offsets["orders"][0].report.clone()
    }

    #[test]
    fn offsets_that_nobody_asked_for_take_no_memory() {
        let mut group = GroupState::default();
        let mut answer = committed(7, None);
        for (topic, partition) in [("orders", 50_000), ("orders", -1), ("other", 0)] {
            answer.extend(committed(7, None).into_iter().map(|offset| PartitionOffset {
                topic: topic.to_owned(),
                partition,
                ..offset
            }));
        }
        take(&mut group, answer);
        let kept: Vec<_> = group.offsets.iter().map(|(t, all)| (&**t, all.len())).collect();
        assert_eq!(kept, [("orders", 1)]);
    }

    #[test]
    fn a_report_that_has_not_changed_is_not_read_from_its_text_again() {
        let mut group = GroupState::default();
        let first = take(&mut group, committed(7, Some(report(1)))).unwrap();
        assert!(group.is_new);
        let same = take(&mut group, committed(7, Some(report(1)))).unwrap();
        assert!(Arc::ptr_eq(&first, &same), "it was parsed again");
        assert!(!group.is_new, "and is nothing new");
        let other = take(&mut group, committed(7, Some(report(2)))).unwrap();
        assert_eq!((other.sequence, group.is_new), (2, true));
        assert_eq!(take(&mut group, committed(7, None)), None, "another client committed");
    }

    #[test]
    fn a_group_that_is_refused_is_asked_for_every_ten_seconds_and_another_one_every_second() {
        let (mut group, begin) = (GroupState::default(), Instant::now());
        let mut brokers = Brokers::default();
        brokers.add([1]);
        let broker = group.coordinator.broker(&brokers).unwrap();
        group.active = true;
        assert!(group.is_due(0, begin));
        let error = ReadError { reason: reason::ACCESS_DENIED, message: String::new() };
        group.was_refused(error, begin);
        let due: Vec<u32> = (0..=11).filter(|n| group.is_due(0, begin + *n * SECOND)).collect();
        assert_eq!(due, [10, 11]);
        group.coordinator.found(broker);
        take(&mut group, committed(7, None));
        assert!(group.failed.is_none() && group.is_due(0, Instant::now()), "it is allowed by now");
    }

    #[test]
    fn members_that_are_refused_are_asked_for_less_often_and_the_offsets_no_more_often() {
        let (mut group, begin) = (GroupState::default(), Instant::now());
        take(&mut group, committed(7, None));
        let failure = |code| Failure { code, words: String::new() };
        let due = |group: &GroupState, second: u32| {
            let now = begin + second * SECOND;
            (group.members_are_due(now), group.read_at.is_none())
        };
        assert_eq!(due(&group, 1), (true, false));
        group.members_not_read(&failure(RDKafkaErrorCode::GroupAuthorizationFailed), begin);
        assert_eq!((due(&group, 9), due(&group, 10)), ((false, false), (true, false)));
        group.members_refused_at = None;
        group.members_not_read(&failure(RDKafkaErrorCode::NotCoordinator), begin);
        assert_eq!(due(&group, 1), (true, true), "the offsets look for the coordinator");
    }

    #[test]
    fn the_start_of_an_expired_group_is_asked_for_every_five_seconds() {
        let (mut group, begin) = (GroupState::default(), Instant::now());
        group.expired = vec![("orders".into(), 3)];
        let asked = |n: &u32| !group.expired_that_are_due(begin + *n * SECOND).is_empty();
        assert_eq!((0..=12).filter(asked).collect::<Vec<_>>(), [0, 5, 10]);
    }

    #[test]
    fn what_a_broker_says_of_one_partition_s_offset_is_said_with_the_partition() {
        let mut group = GroupState::default();
        group.coordinator.found(1);
        let described = Ok((String::new(), vec![1, 1]));
        let topic = answers::Topic { name: "orders".into(), described };
        let topic = topics::described(None, &topic, 10);
        let mut topics = BTreeMap::from([("orders".to_owned(), topic)]);
        let offset = |partition, failure| PartitionOffset {
            topic: "orders".to_owned(),
            partition,
            offset: Some(5),
            metadata: None,
            is_metadata_too_large: false,
            failure,
        };
        let both = vec![offset(0, None), offset(1, None)];
        topics::take_ends(&mut topics, both, false, 1, Instant::now());
        let code = RDKafkaErrorCode::UnstableOffsetCommit;
        let failure = Some(Failure { code, words: "librdkafka's own".to_owned() });
        let offsets = vec![offset(0, None), offset(1, failure)];
        let asked = [("orders".into(), 0), ("orders".into(), 1)];
        group.take_offsets(offsets, &asked, Instant::now(), 1);
        let view = view("kafka:9092", &["orders".parse().unwrap()], &topics, &mut group, false);
        let error = view.error.unwrap();
        assert_eq!(error.reason, reason::PARTLY_KNOWN);
        let said = "the committed offsets of 1 of 2 partitions could not be read (orders-1): ";
        assert_eq!(error.message, format!("{said}{code}"));
        let snapshot = view.snapshot.unwrap();
        assert_eq!(snapshot.partitions[1].committed, Committed::Unknown);
        let unread = TopicPartition { topic: "orders".into(), partition: 1 };
        assert!(view.unread.is_known(&snapshot.partitions[0].id) && !view.unread.is_known(&unread));
    }
}
