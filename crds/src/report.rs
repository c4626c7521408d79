//! The progress report: what a consumer writes beside each committed offset, and the operator reads back with it.
//!
//! It is the metadata of the offset commit, as JSON with short names: brokers take 4,096 bytes of it by default, and all
//! of it is read every second. A reader ignores fields that it does not know; a missing field has its default. Counters
//! grow from the start of the pod's process (or of the partition's epoch) and are compared between two reports of the
//! same `pod` and `boot`, so that a report that was lost costs nothing.

use serde::{Deserialize, Serialize};

/// The format that this crate writes.
pub const VERSION: u32 = 1;

/// What brokers take as a commit's metadata by default (`offset.metadata.max.bytes`).
pub const MAX_BYTES: usize = 4_096;

/// One partition's report. Times are milliseconds since the Unix epoch by the pod's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressReport {
    /// The format, see [`VERSION`].
    #[serde(rename = "v")]
    pub version: u32,
    /// The pod's name.
    #[serde(rename = "p")]
    pub pod: String,
    /// When the pod's process started: counters of another boot are not comparable.
    #[serde(rename = "b")]
    pub boot: i64,
    /// When this partition was assigned to the pod: the epoch of its counters.
    #[serde(rename = "e")]
    pub epoch: i64,
    /// Grows by one with each report of this partition in this epoch.
    #[serde(rename = "s")]
    pub sequence: u64,
    /// When the report was written.
    #[serde(rename = "t")]
    pub at: i64,

    /// Records of this partition that were handled in this epoch (each counted once, when it is done).
    #[serde(rename = "h")]
    pub handled: u64,
    /// Records done beyond the committed offset: not lag.
    #[serde(rename = "d", skip_serializing_if = "is_default")]
    pub done_beyond: u64,
    /// Records of this partition taken from Kafka and not done: in work or waiting in the pod.
    #[serde(rename = "w", skip_serializing_if = "is_default")]
    pub open: u64,
    /// Kafka's time stamp of the first record that is not done, if one is open.
    #[serde(rename = "o", skip_serializing_if = "Option::is_none")]
    pub oldest_open: Option<i64>,
    /// The lane that stands still, if one does: its first record's offset, since when, and how often it was tried.
    #[serde(rename = "bl", skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedLane>,
    /// Records of this partition that were gone before they could be read (deleted or expired) in this epoch.
    #[serde(rename = "l", skip_serializing_if = "is_default")]
    pub lost: u64,
    /// Set when the partition stands because the committed offset is above the log's end: somebody has to decide.
    #[serde(rename = "ae", skip_serializing_if = "is_default")]
    pub above_end: bool,

    /// Records that the whole pod handled since its start.
    #[serde(rename = "ph")]
    pub pod_handled: u64,
    /// Seconds of slots in use by the whole pod since its start: the integral of batches in work over time.
    #[serde(rename = "ss")]
    pub slot_seconds: f64,
    /// Mean slots in use ÷ usable slots since the report before, 0 to 1.
    #[serde(rename = "bf")]
    pub busy: f64,
    /// How many batches the pod could have had in work at once, with the partitions and lanes that it has.
    #[serde(rename = "us")]
    pub usable_slots: f64,
    /// Share of the batches that went out full since the report before, 0 to 1.
    #[serde(rename = "fb", skip_serializing_if = "is_default")]
    pub full_batches: f64,
    /// 99th percentile of the handler's time for a batch in the last minute, milliseconds.
    #[serde(rename = "hp", skip_serializing_if = "is_default")]
    pub handler_p99_ms: f64,
    /// How long the pod's partitions stood at the last rebalance, milliseconds.
    #[serde(rename = "rp", skip_serializing_if = "is_default")]
    pub rebalance_pause_ms: u64,
    /// Partitions that the pod has.
    #[serde(rename = "n")]
    pub partitions: u32,
    /// The revision of the knobs in force (see [`crate::tuning::Tuning`]); 0 before a file was read.
    #[serde(rename = "r")]
    pub revision: u64,
    /// Set while the tuning file cannot be read: the knobs in force are older than the file.
    #[serde(rename = "tb", skip_serializing_if = "is_default")]
    pub tuning_broken: bool,
    /// The newest format of the static configuration that the pod's image reads (`config::VERSION`); 0 where an older image
    /// says nothing of it: then it is the first.
    #[serde(rename = "cf", skip_serializing_if = "is_default")]
    pub config_format: u32,
}

