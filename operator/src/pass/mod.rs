//! One pass over one consumer, as a chain of values: observe → validate → decide → settle → target → build → apply →
//! report. Each step takes what the steps before it returned and changes none of it.

pub mod backoff;
pub mod build;
pub mod claims;
pub mod context;
pub mod decide;
pub mod formats;
pub mod memory;
pub mod offsets;
pub mod report;
pub mod rollouts;
pub mod settle;
pub mod starting;
pub mod target;
pub mod validate;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use sluice_crds::{KafkaConsumer, config, error::sentence, kafkaconsumer::tuning::ApplyOn};
use sluice_planner::snapshot::Millis;
use tokio::time::Instant;

use self::{
    claims::Claim,
    context::Context,
    decide::Planned,
    memory::{Members, Memory},
    report::conditions::Verdict,
    rollouts::Ring,
    settle::{Conflict, Gate, Opening, Starter},
    starting::Committing,
    target::Target,
    validate::Validated,
};
use crate::{
    clock,
    cluster::{
        apply::{Applied, Pods, Writer},
        children::{self, Children, Observer},
        configs::Configs,
        refusal,
    },
    identity::{Identity, Incomplete},
    kafka::port::Reading,
};

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is no consumer.
    #[error(transparent)]
    Identity(#[from] Incomplete),
    /// The objects could not be read.
    #[error(transparent)]
    Observe(#[from] children::Error),
    /// The objects could not be built.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// The objects could not be written.
    #[error(transparent)]
    Apply(#[from] refusal::Error),
}

impl Error {
    /// A fixed word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Identity(_) => "Identity",
            Self::Observe(_) => "Observe",
            Self::Build(_) => "Build",
            Self::Apply(error) => error.reason(),
        }
    }

    /// Whether it ends when somebody removes an object that no watch shows.
    pub fn waits_for_removal(&self) -> bool {
        matches!(self, Self::Apply(error) if error.waits_for_removal())
    }

    /// Whether the consumer is gone.
    fn is_gone(&self) -> bool {
        match self {
            Self::Apply(error) => error.is_gone(),
            _ => false,
        }
    }
}

/// The moment of a pass: by the clock of the world, and by one that never steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For what is written down.
    pub time: Timestamp,
    /// For what is waited for.
    pub instant: Instant,
}

/// What is known of one consumer in this pass.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The consumer.
    pub consumer: &'a Validated,
    /// Its objects, as they were before the pass.
    pub children: &'a Children,
    /// What was read of its topics and group.
    pub reading: &'a Reading,
}

impl Situation<'_> {
    /// The partitions of all topics; those of the last status until Kafka has answered.
    pub fn partitions(&self) -> Option<i32> {
        let read = self.reading.snapshot.as_ref().map(|s| s.partitions.len() as i32);
        read.or_else(|| self.children.status().partitions)
    }

    /// Whether the first pod is about to start.
    pub fn is_first(&self, wanted: Option<i32>) -> bool {
        self.children.desired().unwrap_or(0) == 0 && wanted.is_some_and(|pods| pods > 0)
    }
}

/// All that a pass found, decided and did: what is reported.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// What was known.
    pub situation: Situation<'a>,
    /// Who was in the group when its members were last read.
    pub members: Option<&'a Members>,
    /// What the planner decided, where it could be asked.
    pub planned: Option<&'a Planned>,
    /// Whether pods may start.
    pub gate: &'a Gate,
    /// What should be.
    pub target: &'a Target,
    /// What was written.
    pub applied: &'a Applied,
    /// Why not all could be built or written.
    pub failed: Option<&'a Verdict>,
    /// Who else writes this consumer's objects.
    pub contested: &'a Verdict,
}

