//! `spec.handler`: what is done with the records.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// What is done with the records: exactly one of its fields is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.http), has(self.log), has(self.custom)].exists_one(x, x)")
        .message("spec.handler needs exactly one of http, log and custom"),
)]
pub struct Handler {
    /// Posts the records to a service of yours; docs/http-handler.md has the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHandler>,

    /// Writes a line for each batch and does nothing else: for trials, with an optional delay in place of work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogHandler>,

    /// A handler of your own, in an image of your own (`spec.pod.image`) that is built on the library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomHandler>,
}

/// The one handler that a [`Handler`] asks for. A match on it is exhaustive: a handler that is added
/// does not compile until everything that runs handlers says what it does with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HandlerKind<'a> {
    /// `http`.
    Http(&'a HttpHandler),
    /// `log`.
    Log(&'a LogHandler),
    /// `custom`.
    Custom(&'a CustomHandler),
}

impl Handler {
    /// The handlers that there are, as the spec names them.
    pub const NAMES: [&'static str; 3] = ["http", "log", "custom"];

    /// The one that is asked for; `None` where it is none (a newer one, perhaps) or more than one.
    pub fn kind(&self) -> Option<HandlerKind<'_>> {
        // All fields are named, so that a new one does not compile until it has a kind.
        let Self { http, log, custom } = self;
        match (http, log, custom) {
            (Some(http), None, None) => Some(HandlerKind::Http(http)),
            (None, Some(log), None) => Some(HandlerKind::Log(log)),
            (None, None, Some(custom)) => Some(HandlerKind::Custom(custom)),
            _ => None,
        }
    }
}

/// Posts the records to a service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.timeout) > duration('0s')")
        .message("handler.http.timeout must be greater than 0s"),
)]
pub struct HttpHandler {
    /// The address, `http://…` or `https://…`.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s/]+.*$"))]
    pub url: String,

    /// The time that one call may take, answer included; then it counts as failed and is tried again. Default 10s.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,

    /// Further headers of each call. No secrets: they stand in a ConfigMap.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "headers_schema")]
    pub headers: BTreeMap<String, String>,
}

/// Writes a line for each batch.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogHandler {
    /// Time that one record takes, in place of work. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_per_record: Option<Duration>,

    /// Time that one batch takes, beside its records. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_per_batch: Option<Duration>,
}

/// A handler of your own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomHandler {
    /// Handed to your handler as it stands here. No secrets: it stands in a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub config: Option<serde_json::Value>,
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn headers_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 1024 },
    })
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
