//! Whose the group is, where it begins, and whether pods may start: the only step that asks Kafka for something. What has
//! to be done before a first pod is decided in `offsets`; here it is done.

use std::time::Duration;

use sluice_crds::{conditions::reason, kafkaconsumer::kafka::GroupProtocol};
use sluice_planner::snapshot::TopicPartition;

use super::{
    Moment, Situation,
    offsets::{self, Before, Commit},
    report::conditions::Verdict,
    starting::{Committing, Progress, Starting},
    validate::Validated,
};
use crate::{cluster::events::Event, identity::Identity};

/// Why a consumer may not touch its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// An older consumer has it.
    Other(Identity),
    /// Members that are not ours are in it.
    Foreign(Vec<String>),
}

/// Whether pods may start, and with which protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The group protocol, resolved; while it is not, no object can be built.
    pub protocol: Option<GroupProtocol>,
    /// Whether pods may start.
    pub opening: Opening,
    /// What was done.
    pub events: Vec<Event>,
    /// When to try again what failed.
    pub again: Option<Duration>,
}

/// Whether pods may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// They may.
    Open,
    /// A first pod may not, yet; `Ready` says why.
    Wait(Verdict),
    /// The group is somebody else's.
    Conflict(Conflict),
}

impl Gate {
    /// Why a first pod waits.
    pub fn waits(&self) -> Option<&Verdict> {
        match &self.opening {
            Opening::Wait(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// Whose the group is, if not this consumer's.
    pub fn conflict(&self) -> Option<&Conflict> {
        match &self.opening {
            Opening::Conflict(conflict) => Some(conflict),
            _ => None,
        }
    }
}

/// What the commit of start positions is made with.
pub struct Starter<'a, Start, Ring> {
    /// How far it is.
    pub starting: &'a mut Starting,
    /// Commits.
    pub start: Start,
    /// Asks for a pass when Kafka has answered.
    pub ring: Ring,
    /// The moment of the pass.
    pub now: Moment,
}

/// Settles what a first pod needs. `wanted` is the pods that are to run, `conflict` what is known of other owners.
pub fn settle<Start, Ring>(
    situation: &Situation<'_>,
    wanted: Option<i32>,
    conflict: Option<Conflict>,
    starter: Starter<'_, Start, Ring>,
) -> Gate
where
    Start: FnOnce(Vec<(TopicPartition, i64)>) -> Committing,
    Ring: FnOnce() + Send + 'static,
{
    let (consumer, reading) = (situation.consumer, situation.reading);
    let protocol = match consumer.kafka.protocol {
        GroupProtocol::Auto => reading.protocol.filter(|p| *p != GroupProtocol::Auto),
        chosen => Some(chosen),
    };
    // Also where it is needed no more: that a commit was made is told once.
    let committed = starter.starting.answered(starter.now);
    let events = committed.map(|commit| events(consumer, &commit)).unwrap_or_default();
    let mut gate = Gate { protocol, opening: Opening::Open, events, again: None };
    let is_first = situation.is_first(wanted) && !consumer.paused;
    match conflict {
        Some(conflict) => gate.opening = Opening::Conflict(conflict),
        None if is_first => prepare(situation, starter, &mut gate),
        None => {}
    }
    if protocol.is_none() && gate.opening == Opening::Open {
        gate.opening = Opening::Wait(match &reading.error {
            Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
            None => Verdict::no(reason::PENDING, "the group protocol is not resolved yet"),
        });
    }
    gate
}

/// Prepares a group that has no pods for its first.
fn prepare<Start, Ring>(
    situation: &Situation<'_>,
    starter: Starter<'_, Start, Ring>,
    gate: &mut Gate,
) where
    Start: FnOnce(Vec<(TopicPartition, i64)>) -> Committing,
    Ring: FnOnce() + Send + 'static,
{
    let (consumer, reading) = (situation.consumer, situation.reading);
    let status = situation.children.status();
    let ours = consumer.id.member_suffix();
    let parked = status.parked.as_ref();
    let before =
        offsets::before_first_pod(reading, parked, consumer.start_from, consumer.take_over, &ours);
    gate.opening = match (before, &reading.snapshot) {
        (Before::Go, _) => Opening::Open,
        (Before::Foreign(members), _) => Opening::Conflict(Conflict::Foreign(members)),
        (Before::Wait(missing), _) => Opening::Wait(match &reading.error {
            Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
            None => Verdict::no(reason::PENDING, format!("the first pod waits: {missing}")),
        }),
        (Before::Commit(commit), Some(snapshot)) => {
            let Starter { starting, start, ring, now } = starter;
            match starting.advance(commit, snapshot, start, ring, now) {
                Progress::Committed => Opening::Open,
                Progress::Waits => Opening::Wait(Verdict::no(
                    reason::PENDING,
                    "the first pod waits for Kafka's answer to the commit of the start positions",
                )),
                Progress::Failed(trouble, rest) => {
                    gate.again = Some(rest);
                    Opening::Wait(Verdict::no(
                        trouble.reason,
                        format!(
                            "the first pod waits: the start positions cannot be committed: {}",
                            trouble.message
                        ),
                    ))
                }
            }
        }
        // Start positions are made of a snapshot.
        (Before::Commit(_), None) => {
            Opening::Wait(Verdict::pending("the first reading is on its way"))
        }
    };
}

/// So many partitions, in words.
fn partitions(count: usize) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

fn events(v: &Validated, commit: &Commit) -> Vec<Event> {
    let mut events = Vec::new();
    if commit.restored > 0 {
        let note = format!(
            "the broker had expired the offsets of {}; they are restored as they were kept",
            partitions(commit.restored)
        );
        events.push(Event::warning("OffsetsRestored", "Start", note));
    }
    if commit.discarded > 0 {
        let note = format!(
            "the offsets of {} are set to {:?}: the topic or the cluster is not the one that they \
             were kept for",
            partitions(commit.discarded),
            v.start_from
        );
        events.push(Event::warning("OffsetsDiscarded", "Start", note));
    }
    let fresh = commit.started - commit.discarded;
    if fresh > 0 {
        let note = format!(
            "group {} begins at {:?} in {}",
            v.kafka.group_id,
            v.start_from,
            partitions(fresh)
        );
        events.push(Event::normal("StartResolved", "Start", note));
    }
    events
}
