//! The operator's metrics. Labels are bounded: fixed words, and for the gauges of a consumer its namespace and name,
//! which go with it.

mod readers;

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{self, Gauge},
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use sluice_crds::{
    KafkaConsumerSpec, KafkaConsumerStatus,
    conditions::{self, reason},
    kafkaconsumer::scaling::ScalingMode,
};

use crate::{identity::Identity, kafka::port::Statistics};

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
/// Labels whose names are words of Rust, or whose values are words of a status.
type Words = Vec<(&'static str, String)>;
type Facts = Family<Words, Gauge>;

/// Why a pass may fail: the reasons of `reconcile_errors`, which exist at 0 from the start, so that `rate()` sees the first.
pub const PASS_ERRORS: [&str; 15] = [
    "ApiError",
    "ApiUnreachable",
    "Appeared",
    "Build",
    "Conflict",
    "Forbidden",
    "Identity",
    "Invalid",
    "NameTaken",
    "NotFound",
    "Observe",
    "Panic",
    "ServerError",
    "Throttled",
    "Timeout",
];

/// Why a status may not be written: the reasons of `status_errors`.
pub const STATUS_ERRORS: [&str; 8] = [
    "ApiError",
    "ApiUnreachable",
    "Forbidden",
    "Invalid",
    "OlderDefinition",
    "ServerError",
    "Throttled",
    "Timeout",
];

/// What is written: the kinds of `writes`.
const WRITTEN: [&str; 6] = ["ConfigMap", "Deployment", "Event", "Pod", "Replicas", "Status"];

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
    unreadable: Gauge,
    status_errors: Family<Reason, Counter>,
    events_failed: Counter,
    events_dropped: Counter,
    scalings: Family<Scaling, Counter>,
    consumers: Consumers,
    readers: readers::Readers,
}

/// The gauges of each consumer. What is not known is not shown.
#[derive(Debug, Default)]
struct Consumers {
    lag: Counts,
    behind: Numbers,
    partitions: Counts,
    pods: Counts,
    desired: Counts,
    ready: Counts,
    min: Counts,
    max: Counts,
    batch_size: Counts,
    concurrency: Counts,
    arrivals: Numbers,
    handled: Numbers,
    demand: Numbers,
    capacity: Numbers,
    condition: Facts,
    mode: Facts,
    decision: Facts,
    /// The series of the last three that each consumer has now: their labels change with its status.
    facts: Mutex<HashMap<Consumer, Shown>>,
}

/// The series of one consumer whose labels are words: conditions, modes and decisions.
type Shown = [Vec<Words>; 3];

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
            unreadable: Gauge::default(),
            status_errors: Family::default(),
            events_failed: Counter::default(),
            events_dropped: Counter::default(),
            scalings: Family::default(),
            consumers: Consumers::default(),
            readers: readers::Readers::default(),
            registry: Registry::default(),
        };
        metrics.begin_at_zero();
        metrics.register(&mut registry);
        metrics.consumers.register(registry.sub_registry_with_prefix("consumer"));
        metrics.readers.register(registry.sub_registry_with_prefix("kafka"));
        Self { registry, ..metrics }
    }
}

impl Consumers {
    fn register(&self, r: &mut Registry) {
        r.register("lag", "Unprocessed records", self.lag.clone());
        r.register_with_unit(
            "behind",
            "Time since the first unprocessed record arrived",
            Unit::Seconds,
            self.behind.clone(),
        );
        for (name, help, family) in [
            ("partitions", "Partitions of all topics", &self.partitions),
            ("replicas", "Pods that exist", &self.pods),
            ("replicas_desired", "Pods desired", &self.desired),
            ("replicas_ready", "Pods that are ready", &self.ready),
            ("replicas_min", "scaling.minReplicas", &self.min),
            ("replicas_max", "scaling.maxReplicas, where it is set", &self.max),
            ("batch_size", "The knob desired: records in a batch, at most", &self.batch_size),
            (
                "concurrency",
                "The knob desired: batches at once in a pod, at most",
                &self.concurrency,
            ),
        ] {
            r.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("arrival_rate", "Records per second that arrive", &self.arrivals),
            ("handled_rate", "Records per second that are handled", &self.handled),
            (
                "demand",
                "Records per second that must be handled: arrivals and backlog",
                &self.demand,
            ),
            ("capacity_per_pod", "Records per second that one pod can handle", &self.capacity),
        ] {
            r.register(name, help, family.clone());
        }
        for (name, help, family) in [
            ("condition", "1 for the present status of each condition", &self.condition),
            ("mode", "1 for the present mode", &self.mode),
            ("decision", "1 for the reason of the last decision", &self.decision),
        ] {
            r.register(name, help, family.clone());
        }
    }

