//! Whose a group is: not an invalid consumer's, and not from one that runs.

use serde_json::{Value, json};

use crate::{condition, consumer, is, kafka::FakeKafka, quiet, ready, server::Server, start};

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
