//! How many pods, and which knobs: the only place that says so. Pure. docs/architecture.md has the table of who decides
//! what.

use sluice_crds::{
    conditions::reason,
    tuning::{Knobs, Tuning},
};
use sluice_planner::{Decision, Limit};

use super::{
    Situation,
    decide::{Planned, current_knobs},
    settle::{Gate, Opening},
    validate::{Replicas, Validated},
};

/// What should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Pods; `None` leaves them as they are.
    pub replicas: Option<i32>,
    /// The knobs.
    pub tuning: Tuning,
    /// Why, one word.
    pub reason: String,
    /// Why, one sentence.
    pub message: String,
    /// The bound that keeps the pods from the number that the lag asks for, as a word of `conditions::reason` and a
    /// sentence.
    pub limited: Option<(&'static str, String)>,
}

impl Target {
    /// From the consumer's mode, the decision and the gate.
    pub fn of(situation: &Situation, planned: Option<&Planned>, gate: &Gate) -> Self {
        let consumer = situation.consumer;
        let desired = situation.children.desired();
        let wanted = wanted(situation, planned);
        let suspended = consumer.replicas == Replicas::Suspended;
        let replicas = match &gate.opening {
            _ if suspended => wanted,
            // A group that is somebody else's gets no pod of ours; those that are there are left as they are.
            Opening::Conflict(_) => Some(desired.unwrap_or(0)),
            // Only a first pod waits.
            Opening::Wait(_) if desired.unwrap_or(0) == 0 => Some(0),
            Opening::Wait(_) | Opening::Open => wanted,
        };
        let current = current_knobs(situation);
        let conflict = matches!(gate.opening, Opening::Conflict(_));
        let may_tune = matches!(consumer.replicas, Replicas::Planner | Replicas::Fixed(_))
            && !conflict
            && !consumer.paused;
        let knobs = match planned {
            Some(planned) if may_tune => consumer.within_bounds(planned.decision.knobs),
            // Nothing is written while it is paused: what is reported is what is in force.
            _ if consumer.paused => current.knobs,
            _ => consumer.within_bounds(current.knobs),
        };
        let (reason, message) = why(consumer, planned, replicas);
        Self {
            replicas,
            tuning: next_knobs(current, knobs),
            reason,
            message,
            limited: planned
                .and_then(|p| limit_words(consumer, situation.partitions(), &p.decision)),
        }
    }
}

/// The pods that the consumer's mode asks for, whoever has the group.
pub fn wanted(situation: &Situation, planned: Option<&Planned>) -> Option<i32> {
    let consumer = situation.consumer;
    let desired = situation.children.desired();
    let partitions = situation.partitions();
    let within = |pods: i32| consumer.at_most(pods, partitions);
    match consumer.replicas {
        Replicas::Suspended => Some(0),
        // While the partitions are not known, no pod is added that might have none.
        Replicas::Fixed(pods) if partitions.is_none() => {
            Some(within(pods).min(desired.filter(|desired| *desired > 0).unwrap_or(pods)))
        }
        Replicas::Fixed(pods) => Some(within(pods)),
        // From zero nobody would wake it: a new consumer, and one that was suspended, begins with its least.
        Replicas::AsTheyAre => Some(
            desired
                .filter(|pods| *pods > 0)
                .unwrap_or_else(|| within(consumer.scaling.min_replicas.max(1))),
        ),
        // Where the lag is not known the pods stay as they are, whoever wrote their number.
        Replicas::Planner => match planned.filter(|planned| planned.is_known()) {
            Some(planned) => Some(within(planned.decision.replicas as i32)),
            None => desired.map(within),
        },
    }
}

/// Why the pods are as they are: the planner's reason where it decides or would decide.
fn why(consumer: &Validated, planned: Option<&Planned>, replicas: Option<i32>) -> (String, String) {
    let pods = |n: i32| if n == 1 { "1 pod".to_owned() } else { format!("{n} pods") };
    match consumer.replicas {
        Replicas::Planner | Replicas::AsTheyAre => planned.map_or_else(
            || (reason::PENDING.to_owned(), "the lag is not known yet".to_owned()),
            |p| (p.decision.reason.as_str().to_owned(), p.decision.message.clone()),
        ),
        Replicas::Fixed(asked)
            if asked > consumer.max_replicas && replicas == Some(consumer.max_replicas) =>
        {
            let message = format!("spec.replicas is {asked}; {}", bound(consumer));
            (reason::MANUAL.to_owned(), message)
        }
        Replicas::Fixed(asked) if replicas.is_some_and(|replicas| asked > replicas) => (
            reason::MANUAL.to_owned(),
            format!(
                "spec.replicas is {asked}; {} run{}",
                pods(replicas.unwrap_or_default()),
                if replicas == Some(1) { "s" } else { "" }
            ),
        ),
        Replicas::Fixed(asked) => (reason::MANUAL.to_owned(), format!("spec.replicas is {asked}")),
        Replicas::Suspended => (reason::SUSPENDED.to_owned(), "spec.suspend is true".to_owned()),
    }
}

