//! Where a group begins: start positions before its first pod, offsets kept while it has none, and restored before it
//! wakes. A start is never left to chance. Decisions here are pure; `reconcile` carries them out.

use std::collections::BTreeMap;

use sluice_crds::kafkaconsumer::{
    kafka::StartFrom,
    status::{ParkedOffsets, ParkedTopic},
};
use sluice_planner::snapshot::{Committed, Group, GroupState, Snapshot, TopicPartition};

use crate::group::Reading;

/// What has to be done before the first pod may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: every partition has an offset.
    Go,
    /// It is not known yet; the sentence says what is missing.
    Wait(String),
    /// Members that are not this consumer's are in the group.
    Foreign(Vec<String>),
    /// These offsets are committed first.
    Commit(Commit),
}

/// Offsets to commit while the group is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// What is committed.
    pub offsets: Vec<(TopicPartition, i64)>,
    /// How many of them come from `startFrom`.
    pub started: usize,
    /// How many were parked and had expired on the broker.
    pub restored: usize,
    /// Partitions whose parked offset means nothing any more: another cluster, or a topic that was made anew.
    pub discarded: usize,
}

/// What has to be done before a consumer's first pod starts. `ours` tells a member of this consumer's by its client id.
pub fn before_first_pod(
    reading: &Reading,
    parked: Option<&ParkedOffsets>,
    start_from: StartFrom,
    take_over: bool,
    ours: impl Fn(&str) -> bool,
) -> Before {
    let Some(snapshot) = &reading.snapshot else {
        return Before::Wait("nothing could be read of its topics and group yet".to_owned());
    };
    let Some(group) = &snapshot.group else {
        return Before::Wait("the group's members are not known yet".to_owned());
    };
    let foreign: Vec<_> = group.members.iter().map(|m| m.client_id.clone()).filter(|id| !ours(id)).collect();
    if !foreign.is_empty() && !take_over {
        return Before::Foreign(foreign);
    }
    if !group.members.is_empty() {
        // An outside commit is refused while members are there; the group has its offsets from them.
        return Before::Go;
    }
    if group.state != GroupState::Empty {
        return Before::Wait(format!("the group is {:?}, without members", group.state));
    }
    positions(snapshot, reading, parked, start_from)
}

/// The offsets that an empty group lacks.
fn positions(snapshot: &Snapshot, reading: &Reading, parked: Option<&ParkedOffsets>, start_from: StartFrom) -> Before {
    let fresh = snapshot.partitions.iter().all(|p| p.committed == Committed::None) && parked.is_none();
    let same_cluster = parked.is_some_and(|p| reading.cluster_id.as_deref() == Some(p.cluster_id.as_str()));
    let mut commit = Commit::default();
    for partition in &snapshot.partitions {
        let name = format!("{}-{}", partition.id.topic, partition.id.partition);
        match partition.committed {
            Committed::At(_) => continue,
            Committed::Unknown => return Before::Wait(format!("the committed offset of {name} is not known")),
            Committed::None => {}
        }
        let (Some(start), Some(end)) = (partition.start, partition.end) else {
            return Before::Wait(format!("the first and last offset of {name} are not known"));
        };
        let from_start = if start_from == StartFrom::Latest { end } else { start };
        let kept = parked.and_then(|p| kept(p, &partition.id));
        let offset = match kept {
            Some((id, offset))
                if same_cluster && reading.topic_ids.get(&*partition.id.topic).map(String::as_str) == Some(id) =>
            {
                commit.restored += 1;
                offset
            }
            Some(_) => {
                commit.discarded += 1;
                commit.started += 1;
                from_start
            }
            None if fresh => {
                commit.started += 1;
                from_start
            }
            // A partition that was added to a group which has offsets: nothing of it is skipped.
            None => start,
        };
        commit.offsets.push((partition.id.clone(), offset));
    }
    if commit.offsets.is_empty() { Before::Go } else { Before::Commit(commit) }
}

/// What was parked of a partition: its topic's id, and its offset.
fn kept<'a>(parked: &'a ParkedOffsets, id: &TopicPartition) -> Option<(&'a str, i64)> {
    let topic = parked.topics.iter().find(|t| *t.name == *id.topic)?;
    let offset = *topic.offsets.get(usize::try_from(id.partition).ok()?)?;
    (offset >= 0).then_some((topic.id.as_str(), offset))
}

/// The group's offsets as status keeps them while no pod runs. `None` while not all of them are known, or no partition
/// has one.
pub fn park(reading: &Reading) -> Option<ParkedOffsets> {
    let (snapshot, cluster_id) = (reading.snapshot.as_ref()?, reading.cluster_id.clone()?);
    let mut topics: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for partition in &snapshot.partitions {
        let offset = match partition.committed {
            Committed::Unknown => return None,
            Committed::None => -1,
            Committed::At(offset) => offset,
        };
        // Partitions are sorted by number; one that is missing in between would shift the others.
        let offsets = topics.entry(&partition.id.topic).or_default();
        while (offsets.len() as i32) < partition.id.partition {
            offsets.push(-1);
        }
        offsets.push(offset);
    }
    if topics.values().flatten().all(|offset| *offset < 0) {
        return None;
    }
    let topics = topics
        .into_iter()
        .map(|(name, offsets)| {
            let id = reading.topic_ids.get(name).cloned()?;
            Some(ParkedTopic { name: name.to_owned(), id, offsets })
        })
        .collect::<Option<_>>()?;
    Some(ParkedOffsets { cluster_id, topics })
}

/// What status keeps of the offsets after a pass: the newest while no pod runs; nothing once pods have them again.
///
/// What the broker has expired meanwhile (committed before, none now) stays as it was kept.
pub fn keep(kept: Option<ParkedOffsets>, reading: &Reading, pods: usize, ready: i32) -> Option<ParkedOffsets> {
    if ready > 0 {
        return None;
    }
    if pods > 0 {
        return kept;
    }
    let Some(newest) = park(reading) else { return kept };
    let expired = |kept: &ParkedOffsets| {
        kept.topics.iter().any(|topic| {
            let now =
                newest.topics.iter().find(|t| t.name == topic.name).map(|t| t.offsets.as_slice()).unwrap_or_default();
            topic.offsets.iter().enumerate().any(|(i, offset)| *offset >= 0 && now.get(i).is_some_and(|now| *now < 0))
        })
    };
    match kept {
        Some(kept) if expired(&kept) => Some(kept),
        _ => Some(newest),
    }
}

/// Whether a client id is the name of a pod of the Deployment `name`: `NAME-<hash>-<five characters>`.
pub fn is_pod_of(name: &str, client_id: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    client_id
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(hash, own)| word(hash) && (5..=10).contains(&hash.len()) && word(own) && own.len() == 5)
}

/// Members that are not of this consumer's pods.
pub fn foreign_members(group: &Group, name: &str) -> Vec<String> {
    group.members.iter().map(|m| m.client_id.clone()).filter(|id| !is_pod_of(name, id)).collect()
}
