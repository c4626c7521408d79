//! One pass over one consumer: observe → validate → plan → build → apply → report.

pub mod backoff;
pub mod build;
pub mod claims;
pub mod context;
pub mod decide;
pub mod memory;
pub mod offsets;
pub mod report;
pub mod settle;
pub mod validate;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};
use sluice_crds::{
    KafkaConsumer, KafkaConsumerStatus,
    conditions::reason,
    kafkaconsumer::{kafka::GroupProtocol, tuning::ApplyOn},
};

use tokio::time::Instant;

use self::{
    claims::Claim,
    context::Context,
    decide::{Conflict, Course},
    memory::Memory,
    report::{
        conditions::Verdict,
        status::{self, Facts},
        verdicts,
    },
    settle::Start,
    validate::Validated,
};
use crate::{
    cluster::{
        apply::{self, Writer},
        children::{self, Children},
        configs::Configs,
        events::Happening,
    },
    identity::{Identity, Incomplete},
    kafka::port::{Group, Reading},
};

/// With `applyOn: Rebalance` new knobs have this time to arrive before the pods change.
const KNOBS_FIRST: Duration = Duration::from_secs(2);

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is no consumer.
    #[error(transparent)]
    Identity(#[from] Incomplete),
    /// The children could not be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// The children could not be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
}

impl Error {
    /// A fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Identity(_) => "Identity",
            Self::Build(_) => "Build",
            Self::Apply(error) => error.reason(),
        }
    }

    /// Whether the consumer is gone.
    fn is_gone(&self) -> bool {
        match self {
            Self::Apply(error) => error.is_gone(),
            _ => false,
        }
    }
}

