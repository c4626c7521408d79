//! `status`: what a person asks, and what the planner must remember over a restart.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kafka::GroupProtocol;

/// What is observed of a consumer, and the last decision about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KafkaConsumerStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// Pods that have joined the group and are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// Desired pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,

    /// The label selector of the pods, as a string: for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Partitions of all topics together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,

    /// Unprocessed records. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,

    /// Age of the oldest unprocessed record in seconds. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<f64>,

    /// Records per second that arrive: mean of the last minute, or since they last jumped, or since
    /// the operator began to read, whichever is shortest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrival_rate: Option<f64>,

    /// Records per second that are handled: mean of the last ten seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handled_rate: Option<f64>,

    /// Records per second that one pod can handle at its knobs, as measured. Absent before the
    /// first measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_per_pod: Option<f64>,

    /// The batch size in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<i32>,

    /// The concurrency in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,

    /// The revision of the knobs in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuning_revision: Option<i64>,

    /// The consumer group, pinned when it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,

    /// The group protocol, resolved once.
    #[serde(skip_serializing_if = "Option::is_none")]
    // Without it the sentence of the type would stand in its place.
    #[schemars(with = "GroupProtocol")]
    pub protocol: Option<GroupProtocol>,

    /// The Kafka cluster's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// The consumer image in use: the one that the spec names, or the stock image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// The stock image that `spec.pod.imagePolicy` chose last. It is in use when `spec.pod.image` is removed, unless the policy is `FollowOperator`: then the operator's own is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock_image: Option<String>,

    /// The newest format of the static configuration that `image` reads, as its pods reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_format: Option<i32>,

    /// The last decision and its numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionStatus>,

    /// What the planner remembers over a restart of the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<PlannerMemory>,

    /// The group's offsets while no pod runs, to be restored if the broker expires them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked: Option<ParkedOffsets>,

    /// Ready, KafkaReachable, ScalingActive, ScalingLimited, GroupConflict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The last decision on pods and knobs: what, why, and from which numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DecisionStatus {
    /// Why, one word of a fixed list.
    pub reason: String,
    /// Why, in one sentence with its numbers.
    pub message: String,
    /// When pods or knobs were last changed, or the reason last became another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Pods decided on (with `DryRun`: the pods that would be desired).
    pub replicas: i32,
    /// The batch size decided on (with `DryRun`: the one that would be written).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<i32>,
    /// The concurrency decided on (with `DryRun`: the one that would be written).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    /// What last changed of these knobs (with `DryRun`: what would change), and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knobs_message: Option<String>,
    /// Records per second that must be handled: arrivals, and the backlog within `drainWithin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub demand: Option<f64>,
    /// Records per second that one pod can handle, as the decision took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// The backlog in records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<i64>,
}

/// What the planner remembers over a restart of the operator. Its fields are the planner's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlannerMemory {
    /// Records per second that one slot handles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_rate: Option<f64>,
    /// The revision of the knobs at which `slotRate` was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_rate_revision: Option<i64>,
    /// The concurrency at which `slotRate` is believed: more is believed when it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i32>,
    /// Seconds from writing the number of pods to their being ready, as learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<f64>,
    /// The last time that more concurrency was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// When the number of pods was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scale: Option<Time>,
}

/// More concurrency, tried out: it is lowered again if it gains nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Trial {
    /// The concurrency before.
    pub from: i32,
    /// The concurrency that is tried.
    pub to: i32,
    /// The revision of the knobs that are tried.
    pub revision: i64,
    /// Records per second that the fullest pod could handle before.
    pub capacity: f64,
    /// Partitions of that pod.
    pub partitions: i32,
    /// Records per second that one slot could handle before.
    pub slot_rate: f64,
    /// When it was decided on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The revision at which it was found to gain nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<i64>,
}

/// A moment in milliseconds since the Unix epoch, as Kubernetes writes it; `None` beyond its
/// calendar.
pub fn time(millis: i64) -> Option<Time> {
    Timestamp::from_millisecond(millis).ok().map(Time)
}

/// Milliseconds since the Unix epoch of a moment.
pub fn millis(time: &Time) -> i64 {
    time.0.as_millisecond()
}

/// A group's offsets, kept while no pod runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ParkedOffsets {
    /// The Kafka cluster's id: on another cluster these offsets mean nothing.
    pub cluster_id: String,
    /// The offsets of each topic.
    pub topics: Vec<ParkedTopic>,
}

/// A topic's offsets, kept while no pod runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ParkedTopic {
    /// The topic.
    pub name: String,
    /// Its id: a topic that was deleted and created again has another, and its offsets are not used.
    pub id: String,
    /// The committed offset of partition 0, 1, 2 …; -1 where none was committed.
    pub offsets: Vec<i64>,
}
