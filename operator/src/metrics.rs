//! The operator's metrics. Labels are bounded: fixed words, and for the gauges of a consumer its namespace and name,
//! which go with it.

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::identity::Identity;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watched {
    namespace: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scaling {
    direction: &'static str,
    reason: String,
}

/// The labels of a consumer's gauges.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Consumer {
    namespace: String,
    name: String,
}

type Numbers = Family<Consumer, Gauge<f64, AtomicU64>>;
type Counts = Family<Consumer, Gauge<i64, AtomicI64>>;

/// What is shown of one consumer; what is not known is not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shown {
    /// Records that are not done.
    pub lag: Option<i64>,
    /// Seconds since the first of them arrived.
    pub behind: Option<f64>,
    /// Partitions.
    pub partitions: Option<i64>,
    /// Pods asked for.
    pub desired: Option<i64>,
    /// Pods ready.
    pub ready: Option<i64>,
    /// Records a second that arrive.
    pub arrivals: Option<f64>,
    /// Records a second that are handled.
    pub handled: Option<f64>,
    /// Records a second that one pod can handle.
    pub capacity: Option<f64>,
}

/// All metrics and the registry that writes them down.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    passes: Family<Outcome, Counter>,
    duration: Histogram,
    errors: Family<Reason, Counter>,
    watch_errors: Family<Kind, Counter>,
    watch_up: Family<Watched, Gauge>,
    writes: Family<Kind, Counter>,
    backoff: Gauge,
    scalings: Family<Scaling, Counter>,
    lag: Counts,
    behind: Numbers,
    partitions: Counts,
    desired: Counts,
    ready: Counts,
    arrivals: Numbers,
    handled: Numbers,
    capacity: Numbers,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice_operator");
        // A pass without a write takes well under a millisecond, one with some writes tens of them; its timeout is a minute.
        let duration = Histogram::new(exponential_buckets(0.0005, 4.0, 9));
        let metrics = Self {
            passes: Family::default(),
            duration,
            errors: Family::default(),
            watch_errors: Family::default(),
            watch_up: Family::default(),
            writes: Family::default(),
            backoff: Gauge::default(),
            scalings: Family::default(),
            lag: Family::default(),
            behind: Family::default(),
            partitions: Family::default(),
            desired: Family::default(),
            ready: Family::default(),
            arrivals: Family::default(),
            handled: Family::default(),
            capacity: Family::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        r.register(
            "reconciliations",
            "Passes over a consumer, by how they ended",
            metrics.passes.clone(),
        );
        r.register_with_unit(
            "reconcile_duration",
            "Time of a pass",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        r.register("reconcile_errors", "Passes that failed, by cause", metrics.errors.clone());
        r.register(
            "watch_errors",
            "Watches that failed and were begun again, by kind",
            metrics.watch_errors.clone(),
        );
        r.register(
            "watch_up",
            "1 while the watch of this kind runs; the namespace is empty where all are watched",
            metrics.watch_up.clone(),
        );
        r.register(
            "writes",
            "Writes to the API server, by what was written",
            metrics.writes.clone(),
        );
        r.register(
            "objects_in_backoff",
            "Consumers that wait after a failed pass",
            metrics.backoff.clone(),
        );
        r.register(
            "scalings",
            "Changes of the number of pods, by direction and reason",
            metrics.scalings.clone(),
        );
        let c = r.sub_registry_with_prefix("consumer");
        c.register("lag", "Records that are not done", metrics.lag.clone());
        c.register_with_unit(
            "behind",
            "Since the first record that is not done arrived",
            Unit::Seconds,
            metrics.behind.clone(),
        );
        c.register("partitions", "Partitions of all topics", metrics.partitions.clone());
        c.register("replicas_desired", "Pods asked for", metrics.desired.clone());
        c.register("replicas_ready", "Pods that are ready", metrics.ready.clone());
        c.register("arrival_rate", "Records a second that arrive", metrics.arrivals.clone());
        c.register("handled_rate", "Records a second that are handled", metrics.handled.clone());
        c.register(
            "capacity_per_pod",
            "Records a second that one pod can handle",
            metrics.capacity.clone(),
        );
        r.register(
            "build",
            "The operator's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A pass ended.
    pub fn pass(&self, outcome: &'static str, took: Duration) {
        self.passes.get_or_create(&Outcome { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A pass failed.
    pub fn error(&self, reason: &'static str) {
        self.errors.get_or_create(&Reason { reason }).inc();
    }

    /// A watch failed.
    pub fn watch_error(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&Kind { kind }).inc();
    }

    /// Whether a watch runs.
    pub fn watch_up(&self, namespace: &str, kind: &'static str, up: bool) {
        let labels = Watched { namespace: namespace.to_owned(), kind };
        self.watch_up.get_or_create(&labels).set(i64::from(up));
    }

    /// Something was written.
    pub fn write(&self, kind: &'static str) {
        self.writes.get_or_create(&Kind { kind }).inc();
    }

    /// How many consumers wait after a failure.
    pub fn in_backoff(&self, count: usize) {
        self.backoff.set(count as i64);
    }

    /// Pods were added or taken away.
    pub fn scaled(&self, from: i32, to: i32, reason: &str) {
        let direction = if to > from { "up" } else { "down" };
        self.scalings.get_or_create(&Scaling { direction, reason: reason.to_owned() }).inc();
    }

    /// Shows a consumer's numbers.
    pub fn show(&self, id: &Identity, shown: &Shown) {
        let labels = Consumer { namespace: id.namespace.clone(), name: id.name.clone() };
        for (family, value) in [
            (&self.lag, shown.lag),
            (&self.partitions, shown.partitions),
            (&self.desired, shown.desired),
            (&self.ready, shown.ready),
        ] {
            match value {
                Some(value) => {
                    family.get_or_create(&labels).set(value);
                }
                None => {
                    family.remove(&labels);
                }
            }
        }
        for (family, value) in [
            (&self.behind, shown.behind),
            (&self.arrivals, shown.arrivals),
            (&self.handled, shown.handled),
            (&self.capacity, shown.capacity),
        ] {
            match value {
                Some(value) => {
                    family.get_or_create(&labels).set(value);
                }
                None => {
                    family.remove(&labels);
                }
            }
        }
    }

    /// Drops the numbers of a consumer that is gone.
    pub fn forget(&self, id: &Identity) {
        self.show(id, &Shown::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_is_gone_leaves_no_series_and_unknown_is_not_shown_as_zero() {
        let metrics = Metrics::default();
        let id = Identity { namespace: "shop".into(), name: "orders".into(), uid: "u".into() };
        metrics.show(&id, &Shown { lag: Some(7), desired: Some(3), ..Shown::default() });
        let text = metrics.render();
        assert!(
            text.contains(r#"sluice_operator_consumer_lag{namespace="shop",name="orders"} 7"#),
            "{text}"
        );
        assert!(!text.contains("consumer_behind_seconds{"), "{text}");
        metrics.show(&id, &Shown { desired: Some(3), ..Shown::default() });
        assert!(!metrics.render().contains("consumer_lag{"));
        metrics.forget(&id);
        assert!(!metrics.render().contains("orders"));
    }
}
