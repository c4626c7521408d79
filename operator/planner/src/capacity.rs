//! What can a pod do? The measured rate of one slot × the slots that a pod could use with the partitions it would have.

use std::collections::BTreeMap;

use sluice_crds::{kafkaconsumer::Ordering, report::ProgressReport, tuning::Knobs};

use crate::snapshot::{Millis, Snapshot};

/// Before anything was measured: one slot is taken to handle this many records per second. It is a
/// guess, said as one in the reason; it is replaced by the first reports.
pub const FIRST_GUESS: f64 = 1_000.0;

/// Slot seconds that are evidence enough to believe a rate.
const ENOUGH: f64 = 1.0;
/// Slot seconds after which older evidence counts for a third.
const MEMORY: f64 = 30.0;

/// A report that is not followed by another for this long says nothing of now.
const RECENT: Millis = 10_000;
/// What is kept over a restart follows the measured rate only when it is off by more than this.
const WORTH_WRITING: f64 = 0.1;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// The newest counters of each pod, by name.
    pods: BTreeMap<String, Counters>,
    /// Records and slot seconds at `revision`, older ones fading.
    records: f64,
    seconds: f64,
    /// The revision of the knobs that these were measured at.
    revision: u64,
    /// Reports at this revision are not believed.
    distrusted: Option<u64>,
    /// The rate that is believed: kept while a new setting has not enough evidence.
    believed: Option<f64>,
    /// The believed rate as it is persisted, so that noise is not written.
    persisted: Option<f64>,
    /// The concurrency that the reports speak of.
    concurrency: f64,
    /// Of the pods that report: mean usable slots, mean busy fraction, share of full batches, slowest call.
    usable: Option<f64>,
    busy: Option<f64>,
    full: Option<f64>,
    p99: Option<f64>,
    /// The oldest knobs that any of them has in force.
    oldest_revision: Option<u64>,
}

/// A pod's counters, and when they were first read: the pod's clock may be another than ours.
#[derive(Clone, Copy, Debug)]
struct Counters {
    boot: i64,
    at: i64,
    seen: Millis,
    /// Whether the report is of one revision alone.
    is_single_revision: bool,
    revision: u64,
    handled: u64,
    seconds: f64,
}

impl Capacity {
    /// The rate of a slot from before a restart, and the revision of the knobs it was measured at.
    pub(crate) fn restore(slot_rate: Option<f64>, revision: Option<i64>) -> Self {
        let believed = slot_rate.filter(|rate| rate.is_finite() && *rate > 0.0);
        let revision = revision.and_then(|revision| u64::try_from(revision).ok()).unwrap_or(0);
        Self { believed, persisted: believed, revision, ..Self::default() }
    }

    pub(crate) fn record(&mut self, snapshot: &Snapshot) {
        let reports = snapshot.newest_reports();
        self.pods.retain(|pod, _| reports.contains_key(pod.as_str()));
        let newest = reports.values().map(|r| r.revision).max().unwrap_or(0);
        if newest > self.revision {
            // Capacity at new knobs is believed only from reports that carry them.
            self.revision = newest;
            (self.records, self.seconds) = (0.0, 0.0);
            self.usable = None;
        }
        let mut recent = Vec::new();
        let mut usable = Vec::new();
        for (pod, report) in &reports {
            let before = self.pods.get(*pod).copied();
            let same = before.filter(|b| (b.boot, b.at) == (report.boot, report.at));
            let seen = same.map_or(snapshot.at, |b| b.seen);
            if snapshot.at - seen < RECENT {
                recent.push(*report);
            }
            // The first report at new knobs is a mean over both: it would say that more slots are of no use.
            let is_single_revision = match same {
                Some(before) => before.is_single_revision,
                None => {
                    before.is_some_and(|b| b.boot == report.boot && b.revision == report.revision)
                }
            };
            if is_single_revision
                && snapshot.at - seen < RECENT
                && report.usable_slots > 0.0
                && report.usable_slots.is_finite()
            {
                usable.push(report.usable_slots);
            }
            let counters = Counters {
                is_single_revision,
                boot: report.boot,
                at: report.at,
                seen,
                revision: report.revision,
                handled: report.pod_handled,
                seconds: report.slot_seconds,
            };
            self.pods.insert((*pod).to_owned(), counters);
            if let Some(before) = before {
                self.learn(before, counters);
            }
        }
        if recent.is_empty() {
            // The knobs in force stay as they were: nobody says otherwise.
            (self.busy, self.full, self.p99) = (None, None, None);
        } else {
            let mean = |of: fn(&ProgressReport) -> f64| {
                recent.iter().map(|r| of(r)).filter(|x| x.is_finite()).sum::<f64>()
                    / recent.len() as f64
            };
            if !usable.is_empty() {
                self.usable = Some(usable.iter().sum::<f64>() / usable.len() as f64);
            }
            self.busy = Some(mean(|r| r.busy));
            self.full = Some(mean(|r| r.full_batches));
            self.p99 = recent.iter().map(|r| r.handler_p99_ms).reduce(f64::max);
            self.oldest_revision = recent.iter().map(|r| r.revision).min();
        }
        if self.seconds >= ENOUGH {
            let rate = self.records / self.seconds;
            self.believed = Some(rate);
            if self.persisted.is_none_or(|old| (rate - old).abs() > old * WORTH_WRITING) {
                self.persisted = Some(rate);
            }
        }
    }

