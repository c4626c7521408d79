//! What no fault of the API server, its watches or its other users may do: take pods away.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::kafka::port::Reading;

use crate::{
    Operator, at_rest, consumer, is,
    kafka::FakeKafka,
    load::{Load, PARTITIONS, follower},
    quiet, ready, running_on,
    server::{Call, Fault, Server},
    start,
};

/// Writes that lowered the number of pods: from, to.
fn lowered(calls: &[Call]) -> Vec<(i64, i64)> {
    let pairs = calls.iter().filter(|c| c.is_write() && c.status < 300).map(|c| c.replicas);
    pairs.filter_map(|(from, to)| Some((from?, to?))).filter(|(from, to)| to < from).collect()
}

fn remove_labels(object: &mut Value) {
    object["metadata"]["labels"] = json!({});
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_loses_its_labels_keeps_its_pods_and_gets_them_back() {
    let (server, _, _operator) = at_rest(3).await;
    let labels = server.get("deployments", "orders").unwrap()["metadata"]["labels"].clone();
    server.edit("deployments", "orders", remove_labels);
    server
        .until("the labels are back", |s| {
            (s.get("deployments", "orders")?["metadata"]["labels"] == labels).then_some(())
        })
        .await;
    quiet().await;
    assert_eq!(lowered(&server.take_calls()), []);
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_removes_the_labels_costs_no_pod_and_few_requests() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    server.webhook(|plural, object| {
        if plural != "pods" {
            remove_labels(object);
        }
    });
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    server
        .until("three pods", |s| {
            (s.get("deployments", "orders")?["spec"]["replicas"] == 3).then_some(())
        })
        .await;
    quiet().await;
    server.take_calls();
    for reading in 0..300 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let calls = server.take_calls();
    assert_eq!(lowered(&calls), []);
    assert!(calls.len() < 50, "{} requests in 5 minutes: {calls:?}", calls.len());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_is_no_proof_that_nothing_is_there() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let _operator = start(&server, &kafka);
    server.hold_watches("deployments", true);
    server.put("kafkaconsumers", consumer("orders", 3));
    server
        .until("three pods", |s| {
            (s.get("deployments", "orders")?["spec"]["replicas"] == 3).then_some(())
        })
        .await;
    for reading in 0..120 {
        kafka.snapshot(|s| s.at = reading * 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(lowered(&server.take_calls()), []);
    server.hold_watches("deployments", false);
    server.put("kafkaconsumers", consumer("orders", 4));
    ready(&server, "orders", 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_that_was_deleted_is_made_again_with_its_pods() {
    let (server, _, _operator) = at_rest(3).await;
    server.delete("deployments", "orders");
    ready(&server, "orders", 3).await;
    quiet().await;
    let events = server.list("events");
    assert!(events.iter().all(|e| e["reason"] != "ScaledDown"), "{events:#?}");
}

/// A pod that has ended and whose object stays, as after an eviction or the shutdown of its node.
fn evicted(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/managed-by": "sluice",
                "app.kubernetes.io/name": "kafka-consumer",
                "app.kubernetes.io/instance": "orders",
                "sluice.dev/consumer": "orders",
            },
        },
        "status": {
            "phase": "Failed", "reason": "Evicted",
            "containerStatuses": [{
                "name": "consumer", "ready": false, "restartCount": 1, "image": "i", "imageID": "",
                "state": { "terminated": { "exitCode": 137, "reason": "Error" } },
            }],
        },
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_keeps_no_offsets_from_being_parked() {
    let (server, _operator) = running_on(&FakeKafka::new(2), 2).await;
    server.put("pods", evicted("orders-7d9c4b5f6-zzzzz"));
    let mut suspended = consumer("orders", 2);
    suspended["spec"]["suspend"] = json!(true);
    server.put("kafkaconsumers", suspended);
    server
        .until("the offsets are parked", |s| {
            let object = s.get("kafkaconsumers", "orders")?;
            (!object["status"]["parked"].is_null()).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_does_not_make_the_consumer_unready() {
    let (server, _operator) = running_on(&FakeKafka::new(2), 2).await;
    server.put("pods", evicted("orders-7d9c4b5f6-zzzzz"));
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Ready", "True", "AsDecided"), "{object:#}");
}

/// An HPA, or a hand, that writes the number of pods again whenever it is not its own.
fn insist(server: &Server, replicas: i64, write: u32) {
    server.edit("deployments", "orders", |object| {
        object["spec"]["replicas"] = json!(replicas);
        let entries = object["metadata"]["managedFields"].as_array_mut().unwrap();
        entries.retain(|entry| entry["manager"] != "kube-controller-manager");
        for entry in entries.iter_mut() {
            entry["fieldsV1"] = json!({});
        }
        entries.push(json!({
            "manager": "kube-controller-manager", "operation": "Update", "subresource": "scale",
            "time": format!("2026-01-01T00:00:{write:02}Z"), "fieldsType": "FieldsV1",
            "fieldsV1": { "f:spec": { "f:replicas": {} } },
        }));
    });
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_of_one_that_follows_its_lag_is_no_decision_and_gets_its_way() {
    let (server, kafka) = (Server::new(), FakeKafka::new(PARTITIONS));
    let _operator = start(&server, &kafka);
    let mut load = Load::of("orders", 80.0, 0.0, 1);
    kafka.set_of(&load.group(), |own| *own = crate::kafka::reading(PARTITIONS));
    server.put("kafkaconsumers", follower("orders"));
    for _ in 0..200 {
        load.second(&kafka, &server);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ready(&server, "orders", 3).await;
    server.take_calls();
    // It looks every 15 s, and writes where the number is not its own.
    for second in 0..120_u32 {
        let there = server.get("deployments", "orders").unwrap()["spec"]["replicas"].clone();
        if second % 15 == 0 && there != 5 {
            insist(&server, 5, second / 15);
        }
        load.second(&kafka, &server);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(crate::replicas_patches(&server.take_calls()), [3, 3, 3]);
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Stalled", "True", "LeftToOther"), "{object:#}");
    assert_eq!(object["status"]["decision"]["replicas"], 3, "{object:#}");
    let contested = crate::condition(&object, "Contested").unwrap()["message"].to_string();
    assert!(contested.contains("kube-controller-manager"), "{contested}");
    let events = server.list("events");
    let ups = events.iter().filter(|e| e["reason"] == "ScaledUp");
    assert!(ups.clone().all(|e| !e["note"].to_string().contains("→ 5")), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_insists_is_named_and_left_alone_until_it_is_silent() {
    let (server, kafka, _operator) = at_rest(3).await;
    for write in 0..8 {
        insist(&server, 10, write);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let taken_back = server.take_calls().iter().filter(|c| c.manager.contains("scaler")).count();
    assert_eq!(taken_back, 3);
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "Contested", "True", "LeftToOther"), "{object:#}");
    assert!(is(&object, "Stalled", "True", "LeftToOther"), "{object:#}");
    assert!(object.to_string().contains("kube-controller-manager"), "{object:#}");
    // The other one has been silent for five minutes: Sluice has its number again, and says so.
    let waited = tokio::time::Instant::now();
    while server.get("deployments", "orders").unwrap()["spec"]["replicas"] != 3 {
        assert!(waited.elapsed() < Duration::from_secs(400), "it is never taken back");
        kafka.snapshot(|s| s.at += 1_000);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(waited.elapsed() > Duration::from_secs(250), "{:?}", waited.elapsed());
    ready(&server, "orders", 3).await;
}

/// What happens to a consumer, at random. A failure prints its seed; `SLUICE_SEED` plays it again.
struct Walk {
    seed: u64,
    dice: fastrand::Rng,
    server: Server,
    kafka: FakeKafka,
    operator: Option<Operator>,
    /// What has happened.
    story: Vec<&'static str>,
}

/// What befalls any consumer, whoever decides on its pods.
const MISHAPS: [&str; 6] = [
    "the Deployment loses its labels",
    "the watches of Deployments lag, or no longer",
    "the watches of pods lag, or no longer",
    "the operator is restarted",
    "the API server is down for a while",
    "the Deployment loses its annotations and managers",
];

impl Walk {
    fn begin(seed: u64, partitions: i32) -> Self {
        let (server, kafka) = (Server::new(), FakeKafka::new(partitions));
        let operator = Some(start(&server, &kafka));
        let dice = fastrand::Rng::with_seed(seed);
        Self { seed, dice, server, kafka, operator, story: Vec::new() }
    }

    /// What happens next, each as likely as the other: a mishap, which has happened when this returns, or one of the
    /// test's own events, which is the test's to bring about.
    async fn next(&mut self, own: &[&'static str]) -> &'static str {
        let event = self.dice.usize(0..MISHAPS.len() + own.len());
        let words = *MISHAPS.iter().chain(own).nth(event).unwrap();
        self.story.push(words);
        match event {
            0 => self.server.edit("deployments", "orders", remove_labels),
            1 => self.server.hold_watches("deployments", self.dice.bool()),
            2 => self.server.hold_watches("pods", self.dice.bool()),
            3 => {
                self.operator.take().unwrap().stop().await;
                self.operator = Some(start(&self.server, &self.kafka));
            }
            4 => {
                self.server.stop();
                tokio::time::sleep(Duration::from_secs(self.dice.u64(1..40))).await;
                self.server.start();
            }
            5 => self.server.edit("deployments", "orders", |object| {
                object["metadata"]["annotations"] = json!({});
                object["metadata"]["managedFields"] = json!([]);
            }),
            _ => {}
        }
        words
    }
}

/// So many seeds, or the one that is asked for.
fn seeds(count: usize) -> Vec<u64> {
    let given = std::env::var("SLUICE_SEED").ok().and_then(|seed| seed.parse().ok());
    given.map_or_else(|| (0..count).map(|_| fastrand::u64(..)).collect(), |seed| vec![seed])
}

/// Whatever happens to labels, watches, pods and the operator itself: no write lowers the number of pods but to the number
/// that the spec says.
#[tokio::test(start_paused = true)]
async fn nothing_but_the_spec_lowers_the_number_of_pods() {
    const UNREAD: &str = "nothing is read of Kafka";
    const READ: &str = "all is read of Kafka";
    const SPEC: &str = "the spec changes";
    const WEBHOOK: &str = "a webhook removes the labels from here on";
    for seed in seeds(12) {
        let mut walk = Walk::begin(seed, 12);
        let (mut wanted, mut before) = (3, 3);
        walk.server.put("kafkaconsumers", consumer("orders", wanted));
        ready(&walk.server, "orders", wanted).await;
        walk.server.take_calls();
        for _ in 0..40 {
            match walk.next(&[UNREAD, READ, SPEC, WEBHOOK]).await {
                UNREAD => walk.kafka.set(|reading| *reading = Reading::default()),
                READ => walk.kafka.set(|reading| *reading = crate::kafka::reading(12)),
                SPEC => {
                    (before, wanted) = (wanted, walk.dice.i64(1..12));
                    walk.server.put("kafkaconsumers", consumer("orders", wanted));
                }
                WEBHOOK => walk.server.webhook(|plural, object| {
                    if plural == "deployments" {
                        remove_labels(object);
                    }
                }),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(walk.dice.u64(1..30_000))).await;
            for (from, to) in lowered(&walk.server.take_calls()) {
                // A pass that had begun when the spec changed may still carry out the one before.
                let known = to == wanted || to == before;
                let (seed, story) = (walk.seed, &walk.story);
                assert!(known, "seed {seed}: {from} → {to}, {wanted} wanted, after {story:#?}");
            }
        }
    }
}

/// The same for a consumer that follows its lag: 960 records per second need three pods of 400, so
/// that no fault whatever may leave fewer; in mode DryRun no number is written at all.
#[tokio::test(start_paused = true)]
async fn no_fault_leaves_a_consumer_that_follows_its_lag_with_fewer_pods_than_it_needs() {
    const UNREAD: &str = "nothing is read of the group";
    const READ: &str = "all is read of the group";
    const DRY: &str = "the mode changes to DryRun, or back";
    for seed in seeds(4) {
        let mut walk = Walk::begin(seed, PARTITIONS);
        let (server, kafka) = (walk.server.clone(), walk.kafka.clone());
        let mut load = Load::of("orders", 80.0, 0.0, seed);
        kafka.set_of(&load.group(), |own| *own = crate::kafka::reading(PARTITIONS));
        server.put("kafkaconsumers", follower("orders"));
        let seconds = async |load: &mut Load, known: bool, count: u64| {
            for _ in 0..count {
                if known {
                    load.second(&kafka, &server);
                } else {
                    kafka.set_of(&load.group(), |_| {});
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        seconds(&mut load, true, 200).await;
        ready(&server, "orders", 3).await;
        server.take_calls();
        let (mut known, mut dry) = (true, false);
        for _ in 0..25 {
            match walk.next(&[UNREAD, READ, DRY]).await {
                UNREAD => {
                    known = false;
                    kafka.set_of(&load.group(), |own| *own = Reading::default());
                }
                READ => {
                    known = true;
                    kafka.set_of(&load.group(), |own| *own = crate::kafka::reading(PARTITIONS));
                }
                DRY => {
                    dry = !dry;
                    let mut spec = follower("orders");
                    spec["spec"]["scaling"] =
                        json!({ "mode": if dry { "DryRun" } else { "Auto" } });
                    server.put("kafkaconsumers", spec);
                }
                _ => {}
            }
            seconds(&mut load, known, walk.dice.u64(1..30)).await;
            for (from, to) in lowered(&server.take_calls()) {
                let (seed, story) = (walk.seed, &walk.story);
                assert!(to >= 3, "seed {seed}: {from} → {to}, three are needed, after {story:#?}");
            }
        }
    }
}

fn unknown(reading: &mut Reading) {
    let mut snapshot = reading.snapshot.as_deref().unwrap().clone();
    snapshot.partitions.iter_mut().for_each(|partition| partition.end = None);
    reading.snapshot = Some(std::sync::Arc::new(snapshot));
}

/// A consumer that follows its lag with this many pods at least, and has little to do.
fn at_least(pods: i64) -> Value {
    let mut spec = follower("orders");
    spec["spec"]["scaling"] = json!({ "minReplicas": pods });
    spec
}

/// Seconds in which a little arrives, and all is known.
async fn known_seconds(server: &Server, kafka: &FakeKafka, count: i64) {
    let mut load = Load::of("orders", 5.0, 0.0, 1);
    kafka.set_of(&load.group(), |own| *own = crate::kafka::reading(PARTITIONS));
    for _ in 0..count {
        load.second(kafka, server);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Seconds in which the lag is not known.
async fn unknown_seconds(kafka: &FakeKafka, count: u32) {
    for _ in 0..count {
        kafka.set_of("shop.orders", unknown);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_takes_no_pod_away_when_the_lag_is_unknown() {
    let (server, kafka) = (Server::new(), FakeKafka::new(PARTITIONS));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", at_least(3));
    known_seconds(&server, &kafka, 20).await;
    ready(&server, "orders", 3).await;
    server.fault(|method, path| {
        (method == "PATCH" && path.ends_with("/deployments/orders")).then_some(Fault::Lost)
    });
    server.put("kafkaconsumers", at_least(5));
    known_seconds(&server, &kafka, 10).await;
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 5);
    server.heal();
    known_seconds(&server, &kafka, 30).await;
    server.take_calls();
    unknown_seconds(&kafka, 30).await;
    assert_eq!(lowered(&server.take_calls()), []);
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 5);
}

#[tokio::test(start_paused = true)]
async fn pods_that_a_hand_added_in_a_pause_stay_when_the_lag_is_unknown() {
    let (server, kafka) = (Server::new(), FakeKafka::new(PARTITIONS));
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", at_least(3));
    known_seconds(&server, &kafka, 20).await;
    ready(&server, "orders", 3).await;
    let mut paused = at_least(3);
    paused["metadata"]["annotations"] = json!({ "sluice.dev/paused": "true" });
    server.put("kafkaconsumers", paused);
    quiet().await;
    insist(&server, 10, 1);
    unknown_seconds(&kafka, 20).await;
    server.take_calls();
    server.put("kafkaconsumers", at_least(3));
    unknown_seconds(&kafka, 30).await;
    assert_eq!(lowered(&server.take_calls()), []);
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 10);
}

#[tokio::test(start_paused = true)]
async fn a_restart_before_the_first_reading_starts_no_pod_beyond_the_partitions() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 20));
    ready(&server, "orders", 12).await;
    quiet().await;
    operator.stop().await;
    server.take_calls();
    kafka.set(|reading| *reading = Reading::default());
    let _operator = start(&server, &kafka);
    quiet().await;
    assert!(crate::replicas_patches(&server.take_calls()).is_empty());
    assert_eq!(server.get("deployments", "orders").unwrap()["spec"]["replicas"], 12);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_called_the_consumers_alone_only_after_its_members_were_read() {
    let (server, kafka) = (Server::new(), FakeKafka::new(4));
    kafka.snapshot(|s| s.group = None);
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 2));
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "GroupConflict", "Unknown", "Pending"), "{object:#}");
    kafka.set(|reading| *reading = crate::kafka::reading(4));
    let object = ready(&server, "orders", 2).await;
    assert!(is(&object, "GroupConflict", "False", "SoleOwner"), "{object:#}");
    // Strangers in a group that was taken over stay visible, and hold nothing back.
    let mut over = consumer("orders", 3);
    over["metadata"]["annotations"] = json!({ "sluice.dev/take-over-group": "true" });
    server.put("kafkaconsumers", over);
    let stranger = sluice_planner::snapshot::Member {
        client_id: "console-consumer".to_owned(),
        partitions: Vec::new(),
    };
    kafka.snapshot(|s| s.group.as_mut().unwrap().members = vec![stranger]);
    let object = ready(&server, "orders", 3).await;
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap_or(object);
    assert!(is(&object, "GroupConflict", "True", "TakenOver"), "{object:#}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_somebody_asks_of_the_deployment_is_left_to_it() {
    let (server, _, _operator) = at_rest(3).await;
    // What `kubectl rollout restart` writes.
    let restarted = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";
    server.edit("deployments", "orders", |object| {
        let annotations = &mut object["spec"]["template"]["metadata"]["annotations"];
        annotations["kubectl.kubernetes.io/restartedAt"] = json!("2026-01-01T00:00:00Z");
    });
    quiet().await;
    let deployment = server.get("deployments", "orders").unwrap();
    assert!(deployment.pointer(restarted).is_some(), "{deployment:#}");
    let writes = server.writes();
    assert!(writes.iter().all(|c| c.path.ends_with("/status")), "{writes:?}");
}
