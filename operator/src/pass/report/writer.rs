//! Writes the status. One that cannot be written is counted and tried again after a backoff of its own: scaling does not
//! wait for it.

use std::time::Duration;

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use sluice_crds::{KafkaConsumer, KafkaConsumerStatus, labels};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::pass::{
    backoff,
    context::{Context, Shared},
};

/// A status takes no longer: kube itself repeats for minutes what the API server throttles, and a pass waits for this.
const WRITE: Duration = Duration::from_secs(5);

/// Why a status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("the status cannot be written: {0}")]
    Api(#[from] kube::Error),
    /// It took too long.
    #[error("the status was not written within {} s", WRITE.as_secs())]
    Timeout,
}

impl Error {
    /// Whether the consumer is gone, or was created again: then its status is nobody's.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict())
    }

    /// Whether the served definition does not declare a field.
    fn is_undeclared(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(s)) if s.message.contains(UNDECLARED))
    }

    /// A fixed word for metrics, of `metrics::STATUS_ERRORS`.
    pub fn reason(&self) -> &'static str {
        match self {
            _ if self.is_undeclared() => "OlderDefinition",
            Self::Api(kube::Error::Api(status)) => match status.code {
                403 => "Forbidden",
                422 => "Invalid",
                429 => "Throttled",
                500..=599 => "ServerError",
                _ => "ApiError",
            },
            Self::Api(_) => "ApiUnreachable",
            Self::Timeout => "Timeout",
        }
    }
}

/// What the API server says of a field that its schema does not have.
const UNDECLARED: &str = "field not declared in schema";

/// What is remembered of a consumer's status that could not be written.
#[derive(Debug, Default)]
pub struct Tries {
    failures: u32,
    until: Option<Instant>,
    /// Asks for the pass that tries again.
    again: Option<AbortOnDropHandle<()>>,
}

impl Tries {
    /// Whether the status may be tried now.
    pub fn may(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }
}

/// A status as it is applied: nothing but the status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    api_version: std::borrow::Cow<'static, str>,
    kind: std::borrow::Cow<'static, str>,
    metadata: Metadata<'a>,
    status: &'a KafkaConsumerStatus,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    name: &'a str,
    /// Makes it a change of this very object: one that was created again under the name is not given an old one's status.
    uid: Option<&'a str>,
}

/// Writes a status; the answer is the object with it. After a failure [`Tries::may`] is false for a while, and then a pass
/// is asked for.
///
/// # Errors
/// When the API server does not take it. It is counted here.
pub async fn write(
    consumer: &KafkaConsumer,
    next: &KafkaConsumerStatus,
    context: &Context,
    tries: &mut Tries,
) -> Result<KafkaConsumer, Error> {
    let shared = &context.shared;
    match apply(consumer, next, shared).await {
        Ok(answer) => {
            *tries = Tries::default();
            shared.metrics.write("Status");
            Ok(answer)
        }
        Err(error) if error.is_gone() => Err(error),
        Err(error) => {
            shared.metrics.status_error(error.reason());
            if error.is_undeclared() {
                shared.definition.doubt();
            }
            tries.failures = tries.failures.saturating_add(1);
            let after = backoff::delay(tries.failures, fastrand::f64());
            let consumer = (&consumer.metadata.namespace, consumer.name_any());
            if tries.failures == 1 {
                tracing::warn!(?consumer, %error, "scaling goes on without a status");
            }
            tries.until = Some(Instant::now() + after);
            let ring = context.waker(consumer.0.as_deref().unwrap_or_default(), &consumer.1);
            tries.again = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::time::sleep(after).await;
                ring();
            })));
            Err(error)
        }
    }
}

async fn apply(
    consumer: &KafkaConsumer,
    next: &KafkaConsumerStatus,
    shared: &Shared,
) -> Result<KafkaConsumer, Error> {
    let name = consumer.name_any();
    let document = Document {
        api_version: KafkaConsumer::api_version(&()),
        kind: KafkaConsumer::kind(&()),
        metadata: Metadata { name: &name, uid: consumer.metadata.uid.as_deref() },
        status: next,
    };
    let namespace = consumer.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<KafkaConsumer> = Api::namespaced(shared.client.clone(), namespace);
    let params = PatchParams::apply(labels::FIELD_MANAGER_STATUS).force();
    let patch = Patch::Apply(&document);
    match tokio::time::timeout(WRITE, api.patch_status(&name, &params, &patch)).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Timeout),
    }
}
