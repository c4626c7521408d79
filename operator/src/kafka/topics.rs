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
    /// Its partitions, or what the broker said of it. None are kept while nobody may read so many.
    pub partitions: Result<Vec<PartitionState>, Option<Failure>>,
    /// How many partitions the broker announced.
    announced: usize,
    /// Whether one answer has said that the topic does not exist, or has fewer partitions than
    /// known, and none has confirmed it.
    is_doubted: bool,
    /// When an end last moved, or the topic was found.
    moved_at: Instant,
    /// When its ends of each kind were last read.
    committed_ends_at: Option<Instant>,
    ends_at: Option<Instant>,
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
    /// The starts of those partitions whose one is older than this, or unknown.
    pub starts_older_than: Duration,
}

/// A partition, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    leader: i32,
    /// The first offset that can be read, and when it was last asked for: that of one partition is
    /// at times read more often than those of the others.
    pub start: Option<i64>,
    start_at: Option<Instant>,
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

    /// Its partitions, by number.
    pub fn partitions(&self) -> impl Iterator<Item = (i32, &PartitionState)> {
        (0..).zip(self.partitions.iter().flatten())
    }

    /// How many partitions it has, where that is known.
    pub fn count(&self) -> Option<usize> {
        self.partitions.as_ref().ok().map(|_| self.announced)
    }

    /// A partition's leader.
    pub fn leader(&self, number: i32) -> Option<i32> {
        let partitions = self.partitions.as_ref().ok()?;
        partitions.get(usize::try_from(number).ok()?).map(|partition| partition.leader)
    }

    /// Whether records have arrived within five minutes.
    pub fn is_active(&self, now: Instant) -> bool {
        now.duration_since(self.moved_at) < IDLE_AFTER
    }

    /// Whether it is not known, or a broker has said so.
    pub fn is_to_be_described_again(&self) -> bool {
        self.partitions.is_err() || self.is_doubted
    }

    /// Whether one answer has said that it does not exist, or has fewer partitions than known, and
    /// none has confirmed it.
    pub fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// Whether it is known not to exist.
    fn is_missing(&self) -> bool {
        matches!(&self.partitions, Err(Some(failure)) if is_missing(failure))
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
    pub fn due(&self, need: Need, now: Instant) -> Due {
        let older = |at: Option<Instant>, than| at.is_none_or(|at| now.duration_since(at) >= than);
        let (ends, starts) =
            if need.is_active { (Duration::ZERO, STARTS) } else { (IDLE_ENDS, IDLE_STARTS) };
        Due {
            committed_ends: need.committed && older(self.committed_ends_at, ends),
            ends: need.uncommitted && older(self.ends_at, ends),
            starts_older_than: starts,
        }
    }

    /// Drops what is known of the partitions, and keeps their number.
    pub fn drop_partitions(&mut self) {
        if let Ok(partitions) = &mut self.partitions {
            *partitions = Vec::new();
        }
    }

    fn partition(&mut self, number: i32) -> Option<&mut PartitionState> {
        self.partitions.as_mut().ok()?.get_mut(usize::try_from(number).ok()?)
    }
}

/// A topic after it was described: what is known of its partitions stays, unless it was recreated.
/// A broker that has just started knows no topic for a moment: that one is missing is said, and
/// what is known of it is dropped, when a second answer says the same. Of a topic with more than
/// `most` partitions only their number is kept.
pub fn described(known: Option<TopicState>, topic: &answers::Topic, most: usize) -> TopicState {
    let state = |name, id, partitions| TopicState {
        name,
        id,
        partitions,
        announced: 0,
        is_doubted: false,
        moved_at: Instant::now(),
        committed_ends_at: None,
        ends_at: None,
        is_touched: true,
    };
    let name =
        known.as_ref().map_or_else(|| Arc::from(topic.name.as_str()), |k| Arc::clone(&k.name));
    match &topic.described {
        Ok((id, leaders)) => {
            let same = known.filter(|k| k.id.as_ref() == Some(id) && k.partitions.is_ok());
            let mut same = same.unwrap_or_else(|| state(name, Some(id.clone()), Ok(Vec::new())));
            // Partitions are only ever added, so a broker that names fewer lags behind.
            if leaders.len() < same.announced && !same.is_doubted {
                return TopicState { is_doubted: true, ..same };
            }
            same.is_doubted = false;
            if let Ok(partitions) = &mut same.partitions {
                if same.announced != leaders.len() {
                    (same.moved_at, same.is_touched) = (Instant::now(), true);
                }
                same.announced = leaders.len();
                let kept = if leaders.len() > most { 0 } else { leaders.len() };
                partitions.resize(kept, PartitionState::default());
                for (partition, leader) in partitions.iter_mut().zip(leaders) {
                    partition.leader = *leader;
                }
            }
            same
        }
        Err(failure) => {
            let is_missing = is_missing(failure);
            match known {
                Some(known) if known.is_doubted || known.is_missing() || !is_missing => {
                    state(name, None, Err(Some(failure.clone())))
                }
                Some(known) => TopicState { is_doubted: true, ..known },
                None if is_missing => {
                    TopicState { is_doubted: true, ..state(name, None, Err(None)) }
                }
                None => state(name, None, Err(Some(failure.clone()))),
            }
        }
    }
}

