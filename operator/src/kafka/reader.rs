//! The thread that reads one Kafka cluster: it asks, takes the answers in, and publishes what is known.
//!
//! It reads in rounds. A round asks every broker at once for all that is due, waits until all have answered or its
//! patience is over, and publishes. A broker that is slow holds up nothing but its own partitions: what it has not yet
//! answered is not asked again, is taken in when it comes, and is unknown when it failed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Weak, mpsc},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rdkafka::types::RDKafkaErrorCode;
use sluice_crds::{conditions::reason, kafkaconsumer::kafka::GroupProtocol};

use super::{
    admin::{Admin, Answer, Failure, OffsetSpec},
    brokers::{Brokers, Search},
    following::{Command, Commit, Following},
    pace::Pace,
    requests::{Question, Requests},
    round::{self, GroupState, TopicState},
};
use crate::kafka::port::ReadError;

/// What a request may take.
const REQUEST: Duration = Duration::from_secs(3);
/// librdkafka ends a request by then, whatever happens; one that it has forgotten is asked again.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Who the brokers are is asked again at most this often.
const BROKERS: Duration = Duration::from_secs(5);
/// Topics, log starts and quiet groups are read this often.
const SLOW_REFRESH: Duration = Duration::from_secs(10);
/// Topics of which something is not known, or of which a leader does not answer, are described this often.
const TOPIC_RETRY: Duration = Duration::from_secs(2);
/// Commands are looked for this often while answers are awaited.
const COMMAND_POLL: Duration = Duration::from_millis(20);
/// The setting that tells what `protocol: Auto` means.
const HEARTBEAT: &str = "group.consumer.heartbeat.interval.ms";

/// What is asked of one leader.
#[derive(Default)]
struct LeaderQueries {
    starts: Vec<(Arc<str>, i32)>,
    committed_ends: Vec<(Arc<str>, i32)>,
    ends: Vec<(Arc<str>, i32)>,
}

/// What the thread was woken by.
enum Wakeup {
    Command(Command),
    Answer(u64, Result<Answer, Failure>),
    Time,
    Dropped,
}

/// The state of the thread.
pub struct Reader {
    addresses: String,
    admin: Admin,
    inbox: mpsc::Receiver<Command>,
    groups: Vec<Weak<Following>>,
    topics: BTreeMap<String, TopicState>,
    states: HashMap<u64, GroupState>,
    cluster_id: Option<String>,
    protocol: Option<GroupProtocol>,
    requests: Requests,
    /// When the round began that is not published yet.
    round: Option<Instant>,
    next: Instant,
    pace: Pace,
    brokers: Brokers,
    brokers_at: Option<Instant>,
    /// Who is asked for topics.
    metadata_broker: Search,
    topics_at: Option<Instant>,
    /// Why the topics could not be described the last time.
    topics_failed: Option<Failure>,
    starts_at: Option<Instant>,
    /// A leader did not answer: another may lead by now.
    leader_failed: bool,
    /// All that are known were asked for something, and none does it.
    brokers_wanted: bool,
}

impl Reader {
    /// Reads until the other end of `inbox` is dropped.
    pub(super) fn run(addresses: String, group: &str, inbox: mpsc::Receiver<Command>) {
        let admin = match Admin::new(&addresses, group) {
            Ok(admin) => admin,
            Err(error) => return refuse(&addresses, &error.to_string(), &inbox),
        };
        let now = Instant::now();
        let reader = Self {
            addresses,
            admin,
            inbox,
            groups: Vec::new(),
            topics: BTreeMap::new(),
            states: HashMap::new(),
            cluster_id: None,
            protocol: None,
            requests: Requests::default(),
            round: None,
            next: now,
            pace: Pace::default(),
            brokers: Brokers::default(),
            brokers_at: None,
            metadata_broker: Search::default(),
            topics_at: None,
            topics_failed: None,
            starts_at: None,
            leader_failed: false,
            brokers_wanted: false,
        };
        reader.read();
    }

