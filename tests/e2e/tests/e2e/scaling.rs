//! Pods follow the lag: up with a spike, down after it, to zero and back, and still when the load is steady.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_crds::{conditions, kafkaconsumer::kafka::GroupProtocol};
use sluice_e2e::{World, until};

const SOON: Duration = Duration::from_secs(40);

/// The whole thread: a spike of fifteen times, met in one change, drained, and the pods go again. (`cargo demo` plays it
/// larger and measures its times.)
pub async fn a_spike_is_followed_up_and_down(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("spike", 6).await?;
    scene.consumer.apply(scene.slow_spec(&json!({"scaling": {"scaleDownAfter": "15s"}}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("100x10s,1500x35s,100x60s")?;
    // 250/s a partition: a pod of 500/s with two of them would be full, so each needs its own.
    scene.consumer.until_replicas(6, Duration::from_secs(40)).await?;
    scene.consumer.until_replicas(1, Duration::from_secs(100)).await?;
    let manifest = load.stop().await?;
    let verdict = scene.verify(&[manifest], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    let events = scene.consumer.events().await?;
    ensure!(
        events.iter().any(|e| e.starts_with("Scaled")),
        "the events tell of the scaling: {events:?}"
    );
    scene.end().await
}

/// With `minReplicas: 0` the pods go when nothing comes, and a record wakes them.
pub async fn pods_go_to_zero_and_wake(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("zero", 3).await?;
    scene
        .consumer
        .apply(scene.spec(&json!({"scaling": {"minReplicas": 0, "scaleDownAfter": "5s"}})))
        .await?;
    let first = scene.load("50x2s")?.wait().await?;
    until("the first records to be handled", SOON, || async {
        Ok(if scene.handled() == first.acknowledged { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    scene.consumer.until_replicas(0, Duration::from_secs(60)).await?;
    let status =
        scene.consumer.until_status("its offsets parked", SOON, |s| s.parked.is_some()).await?;
    ensure!(status.lag == Some(0), "{status:?}");
    let woken = Instant::now();
    let second = scene.load("50x2s")?.wait().await?;
    let verdict = scene.verify(&[first, second], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    ensure!(woken.elapsed() < Duration::from_secs(30), "waking took {:?}", woken.elapsed());
    scene.end().await
}

/// Once it has settled, a steady load moves nothing: no pods, no knobs, no events. (Ten minutes of it: `docs/evidence.md`.)
pub async fn a_steady_load_moves_nothing(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("steady", 6).await?;
    scene.consumer.apply(scene.slow_spec(&json!({"scaling": {"scaleDownAfter": "15s"}}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("950x100s")?;
    // 158/s a partition: two of them (317/s) fit a pod of 500/s at 80 %, three (475/s) do not.
    scene.consumer.until_replicas(3, Duration::from_secs(60)).await?;
    let settled = scene.consumer.deployment().await?.and_then(|d| d.metadata.generation);
    let manifest = load.wait().await?;
    let now = scene.consumer.deployment().await?.and_then(|d| d.metadata.generation);
    ensure!(
        settled == now,
        "the Deployment was changed under a steady load: generation {settled:?} to {now:?}"
    );
    let verdict = scene.verify(&[manifest], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.end().await
}

/// KIP-848: up under load and down again, nothing lost, repeated or out of order.
pub async fn the_consumer_protocol_scales_too(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("kip-848", 4).await?;
    let spec =
        json!({"kafka": {"protocol": "Consumer"}, "scaling": {"mode": "Manual"}, "replicas": 1});
    scene.consumer.apply(scene.slow_spec(&spec)).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let protocol = scene.consumer.status().await?.protocol;
    ensure!(protocol == Some(GroupProtocol::Consumer), "{protocol:?}");
    let load = scene.load("400x25s")?;
    for pods in [3, 1] {
        scene.consumer.patch(json!({"spec": {"replicas": pods}})).await?;
        scene.consumer.until_replicas(pods, SOON).await?;
    }
    let manifest = load.wait().await?;
    let verdict = scene.verify(&[manifest], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.end().await
}
