//! The rules on the number of pods, in the order in which they are asked: the first that applies
//! decides.
//!
//! `docs/operations.md` has this table in words; a test compares both.

use sluice_crds::tuning::Knobs;

use super::{BACKLOG_BEGINS, BAND, HOT, Situation};
use crate::{count, decision::Reason, knobs, memory::Memory, snapshot::Millis};

/// A rule: when it applies, how many pods it asks for, and the reason that it gives.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The reason that it gives.
    pub reason: Reason,
    /// When it applies, in words.
    pub when: &'static str,
    /// How many pods it asks for, in words.
    pub then: &'static str,
    applies: fn(&Case) -> bool,
    pods: fn(&Case) -> u32,
}

/// All rules, in the order in which they are asked.
pub const RULES: &[Rule] = &[
    Rule {
        reason: Reason::LagUnknown,
        when: "the lag of a partition is unknown",
        then: "unchanged",
        // Such a case has no numbers: it is decided before the other rules are asked.
        applies: |_| false,
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::JumpSuspected,
        when: "more pods are needed, but arrivals jumped in the newest reading alone",
        then: "unchanged",
        applies: |case| case.grows() && case.is_suspected() && case.desired >= case.least,
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::Wake,
        when: "no pod is desired, and records wait or arrive",
        then: "as many as needed",
        applies: |case| case.desired == 0 && case.has_records(),
        pods: |case| case.needed.clamp(1, case.partitions()),
    },
    Rule {
        reason: Reason::Bounds,
        when: "fewer pods than the bounds allow, or more",
        then: "the nearest bound",
        applies: |case| !(case.least..=case.most).contains(&case.desired),
        pods: |case| case.desired.clamp(case.least, case.most),
    },
    Rule {
        reason: Reason::Idle,
        when: "no pod is desired, and nothing waits or arrives",
        then: "none",
        applies: |case| case.desired == 0,
        pods: |_| 0,
    },
    Rule {
        reason: Reason::Learning,
        when: "more pods are needed, but the rates or the capacity of a pod are not known yet",
        then: "unchanged",
        applies: |case| case.grows() && case.is_learning(),
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::KnobsFirst,
        when: "more pods are needed, but more concurrency would be enough, and nothing is late",
        then: "unchanged",
        applies: |case| case.grows() && case.target <= case.desired,
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::Backlog,
        when: "more pods are needed, because of a backlog",
        then: "as many as needed beyond what the knobs can do",
        applies: |case| case.grows() && case.is_for_backlog(),
        pods: |case| case.target,
    },
    Rule {
        reason: Reason::ArrivalsUp,
        when: "more pods are needed, because of arrivals",
        then: "as many as needed beyond what the knobs can do",
        applies: |case| case.grows(),
        pods: |case| case.target,
    },
    Rule {
        reason: Reason::BoundReached,
        when: "there is a backlog, and more arrives than all pods that are allowed can handle",
        then: "unchanged",
        applies: |case| case.drains() && case.is_beyond_the_bounds(),
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::Draining,
        when: "there is a backlog",
        then: "unchanged",
        applies: |case| case.drains(),
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::GroupUnsettled,
        when: "fewer pods were enough for all of `scaleDownAfter`, but pods or group are unsettled",
        then: "unchanged, for a minute at most",
        applies: |case| case.shrinks_to.is_some() && !case.may_shrink(),
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::Idle,
        when: "nothing arrived for all of `scaleDownAfter`, and no lag is left",
        then: "none",
        applies: |case| case.shrinks_to == Some(0),
        pods: |_| 0,
    },
    Rule {
        reason: Reason::ArrivalsDown,
        when: "fewer pods were enough for all of `scaleDownAfter`",
        then: "the most that were needed in that time",
        applies: |case| case.shrinks_to.is_some(),
        pods: |case| case.shrinks_to.unwrap_or(case.desired),
    },
    Rule {
        reason: Reason::WaitingToShrink,
        when: "fewer pods are enough now",
        then: "unchanged",
        applies: |case| case.needed < case.desired,
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::RecordStuck,
        when: "a record fails again and again, or a call does not end",
        then: "unchanged",
        applies: |case| case.situation.seen.stuck.contains(&true),
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::HotPartition,
        when: "one partition receives more than a pod can handle",
        then: "unchanged",
        applies: |case| !case.enough && case.hottest() > HOT,
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::BoundReached,
        when: "more arrives than all pods that are allowed can handle",
        then: "unchanged",
        applies: |case| !case.enough || case.is_beyond_the_bounds(),
        pods: |case| case.desired,
    },
    Rule {
        reason: Reason::Steady,
        when: "otherwise",
        then: "unchanged",
        applies: |_| true,
        pods: |case| case.desired,
    },
];

/// The first rule that applies: pods and reason.
pub(super) fn decide(case: &Case) -> (u32, Reason) {
    RULES
        .iter()
        .find(|rule| (rule.applies)(case))
        .map_or((case.desired, Reason::Steady), |rule| ((rule.pods)(case), rule.reason))
}

