//! Reading one Kafka cluster: it asks, takes the answers in, and publishes what is known.
//!
//! It reads in rounds. A round asks every broker at once for all that is due, waits until all have answered or its
//! patience is over, and publishes. A broker that is slow holds up nothing but its own partitions: what it has not yet
//! answered is not asked again, is taken in when it comes, and is unknown when it failed. Nothing here waits for a broker
//! in any other way.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Weak, mpsc},
    time::{Duration, Instant},
};

use rdkafka::types::RDKafkaErrorCode;
use sluice_crds::kafkaconsumer::kafka::GroupProtocol;

use super::{
    Limits,
    admin::Admin,
    answers::{Answer, Failure, OffsetSpec, Topic},
    brokers::{BrokerSearchPace, Brokers, Search},
    client, errors,
    following::{Command, Commit, Following},
    pace::Pace,
    port::ReadError,
    pulse::{self, Pulse},
    requests::{PartitionList, Question, Requests},
    round::{self, GroupState},
    topics::{self, LeaderQueries, TopicState},
};
use crate::clock;

mod publishing;

/// What a request may take.
const REQUEST: Duration = Duration::from_secs(3);
/// librdkafka ends a request by then, whatever happens; one that it has forgotten is asked again.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// Topics and quiet groups are read this often.
const SLOW_REFRESH: Duration = Duration::from_secs(10);
/// Topics of which something is not known, or of which a leader does not answer, are described this often.
const TOPIC_RETRY: Duration = Duration::from_secs(2);
/// Commands, and the client's bounds, are looked at this often while something is awaited.
const COMMAND_POLL: Duration = Duration::from_millis(20);
/// The same, where nobody answers.
const SILENT_POLL: Duration = Duration::from_millis(500);
/// The most partitions of a request for committed offsets: the answer with 4 KiB of metadata for
/// each has to fit into the largest that is accepted.
const PARTITIONS_OF_A_REQUEST: usize = 500;
/// The most partitions of a request for ends or starts. librdkafka merges the answers of such a
/// call by comparing each with all that were asked for (`rd_kafka_ListOffsets_response_merge`): at
/// some 20 ns for a comparison and 0.1 ms for a call, calls of about 100 cost least.
const PARTITIONS_OF_A_LIST: usize = 100;
/// The most partitions that one description should have, and for how many a topic counts that is not known yet.
const PARTITIONS_OF_A_DESCRIPTION: usize = 40_000;
const PARTITIONS_OF_A_NEW_TOPIC: usize = 400;
/// The setting that tells what `protocol: Auto` means.
const HEARTBEAT: &str = "group.consumer.heartbeat.interval.ms";

/// What the thread was woken by.
enum Wakeup {
    Command(Command),
    Answer(u64, Result<Answer, Failure>),
    Time,
    Dropped,
}

/// Why a reader ended.
pub(super) enum End {
    /// Nobody follows the cluster any more, or another thread reads it.
    Dropped,
    /// Its brokers announced too many others.
    TooManyBrokers,
}

/// The state of the thread.
pub(super) struct Reader<'a> {
    addresses: &'a str,
    limits: &'a Limits,
    pulse: &'a Pulse,
    inbox: &'a mpsc::Receiver<Command>,
    admin: Admin,
    pub(super) groups: Vec<Weak<Following>>,
    topics: BTreeMap<String, TopicState>,
    states: HashMap<u64, GroupState>,
    cluster_id: Option<String>,
    protocol: Option<GroupProtocol>,
    requests: Requests,
    started: Instant,
    /// When the round began that is not published yet.
    round: Option<Instant>,
    next: Instant,
    pace: Pace,
    brokers: Brokers,
    broker_search: BrokerSearchPace,
    /// Who is asked for topics, settings and brokers.
    metadata_broker: Search,
    topics_at: Option<Instant>,
    /// Why the topics could not be described the last time.
    topics_failed: Option<Failure>,
    /// A leader did not answer: another may lead by now.
    leader_failed: bool,
}

