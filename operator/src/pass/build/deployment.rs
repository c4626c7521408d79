//! The Deployment `NAME`, without its replicas: those have a writer of their own.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1 as core,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use sluice_crds::{
    kafkaconsumer::pod::{Pod, Volume},
    labels,
};

use super::{Error, labels_over, metadata, over, security};
use crate::{
    hash::hash,
    pass::validate::{OWN_VOLUMES, Validated},
};

/// The Deployment. `config_hash` rolls its pods when it changes.
pub fn deployment(v: &Validated, config_hash: &str) -> Result<Deployment, Error> {
    Ok(Deployment {
        metadata: metadata(v, v.id.deployment_name().to_owned(), BTreeMap::new()),
        spec: Some(DeploymentSpec {
            selector: LabelSelector {
                match_labels: Some(v.id.selector_labels()),
                ..LabelSelector::default()
            },
            // A pod more before one less: a bad image never takes the last good pod.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            revision_history_limit: Some(3),
            template: template(v, config_hash)?,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}

fn template(v: &Validated, config_hash: &str) -> Result<core::PodTemplateSpec, Error> {
    let labels = labels_over(v, &v.pod.labels);
    let annotations = over(&v.inherited.annotations, v.pod.annotations.clone());
    let spec = pod(v, config_hash);
    let mut ours = BTreeMap::from([(labels::CONFIG_HASH.to_owned(), config_hash.to_owned())]);
    let hash = hash(&(&labels, &annotations, &ours, &spec))?;
    ours.insert(labels::TEMPLATE_HASH.to_owned(), hash);
    Ok(core::PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(over(&annotations, ours)),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    })
}

fn pod(v: &Validated, config_hash: &str) -> core::PodSpec {
    // All fields are named, so that a new one does not compile until it is used.
    let Pod {
        image_pull_secrets,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        security_context,
        service_account_name,
        automount_service_account_token,
        priority_class_name,
        termination_grace_period_seconds,
        // The template's metadata has these,
        labels: _,
        annotations: _,
        // `volumes` this one,
        volumes: _,
        // and `container`, which names all of its own, these.
        image: _,
        image_policy: _,
        image_pull_policy: _,
        args: _,
        env: _,
        env_from: _,
        resources: _,
        container_security_context: _,
        volume_mounts: _,
    } = &v.pod;
    core::PodSpec {
        containers: vec![container(v)],
        volumes: Some(volumes(v, config_hash)),
        image_pull_secrets: some(image_pull_secrets),
        node_selector: (!node_selector.is_empty()).then(|| node_selector.clone()),
        tolerations: some(tolerations),
        affinity: affinity.clone(),
        topology_spread_constraints: some(topology_spread_constraints),
        security_context: Some(security::pod(security_context.clone(), v.run_as)),
        service_account_name: service_account_name.clone(),
        automount_service_account_token: Some(*automount_service_account_token),
        enable_service_links: Some(false),
        priority_class_name: priority_class_name.clone(),
        termination_grace_period_seconds: Some(*termination_grace_period_seconds),
        ..core::PodSpec::default()
    }
}

fn container(v: &Validated) -> core::Container {
    // All fields are named, so that a new one does not compile until it is used.
    let Pod {
        image_pull_policy,
        args,
        env_from,
        resources,
        container_security_context,
        // `Validated` has the image that is meant, `env` and `mounts` put ours before theirs.
        image: _,
        image_policy: _,
        env: _,
        volume_mounts: _,
        // The template's metadata, `volumes` and `pod` have these.
        labels: _,
        annotations: _,
        volumes: _,
        image_pull_secrets: _,
        node_selector: _,
        tolerations: _,
        affinity: _,
        topology_spread_constraints: _,
        security_context: _,
        service_account_name: _,
        automount_service_account_token: _,
        priority_class_name: _,
        termination_grace_period_seconds: _,
    } = &v.pod;
    core::Container {
        name: labels::CONTAINER.to_owned(),
        image: Some(v.image.clone()),
        image_pull_policy: image_pull_policy.map(|policy| policy.as_str().to_owned()),
        args: some(args),
        env: Some(env(v)),
        env_from: some(env_from),
        ports: Some(vec![core::ContainerPort {
            name: Some("health".to_owned()),
            container_port: i32::from(labels::HEALTH_PORT),
            protocol: Some("TCP".to_owned()),
            ..core::ContainerPort::default()
        }]),
        resources: Some(resources.clone().unwrap_or_else(|| core::ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity("50m".to_owned())),
                ("memory".to_owned(), Quantity("64Mi".to_owned())),
            ])),
            ..core::ResourceRequirements::default()
        })),
        liveness_probe: Some(probe("/livez", 10, 6)),
        // Pods are counted when they have joined their group: a second matters when a spike has come.
        readiness_probe: Some(probe("/readyz", 1, 3)),
        security_context: Some(security::container(container_security_context.clone())),
        volume_mounts: Some(mounts(v)),
        // The last lines of a pod that ended are what `Ready` says of it.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..core::Container::default()
    }
}

fn env(v: &Validated) -> Vec<core::EnvVar> {
    let value = |name: &str, value: &str| core::EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let mut env = vec![
        value(labels::ENV_CONFIG_DIR, labels::CONFIG_DIR),
        value(labels::ENV_TUNING_DIR, labels::TUNING_DIR),
        core::EnvVar {
            name: labels::ENV_POD_NAME.to_owned(),
            value: None,
            value_from: Some(core::EnvVarSource {
                field_ref: Some(core::ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.name".to_owned(),
                }),
                ..core::EnvVarSource::default()
            }),
        },
    ];
    let suffix = v.id.member_suffix().to_string();
    env.push(value(labels::ENV_MEMBER_SUFFIX, &suffix));
    env.extend(v.pod.env.iter().cloned());
    env
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> core::Probe {
    core::Probe {
        http_get: Some(core::HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(labels::HEALTH_PORT)),
            ..core::HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..core::Probe::default()
    }
}

/// The files are mounted as folders: a `subPath` would never be updated.
fn mounts(v: &Validated) -> Vec<core::VolumeMount> {
    let mount = |name: &str, path: &str| core::VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..core::VolumeMount::default()
    };
    let [config, tuning] = OWN_VOLUMES;
    let mut mounts = vec![mount(config, labels::CONFIG_DIR), mount(tuning, labels::TUNING_DIR)];
    mounts.extend(v.pod.volume_mounts.iter().cloned());
    mounts
}

fn volumes(v: &Validated, config_hash: &str) -> Vec<core::Volume> {
    let own = |name: &str, config_map: String| core::Volume {
        name: name.to_owned(),
        config_map: Some(core::ConfigMapVolumeSource {
            name: config_map,
            ..core::ConfigMapVolumeSource::default()
        }),
        ..core::Volume::default()
    };
    let [config, tuning] = OWN_VOLUMES;
    let mut volumes =
        vec![own(config, v.id.config_name(config_hash)), own(tuning, v.id.tuning_name())];
    volumes.extend(v.pod.volumes.iter().cloned().map(volume));
    volumes
}

fn volume(v: Volume) -> core::Volume {
    core::Volume {
        name: v.name,
        config_map: v.config_map,
        secret: v.secret,
        empty_dir: v.empty_dir,
        projected: v.projected,
        persistent_volume_claim: v.persistent_volume_claim,
        csi: v.csi,
        ..core::Volume::default()
    }
}

fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}
