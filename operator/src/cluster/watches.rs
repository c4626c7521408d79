//! How each watch fares: what gates the passes of its scope, and what `/readyz`, the metrics and the log say of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::runtime::watcher;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// A watch that had its list, failed, and was silent for so long runs again: it is tried again after 30 s at most, and a
/// connection that cannot be made fails within as much. A watch of objects that do not change has no other sign of life.
const SILENT: Duration = Duration::from_secs(90);

/// All watches of the operator.
#[derive(Debug, Default)]
pub struct Watches(Mutex<Vec<Arc<Watch>>>);

/// One watch: a kind of object, in one namespace or in all.
#[derive(Debug)]
pub struct Watch {
    namespace: Option<String>,
    kind: &'static str,
    /// Set when the first list has come.
    listed: CancellationToken,
    /// Set when the API server has answered with an error instead.
    refused: CancellationToken,
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Failure {
    error: String,
    at: Instant,
}

/// A watch that fails, as `/readyz` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The namespace; absent where all are watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The kind of object.
    pub kind: &'static str,
    /// What the API server said, or why it was not reached.
    pub error: String,
}

impl Watches {
    /// Adds a watch that is about to begin.
    pub fn add(&self, namespace: Option<&str>, kind: &'static str) -> Arc<Watch> {
        let watch = Arc::new(Watch {
            namespace: namespace.map(str::to_owned),
            kind,
            listed: CancellationToken::new(),
            refused: CancellationToken::new(),
            failure: Mutex::default(),
        });
        self.lock().push(Arc::clone(&watch));
        watch
    }

    /// The watches that fail now.
    pub fn problems(&self) -> Vec<Problem> {
        self.lock()
            .iter()
            .filter_map(|watch| {
                let error = watch.problem()?;
                Some(Problem { namespace: watch.namespace.clone(), kind: watch.kind, error })
            })
            .collect()
    }

    /// Sets the gauges of all watches.
    pub fn show(&self, metrics: &Metrics) {
        for watch in self.lock().iter() {
            let up = watch.listed.is_cancelled() && watch.problem().is_none();
            metrics.watch_up(watch.namespace.as_deref().unwrap_or_default(), watch.kind, up);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// The kind of object.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Waits for the first list.
    pub async fn listed(&self) {
        self.listed.cancelled().await;
    }

    /// Waits until the API server has answered with an error.
    pub async fn refused(&self) {
        self.refused.cancelled().await;
    }

    /// Takes in what came of the watch.
    pub fn see<K>(&self, event: &Result<watcher::Event<K>, watcher::Error>) {
        match event {
            // A list that begins has not succeeded yet.
            Ok(watcher::Event::Init) => {}
            Ok(event) => {
                if matches!(event, watcher::Event::InitDone) {
                    self.listed.cancel();
                }
                self.works();
            }
            Err(error) => self.failed(error),
        }
    }

    fn works(&self) {
        if self.lock().take().is_some() {
            tracing::info!(namespace = self.namespace, kind = self.kind, "the watch works again");
        }
    }

    fn failed(&self, error: &watcher::Error) {
        let known = self.problem().is_some();
        let words = error.to_string();
        if !known {
            let (namespace, kind) = (&self.namespace, self.kind);
            tracing::warn!(namespace, kind, error = words, "a watch failed and is tried again");
        }
        *self.lock() = Some(Failure { error: words, at: Instant::now() });
        if is_answer(error) {
            self.refused.cancel();
        }
    }

    /// Why it fails, if it does.
    fn problem(&self) -> Option<String> {
        let failure = self.lock();
        let failure = failure.as_ref()?;
        let over = self.listed.is_cancelled() && failure.at.elapsed() > SILENT;
        (!over).then(|| failure.error.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the API server answered: waiting for it would not help, as it does while it cannot be reached.
fn is_answer(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Api(_))
        }
        WatchError(_) => true,
        watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::core::Status;

    use super::*;

    fn forbidden() -> Result<watcher::Event<Pod>, watcher::Error> {
        let status = Status::failure("pods is forbidden", "Forbidden").with_code(403).boxed();
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_failed_before_its_list_fails_until_the_list_comes() {
        let watches = Watches::default();
        let watch = watches.add(Some("shop"), "Pod");
        watch.see(&forbidden());
        assert!(watch.refused.is_cancelled());
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(watches.problems()[0].error.contains("forbidden"), "{:?}", watches.problems());
        watch.see::<Pod>(&Ok(watcher::Event::Init));
        assert_eq!(watches.problems().len(), 1);
        watch.see::<Pod>(&Ok(watcher::Event::InitDone));
        assert_eq!(watches.problems(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_of_objects_that_do_not_change_works_again_when_it_fails_no_more() {
        let watches = Watches::default();
        let watch = watches.add(Some("shop"), "Pod");
        watch.see::<Pod>(&Ok(watcher::Event::InitDone));
        watch.see(&forbidden());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(watches.problems().len(), 1);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(watches.problems(), []);
    }
}
