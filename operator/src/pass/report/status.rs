//! The next status, from what was observed and decided. Pure.

use jiff::Timestamp;
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};
use sluice_crds::{
    KafkaConsumerStatus, conditions,
    conditions::reason,
    kafkaconsumer::status::{DecisionStatus, PlannerMemory},
};

use super::conditions::{Verdict, set};
use crate::{
    cluster::children::knobs_in,
    pass::{Outcome, decide::Planned, formats, offsets, target::Target},
};

/// The verdicts of one pass, one for each condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdicts {
    /// `Ready`.
    pub ready: Verdict,
    /// `KafkaReachable`.
    pub kafka_reachable: Verdict,
    /// `ScalingActive`.
    pub scaling_active: Verdict,
    /// `ScalingLimited`.
    pub scaling_limited: Verdict,
    /// `GroupConflict`.
    pub group_conflict: Verdict,
    /// `Contested`.
    pub contested: Verdict,
    /// `Stalled`, while a person is needed.
    pub stalled: Option<Verdict>,
}

/// The status after a pass.
pub fn next(outcome: &Outcome, verdicts: &Verdicts, now: Timestamp) -> KafkaConsumerStatus {
    let Outcome { situation, planned, gate, target, applied, .. } = *outcome;
    let (consumer, children, reading) = (situation.consumer, situation.children, situation.reading);
    let last = children.status();
    let generation = children.consumer.metadata.generation;
    let deployment = applied.deployment.as_ref();
    let exist = deployment.and_then(|d| d.status.as_ref()?.replicas);
    // What is in place: a write may have failed, or been left to somebody else.
    let tuning = applied.tuning.as_deref().and_then(knobs_in).unwrap_or(target.tuning);
    let numbers = planned.map(|p| p.decision.numbers).unwrap_or_default();
    let mut status = KafkaConsumerStatus {
        replicas: deployment.map(|_| exist.unwrap_or(0)),
        ready_replicas: deployment.map(|_| children.ready()),
        desired_replicas: deployment.map(|d| desired(d)),
        selector: Some(consumer.id.selector()),
        // The number of partitions is not forgotten because a broker does not answer.
        partitions: situation.partitions(),
        lag: numbers.lag,
        behind_seconds: numbers.behind.map(|s| round(s, 1)),
        arrival_rate: numbers.arrivals.map(|r| round(r, 1)),
        handled_rate: numbers.handled.map(|r| round(r, 1)),
        capacity_per_pod: numbers.capacity.map(|r| round(r, 1)),
        batch_size: Some(tuning.knobs.batch_size as i32),
        concurrency: Some(tuning.knobs.concurrency as i32),
        tuning_revision: Some(tuning.revision as i64),
        group_id: Some(consumer.kafka.group_id.clone()),
        protocol: gate.protocol.or(last.protocol),
        cluster_id: reading.cluster_id.clone().or_else(|| last.cluster_id.clone()),
        image: Some(consumer.image.clone()),
        stock_image: consumer.stock_image.clone(),
        config_format: formats::known(&situation).map(|format| format as i32),
        decision: None,
        memory: None,
        parked: offsets::keep(last.parked.clone(), reading, children.pods.len(), children.ready()),
        observed_generation: generation,
        conditions: last.conditions.clone(),
    };
    if reading.is_empty() {
        // The operator was restarted: what it knew is not unknown because it has not read yet.
        status.lag = last.lag;
        status.behind_seconds = last.behind_seconds;
        status.arrival_rate = last.arrival_rate;
        status.handled_rate = last.handled_rate;
        status.capacity_per_pod = last.capacity_per_pod;
    }
    status.decision = planned
        .map(|planned| decision(&last, &status, planned, target, now))
        .or_else(|| last.decision.clone());
    status.memory = memory(&last, &status, planned, now);
    set_all(&mut status, verdicts, generation, now);
    status
}

fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The status of a consumer whose spec cannot be followed: what is known stays, the conditions say why.
pub fn refused(
    last: &KafkaConsumerStatus,
    verdicts: &Verdicts,
    generation: Option<i64>,
    now: Timestamp,
) -> KafkaConsumerStatus {
    let mut status = KafkaConsumerStatus { observed_generation: generation, ..last.clone() };
    set_all(&mut status, verdicts, generation, now);
    status
}

