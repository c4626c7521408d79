//! Bad input: a clear error at the edge, and no harm to anything else.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sluice_crds::{conditions, kafkaconsumer};
use sluice_e2e::{World, consumer::Consumer, records::Record, until};

/// Long enough for a container to end three times.
const SOON: Duration = Duration::from_secs(60);

/// The rules that `validate_cel` tests in the crate, on the API server that enforces them.
pub async fn bad_consumers_are_refused_with_a_sentence(world: Arc<World>) -> Result<()> {
    let scene = world.scene("refused", 1).await?;
    let cases: &[(Value, &str)] = &[
        (json!({"handler": {"http": {"url": "http://a/"}}}), "exactly one of http, log and custom"),
        (json!({"handler": {"log": null}}), "exactly one of http, log and custom"),
        (json!({"handler": {"log": null, "custom": {}}}), "needs spec.pod.image"),
        (json!({"replicas": 3}), "scaling.mode: Manual"),
        (json!({"scaling": {"mode": "Manual"}}), "required there"),
        (
            json!({"scaling": {"minReplicas": 5, "maxReplicas": 4}}),
            "minReplicas must not be greater",
        ),
        (json!({"scaling": {"drainWithin": "soon"}}), "drainWithin"),
        (
            json!({"tuning": {"batchSize": {"min": 5, "max": 4}}}),
            "batchSize.min must not be greater",
        ),
        (json!({"delivery": {"drainTimeout": "26s"}}), "10 s less than"),
        (
            json!({"delivery": {"retry": {"minBackoff": "1m", "maxBackoff": "1s"}}}),
            "minBackoff must not be greater",
        ),
        (json!({"kafka": {"properties": {"group.id": "x"}}}), "the engine owns"),
        (json!({"kafka": {"properties": {"sasl.password": "x"}}}), "carries a secret"),
        (json!({"kafka": {"properties": {"session.timeout.ms": "1"}}}), "choose kafka.protocol"),
        (json!({"kafka": {"topics": []}}), "topics"),
        (json!({"kafka": {"topics": ["a", "a"]}}), "topics"),
        (json!({"pod": {"volumes": [{"name": "a"}]}}), "a volume needs exactly one"),
    ];
    for (over, sentence) in cases {
        let refused = scene.consumer.apply(scene.spec(over)).await;
        let Err(error) = refused else { anyhow::bail!("{over} was taken") };
        ensure!(format!("{error:#}").contains(sentence), "{over}: {error:#}");
    }
    let named = Consumer::new(&world.client, &scene.namespace, "with.dots");
    let Err(error) = named.apply(scene.spec(&json!({}))).await else {
        anyhow::bail!("a name with dots was taken")
    };
    ensure!(format!("{error:#}").contains("DNS label"), "{error:#}");

    // What is good is taken, its defaults are stored, and the group cannot be changed afterwards.
    scene.consumer.apply(scene.spec(&json!({"suspend": true}))).await?;
    let stored = scene.consumer.get().await?;
    ensure!(stored.spec.scaling == kafkaconsumer::Scaling::default(), "{:?}", stored.spec.scaling);
    let Err(error) = scene.consumer.patch(json!({"spec": {"kafka": {"groupId": "other"}}})).await
    else {
        anyhow::bail!("another group was taken")
    };
    ensure!(format!("{error:#}").contains("groupId cannot be changed"), "{error:#}");
    scene.end().await
}

/// The broker of the lab creates topics by itself, as a stock one does: asking must not make it do so.
pub async fn an_unknown_topic_is_reported_and_never_created(world: Arc<World>) -> Result<()> {
    let scene = world.scene("unknown-topic", 1).await?;
    let topic = format!("{}-missing", scene.topic);
    scene.consumer.apply(scene.spec(&json!({"kafka": {"topics": [topic]}}))).await?;
    let (reason, message) = scene
        .consumer
        .until_condition(conditions::KAFKA_REACHABLE, "False", Duration::from_secs(30))
        .await?;
    ensure!(
        reason == conditions::reason::UNKNOWN_TOPIC && message.contains(&topic),
        "{reason}: {message}"
    );
    // Some rounds of the reader, by its own account, then a look at the broker's topics.
    tokio::time::sleep(Duration::from_secs(5)).await;
    ensure!(!world.kafka.topics()?.contains(&topic), "the topic was created by asking for it");
    // It recovers by itself.
    world.kafka.create_topic(&topic, 1).await?;
    scene
        .consumer
        .until_condition(conditions::KAFKA_REACHABLE, "True", Duration::from_secs(60))
        .await?;
    scene.end().await
}

