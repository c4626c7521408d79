//! Server-side apply of what differs; writes only. In a steady state nothing differs, and nothing is sent.
//!
//! Three writers, three field managers: the objects, the Deployment's replicas, and the status (see `report`). Each is
//! forced: these objects are the operator's. An object of the same name that is somebody else's is left alone, and so is
//! one that somebody else insists on (`contest`).
//!
//! A Deployment is created with `replicas: 0`, and that is sent in one case only: the API server has just answered that
//! there is none (`written` has the invariant).

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
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

use super::{
    children::{Children, is_owned},
    configs::Configs,
    contest::Rival,
    difference::{contains, content, desired_hash, differs},
    refusal::{APPLY, Error},
    written::{Answer, Known, Written},
};
use crate::{identity::Identity, metrics::Metrics};

/// Annotating the pods takes no longer: those that are left over get their file a minute later.
const ANNOTATE: Duration = Duration::from_secs(3);
/// Pods that are annotated at once.
const AT_ONCE: usize = 16;
/// With `applyOn: Rebalance` new knobs have this time to arrive before the pods change.
const KNOBS_FIRST: Duration = Duration::from_secs(2);

/// The objects of one consumer as they should be. The Deployment is without replicas: they have a writer of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The static configuration.
    pub config: ConfigMap,
    /// The tuning file.
    pub tuning: ConfigMap,
    /// The Deployment.
    pub deployment: Deployment,
}

/// What the pods should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pods {
    /// How many; `None` leaves them as they are.
    pub replicas: Option<i32>,
    /// Whether new knobs reach the pods before the pods change (`applyOn: Rebalance`).
    pub after_knobs: bool,
}

/// What was written, and what is there now.
#[derive(Debug, Default)]
pub struct Applied {
    /// The newest Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// The newest tuning file.
    pub tuning: Option<Arc<ConfigMap>>,
    /// The Deployment was not there and was created.
    pub created: bool,
    /// The replicas before and after, where they were written.
    pub scaled: Option<(i32, i32)>,
    /// When to continue.
    pub again: Option<Duration>,
    /// Why not all could be written.
    pub error: Option<Error>,
}

impl Applied {
    /// What is there as long as nothing is written.
    pub fn untouched(children: &Children) -> Self {
        Self {
            deployment: children.deployment.clone(),
            tuning: children.tuning.clone(),
            ..Self::default()
        }
    }
}

/// Who writes, and what is remembered of it.
pub struct Writer<'a> {
    /// The API server.
    pub client: &'a Client,
    /// Whose objects these are.
    pub id: &'a Identity,
    /// What is known of them beyond the watches.
    pub written: &'a mut Written,
    /// The static configurations.
    pub configs: Configs<'a>,
    /// Counts what is written.
    pub metrics: &'a Metrics,
    /// The moment of the pass.
    pub now: Instant,
}

