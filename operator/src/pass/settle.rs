//! Before a consumer's first pod: whose the group is, and where it begins. What has to be done is decided in `offsets`;
//! here it is done.

use sluice_crds::{KafkaConsumerStatus, conditions::reason};

use crate::{
    cluster::events::Happening,
    kafka::port::{Group, Reading},
    pass::{
        decide::Conflict,
        offsets::{self, Before, Commit},
        report::conditions::Verdict,
        validate::Validated,
    },
};

/// Whether the first pod may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It may; what was done for it.
    Go(Vec<Happening>),
    /// Not yet; `Ready` says why.
    Wait(Verdict),
    /// The group is somebody else's.
    Conflict(Conflict),
}

/// Prepares a group that has no pods for its first.
pub async fn prepare(
    v: &Validated,
    status: &KafkaConsumerStatus,
    reading: &Reading,
    group: &dyn Group,
) -> Start {
    match offsets::before_first_pod(
        reading,
        status.parked.as_ref(),
        v.start_from,
        v.take_over,
        &v.id.member_suffix(),
    ) {
        Before::Go => Start::Go(Vec::new()),
        Before::Foreign(members) => Start::Conflict(Conflict::Foreign(members)),
        Before::Wait(missing) => match &reading.error {
            Some(trouble) => Start::Wait(Verdict::no(trouble.reason, trouble.message.clone())),
            None => {
                Start::Wait(Verdict::no(reason::PENDING, format!("the first pod waits: {missing}")))
            }
        },
        Before::Commit(commit) => {
            let happenings = happenings(v, &commit);
            match group.commit(commit.offsets).await {
                Ok(()) => Start::Go(happenings),
                Err(trouble) => Start::Wait(Verdict::no(
                    trouble.reason,
                    format!(
                        "the first pod waits: the start positions cannot be committed: {}",
                        trouble.message
                    ),
                )),
            }
        }
    }
}

fn happenings(v: &Validated, commit: &Commit) -> Vec<Happening> {
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
