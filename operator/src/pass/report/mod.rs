//! What people and machines are told: status and conditions, events, gauges. Only what changed is written.
//!
//! What is told is made in pure files (`status`, `conditions`, `significance`, `transitions`); the writing is here and in
//! `events`.

pub mod conditions;
pub mod significance;
pub mod status;
pub mod transitions;
pub mod verdicts;

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use sluice_crds::{KafkaConsumer, KafkaConsumerStatus, labels};
use tokio::time::Instant;

use self::significance::significance;
use crate::{
    cluster::{events::Happening, written::Writes},
    pass::context::Context,
};

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("cannot write the status: {0}")]
    Api(#[from] kube::Error),
}

impl Error {
    /// Whether the consumer is gone, or was made again: then its status is nobody's.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict())
    }
}

/// A status as it is applied: nothing but the status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata<'a>,
    status: &'a KafkaConsumerStatus,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    name: &'a str,
    /// Makes it a change of this very object: one that was made again under the name is not given an old one's status.
    uid: Option<&'a str>,
}

/// Writes the status, if it moved enough, and says what happened since the last one that was written.
///
/// # Errors
/// When the API server does not take it. Events that cannot be published are no error.
pub async fn report(
    consumer: &KafkaConsumer,
    next: &KafkaConsumerStatus,
    happenings: Vec<Happening>,
    context: &Context,
    writes: &mut Writes,
    now: Timestamp,
) -> Result<(), Error> {
    let shared = &context.shared;
    let last = consumer.status.clone().unwrap_or_default();
    let since = writes.status_at.map(|at| at.elapsed());
    let due = significance(&last, next).is_due(since) || !happenings.is_empty();
    let mut happenings = happenings;
    if due {
        let name = consumer.name_any();
        let document = Document {
            api_version: "sluice.dev/v1alpha1",
            kind: "KafkaConsumer",
            metadata: Metadata { name: &name, uid: consumer.metadata.uid.as_deref() },
            status: next,
        };
        let api: Api<KafkaConsumer> = Api::namespaced(
            shared.client.clone(),
            consumer.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let params = PatchParams::apply(labels::FIELD_MANAGER_STATUS).force();
        let answer = api.patch_status(&name, &params, &Patch::Apply(&document)).await?;
        writes.consumer.wrote(answer, Instant::now());
        writes.status_at = Some(Instant::now());
        shared.metrics.write("Status");
        happenings.extend(transitions::between(&last, next, now));
    }
    if !happenings.is_empty() {
        shared.events.publish(&happenings, &consumer.object_ref(&())).await;
    }
    Ok(())
}