    fn read(mut self) {
        loop {
            let now = Instant::now();
            if self.round.is_none() && now >= self.next {
                self.begin(now);
            }
            let until = match self.round {
                None => self.next,
                Some(begun) => {
                    let patience = begun + self.pace.patience();
                    if now >= patience || !self.requests.awaits_an_answer() {
                        self.end();
                        continue;
                    }
                    patience
                }
            };
            match self.wait(until) {
                Wakeup::Command(Command::Follow(group)) => {
                    self.groups.push(group);
                    self.topics_at = None;
                    // It should not wait for a whole interval, and several that come at once share the round.
                    self.next = self.next.min(now + Duration::from_millis(50));
                }
                Wakeup::Command(Command::Commit(commit)) => self.commit(commit),
                Wakeup::Answer(tag, answer) => self.answered(tag, answer),
                Wakeup::Time => {}
                Wakeup::Dropped => return,
            }
        }
    }

    /// Waits for an answer or a command until `until`.
    fn wait(&self, until: Instant) -> Wakeup {
        let left = until.saturating_duration_since(Instant::now());
        if self.requests.is_empty() {
            return match self.inbox.recv_timeout(left) {
                Ok(command) => Wakeup::Command(command),
                Err(mpsc::RecvTimeoutError::Timeout) => Wakeup::Time,
                Err(mpsc::RecvTimeoutError::Disconnected) => Wakeup::Dropped,
            };
        }
        match self.inbox.try_recv() {
            Ok(command) => Wakeup::Command(command),
            Err(mpsc::TryRecvError::Disconnected) => Wakeup::Dropped,
            Err(mpsc::TryRecvError::Empty) => {
                match self.admin.poll(HEARTBEAT, left.min(COMMAND_POLL)) {
                    Some((tag, answer)) => Wakeup::Answer(tag, answer),
                    None => Wakeup::Time,
                }
            }
        }
    }

    /// Begins a round: asks for what is due.
    fn begin(&mut self, now: Instant) {
        self.round = Some(now);
        self.next = now + self.pace.interval();
        self.requests.begin_round(FORGOTTEN);
        self.admin.serve();
        self.groups.retain(|group| group.strong_count() > 0);
        let groups = self.followed();
        let present: HashSet<u64> = groups.iter().map(|group| group.id()).collect();
        self.states.retain(|group, _| present.contains(group));
        let wanted: BTreeSet<&str> =
            groups.iter().flat_map(|g| g.what().topics.iter().map(String::as_str)).collect();
        self.topics.retain(|name, _| wanted.contains(name.as_str()));
        if groups.is_empty() {
            return;
        }
        self.cluster_id = self.cluster_id.take().or_else(|| self.admin.cluster_id());
        self.find_brokers();
        let Some(metadata_broker) = self.metadata_broker.broker(&self.brokers) else { return };
        let unknown = wanted
            .iter()
            .any(|name| self.topics.get(*name).is_none_or(|topic| topic.partitions.is_err()));
        let often = if unknown || self.leader_failed { TOPIC_RETRY } else { SLOW_REFRESH };
        if self.topics_at.is_none_or(|at| at.elapsed() >= often) {
            let names: Vec<&str> = wanted.iter().copied().collect();
            self.ask(Question::Topics, |admin, tag| {
                admin.describe_topics(&names, metadata_broker, tag, REQUEST)
            });
        }
        if self.protocol.is_none() {
            self.ask(Question::Setting, |admin, tag| {
                admin.broker_settings(metadata_broker, tag, REQUEST)
            });
        }
        self.ask_what_is_known(&groups);
    }

    /// Asks who the brokers are, where that is not known or nobody of them does what is asked for.
    fn find_brokers(&mut self) {
        let due = self.brokers.count() == 0
            || self.brokers_wanted && self.brokers_at.is_none_or(|at| at.elapsed() >= BROKERS);
        if !due {
            return;
        }
        let found = self.admin.brokers(self.pace.patience());
        (self.brokers_at, self.brokers_wanted) = (Some(Instant::now()), false);
        if !found.is_empty() {
            self.brokers = Brokers::default();
            self.brokers.add(found);
        } else if self.brokers.count() == 0 {
            self.topics_failed = Some(self.no_connection());
        }
    }

