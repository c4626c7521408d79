//! One Kafka cluster's reader: a thread with one client that reads for all groups and publishes what it read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rdkafka::types::RDKafkaErrorCode;
use sluice_crds::{
    conditions::reason,
    config::KafkaConfig,
    kafkaconsumer::kafka::{GroupProtocol, Isolation},
};
use sluice_planner::snapshot::TopicPartition;
use tokio::sync::oneshot;

use super::{
    admin::{Admin, Answer, Which},
    round::{self, GroupState, TopicState},
};
use crate::group::{Bell, Reading, Trouble};

/// Between the beginnings of two rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most that the interval grows to when rounds take long.
const LONGEST: Duration = Duration::from_secs(15);
/// What a round may take; what was not answered by then is unknown in it.
const ROUND: Duration = Duration::from_secs(4);
/// What a request may take.
const REQUEST: Duration = Duration::from_secs(3);
/// A client is made anew not more often than this.
const RENEWAL: Duration = Duration::from_secs(5);
/// Topics, log starts and quiet groups are read this often.
const SELDOM: Duration = Duration::from_secs(10);
/// The setting that tells what `protocol: Auto` means.
const HEARTBEAT: &str = "group.consumer.heartbeat.interval.ms";

/// A group that is followed.
pub struct Following {
    what: KafkaConfig,
    bell: Bell,
    members: AtomicBool,
    reading: Mutex<Reading>,
}

impl Following {
    /// The newest reading.
    pub fn reading(&self) -> Reading {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the members are to be read too.
    pub fn with_members(&self, wanted: bool) {
        self.members.store(wanted, Ordering::Relaxed);
    }
}

enum Command {
    Follow(Weak<Following>),
    Commit { group: String, offsets: Vec<(TopicPartition, i64)>, answer: oneshot::Sender<Result<(), Trouble>> },
}

/// A cluster that is read; the thread ends when this is dropped.
pub struct Cluster {
    commands: mpsc::Sender<Command>,
}

impl Cluster {
    /// Starts to read the cluster at these addresses; `group` is the first that is followed.
    pub fn start(bootstrap_servers: &str, group: &str) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel();
        let reader = Reader::new(bootstrap_servers.to_owned(), group.to_owned(), inbox);
        let started = thread::Builder::new().name("kafka-reader".to_owned()).spawn(move || reader.run());
        if let Err(error) = started {
            // The groups then stay unknown, and say so.
            tracing::error!(%error, "no thread can be started to read Kafka");
        }
        Arc::new(Self { commands })
    }

    /// Follows a group until the answer is dropped.
    pub fn follow(&self, what: &KafkaConfig, bell: Bell) -> Arc<Following> {
        let following = Arc::new(Following {
            what: what.clone(),
            bell,
            members: AtomicBool::new(false),
            reading: Mutex::default(),
        });
        // The thread ends only with this struct, or where it could not be started.
        let _ = self.commands.send(Command::Follow(Arc::downgrade(&following)));
        following
    }

