//! Validated + knobs → the objects that ought to be. Pure: no client, no clock, no runtime.
//!
//! One file for each kind. Here are the things that all of them share: names, labels, owner reference, and the hash by
//! which a later pass sees that an object is still what was built.

pub mod config_maps;
pub mod deployment;
mod security;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use sluice_crds::{
    kafkaconsumer::kafka::GroupProtocol,
    labels::{self, DESIRED_HASH},
    tuning::Tuning,
};

pub use crate::cluster::apply::Objects as Children;
use crate::{hash::hash, pass::validate::Validated};

/// Why objects could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The static configuration could not be written down.
    #[error("cannot write the static configuration: {0}")]
    Config(#[from] sluice_crds::config::Error),
    /// The tuning file could not be written down.
    #[error("cannot write the tuning file: {0}")]
    Tuning(#[from] sluice_crds::tuning::Error),
    /// An object could not be written down.
    #[error("cannot write an object: {0}")]
    Object(#[from] serde_json::Error),
}

/// Builds a consumer's objects.
///
/// # Errors
/// Never for valid types; the signature is that of the serializers.
pub fn children(v: &Validated, protocol: GroupProtocol, tuning: Tuning) -> Result<Children, Error> {
    let config = config_maps::consumer_config(v, protocol);
    let meaning = config_maps::meaning(&config)?;
    let mut children = Children {
        config: config_maps::config(v, &config, &meaning)?,
        tuning: config_maps::tuning(v, tuning)?,
        deployment: deployment::deployment(v, &meaning)?,
    };
    // Its data is sealed by its name, and the first knobs in it are not worth a write.
    seal(&mut children.config.metadata, &meaning)?;
    seal(&mut children.tuning.metadata, &children.tuning.data)?;
    seal(&mut children.deployment.metadata, &children.deployment.spec)?;
    Ok(children)
}

/// The labels of an object: those that all inherit, its own further ones over them, and the
/// operator's over both.
fn labels_over(v: &Validated, further: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = over(&v.inherited.labels, further.clone());
    all.extend(v.id.selector_labels());
    all.insert(labels::MANAGED_BY.to_owned(), labels::MANAGED_BY_VALUE.to_owned());
    all.insert(labels::CONSUMER.to_owned(), v.id.name.clone());
    all
}

/// Entries, with others over them.
fn over(
    entries: &BTreeMap<String, String>,
    others: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    entries.iter().map(|(k, v)| (k.clone(), v.clone())).chain(others).collect()
}

/// Metadata of an object, with these annotations of ours.
fn metadata(v: &Validated, name: String, ours: BTreeMap<String, String>) -> ObjectMeta {
    let id = &v.id;
    let annotations = over(&v.inherited.annotations, ours);
    ObjectMeta {
        name: Some(name),
        namespace: Some(id.namespace.clone()),
        labels: Some(labels_over(v, &BTreeMap::new())),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: "sluice.dev/v1alpha1".to_owned(),
            kind: "KafkaConsumer".to_owned(),
            name: id.name.clone(),
            uid: id.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

fn seal<T: Serialize>(metadata: &mut ObjectMeta, content: &T) -> Result<(), Error> {
    let hash = hash(&(&metadata.labels, &metadata.annotations, content))?;
    metadata.annotations.get_or_insert_default().insert(DESIRED_HASH.to_owned(), hash);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use k8s_openapi::api::core::v1 as core;
    use sluice_crds::tuning::Knobs;

    use super::*;
    use crate::pass::validate::tests::good;

    const TUNING: Tuning = Tuning::new(7, Knobs { batch_size: 60, concurrency: 2 });

    fn built(changes: &[(&str, &str)]) -> Children {
        children(&good(changes), GroupProtocol::Classic, TUNING).unwrap()
    }

    fn pod(children: &Children) -> core::PodSpec {
        children.deployment.spec.clone().unwrap().template.spec.unwrap()
    }

    fn config_hash(children: &Children) -> String {
        let template = children.deployment.spec.clone().unwrap().template.metadata.unwrap();
        template.annotations.unwrap()[labels::CONFIG_HASH].clone()
    }

    #[test]
    fn a_change_of_meaning_rolls_the_pods_and_another_spelling_does_not() {
        let plain = built(&[("spec/delivery/drainTimeout", "20s")]);
        for (what, changes, rolls) in [
            ("spelling", vec![("spec/delivery/drainTimeout", "0m20s")], false),
            ("topic order", vec![("spec/kafka/topics", "[orders, orders]")], false),
            (
                "bounds of the knobs",
                vec![("spec/tuning", "{ batchSize: { min: 1, max: 30 } }")],
                false,
            ),
            ("scaling", vec![("spec/scaling/maxReplicas", "3")], false),
            ("drain timeout", vec![("spec/delivery/drainTimeout", "21s")], true),
            ("topic", vec![("spec/kafka/topics", "[orders, more]")], true),
            ("handler", vec![("spec/handler", "{ log: { delayPerRecord: 2ms } }")], true),
            ("isolation", vec![("spec/kafka/isolation", "ReadUncommitted")], true),
        ] {
            let other = built(&changes);
            assert_eq!(config_hash(&other) != config_hash(&plain), rolls, "{what}");
        }
    }

    #[test]
    fn an_upgrade_of_the_operator_rolls_no_consumer() {
        let http = [
            ("spec/handler", "{ http: { url: 'http://x/y', timeout: 3s, headers: { a: b } } }"),
            ("spec/kafka/properties", "{ fetch.min.bytes: '1000' }"),
            ("spec/ordering", "Partition"),
        ];
        let pod = [
            ("spec/handler", "{ custom: { config: { a: [1] } } }"),
            (
                "spec/pod",
                "{ image: 'mine:1', env: [{ name: A, value: b }], labels: { team: shop } }",
            ),
        ];
        let found = [&[][..], &http, &pod].map(|changes| {
            let children = built(changes);
            let template = children.deployment.spec.clone().unwrap().template;
            [config_hash(&children), hash(&template).unwrap()]
        });
        // A plain consumer, the http handler, and an image of the user's own: configuration, template.
        let released = [
            ["d6bb03dcb37cf0cd", "881acada1267fd7f"],
            ["ecf0396a54f68810", "0bfab6c14130b38a"],
            ["767a8b7f8efae20a", "50d51ad23628d3ca"],
        ];
        assert_eq!(found, released, "this rolls every consumer: an upgrade must not");
    }

    #[test]
    fn knobs_stand_in_their_own_file_and_roll_no_pod() {
        let v = good(&[]);
        let before = children(&v, GroupProtocol::Classic, TUNING).unwrap();
        let after = children(
            &v,
            GroupProtocol::Classic,
            Tuning::new(8, Knobs { batch_size: 72, concurrency: 2 }),
        )
        .unwrap();
        assert_eq!(before.deployment, after.deployment);
        assert_eq!(before.config, after.config);
        assert_ne!(before.tuning, after.tuning);
        assert_eq!(after.tuning.metadata.annotations.unwrap()[labels::REVISION], "8");
    }

    #[test]
    fn a_pod_may_do_nothing_that_it_need_not() {
        let pod = pod(&built(&[]));
        let security = pod.security_context.unwrap();
        assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65_532)));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        assert_eq!(pod.automount_service_account_token, Some(false));
        let container = &pod.containers[0];
        let security = container.security_context.clone().unwrap();
        assert_eq!(
            (security.read_only_root_filesystem, security.allow_privilege_escalation),
            (Some(true), Some(false))
        );
        assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        assert!(container.resources.clone().unwrap().requests.is_some());
    }

    #[test]
    fn the_files_are_mounted_as_folders_so_that_they_are_updated() {
        let pod = pod(&built(&[]));
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        assert_eq!(mounts.len(), 2);
        for (mount, dir) in mounts.iter().zip([labels::CONFIG_DIR, labels::TUNING_DIR]) {
            assert_eq!((mount.mount_path.as_str(), &mount.sub_path), (dir, &None));
        }
    }

    #[test]
    fn what_the_spec_says_of_the_pod_gets_there_and_our_labels_win() {
        let children = built(&[(
            "spec/pod",
            "
            image: mine:3
            imagePullPolicy: Never
            args: [--x]
            env: [{ name: A, value: b }]
            labels: { team: shop }
            annotations: { a: b }
            nodeSelector: { disk: ssd }
            tolerations: [{ key: t, operator: Exists }]
            serviceAccountName: orders
            automountServiceAccountToken: true
            priorityClassName: high
            terminationGracePeriodSeconds: 40
            volumes: [{ name: tmp, emptyDir: {} }]
            volumeMounts: [{ name: tmp, mountPath: /tmp }]
            resources: { limits: { memory: 1Gi } }
            ",
        )]);
        let template = children.deployment.spec.clone().unwrap().template;
        let meta = template.metadata.clone().unwrap();
        assert_eq!(meta.labels.as_ref().unwrap()["team"], "shop");
        assert_eq!(meta.labels.unwrap()[labels::INSTANCE], "orders");
        assert_eq!(meta.annotations.unwrap()["a"], "b");
        let pod = pod(&children);
        let container = &pod.containers[0];
        assert_eq!(container.image.as_deref(), Some("mine:3"));
        assert_eq!(container.image_pull_policy.as_deref(), Some("Never"));
        assert_eq!(container.args.clone().unwrap(), ["--x"]);
        assert!(container.env.clone().unwrap().iter().any(|e| e.name == "A"));
        assert_eq!(container.volume_mounts.clone().unwrap().len(), 3);
        assert_eq!(container.resources.clone().unwrap().limits.unwrap()["memory"].0, "1Gi");
        assert_eq!(pod.service_account_name.as_deref(), Some("orders"));
        assert_eq!(pod.automount_service_account_token, Some(true));
        assert_eq!(pod.priority_class_name.as_deref(), Some("high"));
        assert_eq!(pod.termination_grace_period_seconds, Some(40));
        assert_eq!(pod.node_selector.unwrap()["disk"], "ssd");
        assert_eq!(pod.tolerations.unwrap().len(), 1);
        assert_eq!(pod.volumes.unwrap().len(), 3);
    }

    #[test]
    fn what_all_objects_inherit_gets_to_each_of_them_and_a_change_of_it_is_written() {
        let inherited =
            "{ labels: { team: shop, cost: a }, annotations: { example.org/owner: x } }";
        let further = "{ labels: { cost: b }, annotations: { example.org/owner: y } }";
        let plain = built(&[]);
        let children = built(&[("spec/inheritedMetadata", inherited), ("spec/pod", further)]);
        let (config, tuning) = (&children.config.metadata, &children.tuning.metadata);
        let deployment = &children.deployment.metadata;
        let template = children.deployment.spec.clone().unwrap().template.metadata.unwrap();
        for (meta, cost, owner) in [
            (config, "a", "x"),
            (tuning, "a", "x"),
            (deployment, "a", "x"),
            // What the pods alone have is laid over it.
            (&template, "b", "y"),
        ] {
            let labels = meta.labels.as_ref().unwrap();
            assert_eq!((&*labels["team"], &*labels["cost"]), ("shop", cost));
            assert_eq!(labels[labels::CONSUMER], "orders");
            assert_eq!(meta.annotations.as_ref().unwrap()["example.org/owner"], owner);
        }
        let sealed = |meta: &ObjectMeta| meta.annotations.as_ref().unwrap()[DESIRED_HASH].clone();
        assert_ne!(sealed(config), sealed(&plain.config.metadata));
        assert_ne!(sealed(tuning), sealed(&plain.tuning.metadata));
        assert_ne!(sealed(deployment), sealed(&plain.deployment.metadata));
        assert_eq!(children.config.data, plain.config.data, "no other configuration");
    }

    #[test]
    fn the_deployment_leaves_its_replicas_to_the_scaler_and_adds_a_pod_before_it_takes_one() {
        let children = built(&[]);
        let spec = children.deployment.spec.unwrap();
        assert_eq!(spec.replicas, None);
        let rolling = spec.strategy.unwrap().rolling_update.unwrap();
        assert_eq!(
            serde_json::to_value(rolling).unwrap(),
            serde_json::json!({ "maxSurge": 1, "maxUnavailable": 0 })
        );
    }

    #[test]
    fn children_belong_to_their_consumer_and_carry_the_hash_of_what_was_built() {
        let children = built(&[]);
        for meta in
            [&children.config.metadata, &children.tuning.metadata, &children.deployment.metadata]
        {
            let owner = &meta.owner_references.as_ref().unwrap()[0];
            assert_eq!((owner.uid.as_str(), owner.controller), ("u-1", Some(true)));
            assert_eq!(meta.labels.as_ref().unwrap()[labels::MANAGED_BY], labels::MANAGED_BY_VALUE);
            assert_eq!(meta.annotations.as_ref().unwrap()[DESIRED_HASH].len(), 16);
        }
        assert_eq!(children, built(&[]), "the same is built from the same");
    }

    #[test]
    fn what_is_built_is_built_without_client_runtime_or_clock() {
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pass/build")).unwrap() {
            let path = file.unwrap().path();
            let source = fs::read_to_string(&path).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap();
            for word in ["kube::", "tokio", "rdkafka", "Timestamp::now", "Instant"] {
                assert!(!code.contains(word), "{} names {word}", path.display());
            }
        }
    }
}
