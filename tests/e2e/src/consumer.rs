//! A `KafkaConsumer` in the lab: apply it, ask for its status, its pods and its events, wait for what it becomes.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use sluice_crds::{KafkaConsumer, KafkaConsumerStatus, labels};

use crate::until;

const MANAGER: &str = "e2e";

/// One consumer by its namespace and name.
#[derive(Clone)]
pub struct Consumer {
    client: Client,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Consumer {
    /// A handle; nothing is created.
    pub fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The default group of this consumer.
    pub fn group(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    fn api(&self) -> Api<KafkaConsumer> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies this spec as a user's `kubectl apply --server-side` does.
    pub async fn apply(&self, spec: Value) -> Result<()> {
        self.apply_with(spec, json!({})).await
    }

    /// Applies this spec with annotations.
    pub async fn apply_with(&self, spec: Value, annotations: Value) -> Result<()> {
        let object = json!({
            "apiVersion": "sluice.dev/v1alpha1",
            "kind": "KafkaConsumer",
            "metadata": { "name": self.name, "annotations": annotations },
            "spec": spec,
        });
        self.api()
            .patch(&self.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object))
            .await?;
        Ok(())
    }

    /// Merges a change into the object.
    pub async fn patch(&self, change: Value) -> Result<()> {
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(&change)).await?;
        Ok(())
    }

    /// The object.
    pub async fn get(&self) -> Result<KafkaConsumer> {
        Ok(self.api().get(&self.name).await?)
    }

    /// Its status, empty before the operator wrote one.
    pub async fn status(&self) -> Result<KafkaConsumerStatus> {
        Ok(self.get().await?.status.unwrap_or_default())
    }

    /// Deletes it and waits until it and its children are gone.
    pub async fn delete(&self, limit: Duration) -> Result<()> {
        // Children go by garbage collection; foreground deletion would only change the order.
        match self.api().delete(&self.name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            deleted => drop(deleted?),
        }
        until(&format!("{} and its children to be gone", self.name), limit, || async {
            let left = self.children().await?;
            Ok(if left.is_empty() { Ok(()) } else { Err(left) })
        })
        .await
    }

    /// What the operator made for it, as `kind/name`.
    pub async fn children(&self) -> Result<Vec<String>> {
        let mut children = Vec::new();
        for object in Api::<Deployment>::namespaced(self.client.clone(), &self.namespace)
            .list(&self.selector())
            .await?
        {
            children.push(format!("deployment/{}", object.name_any()));
        }
        for object in Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace)
            .list(&self.selector())
            .await?
        {
            children.push(format!("configmap/{}", object.name_any()));
        }
        for object in self.pods().await? {
            children.push(format!("pod/{}", object.name_any()));
        }
        Ok(children)
    }

    fn selector(&self) -> ListParams {
        ListParams::default().labels(&format!("{}={}", labels::INSTANCE, self.name))
    }

    /// Its pods.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(Api::<Pod>::namespaced(self.client.clone(), &self.namespace)
            .list(&self.selector())
            .await?
            .items)
    }

    /// Its Deployment.
    pub async fn deployment(&self) -> Result<Option<Deployment>> {
        Ok(Api::<Deployment>::namespaced(self.client.clone(), &self.namespace)
            .get_opt(&self.name)
            .await?)
    }

    /// Replicas that its Deployment asks for, and those that are ready.
    pub async fn replicas(&self) -> Result<(i32, i32)> {
        let deployment = self.deployment().await?.unwrap_or_default();
        let wanted = deployment.spec.and_then(|s| s.replicas).unwrap_or(0);
        let ready = deployment.status.and_then(|s| s.ready_replicas).unwrap_or(0);
        Ok((wanted, ready))
    }

    /// Its events, as `reason: note`.
    pub async fn events(&self) -> Result<Vec<String>> {
        let events = Api::<Event>::namespaced(self.client.clone(), &self.namespace)
            .list(&ListParams::default())
            .await?;
        Ok(events
            .into_iter()
            .filter(|e| e.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(&self.name)))
            .map(|e| format!("{}: {}", e.reason.unwrap_or_default(), e.note.unwrap_or_default()))
            .collect())
    }

    /// Waits until its status is so.
    pub async fn until_status(
        &self,
        what: &str,
        limit: Duration,
        so: impl Fn(&KafkaConsumerStatus) -> bool,
    ) -> Result<KafkaConsumerStatus> {
        until(&format!("{}: {what}", self.name), limit, || async {
            let status = self.status().await?;
            Ok(if so(&status) { Ok(status) } else { Err(brief(&status)) })
        })
        .await
    }

    /// Waits until a condition has this status, and returns its reason and message.
    pub async fn until_condition(
        &self,
        kind: &str,
        status: &str,
        limit: Duration,
    ) -> Result<(String, String)> {
        let found = self
            .until_status(&format!("condition {kind}={status}"), limit, |s| {
                s.conditions.iter().any(|c| c.type_ == kind && c.status == status)
            })
            .await?;
        let condition = found
            .conditions
            .into_iter()
            .find(|c| c.type_ == kind)
            .context("the condition went away")?;
        Ok((condition.reason, condition.message))
    }

    /// Waits until exactly this many pods are asked for and ready.
    pub async fn until_replicas(&self, count: i32, limit: Duration) -> Result<()> {
        until(&format!("{}: {count} pods wanted and ready", self.name), limit, || async {
            let seen = self.replicas().await?;
            Ok(if seen == (count, count) { Ok(()) } else { Err(seen) })
        })
        .await
    }
}

/// What a person would want to see when a wait failed.
fn brief(status: &KafkaConsumerStatus) -> impl Debug + use<> {
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message))
        .collect();
    let decision = status.decision.as_ref().map(|d| format!("{}: {}", d.reason, d.message));
    (
        status.replicas,
        status.ready_replicas,
        status.lag,
        status.behind_seconds,
        decision,
        conditions,
    )
}
