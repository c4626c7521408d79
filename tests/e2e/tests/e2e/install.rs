//! Installing Sluice and a first consumer, as a user does.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::Pod,
};
use kube::api::{Api, PostParams};
use serde_json::json;
use sluice_crds::conditions;
use sluice_e2e::{World, records::Record, until};
use sluice_lab::lab::OPERATOR_NAMESPACE;

/// All later tests stand on it: helm said that the operator is ready, and nobody gave it more than the chart's rights.
pub async fn the_operator_runs_under_the_charts_rights(world: Arc<World>) -> Result<()> {
    let rights = |verb: &str, what: &str| {
        world.lab.kubectl(&[
            "auth",
            "can-i",
            verb,
            what,
            "-A",
            "--as",
            &format!("system:serviceaccount:{OPERATOR_NAMESPACE}:sluice"),
        ])
    };
    ensure!(rights("patch", "deployments.apps")?.trim() == "yes", "it may write deployments");
    for (verb, what) in [
        ("get", "secrets"),
        ("list", "secrets"),
        ("delete", "namespaces"),
        ("create", "pods"),
        ("update", "customresourcedefinitions.apiextensions.k8s.io"),
    ] {
        // kubectl exits with 1 on "no".
        ensure!(rights(verb, what).is_err(), "the operator may {verb} {what}, and has no need to");
    }
    Ok(())
}

/// The shortest consumer that there is: it becomes ready, its status names what a person asks, and records are handled.
pub async fn a_consumer_runs_and_says_so(world: Arc<World>) -> Result<()> {
    let scene = world.scene("first", 3).await?;
    scene.consumer.apply(scene.spec(&json!({}))).await?;
    scene.consumer.until_condition(conditions::READY, "True", Duration::from_secs(40)).await?;
    world
        .kafka
        .send(&scene.topic, &[Record { partition: 1, key: Some(b"k"), value: Some(b"v") }])?;
    until("the record to be handled", Duration::from_secs(20), || async {
        Ok(if scene.handled() == 1 { Ok(()) } else { Err(scene.handled()) })
    })
    .await?;
    let status = scene
        .consumer
        .until_status("lag 0 of 3 partitions", Duration::from_secs(20), |s| {
            s.lag == Some(0) && s.partitions == Some(3)
        })
        .await?;
    ensure!(status.group_id.as_deref() == Some(scene.consumer.group().as_str()), "{status:?}");
    ensure!(
        status.replicas == Some(1) && status.selector.is_some() && status.protocol.is_some(),
        "{status:?}"
    );
    for kind in [
        conditions::READY,
        conditions::KAFKA_REACHABLE,
        conditions::SCALING_ACTIVE,
        conditions::SCALING_LIMITED,
        conditions::GROUP_CONFLICT,
    ] {
        ensure!(
            status.conditions.iter().any(|c| c.type_ == kind),
            "the condition {kind} is missing: {status:?}"
        );
    }
    let table = world.lab.kubectl(&["get", "kcon", "-n", &scene.namespace])?;
    for column in ["READY", "REPLICAS", "PARTITIONS", "LAG", "BEHIND", "REASON", "AGE"] {
        ensure!(table.contains(column), "{table}");
    }
    let pods = scene.consumer.pods().await?;
    let pod = pods.first().and_then(|p| p.spec.as_ref());
    ensure!(
        pod.and_then(|p| p.security_context.as_ref()).and_then(|c| c.run_as_non_root) == Some(true),
        "{pod:?}"
    );
    scene.end().await
}

/// A policy as OpenShift has it: who names a user for a pod in this namespace is refused.
async fn refuse_fixed_users(world: &World, namespace: &str) -> Result<()> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.client.clone());
    let policy = json!({
        "metadata": { "name": namespace },
        "spec": {
            "matchConstraints": {
                "namespaceSelector": {
                    "matchLabels": { "kubernetes.io/metadata.name": namespace },
                },
                "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods"],
                }],
            },
            "validations": [{
                "expression": "!has(object.spec.securityContext.runAsUser) && \
                    object.spec.containers.all(c, !has(c.securityContext.runAsUser))",
                "message": "the platform assigns the user",
            }],
        },
    });
    let binding = json!({
        "metadata": { "name": namespace },
        "spec": { "policyName": namespace, "validationActions": ["Deny"] },
    });
    policies.create(&PostParams::default(), &serde_json::from_value(policy)?).await?;
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    // It takes a moment to be in force.
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), namespace);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "fixed" },
        "spec": {
            "securityContext": { "runAsUser": 1 },
            "containers": [{ "name": "c", "image": "none" }],
        },
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    until("the policy to refuse a fixed user", Duration::from_secs(40), || async {
        Ok(match pods.create(&dry, &pod).await {
            Err(kube::Error::Api(refused)) if refused.message.contains("assigns the user") => {
                Ok(())
            }
            other => Err(format!("{:?}", other.map(drop))),
        })
    })
    .await
}

/// `watchNamespaces`: the operator has Roles there and no right elsewhere, and needs none. One of them may go, one may
/// refuse pods that name their user. Taking the list away gives it all.
pub async fn an_operator_of_some_namespaces_keeps_to_them(world: Arc<World>) -> Result<()> {
    let (one, two) = (world.scene("watched-one", 1).await?, world.scene("watched-two", 1).await?);
    let other = world.scene("not-watched", 1).await?;
    refuse_fixed_users(&world, &one.namespace).await?;
    world.lab.install_sluice(&[
        &format!("watchNamespaces={{{},{}}}", one.namespace, two.namespace),
        "consumerRunAsUser=null",
    ])?;
    let account = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:sluice");
    let may = |namespace: &str| {
        // kubectl exits with 1 on "no".
        world
            .lab
            .kubectl(&[
                "auth",
                "can-i",
                "patch",
                "deployments.apps",
                "-n",
                namespace,
                "--as",
                &account,
            ])
            .is_ok()
    };
    ensure!(may(&one.namespace) && may(&two.namespace), "it has no rights where it is to work");
    ensure!(!may(&other.namespace), "it has rights where it is not to work");
    for scene in [&other, &one, &two] {
        scene.consumer.apply(scene.spec(&json!({}))).await?;
    }
    for scene in [&one, &two] {
        scene.consumer.until_condition(conditions::READY, "True", Duration::from_secs(40)).await?;
    }
    // One of them is deleted, with the operator's rights in it, and the operator starts again.
    world.lab.kubectl(&["delete", "namespace", &two.namespace, "--timeout=60s"])?;
    world.restart_the_operator()?;
    until("/readyz to name the lost namespace", Duration::from_secs(40), || async {
        let body = world.readyz()?;
        Ok(if body.contains(&two.namespace) { Ok(()) } else { Err(body) })
    })
    .await?;
    one.consumer.patch(json!({"spec": {"scaling": {"mode": "Manual"}, "replicas": 0}})).await?;
    one.consumer.until_replicas(0, Duration::from_secs(40)).await?;
    let ignored = other.consumer.status().await?;
    ensure!(
        ignored.conditions.is_empty() && other.consumer.children().await?.is_empty(),
        "{ignored:?}"
    );

    world.lab.install_sluice(&[])?;
    other.consumer.until_condition(conditions::READY, "True", Duration::from_secs(40)).await?;
    one.end().await?;
    other.end().await
}