    fn show(&self, labels: &Consumer, spec: &KafkaConsumerSpec, status: &KafkaConsumerStatus) {
        let decision = status.decision.as_ref();
        let count = |n: Option<i32>| n.map(i64::from);
        for (family, value) in [
            (&self.lag, status.lag),
            (&self.partitions, count(status.partitions)),
            (&self.pods, count(status.replicas)),
            (&self.desired, count(status.desired_replicas)),
            (&self.ready, count(status.ready_replicas)),
            (&self.min, count(Some(spec.scaling.min_replicas))),
            (&self.max, count(spec.scaling.max_replicas)),
            (&self.batch_size, count(status.batch_size)),
            (&self.concurrency, count(status.concurrency)),
        ] {
            put(family, labels, value);
        }
        for (family, value) in [
            (&self.behind, status.behind_seconds),
            (&self.arrivals, status.arrival_rate),
            (&self.handled, status.handled_rate),
            (&self.demand, decision.and_then(|d| d.demand)),
            (&self.capacity, status.capacity_per_pod),
        ] {
            put(family, labels, value);
        }
        let conditions = status.conditions.iter();
        let conditions =
            conditions.map(|c| [("type", c.type_.clone()), ("status", c.status.clone())].to_vec());
        let decision = decision.map(|d| vec![("reason", d.reason.clone())]);
        self.put_facts(
            labels,
            [
                conditions.collect(),
                vec![vec![("mode", mode(spec, status).to_owned())]],
                decision.into_iter().collect(),
            ],
        );
    }

    fn forget(&self, labels: &Consumer) {
        for family in [
            &self.lag,
            &self.partitions,
            &self.pods,
            &self.desired,
            &self.ready,
            &self.min,
            &self.max,
            &self.batch_size,
            &self.concurrency,
        ] {
            put(family, labels, None);
        }
        for family in [&self.behind, &self.arrivals, &self.handled, &self.demand, &self.capacity] {
            put(family, labels, None);
        }
        self.put_facts(labels, Shown::default());
    }

    /// Sets the series whose labels are words, and removes those that are no longer so.
    fn put_facts(&self, consumer: &Consumer, next: Shown) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let last = facts.get(consumer);
        if last == Some(&next) {
            return;
        }
        let labels = |words: &Words| {
            let Consumer { namespace, name } = consumer.clone();
            [vec![("namespace", namespace), ("name", name)], words.clone()].concat()
        };
        let families = [&self.condition, &self.mode, &self.decision];
        for (number, family) in families.into_iter().enumerate() {
            let gone = last.iter().flat_map(|last| &last[number]);
            for words in gone.filter(|words| !next[number].contains(words)) {
                family.remove(&labels(words));
            }
            for words in &next[number] {
                family.get_or_create(&labels(words)).set(1);
            }
        }
        if next == Shown::default() {
            facts.remove(consumer);
        } else {
            facts.insert(consumer.clone(), next);
        }
    }
}

/// Sets a series, or removes it where its value is not known.
fn put<N, A>(family: &Family<Consumer, Gauge<N, A>>, labels: &Consumer, value: Option<N>)
where
    A: Default + gauge::Atomic<N>,
{
    match value {
        Some(value) => {
            family.get_or_create(labels).set(value);
        }
        None => {
            family.remove(labels);
        }
    }
}

/// Who decides on the pods, in one word.
fn mode(spec: &KafkaConsumerSpec, status: &KafkaConsumerStatus) -> &'static str {
    // That the operator leaves the objects alone is an annotation, which the spec does not have.
    let paused = status
        .conditions
        .iter()
        .any(|c| c.type_ == conditions::SCALING_ACTIVE && c.reason == reason::PAUSED);
    match spec.scaling.mode {
        _ if paused => reason::PAUSED,
        _ if spec.suspend => reason::SUSPENDED,
        ScalingMode::Auto => "Auto",
        ScalingMode::DryRun => reason::DRY_RUN,
        ScalingMode::Manual => reason::MANUAL,
    }
}

