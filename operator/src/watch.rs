//! What is watched: the consumers and their children, in one namespace or in all. Each watch fills a store that passes
//! read (a pass makes no read of its own in a steady state) and asks for a pass when something changed.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt, Stream, StreamExt, channel::mpsc, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        controller::{ReconcileReason, ReconcileRequest},
        reflector::{self, ObjectRef, Store},
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use sluice_crds::{KafkaConsumer, labels};

use crate::metrics::Metrics;

/// A consumer as it is watched: one that cannot be read does not stop the others.
pub type Guarded = DeserializeGuard<KafkaConsumer>;
/// A request for a pass.
pub type Request = Result<ReconcileRequest<Guarded>, Infallible>;
/// Asks for passes from outside the watches.
pub type Wake = mpsc::UnboundedSender<ObjectRef<Guarded>>;

/// What the watches of one scope have seen.
#[derive(Clone)]
pub struct Stores {
    /// The consumers.
    pub consumers: Store<Guarded>,
    /// Their Deployments.
    pub deployments: Store<Deployment>,
    /// Their ConfigMaps.
    pub config_maps: Store<ConfigMap>,
    /// Their pods, by consumer.
    pub pods: Arc<Pods>,
}

/// One scope: its stores, its stream of requests, and the way to ask for more.
pub struct Scope {
    /// What was seen.
    pub stores: Stores,
    /// What asks for passes.
    pub requests: BoxStream<'static, Request>,
    /// For readings, which come every second.
    pub wake: Wake,
}

/// Starts to watch a namespace, or all of them.
pub fn scope(client: &Client, namespace: Option<&str>, metrics: &Arc<Metrics>) -> Scope {
    let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE));
    let (consumers, consumer_writer) = reflector::store();
    let (deployments, deployment_writer) = reflector::store();
    let (config_maps, config_map_writer) = reflector::store();
    let pods = Arc::new(Pods::default());
    let (wake, woken) = mpsc::unbounded();

    let consumer_events = watcher(api::<Guarded>(client, namespace), watcher::Config::default()).default_backoff();
    let deployment_events = watcher(api::<Deployment>(client, namespace), ours.clone()).default_backoff();
    let config_map_events = watcher(api::<ConfigMap>(client, namespace), ours.clone()).default_backoff();
    let pod_events = watcher(api::<Pod>(client, namespace), ours).default_backoff();
    let index = Arc::clone(&pods);
    let requests = futures::stream::select_all([
        // Deletions ask for a pass too: the pass finds the object gone, and what is kept of it is dropped.
        requests(
            "KafkaConsumer",
            metrics,
            consumer_events.modify(strip).reflect(consumer_writer).touched_objects(),
            |c| Some(ObjectRef::from_obj(c)),
        ),
        requests("Deployment", metrics, deployment_events.reflect(deployment_writer).touched_objects(), owner),
        requests("ConfigMap", metrics, config_map_events.reflect(config_map_writer).touched_objects(), owner),
        requests(
            "Pod",
            metrics,
            pod_events
                .modify(slim)
                .inspect(move |event| {
                    if let Ok(event) = event {
                        index.see(event);
                    }
                })
                .touched_objects(),
            owner,
        ),
        woken.map(|object| Ok(request(object, "a new reading"))).boxed(),
    ]);
    Scope { stores: Stores { consumers, deployments, config_maps, pods }, requests: requests.boxed(), wake }
}

impl Stores {
    /// Waits until every watch has its first list.
    pub async fn ready(&self) {
        // A writer that was dropped is a scope that has stopped; there is nothing to wait for then.
        let _ = futures::join!(
            self.consumers.wait_until_ready(),
            self.deployments.wait_until_ready(),
            self.config_maps.wait_until_ready(),
            self.pods.ready(),
        );
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Turns a watch into requests; its errors are counted and logged, and the watch goes on after its backoff.
fn requests<K, S>(
    kind: &'static str,
    metrics: &Arc<Metrics>,
    objects: S,
    owner: impl Fn(&K) -> Option<ObjectRef<Guarded>> + Send + 'static,
) -> BoxStream<'static, Request>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Stream<Item = Result<K, watcher::Error>> + Send + 'static,
{
    let metrics = Arc::clone(metrics);
    objects
        .filter_map(move |object| {
            let found = match object {
                Ok(object) => owner(&object).map(|o| Ok(request(o, kind))),
                Err(error) => {
                    metrics.watch_error(kind);
                    tracing::warn!(kind, %error, "a watch failed and is tried again");
                    None
                }
            };
            std::future::ready(found)
        })
        .boxed()
}

fn request(object: ObjectRef<Guarded>, why: &str) -> ReconcileRequest<Guarded> {
    ReconcileRequest { obj_ref: object, reason: ReconcileReason::Custom { reason: why.to_owned() } }
}

/// The consumer that a child belongs to: all children carry its name as a label.
fn owner<K: Resource>(child: &K) -> Option<ObjectRef<Guarded>> {
    let instance = child.meta().labels.as_ref()?.get(labels::INSTANCE)?;
    Some(ObjectRef::new(instance).within(child.meta().namespace.as_deref()?))
}

fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Keeps of a pod what passes look at.
fn slim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.spec = None;
}

/// The pods of each consumer: a store would have to be searched through on every pass.
#[derive(Debug, Default)]
pub struct Pods {
    index: Mutex<Index>,
    filled: tokio::sync::Notify,
}

type ByName = BTreeMap<String, Arc<Pod>>;

#[derive(Debug, Default)]
struct Index {
    now: HashMap<ObjectRef<Guarded>, ByName>,
    /// The list that is being read; it replaces `now` when it is complete.
    next: HashMap<ObjectRef<Guarded>, ByName>,
    filled: bool,
}

impl Pods {
    fn see(&self, event: &watcher::Event<Pod>) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            watcher::Event::Init => index.next.clear(),
            watcher::Event::InitApply(pod) => insert(&mut index.next, pod),
            watcher::Event::InitDone => {
                index.now = std::mem::take(&mut index.next);
                index.filled = true;
                self.filled.notify_waiters();
            }
            watcher::Event::Apply(pod) => insert(&mut index.now, pod),
            watcher::Event::Delete(pod) => {
                let Some(owner) = owner(pod) else { return };
                if let Some(pods) = index.now.get_mut(&owner) {
                    pods.remove(&pod.name_any());
                    if pods.is_empty() {
                        index.now.remove(&owner);
                    }
                }
            }
        }
    }

    /// A consumer's pods, by name.
    pub fn of(&self, consumer: &ObjectRef<Guarded>) -> Vec<Arc<Pod>> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.now.get(consumer).map(|pods| pods.values().cloned().collect()).unwrap_or_default()
    }

    async fn ready(&self) {
        loop {
            let filled = self.filled.notified();
            futures::pin_mut!(filled);
            // Registered before the look, so that a fill in between is not missed.
            filled.as_mut().enable();
            if self.index.lock().unwrap_or_else(PoisonError::into_inner).filled {
                return;
            }
            filled.map(|()| ()).await;
        }
    }
}

fn insert(index: &mut HashMap<ObjectRef<Guarded>, ByName>, pod: &Pod) {
    if let Some(owner) = owner(pod) {
        index.entry(owner).or_default().insert(pod.name_any(), Arc::new(pod.clone()));
    }
}