    /// Why there is nobody to ask.
    fn no_connection(&self) -> Failure {
        let words = self
            .admin
            .connection_error()
            .unwrap_or_else(|| "there is no connection yet".to_owned());
        Failure { code: RDKafkaErrorCode::AllBrokersDown, words }
    }

    /// Asks for all of the partitions that are known, as far as that is due and was not asked in this round.
    fn ask_what_is_known(&mut self, groups: &[Arc<Following>]) {
        let below_start = self.states.values().any(|state| state.has_expired_offset);
        let starts_due =
            below_start || self.starts_at.is_none_or(|at| at.elapsed() >= SLOW_REFRESH);
        let topics_of = |committed| -> HashSet<&str> {
            let those = groups.iter().filter(|group| group.committed_only() == committed);
            those.flat_map(|group| group.what().topics.iter().map(String::as_str)).collect()
        };
        let (committed, uncommitted) = (topics_of(true), topics_of(false));
        let mut leaders: BTreeMap<i32, LeaderQueries> = BTreeMap::new();
        for (name, topic) in &self.topics {
            let (committed, uncommitted) =
                (committed.contains(name.as_str()), uncommitted.contains(name.as_str()));
            for (number, leader, has_start) in topic.partitions() {
                let led = leaders.entry(leader).or_default();
                let lists = [
                    (&mut led.starts, starts_due || !has_start),
                    (&mut led.committed_ends, committed),
                    (&mut led.ends, uncommitted),
                ];
                for (list, _) in lists.into_iter().filter(|(_, wanted)| *wanted) {
                    list.push((Arc::clone(topic.name()), number));
                }
            }
        }
        if leaders.is_empty() {
            return;
        }
        if starts_due {
            self.starts_at = Some(Instant::now());
        }
        for (leader, LeaderQueries { starts, committed_ends, ends }) in leaders {
            let (before, after) =
                (OffsetSpec::End { committed: true }, OffsetSpec::End { committed: false });
            for (question, which, partitions) in [
                (Question::Starts { leader }, OffsetSpec::Start, starts),
                (Question::Ends { leader, committed: true }, before, committed_ends),
                (Question::Ends { leader, committed: false }, after, ends),
            ] {
                let list: Vec<(&str, i32)> =
                    partitions.iter().map(|(topic, number)| (&**topic, *number)).collect();
                if !list.is_empty() {
                    self.ask(question, |admin, tag| admin.list_offsets(&list, which, tag, REQUEST));
                }
            }
        }
        for following in groups {
            self.ask_of_group(following);
        }
    }

    /// Asks for a group's offsets and members, as far as that is due and was not asked in this round.
    fn ask_of_group(&mut self, following: &Following) {
        let (group, what) = (following.id(), following.what());
        let state = self.states.entry(group).or_default();
        let (offsets_due, members_due) =
            (state.is_due(SLOW_REFRESH), state.members_are_due() && following.members_wanted());
        let Some(broker) = state.coordinator.broker(&self.brokers) else { return };
        if offsets_due {
            let known = what.topics.iter().filter_map(|name| self.topics.get(name));
            let all = known.flat_map(|topic| {
                topic.partitions().map(|(number, ..)| (Arc::clone(topic.name()), number))
            });
            let all: Vec<_> = all.collect();
            let list: Vec<(&str, i32)> =
                all.iter().map(|(topic, number)| (&**topic, *number)).collect();
            if !list.is_empty() {
                let question = Question::Offsets { group, broker };
                self.ask(question, |admin, tag| {
                    admin.group_offsets(&what.group_id, &list, broker, tag, REQUEST)
                });
            }
        }
        if members_due {
            let question = Question::Members { group };
            self.ask(question, |admin, tag| {
                admin.describe_group(&what.group_id, broker, tag, REQUEST)
            });
        }
    }

    /// Sends a request, unless this round has asked it, or an earlier one and there is no answer yet.
    fn ask(&mut self, question: Question, send: impl FnOnce(&Admin, u64)) {
        if let Some(tag) = self.requests.ask(question) {
            send(&self.admin, tag);
        }
    }

