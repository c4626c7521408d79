//! The consumer's objects as they are, from the watches' stores, from what was written a moment ago, and where the
//! watches do not show an object, from the API server. Reads only.

use std::{fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::reflector::{Lookup, ObjectRef, Store},
};
use serde::de::DeserializeOwned;
use sluice_crds::{
    KafkaConsumer, KafkaConsumerStatus, labels,
    tuning::{FILE_NAME, Tuning},
};
use tokio::time::Instant;

use super::{
    watch::Stores,
    written::{self, Answer, Known, Written},
};
use crate::identity::Identity;

/// All reads of a pass together take no longer: kube itself repeats for minutes what the API server throttles.
const OBSERVE: Duration = Duration::from_secs(5);

/// An object could not be read, and nothing may be concluded from that.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("cannot read {kind} {name}")]
    Api {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// It took too long.
    #[error("the objects could not be read within {} s: the API server is slow", OBSERVE.as_secs())]
    Timeout,
}

/// A consumer and its children at one moment.
#[derive(Clone, Debug)]
pub struct Children {
    /// The consumer, with the newest status known.
    pub consumer: Arc<KafkaConsumer>,
    /// Its Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// `NAME-tuning`.
    pub tuning: Option<Arc<ConfigMap>>,
    /// Its pods, those that are stopping too. One that has ended (evicted, or its node was shut down) is no pod, though
    /// its object stays.
    pub pods: Vec<Arc<Pod>>,
}

impl Children {
    /// The newest status.
    pub fn status(&self) -> KafkaConsumerStatus {
        self.consumer.status.clone().unwrap_or_default()
    }

    /// The replicas of the Deployment.
    pub fn desired(&self) -> Option<i32> {
        self.deployment.as_ref().map(|d| d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))
    }

    /// Pods that are ready: those that have joined their group.
    pub fn ready(&self) -> i32 {
        let ready = |p: &&Arc<Pod>| p.metadata.deletion_timestamp.is_none() && is_ready(p);
        self.pods.iter().filter(ready).count() as i32
    }

    /// The knobs that were last written, as the ConfigMap has them.
    pub fn knobs(&self) -> Option<Tuning> {
        self.tuning.as_deref().and_then(knobs_in)
    }

    /// The image of the Deployment: what was pinned, where the status was lost.
    pub fn image(&self) -> Option<String> {
        let pod = self.deployment.as_ref()?.spec.as_ref()?.template.spec.as_ref()?;
        pod.containers.iter().find(|c| c.name == labels::CONTAINER)?.image.clone()
    }
}

/// The knobs in a tuning file.
pub fn knobs_in(file: &ConfigMap) -> Option<Tuning> {
    Tuning::from_yaml(file.data.as_ref()?.get(FILE_NAME)?).ok()
}

/// Whether all containers of a pod have ended for good: an evicted pod, or one of a node that was shut down, stays as an
/// object.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Observes the objects of one consumer at one moment.
pub struct Observer<'a> {
    /// Whose.
    pub id: &'a Identity,
    /// What the watches have seen.
    pub stores: &'a Stores,
    /// The API server, for what they do not show: their silence proves nothing.
    pub client: &'a Client,
    /// The moment.
    pub now: Instant,
}

impl Observer<'_> {
    /// The consumer with the newest status that is known: the watch may not show yet what was written.
    pub fn consumer(
        &self,
        consumer: &Arc<KafkaConsumer>,
        written: &mut Written,
    ) -> Arc<KafkaConsumer> {
        let newest = written.consumer.newest(Arc::clone(consumer), self.now);
        // The spec is always the watch's: only the status is ours to write.
        if newest.status == consumer.status {
            return Arc::clone(consumer);
        }
        let status = newest.status.clone();
        Arc::new(KafkaConsumer { status, ..KafkaConsumer::clone(consumer) })
    }

    /// What is known of a consumer and its objects.
    ///
    /// # Errors
    /// When the API server has to be asked and does not answer.
    pub async fn observe(
        &self,
        consumer: Arc<KafkaConsumer>,
        written: &mut Written,
    ) -> Result<Children, Error> {
        tokio::time::timeout(OBSERVE, self.read(consumer, written))
            .await
            .map_err(|_| Error::Timeout)?
    }

    async fn read(
        &self,
        consumer: Arc<KafkaConsumer>,
        written: &mut Written,
    ) -> Result<Children, Error> {
        let (id, stores) = (self.id, self.stores);
        let (name, tuning) = (id.deployment_name().to_owned(), id.tuning_name());
        let pods = stores.pods.of(&ObjectRef::new(&id.name).within(&id.namespace));
        Ok(Children {
            deployment: self.find(&stores.deployments, name, &mut written.deployment).await?,
            tuning: self.find(&stores.config_maps, tuning, &mut written.tuning).await?,
            pods: pods.into_iter().filter(|pod| !has_ended(pod)).collect(),
            consumer,
        })
    }

    /// The object, if it is this consumer's: after a consumer was deleted and created again, the old one's objects are
    /// about to be collected.
    async fn find<K>(
        &self,
        store: &Store<K>,
        name: String,
        known: &mut Known<K>,
    ) -> Result<Option<Arc<K>>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Lookup<DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + 'static,
    {
        let seen = store.get(&ObjectRef::new(&name).within(&self.id.namespace));
        let seen = seen.filter(|object| is_owned(object.as_ref(), self.id));
        match known.lookup(seen, self.now) {
            written::Lookup::There(object) => Ok(Some(object)),
            written::Lookup::Absent => Ok(None),
            written::Lookup::Ask => {
                let api: Api<K> = Api::namespaced(self.client.clone(), &self.id.namespace);
                let answer = api.get_opt(&name).await;
                let answer = answer.map_err(|source| Error::Api {
                    kind: <K as Resource>::kind(&()).into_owned(),
                    name,
                    source,
                })?;
                let answer = match answer {
                    Some(object) if is_owned(&object, self.id) => Answer::Ours(object),
                    Some(_) => Answer::Taken,
                    None => Answer::NotFound,
                };
                Ok(known.answered(answer, self.now))
            }
        }
    }
}

/// Whether an object's controller is this consumer.
pub fn is_owned<K: Resource>(object: &K, id: &Identity) -> bool {
    object
        .owner_references()
        .iter()
        .any(|owner| owner.uid == id.uid && owner.controller == Some(true))
}
