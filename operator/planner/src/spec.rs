//! What the planner is asked with: the consumer's bounds and targets, and what is there of it.

use sluice_crds::{
    KafkaConsumerSpec,
    kafkaconsumer::Ordering,
    tuning::{Knobs, Tuning},
};

use crate::snapshot::Millis;

/// A consumer's bounds and targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spec {
    /// The fewest pods.
    pub min_replicas: u32,
    /// The most pods; the partitions bound them too.
    pub max_replicas: Option<u32>,
    /// Seconds behind that call for pods at once.
    pub max_behind: f64,
    /// Seconds in which a backlog should be drained.
    pub drain_within: f64,
    /// Share of a pod's capacity that steady arrivals may use, 0 to 1.
    pub target: f64,
    /// Seconds of which the highest demand must fit into fewer pods before pods go.
    pub scale_down_after: f64,
    /// The smallest knobs.
    pub lowest: Knobs,
    /// The largest knobs.
    pub highest: Knobs,
    /// Milliseconds that a call may take (99th percentile).
    pub latency_target: Option<f64>,
    /// The ordering domain.
    pub ordering: Ordering,
}

impl Spec {
    /// The planner's view of a resource's spec.
    pub fn of(spec: &KafkaConsumerSpec) -> Self {
        let (scaling, tuning) = (&spec.scaling, &spec.tuning);
        let knobs = |batch: i32, concurrency: i32| Knobs {
            batch_size: batch.max(1).unsigned_abs(),
            concurrency: concurrency.max(1).unsigned_abs(),
        };
        Self {
            min_replicas: scaling.min_replicas.max(0).unsigned_abs(),
            max_replicas: scaling.max_replicas.map(|max| max.max(0).unsigned_abs()),
            max_behind: scaling.max_behind.as_secs_f64(),
            drain_within: scaling.drain_within.as_secs_f64().max(1.0),
            target: f64::from(scaling.target_utilization.clamp(1, 100)) / 100.0,
            scale_down_after: scaling.scale_down_after.as_secs_f64(),
            lowest: knobs(tuning.batch_size.min, tuning.concurrency.min),
            highest: knobs(tuning.batch_size.max, tuning.concurrency.max),
            latency_target: tuning.latency_target.map(|target| target.as_secs_f64() * 1e3),
            ordering: spec.ordering,
        }
    }
}

/// What is there of a consumer, and when it was written.
///
/// The planner learns what its own actions did from these, and never from what it decided: a
/// decision may not be carried out (a dry run, a pause, a conflict, a write that fails).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    /// Desired pods, as written.
    pub desired: u32,
    /// When this number was written; `None` where that is not known, or somebody else wrote it.
    pub desired_since: Option<Millis>,
    /// Pods that have joined and are ready.
    pub ready: u32,
    /// The knobs as written, with their revision.
    pub tuning: Tuning,
    /// When these knobs were written; `None` where that is not known.
    pub tuning_at: Option<Millis>,
}
