//! Follows the logs of consumer pods through the API server.
//!
//! A stream that breaks is opened again from a few seconds before its end, so that lines come twice rather than never;
//! the taker passes over what it has seen ([`super::Evidence::once`]).

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::LogParams,
    runtime::{WatchStreamExt, watcher},
};
use sluice_crds::labels;
use tokio::{task::JoinSet, time::sleep};

/// Between two tries to open a stream.
const RETRY: Duration = Duration::from_millis(500);
/// How far before its end a broken stream is opened again.
const OVERLAP: Duration = Duration::from_secs(5);

/// Hands on each line of each consumer container in a namespace, until it is dropped.
pub async fn follow<F>(client: Client, namespace: &str, take: F)
where
    F: Fn(&[u8]) + Send + Sync + 'static,
{
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let selector = format!("{}={}", labels::NAME, labels::NAME_VALUE);
    let events = watcher(pods.clone(), watcher::Config::default().labels(&selector))
        .default_backoff()
        .applied_objects();
    let mut events = std::pin::pin!(events);
    let take: Arc<F> = Arc::new(take);
    let mut known: HashSet<String> = HashSet::new();
    // When this future is dropped, the streams end with it.
    let mut streams = JoinSet::new();
    while let Some(event) = events.next().await {
        let pod = match event {
            Ok(pod) => pod,
            Err(error) => {
                tracing::warn!(%error, "the consumer pods cannot be watched; trying again");
                continue;
            }
        };
        if let Some(container) = started_container(&pod)
            && known.insert(container)
        {
            streams.spawn(stream(pods.clone(), pod.name_any(), Arc::clone(&take)));
        }
    }
}

/// The id of the consumer container once it has started: a restarted one has another.
fn started_container(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status: &ContainerStatus =
        statuses.iter().find(|status| status.name == labels::CONTAINER)?;
    let state = status.state.as_ref()?;
    (state.running.is_some() || state.terminated.is_some())
        .then(|| status.container_id.clone())
        .flatten()
}

async fn stream<F: Fn(&[u8])>(pods: Api<Pod>, pod: String, take: Arc<F>) {
    let mut last_line: Option<Instant> = None;
    loop {
        let params = LogParams {
            container: Some(labels::CONTAINER.to_owned()),
            follow: true,
            since_seconds: last_line.map(|at| (at.elapsed() + OVERLAP).as_secs() as i64 + 1),
            ..LogParams::default()
        };
        match pods.log_stream(&pod, &params).await {
            Ok(log) => {
                let mut lines = log.lines();
                loop {
                    match lines.try_next().await {
                        Ok(Some(line)) => {
                            last_line = Some(Instant::now());
                            take(line.as_bytes());
                        }
                        // The container has ended, and all of its log was told.
                        Ok(None) => return,
                        Err(error) => {
                            tracing::debug!(%pod, %error, "a log stream broke; opening it again");
                            break;
                        }
                    }
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => tracing::debug!(%pod, %error, "a log stream cannot be opened yet"),
        }
        sleep(RETRY).await;
    }
}
