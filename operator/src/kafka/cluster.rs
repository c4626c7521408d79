//! One Kafka cluster that is read: a thread with a reader, who follows it, and another thread when the first one fails.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use sluice_crds::{conditions::reason, config::KafkaConfig};
use sluice_planner::snapshot::TopicPartition;
use tokio::sync::oneshot;

use super::port::{ClusterStatistics, OnReading, ReadError};
use super::{
    Limits,
    following::{Command, Commit, Following},
    pulse::{self, Numbers, Pulse},
};

/// A thread without a sign of life for this long hangs: it gives one at least once per second.
const HANGS: Duration = Duration::from_secs(60);
/// The most threads that are left behind for one cluster because they hang.
const MOST_ABANDONED: usize = 3;

/// A cluster that is read; the thread ends when this is dropped.
pub struct Cluster {
    addresses: String,
    limits: Arc<Limits>,
    numbers: Arc<Numbers>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    thread: Option<Running>,
    followings: Vec<Weak<Following>>,
    /// How many threads were left behind, and how often another one was started.
    abandoned: usize,
    restarts: u64,
}

/// A thread that reads.
struct Running {
    commands: mpsc::Sender<Command>,
    handle: JoinHandle<()>,
    pulse: Arc<Pulse>,
}

impl Cluster {
    /// A cluster at these addresses; it is read as soon as a group of it is followed.
    pub fn new(bootstrap_servers: &str, limits: &Arc<Limits>) -> Arc<Self> {
        Arc::new(Self {
            addresses: bootstrap_servers.to_owned(),
            limits: Arc::clone(limits),
            numbers: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// How its reader fares.
    pub fn statistics(&self) -> ClusterStatistics {
        self.numbers.statistics(&self.addresses)
    }

    /// How often its thread was started again.
    #[cfg(test)]
    fn restarts(&self) -> u64 {
        self.lock().restarts
    }

    /// Starts the thread again if it has died, hangs or could not be started.
    pub fn supervise(&self) {
        self.supervise_within(HANGS);
    }

    fn supervise_within(&self, hangs: Duration) {
        let mut state = self.lock();
        state.followings.retain(|following| following.strong_count() > 0);
        if self.statistics().is_late() {
            // No reading wakes these consumers: they are to say that what they know is old.
            for following in state.followings.iter().filter_map(Weak::upgrade) {
                following.is_late();
            }
        }
        let cause = match &state.thread {
            None if state.followings.is_empty() => return,
            None => "could not be started",
            Some(thread) if thread.handle.is_finished() => "has ended",
            Some(thread) if thread.pulse.silence() < hangs => return,
            Some(_) if state.abandoned >= MOST_ABANDONED => {
                // Each costs memory and connections; the age of the reading shows that this cluster is not read.
                return;
            }
            Some(thread) => {
                thread.pulse.abandon();
                state.abandoned += 1;
                "gives no sign of life"
            }
        };
        tracing::error!(addresses = %self.addresses, cause, "a reader of Kafka is started again");
        state.restarts += 1;
        pulse::restarted();
        self.start(&mut state);
    }

    fn start(&self, state: &mut State) {
        // The client belongs to a group that is followed: see `Admin::new`.
        let mut followings = state.followings.iter().filter_map(Weak::upgrade);
        let Some(first) = followings.next() else { return };
        let (commands, inbox) = mpsc::channel();
        let pulse = Arc::new(Pulse::new(Arc::clone(&self.numbers)));
        let (addresses, limits) = (self.addresses.clone(), Arc::clone(&self.limits));
        let group = first.what().group_id.clone();
        let own = Arc::clone(&pulse);
        let started = thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || super::thread::run(&addresses, &group, &limits, &inbox, &own));
        state.thread = match started {
            Ok(handle) => Some(Running { commands, handle, pulse }),
            Err(error) => {
                tracing::error!(%error, "no thread can be started to read Kafka: trying again");
                return state.thread = None;
            }
        };
        for following in &state.followings {
            state.send(Command::Follow(Weak::clone(following)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows a group until the answer is dropped.
    pub fn follow(&self, what: &KafkaConfig, on_reading: OnReading) -> Arc<Following> {
        let following = Arc::new(Following::new(what, on_reading));
        let mut state = self.lock();
        state.followings.retain(|other| other.strong_count() > 0);
        state.followings.push(Arc::downgrade(&following));
        if state.thread.is_none() {
            self.start(&mut state);
        } else {
            // Where the thread has died, the next one is told.
            state.send(Command::Follow(Arc::downgrade(&following)));
        }
        following
    }

    /// Commits offsets for a group without members.
    pub async fn commit(
        &self,
        following: &Arc<Following>,
        offsets: Vec<(TopicPartition, i64)>,
    ) -> Result<(), ReadError> {
        let (answer, answered) = oneshot::channel();
        let gone = || ReadError {
            reason: reason::BROKER_ERROR,
            message: "the reader of this Kafka cluster is being started again".to_owned(),
        };
        let commit = Commit { following: Arc::clone(following), offsets, answer };
        self.lock().send(Command::Commit(commit));
        // A command that could not be sent drops the sender of its answer.
        answered.await.map_err(|_| gone())?
    }
}

impl State {
    fn send(&self, command: Command) {
        if let Some(thread) = &self.thread {
            // The other end is gone only where the thread has died; `supervise` tells the next one all of it.
            let _ = thread.commands.send(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;

    use sluice_crds::kafkaconsumer::kafka::{GroupProtocol, Isolation};

    use super::*;

    fn config() -> KafkaConfig {
        KafkaConfig {
            bootstrap_servers: "127.0.0.1:1".to_owned(),
            topics: vec!["orders".parse().unwrap()],
            group_id: "billing".to_owned(),
            protocol: GroupProtocol::Classic,
            isolation: Isolation::ReadUncommitted,
            properties: std::collections::BTreeMap::default(),
        }
    }

    fn running(body: impl FnOnce(mpsc::Receiver<Command>) + Send + 'static) -> Running {
        let (commands, inbox) = mpsc::channel();
        let pulse = Arc::new(Pulse::new(Arc::default()));
        Running { commands, handle: thread::spawn(move || body(inbox)), pulse }
    }

    /// Puts this thread in the place of the reader's, and waits until the supervisor has brought the reader back.
    fn comes_back_after(
        body: impl FnOnce(mpsc::Receiver<Command>) + Send + 'static,
    ) -> Arc<Cluster> {
        let cluster = Cluster::new("127.0.0.1:1", &Arc::default());
        cluster.lock().thread = Some(running(body));
        let (woken, readings) = mpsc::channel();
        let following = cluster.follow(&config(), Arc::new(move || _ = woken.send(())));
        let begin = std::time::Instant::now();
        loop {
            cluster.supervise_within(Duration::from_millis(100));
            match readings.recv_timeout(Duration::from_millis(20)) {
                // The first readings of a start say nothing yet.
                Ok(()) if following.reading().error.is_some() => break,
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => assert!(begin.elapsed() < HANGS, "no reading"),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(following.reading().error.unwrap().reason, reason::UNREACHABLE);
        assert_eq!(cluster.restarts(), 1);
        cluster
    }

    #[test]
    fn a_reader_that_has_died_is_started_again_with_the_groups_that_it_followed() {
        comes_back_after(drop);
    }

    #[test]
    fn a_reader_that_hangs_is_replaced_and_what_it_publishes_is_dropped() {
        let (release, wait) = mpsc::channel::<()>();
        let cluster = comes_back_after(move |_inbox| _ = wait.recv());
        assert_eq!(cluster.lock().abandoned, 1);
        drop(release);
    }

    #[test]
    fn consumers_of_a_reader_that_is_late_are_woken_unless_they_know_what_is_wrong() {
        let (release, wait) = mpsc::channel::<()>();
        let cluster = Cluster::new("127.0.0.1:1", &Arc::default());
        cluster.lock().thread = Some(running(move |_inbox| _ = wait.recv()));
        let (woken, wakes) = mpsc::channel();
        let following = cluster.follow(&config(), Arc::new(move || _ = woken.send(())));
        cluster.supervise_within(HANGS);
        assert!(wakes.try_recv().is_err(), "there may be a first reading any moment");
        cluster.numbers.is_late();
        cluster.supervise_within(HANGS);
        assert!(cluster.statistics().is_late() && wakes.try_recv().is_ok());
        let error = ReadError { reason: reason::TOO_MANY_BROKERS, message: String::new() };
        following.publish(Some(Duration::MAX), |reading| {
            reading.error = Some(error);
            false
        });
        while wakes.try_recv().is_ok() {}
        cluster.supervise_within(HANGS);
        assert!(wakes.try_recv().is_err());
        drop(release);
    }

    #[test]
    fn no_more_than_three_threads_are_left_behind() {
        let (release, wait) = mpsc::channel::<()>();
        let cluster = Cluster::new("127.0.0.1:1", &Arc::default());
        cluster.lock().abandoned = MOST_ABANDONED;
        cluster.lock().thread = Some(running(move |_inbox| _ = wait.recv()));
        let _following = cluster.follow(&config(), Arc::new(|| {}));
        cluster.supervise_within(Duration::ZERO);
        assert_eq!(cluster.restarts(), 0);
        drop(release);
    }
}
