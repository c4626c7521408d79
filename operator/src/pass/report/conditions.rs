//! The conditions: one setter for all of them, and what stands in the way of the pods in their own words. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerStatus, Pod, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
};
use sluice_crds::{conditions::reason, labels};

use crate::cluster::events::shorten;

/// A pod that runs without being ready is only starting for so long.
const STARTING: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);
/// The longest message: etcd and people have bounds.
const MESSAGE: usize = 1_024;

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// True, False, or unknown.
    pub status: Option<bool>,
    /// A word of `conditions::reason`, or of the planner's list.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

impl Verdict {
    /// A verdict.
    pub fn new(status: Option<bool>, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }

    /// True.
    pub fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Some(true), reason, message)
    }

    /// False.
    pub fn no(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Some(false), reason, message)
    }

    /// Unknown, since nothing was learnt yet.
    pub fn pending(message: impl Into<String>) -> Self {
        Self::new(None, reason::PENDING, message)
    }

    /// What a condition said before.
    pub fn of(conditions: &[Condition], type_: &str) -> Option<Self> {
        let condition = conditions.iter().find(|c| c.type_ == type_)?;
        Some(Self::new(get(conditions, type_), &condition.reason, condition.message.clone()))
    }

    fn word(&self) -> &'static str {
        match self.status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        }
    }
}

/// Sets a condition. `lastTransitionTime` changes only when the status does.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) {
    let mut condition = Condition {
        type_: type_.to_owned(),
        status: verdict.word().to_owned(),
        reason: verdict.reason.clone(),
        message: shorten(&verdict.message, MESSAGE),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(old) => {
            if old.status == condition.status {
                condition.last_transition_time = old.last_transition_time.clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
}

/// The status of a condition: true, false, or unknown (also where it is missing).
pub fn get(conditions: &[Condition], type_: &str) -> Option<bool> {
    match conditions.iter().find(|c| c.type_ == type_)?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// Whether the pods are as decided, and what stands in their way if not.
pub fn pods(
    desired: i32,
    deployment: Option<&Deployment>,
    pods: &[&Pod],
    now: Timestamp,
) -> Verdict {
    if let Some(verdict) = obstacle(desired, deployment, pods, now) {
        return verdict;
    }
    let Some(deployment) = deployment else {
        return Verdict::no(reason::PROGRESSING, "the Deployment is about to be created");
    };
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= deployment.metadata.generation;
    let (exist, ready) = (status.replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0));
    let updated = status.updated_replicas.unwrap_or(0);
    if !seen || exist != desired || ready != desired || updated != desired {
        let rollout = if updated < exist {
            format!("; {updated} of {exist} have the new template")
        } else {
            String::new()
        };
        return Verdict::no(
            reason::PROGRESSING,
            format!("{ready} of {desired} pods ready{rollout}"),
        );
    }
    match desired {
        0 => Verdict::yes(reason::AS_DECIDED, "no pod is needed"),
        n => Verdict::yes(reason::AS_DECIDED, format!("{n} of {n} pods ready")),
    }
}

/// The first thing in the way: of pods that cannot be made, then of those that exist, the worst first.
fn obstacle(
    desired: i32,
    deployment: Option<&Deployment>,
    pods: &[&Pod],
    now: Timestamp,
) -> Option<Verdict> {
    let failed = deployment
        .and_then(|d| {
            d.status
                .as_ref()?
                .conditions
                .as_ref()?
                .iter()
                .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")
        })
        .filter(|_| desired > 0);
    if let Some(failed) = failed {
        return Some(Verdict::no(
            reason::QUOTA,
            failed.message.clone().unwrap_or_else(|| "pods are refused".to_owned()),
        ));
    }
    // In a rollout pods of the template before stay until the new ones are ready: what ails them may be mended already.
    let wanted = deployment.and_then(|d| template(d.spec.as_ref()?.template.metadata.as_ref()?));
    let mut found: Vec<_> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| template(&pod.metadata).is_none_or(|made_of| wanted == Some(made_of)))
        .filter_map(|pod| {
            pod_obstacle(pod, now).map(|(rank, reason, what)| (rank, name(pod), reason, what))
        })
        .collect();
    found.sort_unstable();
    let (_, name, reason, what) = found.first()?;
    let others = found.iter().filter(|f| f.2 == *reason).count() - 1;
    let others = if others > 0 { format!(" (and {others} more)") } else { String::new() };
    Some(Verdict::no(reason, format!("pod {name}{others}: {what}")))
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The template that a pod was made of, or that a Deployment makes its pods of. Creation times cannot tell them apart:
/// they are whole seconds.
fn template(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(labels::TEMPLATE_HASH).map(String::as_str)
}

/// What stands in one pod's way, with its rank.
fn pod_obstacle(pod: &Pod, now: Timestamp) -> Option<(u8, &'static str, String)> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = scheduled {
        let why = condition
            .message
            .as_deref()
            .or(condition.reason.as_deref())
            .unwrap_or("no node takes it");
        return Some((3, reason::UNSCHEDULABLE, why.to_owned()));
    }
    let (init, own) = (&status.init_container_statuses, &status.container_statuses);
    let init = init.iter().flatten().map(|container| (container, Role::Init));
    let own = own.iter().flatten().map(|container| {
        let ours = container.name == labels::CONTAINER;
        (container, if ours { Role::Consumer } else { Role::Sidecar })
    });
    // Of equal rank the init container goes first: the others wait for it.
    init.chain(own)
        .filter_map(|(container, role)| container_obstacle(container, role, conditions, now))
        .min_by_key(|(rank, _, _)| *rank)
}

/// What a container is in its pod. Others than the consumer's are injected: a service mesh, an agent for secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Consumer,
    Sidecar,
    Init,
}

