//! The tuning file: the knobs that the operator turns, as the pods read them.
//!
//! The operator writes it into the ConfigMap `NAME-tuning`, key [`FILE_NAME`]; every pod reads it on each rebalance, and
//! by default also when it changes. It is YAML. A reader ignores fields that it does not know, so that an older consumer
//! runs under a newer operator.

use serde::{Deserialize, Serialize};

/// The key in the ConfigMap, and the file's name in the pod.
pub const FILE_NAME: &str = "tuning.yaml";

/// The format that this crate writes. A file of a later format is refused, and the pod keeps the knobs that it has.
pub const VERSION: u32 = 1;

/// The two fields that the operator tunes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Knobs {
    /// Records in one call of the handler, at most. At least 1.
    pub batch_size: u32,
    /// Batches in work at once in one pod, at most. At least 1.
    pub concurrency: u32,
}

/// The whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tuning {
    /// The format, see [`VERSION`].
    pub version: u32,
    /// Grows with every change of the knobs; reports carry the revision in force.
    pub revision: u64,
    /// The knobs.
    #[serde(flatten)]
    pub knobs: Knobs,
}

/// Why a tuning file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not YAML, or a field is missing or of the wrong type.
    #[error("the tuning file cannot be read")]
    Syntax(#[from] serde_yaml::Error),
    /// The file is of a format that this build does not know.
    #[error("the tuning file has format version {found}, this build reads up to {VERSION}")]
    Version {
        /// The version that the file names.
        found: u32,
    },
    /// A knob is zero.
    #[error("the tuning file sets {field} to 0; it must be at least 1")]
    Zero {
        /// The field as the file names it.
        field: &'static str,
    },
}

impl Tuning {
    /// A file of the current format.
    pub const fn new(revision: u64, knobs: Knobs) -> Self {
        Self { version: VERSION, revision, knobs }
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the text is not such a file; the caller keeps the knobs that it has.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let tuning: Self = serde_yaml::from_str(text)?;
        if tuning.version > VERSION {
            return Err(Error::Version { found: tuning.version });
        }
        for (field, value) in
            [("batchSize", tuning.knobs.batch_size), ("concurrency", tuning.knobs.concurrency)]
        {
            if value == 0 {
                return Err(Error::Zero { field });
            }
        }
        Ok(tuning)
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for this type; the signature is that of the serializer.
    pub fn to_yaml(&self) -> Result<String, Error> {
        Ok(serde_yaml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUNING: Tuning = Tuning::new(7, Knobs { batch_size: 50, concurrency: 4 });

    #[test]
    fn what_the_operator_writes_is_what_the_pod_reads() {
        let text = TUNING.to_yaml().unwrap();
        assert_eq!(text, "version: 1\nrevision: 7\nbatchSize: 50\nconcurrency: 4\n");
        assert_eq!(Tuning::from_yaml(&text).unwrap(), TUNING);
    }

    #[test]
    fn an_older_pod_reads_a_file_with_fields_that_came_later() {
        let text = "version: 1\nrevision: 7\nbatchSize: 50\nconcurrency: 4\nlinger: 5ms\n";
        assert_eq!(Tuning::from_yaml(text).unwrap(), TUNING);
    }

    #[test]
    fn a_broken_file_is_refused_with_its_reason() {
        for (text, says) in [
            ("{", "cannot be read"),
            ("batchSize: many", "cannot be read"),
            ("version: 1\nrevision: 1\nbatchSize: 0\nconcurrency: 1\n", "batchSize to 0"),
            ("version: 2\nrevision: 1\nbatchSize: 1\nconcurrency: 1\n", "format version 2"),
        ] {
            let error = Tuning::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