impl Metrics {
    /// Counters that exist before their first event: else `rate()` would miss it.
    fn begin_at_zero(&self) {
        for outcome in ["ok", "error"] {
            drop(self.passes.get_or_create(&Outcome { outcome }));
        }
        for reason in PASS_ERRORS {
            drop(self.errors.get_or_create(&Reason { reason }));
        }
        for reason in STATUS_ERRORS {
            drop(self.status_errors.get_or_create(&Reason { reason }));
        }
        for kind in WRITTEN {
            drop(self.writes.get_or_create(&Kind { kind }));
        }
    }

    fn register(&self, r: &mut Registry) {
        r.register(
            "reconciliations",
            "Passes over a consumer, by how they ended",
            self.passes.clone(),
        );
        r.register_with_unit(
            "reconcile_duration",
            "Time of a pass",
            Unit::Seconds,
            self.duration.clone(),
        );
        r.register("reconcile_errors", "Passes that failed, by cause", self.errors.clone());
        r.register(
            "watch_errors",
            "Errors of watches, which are then tried again, by kind",
            self.watch_errors.clone(),
        );
        r.register(
            "watch_up",
            "1 while the watch of this kind works; the namespace is empty where all are watched",
            self.watch_up.clone(),
        );
        r.register("writes", "Writes to the API server, by what was written", self.writes.clone());
        r.register(
            "objects_in_backoff",
            "Consumers that wait after a failed pass",
            self.backoff.clone(),
        );
        r.register(
            "objects_unreadable",
            "Objects that this version of the operator cannot read",
            self.unreadable.clone(),
        );
        r.register(
            "status_errors",
            "Statuses that could not be written, by cause; scaling does not wait for them",
            self.status_errors.clone(),
        );
        r.register(
            "events_failed",
            "Events that could not be published",
            self.events_failed.clone(),
        );
        r.register(
            "events_dropped",
            "Events dropped unpublished, because too many were waiting",
            self.events_dropped.clone(),
        );
        r.register(
            "scalings",
            "Changes of the number of pods, by direction and reason",
            self.scalings.clone(),
        );
        r.register(
            "build",
            "The operator's version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
    }

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

    /// Whether a watch works.
    pub fn watch_up(&self, namespace: &str, kind: &'static str, up: bool) {
        drop(self.watch_errors.get_or_create(&Kind { kind }));
        let labels = Watched { namespace: namespace.to_owned(), kind };
        self.watch_up.get_or_create(&labels).set(i64::from(up));
    }

    /// Shows how the readers of Kafka fare.
    pub fn readers(&self, statistics: &Statistics) {
        self.readers.show(statistics);
    }

    /// Something was written.
    pub fn write(&self, kind: &'static str) {
        self.writes.get_or_create(&Kind { kind }).inc();
    }

    /// How many consumers wait after a failure, and how many objects cannot be read, in all scopes.
    pub fn objects(&self, in_backoff: usize, unreadable: usize) {
        self.backoff.set(in_backoff as i64);
        self.unreadable.set(unreadable as i64);
    }

    /// A status could not be written.
    pub fn status_error(&self, reason: &'static str) {
        self.status_errors.get_or_create(&Reason { reason }).inc();
    }

    /// An event could not be published.
    pub fn event_failed(&self) {
        self.events_failed.inc();
    }

    /// An event was dropped unpublished.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Pods were added or taken away.
    pub fn scaled(&self, from: i32, to: i32, reason: &str) {
        let direction = if to > from { "up" } else { "down" };
        self.scalings.get_or_create(&Scaling { direction, reason: reason.to_owned() }).inc();
    }

    /// Shows a consumer: the numbers of its status, its bounds, its mode and its conditions. `status` is the one that the
    /// pass made, written or not.
    pub fn show(&self, id: &Identity, spec: &KafkaConsumerSpec, status: &KafkaConsumerStatus) {
        self.consumers.show(&Consumer::of(id), spec, status);
    }

    /// Drops the series of a consumer that is gone.
    pub fn forget(&self, id: &Identity) {
        self.consumers.forget(&Consumer::of(id));
    }
}

impl Consumer {
    fn of(id: &Identity) -> Self {
        Self { namespace: id.namespace.clone(), name: id.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use sluice_crds::kafkaconsumer::status::DecisionStatus;

    use super::*;
    use crate::kafka::port::ClusterStatistics;

    fn id() -> Identity {
        Identity { namespace: "shop".into(), name: "orders".into(), uid: "u".into() }
    }

    fn spec() -> KafkaConsumerSpec {
        let spec = serde_json::json!({
            "kafka": { "bootstrapServers": "kafka:9092", "topics": ["orders"] },
            "handler": { "log": {} },
            "scaling": { "maxReplicas": 9 },
        });
        serde_json::from_value(spec).unwrap()
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        }
    }

    /// Everything that can be shown, shown.
    fn full() -> Metrics {
        let metrics = Metrics::default();
        let status = KafkaConsumerStatus {
            lag: Some(7),
            behind_seconds: Some(1.5),
            partitions: Some(12),
            replicas: Some(3),
            desired_replicas: Some(3),
            ready_replicas: Some(2),
            batch_size: Some(50),
            concurrency: Some(1),
            arrival_rate: Some(10.0),
            handled_rate: Some(9.0),
            capacity_per_pod: Some(4.0),
            decision: Some(DecisionStatus {
                reason: "Steady".into(),
                demand: Some(10.0),
                ..DecisionStatus::default()
            }),
            conditions: vec![condition("Ready", "False", "Progressing")],
            ..KafkaConsumerStatus::default()
        };
        metrics.show(&id(), &spec(), &status);
        metrics.watch_up("shop", "Pod", true);
        let cluster = ClusterStatistics {
            bootstrap_servers: "kafka:9092".to_owned(),
            age: Duration::ZERO,
            interval: Duration::ZERO,
            last_round: Duration::ZERO,
        };
        metrics.readers(&Statistics { clusters: vec![cluster], ..Statistics::default() });
        metrics.scaled(1, 3, "ArrivalsUp");
        metrics
    }

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }

