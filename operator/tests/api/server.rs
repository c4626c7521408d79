//! A stateful fake API server that records the conversation: enough of list, watch, server-side apply, merge patch and
//! create for the operator, with a Deployment controller and a kubelet that are as fast as can be. Faults can be put in.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::Notify;

type Bytes = axum::body::Bytes;
type Answer = Response<axum::body::Body>;

/// One request that was made, and how it was answered.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub manager: String,
    pub body: Value,
    pub status: u16,
    /// `spec.replicas` of the object before and after.
    pub replicas: (Option<i64>, Option<i64>),
}

impl Call {
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    Status(u16, &'static str),
    Hang,
    /// It is done, and the answer is lost.
    Lost,
    /// It is done and answered when the faults are healed.
    Slow,
}

type Faults = Box<dyn FnMut(&str, &str) -> Option<Fault> + Send>;

/// One change of an object; what a watch hears of it depends on its selector.
struct Change {
    version: u64,
    plural: String,
    namespace: String,
    old: Option<Value>,
    new: Option<Value>,
}

impl Change {
    /// The event for a watch with this selector: an object that no longer matches is DELETED to it.
    fn event(&self, selector: Option<&String>) -> Option<Value> {
        let matches = |object: &&Value| selected(object, selector);
        let (old, new) = (self.old.as_ref().filter(matches), self.new.as_ref().filter(matches));
        let (type_, object) = match (old, new) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new.clone()),
            (Some(_), Some(new)) => ("MODIFIED", new.clone()),
            (Some(old), None) => {
                let mut gone = old.clone();
                gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
                ("DELETED", gone)
            }
        };
        Some(json!({ "type": type_, "object": object }))
    }
}

#[derive(Default)]
struct State {
    version: u64,
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// What watches are told of.
    log: Vec<Change>,
    calls: Vec<Call>,
    /// Watches that began before this are closed: the server was restarted.
    epoch: u64,
    /// Watches from before this version are told that it is gone.
    compacted: u64,
    down: bool,
    /// Pods of Deployments become ready by themselves.
    kubelet: bool,
    defined: bool,
    /// What the served definition declares.
    schema: Value,
    /// Kinds whose watches are told nothing for now.
    held: BTreeSet<String>,
}

type Webhook = Box<dyn FnMut(&str, &mut Value) + Send>;

/// The server.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    faults: Arc<Mutex<Option<Faults>>>,
    webhook: Arc<Mutex<Option<Webhook>>>,
    changed: Arc<Notify>,
}

impl Server {
    pub fn new() -> Self {
        let state = State {
            kubelet: true,
            defined: true,
            schema: schema_of_the_operator(),
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            faults: Arc::default(),
            webhook: Arc::default(),
            changed: Arc::new(Notify::new()),
        }
    }

    /// A server on which nobody has installed the definition.
    pub fn undefined() -> Self {
        let server = Self::new();
        server.state.lock().unwrap().defined = false;
        server
    }

    /// Forgets what the watches were told: whoever watches from before is told that it is gone, and lists again.
    pub fn compact(&self) {
        let mut state = self.state.lock().unwrap();
        state.compacted = state.version;
        state.log.clear();
    }

    /// Whether Deployments get their pods.
    pub fn kubelet(&self, works: bool) {
        self.state.lock().unwrap().kubelet = works;
    }

    /// Gives a Deployment its pods, while the kubelet does not work.
    pub fn settle(&self, name: &str) {
        self.state.lock().unwrap().settle(&key("deployments", Some("shop"), name));
        self.changed.notify_waiters();
    }

