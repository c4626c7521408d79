//! When a pass that failed is tried again.

use std::{cell::RefCell, io::Write, sync::Once, time::Duration};

use serde_json::json;

use crate::{
    condition, consumer, is,
    kafka::FakeKafka,
    quiet, ready, running, running_on,
    server::{Fault, Server},
    start, statuses,
};

/// From now on writes of objects whose path has `part` get `fault`.
fn fault_writes(server: &Server, part: &'static str, fault: Fault) {
    server.fault(move |method, path| {
        (method == "PATCH" && path.contains(part)).then(|| fault.clone())
    });
}

/// From now on the Deployment cannot be read, and no watch shows it any more.
fn lose_the_deployment(server: &Server) {
    server.fault(|method, path| {
        let read = method == "GET" && path.ends_with("/deployments/orders");
        read.then_some(Fault::Status(500, "etcdserver: leader changed"))
    });
    server.edit("deployments", "orders", |object| object["metadata"]["labels"] = json!({}));
}

/// A server that refuses the static configuration for two minutes, and then no longer.
async fn refused_for_long(server: &Server) {
    fault_writes(server, "/orders-config-", Fault::Status(422, "Invalid"));
    server.put("kafkaconsumers", consumer("orders", 3));
    tokio::time::sleep(Duration::from_secs(120)).await;
    server.heal();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_annotations_are_changed_is_tried_at_once() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    refused_for_long(&server).await;
    let before = tokio::time::Instant::now();
    server.edit("kafkaconsumers", "orders", |object| {
        object["metadata"]["annotations"] = json!({ "example.com/try": "again" });
    });
    ready(&server, "orders", 3).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_tried_at_once_when_an_object_that_carries_its_name_is_gone() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    // Of a consumer of this name that was deleted: the garbage collector has not come to it yet.
    let labels = json!({ "sluice.dev/consumer": "orders" });
    let old = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "orders-tuning", "labels": labels },
    });
    server.put("configmaps", old);
    server.put("kafkaconsumers", consumer("orders", 3));
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(server.get("deployments", "orders").is_none());
    let before = tokio::time::Instant::now();
    server.delete("configmaps", "orders-tuning");
    ready(&server, "orders", 3).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_is_cut_off_and_reported() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    fault_writes(&server, "/configmaps/", Fault::Hang);
    server.put("kafkaconsumers", consumer("orders", 3));
    tokio::time::sleep(Duration::from_secs(15)).await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "False", "Timeout"), "{object:#}");
    let message = condition(&object, "Ready").unwrap()["message"].to_string();
    assert!(message.contains("10 s"), "{message}");
    server.heal();
    let before = tokio::time::Instant::now();
    ready(&server, "orders", 3).await;
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_reported_with_the_servers_words_and_not_each_second() {
    let (server, kafka, _operator) = running(3).await;
    quiet().await;
    lose_the_deployment(&server);
    server.take_calls();
    for reading in 0..60 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "Unknown", "ObjectsUnknown"), "{object:#}");
    let message = condition(&object, "Ready").unwrap()["message"].to_string();
    assert!(
        message.contains("Deployment orders") && message.contains("leader changed"),
        "{message}"
    );
    assert_eq!(object["status"]["desiredReplicas"], 3, "what was known is kept");
    assert_eq!(statuses(&server.take_calls()), 1);
    server.heal();
    ready(&server, "orders", 3).await;
}

