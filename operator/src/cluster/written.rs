//! What is known of a consumer's objects beyond what the watches show: what was written and is not seen yet, and what the
//! API server answered when it was asked.
//!
//! The invariant: *absence from a watch is not absence.* A watch may be late, may have lost its connection, or may no
//! longer select the object because somebody changed a label. An object counts as absent only when the API server
//! answered 404, and what was written counts as there until the watch has caught up with it or the API server says
//! otherwise. Everything that lowers replicas or creates an object rests on this.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{Resource, ResourceExt};
use sluice_crds::KafkaConsumer;
use tokio::time::Instant;

use super::contest::Contest;

/// A watch usually shows a write within milliseconds; one that is this late is not waited for, the API server is asked.
const WATCH_DELAY: Duration = Duration::from_secs(15);
/// An object that the watch never shows (a webhook rewrites its labels) is asked for this often at last.
const SELDOM: Duration = Duration::from_secs(300);

/// What is known of one object.
#[derive(Debug)]
pub struct Known<K> {
    newest: Newest<K>,
    /// Until then `newest` is believed without asking.
    believed_until: Option<Instant>,
    /// How long the next answer is believed.
    pause: Duration,
    /// Resource version and desired hash that were last found to agree.
    pub verified: Option<(String, String)>,
    /// Desired hash, and hash of the content that the API server (or a webhook) made of it: no reason to write again.
    pub settled: Option<(String, String)>,
    /// The desired hash that was last written by this process.
    pub hash: Option<String>,
    /// Who else writes it.
    pub contest: Contest,
}

/// The newest that is known besides the watch.
#[derive(Debug)]
enum Newest<K> {
    /// Nothing: the watch has it.
    Watched,
    /// It was written or read.
    There(Arc<K>),
    /// The API server said, then, that it is not there.
    NotFound(Instant),
    /// The name is another owner's object.
    Taken,
}

/// What the API server answered when it was asked for an object.
#[derive(Debug)]
pub enum Answer<K> {
    /// It is there, and this consumer's.
    Ours(K),
    /// It is there, and somebody else's.
    Taken,
    /// It is not there.
    NotFound,
}

/// What a lookup found.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<K> {
    /// It is there.
    There(Arc<K>),
    /// The API server said that this consumer has no such object.
    Absent,
    /// The watch does not show it, which says nothing: the API server has to be asked.
    Ask,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self {
            newest: Newest::Watched,
            believed_until: None,
            pause: WATCH_DELAY,
            verified: None,
            settled: None,
            hash: None,
            contest: Contest::default(),
        }
    }
}

impl<K: Resource> Known<K> {
    /// The newest that is known, given what the watch shows.
    pub fn lookup(&mut self, seen: Option<Arc<K>>, now: Instant) -> Lookup<K> {
        let believed = self.believed_until.is_some_and(|until| now < until);
        match (seen, &self.newest) {
            (Some(seen), Newest::There(newest))
                if version(seen.as_ref()) < version(newest.as_ref()) =>
            {
                if believed {
                    Lookup::There(Arc::clone(newest))
                } else {
                    Lookup::Ask
                }
            }
            (Some(seen), _) => {
                self.caught_up();
                Lookup::There(seen)
            }
            (None, Newest::There(newest)) if believed => Lookup::There(Arc::clone(newest)),
            (None, Newest::NotFound(_) | Newest::Taken) if believed => Lookup::Absent,
            (None, _) => Lookup::Ask,
        }
    }

    /// Remembers the API server's answer to a write.
    pub fn wrote(&mut self, answer: K, now: Instant) -> Arc<K> {
        let answer = Arc::new(answer);
        (self.newest, self.pause) = (Newest::There(Arc::clone(&answer)), WATCH_DELAY);
        self.believed_until = Some(now + WATCH_DELAY);
        answer
    }

    /// Remembers the API server's answer to a read. It is believed for longer each time, as long as the watch shows
    /// nothing newer.
    pub fn answered(&mut self, answer: Answer<K>, now: Instant) -> Option<Arc<K>> {
        self.believed_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(SELDOM);
        self.newest = match answer {
            Answer::Ours(object) => Newest::There(Arc::new(object)),
            Answer::Taken => Newest::Taken,
            Answer::NotFound => Newest::NotFound(now),
        };
        match &self.newest {
            Newest::There(object) => Some(Arc::clone(object)),
            _ => None,
        }
    }

