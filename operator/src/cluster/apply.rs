//! Server-side apply of what differs; writes only. In a steady state nothing differs, and nothing is sent.
//!
//! Three writers, three field managers: the children, the Deployment's replicas, and the status (see `report`). Each is
//! forced: these objects are the operator's. An object of the same name that is somebody else's is left alone.

use std::{fmt::Debug, sync::Arc};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sluice_crds::labels;
use tokio::time::Instant;

use crate::{
    cluster::{
        children::{Children, is_owned},
        written::{Slot, Writes},
    },
    identity::Identity,
    metrics::Metrics,
    pass::build::{self, DESIRED_HASH},
};

/// Pods that are annotated at once.
const AT_ONCE: usize = 16;

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("cannot write {kind} {name}: {source}")]
    Api {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The name belongs to something else.
    #[error(
        "{kind} {name} exists and belongs to {owner}: delete or rename it, or give this KafkaConsumer another name"
    )]
    Taken {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// An object could not be written down.
    #[error(transparent)]
    Build(#[from] build::Error),
}

impl Error {
    /// The name of an object is taken.
    pub fn taken<K: Resource<DynamicType = ()>>(kind: &str, there: &K) -> Self {
        let owner = match there.owner_references().first() {
            Some(owner) => format!("{} {} ({})", owner.kind, owner.name, owner.uid),
            None => "nobody that Kubernetes knows".to_owned(),
        };
        Self::Taken { kind: kind.to_owned(), name: there.name_any(), owner }
    }

    /// A fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => match status.code {
                403 => "Forbidden",
                404 => "NotFound",
                409 => "Conflict",
                422 => "Invalid",
                429 => "Throttled",
                500..=599 => "ServerError",
                _ => "ApiError",
            },
            Self::Api { .. } => "ApiUnreachable",
            Self::Taken { .. } => "NameTaken",
            Self::Build(_) => "Build",
        }
    }

    /// Whether the object (or its namespace) is gone, or is going: nothing is left to do.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. }
            if status.code == 404 || (status.code == 403 && status.message.contains("is being terminated")))
    }
}

/// Who writes, and what is remembered of it.
pub struct Writer<'a> {
    /// The API server.
    pub client: &'a Client,
    /// Whose children these are.
    pub id: &'a Identity,
    /// What was written before.
    pub writes: &'a mut Writes,
    /// Counts what is written.
    pub metrics: &'a Metrics,
}

impl Writer<'_> {
    /// Writes the knobs, where they differ. They come before the pods that read them.
    ///
    /// # Errors
    /// When the API server does not take them.
    pub async fn tuning(
        &mut self,
        desired: &build::Children,
        seen: &mut Children,
    ) -> Result<(), Error> {
        if let Some(written) = self
            .child(&desired.tuning, seen.tuning.as_ref(), |w| &mut w.tuning, "ConfigMap")
            .await?
        {
            // A first file is there before the first pod: nobody has to wait for it.
            self.writes.knobs_at = seen.tuning.is_some().then(Instant::now);
            seen.tuning = Some(written);
        }
        Ok(())
    }

    /// Writes the Deployment (all but its replicas), where it differs.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn deployment(
        &mut self,
        desired: &build::Children,
        seen: &Children,
    ) -> Result<Option<Arc<Deployment>>, Error> {
        let mut desired = desired.deployment.clone();
        if let Some(spec) = &mut desired.spec {
            spec.replicas = match &seen.deployment {
                // Without a number the API server would write 1, and a pod would start before its group is ready for it.
                None => Some(0),
                // The operator ended before the scaler had its turn: leaving the number out would reset it to 1.
                Some(there) if !owns_replicas(there) => {
                    there.spec.as_ref().and_then(|s| s.replicas)
                }
                Some(_) => None,
            };
        }
        self.child(&desired, seen.deployment.as_ref(), |w| &mut w.deployment, "Deployment").await
    }

    /// Writes the number of pods, where it differs (or was somebody else's). `deployment` is the newest that is known.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn replicas(
        &mut self,
        deployment: &Deployment,
        replicas: i32,
    ) -> Result<bool, Error> {
        let asked = deployment.spec.as_ref().and_then(|s| s.replicas);
        if asked == Some(replicas) && owns_replicas(deployment) {
            return Ok(false);
        }
        let name = deployment.name_any();
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let patch = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            // The uid makes it a change of this very object: one that is gone is not made anew by this.
            "metadata": { "name": name, "uid": deployment.metadata.uid },
            "spec": { "replicas": replicas },
        });
        let params = PatchParams::apply(labels::FIELD_MANAGER_SCALER).force();
        let answer = api.patch(&name, &params, &Patch::Apply(&patch)).await;
        let answer =
            answer.map_err(|source| Error::Api { kind: "Deployment".to_owned(), name, source })?;
        self.metrics.write("Replicas");
        self.writes.deployment.wrote(answer, Instant::now());
        Ok(true)
    }

    /// Applies one child, unless what exists is what is desired.
    async fn child<K>(
        &mut self,
        desired: &K,
        seen: Option<&Arc<K>>,
        slot: impl Fn(&mut Writes) -> &mut Slot<K>,
        kind: &'static str,
    ) -> Result<Option<Arc<K>>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        if let Some(seen) = seen
            && !differs(desired, seen.as_ref(), slot(self.writes))?
        {
            return Ok(None);
        }
        let name = desired.name_any();
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let failed = |source| Error::Api { kind: kind.to_owned(), name: name.clone(), source };
        if seen.is_none() {
            // Applying with force would take an object over that somebody else made under this name.
            if let Some(there) = api.get_metadata_opt(&name).await.map_err(failed)?
                && !is_owned(&there, self.id)
            {
                return Err(Error::taken(kind, &there));
            }
        }
        let params = PatchParams::apply(labels::FIELD_MANAGER).force();
        let answer = api.patch(&name, &params, &Patch::Apply(&desired)).await.map_err(failed)?;
        self.metrics.write(kind);
        let slot = slot(self.writes);
        let wanted = json(desired)?;
        slot.settled = if contains(&json(&answer)?, &wanted) {
            None
        } else {
            Some((desired_hash(desired), content(&answer)?))
        };
        slot.verified = None;
        Ok(Some(slot.wrote(answer, Instant::now())))
    }

    /// Annotates pods that started before the knobs were last written, so that the kubelet syncs their file at once: else
    /// it takes a minute. Pods that cannot be annotated get the file later; that is no reason to fail.
    pub async fn nudge(&mut self, seen: &Children) {
        let Some(tuning) = &seen.tuning else { return };
        let Some(revision) = tuning.annotations().get(labels::REVISION) else { return };
        let Some(written) = written_at(tuning.managed_fields()) else { return };
        let nudged = &mut self.writes.nudged;
        nudged
            .retain(|name, _| seen.pods.iter().any(|pod| pod.metadata.name.as_ref() == Some(name)));
        let late: Vec<String> = seen
            .pods
            .iter()
            .filter(|pod| {
                let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second());
                pod.metadata.deletion_timestamp.is_none()
                    && created.is_some_and(|created| created < written.as_second())
                    && pod.annotations().get(labels::TUNING_REVISION) != Some(revision)
            })
            .map(|pod| pod.name_any())
            .filter(|name| nudged.get(name) != Some(revision))
            .collect();
        nudged.extend(late.iter().map(|name| (name.clone(), revision.clone())));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let patch = json!({ "metadata": { "annotations": { labels::TUNING_REVISION: revision } } });
        let metrics = self.metrics;
        stream::iter(late)
            .for_each_concurrent(AT_ONCE, |name| {
                let (api, patch) = (&api, &patch);
                async move {
                    match api.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                        Ok(_) => metrics.write("Pod"),
                        Err(kube::Error::Api(status)) if status.is_not_found() => {}
                        Err(error) => {
                            tracing::warn!(%error, pod = name, "cannot annotate a pod; its knobs arrive later");
                        }
                    }
                }
            })
            .await;
    }
}