/// What keeps one container from running, with its rank.
fn container_obstacle(
    container: &ContainerStatus,
    role: Role,
    conditions: &[PodCondition],
    now: Timestamp,
) -> Option<(u8, &'static str, String)> {
    if container.ready {
        return None;
    }
    let words = |words: String| match role {
        Role::Consumer => words,
        Role::Sidecar => format!("container {}: {words}", container.name),
        Role::Init => format!("init container {}: {words}", container.name),
    };
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let (word, message) = (
            waiting.reason.as_deref().unwrap_or_default(),
            waiting.message.as_deref().unwrap_or_default(),
        );
        match word {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => {
                return Some((0, reason::IMAGE, words(format!("{word}: {message}"))));
            }
            "CrashLoopBackOff" => return Some((1, reason::CRASH, words(ended(container)))),
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "PostStartHookError" => {
                return Some((2, reason::NOT_READY, words(format!("{word}: {message}"))));
            }
            _ => {}
        }
    }
    // Between two starts the kubelet shows the end of the last one before it backs off.
    if state.terminated.is_some() && container.restart_count > 0 {
        return Some((1, reason::CRASH, words(ended(container))));
    }
    let since = state.running.as_ref()?.started_at.as_ref()?.0;
    // One that runs again for a moment is still the one that ended: `Ready` is not to change its mind at each start.
    let failed = container
        .last_state
        .as_ref()
        .and_then(|s| s.terminated.as_ref())
        .is_some_and(|t| t.exit_code != 0);
    let runs_for_long = now.duration_since(since) > STARTING;
    if failed && !runs_for_long {
        return Some((1, reason::CRASH, words(ended(container))));
    }
    let message = |type_: &str| {
        let condition = conditions.iter().find(|c| c.type_ == type_ && c.status != "True");
        condition.and_then(|c| c.message.as_deref())
    };
    let why = match role {
        // One that runs beside the others (`restartPolicy: Always`) does not end; the kubelet names those that have to.
        Role::Init => {
            message("Initialized").filter(|m| m.contains(&container.name))?;
            "it runs, and has not ended yet"
        }
        Role::Sidecar => "it runs, but does not become ready",
        Role::Consumer => message("Ready").unwrap_or("it runs, but does not become ready"),
    };
    runs_for_long.then(|| (4, reason::NOT_READY, words(why.to_owned())))
}

/// How a container ended last.
fn ended(container: &ContainerStatus) -> String {
    let last = container.state.as_ref().and_then(|s| s.terminated.as_ref());
    let last = last.or_else(|| container.last_state.as_ref().and_then(|s| s.terminated.as_ref()));
    let Some(last) = last else { return "it ends again and again".to_owned() };
    let word = last.reason.as_deref().unwrap_or("Error");
    let says = last.message.as_deref().map(str::trim).filter(|m| !m.is_empty());
    // The end of a log holds the error; its beginning is the same for all.
    let says = says.map(|m| format!(": {}", tail(m, 400))).unwrap_or_default();
    format!("it ended with {word}, exit code {}{says}", last.exit_code)
}

