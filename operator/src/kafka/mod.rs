//! Reading Kafka: one reader for each cluster, shared by all consumers of it.
//!
//! [`Readers`] hands out groups; a [`cluster`] has one [`reader`] with one client and one thread, whatever the number of
//! consumers. Whom to ask is in [`brokers`], what is open in [`requests`], what follows from the answers in [`round`], and
//! how often is read in [`pace`]: all without Kafka. The calls themselves are in [`admin`]. Nothing here decides on pods.

pub mod admin;
pub mod brokers;
pub mod cluster;
pub mod following;
pub mod pace;
pub mod port;
pub mod reader;
pub mod requests;
pub mod round;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::future::BoxFuture;
use sluice_crds::config::KafkaConfig;
use sluice_planner::snapshot::TopicPartition;

use self::port::{Group, Kafka, OnReading, ReadError, Reading};
use self::{cluster::Cluster, following::Following};

/// All readers of this process, one for each set of addresses. (Credentials will be part of the key.)
#[derive(Default)]
pub struct Readers {
    clusters: Mutex<BTreeMap<String, Weak<Cluster>>>,
}

impl Kafka for Readers {
    fn follow(&self, what: &KafkaConfig, bell: OnReading) -> Arc<dyn Group> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|_, cluster| cluster.strong_count() > 0);
        let known = clusters.get(&what.bootstrap_servers).and_then(Weak::upgrade);
        let cluster = known.unwrap_or_else(|| {
            let cluster = Cluster::start(&what.bootstrap_servers, &what.group_id);
            clusters.insert(what.bootstrap_servers.clone(), Arc::downgrade(&cluster));
            cluster
        });
        let following = cluster.follow(what, bell);
        Arc::new(Followed { cluster, following })
    }
}

/// One consumer's group; it is no longer read when this is dropped.
struct Followed {
    /// Ends with its last group.
    cluster: Arc<Cluster>,
    following: Arc<Following>,
}

impl Group for Followed {
    fn reading(&self) -> Reading {
        self.following.reading()
    }

    fn with_members(&self, wanted: bool) {
        self.following.with_members(wanted);
    }

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(self.cluster.commit(&self.following, offsets))
    }
}
