//! The two ConfigMaps: `NAME-config-HASH` (static, immutable; another meaning is another ConfigMap, and rolls the pods) and `NAME-tuning` (the knobs; a
//! change never rolls a pod).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use sluice_crds::{
    config::{self, ConsumerConfig, KafkaConfig},
    kafkaconsumer::kafka::GroupProtocol,
    labels,
    tuning::{self, Knobs, Tuning},
};

use super::{Error, metadata};
use crate::{hash::hash, pass::validate::Validated};

/// The static configuration of a consumer's pods.
pub fn consumer_config(v: &Validated, protocol: GroupProtocol) -> ConsumerConfig {
    let config = ConsumerConfig {
        version: config::FIRST,
        kafka: KafkaConfig { protocol, ..v.kafka.clone() },
        handler: v.handler.clone(),
        ordering: v.ordering,
        drain_timeout: v.delivery.drain_timeout,
        retry: v.delivery.retry.clone(),
        apply_on: v.tuning.apply_on,
        initial: v.first_knobs(),
    };
    // The oldest format that holds it: an image of any age reads it, and an upgrade of the operator changes no byte.
    let version = config.needs(config::SINCE).map_or(config::FIRST, |since| since.format);
    ConsumerConfig { version, ..config }
}

/// The hash of what a configuration means: reformatting it, or writing `90s` as `1m30s`, changes nothing.
///
/// The first knobs are left out: they stand in for a tuning file that cannot be read, and are not worth a rollout.
///
/// # Errors
/// As [`hash`].
pub fn meaning(config: &ConsumerConfig) -> Result<String, Error> {
    let meaning =
        ConsumerConfig { initial: Knobs { batch_size: 1, concurrency: 1 }, ..config.clone() };
    Ok(hash(&meaning)?)
}

/// The ConfigMap with the static configuration of this meaning.
///
/// # Errors
/// As the serializer's.
pub fn config(v: &Validated, config: &ConsumerConfig, meaning: &str) -> Result<ConfigMap, Error> {
    Ok(ConfigMap {
        metadata: metadata(v, v.id.config_name(meaning), BTreeMap::new()),
        immutable: Some(true),
        data: Some(BTreeMap::from([(config::FILE_NAME.to_owned(), config.to_yaml()?)])),
        ..ConfigMap::default()
    })
}

/// The ConfigMap with the tuning file.
///
/// # Errors
/// As the serializer's.
pub fn tuning(v: &Validated, tuning: Tuning) -> Result<ConfigMap, Error> {
    let revision = BTreeMap::from([(labels::REVISION.to_owned(), tuning.revision.to_string())]);
    Ok(ConfigMap {
        metadata: metadata(v, v.id.tuning_name(), revision),
        data: Some(BTreeMap::from([(tuning::FILE_NAME.to_owned(), tuning.to_yaml()?)])),
        ..ConfigMap::default()
    })
}