/// At most `max` bytes from the end.
fn tail(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut begin = text.len() - max;
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    format!("…{}", &text[begin..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn deployment(desired: i32, ready: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "generation": 3 },
            "spec": { "replicas": desired, "selector": {}, "template": {} },
            "status": { "observedGeneration": 3, "replicas": desired, "readyReplicas": ready, "updatedReplicas": desired },
        }))
        .unwrap()
    }

    fn pod(name: &str, status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": name }, "status": status })).unwrap()
    }

    fn container(state: &serde_json::Value) -> serde_json::Value {
        let mut container = json!({ "name": "consumer", "ready": false, "restartCount": 2, "image": "i", "imageID": "" });
        for (key, value) in state.as_object().unwrap() {
            container[key] = value.clone();
        }
        json!({ "containerStatuses": [container] })
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_does() {
        let mut all = Vec::new();
        let later = now() + jiff::SignedDuration::from_secs(60);
        set(&mut all, "Ready", &Verdict::no("Progressing", "0 of 1"), Some(1), now());
        set(&mut all, "Ready", &Verdict::no("CrashLoop", "it ended"), Some(2), later);
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].last_transition_time.0, all[0].reason.as_str(), all[0].observed_generation),
            (now(), "CrashLoop", Some(2))
        );
        set(&mut all, "Ready", &Verdict::yes("AsDecided", "1 of 1"), Some(2), later);
        assert_eq!(all[0].last_transition_time.0, later);
    }

    #[test]
    fn ready_names_what_stands_in_the_pods_way_in_their_own_words() {
        let unschedulable = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu." }] });
        let image = container(
            &json!({ "state": { "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image x" } } }),
        );
        let crash = container(&json!({
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
            "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "message": "cannot read the configuration" } },
        }));
        let running =
            container(&json!({ "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } } }));
        let secret = container(
            &json!({ "state": { "waiting": { "reason": "CreateContainerConfigError", "message": "secret \"x\" not found" } } }),
        );
        for (status, expected, says) in [
            (unschedulable, reason::UNSCHEDULABLE, "Insufficient cpu"),
            (image, reason::IMAGE, "ImagePullBackOff: Back-off pulling image x"),
            (
                crash,
                reason::CRASH,
                "it ended with Error, exit code 1: cannot read the configuration",
            ),
            (running, reason::NOT_READY, "does not become ready"),
            (secret, reason::NOT_READY, "secret \"x\" not found"),
        ] {
            let pod = pod("orders-1", &status);
            let verdict = pods(1, Some(&deployment(1, 0)), &[&pod], now());
            assert_eq!((verdict.status, verdict.reason.as_str()), (Some(false), expected));
            assert!(
                verdict.message.starts_with("pod orders-1") && verdict.message.contains(says),
                "{}",
                verdict.message
            );
        }
    }

    #[test]
    fn a_failing_init_container_or_sidecar_is_named_in_its_own_words() {
        let status = |kind: &str, name: &str, state: &serde_json::Value| {
            let mut failing = container(state)["containerStatuses"][0].clone();
            failing["name"] = json!(name);
            let waits = json!({ "waiting": { "reason": "PodInitializing" } });
            let runs = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
            let (ready, state) =
                if kind == "initContainerStatuses" { (false, waits) } else { (true, runs) };
            let consumer = json!({
                "name": "consumer", "ready": ready, "restartCount": 0, "image": "i",
                "imageID": "", "state": state,
            });
            let mut status = json!({ "containerStatuses": [consumer] });
            match kind {
                "containerStatuses" => {
                    status[kind].as_array_mut().unwrap().push(failing);
                }
                _ => status[kind] = json!([failing]),
            }
            status["conditions"] = json!([{
                "type": "Initialized", "status": "False",
                "message": "containers with incomplete status: [vault]",
            }]);
            status
        };
        let ended = json!({
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 2, "reason": "Error", "message": "sealed" } },
        });
        let failed = json!({ "state": { "terminated": { "exitCode": 1, "reason": "Error" } } });
        let image = json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": "x" } } });
        let runs = json!({ "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } } });
        let done = json!({
            "ready": true, "state": { "terminated": { "exitCode": 0, "reason": "Completed" } },
        });
        let (init, side) = ("initContainerStatuses", "containerStatuses");
        for (status, expected, says) in [
            (status(init, "vault", &ended), reason::CRASH, "init container vault: it ended with"),
            (status(init, "vault", &ended), reason::CRASH, "exit code 2: sealed"),
            (status(init, "vault", &failed), reason::CRASH, "init container vault: it ended with"),
            (status(init, "vault", &image), reason::IMAGE, "init container vault: ErrImagePull"),
            (status(init, "vault", &runs), reason::NOT_READY, "init container vault: it runs"),
            // One that runs beside the pod's containers is no longer in the way.
            (status(init, "proxy", &runs), reason::PROGRESSING, "0 of 1"),
            (status(init, "vault", &done), reason::PROGRESSING, "0 of 1"),
            (status(side, "proxy", &ended), reason::CRASH, "container proxy: it ended with"),
            (status(side, "proxy", &image), reason::IMAGE, "container proxy: ErrImagePull"),
            (status(side, "proxy", &runs), reason::NOT_READY, "container proxy: it runs"),
        ] {
            let pod = pod("orders-1", &status);
            let verdict = pods(1, Some(&deployment(1, 0)), &[&pod], now());
            assert_eq!(verdict.reason, expected, "{says}: {}", verdict.message);
            assert!(verdict.message.contains(says), "{says}: {}", verdict.message);
        }
    }

    #[test]
    fn what_ails_a_pod_of_the_template_before_is_not_told_once_a_new_one_is_there() {
        let image = container(
            &json!({ "state": { "waiting": { "reason": "ErrImagePull", "message": "x:1" } } }),
        );
        let crash = container(&json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } } }));
        let metadata = |template: &str| json!({ labels::TEMPLATE_HASH: template });
        // All were created in one second, as where a spec is changed twice at once.
        let of = |name: &str, template: &str, status: &serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": name,
                    "creationTimestamp": "2026-01-01T00:00:01Z",
                    "annotations": metadata(template),
                },
                "status": status,
            }))
            .unwrap()
        };
        let (old, new) = (of("orders-old", "a", &image), of("orders-new", "b", &crash));
        let reason_of = |template: &str, all: &[&Pod]| {
            let mut deployment = deployment(1, 0);
            deployment.spec.as_mut().unwrap().template.metadata =
                serde_json::from_value(json!({ "annotations": metadata(template) })).unwrap();
            pods(1, Some(&deployment), all, now()).reason
        };
        assert_eq!(reason_of("a", &[&old]), reason::IMAGE);
        assert_eq!(reason_of("b", &[&old, &new]), reason::CRASH);
        assert_eq!(reason_of("a", &[&old, &new]), reason::IMAGE, "the old template is back");
        assert_eq!(reason_of("b", &[&old]), reason::PROGRESSING, "no new pod is there yet");
        let starting = of("orders-new", "b", &json!({}));
        assert_eq!(reason_of("b", &[&old, &starting]), reason::PROGRESSING);
        // Something took the annotation from the pods: what ails them is told all the same.
        let bare = pod("orders-bare", &image);
        assert_eq!(reason_of("b", &[&bare]), reason::IMAGE);
    }

    #[test]
    fn refused_pods_are_told_in_the_deployments_words() {
        let mut refused = deployment(3, 1);
        refused.status.as_mut().unwrap().conditions = Some(
            serde_json::from_value(json!([{ "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: pods" }])).unwrap(),
        );
        let verdict = pods(3, Some(&refused), &[], now());
        assert_eq!(
            (verdict.reason.as_str(), verdict.message.as_str()),
            (reason::QUOTA, "exceeded quota: pods")
        );
    }

    #[test]
    fn a_pod_that_is_only_starting_is_in_nobodys_way() {
        let starting = pod(
            "a",
            &container(
                &json!({ "restartCount": 0, "state": { "running": { "startedAt": "2026-01-01T00:09:50Z" } } }),
            ),
        );
        let verdict = pods(1, Some(&deployment(1, 0)), &[&starting], now());
        assert_eq!(
            (verdict.reason.as_str(), verdict.message.as_str()),
            (reason::PROGRESSING, "0 of 1 pods ready")
        );
    }

    #[test]
    fn ready_is_what_was_decided_and_was_seen_by_the_deployment() {
        let verdict = |desired, d: &Deployment| pods(desired, Some(d), &[], now()).status;
        assert_eq!(verdict(4, &deployment(4, 4)), Some(true));
        assert_eq!(verdict(0, &deployment(0, 0)), Some(true));
        assert_eq!(verdict(5, &deployment(4, 4)), Some(false));
        assert_eq!(verdict(4, &deployment(4, 3)), Some(false));
        let mut unseen = deployment(4, 4);
        unseen.metadata.generation = Some(4);
        assert_eq!(verdict(4, &unseen), Some(false));
        assert_eq!(pods(1, None, &[], now()).status, Some(false));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = "ü".repeat(2_000);
        assert!(shorten(&long, 1_024).len() <= 1_024);
        assert!(tail(&long, 401).len() <= 401 + '…'.len_utf8());
    }
}
