//! One decision: what is needed, what the bounds allow, and whether now is the time.

mod limit;
pub mod rules;
pub(crate) mod words;

use sluice_crds::{kafkaconsumer::Ordering, tuning::Knobs};

use crate::{
    count::{self, Needed},
    decision::{Decision, Numbers, Reason},
    knobs::{self, Pressure},
    memory::Memory,
    readings::{Readings, STALE, Taken},
    snapshot::{Committed, GroupState, Millis, Snapshot},
    spec::{Observed, Spec},
};

/// Noise of this factor around the target moves nothing.
const BAND: f64 = 1.1;
/// One commit and one reading: records that arrived in this many seconds are in flight, and no backlog.
const IN_FLIGHT: f64 = 2.0;
/// Seconds from writing the number of pods to their being ready, before that was learnt.
const FIRST_START: f64 = 5.0;
/// Longest time that an unsettled group may block a decision.
const UNSETTLED: Millis = 60_000;
/// An idle group's offsets are read every ten seconds; older than this they are not known.
const COMMITS_STALE: Millis = 30_000;
/// Pods go only on a reading as new as this.
const FRESH: Millis = 5_000;
/// A partition with more than this many times its even share of the arrivals is hot, if one pod is too little for it.
const HOT: f64 = 1.5;
/// A backlog is one above this many seconds of arrivals, beyond what is in flight …
const BACKLOG_BEGINS: f64 = 2.0;
/// … and it is drained below this many.
const BACKLOG_ENDS: f64 = 0.5;

/// Decides on pods and knobs. `readings` and `memory` take the snapshot in; asking twice with the
/// same one answers the same.
pub fn plan(
    spec: &Spec,
    readings: &mut Readings,
    memory: &mut Memory,
    observed: &Observed,
    snapshot: &Snapshot,
    now: Millis,
) -> Decision {
    let taken = readings.record(snapshot);
    match taken {
        Taken::ClockWentBack => memory.clock_went_back(snapshot.at, now),
        // Pods that were needed in the gap were not seen to be.
        Taken::AfterGap => memory.window.restart(),
        Taken::New | Taken::Known => {}
    }
    if taken != Taken::Known {
        memory.capacity.record(snapshot);
    }
    let Some(seen) = Seen::of(readings, snapshot, now) else {
        memory.window.restart();
        return hold_unknown(readings, memory, observed, snapshot);
    };
    let partitions = snapshot.partitions.len() as u32;
    memory.learn_start(observed, now);
    memory.learn_knobs(observed);
    let situation = Situation { spec, readings, observed, snapshot, seen: &seen, partitions, now };
    situation.decide(memory)
}

/// What is known of the lag now.
struct Seen {
    lag: i64,
    /// `None`: longer than the readings reach back.
    behind: Option<f64>,
    /// Records per second: of the minute (or since a jump), and now.
    mean: f64,
    current: f64,
    handled: f64,
    /// Seconds of which `current` is the mean; `None` where it is not known.
    span: Option<f64>,
    /// Whether the arrivals were seen long enough to speak of them.
    rates_known: bool,
    /// The lag beyond what is in flight, and each partition's.
    backlog: f64,
    backlogs: Vec<f64>,
    shares: Vec<f64>,
    stuck: Vec<bool>,
}

