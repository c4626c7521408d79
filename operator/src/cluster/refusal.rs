//! Why an object could not be written, in words that a status may say.

use std::time::Duration;

use kube::{Resource, ResourceExt};
use sluice_crds::KafkaConsumer;

use crate::identity::Identity;

/// All writes of a pass together take no longer: kube itself repeats for minutes what the API server throttles.
pub const APPLY: Duration = Duration::from_secs(10);

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
        "{kind} {name} exists and belongs to {owner}: delete or rename it, or give this \
         KafkaConsumer another name"
    )]
    Taken {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// The name belongs to what a consumer of this name left that was deleted.
    #[error(
        "{kind} {name} is left from a KafkaConsumer {name_of_owner} that was deleted ({uid}): it is \
         created again when the garbage collector has removed it; if that one was deleted with \
         --cascade=orphan, delete it by hand"
    )]
    Left {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The consumer's name.
        name_of_owner: String,
        /// The uid of the consumer that was deleted.
        uid: String,
    },
    /// The object was not there when the pass began.
    #[error("{kind} {name} appeared while it was to be created; the next pass looks at it")]
    Appeared {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
    },
    /// Not all writes were answered in time.
    #[error("the objects could not be written within {} s: the API server, or a webhook, is slow", APPLY.as_secs())]
    Timeout,
    /// An object could not be written as JSON.
    #[error("cannot write an object as JSON")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// The name of an object of consumer `id` is taken.
    pub fn taken<K: Resource<DynamicType = ()>>(kind: &str, there: &K, id: &Identity) -> Self {
        let (kind, name) = (kind.to_owned(), there.name_any());
        match there.owner_references().first() {
            Some(owner) if owner.kind == KafkaConsumer::kind(&()) && owner.name == id.name => {
                Self::Left { kind, name, name_of_owner: owner.name.clone(), uid: owner.uid.clone() }
            }
            Some(owner) => {
                let owner = format!("{} {} ({})", owner.kind, owner.name, owner.uid);
                Self::Taken { kind, name, owner }
            }
            None => Self::Taken { kind, name, owner: "nobody that Kubernetes knows".to_owned() },
        }
    }

    /// Whether it ends when somebody removes an object that no watch shows: then it is looked at more often.
    pub fn waits_for_removal(&self) -> bool {
        matches!(self, Self::Taken { .. } | Self::Left { .. })
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
            Self::Taken { .. } | Self::Left { .. } => "NameTaken",
            Self::Appeared { .. } => "Appeared",
            Self::Timeout => "Timeout",
            Self::Json(_) => "Build",
        }
    }

    /// Whether the object (or its namespace) is gone, or is going: nothing is left to do.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api { source: kube::Error::Api(status), .. }
            if status.code == 404 || (status.code == 403 && status.message.contains("is being terminated")))
    }
}
