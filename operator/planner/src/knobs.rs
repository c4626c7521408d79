//! Which knobs? Batches by the latency target and by whether they go out full; concurrency by what it gains.
//!
//! At a steady load that is met nothing moves. One knob at a time, so that its effect can be told.

use sluice_crds::tuning::Knobs;

use crate::{
    history::{History, Tried},
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
    /// Records a second that the fullest pod must handle with the pods that run now.
    pub load: f64,
    /// What it can handle, at the target.
    pub limit: f64,
    /// What it can handle at most.
    pub capacity: f64,
    /// Its partitions.
    pub each: u32,
    /// Slots that it could use with them.
    pub useful: u32,
    /// A backlog is there.
    pub backlog: bool,
}

/// The knobs from now on; the ones in force where nothing calls for others.
pub(crate) fn next(
    spec: &Spec,
    history: &mut History,
    observed: &Observed,
    pressure: Option<Pressure>,
    now: Millis,
) -> Knobs {
    let current = clamp(spec, observed.tuning.knobs);
    if current != observed.tuning.knobs {
        return current;
    }
    let since = history.knobs_at.map_or(Millis::MAX, |at| now - at);
    if since < SETTLE
        || observed.ready == 0
        || !history.capacity.is_in_force(observed.tuning.revision)
    {
        return current;
    }
    let (Some(busy), Some(full)) = (history.capacity.busy(), history.capacity.full()) else {
        return current;
    };
    if let Some(back) = judge(spec, history, current, observed.tuning.revision) {
        history.knobs_at = Some(now);
        return back;
    }
    if let (Some(target), Some(p99)) = (spec.latency_target, history.capacity.p99())
        && p99 > target
        && current.batch_size > spec.lowest.batch_size
        && since >= SETTLE
    {
        history.knobs_at = Some(now);
        return Knobs {
            batch_size: scaled(current.batch_size, 0.8).max(spec.lowest.batch_size),
            ..current
        };
    }
    let Some(pressure) = pressure else { return current };
    let pressed = pressure.load > pressure.limit || pressure.backlog;
    if !pressed || busy < spec.target.min(0.7) {
        return current;
    }
    if let Some(concurrency) = more_concurrency(spec, history, current, pressure, now) {
        history.tried = Some(Tried {
            from: current.concurrency,
            slot_rate: history.capacity.slot_rate().unwrap_or(0.0),
            capacity: pressure.capacity,
            each: pressure.each,
            at: now,
            failed: false,
        });
        history.knobs_at = Some(now);
        return Knobs { concurrency, ..current };
    }
    let may_grow = current.batch_size < spec.highest.batch_size && full >= 0.9;
    if may_grow && (since >= UNHURRIED || pressure.backlog) && within_latency(spec, history) {
        history.knobs_at = Some(now);
        return Knobs {
            batch_size: scaled(current.batch_size, 1.2).min(spec.highest.batch_size),
            ..current
        };
    }
    current
}

/// Whether more concurrency may still do the work instead of pods.
pub(crate) fn can_grow(
    spec: &Spec,
    history: &History,
    current: Knobs,
    useful: u32,
    now: Millis,
) -> bool {
    current.concurrency < spec.highest.concurrency.min(useful) && !discouraged(history, now)
}

fn discouraged(history: &History, now: Millis) -> bool {
    history.tried.is_some_and(|tried| tried.failed && now - tried.at < DISCOURAGED)
}

/// The concurrency at which the fullest pod would cope, if each slot kept its rate; at most four times what it is.
fn more_concurrency(
    spec: &Spec,
    history: &History,
    current: Knobs,
    pressure: Pressure,
    now: Millis,
) -> Option<u32> {
    if !can_grow(spec, history, current, pressure.useful, now) || pressure.limit <= 0.0 {
        return None;
    }
    let factor = (pressure.load / pressure.limit).clamp(1.25, 4.0);
    let wanted = (f64::from(current.concurrency) * factor).ceil() as u32;
    let wanted =
        wanted.max(current.concurrency + 1).min(spec.highest.concurrency).min(pressure.useful);
    (wanted > current.concurrency).then_some(wanted)
}

/// Looks at what the last change of concurrency gained; the knobs to go back to, if that was nothing.
fn judge(spec: &Spec, history: &mut History, current: Knobs, revision: u64) -> Option<Knobs> {
    let tried = history.tried.filter(|tried| !tried.failed)?;
    if current.concurrency == tried.from {
        // It was never taken over (a dry run), so there is nothing to judge.
        history.tried = None;
        return None;
    }
    if !history.capacity.is_measured_at(revision) {
        return None;
    }
    let now = history.capacity.of_pod(current, spec.ordering, tried.each);
    if now >= tried.capacity * GAIN {
        history.tried = None;
        None
    } else {
        history.tried = Some(Tried { failed: true, ..tried });
        if tried.slot_rate > 0.0 {
            // Slots that wait for each other say nothing of what one can do alone.
            history.capacity.believe(tried.slot_rate);
        }
        Some(Knobs { concurrency: tried.from, ..current })
    }
}

fn within_latency(spec: &Spec, history: &History) -> bool {
    match (spec.latency_target, history.capacity.p99()) {
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
