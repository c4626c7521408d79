//! What happened between two statuses, as events. Pure: since both are the ones that were written, nothing is said twice,
//! and nothing is lost over a restart.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sluice_crds::{KafkaConsumerStatus, conditions, conditions::reason};

use super::{conditions::get, events::Happening};

/// The events of a change from the status that was last written to the next.
pub fn between(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus, _now: Timestamp) -> Vec<Happening> {
    let mut happenings = Vec::new();
    happenings.extend(pods(last, next));
    happenings.extend(knobs(last, next));
    for type_ in
        [conditions::READY, conditions::KAFKA_REACHABLE, conditions::SCALING_LIMITED, conditions::GROUP_CONFLICT]
    {
        happenings.extend(condition(last, next, type_));
    }
    happenings
}

fn pods(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> Option<Happening> {
    let (from, to) = (last.desired_replicas.unwrap_or(0), next.desired_replicas?);
    let why = next.decision.as_ref().map(|d| format!(": {}", d.message)).unwrap_or_default();
    match to.cmp(&from) {
        std::cmp::Ordering::Greater => Some(Happening::normal("ScaledUp", "Scale", format!("{from} → {to} pods{why}"))),
        std::cmp::Ordering::Less => Some(Happening::normal("ScaledDown", "Scale", format!("{from} → {to} pods{why}"))),
        std::cmp::Ordering::Equal => None,
    }
}

fn knobs(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> Option<Happening> {
    // The first knobs are no change.
    last.tuning_revision?;
    let mut changes = Vec::new();
    for (name, from, to) in
        [("batch size", last.batch_size, next.batch_size), ("concurrency", last.concurrency, next.concurrency)]
    {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            changes.push(format!("{name} {from} → {to}"));
        }
    }
    let why = next.decision.as_ref().map(|d| format!(": {}", d.message)).unwrap_or_default();
    (!changes.is_empty()).then(|| Happening::normal("KnobsChanged", "Tune", format!("{}{why}", changes.join(", "))))
}

fn condition(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus, type_: &str) -> Option<Happening> {
    let find = |status: &KafkaConsumerStatus| status.conditions.iter().find(|c| c.type_ == type_).cloned();
    let (old, new) = (find(last), find(next)?);
    let (was, is) = (get(&last.conditions, type_), get(&next.conditions, type_));
    let same_reason = old.as_ref().is_some_and(|old| old.reason == new.reason);
    if was == is && same_reason {
        return None;
    }
    match type_ {
        conditions::READY => ready(old.as_ref(), &new),
        conditions::KAFKA_REACHABLE => match (was, is) {
            (_, Some(false)) => Some(Happening::warning("KafkaUnreachable", "Read", new.message)),
            (Some(false), Some(true)) => Some(Happening::normal("KafkaRecovered", "Read", new.message)),
            _ => None,
        },
        conditions::SCALING_LIMITED => match (was, is) {
            (_, Some(true)) => Some(Happening::normal("ScalingLimited", "Plan", new.message)),
            (Some(true), Some(false)) => Some(Happening::normal("ScalingUnlimited", "Plan", new.message)),
            _ => None,
        },
        _ => match (was, is) {
            (_, Some(true)) => Some(Happening::warning("GroupConflict", "Claim", new.message)),
            (Some(true), Some(false)) => Some(Happening::normal("GroupConflictResolved", "Claim", new.message)),
            _ => None,
        },
    }
}

/// Pods that start and stop are the ordinary course; what stands in their way is not.
fn ready(old: Option<&Condition>, new: &Condition) -> Option<Happening> {
    let reason = match new.reason.as_str() {
        reason::IMAGE => reason::IMAGE,
        reason::CRASH => reason::CRASH,
        reason::QUOTA => reason::QUOTA,
        reason::UNSCHEDULABLE => reason::UNSCHEDULABLE,
        reason::NOT_READY => reason::NOT_READY,
        reason::INVALID_SPEC => reason::INVALID_SPEC,
        reason::AS_DECIDED => {
            let obstacles = [
                reason::IMAGE,
                reason::CRASH,
                reason::QUOTA,
                reason::UNSCHEDULABLE,
                reason::NOT_READY,
                reason::INVALID_SPEC,
            ];
            return old
                .filter(|old| obstacles.contains(&old.reason.as_str()))
                .map(|_| Happening::normal("Recovered", "Observe", new.message.clone()));
        }
        _ => return None,
    };
    Some(Happening::warning(reason, "Observe", new.message.clone()))
}
