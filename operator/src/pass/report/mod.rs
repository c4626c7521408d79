//! What people and machines are told: status and conditions, events, gauges. Only what changed is written.
//!
//! What is reported is made in pure files (`verdicts`, `conditions`, `damping`, `contested`, `status`, `significance`,
//! `transitions`); the writing is here and in `cluster::events`.

pub mod conditions;
pub mod contested;
pub mod damping;
pub mod significance;
pub mod status;
pub mod transitions;
pub mod verdicts;
pub mod writer;

use std::time::Duration;

use kube::Resource;
use sluice_crds::{
    KafkaConsumer, KafkaConsumerStatus, conditions as types, conditions::reason, error::sentence,
};

use self::{
    conditions::Verdict,
    significance::{Significance, significance},
    transitions::Cause,
};
use crate::{
    cluster::{
        children::{self, Children},
        events::Event,
    },
    identity::Identity,
    pass::{Moment, Outcome, context::Context, memory::Memory},
};

/// Reports the outcome of a pass; answers when there will be more to report though nothing changes until then.
/// A status that cannot be written now is tried again later: it fails no pass.
pub async fn report(
    outcome: &Outcome<'_>,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) -> Option<Duration> {
    let children = outcome.situation.children;
    let last = children.status();
    let mut verdicts = verdicts::of_pass(outcome, now);
    for (type_, verdict) in [
        (types::KAFKA_REACHABLE, &mut verdicts.kafka_reachable),
        (types::SCALING_ACTIVE, &mut verdicts.scaling_active),
        (types::SCALING_LIMITED, &mut verdicts.scaling_limited),
    ] {
        let before = Verdict::of(&last.conditions, type_);
        *verdict = memory.damper.damp(type_, before, verdict.clone(), now.instant);
    }
    let next = status::next(outcome, &verdicts, now.time);
    let consumer = &children.consumer;
    context.shared.metrics.show(&outcome.situation.consumer.id, &consumer.spec, &next);
    let cause = Cause {
        written: memory.written.replicas.map(|(replicas, _)| replicas),
        created: outcome.applied.created,
        obstructed: memory.obstructed,
    };
    let change = Change { last, next, cause };
    let rest = write(consumer, change, &outcome.gate.events, context, memory, now).await;
    let due = memory.damper.due().map(|due| now.until(due));
    [rest, due].into_iter().flatten().min()
}

/// Reports that the spec cannot be followed.
pub async fn rejected(
    id: &Identity,
    children: &Children,
    why: &str,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) {
    let last = children.status();
    let verdicts = verdicts::of_refusal(why);
    let generation = children.consumer.metadata.generation;
    let next = status::refused(&last, &verdicts, generation, now.time);
    let cause = Cause { obstructed: memory.obstructed, ..Cause::default() };
    // Its last numbers are nobody's any more.
    let shown = KafkaConsumerStatus { conditions: next.conditions.clone(), ..Default::default() };
    context.shared.metrics.show(id, &children.consumer.spec, &shown);
    let change = Change { last, next, cause };
    write(&children.consumer, change, &[], context, memory, now).await;
}

/// Reports that the objects could not be read, once that lasts: all else stays as it was reported.
pub async fn unobserved(
    id: &Identity,
    consumer: &KafkaConsumer,
    error: &children::Error,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) {
    let since = *memory.unobserved_since.get_or_insert(now.instant);
    if now.instant.duration_since(since) < damping::HOLD {
        return;
    }
    let last = consumer.status.clone().unwrap_or_default();
    let ready = Verdict::new(None, reason::OBJECTS_UNKNOWN, sentence(error));
    let next = status::unobserved(&last, &ready, consumer.metadata.generation, now.time);
    context.shared.metrics.show(id, &consumer.spec, &next);
    let cause = Cause { obstructed: memory.obstructed, ..Cause::default() };
    write(consumer, Change { last, next, cause }, &[], context, memory, now).await;
}

/// A change of a status.
struct Change {
    last: KafkaConsumerStatus,
    next: KafkaConsumerStatus,
    cause: Cause,
}

/// Writes the status, if it moved enough, and publishes what happened since the last one that was written. Answers how
/// long a write still waits.
async fn write(
    consumer: &KafkaConsumer,
    change: Change,
    done: &[Event],
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) -> Option<Duration> {
    let shared = &context.shared;
    let Change { last, next, cause } = change;
    let next = shared.definition.fit(next);
    let since = memory.written.status_at.map(|at| now.instant.duration_since(at));
    let significance = significance(&last, &next);
    let mut rest = significance.rest(since, shared.groups.consumers());
    if significance == Significance::Small {
        rest = rest.map(|rest| rest.max(memory.small_writes.rest(now.instant)));
    }
    let due = rest.is_some_and(|rest| rest.is_zero()) || !done.is_empty();
    let mut events = done.to_vec();
    if due && memory.status.may() {
        // What cannot be written is counted there; a consumer that is gone needs no status.
        if let Ok(answer) = writer::write(consumer, &next, context, &mut memory.status).await {
            memory.written.consumer.wrote(answer, now.instant);
            memory.written.status_at = Some(now.instant);
            if significance == Significance::Small {
                memory.small_writes.spend(now.instant);
            }
            memory.obstructed = transitions::is_obstructed(&next).unwrap_or(memory.obstructed);
            events.extend(transitions::between(&last, &next, cause));
        }
    }
    if !events.is_empty() {
        shared.events.publish(events, &consumer.object_ref(&()));
    }
    rest.filter(|_| !due)
}
