//! Taking things away: a consumer, and the operator.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_crds::conditions;
use sluice_e2e::{World, records::Record, until};
use sluice_lab::lab::OPERATOR_NAMESPACE;

const SOON: Duration = Duration::from_secs(40);

/// No child is left, and the group's offsets are still there for whoever comes next.
pub async fn a_deleted_consumer_leaves_only_its_offsets(world: Arc<World>) -> Result<()> {
    let scene = world.scene("deleted", 2).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let manifest = scene.load("100x2s")?.wait().await?;
    scene.consumer.until_status("lag 0", SOON, |s| s.lag == Some(0)).await?;
    scene.consumer.delete(Duration::from_secs(60)).await?;
    let committed: i64 =
        world.kafka.committed(&scene.consumer.group(), &scene.topic)?.values().sum();
    ensure!(
        committed == i64::try_from(manifest.acknowledged)?,
        "{committed} of {}",
        manifest.acknowledged
    );
    ensure!(
        world.kafka.members(&scene.consumer.group())?.is_empty(),
        "a member is left in the group"
    );
    scene.end().await
}

/// `helm uninstall`: consumers and pods go on, nothing of the operator is left, and a new one takes over where it was.
pub async fn an_uninstalled_operator_leaves_the_consumers_running(world: Arc<World>) -> Result<()> {
    let scene = world.scene("uninstalled", 2).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    world.lab.uninstall_operator()?;
    until("nothing to be left of the operator", SOON, || async {
        let of_it = ["-l", "app.kubernetes.io/instance=sluice", "-o", "name"];
        let namespaced = ["get", "all,sa,role,rolebinding,cm", "-n", OPERATOR_NAMESPACE];
        let whole = ["get", "clusterrole,clusterrolebinding"];
        let left = world.lab.kubectl(&[&namespaced[..], &of_it].concat())?
            + &world.lab.kubectl(&[&whole[..], &of_it].concat())?;
        Ok(if left.trim().is_empty() { Ok(()) } else { Err(left) })
    })
    .await?;
    world.kafka.send(&scene.topic, &[Record { partition: 0, key: None, value: Some(b"v") }])?;
    until("a record to be handled without an operator", SOON, || async {
        Ok(if scene.handled() == 1 { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    ensure!(scene.consumer.replicas().await? == (1, 1), "{:?}", scene.consumer.replicas().await?);
    let pods: Vec<_> =
        scene.consumer.pods().await?.into_iter().filter_map(|p| p.metadata.uid).collect();
    world.lab.install_sluice(&[])?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let after: Vec<_> =
        scene.consumer.pods().await?.into_iter().filter_map(|p| p.metadata.uid).collect();
    ensure!(pods == after, "a new operator replaced the pods of a consumer that did not change");
    scene.end().await
}