/// One pass. Answers when the next one is due though nothing changes; `None` waits for a change.
///
/// # Errors
/// When the API server does not answer, or does not take what is to be written; then the pass is tried again after a
/// backoff.
pub async fn reconcile(
    consumer: &Arc<KafkaConsumer>,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) -> Result<Option<Duration>, Error> {
    // One that is being deleted is left to the garbage collector.
    if consumer.meta().deletion_timestamp.is_some() {
        memory.leave();
        context.shared.rollouts.release(consumer.metadata.uid.as_deref().unwrap_or_default());
        return Ok(None);
    }
    match steps(consumer, context, memory, now).await {
        Err(error) if error.is_gone() => {
            tracing::debug!(consumer = consumer.name_any(), %error, "gone in mid-pass");
            Ok(Some(backoff::safety_net(fastrand::f64())))
        }
        ended => ended,
    }
}

async fn steps(
    consumer: &Arc<KafkaConsumer>,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) -> Result<Option<Duration>, Error> {
    let id = Identity::of(consumer)?;
    let shared = &context.shared;
    let observer =
        Observer { id: &id, stores: &context.stores, client: &shared.client, now: now.instant };
    let consumer = observer.consumer(consumer, &mut memory.written);
    let children = match observer.observe(Arc::clone(&consumer), &mut memory.written).await {
        Ok(children) => children,
        Err(error) => {
            report::unobserved(&id, &consumer, &error, context, memory, now).await;
            return Err(error.into());
        }
    };
    memory.unobserved_since = None;
    let (image, platform) = (children.image(), &shared.platform);
    let valid = match validate::validate(&children.consumer, image, platform, &mut memory.rules) {
        Ok(valid) => valid,
        Err(error) => return reject(&children, &error, context, memory, now).await,
    };
    let ring = || -> Ring { Box::new(context.waker(&id.namespace, &id.name)) };
    let valid = shared.rollouts.turn(valid, children.deployment.as_deref(), ring);
    let group = memory.follow(&valid.kafka, &*shared.kafka, || context.on_reading(&id));
    let reading = group.reading();
    memory.see_members(&reading, &id.member_suffix(), now.instant);
    let situation = Situation { consumer: &valid, children: &children, reading: &reading };
    if let Err(error) = formats::check(&situation, config::SINCE) {
        return reject(&children, &error, context, memory, now).await;
    }

    let planned = decide::decide(&situation, memory, now);
    let wanted = target::wanted(&situation, planned.as_ref());
    let conflict = conflict(&situation, context, memory.members.as_ref());
    let committer = Arc::clone(&group);
    let starter = Starter {
        starting: &mut memory.starting,
        start: move |offsets| -> Committing {
            Box::pin(async move { committer.commit(offsets).await })
        },
        ring: context.waker(&id.namespace, &id.name),
        now,
    };
    let gate = settle::settle(&situation, wanted, conflict, starter);
    let target = Target::of(&situation, planned.as_ref(), &gate);
    group.with_members(wants_members(&situation, &gate, wanted, planned.as_ref(), memory, now));

    let (applied, failed) = apply(&situation, &gate, &target, context, memory, now).await;
    let failed_verdict = failed
        .as_ref()
        .filter(|error| !error.is_gone())
        .map(|error| Verdict::no(error.reason(), sentence(error)));
    let contested = report::contested::verdict(&memory.written, now.instant);
    let members = memory.members.clone();
    let outcome = Outcome {
        situation,
        members: members.as_ref(),
        planned: planned.as_ref(),
        gate: &gate,
        target: &target,
        applied: &applied,
        failed: failed_verdict.as_ref(),
        contested: &contested,
    };
    let again = report::report(&outcome, context, memory, now).await;
    failed.map_or(Ok(()), Err)?;
    let next = [applied.again, again, gate.again].into_iter().flatten().min();
    Ok(Some(next.unwrap_or_else(|| backoff::safety_net(fastrand::f64()))))
}

