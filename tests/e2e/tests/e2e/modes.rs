//! Who decides what: Manual, DryRun, suspended, paused, and two consumers of one group.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_crds::conditions;
use sluice_e2e::{World, consumer::Consumer, records::Record, until};

const SOON: Duration = Duration::from_secs(40);

/// `kubectl scale` sets the pods, and no more of them run than there are partitions.
pub async fn replicas_are_the_users_in_mode_manual(world: Arc<World>) -> Result<()> {
    let scene = world.scene("manual", 3).await?;
    scene
        .consumer
        .apply(scene.spec(&json!({"scaling": {"mode": "Manual"}, "replicas": 2})))
        .await?;
    scene.consumer.until_replicas(2, SOON).await?;
    world.lab.kubectl(&["scale", "kcon/work", "-n", &scene.namespace, "--replicas=5"])?;
    scene.consumer.until_replicas(3, SOON).await?;
    let (reason, _) =
        scene.consumer.until_condition(conditions::SCALING_LIMITED, "True", SOON).await?;
    ensure!(reason == conditions::reason::PARTITIONS, "{reason}");
    world.lab.kubectl(&["scale", "kcon/work", "-n", &scene.namespace, "--replicas=1"])?;
    scene.consumer.until_replicas(1, SOON).await?;
    scene.end().await
}

/// The decision is reported, the pods stay.
pub async fn a_dry_run_changes_nothing(world: Arc<World>) -> Result<()> {
    let scene = world.scene("dry-run", 4).await?;
    scene.consumer.apply(scene.slow_spec(&json!({"scaling": {"mode": "DryRun"}}))).await?;
    scene.consumer.until_replicas(1, SOON).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let load = scene.load("1200x25s")?;
    scene
        .consumer
        .until_status("a decision for more pods", Duration::from_secs(25), |s| {
            s.decision.as_ref().is_some_and(|d| d.replicas > 1)
        })
        .await?;
    ensure!(scene.consumer.replicas().await? == (1, 1), "{:?}", scene.consumer.replicas().await?);
    load.stop().await?;
    scene.end().await
}

/// Suspended: no pods, and the group goes on where it stopped.
pub async fn a_suspended_consumer_keeps_its_offsets(world: Arc<World>) -> Result<()> {
    let mut scene = world.scene("suspended", 2).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let first = scene.load("100x2s")?.wait().await?;
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    scene.consumer.patch(json!({"spec": {"suspend": true}})).await?;
    scene.consumer.until_replicas(0, SOON).await?;
    let committed: i64 =
        world.kafka.committed(&scene.consumer.group(), &scene.topic)?.values().sum();
    ensure!(
        committed == i64::try_from(first.acknowledged)?,
        "{committed} of {}",
        first.acknowledged
    );
    let second = scene.load("100x2s")?.wait().await?;
    scene.consumer.patch(json!({"spec": {"suspend": false}})).await?;
    let verdict = scene.verify(&[first, second], SOON).await?;
    ensure!(verdict.exactly_once(), "{verdict}");
    scene.end().await
}

/// The annotation keeps the operator's hands off the children.
pub async fn a_paused_consumer_is_left_alone(world: Arc<World>) -> Result<()> {
    let scene = world.scene("paused", 2).await?;
    scene.consumer.apply(scene.spec(&json!({"scaling": {"scaleDownAfter": "5s"}}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    scene
        .consumer
        .patch(json!({"metadata": {"annotations": {"sluice.dev/paused": "true"}}}))
        .await?;
    let (reason, _) =
        scene.consumer.until_condition(conditions::SCALING_ACTIVE, "False", SOON).await?;
    ensure!(reason == conditions::reason::PAUSED, "{reason}");
    world.lab.kubectl(&["scale", "deployment/work", "-n", &scene.namespace, "--replicas=2"])?;
    scene.consumer.until_replicas(2, SOON).await?;
    scene.consumer.patch(json!({"metadata": {"annotations": {"sluice.dev/paused": null}}})).await?;
    // Nothing asks for two pods: the operator takes back what it owns.
    scene.consumer.until_replicas(1, Duration::from_secs(60)).await?;
    scene.end().await
}

/// The younger of two stands back and says which one has the group.
pub async fn two_consumers_of_one_group_are_told(world: Arc<World>) -> Result<()> {
    let scene = world.scene("conflict", 2).await?;
    let group = json!({"kafka": {"groupId": scene.consumer.group()}});
    scene.consumer.apply(scene.spec(&group)).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let younger = Consumer::new(&world.client, &scene.namespace, "younger");
    younger.apply(scene.spec(&group)).await?;
    let (reason, message) =
        younger.until_condition(conditions::GROUP_CONFLICT, "True", SOON).await?;
    ensure!(
        reason == conditions::reason::OTHER_CONSUMER && message.contains("work"),
        "{reason}: {message}"
    );
    ensure!(
        younger.replicas().await?.0 == 0,
        "the younger one runs pods in a group that is not its own"
    );
    // The older one is not disturbed.
    world.kafka.send(&scene.topic, &[Record { partition: 0, key: None, value: Some(b"v") }])?;
    until("the record to be handled", SOON, || async {
        Ok(if scene.handled() == 1 { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    scene.end().await
}
