//! What is watched: the consumers and their children, in one namespace or in all. Each watch fills a store that passes
//! read (a pass makes no read of its own in a steady state) and asks for a pass when something changed.

use std::{
    collections::{BTreeMap, HashMap},
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
    apimachinery::pkg::apis::meta::v1::FieldsV1,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use serde_json::json;
use sluice_crds::{KafkaConsumer, labels};

use super::{
    apply::REPLICAS,
    watches::{Watch, Watches},
};
use crate::metrics::Metrics;

/// A consumer as it is watched: one that cannot be read does not stop the others.
pub type Guarded = DeserializeGuard<KafkaConsumer>;
/// A request for a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Over which consumer.
    pub consumer: ObjectRef<Guarded>,
    /// Something of it is gone.
    pub gone: bool,
}

impl Request {
    fn of(consumer: ObjectRef<Guarded>) -> Self {
        Self { consumer, gone: false }
    }
}

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
    /// The four watches that fill them.
    watches: [Arc<Watch>; 4],
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
pub fn scope(
    client: &Client,
    namespace: Option<&str>,
    watches: &Watches,
    metrics: &Arc<Metrics>,
) -> Scope {
    let ours = watcher::Config::default().labels(labels::CONSUMER);
    let (consumers, consumer_writer) = reflector::store();
    let (deployments, deployment_writer) = reflector::store();
    let (config_maps, config_map_writer) = reflector::store();
    let pods = Arc::new(Pods::default());
    let (wake, woken) = mpsc::unbounded();

    let consumer_events =
        watcher(api::<Guarded>(client, namespace), watcher::Config::default()).default_backoff();
    let deployment_events =
        watcher(api::<Deployment>(client, namespace), ours.clone()).default_backoff();
    let config_map_events =
        watcher(api::<ConfigMap>(client, namespace), ours.clone()).default_backoff();
    let pod_events = watcher(api::<Pod>(client, namespace), ours).default_backoff();
    let index = Arc::clone(&pods);
    let see = move |event: &_| {
        if let Ok(event) = event {
            index.see(event);
        }
    };
    let watch = |kind| watches.add(namespace, kind);
    let watches = ["KafkaConsumer", "Deployment", "ConfigMap", "Pod"].map(watch);
    let [a, b, c, d] = watches.clone();
    let requests = futures::stream::select_all([
        requests(a, metrics, consumer_events.modify(strip).reflect(consumer_writer), |c| {
            Some(ObjectRef::from_obj(c))
        }),
        requests(b, metrics, deployment_events.modify(trim).reflect(deployment_writer), owner),
        requests(c, metrics, config_map_events.modify(trim).reflect(config_map_writer), owner),
        requests(d, metrics, pod_events.modify(slim).inspect(see), owner),
        woken.map(Request::of).boxed(),
    ]);
    Scope {
        stores: Stores { consumers, deployments, config_maps, pods, watches },
        requests: requests.boxed(),
        wake,
    }
}

impl Stores {
    /// Waits until every watch has its first list.
    ///
    /// Not by the stores' own `wait_until_ready`: of two tasks that wait for one store kube 5.0.0 wakes only the last, and
    /// the controller waits for the consumers too.
    pub async fn ready(&self) {
        for watch in &self.watches {
            watch.listed().await;
        }
    }