    /// Changes the served definition: one without some fields is of an older version.
    pub fn redefine(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.state.lock().unwrap().schema);
    }

    pub fn define(&self) {
        self.state.lock().unwrap().defined = true;
    }

    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Client::new(service, "default")
    }

    /// Puts faults in: `decide(method, path)`.
    pub fn fault(&self, decide: impl FnMut(&str, &str) -> Option<Fault> + Send + 'static) {
        *self.faults.lock().unwrap() = Some(Box::new(decide));
    }

    pub fn heal(&self) {
        *self.faults.lock().unwrap() = None;
        self.changed.notify_waiters();
    }

    async fn healed(&self) {
        loop {
            let changed = self.changed.notified();
            futures::pin_mut!(changed);
            changed.as_mut().enable();
            if self.faults.lock().unwrap().is_none() {
                return;
            }
            changed.await;
        }
    }

    /// Ends every watch and answers nothing but errors, until [`Server::start`].
    pub fn stop(&self) {
        let mut state = self.state.lock().unwrap();
        state.down = true;
        state.epoch += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn start(&self) {
        self.state.lock().unwrap().down = false;
    }

    /// All calls since the last time, and forgets them.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    pub fn writes(&self) -> Vec<Call> {
        self.state.lock().unwrap().calls.iter().filter(|c| c.is_write()).cloned().collect()
    }

    pub fn get(&self, plural: &str, name: &str) -> Option<Value> {
        self.get_in("shop", plural, name)
    }

    pub fn get_in(&self, namespace: &str, plural: &str, name: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(&key(plural, Some(namespace), name)).cloned()
    }

    pub fn list(&self, plural: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(k, _)| k.0 == plural).map(|(_, v)| v.clone()).collect()
    }

    /// Stores an object as a user would by `kubectl apply`.
    pub fn put(&self, plural: &str, object: Value) {
        self.put_in("shop", plural, object);
    }

    /// As [`Server::put`], in another namespace.
    pub fn put_in(&self, namespace: &str, plural: &str, mut object: Value) {
        let mut state = self.state.lock().unwrap();
        object["metadata"]["namespace"] = json!(namespace);
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let key = (plural.to_owned(), namespace.to_owned(), name);
        let next = match state.objects.get(&key) {
            Some(old) => {
                let mut next = old.clone();
                merge(&mut next, &object);
                next["spec"] = object["spec"].clone();
                next
            }
            None => object,
        };
        state.store(&key, next);
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn delete(&self, plural: &str, name: &str) {
        let mut state = self.state.lock().unwrap();
        let key = (plural.to_owned(), "shop".to_owned(), name.to_owned());
        state.remove(&key);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Changes an object as somebody else than the operator would.
    pub fn edit(&self, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock().unwrap();
        let key = (plural.to_owned(), "shop".to_owned(), name.to_owned());
        let mut object = state.objects.get(&key).expect("it exists").clone();
        change(&mut object);
        state.store(&key, object);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Changes every object that is written from now on, as a mutating webhook does: `change(plural, object)`.
    pub fn webhook(&self, change: impl FnMut(&str, &mut Value) + Send + 'static) {
        *self.webhook.lock().unwrap() = Some(Box::new(change));
    }

    /// Holds back what the watches of a kind would be told, or tells it all at once.
    pub fn hold_watches(&self, plural: &str, held: bool) {
        let mut state = self.state.lock().unwrap();
        if held {
            state.held.insert(plural.to_owned());
        } else {
            state.held.remove(plural);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until `done` says so, at most ten minutes of the paused clock.
    pub async fn until<T>(&self, what: &str, mut done: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
        loop {
            if let Some(found) = done(self) {
                return found;
            }
            let calls = || {
                let state = self.state.lock().unwrap();
                state
                    .calls
                    .iter()
                    .map(|c| format!("{} {} {}", c.method, c.path, c.status))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            assert!(tokio::time::Instant::now() < deadline, "never came: {what}\n{}", calls());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn replicas_of(&self, path: &str) -> Option<i64> {
        let name = path.split_once("/deployments/")?.1.split('/').next()?;
        self.get("deployments", name)?["spec"]["replicas"].as_i64()
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Body>) -> Result<Answer, std::io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| {
                (k.to_owned(), v.replace("%2F", "/").replace("%3D", "=").replace("%2C", ","))
            })
            .collect();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let method = parts.method.as_str().to_owned();
        if self.state.lock().unwrap().down {
            return Err(std::io::Error::new(
                std::io::ErrorKind::ConnectionRefused,
                "connection refused",
            ));
        }
        let fault = self.faults.lock().unwrap().as_mut().and_then(|decide| decide(&method, &path));
        let before = self.replicas_of(&path);
        let record = |status: u16| {
            let manager = query.get("fieldManager").cloned().unwrap_or_default();
            let call = Call {
                method: method.clone(),
                path: path.clone(),
                manager,
                body: body.clone(),
                status,
                replicas: (before, self.replicas_of(&path)),
            };
            self.state.lock().unwrap().calls.push(call);
        };
        match fault {
            Some(Fault::Hang) => {
                record(0);
                futures::future::pending::<()>().await;
            }
            Some(Fault::Status(code, message)) => {
                record(code);
                return Ok(status(code, message));
            }
            Some(Fault::Lost) => {
                let answer = self.handle(&method, &path, &query, &body);
                record(answer.status().as_u16());
                self.changed.notify_waiters();
                return Ok(status(500, "the answer is lost"));
            }
            Some(Fault::Slow) => self.healed().await,
            None => {}
        }
        if query.contains_key("watch") {
            return Ok(self.watch(&path, &query));
        }
        let answer = self.handle(&method, &path, &query, &body);
        record(answer.status().as_u16());
        self.changed.notify_waiters();
        Ok(answer)
    }

    fn handle(
        &self,
        method: &str,
        path: &str,
        query: &BTreeMap<String, String>,
        body: &Value,
    ) -> Answer {
        let mut state = self.state.lock().unwrap();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if path == "/apis/sluice.dev/v1alpha1" {
            let resources = json!([{ "name": "kafkaconsumers", "namespaced": true, "kind": "KafkaConsumer", "singularName": "", "verbs": [] }]);
            let list = json!({ "kind": "APIResourceList", "groupVersion": "sluice.dev/v1alpha1", "resources": resources });
            return if state.defined {
                ok(&list)
            } else {
                status(404, "the server could not find the requested resource")
            };
        }
        if path == "/openapi/v3/apis/sluice.dev/v1alpha1" {
            let schemas = json!({ "dev.sluice.v1alpha1.KafkaConsumer": state.schema });
            return ok(&json!({ "openapi": "3.0.0", "components": { "schemas": schemas } }));
        }
        let rest: Vec<&str> =
            if parts[0] == "api" { parts[2..].to_vec() } else { parts[3..].to_vec() };
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] => (Some(*namespace), rest.to_vec()),
            rest => (None, rest.to_vec()),
        };
        match (method, rest.as_slice()) {
            ("GET", [plural]) => {
                let items: Vec<_> = state
                    .objects
                    .iter()
                    .filter(|((p, n, _), _)| {
                        p == plural && namespace.is_none_or(|wanted| n == wanted)
                    })
                    .filter(|(_, object)| selected(object, query.get("labelSelector")))
                    .map(|(_, object)| object.clone())
                    .collect();
                let version = state.version.to_string();
                ok(
                    &json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items }),
                )
            }
            ("GET", [plural, name]) => match state.objects.get(&key(plural, namespace, name)) {
                Some(object) => ok(object),
                None => status(404, "not found"),
            },
            ("POST", [plural]) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default();
                let stored = state.store(&key(plural, namespace, name), body.clone());
                ok(&stored)
            }
            ("PATCH", [plural, name, sub @ ..]) => {
                let key = key(plural, namespace, name);
                let old = state.objects.get(&key).cloned();
                let uid = body["metadata"]["uid"].as_str();
                if uid.is_some()
                    && old.as_ref().is_none_or(|o| o["metadata"]["uid"].as_str() != uid)
                {
                    return if sub.is_empty() || old.is_some() {
                        status(409, "uid mismatch")
                    } else {
                        status(404, "not found")
                    };
                }
                let version = body["metadata"]["resourceVersion"].as_str();
                if version.is_some()
                    && old.as_ref().and_then(|o| o["metadata"]["resourceVersion"].as_str())
                        != version
                {
                    return status(409, "the object has been modified");
                }
                let manager = query.get("fieldManager").map(String::as_str).unwrap_or_default();
                let mut next = match (&old, sub) {
                    (None, []) if !manager.is_empty() => {
                        json!({ "apiVersion": body["apiVersion"], "kind": body["kind"] })
                    }
                    (None, _) => return status(404, "not found"),
                    (Some(old), _) => old.clone(),
                };
                if sub == ["status"] {
                    let declared = &state.schema["properties"]["status"];
                    if *plural == "kafkaconsumers"
                        && let Some(field) = undeclared(&body["status"], declared, ".status")
                    {
                        let message = format!(
                            "failed to create typed patch object ({name}; sluice.dev/v1alpha1, \
                             Kind=KafkaConsumer): {field}: field not declared in schema"
                        );
                        return status(500, &message);
                    }
                    next["status"] = body["status"].clone();
                } else {
                    let mut patch = body.clone();
                    if let Some(meta) = patch["metadata"].as_object_mut() {
                        meta.remove("uid");
                    }
                    merge(&mut next, &patch);
                }
                if sub.is_empty()
                    && let Some(webhook) = self.webhook.lock().unwrap().as_mut()
                {
                    webhook(plural, &mut next);
                }
                if !manager.is_empty() && sub.is_empty() {
                    manage(&mut next, manager, body, old.as_ref());
                }
                let stored = state.store(&key, next);
                if *plural == "deployments" && state.kubelet {
                    state.settle(&key);
                }
                ok(&stored)
            }
            ("DELETE", [plural, name]) => {
                let key = key(plural, namespace, name);
                let wanted = body["preconditions"]["uid"].as_str();
                match state.objects.get(&key).map(|o| o["metadata"]["uid"].clone()) {
                    None => return status(404, "not found"),
                    Some(uid) if wanted.is_some_and(|w| uid != w) => {
                        return status(409, "uid mismatch");
                    }
                    Some(_) => {}
                }
                let gone = state.objects[&key].clone();
                state.remove(&key);
                ok(&gone)
            }
            _ => status(405, "the fake API server does not know this request"),
        }
    }

    fn watch(&self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let mut parts = path.rsplit('/');
        let plural = parts.next().unwrap_or_default().to_owned();
        let namespace = parts.next().unwrap_or_default().to_owned();
        let all = parts.next() != Some("namespaces");
        let selector = query.get("labelSelector").cloned();
        let from: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let server = self.clone();
        let epoch = self.state.lock().unwrap().epoch;
        let events = stream::unfold(from, move |seen| {
            let (server, plural, selector) = (server.clone(), plural.clone(), selector.clone());
            let namespace = namespace.clone();
            async move {
                loop {
                    let changed = server.changed.notified();
                    futures::pin_mut!(changed);
                    changed.as_mut().enable();
                    {
                        let state = server.state.lock().unwrap();
                        if state.epoch != epoch {
                            return None;
                        }
                        if seen < state.compacted {
                            let gone = json!({
                                "kind": "Status", "status": "Failure", "reason": "Expired",
                                "message": "too old resource version", "code": 410,
                            });
                            let line = format!("{}\n", json!({ "type": "ERROR", "object": gone }));
                            return Some((line, u64::MAX));
                        }
                        // The log is sorted by version.
                        let unseen = state.log.partition_point(|change| change.version <= seen);
                        let next = state.log[unseen..].iter().find_map(|change| {
                            let here = all || change.namespace == namespace;
                            if change.plural != plural || !here {
                                return None;
                            }
                            let event = change.event(selector.as_ref())?;
                            Some((format!("{event}\n"), change.version))
                        });
                        if let Some(next) = next.filter(|_| !state.held.contains(&plural)) {
                            return Some(next);
                        }
                    }
                    changed.await;
                }
            }
        });
        let lines = events.map(|line| Ok::<_, Infallible>(Bytes::from(line)));
        Response::builder()
            .header("content-type", "application/json")
            .body(axum::body::Body::from_stream(lines))
            .unwrap()
    }
}

