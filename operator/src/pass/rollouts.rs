//! Upgrades of the stock image, a few consumers at a time: one that follows the operator takes its image when its turn
//! comes, and the next one's comes when its pods are ready. An image that does not start stops after the first few.

use std::{
    collections::HashSet,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::apps::v1::Deployment;
use sluice_crds::labels;

use super::validate::Validated;

/// Asks for a pass over a consumer that waits.
pub type Ring = Box<dyn Fn() + Send + Sync>;

/// Who is rolling to the operator's image, and who waits for that.
pub struct Rollouts {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The uids of the consumers that are rolling.
    rolling: HashSet<String>,
    /// Those that wait, in their order.
    waiting: Vec<(String, Ring)>,
}

impl Rollouts {
    /// At most so many at once.
    pub fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// The consumer with the image that it should have now: its own, or the operator's if its turn has come. `deployment` is
    /// its Deployment as it is.
    pub fn turn(
        &self,
        consumer: Validated,
        deployment: Option<&Deployment>,
        ring: impl FnOnce() -> Ring,
    ) -> Validated {
        let uid = &consumer.id.uid;
        let is_done = |image| deployment.is_none_or(|d| is_rolled_out(d, image));
        match &consumer.upgrade {
            // Its template has the image, though the status does not say so yet: there is no way back.
            Some(image) if deployment.is_some_and(|d| has_image(d, image)) && !consumer.paused => {
                if is_done(image) {
                    self.release(uid);
                } else {
                    self.lock().rolling.insert(uid.clone());
                }
                consumer.upgraded()
            }
            Some(_) if !consumer.paused => {
                if self.take(uid, ring) {
                    consumer.upgraded()
                } else {
                    consumer
                }
            }
            _ => {
                if !consumer.follows_operator() || is_done(&consumer.image) {
                    self.release(uid);
                }
                consumer
            }
        }
    }

    /// Takes note of a consumer that was rolling when the operator started.
    pub fn resume(&self, consumer: &Validated, deployment: Option<&Deployment>) {
        let Some(deployment) = deployment.filter(|_| consumer.follows_operator()) else { return };
        let is_rolling = match &consumer.upgrade {
            // It was to get the image, and the status does not say so yet.
            Some(image) => has_image(deployment, image) && !is_rolled_out(deployment, image),
            None => !is_rolled_out(deployment, &consumer.image),
        };
        if is_rolling {
            self.lock().rolling.insert(consumer.id.uid.clone());
        }
    }

    /// Whether it is this consumer's turn. If not, `ring` asks for a pass when it may be.
    fn take(&self, uid: &str, ring: impl FnOnce() -> Ring) -> bool {
        let mut state = self.lock();
        if state.rolling.contains(uid) {
            return true;
        }
        if state.rolling.len() < self.most {
            state.rolling.insert(uid.to_owned());
            state.waiting.retain(|(waits, _)| waits != uid);
            return true;
        }
        if !state.waiting.iter().any(|(waits, _)| waits == uid) {
            state.waiting.push((uid.to_owned(), ring()));
        }
        false
    }

    /// A consumer's pods are ready, or it is gone, or follows no more.
    pub fn release(&self, uid: &str) {
        let mut state = self.lock();
        state.waiting.retain(|(waits, _)| waits != uid);
        if !state.rolling.remove(uid) {
            return;
        }
        let free = self.most.saturating_sub(state.rolling.len()).min(state.waiting.len());
        // Who is asked and does not come has lost its place, and nobody waits for it.
        let rest = state.waiting.split_off(free);
        for (_, ring) in mem::replace(&mut state.waiting, rest) {
            ring();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a Deployment's template has this image.
fn has_image(deployment: &Deployment, image: &str) -> bool {
    let pods = deployment.spec.iter().flat_map(|spec| &spec.template.spec);
    pods.flat_map(|pod| &pod.containers)
        .filter(|c| c.name == labels::CONTAINER)
        .any(|c| c.image.as_deref() == Some(image))
}

/// Whether all pods of a Deployment run this image and are ready.
fn is_rolled_out(deployment: &Deployment, image: &str) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let pods = spec.replicas.unwrap_or(1);
    has_image(deployment, image)
        && status.observed_generation >= deployment.metadata.generation
        && [status.replicas, status.updated_replicas, status.ready_replicas]
            .iter()
            .all(|count| count.unwrap_or(0) == pods)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use serde_json::json;

    use super::*;
    use crate::pass::validate::tests::good;

    const OLD: &str = "stock:0";
    /// The operator's.
    const NEW: &str = "stock:1";

    /// A consumer that follows the operator, with the image that its status names.
    fn follower(uid: &str, image: &str) -> Validated {
        let status = format!("{{ image: '{image}', stockImage: '{image}' }}");
        good(&[
            ("metadata/uid", uid),
            ("spec/pod/imagePolicy", "FollowOperator"),
            ("status", &status),
        ])
    }

    /// A Deployment with two pods of `image`, of which so many are ready.
    fn deployment(image: &str, ready: i32) -> Deployment {
        let pod = json!({ "containers": [{ "name": labels::CONTAINER, "image": image }] });
        serde_json::from_value(json!({
            "metadata": { "generation": 1 },
            "spec": { "replicas": 2, "selector": {}, "template": { "spec": pod } },
            "status": {
                "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": ready,
            },
        }))
        .unwrap()
    }

    fn no_bell() -> Ring {
        Box::new(|| ())
    }

    /// The image that a consumer is given.
    fn image(rollouts: &Rollouts, consumer: Validated, deployment: &Deployment) -> String {
        rollouts.turn(consumer, Some(deployment), no_bell).image
    }

    /// Whether the only turn is taken: another consumer has to wait.
    fn is_taken(rollouts: &Rollouts) -> bool {
        image(rollouts, follower("another", OLD), &deployment(OLD, 2)) == OLD
    }

    #[test]
    fn an_image_that_was_written_is_kept_though_no_turn_is_free() {
        let rollouts = Rollouts::new(1);
        assert!(!is_taken(&rollouts), "another has the only turn from here on");
        assert_eq!(image(&rollouts, follower("u", OLD), &deployment(OLD, 2)), OLD);
        let upgraded = rollouts.turn(follower("u", OLD), Some(&deployment(NEW, 0)), no_bell);
        assert_eq!((upgraded.image.as_str(), upgraded.upgrade), (NEW, None));
    }

    #[test]
    fn what_was_rolling_before_a_restart_has_its_turn_after_it() {
        for (what, status, template, ready, expected) in [
            ("the status names it", NEW, NEW, 1, true),
            ("only the template names it", OLD, NEW, 1, true),
            ("only the status names it", NEW, OLD, 2, true),
            ("its pods are ready", NEW, NEW, 2, false),
            ("all but its status is done", OLD, NEW, 2, false),
            ("it has not begun", OLD, OLD, 2, false),
        ] {
            let rollouts = Rollouts::new(1);
            rollouts.resume(&follower("u", status), Some(&deployment(template, ready)));
            assert_eq!(is_taken(&rollouts), expected, "{what}");
        }
        let rollouts = Rollouts::new(1);
        let own = good(&[("metadata/uid", "u"), ("spec/pod/image", NEW)]);
        rollouts.resume(&own, Some(&deployment(NEW, 1)));
        assert!(!is_taken(&rollouts), "an image of its own is no upgrade");
    }

    #[test]
    fn pods_that_are_ready_give_the_turn_back_though_the_status_does_not_say_so() {
        let (rollouts, rung) = (Rollouts::new(1), Arc::new(AtomicU32::new(0)));
        assert_eq!(image(&rollouts, follower("u", OLD), &deployment(OLD, 2)), NEW);
        let bell = || -> Ring {
            let rung = Arc::clone(&rung);
            Box::new(move || {
                rung.fetch_add(1, Ordering::Relaxed);
            })
        };
        let waits = rollouts.turn(follower("next", OLD), Some(&deployment(OLD, 2)), bell);
        assert_eq!(waits.image, OLD);
        assert_eq!(image(&rollouts, follower("u", OLD), &deployment(NEW, 1)), NEW);
        assert_eq!(rung.load(Ordering::Relaxed), 0, "one of two pods is ready");
        assert_eq!(image(&rollouts, follower("u", OLD), &deployment(NEW, 2)), NEW);
        assert_eq!(rung.load(Ordering::Relaxed), 1);
        assert!(!is_taken(&rollouts));
    }
}