    #[test]
    fn a_consumer_that_is_gone_leaves_no_series_and_unknown_is_not_shown_as_zero() {
        let metrics = full();
        let labels = r#"{namespace="shop",name="orders"}"#;
        has(&metrics, &format!("sluice_operator_consumer_lag{labels} 7"));
        has(&metrics, &format!("sluice_operator_consumer_replicas_max{labels} 9"));
        let unknown = KafkaConsumerStatus { desired_replicas: Some(3), ..Default::default() };
        metrics.show(&id(), &spec(), &unknown);
        assert!(!metrics.render().contains("consumer_lag{"));
        assert!(!metrics.render().contains("consumer_condition{"), "{}", metrics.render());
        metrics.forget(&id());
        assert!(!metrics.render().contains("orders"), "{}", metrics.render());
    }

    #[test]
    fn a_condition_has_one_status_at_a_time() {
        let metrics = full();
        let line = |status| {
            let labels =
                format!(r#"{{namespace="shop",name="orders",type="Ready",status="{status}"}}"#);
            format!("sluice_operator_consumer_condition{labels} 1")
        };
        has(&metrics, &line("False"));
        let ready = KafkaConsumerStatus {
            conditions: vec![condition("Ready", "True", "AsDecided")],
            ..KafkaConsumerStatus::default()
        };
        metrics.show(&id(), &spec(), &ready);
        has(&metrics, &line("True"));
        assert!(!metrics.render().contains(r#"status="False""#), "{}", metrics.render());
    }

    #[test]
    fn who_decides_on_the_pods_is_one_word() {
        let mut status = KafkaConsumerStatus::default();
        let mut spec = spec();
        assert_eq!(mode(&spec, &status), "Auto");
        spec.scaling.mode = ScalingMode::Manual;
        assert_eq!(mode(&spec, &status), "Manual");
        spec.suspend = true;
        assert_eq!(mode(&spec, &status), "Suspended");
        status.conditions.push(condition("ScalingActive", "False", "Paused"));
        assert_eq!(mode(&spec, &status), "Paused");
    }

    #[test]
    fn the_documentation_lists_every_metric_with_its_reasons_and_no_other() {
        let document = include_str!("../../docs/metrics.md");
        let document = &document[document.find("## The operator").unwrap()..];
        let text = full().render();
        let types = text.lines().filter_map(|l| l.strip_prefix("# TYPE "));
        let served: BTreeSet<String> = types
            .map(|l| {
                let (name, kind) = l.split_once(' ').unwrap();
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                format!("{name}{suffix}")
            })
            .collect();
        let rows = document.lines().filter_map(|l| l.strip_prefix("| `sluice_operator_"));
        let named: BTreeSet<String> = rows
            .map(|row| {
                let name = row.split(['`', '{']).next().unwrap();
                format!("sluice_operator_{name}")
            })
            .collect();
        assert_eq!(served, named);
        for reason in PASS_ERRORS.iter().chain(&STATUS_ERRORS).chain(&WRITTEN) {
            assert!(
                document.contains(&format!("`{reason}`")),
                "{reason} is not in docs/metrics.md"
            );
        }
    }
}
