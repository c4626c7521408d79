//! Asks the planner: a consumer's bounds, what is there of it and what was read → the planner's decision, whole.

use jiff::Timestamp;
use sluice_crds::{
    kafkaconsumer::status::PlannerMemory,
    tuning::{Knobs, Tuning},
};
use sluice_planner::{Decision, History, Observed, Reason};

use super::Situation;

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
pub fn decide(
    situation: &Situation,
    history: &mut Option<History>,
    now: Timestamp,
) -> Option<Planned> {
    let snapshot = situation.reading.snapshot.as_deref()?;
    let (consumer, children) = (situation.consumer, situation.children);
    let status = children.status();
    let history = history
        .get_or_insert_with(|| status.memory.as_ref().map(History::restore).unwrap_or_default());
    let observed = Observed {
        // Before there is a Deployment nothing is desired: the planner then says how many pods to begin with.
        asked_for: children.desired().unwrap_or(0).max(0) as u32,
        ready: children.ready().max(0) as u32,
        tuning: current_knobs(situation),
    };
    let decision =
        sluice_planner::plan(&consumer.plan, history, &observed, snapshot, now.as_millisecond());
    Some(Planned { decision, memory: history.memory() })
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
