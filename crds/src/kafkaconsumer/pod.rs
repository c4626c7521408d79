//! `spec.pod`: a curated pod template (not `PodTemplateSpec`, whose schema alone is larger than a client-side apply takes).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The consumer's pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// The image of your own consumer; it is used as it is named, whatever `imagePolicy` says. Default: the stock consumer, in the version that `imagePolicy` chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,

    /// Which version of the stock consumer runs when the operator is upgraded. `Pinned` (the default): the one that this consumer was first rolled out with, in `status.stockImage`. `FollowOperator`: the operator's own; the operator rolls a few consumers at a time, and the next ones when those are ready. Back to `Pinned`: the version that runs then is kept.
    pub image_policy: ImagePolicy,

    /// When the image is pulled: `Always`, `IfNotPresent` or `Never`. Default: Kubernetes' own (`IfNotPresent` unless the tag is `latest`).
    #[serde(skip_serializing_if = "Option::is_none")]
    // Without it the sentence of the type would stand in its place.
    #[schemars(with = "ImagePullPolicy")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets with credentials for the image's registry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<core::LocalObjectReference>,

    /// Requests and limits of CPU and memory. Default: requests of 50m and 64Mi, no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<core::ResourceRequirements>,

    /// Arguments of the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,

    /// Environment variables. Names that begin with SLUICE_ are the operator's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<core::EnvVar>,

    /// ConfigMaps and Secrets whose entries become environment variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<core::EnvFromSource>,

    /// Further labels of the pods. Refused: `sluice.dev/…` and the three of `app.kubernetes.io` that the operator sets (`name`, `instance`, `managed-by`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,

    /// Further annotations of the pods. Refused: `sluice.dev/…`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,

    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<core::Toleration>,

    /// Affinity to nodes and pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<core::Affinity>,

    /// How the pods spread over zones and nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<core::TopologySpreadConstraint>,

    /// Security settings of the pod. What you set here is laid over the defaults, field by field: non-root, seccomp RuntimeDefault, and the user, group and fsGroup that the operator's administrator chose (65532, or the platform's choice).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<core::PodSecurityContext>,

    /// Security settings of the container. What you set here is laid over the defaults, field by field: read-only root file system, all capabilities dropped, no privilege escalation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_security_context: Option<core::SecurityContext>,

    /// Volumes of the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,

    /// Where the volumes appear in the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<core::VolumeMount>,

    /// The service account. Default: the namespace's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,

    /// True mounts the service account's token: for a handler that calls the Kubernetes API. Default false, also with a service account of your own.
    pub automount_service_account_token: bool,

    /// The priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,

    /// The seconds that a stopping pod has. Default 35; `delivery.drainTimeout` must be at least 10 s less.
    #[schemars(range(min = 11, max = 86_400))]
    pub termination_grace_period_seconds: i64,
}

impl Default for Pod {
    fn default() -> Self {
        Self {
            image: None,
            image_policy: ImagePolicy::Pinned,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            resources: None,
            args: Vec::new(),
            env: Vec::new(),
            env_from: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: Vec::new(),
            security_context: None,
            container_security_context: None,
            volumes: Vec::new(),
            volume_mounts: Vec::new(),
            service_account_name: None,
            automount_service_account_token: false,
            priority_class_name: None,
            termination_grace_period_seconds: 35,
        }
    }
}

/// Which version of the stock consumer runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePolicy {
    /// The one that the consumer was first rolled out with.
    #[default]
    Pinned,
    /// The operator's own.
    FollowOperator,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// At each start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: the node must have it.
    Never,
}

impl ImagePullPolicy {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// A volume: a name and one source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.configMap), has(self.secret), has(self.emptyDir), has(self.projected), has(self.persistentVolumeClaim), has(self.csi)].exists_one(x, x)")
        .message("a volume needs exactly one of configMap, secret, emptyDir, projected, persistentVolumeClaim and csi"),
)]
pub struct Volume {
    /// The name that volumeMounts refer to.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Entries of a ConfigMap as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<core::ConfigMapVolumeSource>,
    /// Entries of a Secret as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<core::SecretVolumeSource>,
    /// A folder that lives as long as the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<core::EmptyDirVolumeSource>,
    /// Several sources in one folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<core::ProjectedVolumeSource>,
    /// A claim of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<core::PersistentVolumeClaimVolumeSource>,
    /// A volume of a CSI driver, such as the one for secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<core::CSIVolumeSource>,
}
