//! The static configurations of one consumer: a ConfigMap each, named after its meaning. Its data is
//! written once and never changed; its labels and annotations may be. Pods of an older template keep
//! theirs, so a bad setting reaches no good pod, and an older ReplicaSet can be returned to.
//!
//! One that nothing names any more is deleted: some minutes after the template was last written, and only
//! when the API server itself lists no ReplicaSet that names it. What a watch does not show proves nothing.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, PodTemplateSpec},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
    runtime::reflector::{ObjectRef, Store},
};
use sluice_crds::labels;
use tokio::time::Instant;

use crate::{
    cluster::{children::is_owned, difference::desired_hash, refusal::Error},
    identity::Identity,
    metrics::Metrics,
};

/// A configuration that was created is believed to be there for this long before its watch shows it.
const WATCH_DELAY: Duration = Duration::from_secs(15);
/// One that the watch never shows is asked for this often.
const SELDOM: Duration = Duration::from_secs(300);
/// So long after the template was last written a configuration that nothing names may be deleted.
const GRACE: Duration = Duration::from_secs(600);
/// A look-out takes no longer: a pass waits for it.
const SWEEP: Duration = Duration::from_secs(3);
/// After a start of the operator the look-outs of all consumers are spread over this time.
const SPREAD: Duration = Duration::from_secs(3_600);

/// What is known of a consumer's configurations beyond the watch.
#[derive(Debug, Default)]
pub struct Known {
    /// The one that the API server said is there, and until when that is believed.
    there: Option<(String, Instant)>,
    /// Name and hash of the one whose labels and annotations were written last: what others make of
    /// them is left alone.
    labelled: Option<(String, String)>,
    sweep: Sweep,
}

/// When configurations that nothing names are looked for.
#[derive(Clone, Copy, Debug, Default)]
enum Sweep {
    /// The operator has just started: what its predecessor left is looked for some time later.
    #[default]
    Unplanned,
    At(Instant),
    Done,
}

impl Known {
    /// Takes note that the Deployment's template was written: in a while a configuration may be without a name.
    pub fn template_written(&mut self, now: Instant) {
        self.sweep = Sweep::At(now + GRACE);
    }
}

/// Creates and deletes the configurations of one consumer.
pub struct Configs<'a> {
    /// The API server.
    pub client: &'a Client,
    /// Whose they are.
    pub id: &'a Identity,
    /// What the watch shows.
    pub store: &'a Store<ConfigMap>,
    /// What is known beyond it.
    pub known: &'a mut Known,
    /// Counts what is written.
    pub metrics: &'a Metrics,
    /// The moment of the pass.
    pub now: Instant,
}

