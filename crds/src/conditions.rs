//! Condition types and reasons of a `KafkaConsumer`: fixed words that people and alerts match on.

/// The pods run and consume as decided (kstatus-compatible summary).
pub const READY: &str = "Ready";
/// Kafka answered, and topics and group could be read.
pub const KAFKA_REACHABLE: &str = "KafkaReachable";
/// The operator follows the lag with this consumer.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// A bound keeps the pods from the number that the lag asks for.
pub const SCALING_LIMITED: &str = "ScalingLimited";
/// Another KafkaConsumer, or members that are not ours, use the group.
pub const GROUP_CONFLICT: &str = "GroupConflict";
/// Somebody else writes this consumer's objects too.
pub const CONTESTED: &str = "Contested";
/// A person is needed (kstatus); absent while nobody is.
pub const STALLED: &str = "Stalled";

/// Reasons of conditions.
pub mod reason {
    /// All is as decided.
    pub const AS_DECIDED: &str = "AsDecided";
    /// Pods are starting or stopping.
    pub const PROGRESSING: &str = "Progressing";
    /// An image cannot be pulled.
    pub const IMAGE: &str = "ImageUnavailable";
    /// A container ends again and again.
    pub const CRASH: &str = "CrashLoop";
    /// A quota or admission refuses pods.
    pub const QUOTA: &str = "PodsRefused";
    /// No node takes a pod.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// A pod runs, but is not ready.
    pub const NOT_READY: &str = "PodsNotReady";
    /// The consumer is suspended.
    pub const SUSPENDED: &str = "Suspended";
    /// The operator leaves the children alone.
    pub const PAUSED: &str = "Paused";
    /// The spec cannot be followed.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// The API server does not show the consumer's objects.
    pub const OBJECTS_UNKNOWN: &str = "ObjectsUnknown";
    /// Nothing is known yet.
    pub const PENDING: &str = "Pending";

    /// Kafka answers.
    pub const REACHABLE: &str = "Reachable";
    /// No broker answers.
    pub const UNREACHABLE: &str = "BrokersUnreachable";
    /// A topic does not exist.
    pub const UNKNOWN_TOPIC: &str = "UnknownTopic";
    /// The broker refuses access.
    pub const ACCESS_DENIED: &str = "AccessDenied";
    /// Some partitions could not be read.
    pub const PARTLY_KNOWN: &str = "LagPartlyUnknown";
    /// The newest reading is older than a working reader's.
    pub const READING_LATE: &str = "ReadingLate";
    /// A broker answered with an error.
    pub const BROKER_ERROR: &str = "BrokerError";
    /// The administrator does not allow the operator to connect to a broker.
    pub const BROKER_NOT_ALLOWED: &str = "BrokerNotAllowed";
    /// `bootstrapServers` has more addresses than the operator reads from.
    pub const TOO_MANY_ADDRESSES: &str = "TooManyBootstrapServers";
    /// The cluster announces more brokers than the operator connects to.
    pub const TOO_MANY_BROKERS: &str = "TooManyBrokers";
    /// The topics have more partitions than the operator reads for one consumer.
    pub const TOO_MANY_PARTITIONS: &str = "TooManyPartitions";
    /// The group has more members than the operator reads.
    pub const TOO_MANY_MEMBERS: &str = "TooManyMembers";

    /// The lag decides.
    pub const FOLLOWING_LAG: &str = "FollowingLag";
    /// Decisions are only reported.
    pub const DRY_RUN: &str = "DryRun";
    /// `spec.replicas` decides.
    pub const MANUAL: &str = "Manual";
    /// The lag is not known: the pods stay.
    pub const LAG_UNKNOWN: &str = "LagUnknown";

    /// No bound is in the way.
    pub const WITHIN_BOUNDS: &str = "WithinBounds";
    /// `maxReplicas` is in the way.
    pub const MAX_REPLICAS: &str = "MaxReplicas";
    /// `minReplicas` holds more pods than are needed.
    pub const MIN_REPLICAS: &str = "MinReplicas";
    /// The administrator's bound of pods per consumer is in the way.
    pub const ADMINISTRATOR_BOUND: &str = "AdministratorBound";
    /// The number of partitions is in the way.
    pub const PARTITIONS: &str = "Partitions";

    /// The group is this consumer's alone.
    pub const NO_CONFLICT: &str = "SoleOwner";
    /// `sluice.dev/take-over-group` is set, and others are in the group.
    pub const TAKEN_OVER: &str = "TakenOver";
    /// Another KafkaConsumer has the group.
    pub const OTHER_CONSUMER: &str = "OtherKafkaConsumer";
    /// Members that are not of this consumer's pods are in the group.
    pub const FOREIGN_MEMBERS: &str = "ForeignMembers";

    /// Nobody else writes this consumer's objects.
    pub const SOLE_WRITER: &str = "SoleWriter";
    /// Somebody else wrote them, and it was taken back.
    pub const TAKEN_BACK: &str = "TakenBack";
    /// Somebody else insists: the field is left to that writer for now.
    pub const LEFT_TO_OTHER: &str = "LeftToOther";
}