/// When the operator last changed an object, by the API server's own book.
fn written_at(fields: &[ManagedFieldsEntry]) -> Option<Timestamp> {
    fields
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(labels::FIELD_MANAGER))
        .filter_map(|entry| entry.time.as_ref().map(|t| t.0))
        .max()
}

/// Whether the number of pods has the scaler as its writer: else the next apply of the rest would reset it to 1.
fn owns_replicas(deployment: &Deployment) -> bool {
    deployment
        .managed_fields()
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(labels::FIELD_MANAGER_SCALER))
        .any(|entry| {
            entry.fields_v1.as_ref().is_some_and(|f| f.0.pointer("/f:spec/f:replicas").is_some())
        })
}

/// Whether an object has to be written: what was built for it has changed, or somebody changed what was built.
fn differs<K: Resource + Serialize>(
    desired: &K,
    seen: &K,
    slot: &mut Slot<K>,
) -> Result<bool, Error> {
    let hash = desired_hash(desired);
    if seen.meta().annotations.as_ref().and_then(|a| a.get(DESIRED_HASH)) != Some(&hash) {
        return Ok(true);
    }
    let verified = seen.meta().resource_version.clone().map(|version| (version, hash.clone()));
    if verified.is_some() && slot.verified == verified {
        return Ok(false);
    }
    let agrees = contains(&json(seen)?, &json(desired)?)
        || match &slot.settled {
            Some((settled, made)) => *settled == hash && *made == content(seen)?,
            None => false,
        };
    if agrees {
        slot.verified = verified;
    }
    Ok(!agrees)
}

fn desired_hash<K: Resource>(object: &K) -> String {
    object
        .meta()
        .annotations
        .as_ref()
        .and_then(|a| a.get(DESIRED_HASH))
        .cloned()
        .unwrap_or_default()
}

fn json<T: Serialize>(value: &T) -> Result<Value, Error> {
    Ok(serde_json::to_value(value).map_err(build::Error::Object)?)
}

/// Hash of an object's content without what others write: status, book-keeping and replicas.
fn content<K: Serialize>(object: &K) -> Result<String, Error> {
    let mut value = json(object)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
        fields.remove("metadata");
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
    Ok(build::hash(&value)?)
}

/// Whether `seen` has all that `desired` has. What the API server adds by default is no difference; lists of named things
/// are compared by name, others one by one.
fn contains(seen: &Value, desired: &Value) -> bool {
    match (seen, desired) {
        (Value::Object(seen), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match seen.get(key) {
                Some(found) => contains(found, value),
                // What is empty may be left out.
                None => {
                    value.is_null()
                        || value.as_object().is_some_and(serde_json::Map::is_empty)
                        || value.as_array().is_some_and(Vec::is_empty)
                }
            })
        }
        (Value::Array(seen), Value::Array(desired)) => {
            let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
            if desired.iter().all(|d| name(d).is_some()) {
                desired.iter().all(|d| seen.iter().any(|s| name(s) == name(d) && contains(s, d)))
            } else {
                seen.len() == desired.len() && seen.iter().zip(desired).all(|(s, d)| contains(s, d))
            }
        }
        (seen, desired) => seen == desired,
    }
}
