//! `spec.tuning`: bounds and targets of the knobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Bounds and targets of the two knobs that the operator turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TuningSpec {
    /// Records in one call of the handler. Default 1 to 500.
    pub batch_size: BatchSizeRange,

    /// Batches in work at once in one pod. Default 1 to 16.
    pub concurrency: ConcurrencyRange,

    /// When the 99th percentile of a call is above this, batches get smaller. Default: none; batches follow throughput alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_target: Option<Duration>,

    /// When a pod takes new knobs: on `Change` of its file and on each rebalance (the default), or on `Rebalance` alone.
    pub apply_on: ApplyOn,
}

impl Default for TuningSpec {
    fn default() -> Self {
        Self {
            batch_size: BatchSizeRange::default(),
            concurrency: ConcurrencyRange::default(),
            latency_target: None,
            apply_on: ApplyOn::Change,
        }
    }
}

/// Bounds of the batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.min <= self.max", "message": "tuning.batchSize.min must not be greater than tuning.batchSize.max" },
]))]
pub struct BatchSizeRange {
    /// The smallest. Default 1.
    #[schemars(range(min = 1, max = 100_000))]
    pub min: i32,
    /// The largest. Default 500.
    #[schemars(range(min = 1, max = 100_000))]
    pub max: i32,
}

impl Default for BatchSizeRange {
    fn default() -> Self {
        Self { min: 1, max: 500 }
    }
}

/// Bounds of the concurrency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "self.min <= self.max", "message": "tuning.concurrency.min must not be greater than tuning.concurrency.max" },
]))]
pub struct ConcurrencyRange {
    /// The smallest. Default 1.
    #[schemars(range(min = 1, max = 10_000))]
    pub min: i32,
    /// The largest. Default 16.
    #[schemars(range(min = 1, max = 10_000))]
    pub max: i32,
}

impl Default for ConcurrencyRange {
    fn default() -> Self {
        Self { min: 1, max: 16 }
    }
}

/// When a pod takes new knobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ApplyOn {
    /// When the file changes: from the next batch on.
    #[default]
    Change,
    /// On each rebalance alone.
    Rebalance,
}