impl Configs<'_> {
    /// Creates a configuration, unless it is there, and gives it the labels and annotations that it
    /// should have. It comes before the template that names it.
    ///
    /// # Errors
    /// When the API server does not take it, or the name is somebody else's.
    pub async fn ensure(&mut self, desired: &ConfigMap) -> Result<(), Error> {
        let name = desired.name_any();
        let seen = self.store.get(&ObjectRef::new(&name).within(&self.id.namespace));
        if let Some(seen) = seen.filter(|seen| is_owned(seen.as_ref(), self.id)) {
            self.known.there = None;
            return self.label(desired, &seen).await;
        }
        if let Some((there, until)) = &self.known.there
            && *there == name
            && self.now < *until
        {
            return Ok(());
        }
        let failed =
            |source| Error::Api { kind: "ConfigMap".to_owned(), name: name.clone(), source };
        let api = self.api::<ConfigMap>();
        let believed = match api.get_metadata_opt(&name).await.map_err(failed)? {
            Some(there) if is_owned(&there, self.id) => SELDOM,
            Some(there) => return Err(Error::taken("ConfigMap", &there, self.id)),
            None => {
                // Without force: what somebody else creates in between is not overwritten.
                let params = PatchParams::apply(labels::FIELD_MANAGER);
                api.patch(&name, &params, &Patch::Apply(desired)).await.map_err(failed)?;
                self.metrics.write("ConfigMap");
                WATCH_DELAY
            }
        };
        self.known.there = Some((name, self.now + believed));
        Ok(())
    }

    /// Writes labels and annotations, where others are desired than those that were written. The data
    /// stays: it is immutable, and may say the same in other words.
    async fn label(&mut self, desired: &ConfigMap, seen: &ConfigMap) -> Result<(), Error> {
        let (name, hash) = (desired.name_any(), desired_hash(desired));
        let mark = Some((name.clone(), hash));
        if desired_hash(seen) == desired_hash(desired) || self.known.labelled == mark {
            return Ok(());
        }
        let data = seen.data.clone();
        let labelled = ConfigMap { data, ..desired.clone() };
        let params = PatchParams::apply(labels::FIELD_MANAGER).force();
        let answer = self.api::<ConfigMap>().patch(&name, &params, &Patch::Apply(&labelled)).await;
        answer.map_err(|source| Error::Api { kind: "ConfigMap".to_owned(), name, source })?;
        self.metrics.write("ConfigMap");
        self.known.labelled = mark;
        Ok(())
    }

    /// Deletes the configurations that neither `desired`, nor the Deployment, nor any ReplicaSet names, when
    /// it is time for that. That it fails is no reason for a pass to fail: the next look-out finds them.
    pub async fn sweep(&mut self, desired: &ConfigMap, deployment: Option<&Deployment>) {
        match self.known.sweep {
            Sweep::At(due) if due <= self.now => {}
            Sweep::Unplanned => {
                let delay = GRACE + SPREAD.mul_f64(fastrand::f64());
                self.known.sweep = Sweep::At(self.now + delay);
                return;
            }
            Sweep::At(_) | Sweep::Done => return,
        }
        let deleted = tokio::time::timeout(SWEEP, self.delete_unnamed(desired, deployment)).await;
        let deleted = deleted.map_err(|_| "no answer in time".to_owned());
        self.known.sweep = match deleted.and_then(|ended| ended.map_err(|e| e.to_string())) {
            Ok(()) => Sweep::Done,
            Err(error) => {
                tracing::warn!(consumer = %self.id, %error, "cannot delete old configurations; they are looked at again later");
                Sweep::At(self.now + GRACE)
            }
        };
    }

    async fn delete_unnamed(
        &self,
        desired: &ConfigMap,
        deployment: Option<&Deployment>,
    ) -> Result<(), kube::Error> {
        let mut named = BTreeSet::from([desired.name_any()]);
        named.extend(deployment.and_then(|d| config_of(&d.spec.as_ref()?.template)));
        let prefix = self.id.config_prefix();
        let mut rest = self.store.state();
        rest.retain(|config| {
            config.metadata.namespace.as_deref() == Some(&self.id.namespace)
                && config.name_any().starts_with(&prefix)
                && is_owned(config.as_ref(), self.id)
                && !named.contains(&config.name_any())
        });
        if rest.is_empty() {
            return Ok(());
        }
        let params = ListParams::default().labels(&self.id.selector());
        let sets = self.api::<ReplicaSet>().list(&params).await?;
        let templates = sets.items.iter().filter_map(|set| set.spec.as_ref()?.template.as_ref());
        named.extend(templates.filter_map(config_of));
        for config in rest.iter().filter(|config| !named.contains(&config.name_any())) {
            let params = DeleteParams {
                // This very object: another of the same name is not touched.
                preconditions: Some(Preconditions {
                    uid: config.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match self.api::<ConfigMap>().delete(&config.name_any(), &params).await {
                Ok(_) => self.metrics.write("ConfigMap"),
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.id.namespace)
    }
}

/// The configuration that pods of a template mount.
fn config_of(template: &PodTemplateSpec) -> Option<String> {
    let mut volumes = template.spec.as_ref()?.volumes.iter().flatten();
    let config = volumes.find(|volume| volume.name == labels::CONFIG_VOLUME)?;
    Some(config.config_map.as_ref()?.name.clone())
}