#[tokio::test(start_paused = true)]
async fn one_read_that_fails_changes_no_condition() {
    let (server, _, _operator) = running(3).await;
    quiet().await;
    let mut failures = 1;
    server.fault(move |method, path| {
        let read = method == "GET" && path.ends_with("/deployments/orders") && failures > 0;
        failures -= i32::from(read);
        read.then_some(Fault::Status(500, "etcdserver: leader changed"))
    });
    server.take_calls();
    server.edit("deployments", "orders", |object| object["metadata"]["labels"] = json!({}));
    quiet().await;
    let calls = server.take_calls();
    assert!(calls.iter().any(|c| c.status == 500), "{calls:?}");
    let unready = calls.iter().filter(|c| c.path.ends_with("/status"));
    let unready = unready.filter(|c| !is(&c.body, "Ready", "True", "AsDecided")).count();
    assert_eq!(unready, 0, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn knobs_whose_write_fails_are_not_reported_as_changed_until_they_are() {
    let (server, _operator) = running_on(&FakeKafka::new(2), 2).await;
    fault_writes(
        &server,
        "/configmaps/orders-tuning",
        Fault::Status(500, "etcdserver: leader changed"),
    );
    // The bounds force another batch size: 50 is above them now.
    let mut bounded = consumer("orders", 2);
    bounded["spec"]["tuning"] = json!({ "batchSize": { "min": 1, "max": 40 } });
    server.put("kafkaconsumers", bounded);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let notes = |server: &Server| -> Vec<String> {
        let events = server.list("events").into_iter();
        let changed = events.filter(|event| event["reason"] == "KnobsChanged");
        changed.filter_map(|event| Some(event["note"].as_str()?.to_owned())).collect()
    };
    let status =
        |server: &Server| server.get("kafkaconsumers", "orders").unwrap()["status"].clone();
    let failing = status(&server);
    assert_eq!((&failing["batchSize"], &failing["tuningRevision"]), (&json!(50), &json!(1)));
    assert_eq!(notes(&server), Vec::<String>::new());
    server.heal();
    tokio::time::sleep(Duration::from_secs(90)).await;
    let written = status(&server);
    assert_eq!((&written["batchSize"], &written["tuningRevision"]), (&json!(40), &json!(2)));
    assert_eq!(notes(&server), ["batch size 50 → 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_becomes_free_is_taken_within_a_minute() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    // No label: no watch shows that it is gone.
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "orders-tuning" },
    });
    server.put("configmaps", theirs);
    server.put("kafkaconsumers", consumer("orders", 3));
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "False", "NameTaken"), "{object:#}");
    server.delete("configmaps", "orders-tuning");
    let before = tokio::time::Instant::now();
    ready(&server, "orders", 3).await;
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_deleted_consumer_of_this_name_left_is_waited_for_and_not_called_somebody_elses() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    let owner = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "KafkaConsumer", "name": "orders",
        "uid": "of-before", "controller": true,
    });
    let labels = json!({ "sluice.dev/consumer": "orders" });
    let left = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "orders-tuning", "labels": labels, "ownerReferences": [owner] },
    });
    server.put("configmaps", left);
    server.put("kafkaconsumers", consumer("orders", 3));
    let object = server
        .until("it says so", |s| {
            let object = s.get("kafkaconsumers", "orders")?;
            is(&object, "Ready", "False", "NameTaken").then_some(object)
        })
        .await;
    let message = condition(&object, "Ready").unwrap()["message"].to_string();
    assert!(message.contains("garbage collector"), "{message}");
    server.delete("configmaps", "orders-tuning");
    ready(&server, "orders", 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_fails_is_tried_again_after_a_growing_wait_and_readings_do_not_hurry_it() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    fault_writes(&server, "/orders-config-", Fault::Status(500, "etcd is away"));
    server.put("kafkaconsumers", consumer("orders", 3));
    for reading in 0..60 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let tries = server
        .take_calls()
        .iter()
        .filter(|c| c.path.contains("/orders-config-") && c.is_write())
        .count();
    // 1 + 2 + 4 + 8 + 16 + 32 s, with jitter.
    assert!((4..=8).contains(&tries), "{tries} tries in a minute");
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "False", "ServerError"), "{object:#}");
    assert!(
        condition(&object, "Ready").unwrap()["message"].as_str().unwrap().contains("etcd is away")
    );
    server.heal();
    ready(&server, "orders", 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_is_put_right_is_tried_at_once() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    refused_for_long(&server).await;
    let before = tokio::time::Instant::now();
    server.put("kafkaconsumers", consumer("orders", 2));
    ready(&server, "orders", 2).await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_is_cut_off_and_holds_up_nobody_else() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    fault_writes(&server, "/slow-config-", Fault::Hang);
    server.put("kafkaconsumers", consumer("slow", 3));
    let mut other = consumer("orders", 3);
    other["spec"]["kafka"]["groupId"] = json!("another");
    server.put("kafkaconsumers", other);
    ready(&server, "orders", 3).await;
    tokio::time::sleep(Duration::from_secs(61)).await;
    server.heal();
    ready(&server, "slow", 3).await;
}

thread_local! {
    /// The warnings of this thread's test, once it reads them.
    static WARNINGS: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

struct ToThisThread;

impl Write for ToThisThread {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        WARNINGS.with_borrow_mut(|kept| {
            if let Some(kept) = kept {
                kept.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps the warnings of this thread from here on. The subscriber is that of all tests: with one of
/// a thread alone, `tracing` leaves out for good what another thread logged first.
fn keep_warnings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let warnings = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
        warnings.with_ansi(false).with_writer(|| ToThisThread).init();
    });
    WARNINGS.set(Some(Vec::new()));
}

/// The first warning with these words.
fn warning(words: &str) -> Option<String> {
    WARNINGS.with_borrow(|kept| {
        let text = String::from_utf8(kept.clone()?).unwrap();
        text.lines().find(|line| line.contains(words)).map(str::to_owned)
    })
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_fails_is_logged_with_its_cause() {
    keep_warnings();
    let (server, _, _operator) = running(3).await;
    lose_the_deployment(&server);
    let line = server.until("the line", |_| warning("a pass failed")).await;
    let cause = "cannot read Deployment orders: ApiError: etcdserver: leader changed";
    assert_eq!(line.matches(cause).count(), 1, "{line}");
    assert_eq!(line.matches("ApiError").count(), 1, "{line}");
}
