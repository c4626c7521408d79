//! `spec.inheritedMetadata`: labels and annotations of everything that a consumer consists of.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels and annotations that all objects of the consumer get: its Deployment, its ConfigMaps and
/// its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InheritedMetadata {
    /// Labels. A change rolls the pods. Refused: `sluice.dev/…` and the three of `app.kubernetes.io` that the operator sets (`name`, `instance`, `managed-by`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub labels: BTreeMap<String, String>,

    /// Annotations. A change rolls the pods. Refused: `sluice.dev/…`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64))]
    pub annotations: BTreeMap<String, String>,
}
