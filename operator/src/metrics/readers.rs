//! What is shown of the readers of Kafka: the series of a cluster go when nobody follows it any
//! more.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::kafka::port::Statistics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct Cluster {
    bootstrap_servers: String,
}

/// The metrics of the readers.
#[derive(Debug, Default)]
pub(super) struct Readers {
    age: Family<Cluster, Gauge<f64, AtomicU64>>,
    round: Family<Cluster, Gauge<f64, AtomicU64>>,
    failures: Counter,
    restarts: Counter,
    /// The clusters that have series.
    shown: Mutex<BTreeSet<Cluster>>,
}

impl Readers {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register_with_unit(
            "reading_age",
            "Age of the newest reading of a cluster; before the first, how long it is waited for",
            Unit::Seconds,
            self.age.clone(),
        );
        r.register_with_unit(
            "round",
            "How long the last reading of a cluster took",
            Unit::Seconds,
            self.round.clone(),
        );
        r.register(
            "request_failures",
            "Requests to brokers that failed or were not answered",
            self.failures.clone(),
        );
        r.register(
            "reader_restarts",
            "Readers that were started again because they hung or had died",
            self.restarts.clone(),
        );
    }

    /// Shows these statistics and no others.
    pub(super) fn show(&self, statistics: &Statistics) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeSet::new();
        for cluster in &statistics.clusters {
            let labels = Cluster { bootstrap_servers: cluster.bootstrap_servers.clone() };
            self.age.get_or_create(&labels).set(cluster.age.as_secs_f64());
            self.round.get_or_create(&labels).set(cluster.last_round.as_secs_f64());
            next.insert(labels);
        }
        for gone in shown.difference(&next) {
            self.age.remove(gone);
            self.round.remove(gone);
        }
        *shown = next;
        self.failures.inner().store(statistics.failures, Ordering::Relaxed);
        self.restarts.inner().store(statistics.restarts, Ordering::Relaxed);
    }
}
