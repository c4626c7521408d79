//! Events: what happened, on transitions only; `kubectl describe` shows them.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::pass::report::conditions::shorten;

/// The longest note that the API server takes.
const NOTE: usize = 1_024;
/// The source that events name.
pub const CONTROLLER: &str = "sluice-operator";

/// Something that happened to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Whether somebody should look.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: Cow<'static, str>,
    /// What was being done.
    pub action: &'static str,
    /// One sentence with its numbers.
    pub note: String,
}

impl Happening {
    /// Something ordinary.
    pub fn normal(
        reason: impl Into<Cow<'static, str>>,
        action: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self { warning: false, reason: reason.into(), action, note: note.into() }
    }

    /// Something that somebody should look at.
    pub fn warning(
        reason: impl Into<Cow<'static, str>>,
        action: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self { warning: true, reason: reason.into(), action, note: note.into() }
    }
}

/// Publishes events. A failure is logged and changes nothing.
#[derive(Clone)]
pub struct Events {
    client: Client,
    instance: Option<String>,
}

impl Events {
    /// A publisher that names `instance` (the operator's pod) as the source.
    pub fn new(client: Client, instance: Option<String>) -> Self {
        Self { client, instance }
    }

    /// Publishes what happened to `object`.
    pub async fn publish(&self, happenings: &[Happening], object: &ObjectReference) {
        for happening in happenings {
            // kube's Recorder takes events of one action and reason for one series and repeats the first one's note, so
            // that "3 to 5 pods" would appear as "1 to 3 pods" for six minutes. A recorder of its own for each event has no
            // memory to do that with; that the same is not said twice is the business of the transitions.
            let reporter =
                Reporter { controller: CONTROLLER.to_owned(), instance: self.instance.clone() };
            let event = Event {
                type_: if happening.warning { EventType::Warning } else { EventType::Normal },
                reason: happening.reason.clone().into_owned(),
                action: happening.action.to_owned(),
                note: Some(shorten(&happening.note, NOTE)),
                secondary: None,
            };
            let began = Timestamp::now();
            if let Err(error) =
                Recorder::new(self.client.clone(), reporter).publish(&event, object).await
            {
                // A create that was repeated after a lost answer is there already (kube retries a POST too).
                let there =
                    matches!(&error, kube::Error::Api(status) if status.is_already_exists());
                if !there {
                    let took = Timestamp::now().duration_since(began);
                    tracing::warn!(%error, ?took, reason = %happening.reason, "cannot publish an event");
                }
            }
        }
    }
}
