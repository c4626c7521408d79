//! The consumer's children as they are, from the watches' stores and from what was written a moment ago. Reads only, and
//! none of them asks the API server.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{Lookup, ObjectRef},
};
use sluice_crds::{
    KafkaConsumer, KafkaConsumerStatus, labels,
    tuning::{FILE_NAME, Tuning},
};
use tokio::time::Instant;

use crate::{
    cluster::{watch::Stores, written::Writes},
    identity::Identity,
    pass::build,
};

/// A consumer and its children at one moment.
#[derive(Clone, Debug)]
pub struct Children {
    /// The consumer, with the newest status known.
    pub consumer: Arc<KafkaConsumer>,
    /// Its Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// `NAME-tuning`.
    pub tuning: Option<Arc<ConfigMap>>,
    /// Its pods, those that are stopping too.
    pub pods: Vec<Arc<Pod>>,
}

impl Children {
    /// The newest status.
    pub fn status(&self) -> KafkaConsumerStatus {
        self.consumer.status.clone().unwrap_or_default()
    }

    /// Pods that the Deployment is to have.
    pub fn asked_for(&self) -> Option<i32> {
        self.deployment.as_ref().map(|d| d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
    }

    /// Pods that exist and are not stopping.
    pub fn exist(&self) -> i32 {
        self.pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none() && !ended(p)).count()
            as i32
    }

    /// Pods that are ready: those that have joined their group.
    pub fn ready(&self) -> i32 {
        let ready = |p: &&Arc<Pod>| p.metadata.deletion_timestamp.is_none() && is_ready(p);
        self.pods.iter().filter(ready).count() as i32
    }

    /// The knobs that were last written, as the ConfigMap has them.
    pub fn knobs(&self) -> Option<Tuning> {
        Tuning::from_yaml(self.tuning.as_ref()?.data.as_ref()?.get(FILE_NAME)?).ok()
    }

    /// The image of the Deployment: what was pinned, where the status was lost.
    pub fn image(&self) -> Option<String> {
        let pod = self.deployment.as_ref()?.spec.as_ref()?.template.spec.as_ref()?;
        pod.containers.iter().find(|c| c.name == labels::CONTAINER)?.image.clone()
    }
}

/// Whether all containers of a pod have ended (an evicted pod stays as an object).
fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// What is known of a consumer's children.
pub fn observe(
    consumer: &Arc<KafkaConsumer>,
    id: &Identity,
    stores: &Stores,
    writes: &mut Writes,
    now: Instant,
) -> Children {
    let newest = writes
        .consumer
        .newest(Some(Arc::clone(consumer)), now)
        .unwrap_or_else(|| Arc::clone(consumer));
    // The spec is always the watch's: only the status is ours to write.
    let consumer = if newest.status == consumer.status {
        Arc::clone(consumer)
    } else {
        Arc::new(KafkaConsumer { status: newest.status.clone(), ..KafkaConsumer::clone(consumer) })
    };
    Children {
        deployment: writes
            .deployment
            .newest(child(stores.deployments.get(&key(id, &build::deployment_name(id))), id), now),
        tuning: writes
            .tuning
            .newest(child(stores.config_maps.get(&key(id, &build::tuning_name(id))), id), now),
        pods: stores.pods.of(&ObjectRef::new(&id.name).within(&id.namespace)),
        consumer,
    }
}

fn key<K: Lookup<DynamicType = ()>>(id: &Identity, name: &str) -> ObjectRef<K> {
    ObjectRef::new(name).within(&id.namespace)
}

/// The child, if it is this consumer's: after a consumer was deleted and made again, the old one's children are about to
/// be collected.
fn child<K: Resource>(seen: Option<Arc<K>>, id: &Identity) -> Option<Arc<K>> {
    seen.filter(|object| is_owned(object.as_ref(), id))
}

/// Whether an object's controller is this consumer.
pub fn is_owned<K: Resource>(object: &K, id: &Identity) -> bool {
    object
        .owner_references()
        .iter()
        .any(|owner| owner.uid == id.uid && owner.controller == Some(true))
}
