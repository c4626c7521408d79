//! What people and machines are told: status and conditions, events, gauges. Only what changed is written.
//!
//! What is told is made in pure files (`status`, `conditions`, `significance`, `transitions`); the writing is in
//! `writer` and `events`.

pub mod conditions;
pub mod significance;
pub mod status;
pub mod transitions;
pub mod verdicts;
pub mod writer;

use jiff::Timestamp;
use kube::Resource;
use sluice_crds::{KafkaConsumer, KafkaConsumerStatus};
use tokio::time::Instant;

use self::significance::significance;
use crate::{
    cluster::{events::Happening, written::Writes},
    pass::context::Context,
};

/// Writes the status, if it moved enough, and says what happened since the last one that was written. A status that cannot
/// be written now is tried again later, and fails no pass.
pub async fn report(
    consumer: &KafkaConsumer,
    next: KafkaConsumerStatus,
    mut happenings: Vec<Happening>,
    context: &Context,
    writes: &mut Writes,
    now: Timestamp,
) {
    let shared = &context.shared;
    let next = shared.definition.fit(next);
    let last = consumer.status.clone().unwrap_or_default();
    let since = writes.status_at.map(|at| at.elapsed());
    let due = significance(&last, &next).is_due(since) || !happenings.is_empty();
    if due && writes.status.may() {
        // What cannot be written is counted there; a consumer that is gone needs no status.
        if let Ok(answer) = writer::write(consumer, &next, context, &mut writes.status).await {
            writes.consumer.wrote(answer, Instant::now());
            writes.status_at = Some(Instant::now());
            happenings.extend(transitions::between(&last, &next, now));
        }
    }
    if !happenings.is_empty() {
        shared.events.publish(happenings, &consumer.object_ref(&()));
    }
}