impl<'a> Reader<'a> {
    /// Of the groups that are followed already.
    pub(super) fn new(
        addresses: &'a str,
        admin: Admin,
        inbox: &'a mpsc::Receiver<Command>,
        limits: &'a Limits,
        pulse: &'a Pulse,
    ) -> Self {
        let now = Instant::now();
        Self {
            addresses,
            limits,
            pulse,
            inbox,
            admin,
            groups: Vec::new(),
            topics: BTreeMap::new(),
            states: HashMap::new(),
            cluster_id: None,
            protocol: None,
            requests: Requests::default(),
            started: now,
            round: None,
            next: now,
            pace: Pace::default(),
            brokers: Brokers::default(),
            broker_search: BrokerSearchPace::default(),
            metadata_broker: Search::default(),
            topics_at: None,
            topics_failed: None,
            leader_failed: false,
        }
    }

    /// Reads until it ends.
    pub(super) fn read(&mut self) -> End {
        loop {
            if !self.pulse.beat() {
                return End::Dropped;
            }
            if self.admin.client().has_too_many_brokers() {
                return End::TooManyBrokers;
            }
            let now = Instant::now();
            self.meet_brokers(now);
            if self.round.is_none() && now >= self.next {
                self.begin(now);
            }
            let until = match self.round {
                None => self.next,
                Some(begun) => {
                    let patience = begun + self.pace.patience();
                    if now >= patience || !self.requests.awaits_an_answer() {
                        self.end(begun);
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
                Wakeup::Dropped => return End::Dropped,
            }
        }
    }

    /// Waits for an answer or a command until `until`.
    fn wait(&self, until: Instant) -> Wakeup {
        let left = until.saturating_duration_since(Instant::now());
        if self.requests.is_empty() {
            // librdkafka learns of the first brokers by itself; the round that waits for them should begin at once.
            let is_starting = self.started.elapsed() < TOPIC_RETRY;
            let poll = match self.brokers.count() {
                0 if is_starting => COMMAND_POLL,
                _ => SILENT_POLL,
            };
            return match self.inbox.recv_timeout(left.min(poll)) {
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

    /// Takes the first brokers that librdkafka has learnt of.
    fn meet_brokers(&mut self, now: Instant) {
        if self.brokers.count() == 0 && self.round.is_none() {
            self.brokers.add(self.admin.client().announced());
            if self.brokers.count() > 0 {
                self.next = now;
            }
        }
    }

    /// Begins a round: asks for what is due.
    fn begin(&mut self, now: Instant) {
        self.round = Some(now);
        self.next = now + self.pace.interval();
        self.requests.begin_round(FORGOTTEN);
        self.admin.client().serve();
        let groups = self.followed();
        if groups.len() < self.groups.len() {
            self.groups.retain(|group| group.strong_count() > 0);
            let present: HashSet<u64> = groups.iter().map(|group| group.id()).collect();
            self.states.retain(|group, _| present.contains(group));
        }
        let wanted: HashSet<&str> =
            groups.iter().flat_map(|g| g.what().topics.iter().map(|name| &**name)).collect();
        self.topics.retain(|name, _| wanted.contains(name.as_str()));
        if groups.is_empty() {
            return;
        }
        self.cluster_id = self.cluster_id.take().or_else(|| self.admin.cluster_id());
        let Some(broker) = self.metadata_broker.broker(&self.brokers) else {
            self.admin.look_for_brokers();
            // At the start it takes a moment until somebody answers; until then nothing has gone wrong.
            let has_failed = self.admin.client().connection_error().is_some();
            if has_failed || self.started.elapsed() >= TOPIC_RETRY {
                self.topics_failed = Some(self.no_connection());
            }
            return;
        };
        if self.broker_search.is_due(now) {
            self.ask(Question::Brokers, PartitionList::new(), |admin, _, tag| {
                admin.describe_cluster(broker, tag, REQUEST);
            });
        }
        let is_unknown = wanted
            .iter()
            .any(|name| self.topics.get(*name).is_none_or(TopicState::is_to_be_described_again));
        let often = if is_unknown || self.leader_failed { TOPIC_RETRY } else { SLOW_REFRESH };
        if self.topics_at.is_none_or(|at| at.elapsed() >= often) {
            self.describe(wanted.into_iter().collect(), broker);
        }
        if self.protocol.is_none() {
            self.ask(Question::Setting, PartitionList::new(), |admin, _, tag| {
                admin.broker_settings(broker, tag, REQUEST);
            });
        }
        self.ask_what_is_known(&groups);
    }

    /// Asks for ids and leaders of topics, in descriptions of a bounded size.
    fn describe(&mut self, mut names: Vec<&str>, broker: i32) {
        names.sort_unstable();
        let mut chunks: Vec<(usize, Vec<String>)> = Vec::new();
        for name in names {
            let count = self.topics.get(name).and_then(TopicState::count);
            let count = count.unwrap_or(PARTITIONS_OF_A_NEW_TOPIC);
            match chunks.last_mut() {
                Some((sum, chunk)) if *sum + count <= PARTITIONS_OF_A_DESCRIPTION => {
                    *sum += count;
                    chunk.push(name.to_owned());
                }
                _ => chunks.push((count, vec![name.to_owned()])),
            }
        }
        for (chunk, (_, names)) in (0..).zip(chunks) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            self.ask(Question::Topics { chunk }, PartitionList::new(), |admin, _, tag| {
                admin.describe_topics(&names, broker, tag, REQUEST);
            });
        }
    }

    /// Why there is nobody to ask.
    fn no_connection(&self) -> Failure {
        let error = self.admin.client().connection_error();
        let cause = client::cause(error.as_ref(), self.cluster_id.is_some());
        Failure { code: RDKafkaErrorCode::AllBrokersDown, words: cause.to_string() }
    }

    /// Asks for all of the partitions that are known, as far as that is due and was not asked in this round.
    fn ask_what_is_known(&mut self, groups: &[Arc<Following>]) {
        let readable: Vec<&Arc<Following>> =
            groups.iter().filter(|group| self.excess(group).is_none()).collect();
        let now = Instant::now();
        let mut needs: BTreeMap<&str, topics::Need> = BTreeMap::new();
        for group in &readable {
            let topics = &group.what().topics;
            // The ends of a group's topics are of about one moment: one that is active keeps the others company.
            let mut known = topics.iter().filter_map(|name| self.topics.get(&**name));
            let is_active = known.any(|topic| topic.is_active(now));
            for name in topics {
                needs.entry(name).or_default().add(group.committed_only(), is_active);
            }
        }
        let mut leaders = topics::queries(&self.topics, needs, now);
        for group in &readable {
            let Some(state) = self.states.get_mut(&group.id()) else { continue };
            for (topic, number) in state.expired_that_are_due(now) {
                if let Some(leader) = self.topics.get(&*topic).and_then(|t| t.leader(number)) {
                    leaders.entry(leader).or_default().starts.push((topic, number));
                }
            }
        }
        for (leader, LeaderQueries { mut starts, committed_ends, ends }) in leaders {
            // Two expired groups may want the same one, and librdkafka takes no list with
            // duplicates.
            starts.sort_unstable();
            starts.dedup();
            let (before, after) =
                (OffsetSpec::End { committed: true }, OffsetSpec::End { committed: false });
            for (spec, all) in
                [(OffsetSpec::Start, starts), (before, committed_ends), (after, ends)]
            {
                for (chunk, partitions) in (0..).zip(all.chunks(PARTITIONS_OF_A_LIST)) {
                    let question = match spec {
                        OffsetSpec::Start => Question::Starts { leader, chunk },
                        OffsetSpec::End { committed } => {
                            Question::Ends { leader, committed, chunk }
                        }
                    };
                    self.ask(question, partitions.to_vec(), |admin, list, tag| {
                        admin.list_offsets(list, spec, tag, REQUEST);
                    });
                }
            }
        }
        for following in &readable {
            self.ask_of_group(following);
        }
    }

    /// What keeps a group from being read at all: more partitions than allowed.
    fn excess(&self, following: &Following) -> Option<ReadError> {
        let counts = following.what().topics.iter();
        let count = counts.filter_map(|name| self.topics.get(&**name)?.count()).sum();
        (count > self.limits.partitions).then(|| errors::too_many_partitions(count, self.limits))
    }

    /// Asks for a group's offsets and members, as far as that is due and was not asked in this round.
    fn ask_of_group(&mut self, following: &Following) {
        let (group, what) = (following.id(), following.what());
        let state = self.states.entry(group).or_default();
        let now = Instant::now();
        let offsets_due = state.is_due(group, now);
        let members_due = state.members_are_due(now) && following.members_wanted();
        let Some(broker) = state.coordinator.broker(&self.brokers) else { return };
        if offsets_due {
            let known = what.topics.iter().filter_map(|name| self.topics.get(&**name));
            let all: PartitionList = known
                .flat_map(|topic| {
                    topic.partitions().map(|(number, _)| (Arc::clone(topic.name()), number))
                })
                .collect();
            for (chunk, partitions) in (0..).zip(all.chunks(PARTITIONS_OF_A_REQUEST)) {
                let question = Question::Offsets { group, broker, chunk };
                self.ask(question, partitions.to_vec(), |admin, list, tag| {
                    admin.group_offsets(&what.group_id, list, broker, tag, REQUEST);
                });
            }
        }
        if members_due {
            self.ask(Question::Members { group }, PartitionList::new(), |admin, _, tag| {
                admin.describe_group(&what.group_id, broker, tag, REQUEST);
            });
        }
    }

    /// Sends a request, unless this round has asked it, or an earlier one and there is no answer yet.
    fn ask(
        &mut self,
        question: Question,
        partitions: PartitionList,
        send: impl FnOnce(&Admin, &[(Arc<str>, i32)], u64),
    ) {
        if let Some((tag, partitions)) = self.requests.ask(question, partitions) {
            send(&self.admin, partitions, tag);
        }
    }

    /// Ends a round: publishes what is known.
    fn end(&mut self, begun: Instant) {
        self.round = None;
        for following in self.followed() {
            self.publish(&following);
        }
        self.topics.values_mut().for_each(TopicState::was_published);
        let before = self.pace.interval();
        let changed = self.pace.end_of_round();
        self.pulse.round(begun.elapsed(), self.pace.interval());
        match changed {
            Some(interval) if interval > before => {
                let addresses = self.addresses;
                tracing::warn!(addresses, ?interval, "Kafka answers slowly: it is read less often");
            }
            Some(interval) => {
                tracing::info!(addresses = self.addresses, ?interval, "Kafka is read more often");
            }
            None => {}
        }
    }

    fn followed(&self) -> Vec<Arc<Following>> {
        self.groups.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes an answer in.
    fn answered(&mut self, tag: u64, answer: Result<Answer, Failure>) {
        let Some(request) = self.requests.answered(tag) else { return };
        let now = clock::now();
        match &answer {
            Ok(_) if self.requests.is_of_this_round(&request) => {
                self.pace.answered(request.asked.elapsed());
            }
            Ok(_) => {}
            Err(failure) => {
                pulse::request_failed();
                let question = request.question;
                let (addresses, words) = (self.addresses, client::one_line(&failure.words));
                tracing::debug!(addresses, ?question, words, "not answered");
            }
        }
        match (request.question, answer) {
            (Question::Commit { group }, answer) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.was_changed();
                }
                // What was committed is to be seen at once.
                self.next = Instant::now();
                if let Some(waiting) = request.waiting {
                    let _ = waiting.send(self.committed(answer));
                }
            }
            (Question::Topics { .. }, Ok(Answer::Topics(topics))) => self.take_topics(topics),
            (Question::Topics { .. }, Err(failure)) => {
                self.metadata_failed();
                self.topics_failed = Some(failure);
            }
            (Question::Brokers, Ok(Answer::Brokers(found))) => {
                self.broker_search.searched(Instant::now());
                if !found.is_empty() {
                    self.brokers = Brokers::default();
                    self.brokers.add(found);
                }
            }
            (Question::Brokers, Err(_)) => {
                self.broker_search.searched(Instant::now());
                // librdkafka may have learnt of others by itself.
                self.brokers.add(self.admin.client().announced());
                self.metadata_failed();
            }
            (Question::Setting, Ok(Answer::Setting(value))) => {
                self.protocol = Some(round::protocol(value.as_deref()));
            }
            // A broker may refuse to show its settings; `Auto` is then the classic protocol, which every broker has.
            (Question::Setting, Err(failure)) if !errors::is_transport(&failure) => {
                self.protocol = Some(GroupProtocol::Classic);
            }
            (Question::Starts { .. }, Ok(Answer::Offsets(offsets))) => {
                topics::take_starts(&mut self.topics, &offsets, Instant::now());
            }
            (Question::Ends { committed, .. }, Ok(Answer::Offsets(offsets))) => {
                self.leader_failed |= offsets.iter().any(|offset| offset.offset.is_none());
                topics::take_ends(&mut self.topics, offsets, committed, now, Instant::now());
            }
            (Question::Ends { committed, .. }, Err(failure)) => {
                topics::fail_ends(&mut self.topics, &request.partitions, committed, &failure);
                self.leader_failed = true;
            }
            (Question::Offsets { group, broker, .. }, Ok(Answer::Offsets(offsets))) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.coordinator.found(broker);
                    self.broker_search.found();
                    state.take_offsets(offsets, &request.partitions, request.asked, now);
                }
            }
            (Question::Offsets { group, broker, .. }, Err(failure)) => {
                self.offsets_failed(group, broker, &failure);
            }
            (Question::Members { group }, Ok(Answer::Group(description))) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.take_members(description, now);
                }
            }
            (Question::Members { group }, Err(failure)) => {
                if let Some(state) = self.states.get_mut(&group) {
                    state.members_not_read(&failure, Instant::now());
                }
            }
            (_, Err(_)) => {}
            (question, Ok(_)) => {
                tracing::error!(addresses = self.addresses, ?question, "an answer to another one");
            }
        }
    }

    fn take_topics(&mut self, topics: Vec<Topic>) {
        (self.topics_at, self.topics_failed, self.leader_failed) =
            (Some(Instant::now()), None, false);
        let broker = self.metadata_broker.broker(&self.brokers);
        let mut is_behind = false;
        for topic in topics {
            if let Ok((_, leaders)) = &topic.described {
                self.brokers.add(leaders.iter().copied());
            }
            let known = self.topics.remove(&topic.name);
            let state = topics::described(known, &topic, self.limits.partitions);
            is_behind |= state.is_doubted();
            self.topics.insert(topic.name.clone(), state);
        }
        self.drop_what_nobody_reads();
        if is_behind && let Some(broker) = broker {
            // It may have started just now: another one is to agree before what is known is dropped.
            self.metadata_broker.refused(broker, &self.brokers);
        }
        self.metadata_broker.again();
        if self.round.is_some() {
            self.ask_what_is_known(&self.followed());
        }
    }

    /// Drops the partitions of topics that are followed only by groups with more of them than
    /// allowed: a broker can announce any number.
    fn drop_what_nobody_reads(&mut self) {
        let groups = self.followed();
        let readable = groups.iter().filter(|group| self.excess(group).is_none());
        let read: HashSet<&str> =
            readable.flat_map(|group| group.what().topics.iter().map(|name| &**name)).collect();
        let unread = self.topics.iter_mut().filter(|(name, _)| !read.contains(name.as_str()));
        unread.for_each(|(_, topic)| topic.drop_partitions());
    }

    /// The broker that is asked for topics did not answer: another one is asked, and all around who there is.
    fn metadata_failed(&mut self) {
        if let Some(asked) = self.metadata_broker.broker(&self.brokers)
            && !self.metadata_broker.refused(asked, &self.brokers)
        {
            self.metadata_broker.again();
            self.broker_search.want();
        }
    }

    /// A broker did not tell a group's offsets: another one is asked, and all around there is an error.
    fn offsets_failed(&mut self, group: u64, broker: i32, failure: &Failure) {
        let mut followed = self.groups.iter().filter_map(Weak::upgrade);
        let Some(following) = followed.find(|following| following.id() == group) else { return };
        let state = self.states.entry(group).or_default();
        let error = || errors::offsets_error(self.addresses, &following.what().group_id, failure);
        if errors::is_refusal(failure) {
            // Every broker would refuse: this is no reason to look for another one.
            state.was_refused(error(), Instant::now());
            return;
        }
        let is_another = failure.code == RDKafkaErrorCode::NotCoordinator;
        let more = state.coordinator.refused(broker, &self.brokers);
        if !more {
            state.coordinator.again();
            self.broker_search.want();
        }
        if !is_another || !more && state.failed.is_none() {
            state.failed(error());
        }
        if is_another && more && self.round.is_some() {
            self.ask_of_group(&following);
        }
    }

    fn commit(&mut self, commit: Commit) {
        // Nobody waits any more: the consumer is gone, follows another group, or has tried again.
        if commit.answer.is_closed() {
            return;
        }
        let list: Vec<(&str, i32, i64)> =
            commit.offsets.iter().map(|(id, offset)| (&*id.topic, id.partition, *offset)).collect();
        let group = &commit.following.what().group_id;
        let state = self.states.entry(commit.following.id()).or_default();
        let Some(broker) = state.coordinator.broker(&self.brokers) else {
            let error = errors::read_error(self.addresses, &self.no_connection());
            let _ = commit.answer.send(Err(error));
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
        failure.map_or(Ok(()), |failure| Err(errors::read_error(self.addresses, &failure)))
    }
}
