//! Where a group begins: start positions before its first pod, offsets kept while it has none, and restored before it
//! wakes. A start is never left to chance. Decisions here are pure; `reconcile` carries them out.

use std::collections::BTreeMap;

use sluice_crds::{
    kafkaconsumer::{
        kafka::StartFrom,
        status::{ParkedOffsets, ParkedTopic},
    },
    member::MemberSuffix,
};
use sluice_planner::snapshot::{Committed, Group, GroupState, Millis, Snapshot, TopicPartition};

use crate::kafka::port::Reading;

/// Milliseconds for which members that were read are taken for those of now.
const FRESH: Millis = 3_000;

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

/// What has to be done before a consumer's first pod starts. `ours` is in the client ids of its members.
pub fn before_first_pod(
    reading: &Reading,
    parked: Option<&ParkedOffsets>,
    start_from: StartFrom,
    take_over: bool,
    ours: &MemberSuffix,
) -> Before {
    let Some(snapshot) = &reading.snapshot else {
        return Before::Wait("nothing could be read of its topics and group yet".to_owned());
    };
    let Some(group) = fresh_group(snapshot) else {
        return Before::Wait("the group's members are not known yet".to_owned());
    };
    let foreign: Vec<_> =
        group.members.iter().map(|m| m.client_id.clone()).filter(|id| !ours.is_in(id)).collect();
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
    match (positions(snapshot, reading, parked, start_from), &reading.error) {
        // Where something of it could not be read, the ends may be old: a start at them would skip records.
        (Before::Commit(_), Some(trouble)) => Before::Wait(trouble.message.clone()),
        (before, _) => before,
    }
}

/// The client ids of the members, where they were read just now.
pub fn fresh_members(reading: &Reading) -> Option<Vec<&str>> {
    let snapshot = reading.snapshot.as_ref()?;
    let group = fresh_group(snapshot)?;
    Some(group.members.iter().map(|member| member.client_id.as_str()).collect())
}

/// Members of a while ago say nothing of now: those that were ours have gone since.
fn fresh_group(snapshot: &Snapshot) -> Option<&Group> {
    snapshot.group.as_ref().filter(|group| snapshot.at - group.at <= FRESH)
}

