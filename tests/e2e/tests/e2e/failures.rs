//! What fails around a consumer: pods, brokers, the API server, the operator itself.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use sluice_crds::conditions;
use sluice_e2e::{World, until};
use sluice_lab::lab::OPERATOR_NAMESPACE;

const SOON: Duration = Duration::from_secs(40);

/// A rollout under load: each pod drains, commits and leaves; its successor goes on where it stopped.
pub async fn a_rolling_restart_loses_and_repeats_nothing(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("rollout", 6).await?;
    scene.consumer.apply(scene.slow_spec(&json!({"scaling": {"minReplicas": 3}}))).await?;
    scene.consumer.until_replicas(3, SOON).await?;
    let load = scene.load("600x30s")?;
    let before: BTreeSet<_> =
        scene.consumer.pods().await?.into_iter().filter_map(|p| p.metadata.name).collect();
    scene.consumer.patch(json!({"spec": {"pod": {"labels": {"rolled": "yes"}}}})).await?;
    until("three other pods", Duration::from_secs(60), || async {
        let now: BTreeSet<_> =
            scene.consumer.pods().await?.into_iter().filter_map(|p| p.metadata.name).collect();
        Ok(if now.len() == 3 && now.is_disjoint(&before) { Ok(()) } else { Err(now) })
    })
    .await?;
    scene.consumer.until_replicas(3, SOON).await?;
    let manifest = load.wait().await?;
    let verdict = scene.verify(&[manifest], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.end().await
}

/// SIGKILL: nothing is lost, and the partitions are handled again within the session timeout (10 s) and 2 s.
pub async fn a_killed_pod_loses_nothing(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("killed", 4).await?;
    scene.consumer.apply(scene.slow_spec(&json!({"scaling": {"minReplicas": 2}}))).await?;
    scene.consumer.until_replicas(2, SOON).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("400x40s")?;
    until("the load to be handled", SOON, || async {
        Ok(if scene.handled() > 1_000 { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    let pods = scene.consumer.pods().await?;
    let uid = pods.first().and_then(|p| p.metadata.uid.clone()).context("a pod")?;
    let victims = world.lab.processes_of_pod(&uid);
    ensure!(!victims.is_empty(), "the pod {uid} has no processes");
    for process in victims {
        process.signal(Signal::SIGKILL);
    }
    let killed = Instant::now();
    let manifest = load.wait().await?;
    let verdict = scene.verify(&[manifest], SOON).await?;
    // What was handled and not committed is handled again: the price of at-least-once.
    ensure!(verdict.at_least_once(), "{verdict}");
    let longest = verdict.most_behind(0, i64::MAX);
    println!(
        "SIGKILL: at most {longest:.1} s behind, {} records handled again, {:?} after the kill all was done",
        verdict.duplicated,
        killed.elapsed()
    );
    ensure!(longest < 12.0, "a partition stood for {longest:.1} s");
    scene.end().await
}

/// Kafka goes away and comes back: the pods stay, unknown is not zero, and all is handled afterwards. The operator lives
/// through it: librdkafka would abort it if the reader left the search for coordinators to it.
pub async fn kafka_may_stop_and_start(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("kafka-away", 4).await?;
    scene
        .consumer
        .apply(scene.slow_spec(&json!({"scaling": {"minReplicas": 0, "scaleDownAfter": "5s"}})))
        .await?;
    let first = scene.load("600x10s")?.wait().await?;
    until("pods", SOON, || async {
        let (_, ready) = scene.consumer.replicas().await?;
        Ok(if ready > 0 { Ok(()) } else { Err(ready) })
    })
    .await?;
    let before = scene.consumer.replicas().await?.0;
    world.lab.kafka().stop();
    let (reason, _) =
        scene.consumer.until_condition(conditions::KAFKA_REACHABLE, "False", SOON).await?;
    ensure!(reason == conditions::reason::UNREACHABLE, "{reason}");
    // Longer than scaleDownAfter: what is not known must not be taken for nothing.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let during = scene.consumer.replicas().await?.0;
    ensure!(during >= before.min(1), "pods went from {before} to {during} while Kafka was away");
    world.lab.kafka().start()?;
    scene
        .consumer
        .until_condition(conditions::KAFKA_REACHABLE, "True", Duration::from_secs(60))
        .await?;
    let second = scene.load("300x5s")?.wait().await?;
    let verdict = scene.verify(&[first, second], Duration::from_secs(60)).await?;
    ensure!(verdict.at_least_once(), "{verdict}");
    let restarts = world.lab.kubectl(&[
        "get",
        "pod",
        "-n",
        OPERATOR_NAMESPACE,
        "-l",
        "app.kubernetes.io/name=sluice",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].restartCount}",
    ])?;
    ensure!(restarts.trim() == "0", "the operator was restarted: {restarts}");
    scene.end().await
}

/// Consuming needs no API server; the operator takes up its work when it is back.
pub async fn the_api_server_may_restart(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("api-away", 4).await?;
    scene.consumer.apply(scene.slow_spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("200x15s,1200x50s")?;
    let lab = world.clone();
    tokio::task::spawn_blocking(move || lab.lab.restart_api_server(Duration::from_secs(10)))
        .await??;
    scene.consumer.until_replicas(4, Duration::from_secs(60)).await?;
    let manifest = load.stop().await?;
    let verdict = scene.verify(&[manifest], Duration::from_secs(60)).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.end().await
}

/// The operator ends in the middle of a scale-up: its successor knows what was learnt and carries on.
pub async fn the_operator_may_restart_in_mid_scale(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("operator-away", 4).await?;
    scene.consumer.apply(scene.slow_spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("200x10s,1200x50s")?;
    until("the scale-up to begin", SOON, || async {
        let seen = scene.consumer.replicas().await?;
        Ok(if seen.0 > 1 { Ok(()) } else { Err(seen) })
    })
    .await?;
    world.lab.kubectl(&[
        "delete",
        "pod",
        "-n",
        OPERATOR_NAMESPACE,
        "-l",
        "app.kubernetes.io/name=sluice",
        "--wait=false",
    ])?;
    scene.consumer.until_replicas(4, Duration::from_secs(60)).await?;
    let manifest = load.stop().await?;
    let verdict = scene.verify(&[manifest], Duration::from_secs(60)).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.end().await
}