    /// Waits until the API server has answered one of the watches with an error.
    pub async fn refused(&self) {
        let refused = self.watches.iter().map(|watch| watch.refused().boxed());
        futures::future::select_all(refused).await;
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

/// Turns a watch into requests: each object that was touched, deletions too, asks for a pass over its consumer, which finds
/// what is gone and drops what it kept of it. Errors are counted, and the watch goes on after its backoff.
fn requests<K, S>(
    watch: Arc<Watch>,
    metrics: &Arc<Metrics>,
    events: S,
    owner: fn(&K) -> Option<ObjectRef<Guarded>>,
) -> BoxStream<'static, Request>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
{
    let metrics = Arc::clone(metrics);
    let mut touched = Touched { owner, now: HashMap::new(), next: HashMap::new() };
    events
        .map(move |event| {
            watch.see(&event);
            let consumers = if let Ok(event) = event {
                touched.by(&event)
            } else {
                metrics.watch_error(watch.kind());
                Vec::new()
            };
            futures::stream::iter(consumers)
        })
        .flatten()
        .boxed()
}

/// Which consumers an event touches.
///
/// A list that replaces another says nothing of what vanished in between: what was there before and is no longer is found
/// here. And the stores take a list in when it is complete: asked for sooner, a pass would not find the new objects.
struct Touched<K: Resource<DynamicType = ()>> {
    owner: fn(&K) -> Option<ObjectRef<Guarded>>,
    now: HashMap<ObjectRef<K>, ObjectRef<Guarded>>,
    /// The list that is being read.
    next: HashMap<ObjectRef<K>, ObjectRef<Guarded>>,
}

impl<K: Resource<DynamicType = ()> + Clone> Touched<K> {
    fn by(&mut self, event: &watcher::Event<K>) -> Vec<Request> {
        match event {
            watcher::Event::Init => {
                self.next.clear();
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                if let Some(owner) = (self.owner)(object) {
                    self.next.insert(ObjectRef::from_obj(object), owner);
                }
                Vec::new()
            }
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.now, std::mem::take(&mut self.next));
                let mut all: HashMap<_, bool> = HashMap::new();
                for (object, owner) in before {
                    *all.entry(owner).or_default() |= !self.now.contains_key(&object);
                }
                for owner in self.now.values() {
                    all.entry(owner.clone()).or_default();
                }
                all.into_iter().map(|(consumer, gone)| Request { consumer, gone }).collect()
            }
            watcher::Event::Apply(object) => {
                let owner = (self.owner)(object);
                let key = ObjectRef::from_obj(object);
                let before = match &owner {
                    Some(owner) => self.now.insert(key, owner.clone()),
                    None => self.now.remove(&key),
                };
                // An object that another consumer has now is missed by the one that had it.
                let before = before.filter(|before| owner.as_ref() != Some(before));
                let before = before.map(|consumer| Request { consumer, gone: true });
                before.into_iter().chain(owner.map(Request::of)).collect()
            }
            watcher::Event::Delete(object) => {
                let before = self.now.remove(&ObjectRef::from_obj(object));
                let consumer = before.or_else(|| (self.owner)(object));
                consumer.map(|consumer| Request { consumer, gone: true }).into_iter().collect()
            }
        }
    }
}

/// The consumer that a child belongs to: all children carry its name as a label.
fn owner<K: Resource>(child: &K) -> Option<ObjectRef<Guarded>> {
    let instance = child.meta().labels.as_ref()?.get(labels::CONSUMER)?;
    Some(ObjectRef::new(instance).within(child.meta().namespace.as_deref()?))
}

fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Keeps of the API server's record of who wrote which field (most of an object's memory) who wrote
/// when, and who wrote the number of pods: passes look at nothing else of it.
fn trim<K: Resource>(object: &mut K) {
    for entry in object.meta_mut().managed_fields.iter_mut().flatten() {
        let has_replicas =
            entry.fields_v1.as_ref().is_some_and(|f| f.0.pointer(REPLICAS).is_some());
        entry.fields_v1 = has_replicas.then(|| FieldsV1(json!({ "f:spec": { "f:replicas": {} } })));
    }
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
}

type ByName = BTreeMap<String, Arc<Pod>>;

#[derive(Debug, Default)]
struct Index {
    now: HashMap<ObjectRef<Guarded>, ByName>,
    /// The list that is being read; it replaces `now` when it is complete.
    next: HashMap<ObjectRef<Guarded>, ByName>,
}

impl Pods {
    fn see(&self, event: &watcher::Event<Pod>) {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            watcher::Event::Init => index.next.clear(),
            watcher::Event::InitApply(pod) => insert(&mut index.next, pod),
            watcher::Event::InitDone => {
                index.now = std::mem::take(&mut index.next);
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
}

fn insert(index: &mut HashMap<ObjectRef<Guarded>, ByName>, pod: &Pod) {
    if let Some(owner) = owner(pod) {
        index.entry(owner).or_default().insert(pod.name_any(), Arc::new(pod.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_record_of_writers_the_writers_their_times_and_the_number_of_pods_are_kept() {
        let time = "2026-11-28T01:02:03Z";
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "orders", "managedFields": [
                { "manager": "sluice.dev/operator", "operation": "Apply", "time": time,
                  "fieldsV1": { "f:spec": { "f:template": { "f:spec": {} } } } },
                { "manager": "sluice.dev/scaler", "operation": "Apply", "time": time,
                  "fieldsV1": { "f:spec": { "f:replicas": {} } } },
                { "manager": "autoscaler", "operation": "Update", "subresource": "scale",
                  "fieldsV1": { "f:metadata": {}, "f:spec": { "f:replicas": {}, "f:x": {} } } },
            ] },
        }))
        .unwrap();
        trim(&mut deployment);
        let replicas = json!({ "f:spec": { "f:replicas": {} } });
        let expected = json!([
            { "manager": "sluice.dev/operator", "operation": "Apply", "time": time },
            { "manager": "sluice.dev/scaler", "operation": "Apply", "time": time,
              "fieldsV1": replicas },
            { "manager": "autoscaler", "operation": "Update", "subresource": "scale",
              "fieldsV1": replicas },
        ]);
        let kept = deployment.metadata.managed_fields;
        assert_eq!(serde_json::to_value(kept).unwrap(), expected);
    }
}