/// A lane whose first record fails again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockedLane {
    /// The offset of the record.
    #[serde(rename = "o")]
    pub offset: i64,
    /// Its first try, milliseconds since the Unix epoch.
    #[serde(rename = "t")]
    pub since: i64,
    /// Tries so far.
    #[serde(rename = "a")]
    pub attempts: u32,
    /// Lanes of this partition that are blocked.
    #[serde(rename = "n")]
    pub lanes: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why a commit's metadata is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metadata is not JSON of this shape: another client committed it.
    #[error("the commit's metadata is no progress report: {0}")]
    Syntax(#[from] serde_json::Error),
    /// The metadata is no JSON object, or one without a version.
    #[error("the commit's metadata is no progress report: it is no object with a version")]
    NotOurs,
    /// The report is longer than a commit may carry.
    #[error("the progress report has {0} bytes, a commit carries at most {MAX_BYTES}")]
    TooLong(usize),
}

impl ProgressReport {
    /// The report as a commit's metadata.
    ///
    /// # Errors
    /// [`Error::TooLong`] when it would not fit; the offset is then committed without it.
    pub fn to_metadata(&self) -> Result<String, Error> {
        let text = serde_json::to_string(self)?;
        if text.len() > MAX_BYTES { Err(Error::TooLong(text.len())) } else { Ok(text) }
    }

    /// Reads a commit's metadata.
    ///
    /// # Errors
    /// When the metadata is not a report: the offset then came from another client (or from the operator itself).
    pub fn from_metadata(text: &str) -> Result<Self, Error> {
        // serde also reads a struct from a JSON array; that is not ours.
        if !text.starts_with('{') {
            return Err(Error::NotOurs);
        }
        let report: Self = serde_json::from_str(text)?;
        if report.version == 0 { Err(Error::NotOurs) } else { Ok(report) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> ProgressReport {
        ProgressReport {
            version: VERSION,
            pod: "orders-7d9c4b5f6-x2x2x".into(),
            boot: 1_790_000_000_000,
            epoch: 1_790_000_001_000,
            sequence: 42,
            at: 1_790_000_043_000,
            handled: 1_234_567,
            done_beyond: 12,
            open: 512,
            oldest_open: Some(1_790_000_040_000),
            blocked: Some(BlockedLane {
                offset: 99,
                since: 1_790_000_030_000,
                attempts: 4,
                lanes: 1,
            }),
            lost: 3,
            above_end: true,
            pod_handled: 9_876_543,
            slot_seconds: 1_234.567,
            busy: 0.875,
            usable_slots: 16.0,
            full_batches: 0.5,
            handler_p99_ms: 12.5,
            rebalance_pause_ms: 850,
            partitions: 12,
            revision: 7,
            tuning_broken: true,
            config_format: 1,
        }
    }

    #[test]
    fn what_a_pod_writes_is_what_the_operator_reads() {
        let text = full().to_metadata().unwrap();
        assert_eq!(ProgressReport::from_metadata(&text).unwrap(), full());
        assert!(text.len() < 400, "{} bytes: {text}", text.len());
    }

    #[test]
    fn an_older_operator_reads_a_newer_report_and_the_reverse() {
        let newer = r#"{"v":2,"p":"a","h":5,"somethingNew":{"x":[1]}}"#;
        let report = ProgressReport::from_metadata(newer).unwrap();
        assert_eq!((report.version, report.handled, report.busy), (2, 5, 0.0));
    }

    #[test]
    fn metadata_of_another_client_is_no_report() {
        for text in ["", "sarama", "{}", "[1]", "{\"v\":\"x\"}"] {
            assert!(ProgressReport::from_metadata(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_report_that_a_broker_would_refuse_is_never_sent() {
        let report = ProgressReport { pod: "x".repeat(MAX_BYTES), ..full() };
        assert!(matches!(report.to_metadata(), Err(Error::TooLong(_))));
    }
}
