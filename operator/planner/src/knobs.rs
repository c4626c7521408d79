//! Which knobs? Batches by the latency target and by whether they go out full; concurrency by what it gains.
//!
//! At a steady load that is met nothing moves. One knob at a time, so that its effect can be told.

use sluice_crds::tuning::Knobs;

use crate::{
    memory::{Memory, Trial},
    plan::words::waiting,
    snapshot::Millis,
    spec::{Observed, Spec},
};

/// Between two changes: the effect of one must be seen before the next.
const SETTLE: Millis = 10_000;
/// Between two changes of the batch size while nothing presses.
const UNHURRIED: Millis = 60_000;
/// A concurrency that gained nothing is not tried again for this long.
const DISCOURAGED: Millis = 300_000;
/// More concurrency must gain this much, or it is taken back.
const GAIN: f64 = 1.1;

/// What presses on the pods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pressure {
    /// Records per second that the fullest pod must handle with the pods that run now.
    pub load: f64,
    /// What it can handle, at the target.
    pub limit: f64,
    /// What it can handle at most.
    pub capacity: f64,
    /// Its partitions.
    pub per_pod: u32,
    /// Slots that it could use with them.
    pub useful: u32,
    /// Records of a backlog, where there is one.
    pub backlog: Option<f64>,
}

impl Pressure {
    /// Why more is needed, in words.
    fn words(self) -> String {
        match self.backlog {
            Some(backlog) if self.load <= self.limit => waiting(backlog),
            _ => format!(
                "the fullest pod has to handle {:.0} records per second; its target is {:.0}",
                self.load, self.limit
            ),
        }
    }
}

/// The next knobs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Next {
    /// The knobs from now on.
    pub knobs: Knobs,
    /// What changes and why, in a sentence, where they are not those in place.
    pub message: Option<String>,
}

impl Next {
    fn unchanged(knobs: Knobs) -> Self {
        Self { knobs, message: None }
    }

    fn change(from: Knobs, knobs: Knobs, why: &str) -> Self {
        let changes: Vec<_> = [
            ("batch size", from.batch_size, knobs.batch_size),
            ("concurrency", from.concurrency, knobs.concurrency),
        ]
        .into_iter()
        .filter(|(_, from, to)| from != to)
        .map(|(name, from, to)| format!("{name} {from} → {to}"))
        .collect();
        Self { knobs, message: Some(format!("{}: {why}", changes.join(", "))) }
    }
}

/// The knobs from now on; those in place where nothing calls for others.
pub(crate) fn next(
    spec: &Spec,
    memory: &mut Memory,
    observed: &Observed,
    pressure: Option<Pressure>,
    now: Millis,
) -> Next {
    let current = clamp(spec, observed.tuning.knobs);
    if current != observed.tuning.knobs {
        let why = format!(
            "spec.tuning allows batches of {} to {} and a concurrency of {} to {}",
            spec.lowest.batch_size,
            spec.highest.batch_size,
            spec.lowest.concurrency,
            spec.highest.concurrency
        );
        return Next::change(observed.tuning.knobs, current, &why);
    }
    if let Some(back) = still_to_take_back(memory, current, observed.tuning.revision) {
        return Next::change(current, back, "lowered again: the higher concurrency gained nothing");
    }
    // After a restart the trial still tells when its knobs were decided on.
    let tried_at = memory.trial.filter(|t| t.revision == observed.tuning.revision).map(|t| t.at);
    let since = observed.tuning_at.or(tried_at).map_or(Millis::MAX, |at| now - at);
    if since < SETTLE
        || observed.ready == 0
        || !memory.capacity.is_in_force(observed.tuning.revision)
    {
        return Next::unchanged(current);
    }
    let (Some(busy), Some(full)) = (memory.capacity.busy(), memory.capacity.full()) else {
        return Next::unchanged(current);
    };
    if let Some((back, why)) = judge(spec, memory, current, observed.tuning.revision) {
        return Next::change(current, back, &why);
    }
    if let (Some(target), Some(p99)) = (spec.latency_target, memory.capacity.p99())
        && p99 > target
        && current.batch_size > spec.lowest.batch_size
        && since >= SETTLE
    {
        let batch_size = scaled(current.batch_size, 0.8).max(spec.lowest.batch_size);
        let why = format!("p99 {p99:.0} ms is over latencyTarget {target:.0} ms");
        return Next::change(current, Knobs { batch_size, ..current }, &why);
    }
    let Some(pressure) = pressure else { return Next::unchanged(current) };
    let pressed = pressure.load > pressure.limit || pressure.backlog.is_some();
    if !pressed || busy < spec.target.min(0.7) {
        return Next::unchanged(current);
    }
    if let Some(concurrency) = more_concurrency(spec, memory, current, pressure, now) {
        // It begins when the knobs are written; until then the next pass decides again.
        memory.trial = Some(Trial {
            from: current.concurrency,
            to: concurrency,
            revision: observed.tuning.revision + 1,
            slot_rate: memory.capacity.slot_rate().unwrap_or(0.0),
            capacity: pressure.capacity,
            per_pod: pressure.per_pod,
            at: now,
            failed_at: None,
        });
        return Next::change(current, Knobs { concurrency, ..current }, &pressure.words());
    }
    let may_grow = current.batch_size < spec.highest.batch_size && full >= 0.9;
    if may_grow
        && (since >= UNHURRIED || pressure.backlog.is_some())
        && within_latency(spec, memory)
    {
        let batch_size = scaled(current.batch_size, 1.2).min(spec.highest.batch_size);
        let why = format!("batches go out full, and {}", pressure.words());
        return Next::change(current, Knobs { batch_size, ..current }, &why);
    }
    Next::unchanged(current)
}

