//! What happened between two statuses, as events. Pure: since both are the ones that were written, nothing is said twice,
//! and nothing is lost over a restart.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sluice_crds::{KafkaConsumerStatus, conditions, conditions::reason};

use super::conditions::get;
use crate::cluster::events::Event;

/// What the two statuses do not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// The replicas that this operator wrote last, as far as it remembers.
    pub written: Option<i32>,
    /// The Deployment was not there and was created.
    pub created: bool,
    /// Something in the way of the pods was reported, and its end was not.
    pub obstructed: bool,
}

/// The events of a change from the status that was last written to the next.
pub fn between(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus, cause: Cause) -> Vec<Event> {
    let mut events = Vec::new();
    events.extend(pods(last, next, cause));
    events.extend(knobs(last, next));
    for type_ in [
        conditions::READY,
        conditions::KAFKA_REACHABLE,
        conditions::SCALING_ACTIVE,
        conditions::SCALING_LIMITED,
        conditions::GROUP_CONFLICT,
        conditions::CONTESTED,
    ] {
        events.extend(condition(last, next, type_, cause));
    }
    events
}

/// Whether something is in the way of the pods, by the reason of `Ready`; `None` where it does not tell.
pub fn is_obstructed(status: &KafkaConsumerStatus) -> Option<bool> {
    let ready = status.conditions.iter().find(|c| c.type_ == conditions::READY)?;
    match ready.status.as_str() {
        "True" => Some(false),
        _ => OBSTACLES.contains(&ready.reason.as_str()).then_some(true),
    }
}

fn pods(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus, cause: Cause) -> Option<Event> {
    let (from, to) = (last.desired_replicas.unwrap_or(0), next.desired_replicas?);
    let change = format!("{from} → {to} {}", if to == 1 { "pod" } else { "pods" });
    if cause.created && from > 0 {
        let note = "the Deployment was deleted by somebody else; it is created again";
        return Some(Event::warning("DeploymentRecreated", "Apply", note));
    }
    if to != from && cause.written.is_some_and(|written| written != to) {
        let note = format!("{change}: somebody else wrote the Deployment's replicas");
        return Some(Event::warning("ReplicasChanged", "Observe", note));
    }
    let why = next.decision.as_ref().map(|d| format!(": {}", d.message)).unwrap_or_default();
    let note = format!("{change}{why}");
    match to.cmp(&from) {
        std::cmp::Ordering::Greater => Some(Event::normal("ScaledUp", "Scale", note)),
        std::cmp::Ordering::Less => Some(Event::normal("ScaledDown", "Scale", note)),
        std::cmp::Ordering::Equal => None,
    }
}

fn knobs(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> Option<Event> {
    // The first knobs are no change.
    last.tuning_revision?;
    let mut changes = Vec::new();
    for (name, from, to) in [
        ("batch size", last.batch_size, next.batch_size),
        ("concurrency", last.concurrency, next.concurrency),
    ] {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            changes.push(format!("{name} {from} → {to}"));
        }
    }
    if changes.is_empty() {
        return None;
    }
    let change = changes.join(", ");
    let message = next.decision.as_ref().and_then(|decision| decision.knobs_message.clone());
    // The sentence of another change, one that was not written, is not the reason of this one.
    let note = message.filter(|message| message.starts_with(&format!("{change}: ")));
    Some(Event::normal("KnobsChanged", "Tune", note.unwrap_or(change)))
}

fn condition(
    last: &KafkaConsumerStatus,
    next: &KafkaConsumerStatus,
    type_: &str,
    cause: Cause,
) -> Option<Event> {
    let find =
        |status: &KafkaConsumerStatus| status.conditions.iter().find(|c| c.type_ == type_).cloned();
    let (old, new) = (find(last), find(next)?);
    let (was, is) = (get(&last.conditions, type_), get(&next.conditions, type_));
    let same_reason = old.as_ref().is_some_and(|old| old.reason == new.reason);
    if was == is && same_reason {
        return None;
    }
    match type_ {
        conditions::READY => ready(&new, cause),
        conditions::KAFKA_REACHABLE => match (was, is) {
            (_, Some(false)) => Some(Event::warning(new.reason, "Read", new.message)),
            (Some(false), Some(true)) => Some(Event::normal("KafkaRecovered", "Read", new.message)),
            _ => None,
        },
        conditions::SCALING_LIMITED => match (was, is) {
            (_, Some(true)) => Some(Event::normal("ScalingLimited", "Plan", new.message)),
            (Some(true), Some(false)) => {
                Some(Event::normal("ScalingUnlimited", "Plan", new.message))
            }
            _ => None,
        },
        conditions::SCALING_ACTIVE => match (was, is) {
            (_, Some(false)) if new.reason == reason::LAG_UNKNOWN => {
                Some(Event::warning("ScalingStopped", "Plan", new.message))
            }
            (Some(false), Some(true)) => Some(Event::normal("ScalingResumed", "Plan", new.message)),
            _ => None,
        },
        conditions::CONTESTED => match (was, is) {
            (_, Some(true)) => Some(Event::warning("Contested", "Apply", new.message)),
            (Some(true), Some(false)) => Some(Event::normal("ContestEnded", "Apply", new.message)),
            _ => None,
        },
        _ => match (was, is) {
            (_, Some(true)) => Some(Event::warning("GroupConflict", "Claim", new.message)),
            (Some(true), Some(false)) => {
                Some(Event::normal("GroupConflictResolved", "Claim", new.message))
            }
            _ => None,
        },
    }
}

/// What stands in the way of pods, as reasons of `Ready`.
const OBSTACLES: [&str; 6] = [
    reason::IMAGE,
    reason::CRASH,
    reason::QUOTA,
    reason::UNSCHEDULABLE,
    reason::NOT_READY,
    reason::INVALID_SPEC,
];