/// Reports why the spec cannot be followed. The objects stay as they are, and no retry would help.
async fn reject(
    children: &Children,
    error: &validate::Error,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) -> Result<Option<Duration>, Error> {
    let id = Identity::of(&children.consumer)?;
    // A consumer that cannot be followed has no claim; pods that it may have are members, which others see.
    context.shared.groups.release(&id.uid);
    context.shared.rollouts.release(&id.uid);
    memory.written.replicas = None;
    report::rejected(&id, children, &error.to_string(), context, memory, now).await;
    Ok(Some(backoff::safety_net(fastrand::f64())))
}

/// Claims the group. Of two consumers the one that runs keeps it, else the older; members of somebody else's are in the way too.
fn conflict(
    situation: &Situation,
    context: &Context,
    members: Option<&Members>,
) -> Option<Conflict> {
    let (group, mut claim) = Claim::of(&situation.children.consumer)?;
    claim.cluster_id = situation.reading.cluster_id.clone().or(claim.cluster_id);
    claim.running = situation.children.desired().is_some_and(|pods| pods > 0);
    let older = context.shared.groups.claim(&group, claim).map(Conflict::Other);
    older.or_else(|| {
        let foreign = members.map(|members| members.foreign.clone()).unwrap_or_default();
        (!situation.consumer.take_over && !foreign.is_empty()).then_some(Conflict::Foreign(foreign))
    })
}

/// Whether the group's members are to be read: near a decision, and now and then to find strangers.
fn wants_members(
    situation: &Situation,
    gate: &Gate,
    wanted: Option<i32>,
    planned: Option<&Planned>,
    memory: &Memory,
    now: Moment,
) -> bool {
    let children = situation.children;
    let near = wanted.is_some_and(|pods| Some(pods) != children.desired());
    // While there is a conflict, the members tell when it ends.
    let disputed = matches!(gate.opening, Opening::Conflict(_));
    // Offsets are parked from an empty group only.
    let unparked = children.pods.is_empty() && {
        let newest = offsets::park(situation.reading);
        newest.is_some() && newest != children.status().parked
    };
    near || disputed
        || unparked
        || planned.is_some_and(|p| p.decision.wants_group)
        || memory.members_are_old(now.instant)
}

/// Builds the objects and writes what differs.
async fn apply(
    situation: &Situation<'_>,
    gate: &Gate,
    target: &Target,
    context: &Context,
    memory: &mut Memory,
    now: Moment,
) -> (Applied, Option<Error>) {
    let (consumer, children) = (situation.consumer, situation.children);
    let untouched = || Applied::untouched(children);
    if consumer.paused {
        // What somebody scales meanwhile is no longer ours.
        memory.written.replicas = None;
    }
    let Some(protocol) = gate.protocol.filter(|_| !consumer.paused) else {
        return (untouched(), None);
    };
    let objects = match build::children(consumer, protocol, target.tuning) {
        Ok(objects) => objects,
        Err(error) => return (untouched(), Some(error.into())),
    };
    let pods = Pods {
        replicas: target.replicas,
        after_knobs: consumer.tuning.apply_on == ApplyOn::Rebalance,
    };
    let shared = &context.shared;
    let writer = Writer {
        client: &shared.client,
        id: &consumer.id,
        written: &mut memory.written,
        configs: Configs {
            client: &shared.client,
            id: &consumer.id,
            store: &context.stores.config_maps,
            known: &mut memory.configs,
            metrics: &shared.metrics,
            now: now.instant,
        },
        metrics: &shared.metrics,
        now: now.instant,
    };
    let mut applied = writer.apply(&objects, children, pods).await;
    if let Some((from, to)) = applied.scaled {
        shared.metrics.scaled(from, to, &target.reason);
        tracing::info!(consumer = %consumer.id, from, to, reason = target.reason, "scaled");
    }
    let failed = applied.error.take().map(Error::from);
    (applied, failed)
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        Self { time: Timestamp::now(), instant: Instant::now() }
    }

    /// By the clock of the readings.
    pub fn millis(self) -> Millis {
        clock::millis(self.instant)
    }

    /// After `duration` from now, as a requeue.
    pub fn until(self, later: Instant) -> Duration {
        later.saturating_duration_since(self.instant)
    }
}
