//! Names of labels, annotations, field managers, ports and paths: each defined once.

/// Label of everything that the operator makes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "sluice";
/// Label with the kind of application.
pub const NAME: &str = "app.kubernetes.io/name";
/// Value of [`NAME`].
pub const NAME_VALUE: &str = "kafka-consumer";
/// Label with the KafkaConsumer's name on everything of it, pods too. The operator watches by it: other tools rewrite the
/// labels of `app.kubernetes.io`, this one nobody else writes.
pub const CONSUMER: &str = "sluice.dev/consumer";
/// Annotation on every object of a consumer: the hash of what was built. One that carries another is written again.
pub const DESIRED_HASH: &str = "sluice.dev/desired-hash";
/// Label with the KafkaConsumer's name. Together with [`NAME`] it selects a consumer's pods.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// The domain of the operator's own labels and annotations.
pub const DOMAIN: &str = "sluice.dev";

/// Whether a label or an annotation on a consumer's objects is the operator's own: nobody else may
/// set it.
pub fn is_own(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    [MANAGED_BY, NAME, INSTANCE].contains(&key)
        || domain == DOMAIN
        || domain.strip_suffix(DOMAIN).is_some_and(|rest| rest.ends_with('.'))
}

/// Annotation on a KafkaConsumer: `"true"` stops the operator from writing to its children.
pub const PAUSED: &str = "sluice.dev/paused";
/// Annotation on a KafkaConsumer: `"true"` lets it take over a group that other members still use.
pub const TAKE_OVER: &str = "sluice.dev/take-over-group";
/// Annotation on the pod template: hash of the meaning of the static configuration; a change rolls the pods.
pub const CONFIG_HASH: &str = "sluice.dev/config-hash";
/// Annotation on the pod template, and so on its pods: hash of the whole template. It tells which pods are of the newest one.
pub const TEMPLATE_HASH: &str = "sluice.dev/template-hash";
/// Annotation on pods: the revision of the knobs, written so that the kubelet syncs the file at once.
pub const TUNING_REVISION: &str = "sluice.dev/tuning-revision";
/// Annotation on the ConfigMap `NAME-tuning`: its revision.
pub const REVISION: &str = "sluice.dev/revision";

/// Field manager of children.
pub const FIELD_MANAGER: &str = "sluice.dev/operator";
/// Field manager of the Deployment's replicas.
pub const FIELD_MANAGER_SCALER: &str = "sluice.dev/scaler";
/// Field manager of a KafkaConsumer's status.
pub const FIELD_MANAGER_STATUS: &str = "sluice.dev/status";

/// The volume of a consumer pod with the static configuration.
pub const CONFIG_VOLUME: &str = "sluice-config";
/// The volume of a consumer pod with the tuning file.
pub const TUNING_VOLUME: &str = "sluice-tuning";
/// The container of a consumer pod.
pub const CONTAINER: &str = "consumer";
/// The port of `/livez`, `/readyz` and `/metrics` in consumer pods.
pub const HEALTH_PORT: u16 = 8080;
/// Where the static configuration is mounted in consumer pods.
pub const CONFIG_DIR: &str = "/etc/sluice/config";
/// Where the tuning file is mounted in consumer pods.
pub const TUNING_DIR: &str = "/etc/sluice/tuning";
/// Environment variable with the folder of the static configuration.
pub const ENV_CONFIG_DIR: &str = "SLUICE_CONFIG_DIR";
/// Environment variable with the folder of the tuning file.
pub const ENV_TUNING_DIR: &str = "SLUICE_TUNING_DIR";
/// Environment variable with the pod's name.
pub const ENV_POD_NAME: &str = "SLUICE_POD_NAME";
/// Environment variable with what the pod's client id ends with (see [`crate::member`]).
pub const ENV_MEMBER_SUFFIX: &str = "SLUICE_MEMBER_SUFFIX";
/// Environment variable with the log filter (`tracing` syntax; default `info`).
pub const ENV_LOG: &str = "SLUICE_LOG";
