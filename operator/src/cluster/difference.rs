//! Whether an object differs from what it should be. What the API server adds by default, and what a webhook made of a
//! write, is no difference.

use kube::Resource;
use serde::Serialize;
use serde_json::Value;
use sluice_crds::labels::DESIRED_HASH;

use super::written::Known;
use crate::hash::hash;

/// Whether an object has to be written: what was built for it has changed, or somebody changed what was built.
///
/// # Errors
/// When an object cannot be written as JSON.
pub fn differs<K: Resource + Serialize>(
    desired: &K,
    seen: &K,
    known: &mut Known<K>,
) -> Result<bool, serde_json::Error> {
    let hash = desired_hash(desired);
    if seen.meta().annotations.as_ref().and_then(|a| a.get(DESIRED_HASH)) != Some(&hash) {
        return Ok(true);
    }
    let verified = seen.meta().resource_version.clone().map(|version| (version, hash.clone()));
    if verified.is_some() && known.verified == verified {
        return Ok(false);
    }
    let agrees = contains(&serde_json::to_value(seen)?, &serde_json::to_value(desired)?)
        || match &known.settled {
            Some((settled, made)) => *settled == hash && *made == content(seen)?,
            None => false,
        };
    if agrees {
        known.verified = verified;
    }
    Ok(!agrees)
}

/// The hash that an object carries of what was built.
pub fn desired_hash<K: Resource>(object: &K) -> String {
    object
        .meta()
        .annotations
        .as_ref()
        .and_then(|a| a.get(DESIRED_HASH))
        .cloned()
        .unwrap_or_default()
}

/// Hash of an object's content without what others write: status, book-keeping and replicas.
pub fn content<K: Serialize>(object: &K) -> Result<String, serde_json::Error> {
    let mut value = serde_json::to_value(object)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
        fields.remove("metadata");
    }
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("replicas");
    }
    hash(&value)
}

/// Whether `seen` has all that `desired` has. What the API server adds by default is no difference; lists of named things
/// are compared by name, others one by one.
pub fn contains(seen: &Value, desired: &Value) -> bool {
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
