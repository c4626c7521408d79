//! The tuning file: read at the start, at each rebalance and, if asked for, when it changes.
//!
//! A file that cannot be read keeps the knobs that are in force, and says so.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sluice_crds::tuning::{self, Tuning};

/// How often the file is looked at. The kubelet replaces it by a symbolic link's swap, which a `stat` sees.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why the file was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file cannot be opened.
    #[error("the tuning file {path} cannot be opened")]
    Open { path: PathBuf, source: io::Error },
    /// Its text is no such file.
    #[error(transparent)]
    Content(#[from] tuning::Error),
}

/// What tells one version of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    inode: u64,
    device: u64,
    size: u64,
    modified: (i64, i64),
}

/// The file.
#[derive(Debug)]
pub(crate) struct KnobsFile {
    path: PathBuf,
    /// What the watch has found and the fetch thread has not taken yet.
    found: Mutex<Option<Result<Tuning, Error>>>,
}

impl KnobsFile {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { path: folder.join(tuning::FILE_NAME), found: Mutex::new(None) }
    }

    /// Whether there is one at all: outside Kubernetes there need not be.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Reads it.
    pub(crate) fn read(&self) -> Result<Tuning, Error> {
        let text = fs::read_to_string(&self.path)
            .map_err(|source| Error::Open { path: self.path.clone(), source })?;
        Ok(Tuning::from_yaml(&text)?)
    }

    /// What the watch found since the last call.
    pub(crate) fn take_found(&self) -> Option<Result<Tuning, Error>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Looks at the file again and again, and calls `wake` when it has changed. Runs until it is dropped.
    pub(crate) async fn watch(&self, wake: impl Fn()) {
        let mut seen = self.signature();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let signature = self.signature();
            if signature != seen {
                seen = signature;
                *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.read());
                wake();
            }
        }
    }

    fn signature(&self) -> Option<Signature> {
        let meta = fs::metadata(&self.path).ok()?;
        Some(Signature {
            inode: meta.ino(),
            device: meta.dev(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}
