//! Asks the planner: a consumer's bounds, what is there of it and what was read → the planner's decision, whole.

use sluice_crds::{
    kafkaconsumer::status::PlannerMemory,
    tuning::{Knobs, Tuning},
};
use sluice_planner::{Decision, Observed, Reason};

use super::{Moment, Situation, memory::Memory, validate::Replicas};
use crate::clock;

/// What the planner decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The decision.
    pub decision: Decision,
    /// What it wants to be remembered over a restart of the operator.
    pub memory: PlannerMemory,
}

impl Planned {
    /// Whether the lag is known, so that it decides.
    pub fn is_known(&self) -> bool {
        self.decision.reason != Reason::LagUnknown
    }
}

/// Asks the planner, where a snapshot is there.
pub fn decide(situation: &Situation, memory: &mut Memory, now: Moment) -> Option<Planned> {
    let snapshot = situation.reading.snapshot.as_deref()?;
    let observed = observed(situation, memory);
    let status = situation.children.status();
    let learnt = memory.learnt.get_or_insert_with(|| {
        status.memory.as_ref().map(sluice_planner::Memory::restore).unwrap_or_default()
    });
    let decision = sluice_planner::plan(
        &situation.consumer.bounds,
        &mut memory.readings,
        learnt,
        &observed,
        snapshot,
        now.millis(),
    );
    Some(Planned { decision, memory: learnt.kept() })
}

/// What this operator wrote, and when. Of what somebody else wrote the planner learns nothing: while
/// it decides, a number of somebody else's is no decision, and is taken back or left to that one.
fn observed(situation: &Situation, memory: &Memory) -> Observed {
    let (children, written) = (situation.children, &memory.written);
    let decides = situation.consumer.replicas == Replicas::Planner && !situation.consumer.paused;
    let there = children.desired();
    let ours = written.replicas.filter(|_| decides).map(|(replicas, _)| replicas);
    let desired = there.map(|there| ours.unwrap_or(there));
    Observed {
        // Before there is a Deployment nothing is desired: the planner then says how many pods to begin with.
        desired: desired.unwrap_or(0).max(0) as u32,
        desired_since: written
            .replicas
            .filter(|(replicas, _)| Some(*replicas) == desired)
            .map(|(_, at)| clock::millis(at)),
        ready: children.ready().max(0) as u32,
        tuning: current_knobs(situation),
        tuning_at: written.knobs_at.map(clock::millis),
    }
}

/// The knobs in the ConfigMap; where it is gone, those in status; else the first.
pub fn current_knobs(situation: &Situation) -> Tuning {
    let status = situation.children.status();
    let kept = || {
        let knobs = Knobs {
            batch_size: status.batch_size? as u32,
            concurrency: status.concurrency? as u32,
        };
        Some(Tuning::new(status.tuning_revision? as u64, knobs))
    };
    let first = || Tuning::new(1, situation.consumer.first_knobs());
    situation.children.knobs().or_else(kept).unwrap_or_else(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};

    use tokio::time::Instant;

    use super::*;
    use crate::{
        cluster::children::Children,
        kafka::port::Reading,
        pass::validate::tests::{good, with},
    };

    #[test]
    fn the_planner_is_told_when_pods_and_knobs_were_written_and_by_whom_not() {
        let wrote = Instant::now();
        let at = clock::millis(wrote);
        let manual = [("spec/scaling/mode", "Manual"), ("spec/replicas", "4")];
        let paused = [("metadata/annotations", "{ sluice.dev/paused: 'true' }")];
        // (changes of the spec, the replicas that this operator wrote, those of the Deployment) →
        // those that are desired, and since when
        for (changes, written, there, desired, since) in [
            (&[][..], None, Some(4), 4, None),
            (&[], Some(4), Some(4), 4, Some(at)),
            // Somebody else wrote them, or deleted the Deployment.
            (&[], Some(4), Some(5), 4, Some(at)),
            (&[], Some(4), None, 0, None),
            // Who decides nothing has no number of its own.
            (&manual, Some(4), Some(5), 5, None),
            (&paused, Some(4), Some(5), 5, None),
        ] {
            let deployment = there.map(|replicas| {
                let spec = DeploymentSpec { replicas: Some(replicas), ..DeploymentSpec::default() };
                Arc::new(Deployment { spec: Some(spec), ..Deployment::default() })
            });
            let children = Children {
                consumer: Arc::new(with(&[])),
                deployment,
                tuning: None,
                pods: Vec::new(),
            };
            let consumer = good(changes);
            let reading = Reading::default();
            let situation =
                Situation { consumer: &consumer, children: &children, reading: &reading };
            let mut memory = Memory::default();
            memory.written.replicas = written.map(|replicas| (replicas, wrote));
            memory.written.knobs_at = written.map(|_| wrote);
            let observed = observed(&situation, &memory);
            let case = format!("{written:?} written, {there:?} there");
            assert_eq!(observed.desired_since, since, "{case}");
            assert_eq!(observed.tuning_at, written.map(|_| at), "{case}");
            assert_eq!(observed.desired, desired, "{case}");
        }
    }
}
