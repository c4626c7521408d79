//! What a start waits for, and what a stop lets end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::sync::Notify;

use crate::{
    Operator, consumer, is,
    kafka::FakeKafka,
    quiet, ready, running,
    server::{Fault, Server},
    start,
};

/// A new number of pods and a new batch size, whose pass is stopped when it has sent the number:
/// the request for that gets `fault`. Returns when the operator's own server has ended.
async fn stopped_in_mid_pass(fault: Fault) -> (Server, Operator) {
    let (server, _, operator) = running(3).await;
    quiet().await;
    let sent = Arc::new(Notify::new());
    let noted = Arc::clone(&sent);
    server.fault(move |method, path| {
        let replicas = method == "PATCH" && path.ends_with("/deployments/orders");
        replicas.then(|| {
            noted.notify_one();
            fault.clone()
        })
    });
    let mut changed = consumer("orders", 5);
    changed["spec"]["tuning"] = json!({ "batchSize": { "min": 1, "max": 40 } });
    server.put("kafkaconsumers", changed);
    sent.notified().await;
    operator.stop.cancel();
    operator.unreachable().await;
    (server, operator)
}

fn reasons(server: &Server) -> Vec<String> {
    let events = server.list("events");
    events.iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_a_pass_with_a_slow_write_end_and_sends_its_events() {
    let (server, operator) = stopped_in_mid_pass(Fault::Slow).await;
    server.heal();
    operator.stop().await;
    let deployment = server.get("deployments", "orders").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 5);
    let status = &server.get("kafkaconsumers", "orders").unwrap()["status"];
    assert_eq!((&status["desiredReplicas"], &status["batchSize"]), (&json!(5), &json!(40)));
    let reasons = reasons(&server);
    assert!(reasons.ends_with(&["ScaledUp".into(), "KnobsChanged".into()]), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_a_pass_report_that_its_write_hangs() {
    let (server, operator) = stopped_in_mid_pass(Fault::Hang).await;
    operator.stop().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "False", "Timeout"), "{object:#}");
    // The file was written before.
    let reasons = reasons(&server);
    assert!(reasons.ends_with(&["KnobsChanged".into()]), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_answers_no_discovery_is_asked_again_and_the_operator_stays_alive() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    server.fault(move |_, path| {
        let discovery = path == "/apis/sluice.dev/v1alpha1";
        counted.fetch_add(u32::from(discovery), Ordering::Relaxed);
        discovery.then_some(Fault::Hang)
    });
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    let began = tokio::time::Instant::now();
    server
        .until("the tenth request", |_| (asked.load(Ordering::Relaxed) >= 10).then_some(()))
        .await;
    // Longer than liveness bears with a loop that is stuck.
    assert!(began.elapsed() > Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(operator.ask("/livez").await.0, 200);
    let (code, body) = operator.ask("/readyz").await;
    assert!(code == 503 && body.contains("the definition of"), "{code} {body}");
    server.heal();
    ready(&server, "orders", 3).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_restarted_is_found_again() {
    let (server, _, _operator) = running(3).await;
    server.stop();
    tokio::time::sleep(Duration::from_secs(30)).await;
    server.start();
    server.put("kafkaconsumers", consumer("orders", 5));
    ready(&server, "orders", 5).await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_definition_is_waited_for() {
    let (server, kafka) = (Server::undefined(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let calls = server.take_calls();
    assert!(calls.iter().all(|c| c.path == "/apis/sluice.dev/v1alpha1"), "{calls:?}");
    server.define();
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
}

// kube's stores wake only the last of two tasks that wait for their first list; the operator then stood still for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operator_that_finds_nothing_at_first_is_ready_for_what_comes() {
    for _ in 0..40 {
        let (server, kafka) = (Server::new(), FakeKafka::new(2));
        let operator = start(&server, &kafka);
        tokio::task::yield_now().await;
        server.put("kafkaconsumers", consumer("orders", 1));
        let came = tokio::time::timeout(Duration::from_secs(20), ready(&server, "orders", 1)).await;
        came.expect("it is ready in time");
        operator.stop().await;
    }
}
