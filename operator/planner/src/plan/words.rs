//! A decision's reason as a sentence with its numbers.

use super::Situation;
use crate::{
    decision::{Numbers, Reason},
    readings::Readings,
    snapshot::{Millis, TopicPartition},
};

/// Readings that come less often than this are reported: a decision is as old as they are.
const SLOW: Millis = 5_000;

/// How often readings come, where that is seldom.
pub(super) fn slow_readings(readings: &Readings) -> String {
    match readings.interval().filter(|interval| *interval > SLOW) {
        Some(interval) => format!("; readings come every {:.0} s", interval as f64 / 1e3),
        None => String::new(),
    }
}

/// So many records wait, in words.
pub(crate) fn waiting(records: f64) -> String {
    match format!("{records:.0}").as_str() {
        "1" => "1 record waits".to_owned(),
        count => format!("{count} records wait"),
    }
}

impl Situation<'_> {
    pub(super) fn sentence(&self, reason: Reason, replicas: u32, numbers: &Numbers) -> String {
        let (desired, seen) = (self.observed.desired, self.seen);
        let of_partitions = match self.partitions {
            1 => "1 partition".to_owned(),
            n => format!("{n} partitions"),
        };
        let pods = |n: u32| if n == 1 { "1 pod".to_owned() } else { format!("{n} pods") };
        let capacity = match numbers.capacity {
            Some(rate) => format!("a pod handles {rate:.0} per second"),
            None => format!(
                "a pod is assumed to handle {:.0} records per second and slot until it is measured",
                crate::capacity::FIRST_GUESS
            ),
        };
        let arrive = match seen.span {
            Some(span) => {
                let rate = format!("{:.0}", seen.current);
                let arrive = if rate == "1" {
                    "1 record per second arrives".to_owned()
                } else {
                    format!("{rate} records per second arrive")
                };
                format!("{arrive} (mean of {span:.0} s)")
            }
            None => "what arrives is not known yet".to_owned(),
        };
        let wait = waiting(seen.backlog) + &self.most_of_them();
        match reason {
            Reason::LagUnknown => String::new(),
            Reason::Steady => {
                let keep = if replicas == 1 { "keeps" } else { "keep" };
                format!("{arrive}, {capacity}: {} on {of_partitions} {keep} up", pods(replicas))
            }
            Reason::ArrivalsUp => {
                format!(
                    "{arrive}, {capacity}: {} for {of_partitions} instead of {desired}",
                    pods(replicas)
                )
            }
            Reason::Backlog => format!(
                "{arrive} and {wait}, to be handled within {:.0} s; {capacity}: {} instead of {desired}",
                self.spec.drain_within,
                pods(replicas)
            ),
            Reason::Draining => {
                let drain = if replicas == 1 { "drains" } else { "drain" };
                format!("{wait}, {arrive}: {} {drain} the backlog", pods(replicas))
            }
            Reason::JumpSuspected => format!(
                "the newest reading brought far more than those of the last ten seconds; the next \
                 one tells whether that lasts: {arrive}"
            ),
            Reason::WaitingToShrink => format!(
                "{arrive}: less than {} is enough; pods are removed when that has held for {:.0} s",
                pods(desired),
                self.spec.scale_down_after
            ),
            Reason::ArrivalsDown => format!(
                "{arrive}, {capacity}: {} {} enough for {:.0} s, instead of {desired}",
                pods(replicas),
                if replicas == 1 { "was" } else { "were" },
                self.spec.scale_down_after
            ),
            Reason::Idle => format!(
                "nothing arrived for {:.0} s and no lag is left",
                self.spec.scale_down_after
            ),
            Reason::Wake => {
                format!("{} and no pod runs: {}", waiting(seen.lag as f64), pods(replicas))
            }
            Reason::KnobsFirst => {
                format!("{arrive}, {capacity}: more concurrency is enough, without further pods")
            }
            Reason::GroupUnsettled => {
                "pods are starting or stopping, or the group is rebalancing".to_owned()
            }
            Reason::Learning => format!("{arrive}: the capacity of a pod is being measured"),
            Reason::RecordStuck => self.stuck_sentence(),
            Reason::HotPartition => {
                format!(
                    "{} receives more than a pod can handle ({capacity}): more pods would not help",
                    self.hottest()
                )
            }
            Reason::BoundReached => {
                format!(
                    "{arrive}, {capacity}: that is more than {} on {of_partitions} can handle",
                    pods(replicas)
                )
            }
            Reason::Bounds => {
                format!("the bounds require {} on {of_partitions}", pods(replicas))
            }
        }
    }

    /// The partition with the most arrivals.
    fn hottest(&self) -> String {
        let shares = self.snapshot.partitions.iter().zip(&self.seen.shares);
        let hottest = shares.max_by(|(_, a), (_, b)| a.total_cmp(b));
        hottest.map_or_else(
            || "one partition".to_owned(),
            |(hottest, _)| format!("{}-{}", hottest.id.topic, hottest.id.partition),
        )
    }

    /// Where more than half of the backlog is in one partition: which, and how much.
    fn most_of_them(&self) -> String {
        let backlogs = self.snapshot.partitions.iter().zip(&self.seen.backlogs);
        let most = backlogs.max_by(|(_, a), (_, b)| a.total_cmp(b));
        match most {
            // Of a single record there is no part.
            Some((partition, most))
                if self.partitions > 1 && *most >= 1.5 && *most > self.seen.backlog / 2.0 =>
            {
                let TopicPartition { topic, partition } = &partition.id;
                format!(", {most:.0} of them in {topic}-{partition}")
            }
            _ => String::new(),
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
