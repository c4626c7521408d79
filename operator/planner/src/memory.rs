//! What the planner learnt of a consumer: what a pod can do, how long it starts, what its own
//! changes gained.
//!
//! What it learns of its own actions comes from what was written ([`Observed`]), and never from
//! what it decided.

use sluice_crds::kafkaconsumer::status::{PlannerMemory, Trial as KeptTrial, millis, time};

use crate::{
    capacity::Capacity, decision::Limit, snapshot::Millis, spec::Observed, window::Window,
};

/// Pods that have not come after this time will not come soon: their start is not waited for any
/// longer.
const LONGEST_START: Millis = 300_000;
/// The clock that tells when pods were written may be this much off the one of the passes.
const CLOCK_NOISE: Millis = 1_000;

/// What the planner learnt of a consumer, kept between passes and partly over a restart.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What a pod can do.
    pub(crate) capacity: Capacity,
    /// The counts that the arrivals needed.
    pub(crate) window: Window,
    /// Pods chosen for a backlog, kept until it is drained.
    pub(crate) for_backlog: Option<u32>,
    /// The concurrency that capacity is believed at: more is believed when it was measured.
    pub(crate) concurrency: Option<u32>,
    /// The last change of concurrency, and what it gained.
    pub(crate) trial: Option<Trial>,
    /// The bound that is in the way, and when it was last found to be.
    pub(crate) limit: Option<(Limit, Millis)>,
    /// Seconds from writing pods to their being ready.
    pub(crate) start_seconds: Option<f64>,
    /// Desired pods as last observed, and when.
    desired: Option<(u32, Millis)>,
    /// Pods that were added and are not all ready.
    starting: Option<Starting>,
    /// Since when the pods that are ready are not those that are desired.
    unsettled_since: Option<Millis>,
}

/// Pods that were added, and when.
#[derive(Clone, Copy, Debug)]
struct Starting {
    pods: u32,
    since: Millis,
}

/// More concurrency, tried out: whether it gains anything is seen once it is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trial {
    /// The concurrency before, and the one that is tried.
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// The revision that the knobs have if they are written. Until then nothing is tried.
    pub(crate) revision: u64,
    /// What the fullest pod could handle before, and how many partitions it had.
    pub(crate) capacity: f64,
    pub(crate) per_pod: u32,
    /// What one slot could handle before.
    pub(crate) slot_rate: f64,
    /// When it was decided on.
    pub(crate) at: Millis,
    /// It gained nothing, measured at this revision: it is taken back as long as that is in place.
    pub(crate) failed_at: Option<u64>,
}

impl Memory {
    /// What was kept over a restart.
    pub fn restore(kept: &PlannerMemory) -> Self {
        let capacity = Capacity::restore(kept.slot_rate, kept.slot_rate_revision);
        let known = capacity.slot_rate().is_some();
        Self {
            concurrency: kept.concurrency.and_then(|n| u32::try_from(n).ok()).filter(|_| known),
            capacity,
            start_seconds: kept.start_seconds.filter(|seconds| seconds.is_finite()),
            trial: kept.trial.as_ref().and_then(Trial::restore),
            ..Self::default()
        }
    }

    /// What is worth keeping over a restart: measured rates, rounded, so that noise is not written.
    pub fn kept(&self) -> PlannerMemory {
        let (slot_rate, slot_rate_revision) = self.capacity.persisted();
        PlannerMemory {
            slot_rate,
            slot_rate_revision,
            concurrency: self.concurrency.filter(|_| slot_rate.is_some()).map(|n| n as i32),
            start_seconds: self.start_seconds.map(f64::round),
            trial: self.trial.map(Trial::kept),
            last_scale: None,
        }
    }

    /// Forgets moments that are in the future now; what was measured stays.
    pub(crate) fn clock_went_back(&mut self, read_at: Millis, now: Millis) {
        self.capacity.clock_went_back(read_at);
        self.window.restart();
        self.starting = None;
        self.limit = self.limit.map(|(limit, _)| (limit, now));
        self.desired = self.desired.map(|(pods, _)| (pods, now));
        self.unsettled_since = self.unsettled_since.map(|since| since.min(now));
        self.trial = self.trial.map(|trial| Trial { at: trial.at.min(now), ..trial });
    }

    /// Seconds since pods were added that are not all ready.
    pub(crate) fn waited(&self, now: Millis) -> f64 {
        self.starting.map_or(0.0, |starting| (now - starting.since) as f64 / 1e3)
    }

    /// How long pods and desired pods have not agreed.
    pub(crate) fn unsettled(&self, now: Millis) -> Option<Millis> {
        self.unsettled_since.map(|since| now - since)
    }

    /// Learns how long pods take to start, from those that were written.
    pub(crate) fn learn_start(&mut self, observed: &Observed, now: Millis) {
        let Observed { desired, desired_since, ready, .. } = *observed;
        if let Some((before, seen)) = self.desired.replace((desired, now))
            && before != desired
        {
            // A write older than the other number is not what changed it.
            let since = desired_since.filter(|since| *since >= seen - CLOCK_NOISE);
            let added = since.filter(|_| desired > before);
            self.starting = added.map(|since| Starting { pods: desired, since });
        }
        if ready == desired {
            self.unsettled_since = None;
            if let Some(Starting { since, .. }) =
                self.starting.take_if(|starting| ready >= starting.pods)
            {
                let took = ((now - since) as f64 / 1e3).clamp(0.5, 300.0);
                let known = self.start_seconds;
                self.start_seconds = Some(known.map_or(took, |known| known * 0.5 + took * 0.5));
            }
        } else {
            self.unsettled_since.get_or_insert(now);
        }
        self.starting.take_if(|starting| now - starting.since > LONGEST_START);
    }

    /// Learns at which concurrency the pods work. More is believed when it was measured, less at
    /// once.
    pub(crate) fn learn_knobs(&mut self, observed: &Observed) {
        let (revision, knobs) = (observed.tuning.revision, observed.tuning.knobs);
        let in_force = self.capacity.is_in_force(revision);
        let believed = match self.concurrency {
            None => true,
            Some(_) if observed.ready == 0 => true,
            Some(old) if knobs.concurrency > old => {
                in_force && self.capacity.is_measured_at(revision)
            }
            Some(_) => in_force,
        };
        if believed {
            self.concurrency = Some(knobs.concurrency);
        }
        if in_force {
            self.capacity.set_reported_concurrency(knobs);
        }
    }
}

impl Trial {
    fn restore(kept: &KeptTrial) -> Option<Self> {
        let count = |n: i32| u32::try_from(n).ok().filter(|n| *n > 0);
        let number = |n: f64| Some(n).filter(|n| n.is_finite() && *n > 0.0);
        let revision = |n: i64| u64::try_from(n).ok();
        Some(Self {
            from: count(kept.from)?,
            to: count(kept.to)?,
            revision: revision(kept.revision)?,
            capacity: number(kept.capacity)?,
            per_pod: count(kept.partitions)?,
            slot_rate: number(kept.slot_rate)?,
            at: millis(kept.time.as_ref()?),
            failed_at: match kept.failed_at {
                Some(at) => Some(revision(at)?),
                None => None,
            },
        })
    }

    fn kept(self) -> KeptTrial {
        KeptTrial {
            from: self.from as i32,
            to: self.to as i32,
            revision: self.revision as i64,
            capacity: tenths(self.capacity),
            partitions: self.per_pod as i32,
            slot_rate: tenths(self.slot_rate),
            time: time(self.at),
            failed_at: self.failed_at.map(|revision| revision as i64),
        }
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
