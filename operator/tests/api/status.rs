//! Scaling waits neither for a status nor for an event, and an older definition stops nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    condition, consumer, kafka::FakeKafka, quiet, ready, replicas_patches, running, server::*,
    start,
};

/// Waits until the Deployment has so many replicas, and says how long that took.
async fn scaled(server: &Server, replicas: i64) -> Duration {
    let before = tokio::time::Instant::now();
    server
        .until(&format!("{replicas} replicas"), |s| {
            (s.get("deployments", "orders")?["spec"]["replicas"] == replicas).then_some(())
        })
        .await;
    before.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_written_does_not_slow_scaling() {
    let (server, kafka, operator) = running(3).await;
    quiet().await;
    server.fault(|method, path| {
        (method == "PATCH" && path.ends_with("/status"))
            .then_some(Fault::Status(500, "etcdserver: request is too large"))
    });
    server.take_calls();
    // Long enough for a backoff of minutes, had each failure slowed the passes.
    for reading in 0..120 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        if reading == 1 {
            server.put("kafkaconsumers", consumer("orders", 4));
        }
        if reading == 110 {
            let mut other = consumer("orders", 4);
            other["spec"]["tuning"] = json!({ "batchSize": { "min": 1, "max": 40 } });
            server.put("kafkaconsumers", other);
        }
        if reading == 111 {
            let file = server.get("configmaps", "orders-tuning").unwrap();
            let file = file["data"]["tuning.yaml"].as_str().unwrap().to_owned();
            assert!(file.contains("batchSize: 40"), "{file}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = server.take_calls();
    assert_eq!(replicas_patches(&calls), [4]);
    let tries = calls.iter().filter(|c| c.path.ends_with("/status")).count();
    assert!((4..=10).contains(&tries), "{tries} tries of the status in two minutes");
    let (_, metrics) = operator.ask("/metrics").await;
    let errors = format!(r#"sluice_operator_status_errors_total{{reason="ServerError"}} {tries}"#);
    assert!(metrics.contains(&errors), "{errors} is not in\n{metrics}");
    assert!(metrics.contains("sluice_operator_objects_in_backoff 0"), "{metrics}");
    server.heal();
    ready(&server, "orders", 4).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_or_a_status_that_hangs_holds_up_no_pass() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.fault(|_, path| path.ends_with("/events").then_some(Fault::Hang));
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    server.put("kafkaconsumers", consumer("orders", 5));
    let took = scaled(&server, 5).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    server.fault(|_, path| path.ends_with("/status").then_some(Fault::Hang));
    server.put("kafkaconsumers", consumer("orders", 6));
    scaled(&server, 6).await;
    server.put("kafkaconsumers", consumer("orders", 7));
    let took = scaled(&server, 7).await;
    assert!(took < Duration::from_secs(7), "{took:?}");
}

fn without(server: &Server, fields: &'static [&'static str]) {
    server.redefine(|schema| {
        let status = schema["properties"]["status"]["properties"].as_object_mut().unwrap();
        for field in fields {
            status.remove(*field);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn beside_an_older_definition_scaling_goes_on_and_readyz_says_what_to_run() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    without(&server, &["partitions", "memory"]);
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    let object = ready(&server, "orders", 3).await;
    assert!(object["status"]["partitions"].is_null(), "{object:#}");
    assert!(condition(&object, "Ready").is_some());
    let (code, body) = operator.ask("/readyz").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200, "{body:#}");
    assert_eq!(body["definition"]["lacks"], json!(["status.memory", "status.partitions"]));
    assert!(body["definition"]["do"].as_str().unwrap().contains("helm upgrade sluice-crds"));
    // What cannot be written is no difference: nothing is written again and again.
    quiet().await;
    server.take_calls();
    for reading in 0..30 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(server.writes().is_empty(), "{:?}", server.writes());
    // The definition is upgraded: the fields come back.
    server.redefine(|schema| *schema = schema_of_the_operator());
    tokio::time::sleep(Duration::from_secs(61)).await;
    server.put("kafkaconsumers", consumer("orders", 4));
    let object = ready(&server, "orders", 4).await;
    assert_eq!(object["status"]["partitions"], 12, "{object:#}");
    let (_, body) = operator.ask("/readyz").await;
    assert!(serde_json::from_str::<Value>(&body).unwrap()["definition"].is_null(), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_rolled_back_meanwhile_is_noticed_by_the_first_refusal() {
    let (server, _, operator) = running(3).await;
    quiet().await;
    without(&server, &["partitions"]);
    let before = tokio::time::Instant::now();
    server.put("kafkaconsumers", consumer("orders", 4));
    server
        .until("the status with 4 pods", |s| {
            let object = s.get("kafkaconsumers", "orders")?;
            (object["status"]["desiredReplicas"] == 4).then_some(())
        })
        .await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    let (_, metrics) = operator.ask("/metrics").await;
    let errors = r#"sluice_operator_status_errors_total{reason="OlderDefinition"} 1"#;
    assert!(metrics.contains(errors), "{metrics}");
}
