//! Validated + knobs → the objects that ought to be. Pure: no client, no clock, no runtime.
//!
//! One file for each kind. Here are the things that all of them share: names, labels, owner reference, and the hash by
//! which a later pass sees that an object is still what was built.

pub mod config_maps;
pub mod deployment;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::ConfigMap},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde::Serialize;
use sluice_crds::{kafkaconsumer::kafka::GroupProtocol, labels, tuning::Tuning};

use crate::validate::{Identity, Validated};

/// Annotation on every child: the hash of what was built. A child that carries another is written again.
pub const DESIRED_HASH: &str = "sluice.dev/desired-hash";

/// The objects of one consumer. The Deployment is without replicas: they have a writer of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// `NAME-config`.
    pub config: ConfigMap,
    /// `NAME-tuning`.
    pub tuning: ConfigMap,
    /// `NAME`.
    pub deployment: Deployment,
}

/// Why objects could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The static configuration could not be written down.
    #[error("cannot write the static configuration: {0}")]
    Config(#[from] sluice_crds::config::Error),
    /// The tuning file could not be written down.
    #[error("cannot write the tuning file: {0}")]
    Tuning(#[from] sluice_crds::tuning::Error),
    /// An object could not be written down.
    #[error("cannot write an object: {0}")]
    Object(#[from] serde_json::Error),
}

/// Builds a consumer's objects.
///
/// # Errors
/// Never for valid types; the signature is that of the serializers.
pub fn children(v: &Validated, protocol: GroupProtocol, tuning: Tuning) -> Result<Children, Error> {
    let config = config_maps::consumer_config(v, protocol);
    let mut children = Children {
        config: config_maps::config(&v.id, &config)?,
        tuning: config_maps::tuning(&v.id, tuning)?,
        deployment: deployment::deployment(v, &config_maps::meaning(&config)?),
    };
    seal(&mut children.config.metadata.annotations, &children.config.data)?;
    seal(&mut children.tuning.metadata.annotations, &children.tuning.data)?;
    seal(&mut children.deployment.metadata.annotations, &children.deployment.spec)?;
    Ok(children)
}

/// Name of the Deployment.
pub fn deployment_name(id: &Identity) -> String {
    id.name.clone()
}

/// Name of the ConfigMap with the static configuration.
pub fn config_name(id: &Identity) -> String {
    format!("{}-config", id.name)
}

/// Name of the ConfigMap with the tuning file.
pub fn tuning_name(id: &Identity) -> String {
    format!("{}-tuning", id.name)
}

/// The labels that select a consumer's pods.
pub fn selector_labels(id: &Identity) -> BTreeMap<String, String> {
    [(labels::NAME, labels::NAME_VALUE), (labels::INSTANCE, id.name.as_str())]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

/// The selector as the scale subresource has it.
pub fn selector(id: &Identity) -> String {
    format!("{}={},{}={}", labels::NAME, labels::NAME_VALUE, labels::INSTANCE, id.name)
}

fn all_labels(id: &Identity) -> BTreeMap<String, String> {
    let mut all = selector_labels(id);
    all.insert(labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned());
    all
}

fn metadata(id: &Identity, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(id.namespace.clone()),
        labels: Some(all_labels(id)),
        owner_references: Some(vec![OwnerReference {
            api_version: "sluice.dev/v1alpha1".to_owned(),
            kind: "KafkaConsumer".to_owned(),
            name: id.name.clone(),
            uid: id.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn seal<T: Serialize>(annotations: &mut Option<BTreeMap<String, String>>, content: &T) -> Result<(), Error> {
    let hash = hash(&(&annotations, content))?;
    annotations.get_or_insert_default().insert(DESIRED_HASH.to_owned(), hash);
    Ok(())
}

/// FNV-1a (64 bits) over the value's JSON. Not the standard library's hasher, which may change with the toolchain: then
/// an upgrade of the operator would roll every pod.
pub fn hash<T: Serialize>(value: &T) -> Result<String, Error> {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in serde_json::to_vec(value)? {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    Ok(format!("{hash:016x}"))
}
