//! The handlers, on records of every shape and receivers of every mood.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use sluice_crds::conditions;
use sluice_e2e::{
    World,
    receiver::{Behaviour, Receiver},
    records::Record,
    until,
};
use sluice_lab::lab::CUSTOM_IMAGE;

const SOON: Duration = Duration::from_secs(40);

/// Key and value of a record.
type Pair<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// A null key, a null value, nothing printable, and 900 KB: each arrives once.
pub async fn records_of_every_shape_arrive_as_they_are(world: Arc<World>) -> Result<()> {
    let scene = world.scene("shapes", 1).await?;
    let receiver = Receiver::start(world.lab.address()).await?;
    let http = json!({
        "handler": {"log": null, "http": {"url": receiver.url()}},
        // One record a call: the body is then the record's value as it is.
        "tuning": {"batchSize": {"min": 1, "max": 1}},
        "ordering": "Partition",
    });
    scene.consumer.apply(scene.spec(&http)).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let large = vec![b'x'; 900_000];
    let binary = [0_u8, 255, 10, 13, 128];
    let values: [Pair<'_>; 5] = [
        (None, Some(b"null key")),
        (Some(b"k"), None),
        (Some(b""), Some(b"")),
        (Some(&binary), Some(&binary)),
        (Some(b"large"), Some(&large)),
    ];
    let records: Vec<Record<'_>> =
        values.iter().map(|&(key, value)| Record { partition: 0, key, value }).collect();
    world.kafka.send(&scene.topic, &records)?;
    until("five calls", SOON, || async {
        Ok(if receiver.taken().len() == 5 { Ok(()) } else { Err(receiver.calls().len()) })
    })
    .await?;
    let taken = receiver.taken();
    for (call, (_, value)) in taken.iter().zip(values) {
        ensure!(
            call.body == value.unwrap_or_default(),
            "{:?} arrived as {} bytes",
            value.map(<[u8]>::len),
            call.body.len()
        );
    }
    let keys: std::collections::BTreeSet<_> =
        taken.iter().filter_map(|c| c.headers.get("idempotency-key")).collect();
    ensure!(keys.len() == 5, "an idempotency key for each record: {keys:?}");
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    scene.end().await
}

/// 500, no answer, nobody there: the records wait and are handled when the receiver is well again. Nothing is skipped.
pub async fn a_receiver_that_fails_hangs_or_is_away_costs_no_record(
    world: Arc<World>,
) -> Result<()> {
    let scene = world.scene("moods", 1).await?;
    let receiver = Receiver::start(world.lab.address()).await?;
    let http = json!({
        "handler": {"log": null, "http": {"url": receiver.url(), "timeout": "1s"}},
        "tuning": {"batchSize": {"min": 1, "max": 1}},
        "ordering": "Partition",
        "delivery": {"retry": {"maxRetries": 2, "minBackoff": "100ms", "maxBackoff": "2s"}},
    });
    scene.consumer.apply(scene.spec(&http)).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let mut expected = Vec::new();
    for (n, behaviour) in [Behaviour::Fail, Behaviour::Hang].into_iter().enumerate() {
        receiver.behave(behaviour);
        let before = receiver.calls().len();
        let value = n.to_string();
        world.kafka.send(
            &scene.topic,
            &[Record { partition: 0, key: Some(b"k"), value: Some(value.as_bytes()) }],
        )?;
        expected.push(value.into_bytes());
        // More tries than maxRetries: it goes on after the lane was reported as blocked.
        until("five tries", SOON, || async {
            Ok(if receiver.calls().len() >= before + 5 {
                Ok(())
            } else {
                Err(receiver.calls().len() - before)
            })
        })
        .await?;
        let lag = scene
            .consumer
            .until_status("a lag", SOON, |s| s.lag.is_some_and(|lag| lag > 0))
            .await?;
        ensure!(lag.replicas == Some(1), "a stuck record adds no pods: {lag:?}");
        receiver.behave(Behaviour::Take);
        until("the record to be taken", SOON, || async {
            Ok(if receiver.taken().len() == n + 1 { Ok(()) } else { Err(receiver.taken().len()) })
        })
        .await?;
    }
    let bodies: Vec<_> = receiver.taken().into_iter().map(|c| c.body).collect();
    ensure!(bodies == expected, "{bodies:?}");
    let keys: std::collections::BTreeSet<_> =
        receiver.calls().iter().filter_map(|c| c.headers.get("idempotency-key").cloned()).collect();
    ensure!(keys.len() == 2, "the idempotency key is the same in every delivery: {keys:?}");
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    scene.end().await
}

/// Nobody listens for two minutes, longer than all retries: nothing is skipped, no pod is added or restarted for it, the
/// lane is reported, and all recovers by itself.
pub async fn a_receiver_may_be_away_for_two_minutes(world: Arc<World>) -> Result<()> {
    let scene = world.scene("two-minutes", 2).await?;
    let receiver = Receiver::start(world.lab.address()).await?;
    let http = json!({
        "handler": {"log": null, "http": {"url": receiver.url(), "timeout": "2s"}},
        "delivery": {"retry": {"maxRetries": 3, "minBackoff": "200ms", "maxBackoff": "5s"}},
    });
    scene.consumer.apply(scene.spec(&http)).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let away = receiver.leave().await;
    let values: Vec<String> = (0..40).map(|n| format!("record {n}")).collect();
    let records: Vec<Record<'_>> = values
        .iter()
        .enumerate()
        .map(|(n, value)| Record {
            partition: (n % 2) as i32,
            key: Some(b"k"),
            value: Some(value.as_bytes()),
        })
        .collect();
    world.kafka.send(&scene.topic, &records)?;
    // The promise is about this time; nothing that could be waited for ends it earlier.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let status = scene.consumer.status().await?;
    ensure!(status.lag == Some(40) && status.replicas == Some(1), "{status:?}");
    let restarts: i32 = scene
        .consumer
        .pods()
        .await?
        .iter()
        .flat_map(|pod| pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()))
        .map(|container| container.restart_count)
        .sum();
    ensure!(restarts == 0, "the pod was restarted {restarts} times for a receiver that was away");
    let receiver = away.come_back().await?;
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    let bodies: Vec<u8> = receiver.taken().into_iter().flat_map(|call| call.body).collect();
    let text = String::from_utf8_lossy(&bodies).into_owned();
    for value in &values {
        // Batches carry values as base64.
        let encoded = STANDARD.encode(value);
        ensure!(text.contains(value.as_str()) || text.contains(&encoded), "{value} never arrived");
    }
    scene.end().await
}

/// The image of `examples/custom-handler`, built on the library: it adds up numbers.
pub async fn a_custom_handler_runs(world: Arc<World>) -> Result<()> {
    let scene = world.scene("custom", 1).await?;
    let custom = json!({
        "handler": {"log": null, "custom": {"config": {"label": "total"}}},
        "pod": {"image": CUSTOM_IMAGE},
    });
    scene.consumer.apply(scene.spec(&custom)).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    world
        .kafka
        .send(&scene.topic, &[Record { partition: 0, key: Some(b"k"), value: Some(b"42") }])?;
    scene.consumer.until_status("lag 0 after a record", SOON, |s| s.lag == Some(0)).await?;
    until("the offset to be committed", SOON, || async {
        let committed = world.kafka.committed(&scene.consumer.group(), &scene.topic)?;
        Ok(if committed.get(&0) == Some(&1) { Ok(()) } else { Err(committed) })
    })
    .await?;
    scene.end().await
}
