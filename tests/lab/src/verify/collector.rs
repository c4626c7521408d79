//! Gathers what the pods print, in the background, from before the first record until after the last.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sluice_crds::labels;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Evidence, api, files::LogFiles};
use crate::load::Manifest;

/// How often new log files are looked for, and read.
const PASS: Duration = Duration::from_millis(100);
/// What a line may take from the pod's output to the file (or through the API server) when all is at rest.
const SETTLE: Duration = Duration::from_millis(500);

/// Gathers evidence of handling while the pods run.
#[derive(Debug)]
pub struct Collector {
    evidence: Arc<Mutex<Evidence>>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Files { stop: Arc<AtomicBool>, thread: Option<thread::JoinHandle<()>> },
    Api(JoinHandle<()>),
}

impl Collector {
    /// Follows the log files under the kubelet's `podLogsDir`, of one namespace or of all.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn follow_files(
        pod_logs_dir: impl Into<PathBuf>,
        namespace: Option<&str>,
    ) -> anyhow::Result<Self> {
        let evidence = Arc::new(Mutex::new(Evidence::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut files =
            LogFiles::new(pod_logs_dir, namespace.map(ToOwned::to_owned), labels::CONTAINER);
        let (shared, stopped) = (Arc::clone(&evidence), Arc::clone(&stop));
        let thread = thread::Builder::new().name("lab-collector".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                files.pass(&mut |line| lock(&shared).take(line));
                thread::sleep(PASS);
            }
            // The end: until nothing more comes.
            while files.pass(&mut |line| lock(&shared).take(line)) > 0 {}
        })?;
        Ok(Self { evidence, source: Source::Files { stop, thread: Some(thread) } })
    }

    /// Follows the logs of the consumer pods of a namespace through the API server: for a cluster whose nodes' files are
    /// out of reach. A pod that is deleted can take its last lines with it; prefer the files where they can be had.
    pub fn follow_api(client: kube::Client, namespace: &str) -> Self {
        let evidence = Arc::new(Mutex::new(Evidence::once()));
        let (shared, namespace) = (Arc::clone(&evidence), namespace.to_owned());
        let task = tokio::spawn(async move {
            api::follow(client, &namespace, move |line: &[u8]| lock(&shared).take(line)).await;
        });
        Self { evidence, source: Source::Api(task) }
    }

    /// How many different records of a topic were handled so far.
    pub fn distinct(&self, topic: &str) -> u64 {
        lock(&self.evidence).topic(topic).distinct()
    }

    /// The same for somebody else to ask, as long as this collection lasts.
    pub fn counter(&self, topic: &str) -> impl Fn() -> u64 + Send + Sync + 'static + use<> {
        let (evidence, topic) = (Arc::clone(&self.evidence), topic.to_owned());
        move || lock(&evidence).topic(&topic).distinct()
    }

    /// Whether all that was acknowledged of a load has been handled.
    pub fn covers(&self, manifest: &Manifest) -> bool {
        let evidence = lock(&self.evidence);
        let handled = &evidence.topic(&manifest.topic).offsets;
        manifest.partitions.iter().all(|(partition, acknowledged)| {
            acknowledged.offsets.is_empty()
                || handled.get(partition).is_some_and(|set| set.covers(&acknowledged.offsets))
        })
    }

    /// Waits until all that was acknowledged of a load has been handled; false when that takes longer than `timeout`.
    pub async fn wait_for(&self, manifest: &Manifest, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            if self.covers(manifest) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(PASS).await;
        }
    }

    /// Works on what is known so far, while the collection goes on.
    pub fn look<T>(&self, look: impl FnOnce(&Evidence) -> T) -> T {
        look(&lock(&self.evidence))
    }

    /// Reads what is left and ends the collection.
    pub async fn finish(mut self) -> Evidence {
        sleep(SETTLE).await;
        match &mut self.source {
            Source::Files { stop, thread } => {
                stop.store(true, Ordering::Relaxed);
                if let Some(thread) = thread.take() {
                    // A collector that panicked has left what it knew.
                    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
                }
            }
            Source::Api(task) => task.abort(),
        }
        std::mem::take(&mut *lock(&self.evidence))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        match &self.source {
            Source::Files { stop, .. } => stop.store(true, Ordering::Relaxed),
            Source::Api(task) => task.abort(),
        }
    }
}

/// A thread that panicked left whole lines behind.
fn lock(evidence: &Mutex<Evidence>) -> MutexGuard<'_, Evidence> {
    evidence.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    #[tokio::test]
    async fn a_load_counts_as_handled_when_its_last_record_is() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("shop_orders-1_uid/consumer");
        fs::create_dir_all(&folder).unwrap();
        let mut log = fs::File::create(folder.join("0.log")).unwrap();
        let mut handled = |offsets: &str| {
            writeln!(
                log,
                r#"T stdout F {{"handled":{{"topic":"t","partition":0,"offsets":"{offsets}","started":1.0,"at":2.0,"pod":"orders-1"}}}}"#
            )
            .unwrap();
        };
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "run": "r", "topic": "t", "started": 0, "ended": 0, "rates": [], "sent": 10, "acknowledged": 10, "failed": 0,
            "errors": [], "mostLateMs": 0, "partitions": {"0": {"offsets": [[0, 9]]}, "1": {"offsets": []}},
        }))
        .unwrap();

        let collector = Collector::follow_files(root.path(), Some("shop")).unwrap();
        handled("0-8");
        assert!(!collector.wait_for(&manifest, Duration::from_millis(300)).await);
        handled("9");
        assert!(collector.wait_for(&manifest, Duration::from_secs(10)).await);
        handled("9");
        let evidence = collector.finish().await;
        assert_eq!((evidence.topic("t").distinct(), evidence.topic("t").events.len()), (10, 3));
    }
}
