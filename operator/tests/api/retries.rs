//! When a pass that failed is tried again.

use std::time::Duration;

use serde_json::json;

use crate::{
    consumer,
    kafka::FakeKafka,
    ready,
    server::{Fault, Server},
    start,
};

/// A server that refuses the static configuration for two minutes, and then no longer.
async fn refused_for_long(server: &Server) {
    server.fault(|method, path| {
        (method == "PATCH" && path.contains("/orders-config-"))
            .then_some(Fault::Status(422, "Invalid"))
    });
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