/// The offsets that an empty group lacks.
fn positions(
    snapshot: &Snapshot,
    reading: &Reading,
    parked: Option<&ParkedOffsets>,
    start_from: StartFrom,
) -> Before {
    let fresh =
        snapshot.partitions.iter().all(|p| p.committed == Committed::None) && parked.is_none();
    let same_cluster =
        parked.is_some_and(|p| reading.cluster_id.as_deref() == Some(p.cluster_id.as_str()));
    let mut commit = Commit::default();
    for partition in &snapshot.partitions {
        let name = format!("{}-{}", partition.id.topic, partition.id.partition);
        match partition.committed {
            Committed::At(_) => continue,
            Committed::Unknown => {
                return Before::Wait(format!("the committed offset of {name} is not known"));
            }
            Committed::None => {}
        }
        let (Some(start), Some(end)) = (partition.start, partition.end) else {
            return Before::Wait(format!("the first and last offset of {name} are not known"));
        };
        let from_start = if start_from == StartFrom::Latest { end } else { start };
        let kept = parked.and_then(|p| kept(p, &partition.id));
        let offset = match kept {
            Some((id, offset))
                if same_cluster
                    && reading.topic_ids.get(&*partition.id.topic).map(String::as_str)
                        == Some(id) =>
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

/// Whether the group was read just now and has no member: as long as somebody moves its offsets they need no keeping.
fn is_empty(reading: &Reading) -> bool {
    let group = reading.snapshot.as_ref().and_then(|snapshot| fresh_group(snapshot));
    group.is_some_and(|group| group.members.is_empty() && group.state == GroupState::Empty)
}

/// What status keeps of the offsets after a pass: the newest while no pod runs and the group is empty; nothing once pods
/// have them again.
///
/// What the broker has expired meanwhile (committed before, none now) stays as it was kept.
pub fn keep(
    kept: Option<ParkedOffsets>,
    reading: &Reading,
    pods: usize,
    ready: i32,
) -> Option<ParkedOffsets> {
    if ready > 0 {
        return None;
    }
    if pods > 0 || !is_empty(reading) {
        return kept;
    }
    let Some(newest) = park(reading) else { return kept };
    let expired = |kept: &ParkedOffsets| {
        kept.topics.iter().any(|topic| {
            let now = newest
                .topics
                .iter()
                .find(|t| t.name == topic.name)
                .map(|t| t.offsets.as_slice())
                .unwrap_or_default();
            topic
                .offsets
                .iter()
                .enumerate()
                .any(|(i, offset)| *offset >= 0 && now.get(i).is_some_and(|now| *now < 0))
        })
    };
    match kept {
        Some(kept) if expired(&kept) => Some(kept),
        _ => Some(newest),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use sluice_planner::snapshot::{Member, Partition};

    use super::*;

    const START: i64 = 100;
    const END: i64 = 200;

    fn reading(committed: &[Committed]) -> Reading {
        let partition = |(number, committed): (usize, &Committed)| Partition {
            id: TopicPartition { topic: "orders".into(), partition: number as i32 },
            start: Some(START),
            end: Some(END),
            end_at: 0,
            committed: *committed,
            committed_at: 0,
            report: None,
        };
        Reading {
            snapshot: Some(Arc::new(Snapshot {
                at: 10_000,
                partitions: committed.iter().enumerate().map(partition).collect(),
                group: Some(Group { at: 10_000, state: GroupState::Empty, members: Vec::new() }),
            })),
            cluster_id: Some("c".into()),
            topic_ids: BTreeMap::from([("orders".into(), "id".into())]),
            ..Reading::default()
        }
    }

    fn change(reading: &mut Reading, change: impl FnOnce(&mut Snapshot)) {
        change(Arc::make_mut(reading.snapshot.as_mut().unwrap()));
    }

    fn parked(cluster: &str, id: &str, offsets: &[i64]) -> ParkedOffsets {
        let topic = ParkedTopic { name: "orders".into(), id: id.into(), offsets: offsets.to_vec() };
        ParkedOffsets { cluster_id: cluster.into(), topics: vec![topic] }
    }

    fn before(reading: &Reading, parked: Option<&ParkedOffsets>, from: StartFrom) -> Before {
        before_first_pod(reading, parked, from, false, &MemberSuffix::of("5d0c1b7e"))
    }

    fn offsets(before: Before) -> Vec<i64> {
        match before {
            Before::Go => Vec::new(),
            Before::Commit(commit) => {
                commit.offsets.into_iter().map(|(_, offset)| offset).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_group_begins_where_the_spec_says_and_partitions_added_later_at_their_first_record() {
        use Committed::{At, None as Nothing};
        for (committed, kept, from, expected) in [
            (vec![Nothing, Nothing], None, StartFrom::Earliest, vec![START, START]),
            (vec![Nothing, Nothing], None, StartFrom::Latest, vec![END, END]),
            (vec![At(150), Nothing], None, StartFrom::Latest, vec![START]),
            (vec![At(150), At(160)], None, StartFrom::Latest, vec![]),
            // Expired on the broker while no pod ran: as they were kept.
            (
                vec![Nothing, Nothing],
                Some(parked("c", "id", &[150, 160])),
                StartFrom::Latest,
                vec![150, 160],
            ),
            (
                vec![At(150), Nothing],
                Some(parked("c", "id", &[150, 160])),
                StartFrom::Latest,
                vec![160],
            ),
            // A third partition came while no pod ran.
            (
                vec![Nothing, Nothing, Nothing],
                Some(parked("c", "id", &[150, 160])),
                StartFrom::Latest,
                vec![150, 160, START],
            ),
            // Another cluster, or a topic that was made anew: what was kept means nothing.
            (
                vec![Nothing, Nothing],
                Some(parked("other", "id", &[150, 160])),
                StartFrom::Latest,
                vec![END, END],
            ),
            (
                vec![Nothing, Nothing],
                Some(parked("c", "old", &[150, 160])),
                StartFrom::Earliest,
                vec![START, START],
            ),
        ] {
            let found = offsets(before(&reading(&committed), kept.as_ref(), from));
            assert_eq!(found, expected, "{committed:?} {kept:?} {from:?}");
        }
    }

    #[test]
    fn nothing_is_committed_and_no_pod_starts_on_what_is_not_known() {
        type Change = fn(&mut Reading);
        let rows: [(&str, Change); 7] = [
            ("no reading", |r| *r = Reading::default()),
            ("a broker is away", |r| {
                r.error =
                    Some(crate::kafka::port::ReadError { reason: "x", message: "away".into() });
            }),
            ("members not read", |r| change(r, |s| s.group = None)),
            ("members of a while ago", |r| change(r, |s| s.group.as_mut().unwrap().at = 1_000)),
            ("group on the move", |r| {
                change(r, |s| s.group.as_mut().unwrap().state = GroupState::Rebalancing);
            }),
            ("a committed offset", |r| {
                change(r, |s| s.partitions[0].committed = Committed::Unknown);
            }),
            ("an end", |r| change(r, |s| s.partitions[0].end = None)),
        ];
        for (what, change) in rows {
            let mut reading = reading(&[Committed::None, Committed::None]);
            change(&mut reading);
            assert!(matches!(before(&reading, None, StartFrom::Latest), Before::Wait(_)), "{what}");
        }
    }

    #[test]
    fn members_of_others_are_a_conflict_and_our_own_are_not() {
        let mut reading = reading(&[Committed::None]);
        let member = |id: &str| Member { client_id: id.into(), partitions: Vec::new() };
        let members = vec![
            member("orders-7d9c4b5f6-x2x2x.5d0c1b7e"),
            member("orders-7d9c4b5f6-x2x2x.77ab01e2"),
        ];
        change(&mut reading, |s| s.group.as_mut().unwrap().members = members);
        assert_eq!(
            before(&reading, None, StartFrom::Latest),
            Before::Foreign(vec!["orders-7d9c4b5f6-x2x2x.77ab01e2".into()])
        );
        let over = before_first_pod(&reading, None, StartFrom::Latest, true, &MemberSuffix::of(""));
        assert_eq!(over, Before::Go, "what members have committed is left to them");
    }

    #[test]
    fn offsets_are_kept_while_no_pod_runs_and_what_expires_meanwhile_stays_kept() {
        use Committed::{At, None as Nothing, Unknown};
        let full = parked("c", "id", &[150, 160]);
        let both = reading(&[At(150), At(160)]);
        assert_eq!(keep(None, &both, 0, 0), Some(full.clone()));
        assert_eq!(
            keep(Some(full.clone()), &reading(&[At(150), Nothing]), 0, 0),
            Some(full.clone())
        );
        assert_eq!(
            keep(Some(full.clone()), &reading(&[Unknown, Unknown]), 0, 0),
            Some(full.clone())
        );
        // Somebody moved the offsets by hand.
        assert_eq!(
            keep(Some(full.clone()), &reading(&[At(1), At(2)]), 0, 0),
            Some(parked("c", "id", &[1, 2]))
        );
        // Until the first pod has joined they may still be needed; then they are out of date.
        assert_eq!(keep(Some(full.clone()), &both, 1, 0), Some(full.clone()));
        assert_eq!(keep(Some(full), &both, 1, 1), None);
        // Somebody else consumes: what moves is theirs.
        let mut moving = reading(&[At(7), At(8)]);
        change(&mut moving, |s| s.group.as_mut().unwrap().state = GroupState::Stable);
        assert_eq!(
            keep(Some(parked("c", "id", &[1, 2])), &moving, 0, 0),
            Some(parked("c", "id", &[1, 2]))
        );
        // A group without any offset has nothing to keep.
        assert_eq!(keep(None, &reading(&[Nothing, Nothing]), 0, 0), None);
    }
}
