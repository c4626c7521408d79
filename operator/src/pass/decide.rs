//! Validated + reading + children → what is to be: the glue between a pass and the planner. Pure but for the history, which
//! is the planner's own.

use jiff::Timestamp;
use sluice_crds::{
    conditions::reason,
    kafkaconsumer::status::PlannerMemory,
    tuning::{Knobs, Tuning},
};
use sluice_planner::{Decision, History, Limit, Observed, Reason, snapshot::Snapshot};

use crate::{
    cluster::children::Children,
    identity::Identity,
    kafka::port::Reading,
    pass::validate::{Replicas, Validated},
};

/// What was decided, in the words of status.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Pods decided on.
    pub replicas: i32,
    /// The knobs decided on.
    pub knobs: Knobs,
    /// Why, one word.
    pub reason: String,
    /// Why, one sentence.
    pub message: String,
    /// Records a second that must be handled.
    pub demand: Option<f64>,
    /// Records a second that one pod can handle.
    pub capacity: Option<f64>,
    /// The backlog in records.
    pub backlog: Option<i64>,
    /// Records that are not done.
    pub lag: Option<i64>,
    /// Seconds since the first of them arrived.
    pub behind_seconds: Option<f64>,
    /// Records a second that arrive.
    pub arrival_rate: Option<f64>,
    /// Records a second that are handled.
    pub handled_rate: Option<f64>,
    /// The bound that is in the way, as a word of `conditions::reason` and a sentence.
    pub limited: Option<(&'static str, String)>,
    /// Whether the lag is known, so that it decides.
    pub known: bool,
    /// Whether the group's members are to be read: a decision is near.
    pub wants_group: bool,
    /// What the planner wants to be remembered over a restart.
    pub memory: Option<PlannerMemory>,
}

/// Why a consumer may not touch its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// An older consumer has it.
    Other(Identity),
    /// Members that are not ours are in it.
    Foreign(Vec<String>),
}

/// What is to be.
#[derive(Clone, Debug)]
pub struct Course {
    /// Pods; `None` while nothing is known that would allow a first one.
    pub replicas: Option<i32>,
    /// Knobs.
    pub tuning: Tuning,
    /// What the planner said, where it could be asked.
    pub planned: Option<Planned>,
    /// Why nothing changes, if the group is not this consumer's.
    pub conflict: Option<Conflict>,
}

/// Decides on pods and knobs: design.md §3 has the table of who decides what.
pub fn course(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    conflict: Option<Conflict>,
    history: &mut Option<History>,
    now: Timestamp,
) -> Course {
    let current = current_knobs(v, seen);
    let mut planned = ask(v, seen, reading, current, history, now);
    let asked_for = seen.asked_for();
    let partitions = reading.snapshot.as_ref().map(|s| s.partitions.len() as i32);
    let within = |pods: i32| v.at_most(pods, partitions);
    let replicas = match v.replicas {
        Replicas::Suspended => Some(0),
        // A group that is somebody else's gets no pod of ours; those that are there are left as they are.
        _ if conflict.is_some() => Some(asked_for.unwrap_or(0)),
        Replicas::Fixed(pods) => Some(within(pods)),
        // From zero nobody would wake it: a new consumer, and one that was suspended, begins with its least.
        Replicas::AsTheyAre => Some(within(
            asked_for.filter(|pods| *pods > 0).unwrap_or_else(|| v.scaling.min_replicas.max(1)),
        )),
        Replicas::Planner => planned.as_ref().map(|p| within(p.replicas)).or(asked_for),
    };
    if let (Some(planned), Some(pods)) = (&mut planned, replicas) {
        in_whose_words(v, planned, pods);
    }
    let may_tune =
        matches!(v.replicas, Replicas::Planner | Replicas::Fixed(_)) && conflict.is_none();
    let tuning = match &planned {
        Some(planned) if may_tune => next_knobs(current, v.within_bounds(planned.knobs)),
        _ => next_knobs(current, v.within_bounds(current.knobs)),
    };
    Course { replicas, tuning, planned, conflict }
}

