//! What a watch that fails does to the others: nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Operator, consumer, kafka::FakeKafka, quiet, ready, server::*, start, start_with};

fn forbid(server: &Server, namespace: &'static str) {
    server.fault(move |_, path| {
        path.contains(&format!("/namespaces/{namespace}/"))
            .then_some(Fault::Status(403, "pods is forbidden: no role in this namespace"))
    });
}

async fn readiness(operator: &Operator) -> (u16, Value) {
    let (code, body) = operator.ask("/readyz").await;
    (code, serde_json::from_str(&body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_lost_stops_no_other() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    forbid(&server, "lost");
    let operator = start_with(&server, &kafka, &["--watch-namespaces", "lost,shop"]);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    let (code, body) = readiness(&operator).await;
    assert_eq!(code, 200, "{body:#}");
    let watches = body["watches"].as_array().unwrap();
    for kind in ["KafkaConsumer", "Deployment", "ConfigMap", "Pod"] {
        let lost = watches.iter().find(|w| w["kind"] == kind).unwrap();
        assert_eq!(lost["namespace"], "lost", "{body:#}");
        assert!(lost["error"].as_str().unwrap().contains("forbidden"), "{body:#}");
    }
    let (_, metrics) = operator.ask("/metrics").await;
    for (namespace, up) in [("lost", 0), ("shop", 1)] {
        let labels = format!(r#"{{namespace="{namespace}",kind="Pod"}}"#);
        let line = format!("sluice_operator_watch_up{labels} {up}");
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    // It comes back, with a consumer that nobody could see.
    server.put_in("lost", "kafkaconsumers", consumer("found", 1));
    server.heal();
    server
        .until("found has its pods", |s| {
            let object = s.get_in("lost", "kafkaconsumers", "found")?;
            (object["status"]["readyReplicas"] == 1).then_some(())
        })
        .await;
    let (code, body) = readiness(&operator).await;
    assert_eq!((code, &body["watches"]), (200, &json!([])), "{body:#}");
    // Stopping does not wait for what never came.
    forbid(&server, "lost");
    let before = tokio::time::Instant::now();
    operator.stop().await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_may_watch_nothing_is_not_ready_and_stops_at_once() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    server.fault(|_, path| {
        path.ends_with("/pods").then_some(Fault::Status(403, "pods is forbidden"))
    });
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    quiet().await;
    let (code, body) = readiness(&operator).await;
    assert_eq!(code, 503, "{body:#}");
    assert_eq!(body["watches"][0]["kind"], "Pod", "{body:#}");
    assert!(body["watches"][0]["error"].as_str().unwrap().contains("forbidden"), "{body:#}");
    assert!(server.writes().is_empty(), "{:?}", server.writes());
    let before = tokio::time::Instant::now();
    operator.stop().await;
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_vanished_while_its_watch_was_down_is_noticed_when_it_is_listed_again() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start(&server, &kafka);
    // Nothing follows this one: no reading asks for its pass.
    let mut invalid = consumer("invalid", 3);
    invalid["spec"]["kafka"]["properties"] = json!({ "plugin.library.paths": "/tmp/evil.so" });
    server.put("kafkaconsumers", invalid);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    quiet().await;
    assert!(operator.ask("/metrics").await.1.contains(r#"name="invalid""#));
    // The log of changes is lost (410 Gone): what was deleted meanwhile is told by no event.
    server.stop();
    server.delete("kafkaconsumers", "invalid");
    server.delete("configmaps", "orders-tuning");
    server.compact();
    server.start();
    server.until("the file is written again", |s| s.get("configmaps", "orders-tuning")).await;
    quiet().await;
    let (_, metrics) = operator.ask("/metrics").await;
    assert!(!metrics.contains(r#"name="invalid""#), "{metrics}");
}
