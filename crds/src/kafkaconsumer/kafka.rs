//! `spec.kafka`: brokers, topics, consumer group.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the records come from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.groupId) == has(oldSelf.groupId) && (!has(self.groupId) || self.groupId == oldSelf.groupId)")
        .message("kafka.groupId cannot be changed: the group's offsets stay with the old name; create another KafkaConsumer instead"),
    validation = Rule::new("!has(self.groupId) || self.groupId.matches('^[^[:cntrl:]]+$')")
        .message("kafka.groupId must not hold control characters (line breaks, tabs): remove them"),
)]
pub struct Kafka {
    /// Addresses of one or more brokers, `host:port` separated by commas.
    #[schemars(
        length(min = 1, max = 2048),
        regex(pattern = r"^[^\s,]+:[0-9]{1,5}(,[^\s,]+:[0-9]{1,5})*$")
    )]
    pub bootstrap_servers: String,

    /// The topics to consume, 1 to 64. They must exist: nothing here creates a topic.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub topics: Vec<String>,

    /// The consumer group. Default: NAMESPACE.NAME of this object. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub group_id: Option<String>,

    /// The group protocol: `Auto` (the default: what moves partitions faster on this broker; resolved once and kept in status), `Classic` (cooperative-sticky) or `Consumer` (KIP-848, Kafka 4).
    #[serde(default)]
    pub protocol: GroupProtocol,

    /// Where a group without offsets begins: `Earliest` (the default) or `Latest`. Resolved once, when the first pod is about to start; partitions added later begin at their first record.
    #[serde(default)]
    pub start_from: StartFrom,

    /// `ReadCommitted` (the default: records of aborted transactions are left out) or `ReadUncommitted`.
    #[serde(default)]
    pub isolation: Isolation,

    /// Further librdkafka settings for the pods, such as `fetch.min.bytes`. Refused: what the engine itself sets, what belongs to one group protocol, secrets, and what loads code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64), schema_with = "properties_schema")]
    pub properties: BTreeMap<String, String>,
}

/// How members of the group share the partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GroupProtocol {
    /// What moves partitions faster on this broker: `Consumer` where the group heartbeat interval is 1 s or less, else `Classic`.
    #[default]
    Auto,
    /// The classic protocol with the cooperative-sticky assignor.
    Classic,
    /// The consumer protocol of KIP-848.
    Consumer,
}

/// Where a group without offsets begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StartFrom {
    /// At the first record of each partition.
    #[default]
    Earliest,
    /// At the records that arrive from then on.
    Latest,
}

/// Which records of transactions are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Isolation {
    /// Only those of committed transactions.
    #[default]
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// Settings that the engine owns: its promises hang on them, or the spec has a field for them.
pub const ENGINE_PROPERTIES: &[&str] = &[
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "max.poll.interval.ms",
    "metadata.broker.list",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "statistics.interval.ms",
    "topic.blacklist",
];

/// Settings that belong to one group protocol: `protocol` chooses them.
pub const PROTOCOL_PROPERTIES: &[&str] = &[
    "group.instance.id",
    "group.protocol",
    "group.protocol.type",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
    "session.timeout.ms",
];

/// Settings that load code into the pod.
pub const CODE_PROPERTIES: &[&str] =
    &["plugin.library.paths", "ssl.engine.location", "ssl.engine.id"];

/// Prefixes of settings that carry or point at secrets.
pub const SECRET_PREFIXES: &[&str] = &["sasl.", "ssl.", "https."];

fn properties_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let list =
        |names: &[&str]| names.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ");
    let prefixes = SECRET_PREFIXES
        .iter()
        .map(|p| format!("!k.startsWith('{p}')"))
        .collect::<Vec<_>>()
        .join(" && ");
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 1024 },
        "x-kubernetes-validations": [
            {
                "rule": format!("self.all(k, !(k in [{}]))", list(ENGINE_PROPERTIES)),
                "message": format!("kafka.properties holds a setting that the engine owns; remove it (owned are: {})", ENGINE_PROPERTIES.join(", ")),
            },
            {
                "rule": format!("self.all(k, !(k in [{}]))", list(PROTOCOL_PROPERTIES)),
                "message": format!("kafka.properties holds a setting of one group protocol; remove it and choose kafka.protocol instead (refused are: {})", PROTOCOL_PROPERTIES.join(", ")),
            },
            {
                "rule": format!("self.all(k, !(k in [{}]) && {prefixes})", list(CODE_PROPERTIES)),
                "message": "kafka.properties holds a setting that carries a secret or loads code (sasl.*, ssl.*, https.*, plugin.library.paths); remove it: such things never stand in a ConfigMap",
            },
        ],
    })
}