impl State {
    /// Stores an object under the next version, unless nothing changed, and tells the watches.
    fn store(&mut self, key: &(String, String, String), mut object: Value) -> Value {
        let old = self.objects.get(key);
        if old == Some(&object) {
            return object;
        }
        let spec_changed = old.is_none_or(|old| old["spec"] != object["spec"]);
        self.version += 1;
        let version = self.version;
        let generation = old.and_then(|o| o["metadata"]["generation"].as_i64()).unwrap_or(0);
        let old = old.cloned();
        let meta = &mut object["metadata"];
        if old.is_none() {
            meta["uid"] = json!(format!("uid-{version}"));
            meta["creationTimestamp"] =
                json!(jiff::Timestamp::now().round(jiff::Unit::Second).unwrap().to_string());
            meta["namespace"] = json!(key.1);
            meta["name"] = json!(key.2);
        }
        meta["generation"] = json!(if spec_changed { generation + 1 } else { generation });
        meta["resourceVersion"] = json!(version.to_string());
        self.objects.insert(key.clone(), object.clone());
        let new = Some(object.clone());
        let (plural, namespace) = (key.0.clone(), key.1.clone());
        self.log.push(Change { version, plural, namespace, old, new });
        object
    }

    fn remove(&mut self, key: &(String, String, String)) {
        if let Some(object) = self.objects.remove(key) {
            self.version += 1;
            let version = self.version;
            let (plural, namespace) = (key.0.clone(), key.1.clone());
            self.log.push(Change { version, plural, namespace, old: Some(object), new: None });
        }
    }