/// One consumer's wrong address is its own trouble.
pub async fn a_wrong_broker_address_is_reported_and_harms_nobody_else(
    world: Arc<World>,
) -> Result<()> {
    let scene = world.scene("wrong-address", 1).await?;
    let wrong = Consumer::new(&world.client, &scene.namespace, "wrong");
    wrong.apply(scene.spec(&json!({"kafka": {"bootstrapServers": "10.244.0.1:9999"}}))).await?;
    let unresolved = Consumer::new(&world.client, &scene.namespace, "unresolved");
    unresolved
        .apply(scene.spec(&json!({"kafka": {"bootstrapServers": "no-such-host.invalid:9092"}})))
        .await?;
    for consumer in [&wrong, &unresolved] {
        let (reason, _) = consumer
            .until_condition(conditions::KAFKA_REACHABLE, "False", Duration::from_secs(60))
            .await?;
        ensure!(reason == conditions::reason::UNREACHABLE, "{}: {reason}", consumer.name);
    }
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", Duration::from_secs(40)).await?;
    scene.end().await
}

/// Somebody writes nonsense into the tuning file: the pods keep the knobs that they have and go on.
pub async fn a_broken_tuning_file_keeps_the_knobs(world: Arc<World>) -> Result<()> {
    let scene = world.scene("broken-tuning", 1).await?;
    // Paused, so that the operator does not mend the file at once.
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", Duration::from_secs(40)).await?;
    scene
        .consumer
        .patch(json!({"metadata": {"annotations": {"sluice.dev/paused": "true"}}}))
        .await?;
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &scene.namespace);
    maps.patch(
        "work-tuning",
        &PatchParams::default(),
        &Patch::Merge(json!({"data": {"tuning.yaml": "{ not: [yaml"}})),
    )
    .await?;
    for pod in scene.consumer.pods().await? {
        // So that the kubelet syncs the file now and not within its minute.
        let pods: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(world.client.clone(), &scene.namespace);
        let name = pod.metadata.name.unwrap_or_default();
        pods.patch(
            &name,
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": {"annotations": {"e2e": "now"}}})),
        )
        .await?;
    }
    until("the pod to report the broken file", Duration::from_secs(30), || async {
        let logs = world.lab.kubectl(&["logs", "-n", &scene.namespace, "deployment/work"])?;
        Ok(if logs.contains("tuning file") { Ok(()) } else { Err("nothing in its log") })
    })
    .await?;
    world.kafka.send(&scene.topic, &[Record { partition: 0, key: None, value: Some(b"v") }])?;
    until("the record to be handled", Duration::from_secs(20), || async {
        Ok(if scene.handled() == 1 { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    // The operator mends it as soon as it may.
    scene.consumer.patch(json!({"metadata": {"annotations": {"sluice.dev/paused": null}}})).await?;
    until("the operator to mend the file", Duration::from_secs(30), || async {
        let map = maps.get("work-tuning").await?;
        let text = map.data.and_then(|d| d.get("tuning.yaml").cloned()).unwrap_or_default();
        Ok(if text.contains("batchSize") { Ok(()) } else { Err(text) })
    })
    .await?;
    scene.end().await
}

/// Pods that cannot run: the condition has the cluster's own words, and all is well once the cause is gone.
pub async fn pods_that_cannot_run_are_explained(world: Arc<World>) -> Result<()> {
    let scene = world.scene("no-pods", 2).await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), &scene.namespace);
    let quota = serde_json::from_value(
        json!({"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}),
    )?;
    quotas.create(&PostParams::default(), &quota).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    let until_reason = |reason: &'static str| {
        let consumer = &scene.consumer;
        async move {
            until(reason, SOON, || async {
                let status = consumer.status().await?;
                let ready = status.conditions.into_iter().find(|c| c.type_ == conditions::READY);
                let seen = ready.map(|c| (c.reason, c.message)).unwrap_or_default();
                Ok(if seen.0 == reason { Ok(seen.1) } else { Err(seen) })
            })
            .await
        }
    };
    let message = until_reason(conditions::reason::QUOTA).await?;
    ensure!(message.contains("exceeded quota: none"), "{message}");
    quotas.delete("none", &DeleteParams::default()).await?;
    // Kubernetes tries again by itself, later and later; a change of the template makes it try now.
    let image =
        json!({"spec": {"pod": {"image": "sluice.dev/not-there:1", "imagePullPolicy": "Never"}}});
    scene.consumer.patch(image).await?;
    let message = until_reason(conditions::reason::IMAGE).await?;
    ensure!(message.contains("sluice.dev/not-there:1"), "{message}");
    // The stock consumer has no handler of a user's own: it says so and ends.
    let custom = json!({"spec": {
        "handler": {"log": null, "custom": {}},
        "pod": {"image": "sluice.dev/consumer:dev", "imagePullPolicy": "Never"},
    }});
    scene.consumer.patch(custom).await?;
    let message = until_reason(conditions::reason::CRASH).await?;
    ensure!(message.contains("custom"), "{message}");
    scene.consumer.patch(json!({"spec": {"handler": {"custom": null, "log": {}}}})).await?;
    scene.consumer.until_condition(conditions::READY, "True", SOON).await?;
    scene.end().await
}
