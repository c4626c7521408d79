//! Static configurations: each in a ConfigMap of its own, for as long as something names it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FakeKafka, Fault, Server, at_rest, consumer, quiet, ready, start};

/// The name of the configuration that the Deployment's template mounts.
pub fn name(server: &Server) -> Option<String> {
    let template = server.get("deployments", "orders")?["spec"]["template"].clone();
    let volumes = template["spec"]["volumes"].as_array()?.clone();
    let config = volumes.iter().find(|v| v["name"] == "sluice-config")?;
    Some(config["configMap"]["name"].as_str()?.to_owned())
}

/// A consumer whose handler takes this long for a record.
fn slow(delay: &str) -> Value {
    let mut consumer = consumer("orders", 2);
    consumer["spec"]["handler"] = json!({ "log": { "delayPerRecord": delay } });
    consumer
}

/// Changes the setting; the name of the new configuration.
async fn set(server: &Server, delay: &str) -> String {
    let before = name(server);
    server.put("kafkaconsumers", slow(delay));
    server.until("a new template", |s| name(s).filter(|now| before.as_ref() != Some(now))).await
}

fn replica_set(config: &str) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "kafka-consumer", "app.kubernetes.io/instance": "orders",
    });
    let volume = json!({ "name": "sluice-config", "configMap": { "name": config } });
    let spec = json!({ "containers": [], "volumes": [volume] });
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": format!("rs-{config}"), "labels": labels },
        "spec": { "selector": { "matchLabels": labels }, "template": { "spec": spec } },
    })
}

#[tokio::test(start_paused = true)]
async fn a_new_setting_leaves_the_configuration_of_running_pods_as_it_is() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let _operator = start(&server, &kafka);
    let old = set(&server, "1ms").await;
    ready(&server, "orders", 2).await;
    let before = server.get("configmaps", &old).unwrap();
    assert_eq!(before["immutable"], true);
    let new = set(&server, "2ms").await;
    assert!(server.get("configmaps", &new).is_some(), "it comes before the template");
    assert_eq!(server.get("configmaps", &old).unwrap(), before);
    // The way back is the old file.
    assert_eq!(set(&server, "1ms").await, old);
    assert_eq!(server.get("configmaps", &old).unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_nothing_names_is_deleted_after_a_while_and_no_other() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let _operator = start(&server, &kafka);
    let kept = set(&server, "1ms").await;
    let unnamed = set(&server, "2ms").await;
    let current = set(&server, "3ms").await;
    server.put("replicasets", replica_set(&kept));
    let strange = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "orders-config-mine" } });
    server.put("configmaps", strange);
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert!(server.get("configmaps", &unnamed).is_some(), "a rollout may still need it");
    tokio::time::sleep(Duration::from_secs(1_000)).await;
    assert!(server.get("configmaps", &unnamed).is_none());
    for name in [&kept, &current, "orders-config-mine"] {
        assert!(server.get("configmaps", name).is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_configuration_is_deleted_while_the_replica_sets_cannot_be_listed() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    let _operator = start(&server, &kafka);
    let unnamed = set(&server, "1ms").await;
    let _current = set(&server, "2ms").await;
    server.fault(|_, path| path.ends_with("/replicasets").then_some(Fault::Status(503, "not now")));
    tokio::time::sleep(Duration::from_secs(2_000)).await;
    assert!(server.get("configmaps", &unnamed).is_some());
    server.heal();
    tokio::time::sleep(Duration::from_secs(1_500)).await;
    assert!(server.get("configmaps", &unnamed).is_none());
}

#[tokio::test(start_paused = true)]
async fn inherited_labels_reach_the_configuration_of_running_pods_and_its_data_stays() {
    let (server, _kafka, _operator) = at_rest(2).await;
    let config = name(&server).unwrap();
    let before = server.get("configmaps", &config).unwrap();
    let of_team = |team: &str| {
        let mut changed = consumer("orders", 2);
        changed["spec"]["inheritedMetadata"] = json!({ "labels": { "team": team } });
        // Other first knobs stand in the file, and make no other configuration.
        changed["spec"]["tuning"] = json!({ "batchSize": { "min": 80, "max": 90 } });
        changed
    };
    server.put("kafkaconsumers", of_team("shop"));
    let team = |server: &Server| {
        server.get("configmaps", &config).unwrap()["metadata"]["labels"]["team"].clone()
    };
    server.until("the label", |s| (team(s) == "shop").then_some(())).await;
    assert_eq!(server.get("configmaps", &config).unwrap()["data"], before["data"]);
    quiet().await;
    assert_eq!(name(&server).unwrap(), config);

    // What a webhook makes of it is written against no second time.
    server.take_calls();
    server.edit("configmaps", &config, |object| {
        object["metadata"]["annotations"]["sluice.dev/desired-hash"] = json!("another");
    });
    quiet().await;
    assert!(server.take_calls().is_empty());
    server.put("kafkaconsumers", of_team("mall"));
    server.until("the new label", |s| (team(s) == "mall").then_some(())).await;
    quiet().await;
    let path = format!("/configmaps/{config}");
    let writes = server.take_calls().into_iter().filter(|call| call.path.ends_with(&path));
    assert_eq!(writes.filter(|call| call.method == "PATCH").count(), 1);
}