/// The status of a consumer whose objects cannot be read: what is known stays, `Ready` says why.
pub fn unobserved(
    last: &KafkaConsumerStatus,
    ready: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> KafkaConsumerStatus {
    let mut status = last.clone();
    set(&mut status.conditions, conditions::READY, ready, generation, now);
    status
}

fn set_all(
    status: &mut KafkaConsumerStatus,
    verdicts: &Verdicts,
    generation: Option<i64>,
    now: Timestamp,
) {
    for (type_, verdict) in [
        (conditions::READY, &verdicts.ready),
        (conditions::KAFKA_REACHABLE, &verdicts.kafka_reachable),
        (conditions::SCALING_ACTIVE, &verdicts.scaling_active),
        (conditions::SCALING_LIMITED, &verdicts.scaling_limited),
        (conditions::GROUP_CONFLICT, &verdicts.group_conflict),
        (conditions::CONTESTED, &verdicts.contested),
    ] {
        set(&mut status.conditions, type_, verdict, generation, now);
    }
    // By the convention of kstatus this one is there only while it is true.
    match &verdicts.stalled {
        Some(verdict) => set(&mut status.conditions, conditions::STALLED, verdict, generation, now),
        None => status.conditions.retain(|c| c.type_ != conditions::STALLED),
    }
}

/// What the planner wants remembered, with the moment at which the number of pods was last changed.
fn memory(
    last: &KafkaConsumerStatus,
    next: &KafkaConsumerStatus,
    planned: Option<&Planned>,
    now: Timestamp,
) -> Option<PlannerMemory> {
    let kept = || last.memory.clone().unwrap_or_default();
    let mut memory = planned.map_or_else(kept, |planned| planned.memory.clone());
    memory.last_scale = if last.desired_replicas == next.desired_replicas {
        last.memory.as_ref().and_then(|m| m.last_scale.clone())
    } else {
        Some(Time(now))
    };
    Some(memory).filter(|memory| *memory != PlannerMemory::default())
}

/// The decision with the moment at which pods, knobs or the reason last became others.
fn decision(
    last: &KafkaConsumerStatus,
    next: &KafkaConsumerStatus,
    planned: &Planned,
    target: &Target,
    now: Timestamp,
) -> DecisionStatus {
    let numbers = planned.decision.numbers;
    // With DryRun this is what would be asked for; where the spec decides, what it decided.
    let replicas = match target.reason.as_str() {
        reason::MANUAL | reason::SUSPENDED => target.replicas.unwrap_or_default(),
        _ => planned.decision.replicas as i32,
    };
    let old = last.decision.as_ref();
    let same = old.is_some_and(|old| old.reason == target.reason && old.replicas == replicas)
        && last.desired_replicas == next.desired_replicas
        && last.tuning_revision == next.tuning_revision;
    let knobs = planned.decision.knobs;
    let (batch_size, concurrency) = (knobs.batch_size as i32, knobs.concurrency as i32);
    // The sentence of the last change stays as long as its knobs do.
    let kept = old
        .filter(|old| (old.batch_size, old.concurrency) == (Some(batch_size), Some(concurrency)));
    let knobs_message = planned.decision.knobs_message.clone();
    DecisionStatus {
        reason: target.reason.clone(),
        message: target.message.clone(),
        time: old.and_then(|old| old.time.clone()).filter(|_| same).or(Some(Time(now))),
        replicas,
        batch_size: Some(batch_size),
        concurrency: Some(concurrency),
        knobs_message: knobs_message.or_else(|| kept?.knobs_message.clone()),
        demand: numbers.demand.map(|n| round(n, 1)),
        capacity: numbers.capacity.map(|n| round(n, 1)),
        backlog: numbers.backlog,
    }
}

/// Numbers are shown with as many digits as they are worth.
fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use sluice_crds::tuning::{Knobs, Tuning};
    use sluice_planner::{Decision, Numbers, Reason};

    use super::*;

    fn decided(concurrency: u32, why: Option<&str>) -> Planned {
        let decision = Decision {
            replicas: 6,
            knobs: Knobs { batch_size: 50, concurrency },
            knobs_message: why.map(str::to_owned),
            reason: Reason::KnobsFirst,
            message: "why".to_owned(),
            numbers: Numbers::default(),
            limit: None,
            wants_group: false,
        };
        Planned { decision, memory: PlannerMemory::default() }
    }

    /// The decision of a pass after the one before, with knobs in place that stay as they are.
    fn after(last: Option<DecisionStatus>, planned: &Planned) -> DecisionStatus {
        let last = KafkaConsumerStatus { decision: last, ..KafkaConsumerStatus::default() };
        let target = Target {
            replicas: Some(4),
            tuning: Tuning::new(1, Knobs { batch_size: 50, concurrency: 1 }),
            reason: "KnobsFirst".to_owned(),
            message: "why".to_owned(),
            limited: None,
        };
        decision(&last, &last, planned, &target, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_dry_run_shows_the_knobs_that_would_be_written_and_why() {
        let shown = after(None, &decided(4, Some("concurrency 1 → 4: 900 records wait")));
        assert_eq!((shown.batch_size, shown.concurrency), (Some(50), Some(4)));
        assert_eq!(shown.knobs_message.as_deref(), Some("concurrency 1 → 4: 900 records wait"));
        // When they are no longer decided on, nor is the sentence.
        let later = after(Some(shown), &decided(1, None));
        assert_eq!((later.concurrency, later.knobs_message), (Some(1), None));
    }

    #[test]
    fn the_sentence_of_the_last_change_of_the_knobs_stays_as_long_as_they_do() {
        let changed = after(None, &decided(4, Some("concurrency 1 → 4: 900 records wait")));
        let later = after(Some(changed.clone()), &decided(4, None));
        assert_eq!(later.knobs_message, changed.knobs_message);
    }
}
