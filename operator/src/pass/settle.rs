//! Whose the group is, where it begins, and whether pods may start: the only step that asks Kafka for something. What has
//! to be done before a first pod is decided in `offsets`; here it is done.

use sluice_crds::{conditions::reason, kafkaconsumer::kafka::GroupProtocol};

use super::{
    Situation,
    offsets::{self, Before, Commit},
    report::conditions::Verdict,
    validate::Validated,
};
use crate::{cluster::events::Happening, identity::Identity, kafka::port::Group};

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
    pub events: Vec<Happening>,
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

/// Settles what a first pod needs. `wanted` is the pods that are to run, `conflict` what is known of other owners.
pub async fn settle(
    situation: &Situation<'_>,
    wanted: Option<i32>,
    conflict: Option<Conflict>,
    group: &dyn Group,
) -> Gate {
    let (consumer, reading) = (situation.consumer, situation.reading);
    let protocol = match consumer.kafka.protocol {
        GroupProtocol::Auto => reading.protocol.filter(|p| *p != GroupProtocol::Auto),
        chosen => Some(chosen),
    };
    let mut gate = Gate { protocol, opening: Opening::Open, events: Vec::new() };
    let is_first = situation.is_first(wanted) && !consumer.paused;
    match conflict {
        Some(conflict) => gate.opening = Opening::Conflict(conflict),
        None if is_first => prepare(situation, group, &mut gate).await,
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
async fn prepare(situation: &Situation<'_>, group: &dyn Group, gate: &mut Gate) {
    let (consumer, reading) = (situation.consumer, situation.reading);
    let status = situation.children.status();
    let ours = consumer.id.member_suffix();
    let parked = status.parked.as_ref();
    let before =
        offsets::before_first_pod(reading, parked, consumer.start_from, consumer.take_over, &ours);
    gate.opening = match before {
        Before::Go => Opening::Open,
        Before::Foreign(members) => Opening::Conflict(Conflict::Foreign(members)),
        Before::Wait(missing) => Opening::Wait(match &reading.error {
            Some(trouble) => Verdict::no(trouble.reason, trouble.message.clone()),
            None => Verdict::no(reason::PENDING, format!("the first pod waits: {missing}")),
        }),
        Before::Commit(commit) => {
            let events = events(consumer, &commit);
            match group.commit(commit.offsets).await {
                Ok(()) => {
                    gate.events = events;
                    Opening::Open
                }
                Err(trouble) => Opening::Wait(Verdict::no(
                    trouble.reason,
                    format!(
                        "the first pod waits: the start positions cannot be committed: {}",
                        trouble.message
                    ),
                )),
            }
        }
    };
}

fn events(v: &Validated, commit: &Commit) -> Vec<Happening> {
    let mut happenings = Vec::new();
    if commit.restored > 0 {
        let note = format!(
            "the broker had expired the offsets of {} partitions; they are restored as they were kept",
            commit.restored
        );
        happenings.push(Happening::warning("OffsetsRestored", "Start", note));
    }
    if commit.discarded > 0 {
        let note = format!(
            "{} partitions begin anew ({:?}): their topic or cluster is another than when their offsets were kept",
            commit.discarded, v.start_from
        );
        happenings.push(Happening::warning("OffsetsDiscarded", "Start", note));
    }
    let fresh = commit.started - commit.discarded;
    if fresh > 0 {
        let note = format!(
            "group {} begins at {:?} in {fresh} partitions",
            v.kafka.group_id, v.start_from
        );
        happenings.push(Happening::normal("StartResolved", "Start", note));
    }
    happenings
}
