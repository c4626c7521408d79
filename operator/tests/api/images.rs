//! Which image runs, and when it changes.

use serde_json::{Value, json};

use crate::{
    Operator, consumer,
    kafka::FakeKafka,
    quiet, ready, running,
    server::{Fault, Server},
    start, start_with,
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// An operator with a new image, which this many consumers may take at once.
fn start_new(server: &Server, kafka: &FakeKafka, most: &str) -> Operator {
    start_with(server, kafka, &["--consumer-image", "sluice/consumer:2", "--max-rollouts", most])
}

fn following(name: &str) -> Value {
    let mut object = consumer(name, 2);
    object["spec"]["pod"] = json!({ "imagePolicy": "FollowOperator" });
    object
}

/// The image in a consumer's template, where there is one.
fn image(server: &Server, name: &str) -> Option<String> {
    let deployment = server.get("deployments", name)?;
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    containers[0]["image"].as_str().map(str::to_owned)
}

fn is_new(server: &Server, name: &str) -> bool {
    image(server, name).as_deref() == Some("sluice/consumer:2")
}

/// Those of the consumers that have the new image.
fn upgraded(server: &Server) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| is_new(server, name)).collect()
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_of_the_operator_rolls_no_pinned_consumer() {
    let (server, kafka, operator) = running(3).await;
    quiet().await;
    operator.stop().await;
    server.take_calls();
    let _operator = start_new(&server, &kafka, "2");
    quiet().await;
    assert_eq!(server.writes().len(), 0, "{:?}", server.writes());
    assert_eq!(image(&server, "orders").as_deref(), Some("sluice/consumer:1"));
}

/// These consumers run, and their operator has ended. Pods take their time from here on.
async fn left_running(consumers: impl IntoIterator<Item = Value>) -> (Server, FakeKafka) {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start(&server, &kafka);
    for consumer in consumers {
        server.put("kafkaconsumers", consumer.clone());
        ready(&server, consumer["metadata"]["name"].as_str().unwrap(), 2).await;
    }
    operator.stop().await;
    server.kubelet(false);
    (server, kafka)
}

/// Consumers that follow their operator, which is replaced by one with a new image.
async fn replaced(names: &[&str], most: &str) -> (Server, FakeKafka, Operator) {
    let (server, kafka) = left_running(names.iter().map(|name| following(name))).await;
    let operator = start_new(&server, &kafka, most);
    (server, kafka, operator)
}

/// Waits until so many consumers have the new image: which.
async fn rolling(server: &Server, count: usize) -> Vec<&'static str> {
    let enough = |s: &Server| Some(upgraded(s)).filter(|all| all.len() >= count);
    let first = server.until(&format!("{count} with the new image"), enough).await;
    quiet().await;
    assert_eq!(upgraded(server), first, "no more of them");
    first
}

#[tokio::test(start_paused = true)]
async fn consumers_that_follow_are_rolled_a_few_at_a_time_also_over_a_restart() {
    let (server, kafka, operator) = replaced(&NAMES, "2").await;
    let first = rolling(&server, 2).await;
    operator.stop().await;
    let _operator = start_new(&server, &kafka, "2");
    quiet().await;
    assert_eq!(upgraded(&server), first, "those of before the restart are rolling still");
    server.settle(first[0]);
    rolling(&server, 3).await;
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
    let (server, _, _operator) = replaced(&NAMES, "2").await;
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    assert_eq!(upgraded(&server).len(), 2);
}

type Change = fn(&mut Value);

/// The ways in which a consumer that is rolling can cease to be one.
const ENDS: [(&str, Change); 4] = [
    ("it is rejected", |object| {
        object["spec"]["kafka"]["properties"] = json!({ "plugin.library.paths": "/tmp/evil.so" });
    }),
    ("it is being deleted", |object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    }),
    ("it is pinned", |object| object["spec"]["pod"] = json!({})),
    ("it has an image of its own", |object| object["spec"]["pod"]["image"] = json!("mine:1")),
];

#[tokio::test(start_paused = true)]
async fn a_consumer_that_rolls_no_more_gives_its_turn_to_the_next() {
    for (end, change) in ENDS {
        let (server, _, _operator) = replaced(&NAMES[..2], "1").await;
        let first = rolling(&server, 1).await[0];
        server.edit("kafkaconsumers", first, change);
        let next = NAMES[..2].iter().find(|name| **name != first).unwrap();
        let turn = |s: &Server| is_new(s, next).then_some(());
        server.until(&format!("the turn of the next when {end}"), turn).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_deleted_while_it_rolls_gives_its_turn_to_the_next() {
    let (server, _, _operator) = replaced(&NAMES, "2").await;
    let broken = rolling(&server, 2).await[0];
    server.delete("kafkaconsumers", broken);
    // Nobody collects the garbage here: its Deployment stays.
    rolling(&server, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_no_image_back_that_was_written_before_the_status_named_it() {
    let (server, kafka) = left_running([consumer("a", 2), following("b")]).await;
    server.fault(|method, path| {
        (method == "PATCH" && path.ends_with("/status"))
            .then_some(Fault::Status(500, "etcdserver: leader changed"))
    });
    let operator = start_new(&server, &kafka, "1");
    let turn = |name| move |s: &Server| is_new(s, name).then_some(());
    server.until("the turn of b", turn("b")).await;
    operator.stop().await;
    // It follows too by now, and its pass comes first.
    server.put("kafkaconsumers", following("a"));
    server.take_calls();
    let _operator = start_new(&server, &kafka, "1");
    let reported = |s: &Server| {
        let writes = s.writes();
        let of = |name| writes.iter().any(|c| c.path.ends_with(&format!("/{name}/status")));
        (of("a") && of("b")).then_some(())
    };
    server.until("a pass of each", reported).await;
    let images = ["a", "b"].map(|name| image(&server, name));
    assert_eq!(
        images.each_ref().map(Option::as_deref),
        [Some("sluice/consumer:1"), Some("sluice/consumer:2")]
    );
    server.settle("b");
    server.until("the turn of a", turn("a")).await;
}
