//! What was written of a consumer's objects and the watches have not brought yet, so that a pass sees its own writes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{Resource, ResourceExt};
use sluice_crds::KafkaConsumer;
use tokio::time::Instant;

use crate::pass::report::writer::Tries;

/// A watch is never further behind a write than this; beyond it the store is believed even where it lacks what was written.
const WATCH_DELAY: Duration = Duration::from_secs(10);

/// What was last written of one object, so that the next pass sees its own writes before the watch brings them, and does
/// not write the same again.
#[derive(Debug)]
pub struct Slot<K> {
    written: Option<(Instant, Arc<K>)>,
    /// Resource version and desired hash that were last found to agree.
    pub verified: Option<(String, String)>,
    /// Desired hash, and hash of the content that the API server (or a webhook) made of it: no reason to write again.
    pub settled: Option<(String, String)>,
}

impl<K> Default for Slot<K> {
    fn default() -> Self {
        Self { written: None, verified: None, settled: None }
    }
}

impl<K: Resource> Slot<K> {
    /// Remembers the API server's answer to a write.
    pub fn wrote(&mut self, answer: K, now: Instant) -> Arc<K> {
        let answer = Arc::new(answer);
        self.written = Some((now, Arc::clone(&answer)));
        answer
    }

    /// The newer of what the watch has seen and what was last written.
    pub fn newest(&mut self, seen: Option<Arc<K>>, now: Instant) -> Option<Arc<K>> {
        let Some((when, written)) = &self.written else { return seen };
        let caught_up = match &seen {
            Some(seen) => version(seen.as_ref()) >= version(written.as_ref()),
            None => false,
        };
        if caught_up || now.duration_since(*when) > WATCH_DELAY {
            self.written = None;
            return seen;
        }
        Some(Arc::clone(written))
    }
}

/// Resource versions are etcd's revisions: numbers that grow, and since Kubernetes 1.35 documented to be compared so.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

/// What was written of a consumer and its children.
#[derive(Debug, Default)]
pub struct Writes {
    /// The consumer with the status that was last written.
    pub consumer: Slot<KafkaConsumer>,
    /// `NAME-tuning`.
    pub tuning: Slot<ConfigMap>,
    /// `NAME`.
    pub deployment: Slot<Deployment>,
    /// When the knobs were last written: with `applyOn: Rebalance` the pods wait for them.
    pub knobs_at: Option<Instant>,
    /// Pods that were annotated, with the revision: the watch may not have brought it yet.
    pub nudged: BTreeMap<String, String>,
    /// What is remembered of a status that could not be written.
    pub status: Tries,
    /// When the status was last written.
    pub status_at: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_map(version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_sees_its_own_write_before_the_watch_does() {
        let mut slot = Slot::default();
        let begin = Instant::now();
        slot.wrote(config_map("100"), begin);
        let at = |slot: &mut Slot<ConfigMap>, seen: Option<&str>, seconds| {
            let seen = seen.map(|v| Arc::new(config_map(v)));
            slot.newest(seen, begin + Duration::from_secs(seconds))
                .map(|o| o.resource_version().unwrap())
        };
        assert_eq!(at(&mut slot, None, 1).unwrap(), "100");
        // As numbers: "99" is the older, though it sorts behind "100" as text.
        assert_eq!(at(&mut slot, Some("99"), 1).unwrap(), "100");
        assert_eq!(at(&mut slot, Some("101"), 1).unwrap(), "101");
        // From then on the watch is believed again, also when it says that the object is gone.
        assert_eq!(at(&mut slot, None, 1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_somebody_deleted_is_not_believed_to_exist_for_ever() {
        let mut slot = Slot::default();
        let begin = Instant::now();
        slot.wrote(config_map("100"), begin);
        assert!(slot.newest(None, begin + Duration::from_secs(11)).is_none());
    }
}