impl Seen {
    /// `None` where any partition is not known.
    fn of(readings: &Readings, snapshot: &Snapshot, now: Millis) -> Option<Self> {
        if snapshot.partitions.is_empty() || now - snapshot.at > STALE {
            return None;
        }
        let mut sum = 0;
        for partition in &snapshot.partitions {
            let known = partition.end.is_some()
                && partition.start.is_some()
                && partition.committed != Committed::Unknown;
            if !known
                || now - partition.end_at > STALE
                || now - partition.committed_at > COMMITS_STALE
            {
                return None;
            }
            sum += partition.lag()?;
        }
        let mean = readings.arrivals(60_000);
        let ten = readings.arrivals(10_000);
        let newest = readings.newest_interval();
        let is_fresh = readings.jump.is_fresh(now) && newest.is_some();
        let (current, span) =
            if is_fresh { (newest, readings.newest_span()) } else { (ten, readings.span(10_000)) };
        let shares = readings.shares(snapshot);
        let rate = current.unwrap_or(0.0).max(0.0);
        let is_stuck = readings.stuck(snapshot, now);
        let backlogs: Vec<f64> = snapshot
            .partitions
            .iter()
            .zip(&shares)
            .zip(&is_stuck)
            .map(|((partition, share), is_stuck)| {
                let beyond = partition.lag().unwrap_or(0) as f64 - IN_FLIGHT * rate * share;
                // Records behind one that fails again and again are no reason for pods: none of them would help.
                if *is_stuck { 0.0 } else { beyond.max(0.0) }
            })
            .collect();
        Some(Self {
            lag: sum,
            behind: readings.behind(snapshot, now),
            mean: mean.unwrap_or(0.0).max(0.0),
            current: rate,
            handled: readings.handled(10_000).unwrap_or(0.0),
            span: current.and(span).map(|span| span as f64 / 1e3),
            rates_known: mean.is_some(),
            backlog: backlogs.iter().sum(),
            backlogs,
            shares,
            stuck: is_stuck,
        })
    }
}

struct Situation<'a> {
    spec: &'a Spec,
    readings: &'a Readings,
    observed: &'a Observed,
    snapshot: &'a Snapshot,
    seen: &'a Seen,
    partitions: u32,
    now: Millis,
}