impl Writer<'_> {
    /// Writes what differs: the files before the pods that read them, the template, then the number of pods.
    pub async fn apply(mut self, desired: &Objects, children: &Children, pods: Pods) -> Applied {
        let mut applied = Applied::untouched(children);
        let steps = self.steps(desired, children, pods, &mut applied);
        let error = match tokio::time::timeout(APPLY, steps).await {
            Ok(ended) => ended.err(),
            Err(_) => Some(Error::Timeout),
        };
        applied.error = error;
        applied
    }

    async fn steps(
        &mut self,
        desired: &Objects,
        children: &Children,
        pods: Pods,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        self.configs.ensure(&desired.config).await?;
        let tuning =
            self.object(&desired.tuning, children.tuning.as_ref(), |w| &mut w.tuning).await?;
        if tuning.is_some() {
            // A first file is there before the first pod: nobody has to wait for it.
            self.written.knobs_at = children.tuning.is_some().then_some(self.now);
        }
        let tuning = tuning.or_else(|| children.tuning.clone());
        applied.tuning.clone_from(&tuning);
        if let Some(rest) = self.knobs_first(pods).filter(|_| children.deployment.is_some()) {
            applied.again = Some(rest);
            self.annotate(children, tuning.as_deref()).await;
            return Ok(());
        }
        if let Some(deployment) = self.deployment(desired, children).await? {
            applied.created = children.deployment.is_none();
            self.configs.known.template_written(self.now);
            applied.deployment = Some(deployment);
        }
        if let (Some(deployment), Some(replicas)) = (applied.deployment.clone(), pods.replicas)
            && let Some(scaled) = self.replicas(&deployment, replicas).await?
        {
            let from = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            applied.scaled = Some((from, replicas)).filter(|_| from != replicas);
            applied.deployment = Some(scaled);
        }
        // Last: a spike is not to wait for as many requests as there are pods.
        self.annotate(children, tuning.as_deref()).await;
        self.configs.sweep(&desired.config, applied.deployment.as_deref()).await;
        Ok(())
    }

    /// How long the pods still wait for knobs that were just written.
    fn knobs_first(&self, pods: Pods) -> Option<Duration> {
        let since = self.now.duration_since(self.written.knobs_at?);
        KNOBS_FIRST.checked_sub(since).filter(|rest| pods.after_knobs && !rest.is_zero())
    }

    /// Writes the Deployment (all but its replicas), where it differs.
    async fn deployment(
        &mut self,
        desired: &Objects,
        children: &Children,
    ) -> Result<Option<Arc<Deployment>>, Error> {
        let mut desired = desired.deployment.clone();
        if let (Some(there), Some(spec)) = (&children.deployment, &mut desired.spec)
            && !owns_replicas(there)
        {
            // The scaler has not written them yet, or somebody else has since: leaving the number out would reset it to 1.
            // The version makes it a change of what was read: what somebody writes meanwhile is not overwritten.
            spec.replicas = there.spec.as_ref().and_then(|s| s.replicas);
            desired.metadata.resource_version.clone_from(&there.metadata.resource_version);
        }
        self.object(&desired, children.deployment.as_ref(), |w| &mut w.deployment).await
    }

    /// Writes the number of pods, where it differs (or somebody else wrote it). `deployment` is the newest that is known.
    async fn replicas(
        &mut self,
        deployment: &Deployment,
        replicas: i32,
    ) -> Result<Option<Arc<Deployment>>, Error> {
        let there = deployment.spec.as_ref().and_then(|s| s.replicas);
        if there == Some(replicas) && owns_replicas(deployment) {
            self.written.replicas_contest.agrees(self.now);
            return Ok(None);
        }
        let last = self.written.replicas.map(|(replicas, _)| replicas);
        // Writing the number that is there takes nothing back: it only makes the field ours.
        let taken = last.is_some() && there != Some(replicas);
        let taken = taken && (there != last || !owns_replicas(deployment));
        if taken {
            let owns = |entry: &ManagedFieldsEntry| {
                entry.fields_v1.as_ref().is_some_and(|f| f.0.pointer(REPLICAS).is_some())
            };
            let ours = [labels::FIELD_MANAGER_SCALER, labels::FIELD_MANAGER];
            let mark = there.unwrap_or_default().to_string();
            let rival = Rival::of(deployment.managed_fields(), &ours, owns, &mark);
            if !self.written.replicas_contest.may_take_back(rival, self.now) {
                return Ok(None);
            }
        }
        let name = deployment.name_any();
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let patch = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            // The uid makes it a change of this very object: one that is gone is not created again by this.
            "metadata": { "name": name, "uid": deployment.metadata.uid },
            "spec": { "replicas": replicas },
        });
        let params = PatchParams::apply(labels::FIELD_MANAGER_SCALER).force();
        // An answer that is lost leaves open which number was written: none is known then.
        self.written.replicas = None;
        let answer = api.patch(&name, &params, &Patch::Apply(&patch)).await;
        let answer =
            answer.map_err(|source| Error::Api { kind: "Deployment".to_owned(), name, source })?;
        self.metrics.write("Replicas");
        if taken {
            self.written.replicas_contest.took_back(self.now);
        }
        self.written.replicas = Some((replicas, self.now));
        Ok(Some(self.written.deployment.wrote(answer, self.now)))
    }

    /// Applies one object, unless what exists is what is desired.
    async fn object<K>(
        &mut self,
        desired: &K,
        seen: Option<&Arc<K>>,
        known: impl Fn(&mut Written) -> &mut Known<K>,
    ) -> Result<Option<Arc<K>>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let (now, known) = (self.now, known(self.written));
        let (name, hash) = (desired.name_any(), desired_hash(desired));
        let kind = K::kind(&()).into_owned();
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let failed = |source| Error::Api {
            kind: K::kind(&()).into_owned(),
            name: desired.name_any(),
            source,
        };
        let mut taken = false;
        match seen {
            Some(seen) => {
                if !differs(desired, seen.as_ref(), known)? {
                    known.contest.agrees(now);
                    return Ok(None);
                }
                // What this process wrote, and still wants, is not what is there: somebody else has written since.
                taken = known.hash.as_ref() == Some(&hash);
                if taken {
                    let ours = [labels::FIELD_MANAGER, labels::FIELD_MANAGER_SCALER];
                    let version = seen.resource_version().unwrap_or_default();
                    let rival = Rival::of(seen.managed_fields(), &ours, |_| true, &version);
                    if !known.contest.may_take_back(rival, now) {
                        return Ok(None);
                    }
                }
            }
            None if known.is_absent_at(now) => {}
            // Applying with force would take an object over that somebody else created under this name.
            None => match api.get_opt(&name).await.map_err(failed)? {
                None => {}
                Some(there) if is_owned(&there, self.id) => {
                    // What was decided rests on its absence: the next pass decides again.
                    known.answered(Answer::Ours(there), now);
                    return Err(Error::Appeared { kind, name });
                }
                Some(there) => return Err(Error::taken(&kind, &there, self.id)),
            },
        }
        let params = PatchParams::apply(labels::FIELD_MANAGER).force();
        let document = match seen {
            Some(_) => serde_json::to_value(desired)?,
            None => for_creation(serde_json::to_value(desired)?),
        };
        let answer = api.patch(&name, &params, &Patch::Apply(&document)).await.map_err(failed)?;
        self.metrics.write(metric_kind(&kind));
        let wanted = serde_json::to_value(desired)?;
        known.settled = if contains(&serde_json::to_value(&answer)?, &wanted) {
            None
        } else {
            Some((hash.clone(), content(&answer)?))
        };
        (known.verified, known.hash) = (None, Some(hash));
        if taken {
            known.contest.took_back(now);
        }
        Ok(Some(known.wrote(answer, now)))
    }

    /// Annotates pods that started before the knobs were last written, so that the kubelet syncs their file at once: else
    /// it takes a minute. Pods that cannot be annotated get the file later; that is no reason to fail.
    async fn annotate(&mut self, children: &Children, tuning: Option<&ConfigMap>) {
        let Some(tuning) = tuning else { return };
        let Some(revision) = tuning.annotations().get(labels::REVISION) else { return };
        let Some(written) = written_at(tuning.managed_fields()) else { return };
        let annotated = &mut self.written.annotated;
        annotated.retain(|name, _| {
            children.pods.iter().any(|pod| pod.metadata.name.as_ref() == Some(name))
        });
        let late: Vec<String> = children
            .pods
            .iter()
            .filter(|pod| {
                let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0.as_second());
                pod.metadata.deletion_timestamp.is_none()
                    && created.is_some_and(|created| created < written.as_second())
                    && pod.annotations().get(labels::TUNING_REVISION) != Some(revision)
            })
            .map(|pod| pod.name_any())
            .filter(|name| annotated.get(name) != Some(revision))
            .collect();
        annotated.extend(late.iter().map(|name| (name.clone(), revision.clone())));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.id.namespace);
        let patch = json!({ "metadata": { "annotations": { labels::TUNING_REVISION: revision } } });
        let metrics = self.metrics;
        let all = stream::iter(late)
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
            });
        if tokio::time::timeout(ANNOTATE, all).await.is_err() {
            tracing::warn!(consumer = %self.id, "not all pods could be annotated in time; their knobs arrive later");
        }
    }
}

/// A Deployment begins without pods: without a number the API server would write 1, and a pod would start before its
/// group is ready for it.
fn for_creation(mut object: Value) -> Value {
    if object["kind"] == "Deployment" {
        object["spec"]["replicas"] = json!(0);
    }
    object
}

/// Kinds as metrics name them.
fn metric_kind(kind: &str) -> &'static str {
    match kind {
        "ConfigMap" => "ConfigMap",
        "Deployment" => "Deployment",
        _ => "Other",
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

/// The number of pods in the API server's record of who wrote which field.
pub(super) const REPLICAS: &str = "/f:spec/f:replicas";

/// Whether the number of pods has the scaler as its writer: else the next apply of the rest would reset it to 1.
fn owns_replicas(deployment: &Deployment) -> bool {
    deployment
        .managed_fields()
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(labels::FIELD_MANAGER_SCALER))
        .any(|entry| entry.fields_v1.as_ref().is_some_and(|f| f.0.pointer(REPLICAS).is_some()))
}