/// One pass.
///
/// # Errors
/// When the API server does not take what is to be written; then the pass is tried again after a backoff.
pub async fn reconcile(
    consumer: &Arc<KafkaConsumer>,
    context: &Context,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Action, Error> {
    // One that is being deleted is left to the garbage collector.
    if consumer.meta().deletion_timestamp.is_some() {
        memory.followed = None;
        return Ok(Action::await_change());
    }
    match steps(consumer, context, memory, now).await {
        Err(error) if error.is_gone() => {
            tracing::debug!(consumer = consumer.name_any(), %error, "gone in mid-pass");
            Ok(Action::requeue(backoff::safety_net(fastrand::f64())))
        }
        ended => ended,
    }
}

/// The steps, as design.md §3 has them.
async fn steps(
    consumer: &Arc<KafkaConsumer>,
    context: &Context,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Action, Error> {
    let id = Identity::of(consumer)?;
    let mut seen =
        children::observe(consumer, &id, &context.stores, &mut memory.writes, Instant::now());
    let platform = &context.shared.platform;
    let valid = match validate::validate(&seen.consumer, seen.image(), platform, &mut memory.rules)
    {
        Ok(valid) => valid,
        Err(error) => return refuse(&seen, &error, context, memory, now).await,
    };
    let group = memory.follow(&valid.kafka, &*context.shared.kafka, || context.bell(&id));
    let reading = group.reading();
    memory.see_members(&reading, &id.member_suffix());
    let conflict = claim(&valid, &seen, &reading, context, &memory.foreign);
    let mut course = decide::course(&valid, &seen, &reading, conflict, &mut memory.history, now);
    let mut open = Open::default();
    begin(&valid, &seen, &reading, &*group, &mut course, &mut open).await;
    let failed = carry_out(&valid, &mut seen, &course, &mut open, context, memory).await;
    tell(&valid, &seen, &reading, &course, &open, failed.as_ref().err(), context, memory, now)
        .await;
    failed?;
    Ok(Action::requeue(open.again.unwrap_or_else(|| backoff::safety_net(fastrand::f64()))))
}

/// What is left open by the steps, for those after them.
#[derive(Debug, Default)]
struct Open {
    /// The group protocol, resolved; while it is not, no child can be built.
    protocol: Option<GroupProtocol>,
    /// Why the first pod may not start.
    waits: Option<Verdict>,
    /// What happened.
    happenings: Vec<Happening>,
    /// When to come again.
    again: Option<Duration>,
}

/// Says why the spec cannot be followed. The children stay as they are, and no retry would help.
async fn refuse(
    seen: &Children,
    error: &validate::Error,
    context: &Context,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Action, Error> {
    let verdicts = verdicts::of_refusal(&error.to_string());
    let consumer = &seen.consumer;
    // A consumer that cannot be followed has no claim; pods that it may have are members, which others see.
    context.shared.groups.release(&Identity::of(consumer)?.uid);
    let next = status::refused(&seen.status(), &verdicts, consumer.metadata.generation, now);
    // Its last numbers are nobody's any more.
    let shown = KafkaConsumerStatus { conditions: next.conditions.clone(), ..Default::default() };
    context.shared.metrics.show(&Identity::of(consumer)?, &consumer.spec, &shown);
    report::report(consumer, next, Vec::new(), context, &mut memory.writes, now).await;
    Ok(Action::requeue(backoff::safety_net(fastrand::f64())))
}

/// Claims the group. Of two consumers the one that runs keeps it, else the older; members of somebody else's are in the way too.
fn claim(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    context: &Context,
    foreign: &[String],
) -> Option<Conflict> {
    let (group, mut claim) = Claim::of(&seen.consumer)?;
    claim.cluster_id = reading.cluster_id.clone().or(claim.cluster_id);
    claim.running = seen.asked_for().is_some_and(|pods| pods > 0);
    let older = context.shared.groups.claim(&group, claim).map(Conflict::Other);
    older.or_else(|| {
        (!v.take_over && !foreign.is_empty()).then(|| Conflict::Foreign(foreign.to_vec()))
    })
}

/// Sees to it that the group is ready for its first pod, and that its protocol is resolved; until then none starts.
async fn begin(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    group: &dyn Group,
    course: &mut Course,
    open: &mut Open,
) {
    open.protocol = match v.kafka.protocol {
        GroupProtocol::Auto => reading.protocol.filter(|p| *p != GroupProtocol::Auto),
        chosen => Some(chosen),
    };
    let asked_for = seen.asked_for().unwrap_or(0);
    let first = asked_for == 0 && course.replicas.is_some_and(|pods| pods > 0);
    let near = course.replicas.is_some_and(|pods| pods != asked_for);
    // While there is a conflict, the members tell when it ends.
    let disputed = course.conflict.is_some();
    group.with_members(
        first || near || disputed || course.planned.as_ref().is_some_and(|p| p.wants_group),
    );
    if first && !v.paused {
        match settle::prepare(v, &seen.status(), reading, group).await {
            Start::Go(happenings) => open.happenings = happenings,
            Start::Wait(verdict) => {
                open.waits = Some(verdict);
                course.replicas = Some(0);
            }
            Start::Conflict(conflict) => {
                course.conflict = Some(conflict);
                course.replicas = Some(0);
            }
        }
    }
    if open.protocol.is_none() && open.waits.is_none() {
        open.waits = Some(match &reading.error {
            Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
            None => Verdict::no(reason::PENDING, "the group protocol is not resolved yet"),
        });
    }
}

/// Builds the children and writes what differs: the files, the pods' template, and last their number.
async fn carry_out(
    v: &Validated,
    seen: &mut Children,
    course: &Course,
    open: &mut Open,
    context: &Context,
    memory: &mut Memory,
) -> Result<(), Error> {
    let Some(protocol) = open.protocol.filter(|_| !v.paused) else { return Ok(()) };
    let desired = build::children(v, protocol, course.tuning)?;
    let shared = &context.shared;
    let mut writer = Writer {
        client: &shared.client,
        id: &v.id,
        writes: &mut memory.writes,
        metrics: &shared.metrics,
    };
    let mut configs = Configs {
        client: &shared.client,
        id: &v.id,
        store: &context.stores.config_maps,
        known: &mut memory.configs,
        metrics: &shared.metrics,
        now: Instant::now(),
    };
    configs.ensure(&desired.config).await?;
    writer.tuning(&desired, seen).await?;
    if let Some(rest) = knobs_first(v, seen, &writer) {
        open.again = Some(rest);
        writer.nudge(seen).await;
        return Ok(());
    }
    if let Some(written) = writer.deployment(&desired, seen).await? {
        seen.deployment = Some(written);
        configs.known.template_written(configs.now);
    }
    if let (Some(deployment), Some(pods)) = (seen.deployment.clone(), course.replicas)
        && writer.replicas(&deployment, pods).await?
    {
        let from = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        seen.deployment = writer.writes.deployment.newest(seen.deployment.clone(), Instant::now());
        if from != pods {
            let reason = course.planned.as_ref().map_or(reason::PENDING, |p| p.reason.as_str());
            shared.metrics.scaled(from, pods, reason);
            tracing::info!(consumer = %v.id, from, to = pods, reason, "scaled");
        }
    }
    // Last: a spike is not to wait for as many requests as there are pods.
    writer.nudge(seen).await;
    configs.sweep(&desired.config, seen.deployment.as_deref()).await;
    Ok(())
}

/// With `applyOn: Rebalance`, how long the pods still wait for knobs that were just written.
fn knobs_first(v: &Validated, seen: &Children, writer: &Writer) -> Option<Duration> {
    if v.tuning.apply_on != ApplyOn::Rebalance || seen.deployment.is_none() {
        return None;
    }
    let since = writer.writes.knobs_at?.elapsed();
    KNOBS_FIRST.checked_sub(since).filter(|rest| !rest.is_zero())
}

/// Writes the status, says what happened, and shows the numbers.
#[allow(clippy::too_many_arguments, reason = "it tells of all that the steps before it found")]
async fn tell(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    course: &Course,
    open: &Open,
    failed: Option<&Error>,
    context: &Context,
    memory: &mut Memory,
    now: Timestamp,
) {
    let last = seen.status();
    let failed = failed
        .filter(|error| !error.is_gone())
        .map(|error| Verdict::no(error.reason(), error.to_string()));
    let verdicts =
        verdicts::of_pass(v, seen, reading, course, open.waits.as_ref(), failed.as_ref(), now);
    let facts = Facts {
        validated: v,
        children: seen,
        reading,
        planned: course.planned.as_ref(),
        desired: seen.asked_for(),
        tuning: course.tuning,
        protocol: open.protocol.unwrap_or(GroupProtocol::Auto),
        parked: offsets::keep(last.parked.clone(), reading, seen.pods.len(), seen.ready()),
    };
    let next = status::next(&last, &facts, &verdicts, now);
    context.shared.metrics.show(&v.id, &seen.consumer.spec, &next);
    let happenings = open.happenings.clone();
    report::report(&seen.consumer, next, happenings, context, &mut memory.writes, now).await;
}
