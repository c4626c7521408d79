//! A decision's reason as a sentence with its numbers.

use super::Situation;
use crate::decision::{Numbers, Reason};

impl Situation<'_> {
    pub(super) fn sentence(
        &self,
        reason: Reason,
        replicas: u32,
        numbers: &Numbers,
        measured: bool,
    ) -> String {
        let (asked, seen) = (self.observed.desired, self.seen);
        let of_partitions = match self.partitions {
            1 => "1 partition".to_owned(),
            n => format!("{n} partitions"),
        };
        let pods = |n: u32| if n == 1 { "1 pod".to_owned() } else { format!("{n} pods") };
        let each = match numbers.capacity {
            Some(capacity) => format!("a pod handles {capacity:.0} per second"),
            None => format!(
                "a pod is guessed at {:.0} per second and slot until it is measured",
                crate::capacity::FIRST_GUESS
            ),
        };
        let arrive = format!("{:.0} per second arrive", seen.current);
        let backlog = seen.backlog;
        match reason {
            Reason::LagUnknown => String::new(),
            Reason::Steady => {
                let keep = if replicas == 1 { "keeps" } else { "keep" };
                format!("{arrive}, {each}: {} on {of_partitions} {keep} up", pods(replicas))
            }
            Reason::ArrivalsUp => {
                format!(
                    "{arrive}, {each}: {} for {of_partitions} instead of {asked}",
                    pods(replicas)
                )
            }
            Reason::Backlog => format!(
                "{arrive} and {backlog:.0} are waiting, to be done within {:.0} s; {each}: {} instead of {asked}",
                self.spec.drain_within,
                pods(replicas)
            ),
            Reason::Draining => {
                let drain = if replicas == 1 { "drains" } else { "drain" };
                format!("{backlog:.0} are still waiting, {arrive}: {} {drain} them", pods(replicas))
            }
            Reason::JumpSuspected => format!(
                "the newest second brought far more than the last ten; the next one tells whether it stays ({arrive})"
            ),
            Reason::WaitingToShrink => format!(
                "{arrive}: fewer than {} would do; they go when that was so for {:.0} s",
                pods(asked),
                self.spec.scale_down_after
            ),
            Reason::ArrivalsDown => format!(
                "{arrive}, {each}: {} would have done for {:.0} s, instead of {asked}",
                pods(replicas),
                self.spec.scale_down_after
            ),
            Reason::Idle => format!(
                "nothing arrived for {:.0} s and no lag is left",
                self.spec.scale_down_after
            ),
            Reason::Wake => format!("{} are waiting and no pod runs: {}", seen.lag, pods(replicas)),
            Reason::KnobsFirst => {
                format!("{arrive}, {each}: the knobs can still do it without further pods")
            }
            Reason::GroupUnsettled => {
                "pods are starting or stopping, or the group is rebalancing".to_owned()
            }
            Reason::Learning => format!("{arrive}: what a pod can do is being measured"),
            Reason::RecordStuck => self.stuck_sentence(),
            Reason::HotPartition => format!(
                "one partition is hotter than {}: more pods do not help it",
                if measured { each } else { "a pod can do".to_owned() }
            ),
            Reason::BoundReached => {
                format!(
                    "{arrive}, {each}: that is more than {} on {of_partitions} can handle",
                    pods(replicas)
                )
            }
            Reason::Bounds => {
                format!("the bounds ask for {} on {of_partitions}", pods(replicas))
            }
        }
    }

    /// Which record the oldest stuck partition waits for, since when, and how many more wait.
    fn stuck_sentence(&self) -> String {
        let stuck = self.snapshot.partitions.iter().zip(&self.seen.stuck);
        let stuck: Vec<_> = stuck.filter(|(_, is_stuck)| **is_stuck).map(|(p, _)| p).collect();
        let blocked = stuck
            .iter()
            .filter_map(|p| Some((p, p.report.as_ref()?.blocked?)))
            .min_by_key(|(_, lane)| lane.since);
        let mut sentence = match (blocked, stuck.first()) {
            (Some((partition, lane)), _) => format!(
                "{}-{} makes no progress at offset {}: its record has failed for {} s ({} {})",
                partition.id.topic,
                partition.id.partition,
                lane.offset,
                ((self.now - lane.since) / 1_000).max(0),
                lane.attempts,
                if lane.attempts == 1 { "try" } else { "tries" },
            ),
            (None, Some(partition)) => format!(
                "{}-{} makes no progress: a call of its handler does not end",
                partition.id.topic, partition.id.partition,
            ),
            (None, None) => String::new(),
        };
        match stuck.len().saturating_sub(1) {
            0 => {}
            1 => sentence += ", and 1 more partition waits",
            more => {
                sentence += ", and ";
                sentence += &more.to_string();
                sentence += " more partitions wait";
            }
        }
        sentence + "; more pods would not help"
    }
}