/// Whether a failure says that a topic does not exist.
fn is_missing(failure: &Failure) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(failure.code, Code::UnknownTopicOrPartition | Code::UnknownTopic)
}

/// Takes log starts in.
pub fn take_starts(
    topics: &mut BTreeMap<String, TopicState>,
    offsets: &[PartitionOffset],
    now: Instant,
) {
    for offset in offsets {
        let Some(topic) = topics.get_mut(&offset.topic) else { continue };
        topic.is_touched = true;
        if let Some(partition) = topic.partition(offset.partition) {
            partition.start_at = Some(now);
            partition.start = offset.offset.or(partition.start);
        }
    }
}

/// Takes ends in that were read at `now`.
pub fn take_ends(
    topics: &mut BTreeMap<String, TopicState>,
    offsets: Vec<PartitionOffset>,
    committed: bool,
    now: Millis,
    instant: Instant,
) {
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
    now: Instant,
) -> BTreeMap<i32, LeaderQueries> {
    let mut leaders: BTreeMap<i32, LeaderQueries> = BTreeMap::new();
    for (name, need) in needs {
        let Some(topic) = topics.get(name) else { continue };
        let due = topic.due(need, now);
        for (number, partition) in topic.partitions() {
            let starts = partition.start.is_none()
                || partition
                    .start_at
                    .is_none_or(|at| now.duration_since(at) >= due.starts_older_than);
            if !(starts || due.committed_ends || due.ends) {
                continue;
            }
            let queries = leaders.entry(partition.leader).or_default();
            for (list, is_due) in [
                (&mut queries.starts, starts),
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn answer(leaders: &[i32]) -> answers::Topic {
        let described = Ok(("id".to_owned(), leaders.to_vec()));
        answers::Topic { name: "orders".to_owned(), described }
    }

    fn missing() -> answers::Topic {
        let failure = Failure { code: RDKafkaErrorCode::UnknownTopic, words: String::new() };
        answers::Topic { name: "orders".to_owned(), described: Err(failure) }
    }

    fn topics(leaders: &[i32]) -> BTreeMap<String, TopicState> {
        BTreeMap::from([("orders".to_owned(), described(None, &answer(leaders), 10))])
    }

    fn offsets(partitions: impl IntoIterator<Item = i32>, at: i64) -> Vec<PartitionOffset> {
        let offset = |partition| PartitionOffset {
            topic: "orders".to_owned(),
            partition,
            offset: Some(at),
            metadata: None,
            is_metadata_too_large: false,
            failure: None,
        };
        partitions.into_iter().map(offset).collect()
    }

    /// What is asked of broker 1 now, for a follower that looks at the topic as the reader does.
    fn asked(topics: &BTreeMap<String, TopicState>, now: Instant) -> LeaderQueries {
        let mut need = Need::default();
        need.add(false, topics["orders"].is_active(now));
        queries(topics, BTreeMap::from([("orders", need)]), now).remove(&1).unwrap_or_default()
    }

    #[test]
    fn ends_that_have_not_moved_for_five_minutes_are_read_every_five_seconds_until_one_moves() {
        let mut topics = topics(&[1, 1]);
        let begin = Instant::now();
        let seconds_with_ends =
            |topics: &mut BTreeMap<_, _>, seconds: std::ops::Range<u32>, end| {
                let read = |second: &u32| {
                    let now = begin + *second * SECOND;
                    let ends = asked(topics, now).ends;
                    take_ends(topics, offsets(ends.iter().map(|(_, n)| *n), end), false, 0, now);
                    !ends.is_empty()
                };
                seconds.filter(read).collect::<Vec<_>>()
            };
        assert_eq!(seconds_with_ends(&mut topics, 0..300, 7).len(), 300, "every second at first");
        let idle = seconds_with_ends(&mut topics, 301..331, 7);
        assert_eq!(idle, [304, 309, 314, 319, 324, 329]);
        // A record arrives, and is seen by the next reading of the ends.
        assert_eq!(seconds_with_ends(&mut topics, 331..335, 8), [334]);
        assert_eq!(seconds_with_ends(&mut topics, 335..345, 8).len(), 10, "every second again");
    }

    #[test]
    fn a_start_that_is_read_for_an_expired_group_leaves_the_others_as_due_as_they_were() {
        let mut topics = topics(&[1, 1, 1]);
        let begin = Instant::now();
        take_starts(&mut topics, &offsets(0..3, 0), begin);
        assert_eq!(asked(&topics, begin + SECOND).starts, []);
        let mut seconds = Vec::new();
        for second in 1..=30_u32 {
            let now = begin + second * SECOND;
            let starts = asked(&topics, now).starts;
            if starts.iter().any(|(_, number)| *number == 1) {
                seconds.push(second);
            }
            take_starts(&mut topics, &offsets(starts.into_iter().map(|(_, n)| n), 0), now);
            // The reader asks for that of partition 0 every five seconds.
            if second % 5 == 0 {
                take_starts(&mut topics, &offsets([0], 0), now);
            }
        }
        assert_eq!(seconds, [10, 20, 30]);
    }

    #[test]
    fn of_a_topic_with_too_many_partitions_only_their_number_is_kept() {
        let mut topic = described(None, &answer(&[1; 11]), 10);
        assert_eq!((topic.count(), topic.partitions().count()), (Some(11), 0));
        for _ in 0..2 {
            topic = described(Some(topic), &answer(&[1; 10]), 10);
        }
        assert_eq!((topic.count(), topic.partitions().count()), (Some(10), 10));
        topic.drop_partitions();
        assert_eq!((topic.count(), topic.partitions().count()), (Some(10), 0));
        topic = described(Some(topic), &answer(&[1; 10]), 10);
        assert_eq!(topic.partitions().count(), 10, "it may be read by now");
    }

    #[test]
    fn a_topic_is_missing_when_two_answers_have_said_so() {
        let known = described(None, &answer(&[1]), 10);
        let once = described(Some(known), &missing(), 10);
        assert!(once.is_doubted() && once.is_to_be_described_again());
        assert_eq!(once.count(), Some(1), "what is known stays");
        let back = described(Some(once.clone()), &answer(&[1]), 10);
        assert!(!back.is_doubted() && !back.is_to_be_described_again());
        let twice = described(Some(once), &missing(), 10);
        assert_eq!(twice.partitions.unwrap_err().unwrap().code, RDKafkaErrorCode::UnknownTopic);
    }

    #[test]
    fn fewer_partitions_are_believed_when_two_answers_have_said_so() {
        let known = described(None, &answer(&[1; 4]), 10);
        let once = described(Some(known), &answer(&[1; 3]), 10);
        assert!(once.is_to_be_described_again(), "a broker that lags behind knows fewer");
        assert_eq!((once.count(), once.partitions().count()), (Some(4), 4));
        let back = described(Some(once.clone()), &answer(&[1; 4]), 10);
        assert!(!back.is_to_be_described_again() && back.count() == Some(4));
        let twice = described(Some(once), &answer(&[1; 3]), 10);
        assert_eq!((twice.count(), twice.partitions().count()), (Some(3), 3));
        assert!(!twice.is_to_be_described_again());
        let more = described(Some(twice), &answer(&[1; 5]), 10);
        assert_eq!(more.count(), Some(5), "more are believed at once");
    }

    #[test]
    fn one_answer_does_not_make_a_topic_missing_that_was_never_described() {
        let once = described(None, &missing(), 10);
        assert!(once.is_doubted() && once.is_to_be_described_again());
        assert_eq!(once.partitions, Err(None), "there is nothing to say yet");
        let twice = described(Some(once), &missing(), 10);
        assert!(twice.partitions.unwrap_err().is_some());
    }

    #[test]
    fn another_error_of_a_topic_is_said_at_once() {
        let failure =
            Failure { code: RDKafkaErrorCode::TopicAuthorizationFailed, words: String::new() };
        let refused = answers::Topic { name: "orders".to_owned(), described: Err(failure) };
        assert!(described(None, &refused, 10).partitions.unwrap_err().is_some());
    }
}
