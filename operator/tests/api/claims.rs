//! Whose a group is: not an invalid consumer's, not from one that runs, and nobody's whose members are strangers.

use serde_json::{Value, json};
use sluice_operator::kafka::port::Reading;
use sluice_planner::snapshot::Member;

use crate::{
    condition, consumer, is,
    kafka::{FakeKafka, reading},
    quiet, ready, running_on,
    server::Server,
    start,
};

fn member(client_id: &str) -> Member {
    Member { client_id: client_id.to_owned(), partitions: Vec::new() }
}

/// Whether `orders` reports members of somebody else.
fn has_strangers(server: &Server) -> Option<()> {
    let object = server.get("kafkaconsumers", "orders")?;
    is(&object, "GroupConflict", "True", "ForeignMembers").then_some(())
}

fn with_group(name: &str, replicas: i64) -> Value {
    let mut object = consumer(name, replicas);
    object["spec"]["kafka"]["groupId"] = json!("one");
    object
}

#[tokio::test(start_paused = true)]
async fn an_invalid_consumer_takes_no_group_from_one_that_runs_also_after_a_restart() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let mut invalid = with_group("a-older", 1);
    invalid["spec"]["kafka"]["properties"] = json!({ "plugin.library.paths": "/tmp/evil.so" });
    server.put("kafkaconsumers", invalid);
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", with_group("z-younger", 1));
    ready(&server, "z-younger", 1).await;
    operator.stop().await;
    let _operator = start(&server, &kafka);
    quiet().await;
    server.put("kafkaconsumers", with_group("z-younger", 2));
    ready(&server, "z-younger", 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_older_consumer_without_pods_takes_no_group_from_one_that_runs() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", with_group("runs", 1));
    ready(&server, "runs", 1).await;
    let mut older = with_group("older", 1);
    server.put_in("other", "kafkaconsumers", older.clone());
    older["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    server.put_in("other", "kafkaconsumers", older);
    let object = server
        .until("the older waits", |s| {
            let object = s.get_in("other", "kafkaconsumers", "older")?;
            is(&object, "GroupConflict", "True", "OtherKafkaConsumer").then_some(object)
        })
        .await;
    let message = condition(&object, "GroupConflict").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("a KafkaConsumer of another namespace"), "{message}");
    assert!(!message.contains("runs"), "{message}");
    quiet().await;
    server.put("kafkaconsumers", with_group("runs", 2));
    ready(&server, "runs", 2).await;
    assert_eq!(server.list("pods").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_with_members_of_somebody_else_gets_no_pod_unless_asked_for() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    kafka.snapshot(|s| s.group.as_mut().unwrap().members = vec![member("sarama")]);
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 1));
    server.until("the conflict", has_strangers).await;
    quiet().await;
    assert!(server.list("pods").is_empty());
    let mut over = consumer("orders", 1);
    over["metadata"]["annotations"] = json!({ "sluice.dev/take-over-group": "true" });
    server.put("kafkaconsumers", over);
    ready(&server, "orders", 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_younger_of_two_consumers_with_one_group_gets_no_pod() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", with_group("older", 1));
    ready(&server, "older", 1).await;
    server.put("kafkaconsumers", with_group("younger", 1));
    server
        .until("the conflict", |s| {
            is(&s.get("kafkaconsumers", "younger")?, "GroupConflict", "True", "OtherKafkaConsumer")
                .then_some(())
        })
        .await;
    quiet().await;
    assert_eq!(server.list("pods").len(), 1);
    server.delete("kafkaconsumers", "older");
    kafka.snapshot(|s| s.at = 1);
    ready(&server, "younger", 1).await;
}

#[tokio::test(start_paused = true)]
async fn members_of_somebody_else_that_come_later_stop_the_scaling_until_they_go() {
    let kafka = FakeKafka::new(4);
    let (server, _operator) = running_on(&kafka, 2).await;
    kafka.snapshot(|s| {
        s.group.as_mut().unwrap().members = vec![member("orders-7d9c4b5f6-00000.77ab01e2")];
    });
    server.until("the conflict", has_strangers).await;
    server.put("kafkaconsumers", consumer("orders", 3));
    quiet().await;
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 2);
    // Readings without members say nothing of them.
    kafka.snapshot(|s| {
        s.at = 60_000;
        s.group = None;
    });
    quiet().await;
    assert_eq!(has_strangers(&server), Some(()));
    kafka.set(|all| *all = reading(4));
    ready(&server, "orders", 3).await;
}

#[tokio::test(start_paused = true)]
async fn pods_without_the_suffix_are_replaced_though_their_members_are_in_conflict() {
    let kafka = FakeKafka::new(4);
    let (server, _operator) = running_on(&kafka, 2).await;
    let own = "orders-7d9c4b5f6-00000";
    kafka.snapshot(|s| s.group.as_mut().unwrap().members = vec![member(own)]);
    server.until("the conflict", has_strangers).await;
    let mut rebuilt = consumer("orders", 2);
    rebuilt["spec"]["pod"]["image"] = json!("mine:2");
    server.put("kafkaconsumers", rebuilt);
    server
        .until("the new template", |s| {
            let template = &s.get("deployments", "orders")?["spec"]["template"];
            let container = &template["spec"]["containers"][0];
            let suffix = |e: &Value| e["name"] == "SLUICE_MEMBER_SUFFIX" && e["value"] != "";
            let suffix = container["env"].as_array()?.iter().any(suffix);
            (container["image"] == "mine:2" && suffix).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn of_two_consumers_with_one_group_the_same_one_has_it_after_a_restart() {
    let (server, kafka) = (Server::new(), FakeKafka::new(2));
    let operator = start(&server, &kafka);
    // The younger one's name sorts first: it is what a list begins with.
    server.put("kafkaconsumers", with_group("z-older", 1));
    ready(&server, "z-older", 1).await;
    server.put("kafkaconsumers", with_group("a-younger", 1));
    quiet().await;
    operator.stop().await;
    server.take_calls();
    // Nothing is read for a while: what was known is not forgotten meanwhile.
    let before = reading(2);
    kafka.set(|reading| *reading = Reading::default());
    let _operator = start(&server, &kafka);
    quiet().await;
    kafka.set(|reading| *reading = before);
    quiet().await;
    assert!(server.writes().is_empty(), "{:?}", server.writes());
}
