//! `spec.scaling`: how the number of pods follows the lag.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// How the number of pods follows the lag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas", "message": "scaling.minReplicas must not be greater than scaling.maxReplicas" },
    { "rule": "duration(self.maxBehind) > duration('0s') && duration(self.drainWithin) > duration('0s')", "message": "scaling.maxBehind and scaling.drainWithin must be greater than 0s" },
]))]
pub struct Scaling {
    /// `Auto` (the default): the operator decides. `DryRun`: it decides and reports, and changes nothing. `Manual`: `spec.replicas` decides.
    pub mode: ScalingMode,

    /// The fewest pods. Default 1; with 0 the pods go when nothing arrived for `scaleDownAfter` and no lag is left.
    #[schemars(range(min = 0, max = 100_000))]
    pub min_replicas: i32,

    /// The most pods. Default: the number of partitions, which is a bound in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_replicas: Option<i32>,

    /// The lag target: when the first unprocessed record is older than this, pods are added at once, beside the knobs. Default 10s.
    pub max_behind: Duration,

    /// A backlog is to be gone within this time. Default 1m.
    pub drain_within: Duration,

    /// Per cent of a pod's measured capacity that steady arrivals may use; the rest is headroom. Default 80.
    #[schemars(range(min = 10, max = 100))]
    pub target_utilization: i32,

    /// Pods are taken away only when the highest demand of this time would fit into fewer. Default 2m.
    pub scale_down_after: Duration,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::Auto,
            min_replicas: 1,
            max_replicas: None,
            max_behind: Duration::from_secs(10),
            drain_within: Duration::from_secs(60),
            target_utilization: 80,
            scale_down_after: Duration::from_secs(120),
        }
    }
}

/// Who decides on the number of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    /// The operator, from the lag.
    #[default]
    Auto,
    /// Nobody: the operator decides and reports, and changes neither pods nor knobs.
    DryRun,
    /// `spec.replicas`.
    Manual,
}