    /// What the Deployment controller, the scheduler and the kubelet do, at once.
    fn settle(&mut self, key: &(String, String, String)) {
        let mut deployment = self.objects[key].clone();
        let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let template = deployment["spec"]["template"].clone();
        for number in 0..64 {
            let pod =
                ("pods".to_owned(), key.1.clone(), format!("{}-7d9c4b5f6-{number:05}", key.2));
            if number < replicas && !self.objects.contains_key(&pod) {
                self.store(
                    &pod,
                    json!({
                        "apiVersion": "v1", "kind": "Pod",
                        "metadata": { "labels": template["metadata"]["labels"] },
                        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
                    }),
                );
            } else if number >= replicas {
                self.remove(&pod);
            }
        }
        deployment["status"] = json!({
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas,
        });
        self.store(key, deployment);
    }
}

fn key(plural: &str, namespace: Option<&str>, name: &str) -> (String, String, String) {
    (plural.to_owned(), namespace.unwrap_or_default().to_owned(), name.to_owned())
}

fn selected(object: &Value, selector: Option<&String>) -> bool {
    selector.is_none_or(|selector| {
        selector.split(',').all(|term| {
            let labels = &object["metadata"]["labels"];
            match term.split_once('=') {
                Some((key, value)) => labels[key] == value,
                None => !labels[term].is_null(),
            }
        })
    })
}

