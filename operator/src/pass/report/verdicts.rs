//! The verdict of each condition, from what a pass found. Pure.

use k8s_openapi::api::core::v1::Pod;
use sluice_crds::conditions::{
    GROUP_CONFLICT, KAFKA_REACHABLE, READY, SCALING_ACTIVE, SCALING_LIMITED, reason,
};

use super::{
    conditions::{self, Verdict},
    status::Verdicts,
};
use crate::{
    kafka::port::Reading,
    pass::{
        Moment, Outcome,
        settle::Conflict,
        target,
        validate::{Replicas, Validated},
    },
};

/// The verdicts of a pass over a valid spec.
pub fn of_pass(outcome: &Outcome, now: Moment) -> Verdicts {
    let reading = outcome.situation.reading;
    let status = outcome.situation.children.status();
    // The operator was started again: until it has read for itself, what was known is not forgotten.
    let before =
        |type_: &str| Verdict::of(&status.conditions, type_).filter(|_| reading.is_empty());
    let contested = outcome.contested.clone();
    Verdicts {
        ready: outcome.failed.cloned().unwrap_or_else(|| ready(outcome, now)),
        kafka_reachable: before(KAFKA_REACHABLE).unwrap_or_else(|| kafka_reachable(reading, now)),
        scaling_active: before(SCALING_ACTIVE).unwrap_or_else(|| scaling_active(outcome)),
        scaling_limited: before(SCALING_LIMITED).unwrap_or_else(|| scaling_limited(outcome)),
        group_conflict: group_conflict(outcome),
        stalled: (contested.reason == reason::LEFT_TO_OTHER).then(|| contested.clone()),
        contested,
    }
}

/// The verdicts on a consumer whose spec cannot be followed: what is not known of the rest is said to be so.
pub fn of_refusal(message: &str) -> Verdicts {
    let off = || {
        Verdict::no(reason::INVALID_SPEC, "nothing is decided for a spec that cannot be followed")
    };
    let pending = || Verdict::pending("the spec has to be put right first");
    Verdicts {
        ready: Verdict::no(reason::INVALID_SPEC, message),
        kafka_reachable: pending(),
        scaling_active: off(),
        scaling_limited: pending(),
        group_conflict: pending(),
        contested: pending(),
        stalled: None,
    }
}

fn ready(outcome: &Outcome, now: Moment) -> Verdict {
    let Outcome { situation, planned, gate, target, applied, .. } = *outcome;
    let (consumer, children, reading) = (situation.consumer, situation.children, situation.reading);
    if let Some(conflict) = gate.conflict() {
        let (reason, message) = conflict_words(consumer, conflict);
        return Verdict::no(reason, message);
    }
    if let Some(waits) = gate.waits() {
        return waits.clone();
    }
    // No pods because nothing is known is another thing than no pods because none are needed.
    let known = planned.is_some_and(super::super::decide::Planned::is_known);
    let suspended = consumer.replicas == Replicas::Suspended;
    if target.replicas.unwrap_or(0) == 0 && !known && !suspended {
        let before =
            Verdict::of(&children.status().conditions, READY).filter(|_| reading.is_empty());
        return match &reading.error {
            Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
            None => before.unwrap_or_else(|| {
                Verdict::no(reason::LAG_UNKNOWN, "the first pod waits until the lag is known")
            }),
        };
    }
    let pods: Vec<&Pod> = children.pods.iter().map(AsRef::as_ref).collect();
    let verdict = conditions::pods(
        target.replicas.unwrap_or(0),
        applied.deployment.as_deref(),
        &pods,
        now.time,
    );
    if consumer.paused {
        return Verdict {
            reason: reason::PAUSED.to_owned(),
            message: format!(
                "paused by annotation, the objects are left as they are; {}",
                verdict.message
            ),
            ..verdict
        };
    }
    if suspended && verdict.status == Some(true) {
        return Verdict::yes(
            reason::SUSPENDED,
            "suspended: no pod runs, the group's offsets are kept",
        );
    }
    verdict
}

fn kafka_reachable(reading: &Reading, now: Moment) -> Verdict {
    match (&reading.error, &reading.snapshot) {
        (Some(trouble), _) => Verdict::no(trouble.reason, trouble.message.clone()),
        (None, None) => Verdict::pending("the first reading is on its way"),
        (None, Some(snapshot)) => {
            let unknown =
                snapshot.partitions.iter().filter(|p| p.end.is_none() || p.start.is_none()).count();
            let all = snapshot.partitions.len();
            if unknown > 0 {
                return Verdict::no(
                    reason::PARTLY_KNOWN,
                    format!("{unknown} of {all} partitions could not be read"),
                );
            }
            // A reader that hangs or has died leaves its last reading behind.
            if let Some(age) = reading.late(now.millis()) {
                let message = format!(
                    "the newest reading is {} s old: whether Kafka is reachable is not known",
                    age.as_secs()
                );
                return Verdict::new(None, reason::READING_LATE, message);
            }
            let read = match all {
                1 => "the partition is read".to_owned(),
                _ => format!("all {all} partitions are read"),
            };
            Verdict::yes(reason::REACHABLE, read)
        }
    }
}

