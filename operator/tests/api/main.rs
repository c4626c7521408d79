//! The operator against a stateful fake API server that records the conversation, and a Kafka that says what a test wants:
//! what is written when, and what is not.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::expect_used)]
#![allow(clippy::too_many_lines)]

mod budget;
mod claims;
mod configs;
mod fairness;
mod images;
mod kafka;
mod lifecycle;
mod load;
mod pages;
mod retries;
mod safety;
mod server;
mod status;
mod watches;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use kafka::FakeKafka;
use serde_json::{Value, json};
use server::{Call, Fault, Server};
use sluice_operator::{args::Args, control::run, kafka::port::ReadError};
use sluice_planner::snapshot::Committed;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

struct Operator {
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<(), run::Error>>,
    /// Where it serves.
    address: SocketAddr,
}

fn start(server: &Server, kafka: &FakeKafka) -> Operator {
    start_with(server, kafka, &[])
}

/// Starts an operator with more arguments.
fn start_with(server: &Server, kafka: &FakeKafka, more: &[&str]) -> Operator {
    // A port that is free now; the operator binds it again a moment later.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = address.to_string();
    let named = more.contains(&"--consumer-image");
    let image: &[&str] = if named { &[] } else { &["--consumer-image", "sluice/consumer:1"] };
    let fixed = ["op", "--listen", &listen];
    let args = Args::try_parse_from(fixed.iter().chain(image).chain(more)).unwrap();
    let stop = CancellationToken::new();
    let work = run::operate(args, server.client(), Arc::new(kafka.clone()), stop.clone());
    Operator { stop, task: AbortOnDropHandle::new(tokio::spawn(work)), address }
}

impl Operator {
    /// Asks the operator's own server, as the kubelet and Prometheus do: the code, and the body.
    async fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = loop {
            // It binds in a task of its own.
            match TcpStream::connect(self.address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: op\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Waits until its own server takes no more connections.
    async fn unreachable(&self) {
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task)
            .await
            .expect("it stops")
            .unwrap()
            .unwrap();
    }
}

/// A consumer in mode Manual: the number of pods is the test's.
fn consumer(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "KafkaConsumer",
        "metadata": { "name": name },
        "spec": {
            "kafka": { "bootstrapServers": "kafka:9092", "topics": ["orders"] },
            "handler": { "log": {} },
            "replicas": replicas,
            "scaling": { "mode": "Manual" },
        },
    })
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == type_)
}

fn is(object: &Value, type_: &str, status: &str, reason: &str) -> bool {
    condition(object, type_).is_some_and(|c| c["status"] == status && c["reason"] == reason)
}

async fn ready(server: &Server, name: &str, replicas: i64) -> Value {
    server
        .until(&format!("{name} ready with {replicas}"), |s| {
            let object = s.get("kafkaconsumers", name)?;
            let right = object["status"]["desiredReplicas"] == replicas
                && object["status"]["readyReplicas"] == replicas;
            (right && condition(&object, "Ready")?["status"] == "True").then_some(object)
        })
        .await
}

/// An operator that runs the consumer `orders` with so many pods, of a topic with 12 partitions.
async fn running(pods: i64) -> (Server, FakeKafka, Operator) {
    let kafka = FakeKafka::new(12);
    let (server, operator) = running_on(&kafka, pods).await;
    (server, kafka, operator)
}

/// As [`running`], beside this Kafka.
async fn running_on(kafka: &FakeKafka, pods: i64) -> (Server, Operator) {
    let server = Server::new();
    let operator = start(&server, kafka);
    server.put("kafkaconsumers", consumer("orders", pods));
    ready(&server, "orders", pods).await;
    (server, operator)
}

/// As [`running`], when nothing is left to do; what was asked of the API server until then is forgotten.
async fn at_rest(pods: i64) -> (Server, FakeKafka, Operator) {
    let (server, kafka, operator) = running(pods).await;
    quiet().await;
    server.take_calls();
    (server, kafka, operator)
}

/// Lets all that is due happen: seconds in which nothing new comes in from outside.
async fn quiet() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

fn replicas_patches(calls: &[Call]) -> Vec<i64> {
    let scaler = |c: &&Call| c.manager.contains("scaler");
    calls.iter().filter(scaler).map(|c| c.body["spec"]["replicas"].as_i64().unwrap()).collect()
}

fn statuses(calls: &[Call]) -> usize {
    calls.iter().filter(|c| c.path.ends_with("/status")).count()
}

