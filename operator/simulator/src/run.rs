//! The planner in closed loop with the model: it reads each second, decides, and what it decides is done.

use sluice_crds::{
    kafkaconsumer::status::PlannerMemory,
    tuning::{Knobs, Tuning},
};
use sluice_planner::{
    Decision, Limit, Memory, Observed, Readings, Reason, Spec, plan, snapshot::Committed,
};

use crate::{
    trace::Trace,
    world::{PodModel, STEP, World},
};

/// Where virtual time begins: a moment like today's, so that nothing depends on a clock near zero.
const EPOCH: i64 = 1_790_000_000_000;
/// Between a decision and its pods being made.
const ACT: i64 = 200;

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The consumer's bounds and targets.
    pub spec: Spec,
    /// What arrives.
    pub trace: Trace,
    /// What pods are like.
    pub pods: PodModel,
    /// Each partition's share of the arrivals.
    pub shares: Vec<f64>,
    /// Pods there at the beginning.
    pub replicas: u32,
    /// Knobs at the beginning.
    pub knobs: Knobs,
    /// Records there at the beginning.
    pub backlog: f64,
    /// How long it runs, milliseconds.
    pub length: i64,
    /// When in each second is read, milliseconds.
    pub phase: i64,
    /// Between two readings.
    pub interval: i64,
    /// Between a reading and the decision that it leads to.
    pub delay: i64,
    /// When what cannot be read.
    pub outages: Vec<(i64, i64, Outage)>,
    /// When which partition's next record begins to fail.
    pub block: Option<(i64, usize)>,
    /// Records per second of one slot that are remembered from before.
    pub remembered: Option<f64>,
    /// When the operator is restarted: only what it remembers is left.
    pub restarts: Vec<i64>,
    /// From when to when nothing that is decided can be written.
    pub failing_writes: Vec<(i64, i64)>,
}

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Nothing answers: no new reading.
    Silence,
    /// The ends of every third partition are not known.
    SomeEnds,
    /// No committed offset is known.
    Commits,
}

/// A change of pods or knobs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Milliseconds since the beginning.
    pub at: i64,
    /// Pods before and after.
    pub replicas: (u32, u32),
    /// Knobs before and after.
    pub knobs: (Knobs, Knobs),
    /// Why.
    pub reason: Reason,
    /// Why, in a sentence.
    pub message: String,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Milliseconds since the beginning.
    pub at: i64,
    /// Unprocessed records, as it is.
    pub lag: f64,
    /// Age of the oldest of them in seconds, as it is.
    pub behind: f64,
    /// The same as the planner saw it.
    pub seen_behind: Option<f64>,
    /// What the planner took for a backlog.
    pub seen_backlog: Option<i64>,
    /// The bound that the planner reported.
    pub limit: Option<Limit>,
    /// Pods decided on.
    pub desired: u32,
    /// Pods that have joined.
    pub ready: u32,
    /// Knobs decided on.
    pub knobs: Knobs,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Changes of pods or knobs.
    pub changes: Vec<Change>,
    /// One sample a reading.
    pub samples: Vec<Sample>,
    /// What the planner had learnt at the end, as it is kept over a restart.
    pub memory: PlannerMemory,
}

impl Scenario {
    /// Twelve even partitions, pods of 500 records per second, knobs pinned, one pod.
    #[must_use]
    pub fn pinned(trace: Trace, seconds: i64) -> Self {
        let knobs = Knobs { batch_size: 500, concurrency: 1 };
        let pods = PodModel::default();
        Self {
            spec: Spec {
                min_replicas: 1,
                max_replicas: None,
                max_behind: 10.0,
                drain_within: 60.0,
                target: 0.8,
                scale_down_after: 120.0,
                lowest: Knobs { batch_size: 1, concurrency: 1 },
                highest: Knobs { batch_size: 500, concurrency: 1 },
                latency_target: None,
                ordering: pods.ordering,
            },
            trace,
            pods,
            shares: vec![1.0; 12],
            replicas: 1,
            knobs,
            backlog: 0.0,
            length: seconds * 1_000,
            phase: 0,
            interval: 1_000,
            delay: 50,
            outages: Vec::new(),
            block: None,
            remembered: None,
            restarts: Vec::new(),
            failing_writes: Vec::new(),
        }
    }
}

