//! Which bound is in the way? With hysteresis: noise around a bound does not make it come and go.

use super::{BAND, Situation};
use crate::{count, decision::Limit, memory::Memory, snapshot::Millis};

/// A bound that was in the way stays so while it would be at rates off by this factor. The factor
/// and the time come from noise of ten per cent around a bound, in the simulator: at most one
/// change in 14 minutes.
const SLACK: f64 = 1.15;
/// … and for this long after it last was.
const HELD: Millis = 300_000;

/// A decided number of pods, and what it comes from.
pub(super) struct Bounded<'a> {
    pub(super) situation: &'a Situation<'a>,
    pub(super) memory: &'a Memory,
    /// The decided pods.
    pub(super) replicas: u32,
    /// Pods that arrivals and backlog need, without bounds.
    pub(super) wanted: u32,
    /// Pods that arrivals alone need, without bounds.
    pub(super) arrivals: u32,
    /// Records per second that must be handled, and that one pod can handle.
    pub(super) demand: f64,
    pub(super) capacity: f64,
}

impl Bounded<'_> {
    /// The bound, and when it was last found to be in the way.
    pub(super) fn limit(&self) -> Option<(Limit, Millis)> {
        let now = self.situation.now;
        if let Some((limit, since)) = self.memory.limit
            && self.may_be(limit)
        {
            if self.is_about(limit) {
                return Some((limit, now));
            }
            if self.now_in_the_way().is_none_or(|other| other == limit) && now - since < HELD {
                return Some((limit, since));
            }
        }
        self.now_in_the_way().map(|limit| (limit, now))
    }

    fn now_in_the_way(&self) -> Option<Limit> {
        [
            (Limit::MaxReplicas, self.wanted > self.replicas),
            (Limit::Partitions, self.is_too_much(1.0)),
            (Limit::MinReplicas, self.arrivals < self.replicas),
        ]
        .into_iter()
        .find(|(limit, is_passed)| *is_passed && self.may_be(*limit))
        .map(|(limit, _)| limit)
    }

    /// Whether the pods are at this bound at all.
    fn may_be(&self, limit: Limit) -> bool {
        let Situation { spec, partitions, .. } = *self.situation;
        let most = spec.max_replicas.unwrap_or(partitions);
        match limit {
            Limit::MaxReplicas => {
                let cut = count::within(self.wanted.max(partitions), 0, Some(most), partitions);
                most < partitions && self.replicas >= cut
            }
            Limit::Partitions => spec.min_replicas > partitions || self.replicas == partitions,
            Limit::MinReplicas => self.replicas == spec.min_replicas,
        }
    }

    /// Whether it would be in the way at rates that are a little off.
    fn is_about(&self, limit: Limit) -> bool {
        match limit {
            Limit::MaxReplicas => self.needed_at(SLACK) > self.replicas,
            Limit::Partitions => self.is_too_much(SLACK),
            Limit::MinReplicas => self.needed_at(1.0 / SLACK) < self.replicas,
        }
    }

    /// Pods that arrivals of so many times these rates would need.
    fn needed_at(&self, factor: f64) -> u32 {
        let Situation { spec, seen, .. } = *self.situation;
        let needed =
            |rate: f64, share| self.situation.needed(self.memory, rate * factor, share, false).pods;
        needed(seen.mean, (spec.target * BAND).min(1.0)).max(needed(seen.current, 1.0))
    }

    /// Whether the partitions, each with a pod of its own, would need more than their pods can
    /// handle.
    fn is_too_much(&self, factor: f64) -> bool {
        let Situation { spec, partitions, .. } = *self.situation;
        let measured = self.memory.capacity.slot_rate().is_some();
        spec.min_replicas > partitions
            || (measured && self.demand * factor > self.capacity * f64::from(self.replicas))
    }
}