fn next_knobs(current: Tuning, knobs: Knobs) -> Tuning {
    if current.knobs == knobs { current } else { Tuning::new(current.revision + 1, knobs) }
}

/// The administrator's bound, and where to raise it.
pub fn bound(consumer: &Validated) -> String {
    format!(
        "the administrator's bound is {} pods per consumer (the operator's \
         --max-replicas-per-consumer, chart value maxReplicasPerConsumer)",
        consumer.max_replicas
    )
}

fn limit_words(
    consumer: &Validated,
    partitions: Option<i32>,
    decision: &Decision,
) -> Option<(&'static str, String)> {
    let (min, max) = (consumer.scaling.min_replicas, consumer.scaling.max_replicas);
    let words = match decision.limit? {
        Limit::MaxReplicas if consumer.administrator_bounds() => {
            let partitions = partitions.unwrap_or_default().unsigned_abs();
            let each = partitions.div_ceil(decision.replicas.max(1));
            let share = format!("{partitions} partitions are at most {each} on each pod");
            let message = format!("{}; {share}: {}", bound(consumer), decision.message);
            (reason::ADMINISTRATOR_BOUND, message)
        }
        Limit::MinReplicas if min > consumer.max_replicas => (
            reason::ADMINISTRATOR_BOUND,
            format!("{}; scaling.minReplicas is {min}", bound(consumer)),
        ),
        Limit::MaxReplicas => (
            reason::MAX_REPLICAS,
            format!(
                "scaling.maxReplicas ({}) is in the way of more pods: {}",
                max.unwrap_or_default(),
                decision.message
            ),
        ),
        Limit::MinReplicas => (
            reason::MIN_REPLICAS,
            format!("scaling.minReplicas ({min}) holds more pods than are needed"),
        ),
        Limit::Partitions => (
            reason::PARTITIONS,
            format!("more pods than partitions would be of no use: {}", decision.message),
        ),
    };
    Some(words)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_planner::{
        Numbers, Reason,
        snapshot::{Committed, Millis, Partition, Snapshot, TopicPartition},
    };

    use super::*;
    use crate::{
        cluster::children::Children,
        kafka::port::Reading,
        pass::{
            Moment,
            decide::decide,
            memory::Memory,
            validate::tests::{good, with},
        },
    };

    /// 1,000 partitions without a lag, as they were read at this time.
    fn snapshot(at: Millis) -> Snapshot {
        let partition = |partition| Partition {
            id: TopicPartition { topic: "orders".into(), partition },
            start: Some(0),
            end: Some(0),
            end_at: at,
            committed: Committed::At(0),
            committed_at: at,
            report: None,
        };
        Snapshot { at, partitions: (0..1_000).map(partition).collect(), group: None }
    }

    fn decided(changes: &[(&str, &str)]) -> Target {
        let children = Children {
            consumer: Arc::new(with(changes)),
            deployment: None,
            tuning: None,
            pods: Vec::new(),
        };
        let now = Moment::now();
        let read = Arc::new(snapshot(now.millis()));
        let reading = Reading { snapshot: Some(read), ..Reading::default() };
        let consumer = good(changes);
        let situation = Situation { consumer: &consumer, children: &children, reading: &reading };
        let planned = decide(&situation, &mut Memory::default(), now);
        let gate = Gate { protocol: None, opening: Opening::Open, events: Vec::new(), again: None };
        Target::of(&situation, planned.as_ref(), &gate)
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
        let message = manual.message;
        assert!(message.contains("--max-replicas-per-consumer"), "{message}");
    }

    #[test]
    fn the_administrators_bound_is_reported_with_the_even_share_and_where_to_raise_it() {
        let decision = Decision {
            replicas: 250,
            knobs: Knobs { batch_size: 1, concurrency: 1 },
            knobs_message: None,
            reason: Reason::BoundReached,
            message: "why".to_owned(),
            numbers: Numbers::default(),
            limit: Some(Limit::MaxReplicas),
            wants_group: false,
        };
        let words = |bounds, limit| {
            let decision = Decision { limit: Some(limit), ..decision.clone() };
            let consumer = good(&[("spec/scaling", bounds)]);
            limit_words(&consumer, Some(1_000), &decision).unwrap()
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