    /// Whether the API server said at this very moment that no such object is there: then it may be created.
    pub fn is_absent_at(&self, now: Instant) -> bool {
        matches!(self.newest, Newest::NotFound(at) if at == now)
    }

    /// What to believe where asking is not worth it: what was written, until the watch should have brought it.
    pub fn newest(&mut self, seen: Arc<K>, now: Instant) -> Arc<K> {
        match self.lookup(Some(Arc::clone(&seen)), now) {
            Lookup::There(newest) => newest,
            Lookup::Absent | Lookup::Ask => {
                self.caught_up();
                seen
            }
        }
    }

    fn caught_up(&mut self) {
        (self.newest, self.believed_until) = (Newest::Watched, None);
        self.pause = WATCH_DELAY;
    }
}

/// Resource versions are etcd's revisions: numbers that grow, and since Kubernetes 1.35 documented to be compared so.
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

/// What is known of a consumer and its objects beyond the watches.
#[derive(Debug, Default)]
pub struct Written {
    /// The consumer with the status that was last written.
    pub consumer: Known<KafkaConsumer>,
    /// The tuning file.
    pub tuning: Known<ConfigMap>,
    /// The Deployment.
    pub deployment: Known<Deployment>,
    /// The replicas that were last written by this process, and when.
    pub replicas: Option<(i32, Instant)>,
    /// Who else writes the replicas.
    pub replicas_contest: Contest,
    /// When the knobs were last written: with `applyOn: Rebalance` the pods wait for them.
    pub knobs_at: Option<Instant>,
    /// Pods that were annotated, with the revision: the watch may not have brought it yet.
    pub annotated: BTreeMap<String, String>,
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

    fn found(known: &mut Known<ConfigMap>, seen: Option<&str>, now: Instant) -> String {
        match known.lookup(seen.map(|v| Arc::new(config_map(v))), now) {
            Lookup::There(object) => object.resource_version().unwrap(),
            Lookup::Absent => "absent".to_owned(),
            Lookup::Ask => "ask".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_sees_its_own_write_before_the_watch_does() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.wrote(config_map("100"), now);
        assert_eq!(found(&mut known, None, now), "100");
        // As numbers: "99" is the older, though it sorts behind "100" as text.
        assert_eq!(found(&mut known, Some("99"), now), "100");
        assert_eq!(found(&mut known, Some("101"), now), "101");
        // From then on only the API server tells whether what the watch no longer shows is gone.
        assert_eq!(found(&mut known, None, now), "ask");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_api_server_says_that_an_object_is_not_there() {
        let (mut known, begin) = (Known::default(), Instant::now());
        assert_eq!(found(&mut known, None, begin), "ask");
        assert!(known.answered(Answer::NotFound, begin).is_none());
        assert_eq!(found(&mut known, None, begin), "absent");
        assert!(known.is_absent_at(begin));
        // An answer does not hold for ever, and the next one holds for longer.
        let later = begin + WATCH_DELAY;
        assert_eq!(found(&mut known, None, later), "ask");
        known.answered(Answer::Ours(config_map("7")), later);
        assert!(!known.is_absent_at(later));
        assert_eq!(found(&mut known, None, later + WATCH_DELAY), "7");
        assert_eq!(found(&mut known, None, later + 2 * WATCH_DELAY), "ask");
        // What the watch shows is believed at once.
        assert_eq!(found(&mut known, Some("8"), later), "8");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_stays_behind_a_write_makes_the_api_server_be_asked() {
        let (mut known, begin) = (Known::default(), Instant::now());
        known.wrote(config_map("100"), begin);
        let late = begin + WATCH_DELAY;
        assert_eq!(found(&mut known, Some("99"), late), "ask");
        // The API server was restored from a backup: its versions are smaller now.
        known.answered(Answer::Ours(config_map("50")), late);
        assert_eq!(found(&mut known, Some("51"), late), "51");
    }
}
