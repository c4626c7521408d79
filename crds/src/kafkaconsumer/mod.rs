//! The `KafkaConsumer` resource: what users write (`spec`) and what they read back (`status`).
//!
//! One file for each part of the spec. Defaults stand here, so that they are in the schema, in `kubectl explain` and in
//! the stored object; they can't be changed once released. Rules that span fields are CEL rules beside the type they
//! speak of, each with a sentence that says what to write.

pub mod delivery;
pub mod handler;
pub mod kafka;
pub mod metadata;
pub mod pod;
mod reference;
pub mod scaling;
mod schema;
pub mod status;
pub mod tuning;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use self::{
    delivery::Delivery,
    handler::Handler,
    kafka::Kafka,
    metadata::InheritedMetadata,
    pod::Pod,
    reference::reference_md,
    scaling::Scaling,
    schema::{crd, crd_yaml},
    status::KafkaConsumerStatus,
    tuning::TuningSpec,
};

/// Keeps a Kafka consumer exactly as large as its backlog needs.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "KafkaConsumer",
    plural = "kafkaconsumers",
    shortname = "kcon",
    category = "sluice",
    namespaced,
    cel,
    doc = "Keeps a Kafka consumer exactly as large as its backlog needs: the pods follow the lag up to the number of partitions, and batch size and concurrency follow the load.",
    status = "KafkaConsumerStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether the pods run and consume as decided."),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas", description = "Pods that exist now."),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions", description = "Partitions of all topics together: the most pods that can be of use."),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag", description = "Records that are not done yet."),
    printcolumn(name = "Behind", type_ = "number", json_path = ".status.behindSeconds", description = "Seconds since the first record that is not done arrived."),
    printcolumn(name = "Batch", type_ = "integer", json_path = ".status.batchSize", description = "Records in one call of the handler, at most.", priority = 1),
    printcolumn(name = "Concurrency", type_ = "integer", json_path = ".status.concurrency", description = "Batches in work at once in one pod, at most.", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.decision.reason", description = "Why the number of pods is what it is."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 46 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 46 characters (a-z, 0-9 and '-'): pods are named after it"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.scaling.mode == 'Manual' ? has(self.replicas) : !has(self.replicas)")
        .message("spec.replicas goes with spec.scaling.mode: Manual, and is required there; in the modes Auto and DryRun remove it, and use scaling.minReplicas and maxReplicas for bounds"),
    validation = Rule::new("!has(self.handler.custom) || has(self.pod.image)")
        .message("handler.custom needs spec.pod.image: the image of your own consumer, built on the library"),
    validation = Rule::new("duration(self.delivery.drainTimeout).getSeconds() <= self.pod.terminationGracePeriodSeconds - 10")
        .message("delivery.drainTimeout must be at least 10 s less than pod.terminationGracePeriodSeconds (35 by default), so that a stopping pod can commit and leave its group"),
)]
pub struct KafkaConsumerSpec {
    /// Where the records come from: brokers, topics and consumer group.
    pub kafka: Kafka,

    /// What is done with the records: exactly one of `http`, `log` and `custom`.
    pub handler: Handler,

    /// The domain in which records are handled one after the other: `Key` (the default) or `Partition`.
    #[serde(default)]
    pub ordering: Ordering,

    /// The number of pods with mode `Manual`, where it is required; refused in the other modes. This is what `kubectl scale` sets. No more pods than partitions run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: Option<i32>,

    /// How the number of pods follows the lag.
    #[serde(default)]
    pub scaling: Scaling,

    /// Bounds and targets of the two knobs that the operator turns: batch size and concurrency.
    #[serde(default)]
    pub tuning: TuningSpec,

    /// What is promised of each record: retries, and the time in which a stopping pod finishes its work.
    #[serde(default)]
    pub delivery: Delivery,

    /// The consumer's pods: image, resources and placement.
    #[serde(default)]
    pub pod: Pod,

    /// Labels and annotations of everything that the operator creates for this consumer: the Deployment, the ConfigMaps and the pods. `pod.labels` and `pod.annotations` are laid over them.
    #[serde(default)]
    pub inherited_metadata: InheritedMetadata,

    /// True stops all pods and keeps the group's offsets; false (the default) consumes.
    #[serde(default)]
    pub suspend: bool,
}

/// An ordering domain inside a pod.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum Ordering {
    /// Records with the same key are handled one after the other; others may overtake. Records without a key have no order among them.
    #[default]
    Key,
    /// Records of the same partition are handled one after the other.
    Partition,
}
