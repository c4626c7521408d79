//! What no fault of the API server, its watches or its other users may do: take pods away.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    consumer, is,
    kafka::FakeKafka,
    quiet, ready,
    server::{Call, Server},
    start,
};

/// Writes that lowered the number of pods: from, to.
fn lowered(calls: &[Call]) -> Vec<(i64, i64)> {
    let pairs = calls.iter().filter(|c| c.is_write() && c.status < 300).map(|c| c.replicas);
    pairs.filter_map(|(from, to)| Some((from?, to?))).filter(|(from, to)| to < from).collect()
}

fn remove_labels(object: &mut Value) {
    object["metadata"]["labels"] = json!({});
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_loses_its_labels_keeps_its_pods_and_gets_them_back() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    quiet().await;
    server.take_calls();
    let labels = server.get("deployments", "orders").unwrap()["metadata"]["labels"].clone();
    server.edit("deployments", "orders", remove_labels);
    server
        .until("the labels are back", |s| {
            (s.get("deployments", "orders")?["metadata"]["labels"] == labels).then_some(())
        })
        .await;
    quiet().await;
    assert_eq!(lowered(&server.take_calls()), []);
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_removes_the_labels_costs_no_pod_and_few_requests() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    server.webhook(|plural, object| {
        if plural != "pods" {
            remove_labels(object);
        }
    });
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    server
        .until("three pods", |s| {
            (s.get("deployments", "orders")?["spec"]["replicas"] == 3).then_some(())
        })
        .await;
    quiet().await;
    server.take_calls();
    for reading in 0..300 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = server.take_calls();
    assert_eq!(lowered(&calls), []);
    assert!(calls.len() < 50, "{} requests in 5 minutes: {calls:?}", calls.len());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_is_no_proof_that_nothing_is_there() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.hold_watches("deployments", true);
    server.put("kafkaconsumers", consumer("orders", 3));
    server
        .until("three pods", |s| {
            (s.get("deployments", "orders")?["spec"]["replicas"] == 3).then_some(())
        })
        .await;
    for reading in 0..120 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(lowered(&server.take_calls()), []);
    server.hold_watches("deployments", false);
    server.put("kafkaconsumers", consumer("orders", 4));
    ready(&server, "orders", 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_was_deleted_is_made_again_with_its_pods() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    quiet().await;
    server.take_calls();
    server.delete("deployments", "orders");
    ready(&server, "orders", 3).await;
    quiet().await;
    let events = server.list("events");
    assert!(events.iter().all(|e| e["reason"] != "ScaledDown"), "{events:#?}");
}

/// A pod that has ended and whose object stays, as after an eviction or the shutdown of its node.
fn evicted(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/managed-by": "sluice",
                "app.kubernetes.io/name": "kafka-consumer",
                "app.kubernetes.io/instance": "orders",
                "sluice.dev/consumer": "orders",
            },
        },
        "status": {
            "phase": "Failed", "reason": "Evicted",
            "containerStatuses": [{
                "name": "consumer", "ready": false, "restartCount": 1, "image": "i", "imageID": "",
                "state": { "terminated": { "exitCode": 137, "reason": "Error" } },
            }],
        },
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_keeps_no_offsets_from_being_parked() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 2));
    ready(&server, "orders", 2).await;
    server.put("pods", evicted("orders-7d9c4b5f6-zzzzz"));
    let mut suspended = consumer("orders", 2);
    suspended["spec"]["suspend"] = json!(true);
    server.put("kafkaconsumers", suspended);
    server
        .until("the offsets are parked", |s| {
            let object = s.get("kafkaconsumers", "orders")?;
            (!object["status"]["parked"].is_null()).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_does_not_make_the_consumer_unready() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 2));
    ready(&server, "orders", 2).await;
    server.put("pods", evicted("orders-7d9c4b5f6-zzzzz"));
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "True", "AsDecided"), "{object:#}");
}
