//! Reading Kafka: one reader for each cluster, shared by all consumers of it.
//!
//! [`Readers`] hands out groups; a [`cluster`] has one [`reader`] with one client and one thread, whatever the number of
//! consumers. Whom to ask is in [`brokers`], what is not answered yet in [`requests`], what follows from the answers in
//! [`round`], how often is read in [`pace`], and what may be connected to in [`addresses`] and [`allowed`]: all without
//! Kafka. The calls themselves are in [`admin`], on a [`client`]. Nothing here decides on pods.
//!
//! What brokers say is untrusted: whoever may create a KafkaConsumer names them. [`Limits`] bounds it.

mod addresses;
mod admin;
pub mod allowed;
mod answers;
mod brokers;
mod cause;
mod client;
mod cluster;
mod errors;
mod following;
mod pace;
pub mod port;
mod pulse;
mod reader;
mod requests;
mod round;
mod thread;
mod topics;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use futures::future::BoxFuture;
use sluice_crds::config::KafkaConfig;
use sluice_planner::snapshot::TopicPartition;

use self::allowed::AllowedBrokers;
use self::port::{Group, Kafka, OnReading, ReadError, Reading, Statistics};
use self::{cluster::Cluster, following::Following};

/// What the operator takes from the brokers that a consumer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most brokers of a cluster: librdkafka starts a thread for each that is announced.
    pub brokers: usize,
    /// The most partitions of a consumer's topics together.
    pub partitions: usize,
    /// What may be connected to.
    pub allowed: AllowedBrokers,
}

impl Default for Limits {
    fn default() -> Self {
        Self { brokers: 1_000, partitions: 20_000, allowed: AllowedBrokers::default() }
    }
}

/// All readers of this process, one for each set of addresses. (Credentials will be part of the key.)
#[derive(Default)]
pub struct Readers {
    limits: Arc<Limits>,
    clusters: Arc<Clusters>,
    supervisor: OnceLock<()>,
}

type Clusters = Mutex<BTreeMap<String, Weak<Cluster>>>;

/// Readers are looked after this often.
const SUPERVISE: Duration = Duration::from_secs(5);

impl Readers {
    /// Readers that stay within these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits: Arc::new(limits), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Cluster>>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that starts others again. It ends with this struct.
    fn start_supervisor(&self) {
        let clusters = Arc::downgrade(&self.clusters);
        let supervise = move || {
            while let Some(clusters) = clusters.upgrade() {
                let all: Vec<_> = {
                    let clusters = clusters.lock().unwrap_or_else(PoisonError::into_inner);
                    clusters.values().filter_map(Weak::upgrade).collect()
                };
                drop(clusters);
                for cluster in &all {
                    cluster.supervise();
                }
                drop(all);
                std::thread::sleep(SUPERVISE);
            }
        };
        let name = "kafka-supervisor".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(supervise) {
            tracing::error!(%error, "no thread can be started to look after the readers of Kafka");
        }
    }
}

impl Kafka for Readers {
    fn follow(&self, what: &KafkaConfig, on_reading: OnReading) -> Arc<dyn Group> {
        if let Some(error) = addresses::refusal(&what.bootstrap_servers, &self.limits) {
            on_reading();
            return Arc::new(Refused(error));
        }
        self.supervisor.get_or_init(|| self.start_supervisor());
        let mut clusters = self.lock();
        clusters.retain(|_, cluster| cluster.strong_count() > 0);
        let known = clusters.get(&what.bootstrap_servers).and_then(Weak::upgrade);
        let cluster = known.unwrap_or_else(|| {
            let cluster = Cluster::new(&what.bootstrap_servers, &self.limits);
            clusters.insert(what.bootstrap_servers.clone(), Arc::downgrade(&cluster));
            cluster
        });
        let following = cluster.follow(what, on_reading);
        Arc::new(Followed { cluster, following })
    }

    fn statistics(&self) -> Statistics {
        let clusters: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        Statistics {
            clusters: clusters.iter().map(|cluster| cluster.statistics()).collect(),
            failures: pulse::failures(),
            restarts: pulse::restarts(),
        }
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

/// A consumer whose addresses are not connected to.
struct Refused(ReadError);

impl Group for Refused {
    fn reading(&self) -> Reading {
        Reading { error: Some(self.0.clone()), ..Reading::default() }
    }

    fn with_members(&self, _: bool) {}

    fn commit(&self, _: Vec<(TopicPartition, i64)>) -> BoxFuture<'_, Result<(), ReadError>> {
        Box::pin(std::future::ready(Err(self.0.clone())))
    }
}