impl Situation<'_> {
    fn decide(&self, memory: &mut Memory) -> Decision {
        let Self { spec, observed, seen, now, .. } = *self;
        let desired = observed.desired;
        let measured = memory.capacity.slot_rate().is_some();
        let steady = self.needed(memory, seen.mean, spec.target, false);
        let up = self.needed(memory, seen.mean, (spec.target * BAND).min(1.0), false);
        let down = self.needed(memory, seen.mean, spec.target / BAND, false);
        let for_current = self.needed(memory, seen.current, 1.0, false);

        // Pods for a backlog are chosen once and kept: recomputed, lag ÷ drainWithin decays and never arrives.
        let has_backlog = match memory.for_backlog {
            Some(_) => seen.backlog > BACKLOG_ENDS * seen.current.max(1.0),
            None => seen.backlog > BACKLOG_BEGINS * seen.current.max(1.0),
        };
        let drain = self.needed(memory, seen.current, 1.0, true);
        let suspected = self.readings.jump.is_suspected(now);
        if has_backlog && !(suspected && desired > 0) {
            memory.for_backlog = Some(memory.for_backlog.unwrap_or(0).max(drain.pods));
        } else if !has_backlog {
            memory.for_backlog = None;
        }

        let band =
            if up.pods > desired { steady.pods } else { down.pods.min(desired).max(up.pods) };
        let arrivals = band.max(for_current.pods);
        // Nothing is needed where nothing arrives and nothing is left; the window sees to it that this lasts.
        let wanted_for_window =
            if seen.lag == 0 && self.readings.is_quiet() { 0 } else { arrivals.max(1) };
        let span = (spec.scale_down_after * 1e3) as Millis;
        if seen.rates_known {
            memory.window.note(now, wanted_for_window, span);
        }
        let wanted = arrivals.max(memory.for_backlog.unwrap_or(0)).max(1);

        let pressure = self.pressure(memory);
        let next = knobs::next(spec, memory, observed, pressure, now);
        let enough = steady.enough && for_current.enough;
        let (replicas, reason) =
            rules::decide(&rules::Case::of(self, memory, wanted, enough, next.knobs));
        let per_pod = self.partitions.div_ceil(replicas.max(1));
        let capacity = memory.capacity.of_pod(self.knobs(memory), spec.ordering, per_pod);
        let demand = seen.current + seen.backlog / spec.drain_within;
        let arrivals = wanted_for_window.max(1);
        let bounded = limit::Bounded {
            situation: self,
            memory,
            replicas,
            wanted,
            arrivals,
            demand,
            capacity,
        };
        let limit = bounded.limit();
        memory.limit = limit;
        let numbers = Numbers {
            lag: Some(seen.lag),
            behind: seen.behind,
            backlog: Some(seen.backlog as i64),
            arrivals: seen.rates_known.then_some(seen.mean),
            handled: Some(seen.handled),
            demand: seen.rates_known.then_some(demand),
            capacity: measured.then_some(capacity),
        };
        let mut message = self.sentence(reason, replicas, &numbers);
        if replicas < desired && !self.is_settled() && reason != Reason::Bounds {
            message.push_str(
                "; the group has not settled for a minute, which is no longer waited for",
            );
        }
        message += &words::slow_readings(self.readings);
        Decision {
            replicas,
            knobs: next.knobs,
            knobs_message: next.message,
            reason,
            message,
            numbers,
            limit: limit.map(|(limit, _)| limit),
            wants_group: replicas != desired || !self.is_settled(),
        }
    }

    /// Pods for this many records per second, with or without what a backlog adds, at this share of
    /// their capacity.
    fn needed(&self, memory: &Memory, rate: f64, share: f64, backlog: bool) -> Needed {
        self.needed_with(memory, self.knobs(memory), rate, share, backlog)
    }

    /// The knobs that the pods run with: capacity at others is not believed in, and pods do not wait for them.
    fn knobs(&self, memory: &Memory) -> Knobs {
        let written = self.observed.tuning.knobs;
        Knobs { concurrency: memory.concurrency.unwrap_or(written.concurrency), ..written }
    }

    fn needed_with(
        &self,
        memory: &Memory,
        knobs: Knobs,
        rate: f64,
        share: f64,
        backlog: bool,
    ) -> Needed {
        let start = memory.start_seconds.unwrap_or(FIRST_START);
        // Pods that were written a while ago will not take their whole start from now on; further
        // ones will.
        let waited = memory.waited(self.now);
        let needed = self.needed_after(
            memory,
            knobs,
            rate,
            share,
            backlog.then_some((start - waited).max(0.0)),
        );
        if backlog && needed.pods > self.observed.desired {
            self.needed_after(memory, knobs, rate, share, Some(start))
        } else {
            needed
        }
    }

    /// Pods for this many records per second and, where missing pods take `start` seconds to start,
    /// for the backlog that has gathered by then.
    fn needed_after(
        &self,
        memory: &Memory,
        knobs: Knobs,
        rate: f64,
        share: f64,
        start: Option<f64>,
    ) -> Needed {
        let ordering = self.spec.ordering;
        let capacity = |per_pod: u32| memory.capacity.of_pod(knobs, ordering, per_pod);
        let ready = self.observed.ready.min(self.partitions);
        let doing = if ready == 0 {
            0.0
        } else {
            f64::from(ready) * capacity(self.partitions.div_ceil(ready))
        };
        // What will have gathered when the missing pods have started.
        let gathering = (rate - doing).max(0.0) * start.unwrap_or(0.0);
        let alone = capacity(1);
        let needs: Vec<f64> = self
            .seen
            .shares
            .iter()
            .zip(&self.seen.backlogs)
            .map(|(of_rate, of_backlog)| {
                let arrives = rate * of_rate;
                if start.is_none() {
                    return arrives;
                }
                // A pod of its own is the most that can be done for a partition's backlog.
                let drain = (of_backlog + gathering * of_rate) / self.spec.drain_within;
                (arrives + drain).min(alone.max(arrives))
            })
            .collect();
        count::needed(&needs, |per_pod| capacity(per_pod) * share)
    }

    /// What presses on the fullest of the desired pods.
    fn pressure(&self, memory: &Memory) -> Option<Pressure> {
        memory.capacity.slot_rate()?;
        let pods = self.observed.desired.clamp(1, self.partitions);
        let per_pod = self.partitions.div_ceil(pods);
        let drain = self.seen.backlog / self.spec.drain_within;
        let load = (self.seen.current + drain) * f64::from(per_pod) / f64::from(self.partitions);
        let capacity =
            memory.capacity.of_pod(self.observed.tuning.knobs, self.spec.ordering, per_pod);
        let limit = capacity * self.spec.target;
        let backlog = memory.for_backlog.map(|_| self.seen.backlog);
        Some(Pressure {
            load,
            limit,
            capacity,
            per_pod,
            useful: self.useful_slots(per_pod),
            backlog,
        })
    }

    /// Slots that a pod with this many partitions could use.
    fn useful_slots(&self, per_pod: u32) -> u32 {
        if self.spec.ordering == Ordering::Partition { per_pod } else { u32::MAX }
    }

    /// Later than `maxBehind`; a backlog older than the readings is.
    fn is_late(&self) -> bool {
        let older_than_readings = || {
            self.seen.backlog > 0.0
                && self.readings.reach(self.now) as f64 / 1e3 > self.spec.max_behind
        };
        self.seen.behind.map_or_else(older_than_readings, |behind| behind > self.spec.max_behind)
    }

    /// As many pods as the bounds allow run, and more arrives than they can handle: they neither keep
    /// up nor drain anything.
    fn is_beyond_the_bounds(&self, memory: &Memory) -> bool {
        let pods = self.observed.desired;
        let most = self.spec.max_replicas.unwrap_or(self.partitions);
        let per_pod = self.partitions.div_ceil(pods.max(1));
        let capacity = memory.capacity.of_pod(self.knobs(memory), self.spec.ordering, per_pod);
        memory.capacity.slot_rate().is_some()
            && pods >= count::within(self.partitions, 0, Some(most), self.partitions)
            && self.seen.current > capacity * f64::from(pods)
    }

    /// The desired pods are ready, and the group (where it was read) is stable.
    fn is_settled(&self) -> bool {
        let group = self.snapshot.group.as_ref().is_none_or(|group| {
            let recent = self.now - group.at < STALE;
            !recent || (group.state == GroupState::Stable || group.state == GroupState::Empty)
        });
        self.observed.ready == self.observed.desired && group
    }

    fn is_settled_for_shrinking(&self, memory: &Memory) -> bool {
        if self.now - self.snapshot.at > FRESH {
            return false;
        }
        self.is_settled()
            || memory.unsettled(self.now).is_some_and(|unsettled| unsettled > UNSETTLED)
    }
}

fn hold_unknown(
    readings: &Readings,
    memory: &Memory,
    observed: &Observed,
    snapshot: &Snapshot,
) -> Decision {
    let partitions = snapshot.partitions.len() as u32;
    let unknown = snapshot
        .partitions
        .iter()
        .filter(|p| p.end.is_none() || p.committed == Committed::Unknown)
        .count();
    let of = match unknown {
        0 => String::new(),
        _ => format!(" of {unknown} of {partitions} partitions"),
    };
    let message = format!("the lag{of} is not known: pods and knobs stay as they are");
    Decision {
        // Unknown is not zero; the partitions alone bound what is there.
        replicas: if partitions == 0 { observed.desired } else { observed.desired.min(partitions) },
        knobs: observed.tuning.knobs,
        knobs_message: None,
        reason: Reason::LagUnknown,
        message: message + &words::slow_readings(readings),
        numbers: Numbers::default(),
        // A bound is not out of the way because a broker does not answer.
        limit: memory.limit.map(|(limit, _)| limit),
        wants_group: false,
    }
}
