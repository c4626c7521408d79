//! The definition that the API server serves, which may be older than this operator: a status with a field that the served
//! schema does not declare is refused as a whole, so such fields are left out.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{self, Request};
use kube::{Client, Resource};
use serde_json::{Map, Value};
use sluice_crds::{KafkaConsumer, KafkaConsumerStatus, kafkaconsumer};
use tokio::sync::Notify;

/// How often an older definition is looked at again: somebody is upgrading it.
const AGAIN: Duration = Duration::from_secs(60);
/// How long after a failure the schema is asked for again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// What to do about an older definition.
pub const UPGRADE: &str = "the installed definition of KafkaConsumer is older than the operator: \
     run `helm upgrade sluice-crds` with the chart of the operator's version";

/// What is known of the served definition.
#[derive(Debug, Default)]
pub struct Definition {
    older: Mutex<Option<Arc<Older>>>,
    doubted: Notify,
}

/// A served definition that lacks fields of ours.
#[derive(Debug, PartialEq)]
pub struct Older {
    /// The schema of `status`.
    status: Value,
    /// The fields that it lacks.
    pub lacks: Vec<String>,
}

impl Definition {
    /// The served definition, where it is older than ours.
    pub fn older(&self) -> Option<Arc<Older>> {
        self.older.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A status as the served definition takes it: without the fields that it does not declare.
    pub fn fit(&self, status: KafkaConsumerStatus) -> KafkaConsumerStatus {
        let Some(older) = self.older() else { return status };
        let fitted = serde_json::to_value(&status)
            .and_then(|value| serde_json::from_value(older.without_undeclared(value)));
        fitted.unwrap_or(status)
    }

    /// The API server has refused a field: its schema has to be read again.
    pub fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Reads the served schema, now and when there is a reason to, for ever.
    pub async fn follow(&self, client: &Client) {
        let mut wait = RETRY.0;
        loop {
            match read(client).await {
                Ok(served) => {
                    wait = RETRY.0;
                    self.compare(&served);
                }
                Err(error) => {
                    // The API server publishes a definition some seconds after it was installed.
                    tracing::debug!(%error, "the served definition cannot be read");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.doubted.notified() => {}
                    }
                    wait = (wait * 2).min(RETRY.1);
                    continue;
                }
            }
            if self.older().is_some() {
                tokio::time::sleep(AGAIN).await;
            } else {
                self.doubted.notified().await;
            }
        }
    }

    fn compare(&self, served: &Value) {
        let next = older(served, &own()).map(Arc::new);
        let mut last = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == next {
            return;
        }
        if let Some(older) = &next {
            let lacks = older.lacks.join(", ");
            tracing::warn!(lacks, "{UPGRADE}");
        } else {
            tracing::info!("the installed definition of KafkaConsumer has all fields");
        }
        *last = next;
    }
}

impl Older {
    /// The status without what the served schema does not declare.
    fn without_undeclared(&self, mut status: Value) -> Value {
        prune(&mut status, &self.status);
        status
    }
}

/// Why the served schema is not known.
#[derive(Debug, thiserror::Error)]
enum ReadSchemaError {
    #[error("the API server does not show its schema: {0}")]
    Api(#[from] kube::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the API server's schema has no KafkaConsumer yet")]
    Missing,
}

async fn read(client: &Client) -> Result<Value, ReadSchemaError> {
    let path = format!("/openapi/v3/apis/{}", KafkaConsumer::api_version(&()));
    let document: Value = client.request(Request::get(path).body(Vec::new())?).await?;
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let ours =
        schemas.and_then(|all| all.iter().find(|(name, _)| name.ends_with(".KafkaConsumer")));
    ours.map(|(_, schema)| schema.clone()).ok_or(ReadSchemaError::Missing)
}

/// The schema that this operator was built with.
fn own() -> Value {
    let crd = kafkaconsumer::crd();
    let version = crd.spec.versions.into_iter().next();
    let schema = version.and_then(|v| v.schema).and_then(|s| s.open_api_v3_schema);
    serde_json::to_value(schema).unwrap_or_default()
}

/// What `served` lacks of `own`, if it lacks something.
fn older(served: &Value, own: &Value) -> Option<Older> {
    let mut lacks = Vec::new();
    for part in ["spec", "status"] {
        let pointer = format!("/properties/{part}");
        compare(served.pointer(&pointer), own.pointer(&pointer), part, &mut lacks);
    }
    let status = served.pointer("/properties/status").cloned().unwrap_or_default();
    (!lacks.is_empty()).then_some(Older { status, lacks })
}

fn compare(served: Option<&Value>, own: Option<&Value>, path: &str, lacks: &mut Vec<String>) {
    let (Some(served), Some(own)) = (served, own) else {
        if own.is_some() {
            lacks.push(path.to_owned());
        }
        return;
    };
    if is_open(served) {
        return;
    }
    for (name, schema) in own.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let there = served.get("properties").and_then(|p| p.get(name));
        compare(there, Some(schema), &format!("{path}.{name}"), lacks);
    }
    if let Some(items) = own.get("items") {
        compare(served.get("items"), Some(items), path, lacks);
    }
}

/// Whether a schema takes fields that it does not declare.
fn is_open(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
        || schema.get("additionalProperties").is_some()
}

fn prune(value: &mut Value, schema: &Value) {
    let none = Map::new();
    match value {
        Value::Object(_) if is_open(schema) => {}
        Value::Object(fields) => {
            let declared = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
            fields.retain(|name, _| declared.contains_key(name));
            for (name, field) in fields {
                prune(field, &declared[name]);
            }
        }
        Value::Array(items) => {
            let schema = schema.get("items").unwrap_or(&Value::Null);
            for item in items {
                prune(item, schema);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn our_own_definition_lacks_nothing() {
        assert_eq!(older(&own(), &own()), None);
    }

    #[test]
    fn fields_that_the_served_definition_lacks_are_named_and_left_out() {
        let mut served = own();
        let status = &mut served["properties"]["status"]["properties"];
        status.as_object_mut().unwrap().remove("behindSeconds");
        let decision = &mut status["decision"]["properties"];
        decision.as_object_mut().unwrap().remove("demand");
        let older = older(&served, &own()).unwrap();
        assert_eq!(older.lacks, ["status.behindSeconds", "status.decision.demand"]);
        let condition = json!({ "type": "Ready", "status": "True" });
        let whole = json!({
            "lag": 7, "behindSeconds": 1.5,
            "decision": { "reason": "Steady", "demand": 2.0 },
            "conditions": [condition],
        });
        let rest = json!({
            "lag": 7, "decision": { "reason": "Steady" }, "conditions": [condition],
        });
        assert_eq!(older.without_undeclared(whole), rest);
    }
}
