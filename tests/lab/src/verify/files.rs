//! Follows the log files of a node's pods: `NAMESPACE_POD_UID/CONTAINER/N.log` under the kubelet's folder.
//!
//! A file stays open once it was found, so that its end can be read after the kubelet has rotated it or deleted it with
//! its pod. What identifies a file is its inode, since rotation renames it.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::cri::CriLines;

/// How long a deleted file is still looked at: the runtime may write its last lines a moment after.
const AFTER_DELETION: Duration = Duration::from_secs(10);

/// The log files of some pods.
#[derive(Debug)]
pub struct LogFiles {
    folder: PathBuf,
    namespace: Option<String>,
    container: String,
    /// By device and inode.
    open: HashMap<(u64, u64), Tail>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Tail {
    file: File,
    lines: CriLines,
    deleted: Option<Instant>,
}

impl LogFiles {
    /// The logs of one container name, in all namespaces or in one.
    pub fn new(
        folder: impl Into<PathBuf>,
        namespace: Option<String>,
        container: impl Into<String>,
    ) -> Self {
        Self {
            folder: folder.into(),
            namespace,
            container: container.into(),
            open: HashMap::new(),
            buffer: vec![0; 256 * 1024],
        }
    }

    /// Opens what is new, reads all that was written since the last pass, and hands on each message. The answer is how
    /// many bytes were read.
    pub fn pass(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        self.discover();
        let (buffer, now) = (&mut self.buffer, Instant::now());
        let mut total = 0;
        self.open.retain(|_, tail| {
            // The state is looked at before the reading: what was written before the deletion is then read.
            let deleted = tail.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
            let read = match tail.read(buffer, take) {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(%error, "a pod's log cannot be read further");
                    return false;
                }
            };
            total += read;
            if !deleted {
                return true;
            }
            let since = *tail.deleted.get_or_insert(now);
            read > 0 || now.duration_since(since) < AFTER_DELETION
        });
        total
    }

    /// A folder that vanishes while it is listed is the normal end of a pod.
    fn discover(&mut self) {
        for pod in entries(&self.folder) {
            let wanted = match (&self.namespace, pod.file_name().and_then(|name| name.to_str())) {
                (None, Some(_)) => true,
                (Some(namespace), Some(name)) => name.split('_').next() == Some(namespace),
                (_, None) => false,
            };
            if !wanted {
                continue;
            }
            for path in entries(&pod.join(&self.container)) {
                // Rotated files are 0.log.TIME and then 0.log.TIME.gz; the latter was read before it was packed.
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if !name.contains(".log") || [".gz", ".tmp"].iter().any(|end| name.ends_with(end)) {
                    continue;
                }
                let Ok(metadata) = fs::metadata(&path) else { continue };
                let id = (metadata.dev(), metadata.ino());
                if self.open.contains_key(&id) {
                    continue;
                }
                let Ok(file) = File::open(&path) else { continue };
                // Between the two calls the name may have come to mean another file.
                let Ok(metadata) = file.metadata() else { continue };
                self.open.entry((metadata.dev(), metadata.ino())).or_insert_with(|| Tail {
                    file,
                    lines: CriLines::default(),
                    deleted: None,
                });
            }
        }
    }
}

impl Tail {
    fn read(&mut self, buffer: &mut [u8], take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut total = 0;
        loop {
            match self.file.read(buffer) {
                Ok(0) => return Ok(total),
                Ok(read) => {
                    self.lines.feed(&buffer[..read], take);
                    total += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn log(folder: &Path, name: &str) -> File {
        fs::create_dir_all(folder).unwrap();
        File::create(folder.join(name)).unwrap()
    }

    fn write(file: &mut File, message: &str) {
        writeln!(file, "2026-11-23T17:00:00.0Z stdout F {message}").unwrap();
    }

    fn pass(files: &mut LogFiles) -> Vec<String> {
        let mut messages = Vec::new();
        files.pass(&mut |message| messages.push(String::from_utf8_lossy(message).into_owned()));
        messages.sort();
        messages
    }

    #[test]
    fn a_log_is_read_to_its_end_after_rotation_and_deletion() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("shop_orders-1_uid");
        let mut first = log(&pod.join("consumer"), "0.log");
        let mut files = LogFiles::new(root.path(), Some("shop".into()), "consumer");
        write(&mut first, "a");
        assert_eq!(pass(&mut files), ["a"]);

        // Rotated: the old file gets its last line after the new one was made.
        fs::rename(pod.join("consumer/0.log"), pod.join("consumer/0.log.20261123-170000")).unwrap();
        let mut second = log(&pod.join("consumer"), "0.log");
        write(&mut first, "b");
        write(&mut second, "c");
        assert_eq!(pass(&mut files), ["b", "c"]);

        // Deleted with its pod, before the last line was read.
        write(&mut second, "d");
        fs::remove_dir_all(&pod).unwrap();
        write(&mut second, "e");
        assert_eq!(pass(&mut files), ["d", "e"]);
        assert_eq!(pass(&mut files), Vec::<String>::new());
    }

    #[test]
    fn only_the_pods_asked_for_are_read() {
        let root = tempfile::tempdir().unwrap();
        write(&mut log(&root.path().join("shop_a_1/consumer"), "0.log"), "wanted");
        write(&mut log(&root.path().join("shop_a_1/consumer"), "1.log"), "restarted");
        write(&mut log(&root.path().join("shop_a_1/sidecar"), "0.log"), "another container");
        write(&mut log(&root.path().join("shop-2_a_2/consumer"), "0.log"), "another namespace");
        let mut one = LogFiles::new(root.path(), Some("shop".into()), "consumer");
        assert_eq!(pass(&mut one), ["restarted", "wanted"]);
        let mut all = LogFiles::new(root.path(), None, "consumer");
        assert_eq!(pass(&mut all), ["another namespace", "restarted", "wanted"]);
    }
}