/// The definition that the operator was built with.
pub fn schema_of_the_operator() -> Value {
    let crd = serde_json::to_value(sluice_crds::kafkaconsumer::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The first field that a schema does not declare: server-side apply refuses it, where other writes drop it.
fn undeclared(value: &Value, schema: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(_) if !schema["additionalProperties"].is_null() => None,
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let path = format!("{path}.{name}");
            match &schema["properties"][name] {
                Value::Null => Some(path),
                schema => undeclared(field, schema, &path),
            }
        }),
        Value::Array(items) => {
            items.iter().find_map(|item| undeclared(item, &schema["items"], path))
        }
        _ => None,
    }
}

/// Deep merge; lists are replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Books who manages what, as far as the operator looks at it.
fn manage(object: &mut Value, manager: &str, body: &Value, old: Option<&Value>) {
    let mut fields = json!({});
    if !body["spec"]["replicas"].is_null() {
        fields = json!({ "f:spec": { "f:replicas": {} } });
    }
    let mut entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let mut without = object.clone();
    let mut before = old.cloned().unwrap_or(Value::Null);
    for object in [&mut without, &mut before] {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("managedFields");
        }
    }
    let time = entries.iter().find(|e| e["manager"] == manager).map(|e| e["time"].clone());
    let now = json!(jiff::Timestamp::now().round(jiff::Unit::Second).unwrap().to_string());
    let time = time.filter(|_| without == before).unwrap_or(now);
    entries.retain(|e| e["manager"] != manager);
    entries.push(
        json!({ "manager": manager, "operation": "Apply", "time": time, "fieldsType": "FieldsV1", "fieldsV1": fields }),
    );
    object["metadata"]["managedFields"] = Value::Array(entries);
}

fn ok(value: &Value) -> Answer {
    answer(StatusCode::OK, value)
}

fn status(code: u16, message: &str) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    let value = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code });
    answer(StatusCode::from_u16(code).unwrap(), &value)
}

fn answer(code: StatusCode, value: &Value) -> Answer {
    let body = axum::body::Body::from(value.to_string());
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}