    /// Commits offsets for a group without members.
    pub async fn commit(&self, following: &Following, offsets: Vec<(TopicPartition, i64)>) -> Result<(), Trouble> {
        let (answer, answered) = oneshot::channel();
        let group = following.what.group_id.clone();
        let gone = || Trouble {
            reason: reason::BROKER_ERROR,
            message: "the reader of this Kafka cluster has ended".to_owned(),
        };
        self.commands.send(Command::Commit { group, offsets, answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

struct Reader {
    addresses: String,
    /// The group that the client is made with.
    group: String,
    /// A broker that was asked does not coordinate a group (any more).
    coordinator_moved: bool,
    inbox: mpsc::Receiver<Command>,
    groups: Vec<Weak<Following>>,
    topics: BTreeMap<String, TopicState>,
    states: HashMap<usize, GroupState>,
    cluster_id: Option<String>,
    protocol: Option<GroupProtocol>,
    topics_at: Option<Instant>,
    starts_at: Option<Instant>,
    interval: Duration,
}

/// What a tag stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Topics,
    Setting,
    Starts,
    Ends { committed: bool },
    Offsets(usize),
    Members(usize),
}

impl Reader {
    fn new(addresses: String, group: String, inbox: mpsc::Receiver<Command>) -> Self {
        Self {
            addresses,
            group,
            coordinator_moved: false,
            inbox,
            groups: Vec::new(),
            topics: BTreeMap::new(),
            states: HashMap::new(),
            cluster_id: None,
            protocol: None,
            topics_at: None,
            starts_at: None,
            interval: INTERVAL,
        }
    }

    fn run(mut self) {
        let mut admin = match Admin::new(&self.addresses, &self.group) {
            Ok(admin) => admin,
            Err(error) => return self.refuse(&error.to_string()),
        };
        let mut next = Instant::now();
        let mut made = Instant::now();
        loop {
            match self.inbox.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Follow(group)) => {
                    self.groups.push(group);
                    // It should not wait for a whole interval, and several that come at once share the round.
                    next = next.min(Instant::now() + Duration::from_millis(50));
                    self.topics_at = None;
                    continue;
                }
                Ok(Command::Commit { group, offsets, answer }) => {
                    let done = self.commit(&admin, &group, &offsets);
                    // What was committed is to be seen at once.
                    self.states.values_mut().for_each(|state| state.read_at = None);
                    let _ = answer.send(done);
                    next = Instant::now();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            let begin = Instant::now();
            self.round(&admin);
            admin.serve();
            // librdkafka keeps who coordinates a group for as long as it is asked for, and does not forget it on this
            // error: only a new client finds the new coordinator.
            if std::mem::take(&mut self.coordinator_moved) && made.elapsed() >= RENEWAL {
                match Admin::new(&self.addresses, &self.group) {
                    Ok(new) => admin = new,
                    Err(error) => tracing::warn!(addresses = %self.addresses, %error, "cannot renew the client"),
                }
                made = Instant::now();
            }
            self.pace(begin.elapsed());
            next = begin + self.interval;
        }
    }

    /// librdkafka did not take the addresses: every group is told, until there are other ones.
    fn refuse(mut self, words: &str) {
        while let Ok(command) = self.inbox.recv() {
            let trouble =
                Trouble { reason: reason::UNREACHABLE, message: format!("{} cannot be used: {words}", self.addresses) };
            match command {
                Command::Follow(group) => {
                    if let Some(following) = group.upgrade() {
                        following.reading.lock().unwrap_or_else(PoisonError::into_inner).trouble = Some(trouble);
                        (following.bell)();
                    }
                    self.groups.push(group);
                }
                Command::Commit { answer, .. } => {
                    let _ = answer.send(Err(trouble));
                }
            }
        }
    }

    /// A round that takes more than half its interval makes the interval longer, and says so.
    fn pace(&mut self, took: Duration) {
        let fits = (took * 2).clamp(INTERVAL, LONGEST);
        // A broker that is away makes rounds long by their time limit; that is no reason to look at it less often.
        let fits = if took >= REQUEST { INTERVAL.max(self.interval) } else { fits };
        if fits > self.interval * 5 / 4 {
            tracing::warn!(addresses = %self.addresses, ?took, interval = ?fits, "reading this Kafka cluster takes long: it is read less often");
            self.interval = fits;
        } else if fits < self.interval * 3 / 4 {
            self.interval = fits;
        }
    }

    fn round(&mut self, admin: &Admin) {
        self.groups.retain(|group| group.strong_count() > 0);
        let groups: Vec<Arc<Following>> = self.groups.iter().filter_map(Weak::upgrade).collect();
        let present: BTreeSet<usize> = groups.iter().map(key).collect();
        self.states.retain(|group, _| present.contains(group));
        let wanted: BTreeSet<&str> = groups.iter().flat_map(|g| g.what.topics.iter().map(String::as_str)).collect();
        self.topics.retain(|name, _| wanted.contains(name.as_str()));
        if groups.is_empty() {
            return;
        }
        let begin = Instant::now();
        let deadline = begin + ROUND;
        if self.cluster_id.is_none() {
            self.cluster_id = admin.cluster_id(Duration::from_secs(2));
        }
        let failures = self.read_topics(admin, &wanted, deadline);
        let asked = self.ask(admin, &groups, failures.as_ref());
        let silent = self.take(admin, &groups, asked, deadline);
        for group in &groups {
            self.publish(group, failures.as_ref(), silent.as_deref());
        }
    }

    /// Describes the topics where that is due; what failed altogether, in words.
    fn read_topics(&mut self, admin: &Admin, wanted: &BTreeSet<&str>, deadline: Instant) -> Option<Trouble> {
        let unknown = wanted.iter().any(|name| self.topics.get(*name).is_none_or(|topic| topic.partitions.is_err()));
        let due = self.topics_at.is_none_or(|at| at.elapsed() >= if unknown { Duration::from_secs(2) } else { SELDOM });
        if !due {
            return None;
        }
        let names: Vec<&str> = wanted.iter().copied().collect();
        let mut asked = vec![Asked::Topics];
        admin.describe_topics(&names, 0, REQUEST);
        if self.protocol.is_none()
            && let Some(broker) = admin.some_broker(Duration::from_secs(1))
        {
            admin.broker_settings(broker, 1, REQUEST);
            asked.push(Asked::Setting);
        }
        let mut trouble = None;
        let mut answered = 0;
        while answered < asked.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some((tag, answer)) = admin.poll(HEARTBEAT, left) else {
                return Some(unreachable(&self.addresses, "no answer"));
            };
            answered += 1;
            match (asked.get(usize::try_from(tag).unwrap_or(usize::MAX)), answer) {
                (Some(Asked::Topics), Ok(Answer::Topics(topics))) => {
                    self.topics_at = Some(Instant::now());
                    for topic in topics {
                        let known = self.topics.remove(&topic.name);
                        self.topics.insert(topic.name.clone(), round::described(known, &topic));
                    }
                }
                (Some(Asked::Topics), Err(failure)) => trouble = Some(round::trouble(&self.addresses, &failure)),
                (Some(Asked::Setting), Ok(Answer::Setting(value))) => {
                    self.protocol = Some(round::protocol(value.as_deref()));
                }
                // A broker may refuse to show its settings; `Auto` is then the classic protocol, which every broker has.
                (Some(Asked::Setting), Err(failure)) if !round::is_transport(&failure) => {
                    self.protocol = Some(GroupProtocol::Classic);
                }
                _ => {}
            }
        }
        trouble
    }

    /// Sends the round's requests, all at once; what was asked, by tag.
    fn ask(&mut self, admin: &Admin, groups: &[Arc<Following>], failed: Option<&Trouble>) -> Vec<Asked> {
        let mut asked = Vec::new();
        if failed.is_some() {
            // Nobody answers: asking more would only make the round longer.
            return asked;
        }
        let known: Vec<(&str, i32)> =
            self.topics.iter().flat_map(|(name, topic)| topic.ids().map(move |id| (name.as_str(), id))).collect();
        if known.is_empty() {
            return asked;
        }
        let mut tag = |what: Asked| {
            asked.push(what);
            asked.len() as u64 - 1
        };
        let starts_due = self.starts_at.is_none_or(|at| at.elapsed() >= SELDOM)
            || self.topics.values().any(TopicState::lacks_a_start)
            || self.states.values().any(|state| state.is_below_start);
        if starts_due {
            admin.list_offsets(&known, Which::Start, tag(Asked::Starts), REQUEST);
            self.starts_at = Some(Instant::now());
        }
        for committed in [true, false] {
            let topics: BTreeSet<&str> = groups
                .iter()
                .filter(|g| (g.what.isolation == Isolation::ReadCommitted) == committed)
                .flat_map(|g| g.what.topics.iter().map(String::as_str))
                .collect();
            let partitions: Vec<(&str, i32)> =
                known.iter().copied().filter(|(topic, _)| topics.contains(topic)).collect();
            if !partitions.is_empty() {
                admin.list_offsets(&partitions, Which::End { committed }, tag(Asked::Ends { committed }), REQUEST);
            }
        }
        for (n, group) in groups.iter().enumerate() {
            let state = self.states.entry(key(group)).or_default();
            if state.is_due(SELDOM) {
                let partitions: Vec<(&str, i32)> =
                    known.iter().copied().filter(|(topic, _)| group.what.topics.iter().any(|t| t == topic)).collect();
                if !partitions.is_empty() {
                    admin.group_offsets(&group.what.group_id, &partitions, tag(Asked::Offsets(n)), REQUEST);
                }
            }
            if group.members.load(Ordering::Relaxed)
                && state.members_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1))
            {
                admin.describe_group(&group.what.group_id, tag(Asked::Members(n)), REQUEST);
            }
        }
        asked
    }

