//! The next status, from what was observed and decided. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sluice_crds::{
    KafkaConsumerStatus, conditions,
    kafkaconsumer::{
        kafka::GroupProtocol,
        status::{DecisionStatus, ParkedOffsets, PlannerMemory},
    },
    tuning::Tuning,
};

use super::conditions::{Verdict, set};
use crate::{
    cluster::children::Children,
    kafka::port::Reading,
    pass::{build, decide::Planned, validate::Validated},
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
}

/// What a pass over a valid spec found.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The consumer.
    pub validated: &'a Validated,
    /// Its children before the pass.
    pub children: &'a Children,
    /// What Kafka said.
    pub reading: &'a Reading,
    /// What was decided, where anything could be.
    pub planned: Option<&'a Planned>,
    /// Pods that are asked for now.
    pub desired: Option<i32>,
    /// The knobs that are asked for now.
    pub tuning: Tuning,
    /// The protocol, where it is resolved.
    pub protocol: GroupProtocol,
    /// What is kept of the offsets.
    pub parked: Option<ParkedOffsets>,
}

/// The status after a pass.
pub fn next(
    last: &KafkaConsumerStatus,
    facts: &Facts,
    verdicts: &Verdicts,
    now: Timestamp,
) -> KafkaConsumerStatus {
    let v = facts.validated;
    let generation = facts.children.consumer.metadata.generation;
    let deployment = facts.children.deployment.as_ref().and_then(|d| d.status.as_ref());
    let exists = facts.children.deployment.is_some();
    let planned = facts.planned;
    let mut status = KafkaConsumerStatus {
        replicas: Some(deployment.and_then(|s| s.replicas).unwrap_or(0)).filter(|_| exists),
        ready_replicas: Some(facts.children.ready()).filter(|_| exists),
        desired_replicas: facts.desired,
        selector: Some(build::selector(&v.id)),
        // The number of partitions is not forgotten because a broker does not answer.
        partitions: facts
            .reading
            .snapshot
            .as_ref()
            .map(|s| s.partitions.len() as i32)
            .or(last.partitions),
        lag: planned.and_then(|p| p.lag),
        behind_seconds: planned.and_then(|p| p.behind_seconds).map(|s| round(s, 1)),
        arrival_rate: planned.and_then(|p| p.arrival_rate).map(|r| round(r, 1)),
        handled_rate: planned.and_then(|p| p.handled_rate).map(|r| round(r, 1)),
        capacity_per_pod: planned.and_then(|p| p.capacity).map(|r| round(r, 1)),
        batch_size: Some(facts.tuning.knobs.batch_size as i32),
        concurrency: Some(facts.tuning.knobs.concurrency as i32),
        tuning_revision: Some(facts.tuning.revision as i64),
        group_id: Some(v.kafka.group_id.clone()),
        protocol: Some(facts.protocol).filter(|p| *p != GroupProtocol::Auto).or(last.protocol),
        cluster_id: facts.reading.cluster_id.clone().or_else(|| last.cluster_id.clone()),
        image: Some(v.image.clone()),
        stock_image: v.stock_image.clone(),
        decision: planned.map(|p| decision(last, p, facts, now)).or_else(|| last.decision.clone()),
        memory: memory(last, facts, now),
        parked: facts.parked.clone(),
        observed_generation: generation,
        conditions: last.conditions.clone(),
    };
    if facts.reading.is_empty() {
        // The operator was started again: what it knew is not unknown because it has not read yet.
        status.lag = last.lag;
        status.behind_seconds = last.behind_seconds;
        status.arrival_rate = last.arrival_rate;
        status.handled_rate = last.handled_rate;
        status.capacity_per_pod = last.capacity_per_pod;
    }
    set_all(&mut status, verdicts, generation, now);
    status
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
    ] {
        set(&mut status.conditions, type_, verdict, generation, now);
    }
}

/// What the planner wants remembered, with the moment at which the number of pods was last changed.
fn memory(last: &KafkaConsumerStatus, facts: &Facts, now: Timestamp) -> Option<PlannerMemory> {
    let mut memory = facts
        .planned
        .and_then(|p| p.memory.clone())
        .or_else(|| last.memory.clone())
        .unwrap_or_default();
    memory.last_scale = match last.desired_replicas {
        before if before == facts.desired => {
            last.memory.as_ref().and_then(|m| m.last_scale.clone())
        }
        _ => Some(Time(now)),
    };
    Some(memory).filter(|memory| *memory != PlannerMemory::default())
}

/// The decision with the moment at which pods, knobs or the reason last became others.
fn decision(
    last: &KafkaConsumerStatus,
    planned: &Planned,
    facts: &Facts,
    now: Timestamp,
) -> DecisionStatus {
    let old = last.decision.as_ref();
    let same = old
        .is_some_and(|old| old.reason == planned.reason && old.replicas == planned.replicas)
        && last.desired_replicas == facts.desired
        && last.tuning_revision == Some(facts.tuning.revision as i64);
    DecisionStatus {
        reason: planned.reason.clone(),
        message: planned.message.clone(),
        time: old.and_then(|old| old.time.clone()).filter(|_| same).or(Some(Time(now))),
        replicas: planned.replicas,
        demand: planned.demand.map(|n| round(n, 1)),
        capacity: planned.capacity.map(|n| round(n, 1)),
        backlog: planned.backlog,
    }
}

/// Numbers are shown with as many digits as they are worth.
fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}
