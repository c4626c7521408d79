//! A group that is followed: what is read for it, and what it is told. And what a reader is asked to do for it.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
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
    on_reading: OnReading,
    members: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reading: Reading,
    /// When the consumer was last woken.
    woken_at: Option<Instant>,
}

impl Following {
    /// A group of which nothing was read yet.
    pub(super) fn new(what: &KafkaConfig, on_reading: OnReading) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            what: what.clone(),
            on_reading,
            members: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Its number, which no other has in this process.
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner).reading.clone()
    }

    /// Changes the reading, and wakes the consumer. With `quiet` it is woken only when `change` says that something is new,
    /// or when it was not for so long.
    pub(super) fn publish(
        &self,
        quiet: Option<Duration>,
        change: impl FnOnce(&mut Reading) -> bool,
    ) {
        let wakes = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = change(&mut state.reading);
            let is_old = |quiet| state.woken_at.is_none_or(|at| at.elapsed() >= quiet);
            let wakes = is_new || quiet.is_none_or(is_old);
            if wakes {
                state.woken_at = Some(Instant::now());
            }
            wakes
        };
        if wakes {
            (self.on_reading)();
        }
    }

    /// Wakes the consumer because no reading comes, unless the last one says already what is wrong.
    pub(super) fn is_late(&self) {
        if self.reading().error.is_none() {
            (self.on_reading)();
        }
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
    /// The group that they are committed for.
    pub following: Arc<Following>,
    /// The next offset of each partition.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// Gets the coordinator's answer.
    pub answer: oneshot::Sender<Result<(), ReadError>>,
}