/// Pods that start and stop are the ordinary course; what stands in their way is not, and its end is reported however
/// many steps the pods take to get there.
fn ready(new: &Condition, cause: Cause) -> Option<Event> {
    if OBSTACLES.contains(&new.reason.as_str()) {
        return Some(Event::warning(new.reason.clone(), "Observe", new.message.clone()));
    }
    let recovered = cause.obstructed && new.status == "True";
    recovered.then(|| Event::normal("Recovered", "Observe", new.message.clone()))
}

#[cfg(test)]
mod tests {
    use sluice_crds::kafkaconsumer::status::DecisionStatus;

    use super::*;
    use crate::pass::report::conditions::{Verdict, set};

    fn status(desired: i32, batch: i32, verdicts: &[(&str, Verdict)]) -> KafkaConsumerStatus {
        let mut status = KafkaConsumerStatus {
            desired_replicas: Some(desired),
            batch_size: Some(batch),
            concurrency: Some(1),
            tuning_revision: Some(1),
            decision: Some(DecisionStatus { message: "why".into(), ..DecisionStatus::default() }),
            ..KafkaConsumerStatus::default()
        };
        for (type_, verdict) in verdicts {
            set(&mut status.conditions, type_, verdict, Some(1), jiff::Timestamp::UNIX_EPOCH);
        }
        status
    }

    fn told(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> Vec<(String, String)> {
        let events = between(last, next, Cause::default());
        events.into_iter().map(|h| (h.reason.into_owned(), h.note)).collect()
    }

    #[test]
    fn a_change_is_told_once_with_from_to_and_why() {
        let before = status(3, 50, &[]);
        assert_eq!(told(&before, &before), []);
        assert_eq!(
            told(&before, &status(7, 50, &[])),
            [("ScaledUp".into(), "3 → 7 pods: why".into())]
        );
        assert_eq!(
            told(&before, &status(1, 50, &[])),
            [("ScaledDown".into(), "3 → 1 pod: why".into())]
        );
        // Knobs have a sentence of their own; that of the pods is not theirs.
        let mut tuned = status(3, 60, &[]);
        assert_eq!(told(&before, &tuned), [("KnobsChanged".into(), "batch size 50 → 60".into())]);
        for (message, note) in [
            ("batch size 50 → 60: batches go out full", "batch size 50 → 60: batches go out full"),
            ("batch size 60 → 72: batches go out full", "batch size 50 → 60"),
        ] {
            if let Some(decision) = &mut tuned.decision {
                decision.knobs_message = Some(message.into());
            }
            assert_eq!(told(&before, &tuned), [("KnobsChanged".into(), note.into())]);
        }
        // A consumer that is new has changed no knobs.
        assert_eq!(told(&KafkaConsumerStatus::default(), &status(0, 50, &[])), []);
    }

    #[test]
    fn what_goes_wrong_is_told_in_its_own_word_and_so_is_its_end() {
        let kafka = |verdict| status(3, 50, &[(conditions::KAFKA_REACHABLE, verdict)]);
        let (up, down) = (
            kafka(Verdict::yes(reason::REACHABLE, "all")),
            kafka(Verdict::no(reason::UNKNOWN_TOPIC, "no t")),
        );
        let pending = kafka(Verdict::pending("on its way"));
        assert_eq!(told(&up, &down), [(reason::UNKNOWN_TOPIC.to_owned(), "no t".to_owned())]);
        assert_eq!(told(&down, &up), [("KafkaRecovered".to_owned(), "all".to_owned())]);
        assert_eq!(told(&pending, &up), []);
        let ready = |verdict| status(3, 50, &[(conditions::READY, verdict)]);
        let (good, crash) = (
            ready(Verdict::yes(reason::AS_DECIDED, "3")),
            ready(Verdict::no(reason::CRASH, "exit 1")),
        );
        assert_eq!(told(&good, &crash), [(reason::CRASH.to_owned(), "exit 1".to_owned())]);
        // It comes back by way of starting pods.
        let starting = ready(Verdict::no(reason::PROGRESSING, "2 of 3"));
        assert_eq!(told(&crash, &starting), []);
        let obstructed = Cause { obstructed: true, ..Cause::default() };
        let recovered = between(&starting, &good, obstructed);
        assert_eq!(recovered[0].reason, "Recovered");
        assert_eq!((is_obstructed(&crash), is_obstructed(&starting)), (Some(true), None));
        assert_eq!(is_obstructed(&good), Some(false));
        assert_eq!(told(&good, &ready(Verdict::no(reason::PROGRESSING, "2 of 3"))), []);
    }

    #[test]
    fn what_somebody_else_did_is_not_reported_as_the_planners() {
        let reasons = |last: &KafkaConsumerStatus, next: &KafkaConsumerStatus, cause| {
            between(last, next, cause)
                .into_iter()
                .map(|h| h.reason.into_owned())
                .collect::<Vec<_>>()
        };
        let (three, ten) = (status(3, 50, &[]), status(10, 50, &[]));
        let by_us = Cause { written: Some(10), ..Cause::default() };
        let by_others = Cause { written: Some(3), ..Cause::default() };
        assert_eq!(reasons(&three, &ten, by_us), ["ScaledUp"]);
        assert_eq!(reasons(&three, &ten, by_others), ["ReplicasChanged"]);
        let created = Cause { created: true, ..Cause::default() };
        assert_eq!(reasons(&three, &status(0, 50, &[]), created), ["DeploymentRecreated"]);
        assert_eq!(reasons(&KafkaConsumerStatus::default(), &three, created), ["ScaledUp"]);
    }
}