/// Whether more concurrency may still do the work instead of pods.
pub(crate) fn can_grow(
    spec: &Spec,
    memory: &Memory,
    current: Knobs,
    useful: u32,
    now: Millis,
) -> bool {
    current.concurrency < spec.highest.concurrency.min(useful) && !discouraged(memory, now)
}

fn discouraged(memory: &Memory, now: Millis) -> bool {
    memory.trial.is_some_and(|trial| trial.failed_at.is_some() && now - trial.at < DISCOURAGED)
}

/// The concurrency at which the fullest pod would cope, if each slot kept its rate; at most four times what it is.
fn more_concurrency(
    spec: &Spec,
    memory: &Memory,
    current: Knobs,
    pressure: Pressure,
    now: Millis,
) -> Option<u32> {
    if !can_grow(spec, memory, current, pressure.useful, now) || pressure.limit <= 0.0 {
        return None;
    }
    let factor = (pressure.load / pressure.limit).clamp(1.25, 4.0);
    let wanted = (f64::from(current.concurrency) * factor).ceil() as u32;
    let wanted =
        wanted.max(current.concurrency + 1).min(spec.highest.concurrency).min(pressure.useful);
    (wanted > current.concurrency).then_some(wanted)
}

/// Looks at what the last change of concurrency gained; the knobs to go back to and why, if that
/// was nothing.
fn judge(
    spec: &Spec,
    memory: &mut Memory,
    current: Knobs,
    revision: u64,
) -> Option<(Knobs, String)> {
    let trial = memory.trial.filter(|trial| trial.failed_at.is_none())?;
    if revision < trial.revision {
        // It was never written, so there is nothing to judge.
        return None;
    }
    if current.concurrency != trial.to {
        // Somebody else changed it.
        memory.trial = None;
        return None;
    }
    if !memory.capacity.is_measured_at(revision) {
        return None;
    }
    let now = memory.capacity.of_pod(current, spec.ordering, trial.per_pod);
    if now >= trial.capacity * GAIN {
        memory.trial = None;
        return None;
    }
    memory.trial = Some(Trial { failed_at: Some(revision), ..trial });
    if trial.slot_rate > 0.0 {
        memory.capacity.reset_to(trial.slot_rate, revision);
        // It gained nothing: the pods do what they did at the concurrency before.
        memory.concurrency = Some(trial.from);
    }
    let why = format!(
        "lowered again: the higher concurrency gained nothing (a pod handles {now:.0} records per \
         second, {:.0} before)",
        trial.capacity
    );
    Some((Knobs { concurrency: trial.from, ..current }, why))
}

/// The knobs to go back to where a trial failed and its knobs are still in place: the write failed,
/// or nothing may be written.
fn still_to_take_back(memory: &Memory, current: Knobs, revision: u64) -> Option<Knobs> {
    let trial = memory.trial.filter(|trial| trial.failed_at == Some(revision))?;
    (current.concurrency == trial.to).then_some(Knobs { concurrency: trial.from, ..current })
}

fn within_latency(spec: &Spec, memory: &Memory) -> bool {
    match (spec.latency_target, memory.capacity.p99()) {
        // A fifth more in a batch must not lead beyond the target at once.
        (Some(target), Some(p99)) => p99 * 1.25 <= target,
        (Some(_), None) => false,
        (None, _) => true,
    }
}

fn scaled(value: u32, factor: f64) -> u32 {
    let next = f64::from(value) * factor;
    if factor > 1.0 { (next.ceil() as u32).max(value + 1) } else { (next.floor() as u32).max(1) }
}

fn clamp(spec: &Spec, knobs: Knobs) -> Knobs {
    Knobs {
        batch_size: knobs
            .batch_size
            .clamp(spec.lowest.batch_size, spec.highest.batch_size.max(spec.lowest.batch_size)),
        concurrency: knobs
            .concurrency
            .clamp(spec.lowest.concurrency, spec.highest.concurrency.max(spec.lowest.concurrency)),
    }
}