fn scaling_active(outcome: &Outcome) -> Verdict {
    let v = outcome.situation.consumer;
    if let Some(conflict) = outcome.gate.conflict() {
        let (reason, _) = conflict_words(v, conflict);
        return Verdict::no(
            reason,
            "the pods stay as they are while the group is not this consumer's alone",
        );
    }
    if v.paused {
        return Verdict::no(reason::PAUSED, "paused by annotation");
    }
    match v.replicas {
        Replicas::Suspended => Verdict::no(reason::SUSPENDED, "spec.suspend is true"),
        Replicas::Fixed(_) => Verdict::no(reason::MANUAL, "spec.replicas decides"),
        Replicas::AsTheyAre => {
            Verdict::no(reason::DRY_RUN, "decisions are reported and not carried out")
        }
        Replicas::Planner => match outcome.planned {
            Some(planned) if planned.is_known() => {
                Verdict::yes(reason::FOLLOWING_LAG, "the pods follow the lag")
            }
            Some(planned) => Verdict::no(reason::LAG_UNKNOWN, planned.decision.message.clone()),
            None => Verdict::new(
                None,
                reason::LAG_UNKNOWN,
                "the lag is not known yet; the pods stay as they are",
            ),
        },
    }
}

fn scaling_limited(outcome: &Outcome) -> Verdict {
    let (v, reading) = (outcome.situation.consumer, outcome.situation.reading);
    let Some(partitions) = reading.snapshot.as_ref().map(|s| s.partitions.len() as i32) else {
        return Verdict::pending("the number of partitions is not known yet");
    };
    match v.replicas {
        Replicas::Suspended => {
            Verdict::no(reason::SUSPENDED, "no pod is desired: spec.suspend is true")
        }
        Replicas::Fixed(pods) if v.at_most(pods, Some(partitions)) < pods.min(partitions) => {
            Verdict::yes(
                reason::ADMINISTRATOR_BOUND,
                format!("spec.replicas is {pods}; {}", target::bound(v)),
            )
        }
        Replicas::Fixed(pods) if pods > partitions => Verdict::yes(
            reason::PARTITIONS,
            format!(
                "spec.replicas is {pods}, more than the number of partitions ({partitions}): \
                 further pods would get no records"
            ),
        ),
        Replicas::Fixed(_) => Verdict::no(reason::WITHIN_BOUNDS, "no bound is in the way"),
        Replicas::Planner | Replicas::AsTheyAre => match outcome.target.limited.clone() {
            Some((reason, message)) => Verdict::yes(reason, message),
            None => Verdict::no(reason::WITHIN_BOUNDS, "no bound is in the way"),
        },
    }
}

fn group_conflict(outcome: &Outcome) -> Verdict {
    let consumer = outcome.situation.consumer;
    let group = &consumer.kafka.group_id;
    if let Some(conflict) = outcome.gate.conflict() {
        let (reason, message) = conflict_words(consumer, conflict);
        return Verdict::yes(reason, message);
    }
    let before = || Verdict::of(&outcome.situation.children.status().conditions, GROUP_CONFLICT);
    match outcome.members {
        Some(members) if !members.foreign.is_empty() => Verdict::yes(
            reason::TAKEN_OVER,
            format!(
                "group {group} also has members that are not of this consumer ({}); they keep \
                 their share of the partitions until you stop them. sluice.dev/take-over-group is \
                 set, so the pods follow the lag regardless",
                some_of(&members.foreign)
            ),
        ),
        Some(_) => Verdict::no(
            reason::NO_CONFLICT,
            format!("group {group} has no members but this consumer's pods"),
        ),
        // A restarted operator has not looked yet: what was known is not forgotten.
        None => before().filter(|verdict| verdict.status == Some(false)).unwrap_or_else(|| {
            Verdict::pending(format!("the members of group {group} have not been read yet"))
        }),
    }
}

/// The first few, and how many more there are.
fn some_of(members: &[String]) -> String {
    let some = members.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    match members.len().saturating_sub(3) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

fn conflict_words(v: &Validated, conflict: &Conflict) -> (&'static str, String) {
    let group = &v.kafka.group_id;
    match conflict {
        Conflict::Other(other) => (
            reason::OTHER_CONSUMER,
            format!(
                "group {group} belongs to {}: delete this KafkaConsumer and create it with another \
                 kafka.groupId (it cannot be changed)",
                // Names of another namespace are not everybody's to know.
                if other.namespace == v.id.namespace {
                    format!("the KafkaConsumer {}", other.name)
                } else {
                    "a KafkaConsumer of another namespace".to_owned()
                }
            ),
        ),
        Conflict::Foreign(members) => (
            reason::FOREIGN_MEMBERS,
            format!(
                "group {group} has members that are not of this consumer ({}): stop them, set \
                 the annotation sluice.dev/take-over-group: \"true\", or create this KafkaConsumer \
                 again with another kafka.groupId (it cannot be changed)",
                some_of(members)
            ),
        ),
    }
}