    /// Takes what a pod did between two of its reports, both written at the newest knobs.
    fn learn(&mut self, before: Counters, now: Counters) {
        let same = before.boot == now.boot
            && before.revision == now.revision
            && now.revision == self.revision
            && Some(now.revision) != self.distrusted;
        let records = now.handled.saturating_sub(before.handled) as f64;
        let used = now.seconds - before.seconds;
        if same && records > 0.0 && used > 0.0 && used.is_finite() {
            let fade = (-used / MEMORY).exp();
            self.records = self.records * fade + records;
            self.seconds = self.seconds * fade + used;
        }
    }

    /// What is kept over a restart: the slot's rate, and the revision that it was measured at.
    pub(crate) fn persisted(&self) -> (Option<f64>, Option<i64>) {
        (
            self.persisted.map(|rate| (rate * 10.0).round() / 10.0),
            self.persisted.map(|_| self.revision as i64),
        )
    }

    /// Tells which concurrency the reports were made at.
    pub(crate) fn set_reported_concurrency(&mut self, knobs: Knobs) {
        self.concurrency = f64::from(knobs.concurrency);
    }

    /// Reports that were first read in what is the future now count as read at `at`.
    pub(crate) fn clock_went_back(&mut self, at: Millis) {
        self.pods.values_mut().for_each(|pod| pod.seen = pod.seen.min(at));
    }

    /// Goes back to a rate that was measured before knobs that gained nothing: as long as pods
    /// report at `revision`, slots wait for each other, and say nothing of what one can do alone.
    pub(crate) fn reset_to(&mut self, slot_rate: f64, revision: u64) {
        (self.believed, self.distrusted) = (Some(slot_rate), Some(revision));
        (self.records, self.seconds) = (0.0, 0.0);
    }

    /// Whether the rate was measured at these knobs, and not at those before them.
    pub(crate) fn is_measured_at(&self, revision: u64) -> bool {
        self.revision >= revision && self.seconds >= ENOUGH
    }

    /// Records per second that one slot handles, if it was ever measured.
    pub fn slot_rate(&self) -> Option<f64> {
        self.believed
    }

    /// Whether all pods that report have this revision of the knobs in force.
    pub fn is_in_force(&self, revision: u64) -> bool {
        self.oldest_revision.is_some_and(|oldest| oldest >= revision)
    }

    /// Mean busy fraction of the pods, from reports of the last ten seconds.
    pub fn busy(&self) -> Option<f64> {
        self.busy
    }

    /// Share of batches that went out full.
    pub fn full(&self) -> Option<f64> {
        self.full
    }

    /// The handler's 99th percentile, milliseconds, of the slowest pod.
    pub fn p99(&self) -> Option<f64> {
        self.p99
    }

    /// Records per second that one pod could handle with these knobs and `partitions` of its own.
    pub fn of_pod(&self, knobs: Knobs, ordering: Ordering, partitions: u32) -> f64 {
        let concurrency = f64::from(knobs.concurrency.max(1));
        let slots = match ordering {
            Ordering::Partition => concurrency.min(f64::from(partitions.max(1))),
            // Few or hot keys use fewer slots than there are; where all were used, more could be.
            Ordering::Key => match self.usable.filter(|usable| *usable < self.concurrency - 0.5) {
                Some(usable) => concurrency.min(usable.max(1.0)),
                None => concurrency,
            },
        };
        self.believed.unwrap_or(FIRST_GUESS) * slots
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::{Committed, Partition, TopicPartition};

    fn report(second: i64, revision: u64, usable_slots: f64) -> Snapshot {
        let report = ProgressReport {
            version: 1,
            pod: "pod".into(),
            at: second * 1_000,
            revision,
            usable_slots,
            busy: 1.0,
            pod_handled: 450 * second.unsigned_abs(),
            slot_seconds: second as f64,
            ..ProgressReport::default()
        };
        let partition = Partition {
            id: TopicPartition { topic: "t".into(), partition: 0 },
            start: Some(0),
            end: Some(0),
            end_at: second * 1_000,
            committed: Committed::At(0),
            committed_at: second * 1_000,
            report: Some(Arc::new(report)),
        };
        Snapshot { at: second * 1_000, partitions: vec![partition], group: None }
    }

    /// In the second in which a pod goes from one slot to four it could use one and a half in the mean: taken for the slots
    /// that its keys leave usable, that asked for pods which were not needed.
    #[test]
    fn the_second_in_which_knobs_change_says_nothing_of_usable_slots() {
        let four = Knobs { batch_size: 50, concurrency: 4 };
        let mut capacity = Capacity::default();
        for (second, revision, usable) in [(1, 1, 1.0), (2, 1, 1.0), (3, 2, 1.5)] {
            capacity.record(&report(second, revision, usable));
        }
        capacity.set_reported_concurrency(four);
        assert!((capacity.of_pod(four, Ordering::Key, 12) - 1_800.0).abs() < 1.0);
        // A whole second at them does: here the keys leave two.
        capacity.record(&report(4, 2, 2.0));
        assert!((capacity.of_pod(four, Ordering::Key, 12) - 900.0).abs() < 1.0);
    }
}
