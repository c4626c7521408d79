//! Watches a KafkaConsumer and its Deployment, and keeps each change with the moment at which it was told.

use futures::{StreamExt, TryStream, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use sluice_crds::{KafkaConsumer, labels};
use tokio::{sync::watch, task::JoinHandle};

use crate::load::producer::millis_now;

/// What is known of a consumer in the cluster, and how it came to be so.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    /// The KafkaConsumer as it was last told.
    pub consumer: Option<KafkaConsumer>,
    /// Each change of the Deployment's replicas, asked for or ready; the last is how it stands.
    pub replicas: Vec<ReplicasSeen>,
    /// Each decision, and each change of the knobs.
    pub decisions: Vec<DecisionSeen>,
}

/// Replicas from a moment on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicasSeen {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Pods asked for.
    pub wanted: i32,
    /// Pods that are ready.
    pub ready: i32,
}

/// A decision, when it was seen in the status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecisionSeen {
    /// Milliseconds since the Unix epoch.
    pub at: i64,
    /// Its fixed word.
    pub reason: String,
    /// Its sentence.
    pub message: String,
    /// Pods decided on.
    pub replicas: i32,
    /// The batch size asked for.
    pub batch_size: Option<i32>,
    /// The concurrency asked for.
    pub concurrency: Option<i32>,
}

impl ClusterState {
    /// Pods asked for, now.
    pub fn wanted(&self) -> Option<i32> {
        self.replicas.last().map(|seen| seen.wanted)
    }

    /// Pods that are ready, now.
    pub fn ready(&self) -> Option<i32> {
        self.replicas.last().map(|seen| seen.ready)
    }

    /// The last decision.
    pub fn decision(&self) -> Option<&DecisionSeen> {
        self.decisions.last()
    }

    fn see_deployment(&mut self, deployment: &Deployment, at: i64) {
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready =
            deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        self.see_replicas(ReplicasSeen { at, wanted, ready });
    }

    fn see_replicas(&mut self, now: ReplicasSeen) {
        let same = |last: &ReplicasSeen| (last.wanted, last.ready) == (now.wanted, now.ready);
        if !self.replicas.last().is_some_and(same) {
            self.replicas.push(now);
        }
    }

    fn see_consumer(&mut self, consumer: KafkaConsumer, at: i64) {
        if let Some(status) = &consumer.status
            && let Some(decision) = &status.decision
        {
            let now = DecisionSeen {
                at,
                reason: decision.reason.clone(),
                message: decision.message.clone(),
                replicas: decision.replicas,
                batch_size: status.batch_size,
                concurrency: status.concurrency,
            };
            // The sentence holds numbers that move all the time; it alone makes no new decision.
            let mark =
                |d: &DecisionSeen| (d.reason.clone(), d.replicas, d.batch_size, d.concurrency);
            match self.decisions.last_mut() {
                Some(last) if mark(last) == mark(&now) => last.message = now.message,
                _ => self.decisions.push(now),
            }
        }
        self.consumer = Some(consumer);
    }
}

/// Watches, in the background, until it is dropped.
#[derive(Debug)]
pub struct ClusterWatch {
    state: watch::Receiver<ClusterState>,
    tasks: [JoinHandle<()>; 2],
}

impl ClusterWatch {
    /// Watches a KafkaConsumer, which need not exist yet.
    pub fn start(client: Client, namespace: &str, name: &str) -> Self {
        let (sender, state) = watch::channel(ClusterState::default());
        let consumers: Api<KafkaConsumer> = Api::namespaced(client.clone(), namespace);
        let by_name = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let told = sender.clone();
        let consumer = tokio::spawn(each(
            watcher(consumers, by_name).default_backoff().applied_objects(),
            move |object| {
                told.send_modify(|state| state.see_consumer(object, millis_now()));
            },
        ));
        let deployments: Api<Deployment> = Api::namespaced(client, namespace);
        let by_label = watcher::Config::default().labels(&format!("{}={name}", labels::INSTANCE));
        let deployment = tokio::spawn(each(
            watcher(deployments, by_label).default_backoff().touched_objects(),
            move |object| {
                sender.send_modify(|state| {
                    if object.metadata.deletion_timestamp.is_none() {
                        state.see_deployment(&object, millis_now());
                    }
                });
            },
        ));
        Self { state, tasks: [consumer, deployment] }
    }

    /// How it stands now.
    pub fn state(&self) -> ClusterState {
        self.state.borrow().clone()
    }

    /// Looks at how it stands now, without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Waits until it stands as asked; false after `timeout`.
    pub async fn wait_for(
        &self,
        timeout: std::time::Duration,
        mut so: impl FnMut(&ClusterState) -> bool,
    ) -> bool {
        let mut state = self.state.clone();
        matches!(tokio::time::timeout(timeout, state.wait_for(|state| so(state))).await, Ok(Ok(_)))
    }
}

impl Drop for ClusterWatch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn each<K, S>(stream: S, mut take: impl FnMut(K))
where
    S: TryStream<Ok = K, Error = watcher::Error>,
{
    let mut stream = std::pin::pin!(stream.into_stream());
    while let Some(object) = stream.next().await {
        match object {
            Ok(object) => take(object),
            Err(error) => tracing::debug!(%error, "a watch broke; it is begun again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_kept_with_its_moment_and_a_repetition_is_none() {
        let mut state = ClusterState::default();
        for (at, wanted, ready) in [(1, 1, 0), (2, 1, 1), (3, 1, 1), (4, 12, 1), (9, 12, 12)] {
            state.see_replicas(ReplicasSeen { at, wanted, ready });
        }
        assert_eq!(state.replicas.iter().map(|seen| seen.at).collect::<Vec<_>>(), [1, 2, 4, 9]);
        assert_eq!((state.wanted(), state.ready()), (Some(12), Some(12)));
    }

    #[test]
    fn a_sentence_whose_numbers_moved_is_no_new_decision() {
        let mut state = ClusterState::default();
        for (at, reason, replicas, message, concurrency) in [
            (1, "Hold", 1, "300/s", 1),
            (2, "Hold", 1, "301/s", 1),
            (3, "ScaleUp", 8, "3,600/s", 1),
            (4, "Hold", 8, "3,600/s", 1),
            (5, "Hold", 8, "3,600/s", 2),
        ] {
            let consumer = serde_json::from_value(serde_json::json!({
                "apiVersion": "sluice.dev/v1alpha1", "kind": "KafkaConsumer", "metadata": {"name": "demo"},
                "spec": {"kafka": {"bootstrapServers": "k:9092", "topics": ["t"]}, "handler": {"log": {}}},
                "status": {"concurrency": concurrency, "decision": {"reason": reason, "message": message, "replicas": replicas}},
            }))
            .unwrap();
            state.see_consumer(consumer, at);
        }
        assert_eq!(state.decisions.iter().map(|seen| seen.at).collect::<Vec<_>>(), [1, 3, 4, 5]);
        assert_eq!(state.decisions[0].message, "301/s");
    }
}
