//! One Kafka cluster that is read: a thread with a reader, and who follows it.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use sluice_crds::{conditions::reason, config::KafkaConfig};
use sluice_planner::snapshot::TopicPartition;
use tokio::sync::oneshot;

use super::port::{OnReading, ReadError};
use super::{
    following::{Command, Commit, Following},
    reader::Reader,
};

/// A cluster that is read; the thread ends when this is dropped.
pub struct Cluster {
    commands: mpsc::Sender<Command>,
}

impl Cluster {
    /// Starts to read the cluster at these addresses; `group` is the first that is followed.
    pub fn start(bootstrap_servers: &str, group: &str) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel();
        let (addresses, group) = (bootstrap_servers.to_owned(), group.to_owned());
        let started = thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || Reader::run(addresses, &group, inbox));
        if let Err(error) = started {
            // The groups then stay unknown, and say so.
            tracing::error!(%error, "no thread can be started to read Kafka");
        }
        Arc::new(Self { commands })
    }

    /// Follows a group until the answer is dropped.
    pub fn follow(&self, what: &KafkaConfig, bell: OnReading) -> Arc<Following> {
        let following = Arc::new(Following::new(what, bell));
        // The thread ends only with this struct, or where it could not be started.
        let _ = self.commands.send(Command::Follow(Arc::downgrade(&following)));
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
            message: "the reader of this Kafka cluster has ended".to_owned(),
        };
        let commit = Commit { following: Arc::clone(following), offsets, answer };
        self.commands.send(Command::Commit(commit)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
