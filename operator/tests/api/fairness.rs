//! Nobody waits for a slow neighbour: bursts, and faults that hit others.

use std::time::Duration;

use crate::{
    consumer,
    kafka::FakeKafka,
    ready,
    server::{Fault, Server},
    start,
};

#[tokio::test(start_paused = true)]
async fn a_burst_of_requests_does_not_postpone_the_pass() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
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
