//! `spec.delivery`: what is promised of each record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// What is promised of each record: at least once, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Delivery {
    /// The time in which a pod that stops or loses a partition finishes what is in work; what remains is cancelled and handled again elsewhere. Default 20s; at least 10 s less than `pod.terminationGracePeriodSeconds`.
    pub drain_timeout: Duration,

    /// How a record that failed is tried again.
    pub retry: Retry,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { drain_timeout: Duration::from_secs(20), retry: Retry::default() }
    }
}

/// How a record that failed is tried again: exponential backoff with full jitter, while other lanes go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": "duration(self.minBackoff) <= duration(self.maxBackoff)", "message": "delivery.retry.minBackoff must not be greater than delivery.retry.maxBackoff" },
]))]
pub struct Retry {
    /// Tries after the first. Default 3. After them the lane is reported as blocked and goes on being tried every `maxBackoff`: no record is skipped.
    #[schemars(range(min = 0, max = 1_000))]
    pub max_retries: i32,

    /// The backoff's upper bound before the first retry; it doubles with each. Default 200ms.
    pub min_backoff: Duration,

    /// The backoff's upper bound at most. Default 10s.
    pub max_backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: 3,
            min_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(10),
        }
    }
}
