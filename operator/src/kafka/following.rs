//! A group that is followed: what is read for it, and what it is told. And what a reader is asked to do for it.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use sluice_crds::{config::KafkaConfig, kafkaconsumer::kafka::Isolation};
use sluice_planner::snapshot::TopicPartition;
use tokio::sync::oneshot;

use super::port::{OnReading, ReadError, Reading};

/// A group that is followed.
pub struct Following {
    /// Never used again in this process.
    id: u64,
    what: KafkaConfig,
    bell: OnReading,
    members: AtomicBool,
    reading: Mutex<Reading>,
}

impl Following {
    /// A group of which nothing was read yet.
    pub(super) fn new(what: &KafkaConfig, bell: OnReading) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            what: what.clone(),
            bell,
            members: AtomicBool::new(false),
            reading: Mutex::default(),
        }
    }

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
    /// OffsetSpec.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// Who waits for it.
    pub answer: oneshot::Sender<Result<(), ReadError>>,
}
