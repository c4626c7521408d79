//! What other users of the cluster do to a consumer's objects, and to the operator's own surroundings.

use std::{env, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    api::{
        admissionregistration::v1beta1::{MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding},
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::Pod,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sluice_crds::{conditions, labels};
use sluice_e2e::{World, until, world::Scene};
use sluice_lab::folders::Folders;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(40);

/// How long nothing may happen to the pods, seconds; `SLUICE_E2E_HOLD=300` for a proof by hand.
pub fn hold() -> Duration {
    let given = env::var("SLUICE_E2E_HOLD").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(20))
}

/// Labels that somebody removes, labels that a policy rewrites, a pod that has ended, and an
/// autoscaler: all at once, each in a namespace of its own.
pub async fn what_others_do_to_its_objects_costs_no_pod(world: Arc<World>) -> Result<()> {
    tokio::try_join!(
        labels_are_removed(Arc::clone(&world)),
        labels_are_rewritten(Arc::clone(&world)),
        a_pod_has_ended(Arc::clone(&world)),
        an_autoscaler_insists(world),
    )?;
    Ok(())
}

/// A consumer of three pods that stay three.
async fn three_pods(world: &Arc<World>, name: &str) -> Result<Scene> {
    let scene = world.scene(name, 3).await?;
    scene.consumer.apply(scene.spec(&json!({"scaling": {"minReplicas": 3}}))).await?;
    scene.consumer.until_replicas(3, SOON).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    Ok(scene)
}

/// Looks for a while whether three pods are asked for all the time, and are the same ones.
async fn the_same_three_pods_stay(scene: &Scene) -> Result<()> {
    let names = async || -> Result<Vec<String>> {
        let pods = scene.consumer.pods().await?;
        let mut names: Vec<_> = pods.into_iter().filter_map(|pod| pod.metadata.name).collect();
        names.sort();
        Ok(names)
    };
    let before = names().await?;
    let begin = Instant::now();
    while begin.elapsed() < hold() {
        let (asked, _) = scene.consumer.replicas().await?;
        ensure!(asked == 3, "{asked} pods are asked for after {:?}", begin.elapsed());
        let now = names().await?;
        ensure!(now == before, "{before:?} became {now:?} after {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn labels_are_removed(world: Arc<World>) -> Result<()> {
    let scene = three_pods(&world, "unlabelled").await?;
    for label in [labels::MANAGED_BY, labels::CONSUMER] {
        let (remove, namespace) = (format!("{label}-"), scene.namespace.as_str());
        world.lab.kubectl(&["label", "deployment/work", "-n", namespace, &remove])?;
        until(&format!("the label {label} to be back"), SOON, || async {
            let there = scene.consumer.deployment().await?.context("no Deployment")?;
            let labels = there.metadata.labels.unwrap_or_default();
            Ok(if labels.contains_key(label) { Ok(()) } else { Err(labels) })
        })
        .await?;
    }
    the_same_three_pods_stay(&scene).await?;
    scene.end().await
}

/// Fewer than ten writes per minute, though what is written is never what is found.
async fn labels_are_rewritten(world: Arc<World>) -> Result<()> {
    let scene = world.scene("rewritten", 3).await?;
    let policy: MutatingAdmissionPolicy = serde_json::from_value(json!({
        "metadata": { "name": scene.namespace },
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {
                    "matchLabels": { "kubernetes.io/metadata.name": scene.namespace },
                },
                "resourceRules": [{
                    "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                    "resources": ["deployments"],
                }],
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{
                "patchType": "JSONPatch",
                "jsonPatch": { "expression": "[JSONPatch{op: 'add', path: '/metadata/labels', \
                    value: {'app.kubernetes.io/managed-by': 'platform'}}]" },
            }],
        },
    }))?;
    let binding: MutatingAdmissionPolicyBinding = serde_json::from_value(json!({
        "metadata": { "name": scene.namespace },
        "spec": { "policyName": scene.namespace },
    }))?;
    let policies: Api<MutatingAdmissionPolicy> = Api::all(world.client.clone());
    policies.create(&PostParams::default(), &policy).await.context("the policy")?;
    let bindings: Api<MutatingAdmissionPolicyBinding> = Api::all(world.client.clone());
    bindings.create(&PostParams::default(), &binding).await.context("its binding")?;

    scene.consumer.apply(scene.spec(&json!({"scaling": {"minReplicas": 3}}))).await?;
    scene.consumer.until_replicas(3, SOON).await?;
    let rewritten = async || -> Result<Value> {
        let there = scene.consumer.deployment().await?.context("no Deployment")?;
        Ok(json!({
            "labels": there.metadata.labels,
            "version": there.metadata.generation,
            "written": there.metadata.managed_fields.unwrap_or_default().len(),
        }))
    };
    let deployments: Api<Deployment> = Api::namespaced(world.client.clone(), &scene.namespace);
    // The binding takes a moment to be in force: a change makes the policy see the object.
    until("the policy to rewrite the labels", SOON, || async {
        let touch = json!({"metadata": {"annotations": {"touched": "yes"}}});
        deployments.patch("work", &PatchParams::default(), &Patch::Merge(touch)).await?;
        let seen = rewritten().await?;
        Ok(if seen["labels"][labels::MANAGED_BY] == "platform" { Ok(()) } else { Err(seen) })
    })
    .await?;
    let version = async || -> Result<String> {
        let there = scene.consumer.deployment().await?.context("no Deployment")?;
        Ok(there.metadata.resource_version.unwrap_or_default())
    };
    let (mut changes, mut last) = (0, version().await?);
    let begin = Instant::now();
    while begin.elapsed() < hold() {
        let now = version().await?;
        if now != last {
            (changes, last) = (changes + 1, now);
        }
        let (asked, _) = scene.consumer.replicas().await?;
        ensure!(asked == 3, "{asked} pods are asked for after {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let allowed = 10.0 * (hold().as_secs_f64() / 60.0).max(1.0);
    ensure!(f64::from(changes) < allowed, "{changes} changes of the Deployment in {:?}", hold());
    policies.delete(&scene.namespace, &DeleteParams::default()).await?;
    bindings.delete(&scene.namespace, &DeleteParams::default()).await?;
    scene.end().await
}

/// As after an eviction: the object stays, in phase Failed, with the consumer's labels.
async fn a_pod_has_ended(world: Arc<World>) -> Result<()> {
    let scene = world.scene("ended", 2).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let living = scene.consumer.pods().await?;
    let mut labels = living.first().and_then(|p| p.metadata.labels.clone()).context("no pod")?;
    // With it the ReplicaSet would take the pod for one of its own.
    labels.remove("pod-template-hash");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "work-ended", "labels": labels },
        "spec": {
            "restartPolicy": "Never",
            // Without its configuration it ends at once, with an error.
            "containers": [{
                "name": labels::CONTAINER, "image": "sluice.dev/consumer:dev",
                "imagePullPolicy": "Never",
            }],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &scene.namespace);
    pods.create(&PostParams::default(), &pod).await?;
    until("the pod to end", SOON, || async {
        let status = pods.get("work-ended").await?.status.unwrap_or_default();
        Ok(if status.phase.as_deref() == Some("Failed") { Ok(()) } else { Err(status.phase) })
    })
    .await?;
    let load = scene.load("100x2s")?.wait().await?;
    scene
        .consumer
        .until_status("all is handled", SOON, |s| s.lag == Some(0) && s.ready_replicas == Some(1))
        .await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    ensure!(load.acknowledged > 0, "nothing was sent");
    scene.consumer.patch(json!({"spec": {"suspend": true}})).await?;
    scene.consumer.until_status("the offsets are parked", SOON, |s| s.parked.is_some()).await?;
    pods.get("work-ended").await.context("the ended pod was to stay until here")?;
    scene.end().await
}

/// An HPA that wants two pods where one is decided.
async fn an_autoscaler_insists(world: Arc<World>) -> Result<()> {
    let scene = world.scene("autoscaled", 3).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({
        "metadata": { "name": "work" },
        "spec": {
            "minReplicas": 2, "maxReplicas": 2,
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "work" },
            "metrics": [{
                "type": "Resource",
                "resource": {
                    "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 },
                },
            }],
        },
    }))?;
    let hpas: Api<HorizontalPodAutoscaler> =
        Api::namespaced(world.client.clone(), &scene.namespace);
    hpas.create(&PostParams::default(), &hpa).await?;
    let two_minutes = Duration::from_secs(120);
    let (_, message) =
        scene.consumer.until_condition(conditions::CONTESTED, "True", two_minutes).await?;
    ensure!(message.contains("kube-controller-manager"), "it does not name the other: {message}");
    let (reason, message) =
        scene.consumer.until_condition(conditions::STALLED, "True", two_minutes).await?;
    ensure!(reason == conditions::reason::LEFT_TO_OTHER, "{reason}: {message}");
    // From here on the field is the other's.
    until("the autoscaler to have its way", SOON, || async {
        let (asked, _) = scene.consumer.replicas().await?;
        Ok(if asked == 2 { Ok(()) } else { Err(asked) })
    })
    .await?;
    // It has its way and writes no more: after five minutes of silence Sluice tries again.
    let begin = Instant::now();
    while begin.elapsed() < hold().min(Duration::from_secs(200)) {
        let (asked, _) = scene.consumer.replicas().await?;
        ensure!(asked == 2, "{asked} pods are asked for after {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    scene.end().await
}

/// An operator that is newer than the definition: it scales, and says what to do.
pub async fn an_older_definition_is_told_and_slows_nothing(world: Arc<World>) -> Result<()> {
    let scene = world.scene("older", 3).await?;
    scene.consumer.apply(scene.slow_spec(&json!({}))).await?;
    scene.consumer.until_replicas(1, SOON).await?;
    let name = "kafkaconsumers.sluice.dev";
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let mut older = definitions.get(name).await?;
    for version in &mut older.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        let status = schema.and_then(|s| s.properties.as_mut()?.get_mut("status"));
        let fields = status.and_then(|s| s.properties.as_mut()).context("no status")?;
        fields.remove("behindSeconds").context("no behindSeconds")?;
    }
    definitions.replace(name, &PostParams::default(), &older).await?;
    world.restart_the_operator()?;
    let body = until("/readyz to say it", SOON, || async {
        let body = world.readyz()?;
        Ok(if body.contains("behindSeconds") { Ok(body) } else { Err(body) })
    })
    .await?;
    ensure!(body.contains("sluice-crds"), "it does not say what to do: {body}");
    let load = scene.load("1200x20s")?;
    scene
        .consumer
        .until_status("more pods, and a status without the field", SOON, |s| {
            s.desired_replicas == Some(3) && s.ready_replicas == Some(3)
        })
        .await?;
    load.stop().await?;
    // The definition is put right: the operator notices without a restart.
    let file = "crds/kafkaconsumers.sluice.dev.yaml";
    let file = Folders::checkout()?.join(file).display().to_string();
    world.lab.kubectl(&["replace", "-f", &file])?;
    scene
        .consumer
        .until_status("the field is back", Duration::from_secs(90), |s| s.behind_seconds.is_some())
        .await?;
    scene.end().await
}
