//! Topics that change under the consumer: partitions added, records deleted, markers of transactions.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_crds::conditions;
use sluice_e2e::{World, records::Record, until};

const SOON: Duration = Duration::from_secs(40);

/// Added partitions are read from their first record; deleted records are gone, and hold nothing up.
pub async fn added_partitions_and_deleted_records_are_followed(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("grown", 2).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("200x20s")?;
    world.kafka.grow_topic(&scene.topic, 4).await?;
    world.kafka.send(
        &scene.topic,
        &[Record { partition: 3, key: Some(b"new"), value: Some(b"first of its partition") }],
    )?;
    scene.consumer.until_status("four partitions", SOON, |s| s.partitions == Some(4)).await?;
    let manifest = load.wait().await?;
    let handled = manifest.acknowledged + 1;
    until("all to be handled, the new partition's record too", SOON, || async {
        Ok(if scene.handled() == handled { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    let verdict = scene.verify(&[manifest], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");

    // While nobody reads, a partition's records are written and deleted: the committed offset is below the log's start.
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    scene.consumer.patch(json!({"spec": {"suspend": true}})).await?;
    scene.consumer.until_replicas(0, SOON).await?;
    let records: Vec<Record<'_>> =
        (0..50).map(|_| Record { partition: 0, key: Some(b"k"), value: Some(b"v") }).collect();
    world.kafka.send(&scene.topic, &records)?;
    let (_, end) = world.kafka.watermarks(&scene.topic)?.get(&0).copied().unwrap_or_default();
    world.kafka.delete_records(&scene.topic, 0, end - 10).await?;
    scene.consumer.until_status("a lag of what is left", SOON, |s| s.lag == Some(10)).await?;
    scene.consumer.patch(json!({"spec": {"suspend": false}})).await?;
    scene.consumer.until_status("lag 0 again", SOON, |s| s.lag == Some(0)).await?;
    scene.end().await
}

/// A transaction's marker takes an offset and is never delivered: the lag gets to 0 all the same, and the pods to zero.
pub async fn a_transactions_marker_is_no_lag(world: Arc<World>) -> Result<()> {
    let scene = world.scene("marker", 1).await?;
    scene
        .consumer
        .apply(scene.spec(&json!({"scaling": {"minReplicas": 0, "scaleDownAfter": "5s"}})))
        .await?;
    world.kafka.send_transaction(&scene.topic, 0, 20, true)?;
    until("the transaction to be handled", SOON, || async {
        Ok(if scene.handled() == 20 { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    world.kafka.send_transaction(&scene.topic, 0, 10, false)?;
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    scene.consumer.until_replicas(0, Duration::from_secs(60)).await?;
    ensure!(scene.handled() == 20, "records of an aborted transaction were handled");
    scene.end().await
}
