//! What can a pod do? The measured rate of one slot × the slots that a pod could use with the partitions it would have.

use std::collections::HashMap;

use sluice_crds::{kafkaconsumer::Ordering, tuning::Knobs};

use crate::{history::newest_reports, snapshot::Snapshot};

/// Before anything was measured: one slot is taken to handle this many records a second. It is a guess, said as one in the
/// reason; it is replaced by the first reports.
pub const FIRST_GUESS: f64 = 1_000.0;

/// Slot seconds that are evidence enough to believe a rate.
const ENOUGH: f64 = 1.0;
/// Slot seconds after which older evidence counts for a third.
const MEMORY: f64 = 30.0;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    /// The newest counters of each pod, by name: boot, records, slot seconds.
    pods: HashMap<String, (i64, u64, f64)>,
    /// Records and slot seconds, older ones fading.
    records: f64,
    seconds: f64,
    /// The revision of the knobs that these were measured at.
    revision: u64,
    /// The rate that is believed: kept while a new setting has not enough evidence.
    believed: Option<f64>,
    /// Mean of the usable slots, the busy fractions and the full batches that the pods reported last.
    usable: Option<f64>,
    busy: Option<f64>,
    full: Option<f64>,
    p99: Option<f64>,
    /// Share of the reporting pods that have the newest knobs in force.
    revisions: Vec<u64>,
}

impl Capacity {
    pub(crate) fn restore(slot_rate: Option<f64>) -> Self {
        Self { believed: slot_rate.filter(|rate| rate.is_finite() && *rate > 0.0), ..Self::default() }
    }

    pub(crate) fn record(&mut self, snapshot: &Snapshot) {
        let reports = newest_reports(snapshot);
        let recent: Vec<_> = reports.values().filter(|r| snapshot.at - r.at < 10_000).collect();
        let mean = |of: &dyn Fn(&sluice_crds::report::ProgressReport) -> f64| {
            (!recent.is_empty()).then(|| recent.iter().map(|r| of(r)).sum::<f64>() / recent.len() as f64)
        };
        self.usable = mean(&|r| r.usable_slots).filter(|u| *u > 0.0).or(self.usable);
        self.busy = mean(&|r| r.busy);
        self.full = mean(&|r| r.full_batches);
        self.p99 = recent.iter().map(|r| r.handler_p99_ms).reduce(f64::max);
        self.revisions = recent.iter().map(|r| r.revision).collect();
        let newest_revision = recent.iter().map(|r| r.revision).max().unwrap_or(self.revision);
        if newest_revision != self.revision {
            // Capacity at new knobs is believed only from reports that carry them.
            self.revision = newest_revision;
            (self.records, self.seconds) = (0.0, 0.0);
        }
        for report in reports.values() {
            let counters = (report.boot, report.pod_handled, report.slot_seconds);
            let before = self.pods.insert(report.pod.clone(), counters);
            let Some((boot, handled, seconds)) = before else { continue };
            if boot != report.boot || report.pod_handled < handled || report.revision != self.revision {
                continue;
            }
            let (records, used) = ((report.pod_handled - handled) as f64, report.slot_seconds - seconds);
            if used > 0.0 && records > 0.0 {
                let fade = (-used / MEMORY).exp();
                self.records = self.records * fade + records;
                self.seconds = self.seconds * fade + used;
            }
        }
        self.pods.retain(|pod, _| reports.contains_key(pod.as_str()));
        if self.seconds >= ENOUGH {
            self.believed = Some(self.records / self.seconds);
        }
    }

    /// Records a second that one slot handles, if it was ever measured.
    pub fn slot_rate(&self) -> Option<f64> {
        self.believed
    }

    /// Whether all pods that report have this revision of the knobs in force.
    pub fn is_in_force(&self, revision: u64) -> bool {
        !self.revisions.is_empty() && self.revisions.iter().all(|r| *r >= revision)
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

    /// Records a second that one pod could handle with these knobs and `partitions` of its own.
    pub fn of_pod(&self, knobs: Knobs, ordering: Ordering, partitions: u32) -> f64 {
        let concurrency = f64::from(knobs.concurrency.max(1));
        let slots = match ordering {
            Ordering::Partition => concurrency.min(f64::from(partitions.max(1))),
            // Few or hot keys use fewer slots than there are.
            Ordering::Key => self.usable.map_or(concurrency, |usable| concurrency.min(usable.max(1.0))),
        };
        self.believed.unwrap_or(FIRST_GUESS) * slots
    }
}