/// Where the planner does not decide on the pods, the decision that is shown is not the planner's either.
fn in_whose_words(v: &Validated, planned: &mut Planned, pods: i32) {
    let (reason, message) = match v.replicas {
        Replicas::Planner | Replicas::AsTheyAre => return,
        Replicas::Fixed(asked) if asked > v.max_replicas && pods == v.max_replicas => {
            (reason::MANUAL, format!("spec.replicas asks for {asked} pods; {}", bound(v)))
        }
        Replicas::Fixed(asked) if asked > pods => (
            reason::MANUAL,
            format!("spec.replicas asks for {asked} pods, and there are {pods} partitions"),
        ),
        Replicas::Fixed(1) => (reason::MANUAL, "spec.replicas asks for 1 pod".to_owned()),
        Replicas::Fixed(asked) => (reason::MANUAL, format!("spec.replicas asks for {asked} pods")),
        Replicas::Suspended => (reason::SUSPENDED, "spec.suspend is true".to_owned()),
    };
    reason.clone_into(&mut planned.reason);
    planned.message = message;
    planned.replicas = pods;
}

/// The knobs in the ConfigMap; where it is gone, those in status; else the first.
fn current_knobs(v: &Validated, seen: &Children) -> Tuning {
    let status = seen.status();
    let kept = || {
        let knobs = Knobs {
            batch_size: status.batch_size? as u32,
            concurrency: status.concurrency? as u32,
        };
        Some(Tuning::new(status.tuning_revision? as u64, knobs))
    };
    seen.knobs().or_else(kept).unwrap_or_else(|| Tuning::new(1, v.first_knobs()))
}

fn next_knobs(current: Tuning, knobs: Knobs) -> Tuning {
    if current.knobs == knobs { current } else { Tuning::new(current.revision + 1, knobs) }
}

/// Asks the planner, where a snapshot is there.
fn ask(
    v: &Validated,
    seen: &Children,
    reading: &Reading,
    current: Tuning,
    history: &mut Option<History>,
    now: Timestamp,
) -> Option<Planned> {
    let snapshot = reading.snapshot.as_deref()?;
    let status = seen.status();
    let history = history
        .get_or_insert_with(|| status.memory.as_ref().map(History::restore).unwrap_or_default());
    let observed = Observed {
        // Before there is a Deployment nothing is asked for: the planner then says how many pods to begin with.
        asked_for: seen.asked_for().unwrap_or(0).max(0) as u32,
        ready: seen.ready().max(0) as u32,
        tuning: current,
    };
    let decision =
        sluice_planner::plan(&v.plan, history, &observed, snapshot, now.as_millisecond());
    let numbers = decision.numbers;
    Some(Planned {
        replicas: decision.replicas as i32,
        knobs: decision.knobs,
        reason: decision.reason.as_str().to_owned(),
        limited: decision.limit.map(|limit| limit_words(v, snapshot, &decision, limit)),
        known: decision.reason != Reason::LagUnknown,
        wants_group: decision.wants_group,
        message: decision.message,
        demand: numbers.demand,
        capacity: numbers.capacity,
        backlog: numbers.backlog,
        lag: numbers.lag,
        behind_seconds: numbers.behind,
        arrival_rate: numbers.arrivals,
        handled_rate: numbers.handled,
        memory: Some(PlannerMemory {
            last_scale: status.memory.and_then(|m| m.last_scale),
            ..history.memory()
        })
        .filter(|memory| *memory != PlannerMemory::default()),
    })
}

/// The administrator's bound, and where to raise it.
pub fn bound(v: &Validated) -> String {
    format!(
        "the administrator's bound is {} pods per consumer (the operator's --max-replicas-per-consumer, \
         chart value maxReplicasPerConsumer)",
        v.max_replicas
    )
}

