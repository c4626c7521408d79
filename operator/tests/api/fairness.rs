//! Nobody waits for a slow neighbour: bursts, and faults that hit others.

use std::time::Duration;

use sluice_planner::snapshot::Committed;

use crate::{
    condition, consumer, is,
    kafka::FakeKafka,
    ready, running,
    server::{Fault, Server},
    start,
};

#[tokio::test(start_paused = true)]
async fn a_burst_of_requests_does_not_postpone_the_pass() {
    let (server, kafka, _operator) = running(3).await;
    server.put("kafkaconsumers", consumer("orders", 7));
    for reading in 0..200 {
        kafka.snapshot(|s| s.at = reading);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A second of readings, one every 5 ms; the debounce is 20 ms.
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 7);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_writes_hang_leaves_slots_to_the_others() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.fault(|method, path| {
        (method == "PATCH" && path.contains("/namespaces/slow/")).then_some(Fault::Hang)
    });
    for number in 0..60 {
        server.put_in("slow", "kafkaconsumers", consumer(&format!("slow-{number}"), 1));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.put("kafkaconsumers", consumer("orders", 3));
    let before = tokio::time::Instant::now();
    ready(&server, "orders", 3).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    // It is served again and again, not only once.
    server.put("kafkaconsumers", consumer("orders", 5));
    let before = tokio::time::Instant::now();
    ready(&server, "orders", 5).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    // The slow ones are tried again when the writes are answered.
    server.heal();
    tokio::time::sleep(Duration::from_secs(400)).await;
    let pods = server.list("pods");
    let slow = pods.iter().filter(|pod| pod["metadata"]["namespace"] == "slow").count();
    assert_eq!(slow, 60);
}

/// A Kafka in which no group has an offset.
fn fresh(partitions: i32) -> FakeKafka {
    let kafka = FakeKafka::new(partitions);
    kafka.snapshot(|s| s.partitions.iter_mut().for_each(|p| p.committed = Committed::None));
    kafka
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_answers_no_commit_holds_no_slot() {
    let (server, kafka) = (Server::new(), fresh(4));
    let _operator = start(&server, &kafka);
    kafka.silence(Some("team-"));
    // In so many namespaces that they would hold all slots together.
    for number in 0..40 {
        server.put_in(&format!("team-{number}"), "kafkaconsumers", consumer("slow", 1));
    }
    for reading in 0..5 {
        kafka.snapshot(|s| s.at = reading);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let before = tokio::time::Instant::now();
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    let object = server.get_in("team-0", "kafkaconsumers", "slow").unwrap();
    let message = condition(&object, "Ready").unwrap()["message"].to_string();
    assert!(is(&object, "Ready", "False", "Pending"), "{object:#}");
    assert!(message.contains("waits for Kafka's answer"), "{message}");
    assert!(!server.list("pods").iter().any(|pod| pod["metadata"]["namespace"] == "team-0"));
}

#[tokio::test(start_paused = true)]
async fn with_a_commit_unanswered_and_a_write_refused_at_once_nobody_else_waits() {
    let (server, kafka) = (Server::new(), fresh(2));
    let _operator = start(&server, &kafka);
    kafka.silence(Some("slow."));
    server.fault(|method, path| {
        (method == "PATCH" && path.contains("/namespaces/slow/configmaps/"))
            .then_some(Fault::Status(403, "exceeded quota"))
    });
    server.put_in("slow", "kafkaconsumers", consumer("slow", 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.put("kafkaconsumers", consumer("orders", 2));
    let before = tokio::time::Instant::now();
    ready(&server, "orders", 2).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    let object = server.get_in("slow", "kafkaconsumers", "slow").unwrap();
    assert!(is(&object, "Ready", "False", "Forbidden"), "{object:#}");
    // Each fault ends by itself: the write first, the commit when it is made again.
    server.heal();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(server.get_in("slow", "deployments", "slow").is_some());
    let pod = |s: &Server| s.get_in("slow", "pods", "slow-7d9c4b5f6-00000");
    assert_eq!(pod(&server), None);
    kafka.silence(None);
    server.until("its pod", pod).await;
    let events = server.list("events");
    let begun = |e: &&serde_json::Value| {
        e["reason"] == "StartResolved" && e["regarding"]["namespace"] == "slow"
    };
    assert_eq!(events.iter().filter(begun).count(), 1, "{events:#?}");
}
