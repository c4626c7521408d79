//! One Kafka cluster that is read: who follows it, and what they are told.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use sluice_crds::{conditions::reason, config::KafkaConfig, kafkaconsumer::kafka::Isolation};
use sluice_planner::snapshot::TopicPartition;
use tokio::sync::oneshot;

use super::reader::Reader;
use crate::group::{Bell, Reading, Trouble};

/// A group that is followed.
pub struct Following {
    /// Never used again in this process.
    id: u64,
    what: KafkaConfig,
    bell: Bell,
    members: AtomicBool,
    reading: Mutex<Reading>,
}

impl Following {
    /// Its number, which no other has.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// What is read.
    pub(super) fn what(&self) -> &KafkaConfig {
        &self.what
    }

    /// Whether it reads committed records only.
    pub(super) fn committed_only(&self) -> bool {
        self.what.isolation == Isolation::ReadCommitted
    }

    /// The newest reading.
    pub fn reading(&self) -> Reading {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the reading, and says so.
    pub(super) fn publish(&self, change: impl FnOnce(&mut Reading)) {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner));
        (self.bell)();
    }

    /// Whether the members are to be read too.
    pub fn with_members(&self, wanted: bool) {
        self.members.store(wanted, Ordering::Relaxed);
    }

    /// Whether the members are read.
    pub(super) fn members_wanted(&self) -> bool {
        self.members.load(Ordering::Relaxed)
    }
}

/// What a reader is asked to do.
pub(super) enum Command {
    /// Read for this group, as long as it lives.
    Follow(Weak<Following>),
    /// Commit for a group without members.
    Commit(Commit),
}

/// Offsets to commit.
pub(super) struct Commit {
    /// Whose.
    pub following: Arc<Following>,
    /// Which.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// Who waits for it.
    pub answer: oneshot::Sender<Result<(), Trouble>>,
}

/// A cluster that is read; the thread ends when this is dropped.
pub struct Cluster {
    commands: mpsc::Sender<Command>,
}

impl Cluster {
    /// Starts to read the cluster at these addresses; `group` is the first that is followed.
    pub fn start(bootstrap_servers: &str, group: &str) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel();
        let (addresses, group) = (bootstrap_servers.to_owned(), group.to_owned());
        let started =
            thread::Builder::new().name("kafka-reader".to_owned()).spawn(move || Reader::run(addresses, group, inbox));
        if let Err(error) = started {
            // The groups then stay unknown, and say so.
            tracing::error!(%error, "no thread can be started to read Kafka");
        }
        Arc::new(Self { commands })
    }

    /// Follows a group until the answer is dropped.
    pub fn follow(&self, what: &KafkaConfig, bell: Bell) -> Arc<Following> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let following = Arc::new(Following {
            id: IDS.fetch_add(1, Ordering::Relaxed),
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
    pub async fn commit(&self, following: &Arc<Following>, offsets: Vec<(TopicPartition, i64)>) -> Result<(), Trouble> {
        let (answer, answered) = oneshot::channel();
        let gone = || Trouble {
            reason: reason::BROKER_ERROR,
            message: "the reader of this Kafka cluster has ended".to_owned(),
        };
        let commit = Commit { following: Arc::clone(following), offsets, answer };
        self.commands.send(Command::Commit(commit)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