    /// Ends a round: says what is known.
    fn end(&mut self) {
        self.round = None;
        for following in self.followed() {
            self.publish(&following);
        }
        let before = self.pace.interval();
        match self.pace.end_of_round() {
            Some(interval) if interval > before => {
                tracing::warn!(addresses = %self.addresses, ?interval, "reading this Kafka cluster takes long: it is read less often");
            }
            Some(interval) => {
                tracing::info!(addresses = %self.addresses, ?interval, "this Kafka cluster is read more often again");
            }
            None => {}
        }
    }

    fn followed(&self) -> Vec<Arc<Following>> {
        self.groups.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes an answer in.
    fn answered(&mut self, tag: u64, answer: Result<Answer, Failure>) {
        let Some(open) = self.requests.answered(tag) else { return };
        let now = Timestamp::now().as_millisecond();
        if answer.is_ok() && self.requests.is_of_this_round(&open) {
            self.pace.answered(open.asked.elapsed());
        }
        match (open.question, answer) {
            (Question::Commit { group }, answer) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.was_changed();
                }
                // What was committed is to be seen at once.
                self.next = Instant::now();
                if let Some(waiting) = open.waiting {
                    let _ = waiting.send(self.committed(answer));
                }
            }
            (Question::Topics, Ok(Answer::Topics(topics))) => {
                (self.topics_at, self.topics_failed, self.leader_failed) =
                    (Some(Instant::now()), None, false);
                self.metadata_broker.again();
                for topic in topics {
                    if let Ok((_, leaders)) = &topic.described {
                        self.brokers.add(leaders.iter().copied());
                    }
                    let known = self.topics.remove(&topic.name);
                    self.topics.insert(topic.name.clone(), round::described(known, &topic));
                }
                if self.round.is_some() {
                    self.ask_what_is_known(&self.followed());
                }
            }
            (Question::Topics, Err(failure)) => {
                if let Some(asked) = self.metadata_broker.broker(&self.brokers)
                    && !self.metadata_broker.refused(asked, &self.brokers)
                {
                    self.metadata_broker.again();
                    self.brokers_wanted = true;
                }
                self.topics_failed = Some(failure);
            }
            (Question::Setting, Ok(Answer::Setting(value))) => {
                self.protocol = Some(round::protocol(value.as_deref()))
            }
            // A broker may refuse to show its settings; `Auto` is then the classic protocol, which every broker has.
            (Question::Setting, Err(failure)) if !round::is_transport(&failure) => {
                self.protocol = Some(GroupProtocol::Classic);
            }
            (Question::Starts { .. }, Ok(Answer::Offsets(offsets))) => {
                round::take_starts(&mut self.topics, &offsets)
            }
            (Question::Ends { committed, .. }, Ok(Answer::Offsets(offsets))) => {
                self.leader_failed |= offsets.iter().any(|offset| offset.offset.is_none());
                round::take_ends(&mut self.topics, offsets, committed, now);
            }
            (Question::Ends { leader, committed }, Err(failure)) => {
                tracing::debug!(addresses = %self.addresses, leader, %failure, "a leader does not tell its ends");
                round::fail_ends(&mut self.topics, leader, committed, &failure);
                self.leader_failed = true;
            }
            (Question::Offsets { group, broker }, Ok(Answer::Offsets(offsets))) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.coordinator.found(broker);
                    state.take_offsets(offsets, open.asked, now);
                }
            }
            (Question::Offsets { group, broker }, Err(failure)) => {
                self.offsets_failed(group, broker, &failure)
            }
            (Question::Members { group }, Ok(Answer::Group(description))) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.take_members(description, now);
                }
            }
            (question, Err(failure)) => {
                tracing::debug!(addresses = %self.addresses, ?question, %failure, "a request to Kafka failed");
                if let Question::Members { group } = question
                    && let Some(state) = self.states.get_mut(&group)
                {
                    // Another broker may coordinate it by now: the offsets find that out.
                    state.read_at = None;
                }
            }
            (question, Ok(answer)) => {
                tracing::error!(addresses = %self.addresses, ?question, ?answer, "an answer to another question");
            }
        }
    }

    /// A broker did not tell a group's offsets: another one is asked, and all around there is a reason to tell.
    fn offsets_failed(&mut self, group: u64, broker: i32, failure: &Failure) {
        let Some(state) = self.states.get_mut(&group) else { return };
        tracing::debug!(addresses = %self.addresses, broker, %failure, "a broker does not tell a group's offsets");
        let is_another = failure.code == RDKafkaErrorCode::NotCoordinator;
        let more = state.coordinator.refused(broker, &self.brokers);
        if !more {
            state.coordinator.again();
            self.brokers_wanted = true;
        }
        if !is_another || !more && state.failed.is_none() {
            state.failed = Some(round::offsets_error(&self.addresses, failure));
        }
        let mut followed = self.groups.iter().filter_map(Weak::upgrade);
        if is_another
            && more
            && self.round.is_some()
            && let Some(following) = followed.find(|following| following.id() == group)
        {
            self.ask_of_group(&following);
        }
    }

    fn publish(&mut self, following: &Following) {
        let state = self.states.entry(following.id()).or_default();
        let topics = &following.what().topics;
        let (snapshot, error) = round::snapshot(
            &self.addresses,
            topics,
            &self.topics,
            state,
            following.committed_only(),
        );
        let unknown = || topics.iter().any(|name| !self.topics.contains_key(name));
        let undescribed = self.topics_failed.as_ref().filter(|_| unknown());
        let error = error
            .or_else(|| undescribed.map(|failure| round::read_error(&self.addresses, failure)));
        let error = error.map(|error| match self.admin.connection_error() {
            Some(words) if error.reason == reason::UNREACHABLE => {
                round::unreachable(&self.addresses, &words)
            }
            _ => error,
        });
        let (now, interval) = (Timestamp::now().as_millisecond(), self.pace.interval());
        following.publish(|reading| {
            // An older one is still what is known; it says itself how old it is.
            reading.snapshot = snapshot.map(Arc::new).or_else(|| reading.snapshot.take());
            reading.error = error;
            reading.read_at = Some(now);
            reading.interval = Some(interval);
            reading.cluster_id.clone_from(&self.cluster_id);
            reading.protocol = self.protocol;
            reading.topic_ids = topics
                .iter()
                .filter_map(|name| Some((name.clone(), self.topics.get(name)?.id.clone()?)))
                .collect();
        });
    }

    fn commit(&mut self, commit: Commit) {
        let list: Vec<(&str, i32, i64)> =
            commit.offsets.iter().map(|(id, offset)| (&*id.topic, id.partition, *offset)).collect();
        let group = &commit.following.what().group_id;
        let state = self.states.entry(commit.following.id()).or_default();
        let Some(broker) = state.coordinator.broker(&self.brokers) else {
            let _ =
                commit.answer.send(Err(round::read_error(&self.addresses, &self.no_connection())));
            return;
        };
        let tag = self.requests.commit(commit.following.id(), commit.answer);
        self.admin.alter_group_offsets(group, &list, broker, tag, REQUEST);
    }

    fn committed(&self, answer: Result<Answer, Failure>) -> Result<(), ReadError> {
        let failure = match answer {
            Ok(Answer::Offsets(done)) => done.into_iter().find_map(|offset| offset.failure),
            Ok(_) => Some(Failure {
                code: RDKafkaErrorCode::Unknown,
                words: "an answer to something else".to_owned(),
            }),
            Err(failure) => Some(failure),
        };
        failure.map_or(Ok(()), |failure| Err(round::read_error(&self.addresses, &failure)))
    }
}

/// librdkafka did not take the addresses: every group is told, until there are other ones.
fn refuse(addresses: &str, words: &str, inbox: &mpsc::Receiver<Command>) {
    while let Ok(command) = inbox.recv() {
        let error = ReadError {
            reason: reason::UNREACHABLE,
            message: format!("{addresses} cannot be used: {words}"),
        };
        match command {
            Command::Follow(group) => {
                if let Some(following) = group.upgrade() {
                    following.publish(|reading| reading.error = Some(error));
                }
            }
            Command::Commit(commit) => {
                let _ = commit.answer.send(Err(error));
            }
        }
    }
}
