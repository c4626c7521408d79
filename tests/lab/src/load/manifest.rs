//! What a load came to: which offsets the brokers acknowledged, and when each rate began.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::offsets::OffsetSet;

/// What the brokers acknowledged of one load. It is what [`crate::verify`] takes as 'produced'.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The run's id, which every record carries.
    pub run: String,
    /// The topic.
    pub topic: String,
    /// When the load began, milliseconds since the Unix epoch.
    pub started: i64,
    /// When the last acknowledgement came (or the wait for it was given up).
    pub ended: i64,
    /// When each rate began.
    pub rates: Vec<RateChange>,
    /// Records handed to the producer.
    pub sent: u64,
    /// Records that a broker acknowledged.
    pub acknowledged: u64,
    /// Records that were given up; they may be in the topic all the same.
    pub failed: u64,
    /// The first few errors.
    pub errors: Vec<String>,
    /// The most that the load was late against its schedule, in milliseconds: what the generator itself added.
    pub most_late_ms: u64,
    /// What was acknowledged, by partition.
    pub partitions: BTreeMap<i32, PartitionManifest>,
}

/// What was acknowledged of one partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionManifest {
    /// The offsets.
    pub offsets: OffsetSet,
}

/// The moment at which a rate began.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateChange {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Records a second from then on.
    pub rate: f64,
}

impl Manifest {
    /// When the `n`-th rate (from 0) began, milliseconds since the Unix epoch.
    pub fn step(&self, n: usize) -> Option<i64> {
        self.rates.get(n).map(|change| change.at)
    }

    /// Reads a manifest from a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the manifest {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a manifest of `lab load`", path.display()))
    }

    /// Writes the manifest to a file.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, serde_json::to_string(self)?)
            .with_context(|| format!("cannot write the manifest {}", path.display()))
    }
}