fn limit_words(
    v: &Validated,
    snapshot: &Snapshot,
    decision: &Decision,
    limit: Limit,
) -> (&'static str, String) {
    match limit {
        Limit::MaxReplicas if v.administrator_bounds() => {
            let partitions = snapshot.partitions.len();
            let each = partitions.div_ceil(decision.replicas.max(1) as usize);
            let share = format!("{partitions} partitions are at most {each} on each pod");
            (reason::ADMINISTRATOR_BOUND, format!("{}; {share}: {}", bound(v), decision.message))
        }
        Limit::MinReplicas if v.scaling.min_replicas > v.max_replicas => (
            reason::ADMINISTRATOR_BOUND,
            format!("{}; scaling.minReplicas is {}", bound(v), v.scaling.min_replicas),
        ),
        Limit::MaxReplicas => (
            reason::MAX_REPLICAS,
            format!(
                "scaling.maxReplicas ({}) is in the way of more pods: {}",
                v.scaling.max_replicas.unwrap_or_default(),
                decision.message
            ),
        ),
        Limit::MinReplicas => (
            reason::MIN_REPLICAS,
            format!(
                "scaling.minReplicas ({}) holds more pods than are needed",
                v.scaling.min_replicas
            ),
        ),
        Limit::Partitions => (
            reason::PARTITIONS,
            format!("more pods than partitions would be of no use: {}", decision.message),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_planner::{
        Numbers,
        snapshot::{Committed, Partition, TopicPartition},
    };

    use super::*;
    use crate::pass::validate::tests::{good, with};

    /// 1,000 partitions without a lag.
    fn snapshot() -> Snapshot {
        let partition = |partition| Partition {
            id: TopicPartition { topic: "orders".into(), partition },
            start: Some(0),
            end: Some(0),
            end_at: 0,
            committed: Committed::At(0),
            committed_at: 0,
            report: None,
        };
        Snapshot { at: 0, partitions: (0..1_000).map(partition).collect(), group: None }
    }

    fn decided(changes: &[(&str, &str)]) -> Course {
        let seen = Children {
            consumer: Arc::new(with(changes)),
            deployment: None,
            tuning: None,
            pods: Vec::new(),
        };
        let reading = Reading { snapshot: Some(Arc::new(snapshot())), ..Reading::default() };
        course(&good(changes), &seen, &reading, None, &mut None, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn whoever_decides_the_administrator_bounds_the_pods() {
        for changes in [
            vec![("spec/scaling/mode", "Manual"), ("spec/replicas", "300")],
            vec![("spec/scaling", "{ mode: DryRun, minReplicas: 300 }")],
            vec![("spec/scaling", "{ minReplicas: 300 }")],
        ] {
            assert_eq!(decided(&changes).replicas, Some(256), "{changes:?}");
        }
        let manual = decided(&[("spec/scaling/mode", "Manual"), ("spec/replicas", "300")]);
        let message = manual.planned.unwrap().message;
        assert!(message.contains("--max-replicas-per-consumer"), "{message}");
    }

    #[test]
    fn the_administrators_bound_is_reported_with_the_even_share_and_where_to_raise_it() {
        let decision = Decision {
            replicas: 250,
            knobs: Knobs { batch_size: 1, concurrency: 1 },
            reason: Reason::BoundReached,
            message: "why".to_owned(),
            numbers: Numbers::default(),
            limit: Some(Limit::MaxReplicas),
            wants_group: false,
        };
        let words = |bounds, limit| {
            limit_words(&good(&[("spec/scaling", bounds)]), &snapshot(), &decision, limit)
        };
        let (word, message) = words("{}", Limit::MaxReplicas);
        assert_eq!(word, reason::ADMINISTRATOR_BOUND);
        for part in ["256 pods", "1000 partitions", "at most 4 on each", "maxReplicasPerConsumer"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(words("{ maxReplicas: 250 }", Limit::MaxReplicas).0, reason::MAX_REPLICAS);
        let (word, message) = words("{ minReplicas: 300 }", Limit::MinReplicas);
        assert_eq!(word, reason::ADMINISTRATOR_BOUND, "{message}");
        assert_eq!(words("{ minReplicas: 250 }", Limit::MinReplicas).0, reason::MIN_REPLICAS);
    }
}