/// What the rules look at. Counts of pods are within the bounds, where nothing else is said.
pub(super) struct Case<'a> {
    situation: &'a Situation<'a>,
    memory: &'a Memory,
    /// Pods as written: bounds that have changed since may exclude them.
    desired: u32,
    /// The bounds: `minReplicas`, `maxReplicas` and the partitions.
    least: u32,
    most: u32,
    /// Pods that arrivals and backlog need.
    needed: u32,
    /// The same, beyond what more concurrency can do.
    target: u32,
    /// What arrivals need is enough for each partition.
    enough: bool,
    /// The pods to which it may shrink: the window needed no more, and fewer than are desired.
    shrinks_to: Option<u32>,
}

impl<'a> Case<'a> {
    /// From the pods that are needed. `knobs` are the next ones.
    pub(super) fn of(
        situation: &'a Situation<'a>,
        memory: &'a Memory,
        needed: u32,
        enough: bool,
        next: Knobs,
    ) -> Self {
        let Situation { spec, observed, partitions, now, .. } = *situation;
        let within = |pods| count::within(pods, spec.min_replicas, spec.max_replicas, partitions);
        let (desired, needed) = (observed.desired, within(needed));
        let least = spec.min_replicas.min(partitions);
        let most = spec.max_replicas.unwrap_or(partitions).min(partitions).max(least);
        let measured = memory.capacity.slot_rate().is_some();
        let knobs_help = measured && !situation.is_late() && observed.ready > 0 && {
            // A larger batch does not replace a pod; only more concurrency does.
            let moved = next.concurrency > observed.tuning.knobs.concurrency;
            moved || situation.knobs_may_help(memory)
        };
        let target = if needed > desired && knobs_help {
            // What even the highest knobs leave to be done is for pods, at once.
            within(situation.needed_at_highest_knobs(memory))
        } else {
            needed
        };
        let span = (spec.scale_down_after * 1e3) as Millis;
        let shrinks_to = (needed < desired || spec.min_replicas == 0)
            .then(|| memory.window.highest(now, span))
            .flatten()
            .map(within)
            .filter(|pods| *pods < desired);
        Self { situation, memory, desired, least, most, needed, target, enough, shrinks_to }
    }

    fn partitions(&self) -> u32 {
        self.situation.partitions
    }

    fn is_suspected(&self) -> bool {
        self.situation.readings.jump.is_suspected(self.situation.now)
    }

    fn may_shrink(&self) -> bool {
        self.situation.is_settled_for_shrinking(self.memory)
    }

    fn is_beyond_the_bounds(&self) -> bool {
        self.situation.is_beyond_the_bounds(self.memory)
    }

    fn grows(&self) -> bool {
        self.needed > self.desired
    }

    fn has_records(&self) -> bool {
        let seen = self.situation.seen;
        seen.lag > 0 || seen.current > 0.0
    }

    fn is_learning(&self) -> bool {
        let Situation { seen, readings, observed, now, .. } = *self.situation;
        let measured = self.memory.capacity.slot_rate().is_some();
        let hurries = self.situation.is_late() || readings.jump.is_fresh(now);
        // A few seconds of work tell more than a guess.
        !seen.rates_known || (!measured && !hurries && observed.ready > 0)
    }

    fn is_for_backlog(&self) -> bool {
        let seen = self.situation.seen;
        self.memory.for_backlog.is_some_and(|pods| pods >= self.target)
            && seen.mean < seen.current * BAND
            && seen.backlog > seen.current * BACKLOG_BEGINS
    }

    fn drains(&self) -> bool {
        self.memory.for_backlog.is_some()
    }

    /// The hottest partition's share of the arrivals, as a multiple of an even share.
    fn hottest(&self) -> f64 {
        let most = self.situation.seen.shares.iter().copied().fold(0.0, f64::max);
        most * f64::from(self.partitions())
    }
}

/// What more concurrency could do.
impl Situation<'_> {
    fn knobs_may_help(&self, memory: &Memory) -> bool {
        let pods = self.observed.desired.clamp(1, self.partitions);
        let useful = self.useful_slots(self.partitions.div_ceil(pods));
        let current = self.observed.tuning.knobs;
        // Give a recent change of the knobs until `maxBehind` to take effect.
        let arriving = self.knobs(memory).concurrency < current.concurrency;
        arriving || knobs::can_grow(self.spec, memory, current, useful, self.now)
    }

    fn needed_at_highest_knobs(&self, memory: &Memory) -> u32 {
        let (mean, current) = (self.seen.mean, self.seen.current);
        [(mean, self.spec.target, false), (current, 1.0, false), (current, 1.0, true)]
            .into_iter()
            .map(|(rate, share, backlog)| {
                self.needed_with(memory, self.spec.highest, rate, share, backlog).pods
            })
            .max()
            .unwrap_or(1)
    }
}
