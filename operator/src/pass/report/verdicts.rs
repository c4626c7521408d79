//! The verdict of each condition, from what a pass found. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use sluice_crds::conditions::{KAFKA_REACHABLE, READY, SCALING_ACTIVE, SCALING_LIMITED, reason};

use super::{
    conditions::{self, Verdict},
    status::Verdicts,
};
use crate::{
    cluster::children::Children,
    kafka::port::Reading,
    pass::{
        decide::{self, Conflict, Course},
        validate::{Replicas, Validated},
    },
};

/// The verdicts of a pass over a valid spec. `waits` is why the first pod may not start, `failed` why the children could
/// not be written.
pub fn of_pass(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    course: &Course,
    waits: Option<&Verdict>,
    failed: Option<&Verdict>,
    now: Timestamp,
) -> Verdicts {
    let status = seen.status();
    // The operator was started again: until it has read for itself, what was known is not forgotten.
    let before =
        |type_: &str| Verdict::of(&status.conditions, type_).filter(|_| reading.is_empty());
    Verdicts {
        ready: failed.cloned().unwrap_or_else(|| ready(v, seen, reading, course, waits, now)),
        kafka_reachable: before(KAFKA_REACHABLE).unwrap_or_else(|| kafka_reachable(reading)),
        scaling_active: before(SCALING_ACTIVE).unwrap_or_else(|| scaling_active(v, course)),
        scaling_limited: before(SCALING_LIMITED)
            .unwrap_or_else(|| scaling_limited(v, reading, course)),
        group_conflict: group_conflict(v, course),
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
    }
}

fn ready(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    course: &Course,
    waits: Option<&Verdict>,
    now: Timestamp,
) -> Verdict {
    if let Some(conflict) = &course.conflict {
        let (reason, message) = conflict_words(v, conflict);
        return Verdict::no(reason, message);
    }
    if let Some(waits) = waits {
        return waits.clone();
    }
    // No pods because nothing is known is another thing than no pods because none are needed.
    let known = course.planned.as_ref().is_some_and(|p| p.known);
    if course.replicas.unwrap_or(0) == 0 && !known && v.replicas != Replicas::Suspended {
        let before = Verdict::of(&seen.status().conditions, READY).filter(|_| reading.is_empty());
        return match &reading.error {
            Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
            None => before.unwrap_or_else(|| {
                Verdict::no(reason::LAG_UNKNOWN, "the first pod waits until the lag is known")
            }),
        };
    }
    let pods: Vec<&Pod> = seen.pods.iter().map(AsRef::as_ref).collect();
    let verdict =
        conditions::pods(course.replicas.unwrap_or(0), seen.deployment.as_deref(), &pods, now);
    if v.paused {
        return Verdict {
            reason: reason::PAUSED.to_owned(),
            message: format!(
                "paused by annotation, the children are left as they are; {}",
                verdict.message
            ),
            ..verdict
        };
    }
    if v.replicas == Replicas::Suspended && verdict.status == Some(true) {
        return Verdict::yes(
            reason::SUSPENDED,
            "suspended: no pod runs, the group's offsets are kept",
        );
    }
    verdict
}

fn kafka_reachable(reading: &Reading) -> Verdict {
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
            Verdict::yes(reason::REACHABLE, format!("all {all} partitions are read"))
        }
    }
}

fn scaling_active(v: &Validated, course: &Course) -> Verdict {
    if let Some(conflict) = &course.conflict {
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
        Replicas::Planner => match &course.planned {
            Some(planned) if planned.known => {
                Verdict::yes(reason::FOLLOWING_LAG, "the pods follow the lag")
            }
            Some(planned) => Verdict::no(reason::LAG_UNKNOWN, planned.message.clone()),
            None => Verdict::new(
                None,
                reason::LAG_UNKNOWN,
                "the lag is not known yet; the pods stay as they are",
            ),
        },
    }
}

fn scaling_limited(v: &Validated, reading: &Reading, course: &Course) -> Verdict {
    let Some(partitions) = reading.snapshot.as_ref().map(|s| s.partitions.len() as i32) else {
        return Verdict::pending("the number of partitions is not known yet");
    };
    match v.replicas {
        Replicas::Suspended => Verdict::no(reason::SUSPENDED, "no pod is asked for"),
        Replicas::Fixed(pods) if v.at_most(pods, Some(partitions)) < pods.min(partitions) => {
            Verdict::yes(
                reason::ADMINISTRATOR_BOUND,
                format!("{pods} pods are asked for; {}", decide::bound(v)),
            )
        }
        Replicas::Fixed(pods) if pods > partitions => Verdict::yes(
            reason::PARTITIONS,
            format!("{pods} pods are asked for, {partitions} run: there are no more partitions"),
        ),
        Replicas::Fixed(_) => Verdict::no(reason::WITHIN_BOUNDS, "no bound is in the way"),
        Replicas::Planner | Replicas::AsTheyAre => {
            match course.planned.as_ref().and_then(|p| p.limited.clone()) {
                Some((reason, message)) => Verdict::yes(reason, message),
                None => Verdict::no(reason::WITHIN_BOUNDS, "no bound is in the way"),
            }
        }
    }
}

fn group_conflict(v: &Validated, course: &Course) -> Verdict {
    match &course.conflict {
        Some(conflict) => {
            let (reason, message) = conflict_words(v, conflict);
            Verdict::yes(reason, message)
        }
        None => Verdict::no(
            reason::NO_CONFLICT,
            format!("group {} is this consumer's alone", v.kafka.group_id),
        ),
    }
}

fn conflict_words(v: &Validated, conflict: &Conflict) -> (&'static str, String) {
    let group = &v.kafka.group_id;
    match conflict {
        Conflict::Other(other) => (
            reason::OTHER_CONSUMER,
            format!(
                "group {group} belongs to {}: choose another kafka.groupId",
                // Names of another namespace are not everybody's to know.
                if other.namespace == v.id.namespace {
                    format!("the KafkaConsumer {}", other.name)
                } else {
                    "a KafkaConsumer of another namespace".to_owned()
                }
            ),
        ),
        Conflict::Foreign(members) => {
            let some = members.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let more = if members.len() > 3 {
                format!(" and {} more", members.len() - 3)
            } else {
                String::new()
            };
            (
                reason::FOREIGN_MEMBERS,
                format!(
                    "group {group} has members that are not of this consumer ({some}{more}): stop them, choose another kafka.groupId, or set the annotation sluice.dev/take-over-group: \"true\""
                ),
            )
        }
    }
}
