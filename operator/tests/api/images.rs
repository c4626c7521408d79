//! Which image runs, and when it changes.

use serde_json::{Value, json};

use crate::{consumer, kafka::FakeKafka, quiet, ready, server::Server, start, start_with};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const NEW: [&str; 4] = ["--consumer-image", "sluice/consumer:2", "--max-rollouts", "2"];

fn following(name: &str) -> Value {
    let mut object = consumer(name, 2);
    object["spec"]["pod"] = json!({ "imagePolicy": "FollowOperator" });
    object
}

fn image(server: &Server, name: &str) -> String {
    let deployment = server.get("deployments", name).unwrap();
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    containers[0]["image"].as_str().unwrap().to_owned()
}

/// Those of the consumers that have the new image.
fn upgraded(server: &Server) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| image(server, name) == "sluice/consumer:2").collect()
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_of_the_operator_rolls_no_pinned_consumer() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    ready(&server, "orders", 3).await;
    quiet().await;
    operator.stop().await;
    server.take_calls();
    let _operator = start_with(&server, &kafka, &NEW);
    quiet().await;
    assert_eq!(server.writes().len(), 0, "{:?}", server.writes());
    assert_eq!(image(&server, "orders"), "sluice/consumer:1");
}

#[tokio::test(start_paused = true)]
async fn consumers_that_follow_are_rolled_a_few_at_a_time_also_over_a_restart() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start(&server, &kafka);
    for name in NAMES {
        server.put("kafkaconsumers", following(name));
        ready(&server, name, 2).await;
    }
    operator.stop().await;
    // Pods take their time from here on.
    server.kubelet(false);
    let operator = start_with(&server, &kafka, &NEW);
    quiet().await;
    let first = upgraded(&server);
    assert_eq!(first.len(), 2, "{first:?}");
    operator.stop().await;
    let _operator = start_with(&server, &kafka, &NEW);
    quiet().await;
    assert_eq!(upgraded(&server), first, "those of before the restart are rolling still");
    server.settle(first[0]);
    quiet().await;
    let second = upgraded(&server);
    assert_eq!(second.len(), 3, "{second:?}");
    for _ in 0..NAMES.len() {
        for name in upgraded(&server) {
            server.settle(name);
        }
        quiet().await;
    }
    assert_eq!(upgraded(&server), NAMES);
    let object = server.get("kafkaconsumers", "e").unwrap();
    assert_eq!(object["status"]["stockImage"], "sluice/consumer:2");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_start_is_taken_by_the_first_few_only() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start(&server, &kafka);
    for name in NAMES {
        server.put("kafkaconsumers", following(name));
        ready(&server, name, 2).await;
    }
    operator.stop().await;
    server.kubelet(false);
    let _operator = start_with(&server, &kafka, &NEW);
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    assert_eq!(upgraded(&server).len(), 2);
    // One of them is deleted: its place is another's.
    let broken = upgraded(&server)[0];
    server.delete("kafkaconsumers", broken);
    quiet().await;
    let rolling = upgraded(&server).into_iter().filter(|name| *name != broken).count();
    assert_eq!(rolling, 2);
}