#[tokio::test(start_paused = true)]
async fn a_consumer_gets_its_files_before_its_pods_and_a_status_that_says_so() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    let object = ready(&server, "orders", 3).await;
    let status = &object["status"];
    assert_eq!(status["groupId"], "shop.orders");
    assert_eq!(status["protocol"], "Classic");
    assert_eq!(status["image"], "sluice/consumer:1");
    assert_eq!(status["partitions"], 12);
    assert_eq!(
        status["selector"],
        "app.kubernetes.io/name=kafka-consumer,app.kubernetes.io/instance=orders"
    );
    for type_ in ["Ready", "KafkaReachable", "ScalingActive", "ScalingLimited", "GroupConflict"] {
        assert!(condition(&object, type_).is_some(), "{type_} is always there");
    }
    let order: Vec<_> = server
        .writes()
        .iter()
        .filter(|c| !c.path.ends_with("/status") && !c.path.contains("events"))
        .map(|c| c.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let config = configs::name(&server).unwrap();
    assert_eq!(order, [&config, "orders-tuning", "orders", "orders"]);
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_steady_state_makes_no_write_and_no_read() {
    let (server, kafka, _operator) = at_rest(3).await;
    for reading in 0..60 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = server.take_calls();
    assert!(calls.is_empty(), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_operator_finds_all_as_it_is_and_writes_nothing() {
    let (server, kafka, operator) = running(3).await;
    quiet().await;
    operator.stop().await;
    server.take_calls();
    let _operator = start(&server, &kafka);
    quiet().await;
    assert!(!kafka.followed().is_empty(), "it reads the group again");
    let writes: Vec<_> = server.writes();
    assert!(writes.is_empty(), "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn scaling_writes_the_number_once_and_the_status_once() {
    let (server, _, _operator) = at_rest(3).await;
    // Pods that take their time: what is written is then the decision alone.
    server.kubelet(false);
    server.put("kafkaconsumers", consumer("orders", 7));
    quiet().await;
    let calls = server.take_calls();
    assert_eq!(replicas_patches(&calls), [7]);
    assert_eq!(statuses(&calls), 1, "{calls:?}");
    let events: Vec<_> =
        calls.iter().filter(|c| c.path.ends_with("/events")).map(|c| &c.body).collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["reason"], "ScaledUp");
    assert!(events[0]["note"].as_str().unwrap().starts_with("3 → 7 pods"), "{events:?}");
    assert_eq!(calls.iter().filter(|c| c.is_write()).count(), 3, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_pods_than_partitions_run() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 9));
    let object = ready(&server, "orders", 4).await;
    assert!(is(&object, "ScalingLimited", "True", "Partitions"), "{object:#}");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_in_a_child_is_put_back() {
    let (server, _, _operator) = running(3).await;
    quiet().await;
    let mut deployment = server.get("deployments", "orders").unwrap();
    deployment["spec"]["replicas"] = json!(1);
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil");
    server.put("deployments", deployment);
    server
        .until("the image is put back", |s| {
            let spec = s.get("deployments", "orders")?["spec"].clone();
            let image = spec["template"]["spec"]["containers"][0]["image"] == "sluice/consumer:1";
            (image && spec["replicas"] == 3).then_some(())
        })
        .await;
    let config = configs::name(&server).unwrap();
    server.delete("configmaps", &config);
    server.until("the file is created again", |s| s.get("configmaps", &config)).await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_or_followed_does_not_stop_the_others() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    let mut unreadable = consumer("unreadable", 3);
    unreadable["spec"]["kafka"]["topics"] = json!({ "not": "a list" });
    let mut unfollowable = consumer("unfollowable", 3);
    unfollowable["spec"]["kafka"]["properties"] = json!({ "plugin.library.paths": "/tmp/evil.so" });
    server.put("kafkaconsumers", unreadable);
    server.put("kafkaconsumers", unfollowable);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    quiet().await;
    let object = server.get("kafkaconsumers", "unfollowable").unwrap();
    assert!(is(&object, "Ready", "False", "InvalidSpec"), "{object:#}");
    let said = condition(&object, "Ready").unwrap()["message"].as_str().unwrap();
    assert!(said.contains("plugin.library.paths"), "{said}");
    assert!(server.get("deployments", "unfollowable").is_none());
    let events = server.list("events");
    let about = |name: &str| events.iter().filter(|e| e["regarding"]["name"] == name).count();
    assert_eq!((about("unreadable"), about("unfollowable")), (1, 1), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_deleted_in_mid_pass_leaves_nothing_behind() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    let inner = server.clone();
    // It goes after the files were written and before the Deployment.
    server.fault(move |method, path| {
        if method == "PATCH" && path.ends_with("/deployments/orders") {
            inner.delete("kafkaconsumers", "orders");
            return Some(Fault::Status(404, "namespaces \"shop\" not found"));
        }
        None
    });
    server.put("kafkaconsumers", consumer("orders", 3));
    server
        .until("the group is left", |s| {
            (s.get("kafkaconsumers", "orders").is_none() && kafka.followed().is_empty())
                .then_some(())
        })
        .await;
    server.take_calls();
    server.heal();
    quiet().await;
    assert_eq!(server.writes().len(), 0, "{:?}", server.writes());
    // Others, and one of the same name, go on.
    for config in server.list("configmaps") {
        server.delete("configmaps", config["metadata"]["name"].as_str().unwrap());
    }
    server.put("kafkaconsumers", consumer("orders", 2));
    ready(&server, "orders", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_consumers_children_are_left_alone() {
    let (server, _, _operator) = running(3).await;
    let mut paused = consumer("orders", 6);
    paused["metadata"]["annotations"] = json!({ "sluice.dev/paused": "true" });
    server.put("kafkaconsumers", paused);
    server
        .until("it says that it is paused", |s| {
            is(&s.get("kafkaconsumers", "orders")?, "ScalingActive", "False", "Paused")
                .then_some(())
        })
        .await;
    server.take_calls();
    quiet().await;
    assert!(server.writes().iter().all(|c| c.path.ends_with("/status")), "{:?}", server.writes());
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_suspended_consumer_has_no_pods_and_keeps_its_offsets() {
    let kafka = FakeKafka::new(2);
    let (server, _operator) = running_on(&kafka, 2).await;
    let mut suspended = consumer("orders", 2);
    suspended["spec"]["suspend"] = json!(true);
    server.put("kafkaconsumers", suspended);
    let object = server
        .until("no pods", |s| {
            let object = s.get("kafkaconsumers", "orders")?;
            (is(&object, "Ready", "True", "Suspended") && !object["status"]["parked"].is_null())
                .then_some(object)
        })
        .await;
    assert_eq!(object["status"]["parked"]["clusterId"], "cluster");
    assert_eq!(object["status"]["parked"]["topics"][0]["offsets"], json!([200, 200]));
    // The broker expires one of them; it is put back before the first pod.
    kafka.snapshot(|s| s.partitions[1].committed = Committed::None);
    quiet().await;
    server.put("kafkaconsumers", consumer("orders", 2));
    let object = ready(&server, "orders", 2).await;
    assert_eq!(kafka.commits(), [("orders".to_owned(), 1, 200)]);
    server
        .until("they are dropped", |s| {
            s.get("kafkaconsumers", "orders")?["status"]["parked"].is_null().then_some(())
        })
        .await;
    assert!(server.list("events").iter().any(|e| e["reason"] == "OffsetsRestored"), "{object:#}");
}

#[tokio::test(start_paused = true)]
async fn a_start_is_committed_before_the_first_pod() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    kafka.snapshot(|s| s.partitions.iter_mut().for_each(|p| p.committed = Committed::Unknown));
    let _operator = start(&server, &kafka);
    let mut latest = consumer("orders", 1);
    latest["spec"]["kafka"]["startFrom"] = json!("Latest");
    server.put("kafkaconsumers", latest);
    server.until("the children", |s| s.get("deployments", "orders")).await;
    quiet().await;
    // Unknown is not "none": nothing is committed, and no pod starts.
    assert!(kafka.commits().is_empty());
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 0);
    kafka.snapshot(|s| s.partitions.iter_mut().for_each(|p| p.committed = Committed::None));
    ready(&server, "orders", 1).await;
    assert_eq!(kafka.commits(), [("orders".to_owned(), 0, 200), ("orders".to_owned(), 1, 200)]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_somebody_elses_is_left_to_them() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    let _operator = start(&server, &kafka);
    let theirs = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "orders-tuning" }, "data": { "a": "b" } });
    server.put("configmaps", theirs);
    server.put("kafkaconsumers", consumer("orders", 1));
    let object = server
        .until("it says so", |s| {
            let object = s.get("kafkaconsumers", "orders")?;
            is(&object, "Ready", "False", "NameTaken").then_some(object)
        })
        .await;
    assert_eq!(
        server.get("configmaps", "orders-tuning").unwrap()["data"],
        json!({ "a": "b" }),
        "{object:#}"
    );
}

#[tokio::test(start_paused = true)]
async fn new_knobs_reach_the_pods_at_once_and_roll_none() {
    let (server, _operator) = running_on(&FakeKafka::new(2), 2).await;
    for mut pod in server.list("pods") {
        pod["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
        server.put("pods", pod);
    }
    quiet().await;
    let template = server.get("deployments", "orders").unwrap()["spec"]["template"].clone();
    server.take_calls();
    // The bounds force another batch size: 50 is above them now.
    let mut bounded = consumer("orders", 2);
    bounded["spec"]["tuning"] = json!({ "batchSize": { "min": 1, "max": 40 } });
    server.put("kafkaconsumers", bounded);
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert_eq!(
        (&object["status"]["batchSize"], &object["status"]["tuningRevision"]),
        (&json!(40), &json!(2))
    );
    let file = server.get("configmaps", "orders-tuning").unwrap()["data"]["tuning.yaml"].clone();
    assert!(file.as_str().unwrap().contains("batchSize: 40"), "{file}");
    for pod in server.list("pods") {
        assert_eq!(pod["metadata"]["annotations"]["sluice.dev/tuning-revision"], "2", "{pod:#}");
    }
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["template"], template);
    let nudges = server.take_calls().iter().filter(|c| c.path.contains("/pods/")).count();
    assert_eq!(nudges, 2, "each pod is annotated once");
}

#[tokio::test(start_paused = true)]
async fn a_new_dry_run_begins_with_its_least_pods_however_long_the_start_takes() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    kafka.snapshot(|s| s.partitions.iter_mut().for_each(|p| p.committed = Committed::Unknown));
    let _operator = start(&server, &kafka);
    let mut dry = consumer("orders", 0);
    dry["spec"].as_object_mut().unwrap().remove("replicas");
    dry["spec"]["scaling"] = json!({ "mode": "DryRun", "minReplicas": 0 });
    server.put("kafkaconsumers", dry);
    quiet().await;
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 0);
    kafka.snapshot(|s| s.partitions.iter_mut().for_each(|p| p.committed = Committed::At(100)));
    let object = ready(&server, "orders", 1).await;
    assert!(is(&object, "ScalingActive", "False", "DryRun"), "{object:#}");
}

#[tokio::test(start_paused = true)]
async fn with_apply_on_rebalance_the_pods_wait_two_seconds_for_their_knobs() {
    let (server, kafka) = (Server::new(), FakeKafka::new(8));
    let _operator = start(&server, &kafka);
    let with = |replicas: i64, max: i64| {
        let mut object = consumer("orders", replicas);
        object["spec"]["tuning"] =
            json!({ "applyOn": "Rebalance", "batchSize": { "min": 1, "max": max } });
        object
    };
    server.put("kafkaconsumers", with(2, 50));
    ready(&server, "orders", 2).await;
    server.take_calls();
    server.put("kafkaconsumers", with(5, 40));
    let tuned = |s: &Server| {
        s.writes().iter().any(|c| c.path.ends_with("orders-tuning")).then(tokio::time::Instant::now)
    };
    let scaled =
        |s: &Server| (!replicas_patches(&s.writes()).is_empty()).then(tokio::time::Instant::now);
    let (tuned, scaled) =
        (server.until("the knobs", tuned).await, server.until("the pods", scaled).await);
    let waited = scaled - tuned;
    assert!((Duration::from_millis(1_900)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_being_deleted_is_left_to_the_garbage_collector() {
    let kafka = FakeKafka::new(8);
    let (server, _operator) = running_on(&kafka, 2).await;
    quiet().await;
    server.take_calls();
    let mut going = server.get("kafkaconsumers", "orders").unwrap();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    going["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    server.put("kafkaconsumers", going);
    server.delete("deployments", "orders");
    quiet().await;
    assert!(server.writes().is_empty(), "{:?}", server.writes());
    assert!(kafka.followed().is_empty(), "its group is no longer read");
}

#[tokio::test(start_paused = true)]
async fn no_pods_because_nothing_is_known_is_not_ready() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let trouble =
        ReadError { reason: "UnknownTopic", message: "the topic orders does not exist".to_owned() };
    kafka.set(|reading| {
        reading.snapshot = None;
        reading.error = Some(trouble);
    });
    let _operator = start(&server, &kafka);
    let mut auto = consumer("orders", 0);
    auto["spec"].as_object_mut().unwrap().remove("replicas");
    auto["spec"]["scaling"] = json!({ "minReplicas": 0 });
    server.put("kafkaconsumers", auto);
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "False", "UnknownTopic"), "{object:#}");
    assert!(is(&object, "KafkaReachable", "False", "UnknownTopic"), "{object:#}");
}