    /// Takes the answers in, until all are there or the round is over. What is silent is unknown; the words of why.
    fn take(
        &mut self,
        admin: &Admin,
        groups: &[Arc<Following>],
        asked: Vec<Asked>,
        deadline: Instant,
    ) -> Option<String> {
        let mut open: Vec<Option<Asked>> = asked.into_iter().map(Some).collect();
        let mut silent = None;
        while open.iter().any(Option::is_some) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some((tag, answer)) = admin.poll(HEARTBEAT, left) else {
                silent.get_or_insert_with(|| "no answer within the round".to_owned());
                break;
            };
            let now = Timestamp::now().as_millisecond();
            let Some(what) = usize::try_from(tag).ok().and_then(|tag| open.get_mut(tag)).and_then(Option::take) else {
                continue;
            };
            match (what, answer) {
                (Asked::Starts, Ok(Answer::Offsets(offsets))) => round::take_starts(&mut self.topics, &offsets),
                (Asked::Ends { committed }, Ok(Answer::Offsets(offsets))) => {
                    round::take_ends(&mut self.topics, &offsets, committed, now);
                }
                (Asked::Offsets(n), Ok(Answer::Offsets(offsets))) => {
                    if let Some(state) = groups.get(n).and_then(|group| self.states.get_mut(&key(group))) {
                        state.take_offsets(offsets, now);
                    }
                }
                (Asked::Members(n), Ok(Answer::Group(description))) => {
                    if let Some(state) = groups.get(n).and_then(|group| self.states.get_mut(&key(group))) {
                        state.take_members(description, now);
                    }
                }
                (what, Err(failure)) => {
                    tracing::debug!(addresses = %self.addresses, ?what, %failure, "a request to Kafka failed");
                    if let Asked::Offsets(n) = what
                        && let Some(state) = groups.get(n).and_then(|group| self.states.get_mut(&key(group)))
                    {
                        state.failed = Some(round::trouble(&self.addresses, &failure));
                    }
                    self.coordinator_moved |= failure.code == RDKafkaErrorCode::NotCoordinator;
                    if round::is_transport(&failure) {
                        silent = Some(failure.to_string());
                        self.topics_at = None;
                    }
                }
                _ => {}
            }
        }
        silent
    }

    fn publish(&mut self, group: &Arc<Following>, failed: Option<&Trouble>, silent: Option<&str>) {
        let state = self.states.entry(key(group)).or_default();
        let isolation = group.what.isolation == Isolation::ReadCommitted;
        let before = group.reading();
        let (snapshot, mut trouble) = round::snapshot(&group.what.topics, &self.topics, state, isolation);
        if let Some(words) = silent.filter(|_| trouble.is_none()) {
            trouble = Some(unreachable(&self.addresses, words));
        }
        if let Some(failed) = failed {
            trouble = Some(failed.clone());
        }
        let reading = Reading {
            // An older one is still what is known; it says itself how old it is.
            snapshot: snapshot.map(Arc::new).or(before.snapshot),
            trouble,
            cluster_id: self.cluster_id.clone(),
            topic_ids: group
                .what
                .topics
                .iter()
                .filter_map(|name| Some((name.clone(), self.topics.get(name)?.id.clone()?)))
                .collect(),
            protocol: self.protocol,
        };
        *group.reading.lock().unwrap_or_else(PoisonError::into_inner) = reading;
        (group.bell)();
    }

    fn commit(&self, admin: &Admin, group: &str, offsets: &[(TopicPartition, i64)]) -> Result<(), Trouble> {
        let list: Vec<(&str, i32, i64)> =
            offsets.iter().map(|(id, offset)| (&*id.topic, id.partition, *offset)).collect();
        admin.alter_group_offsets(group, &list, 0, REQUEST);
        let Some((_, answer)) = admin.poll(HEARTBEAT, ROUND) else {
            return Err(unreachable(&self.addresses, "no answer to a commit"));
        };
        match answer {
            Ok(Answer::Offsets(done)) => match done.into_iter().find_map(|d| d.failure) {
                Some(failure) => Err(round::trouble(&self.addresses, &failure)),
                None => Ok(()),
            },
            Ok(_) => Err(unreachable(&self.addresses, "an answer to something else")),
            Err(failure) => Err(round::trouble(&self.addresses, &failure)),
        }
    }
}

/// A group's identity while it is followed.
fn key(group: &Arc<Following>) -> usize {
    Arc::as_ptr(group) as usize
}

fn unreachable(addresses: &str, words: &str) -> Trouble {
    Trouble { reason: reason::UNREACHABLE, message: format!("no broker of {addresses} answers: {words}") }
}