impl Outcome {
    /// Changes of the number of pods.
    pub fn scalings(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|c| c.replicas.0 != c.replicas.1)
    }

    /// Changes of the number of pods from `from` (milliseconds) on.
    pub fn scalings_after(&self, from: i64) -> impl Iterator<Item = &Change> {
        self.scalings().filter(move |c| c.at >= from)
    }

    /// The sample at that moment.
    #[must_use]
    pub fn at(&self, at: i64) -> Option<&Sample> {
        self.samples.iter().rev().find(|s| s.at <= at)
    }

    /// The most that the first record was behind from `from` to `to`.
    #[must_use]
    pub fn most_behind(&self, from: i64, to: i64) -> f64 {
        self.samples
            .iter()
            .filter(|s| (from..to).contains(&s.at))
            .map(|s| s.behind)
            .fold(0.0, f64::max)
    }

    /// What the changes were, one line each.
    #[must_use]
    pub fn story(&self) -> String {
        let line = |c: &Change| {
            format!(
                "{:7.2} s {:>2} → {:<2} batch {:>3} → {:<3} conc {:>2} → {:<2} {}: {}\n",
                c.at as f64 / 1e3,
                c.replicas.0,
                c.replicas.1,
                c.knobs.0.batch_size,
                c.knobs.1.batch_size,
                c.knobs.0.concurrency,
                c.knobs.1.concurrency,
                c.reason.as_str(),
                c.message
            )
        };
        self.changes.iter().map(line).collect()
    }
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Outcome {
    let mut world =
        World::new(EPOCH, &scenario.shares, scenario.pods, Tuning::new(1, scenario.knobs));
    let mut trace = scenario.trace.play();
    let mut readings = Readings::default();
    let mut memory = Memory::restore(&PlannerMemory {
        slot_rate: scenario.remembered,
        ..PlannerMemory::default()
    });
    // What the operator remembers of its own writes.
    let (mut desired_since, mut tuning_at) = (None, None);
    let mut outcome = Outcome::default();
    let (mut read, mut reading) = (None, None);
    let mut acts: Vec<(i64, u32)> = Vec::new();
    // The pods of the beginning are there at its first moment.
    let start = scenario.pods.start;
    world.fill(scenario.backlog);
    world.scale(scenario.replicas);
    while world.now < EPOCH + scenario.length {
        let at = world.now - EPOCH;
        world.step(trace.rate(at, STEP));
        if let Some((when, partition)) = scenario.block
            && (when..when + STEP).contains(&at)
        {
            world.block(partition);
        }
        if scenario.restarts.iter().any(|when| (*when..when + STEP).contains(&at)) {
            (readings, memory) = (Readings::default(), Memory::restore(&memory.kept()));
            (desired_since, tuning_at) = (None, None);
        }
        acts.retain(|(when, replicas)| {
            let due = at >= *when;
            if due {
                world.scale(*replicas);
            }
            !due
        });
        if at % scenario.interval == scenario.phase / STEP * STEP {
            read = read_through(scenario, &world, at).or(read);
            reading = Some(at + scenario.delay);
        }
        // A first pod is given its start, so that a run begins in a settled state.
        if at < start + 1_000 || reading.is_none_or(|when| at < when) {
            continue;
        }
        reading = None;
        let Some(snapshot) = &read else { continue };
        let desired = acts.last().map_or(world.desired(), |(_, replicas)| *replicas);
        let (ready, tuning) = (world.ready(), world.tuning());
        let observed = Observed { desired, desired_since, ready, tuning, tuning_at };
        let decision =
            plan(&scenario.spec, &mut readings, &mut memory, &observed, snapshot, world.now);
        let written = !is_within(&scenario.failing_writes, at);
        if written && (decision.replicas != desired || decision.knobs != tuning.knobs) {
            outcome.changes.push(change(at, &observed, &decision));
        }
        if written && decision.replicas != desired {
            acts.push((at + ACT, decision.replicas));
            desired_since = Some(world.now);
        }
        if written && decision.knobs != tuning.knobs {
            world.tune(Tuning::new(tuning.revision + 1, decision.knobs));
            tuning_at = Some(world.now);
        }
        outcome.samples.push(Sample {
            at,
            lag: world.lag(),
            behind: world.behind(),
            seen_behind: decision.numbers.behind,
            seen_backlog: decision.numbers.backlog,
            limit: decision.limit,
            desired: decision.replicas,
            ready: world.ready(),
            knobs: decision.knobs,
        });
    }
    outcome.memory = memory.kept();
    outcome
}

/// Whether a moment is within one of these spans.
fn is_within(spans: &[(i64, i64)], at: i64) -> bool {
    spans.iter().any(|(from, to)| (*from..*to).contains(&at))
}

fn change(at: i64, observed: &Observed, decision: &Decision) -> Change {
    Change {
        at,
        replicas: (observed.desired, decision.replicas),
        knobs: (observed.tuning.knobs, decision.knobs),
        reason: decision.reason,
        message: match &decision.knobs_message {
            Some(knobs) if decision.replicas == observed.desired => knobs.clone(),
            _ => decision.message.clone(),
        },
    }
}

/// What the reader gets, with what is away just now.
fn read_through(scenario: &Scenario, world: &World, at: i64) -> Option<sluice_planner::Snapshot> {
    let outage = scenario
        .outages
        .iter()
        .find(|(from, to, _)| (*from..*to).contains(&at))
        .map(|(_, _, what)| *what);
    let mut snapshot = world.read();
    match outage {
        None => {}
        Some(Outage::Silence) => return None,
        Some(Outage::SomeEnds) => {
            for partition in snapshot.partitions.iter_mut().step_by(3) {
                partition.end = None;
            }
        }
        Some(Outage::Commits) => {
            for partition in &mut snapshot.partitions {
                (partition.committed, partition.report) = (Committed::Unknown, None);
            }
        }
    }
    Some(snapshot)
}
