//! Spec → [`Validated`]: names typed, defaults resolved, what was pinned taken from status. Pure.
//!
//! The API server refuses most of what is wrong before it gets here. Objects that were stored before a rule existed do
//! get here, so the rules are checked again; what is wrong becomes a condition, and no retry.

use std::collections::BTreeSet;

use kube::core::cel::ErrorKind;
use sluice_crds::{
    KafkaConsumer, KafkaConsumerSpec, KafkaConsumerStatus, TopicName,
    config::KafkaConfig,
    kafkaconsumer::{
        Delivery, Handler, InheritedMetadata, Ordering, Pod, Scaling, TuningSpec,
        kafka::{
            CODE_PROPERTIES, ENGINE_PROPERTIES, GroupProtocol, PROTOCOL_PROPERTIES,
            SECRET_PREFIXES, StartFrom,
        },
        pod::ImagePolicy,
        scaling::ScalingMode,
    },
    labels,
    topic::NotATopic,
    tuning::Knobs,
};

use crate::{
    identity::{Identity, Incomplete},
    platform::{Platform, RunAs},
};

/// The batch size that a consumer begins with, within its bounds: large enough that an ordinary load needs no change,
/// small enough that a slow handler ends a batch within its timeout.
const FIRST_BATCH_SIZE: i32 = 50;

/// Volumes of the operator's own, whose names a user's volumes cannot have.
pub const OWN_VOLUMES: [&str; 2] = [labels::CONFIG_VOLUME, labels::TUNING_VOLUME];

/// A consumer whose spec was found good; nothing downstream looks at the raw spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Which consumer.
    pub id: Identity,
    /// Brokers, topics and group; the protocol is `Auto` until the reader resolved it.
    pub kafka: KafkaConfig,
    /// Where a group without offsets begins.
    pub start_from: StartFrom,
    /// What is done with the records.
    pub handler: Handler,
    /// The ordering domain.
    pub ordering: Ordering,
    /// Who decides on the pods.
    pub replicas: Replicas,
    /// Bounds and targets as the planner takes them.
    pub bounds: sluice_planner::Spec,
    /// Bounds and targets of the pods, as the spec has them.
    pub scaling: Scaling,
    /// The most pods, whatever the spec says: the administrator's bound.
    pub max_replicas: i32,
    /// The user of the pods, unless the spec names one.
    pub run_as: RunAs,
    /// Bounds and targets of the knobs.
    pub tuning: TuningSpec,
    /// Retries and the time to drain.
    pub delivery: Delivery,
    /// The pods' template.
    pub pod: Pod,
    /// Labels and annotations of all objects.
    pub inherited: InheritedMetadata,
    /// The consumer's image.
    pub image: String,
    /// The stock image that was chosen: `image` itself, unless the spec names another.
    pub stock_image: Option<String>,
    /// The operator's stock image, where the consumer is to take it and does not run it yet: when its turn comes.
    pub upgrade: Option<String>,
    /// The operator leaves the children alone.
    pub paused: bool,
    /// A group with members that are not ours may be taken over.
    pub take_over: bool,
}

/// Who decides on the pods: docs/architecture.md has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// The planner.
    Planner,
    /// Nobody: they stay as they are. The planner's decision is reported.
    AsTheyAre,
    /// `spec.replicas`.
    Fixed(i32),
    /// `spec.suspend`: none.
    Suspended,
}

/// Why a spec cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It breaks rules; each sentence says what to write.
    #[error("{}", .0.join("; "))]
    Spec(Vec<String>),
    /// Neither the spec nor the operator names an image.
    #[error("no image: set spec.pod.image, or start the operator with --consumer-image")]
    NoImage,
    /// A field needs a newer format of the configuration than the image reads.
    #[error(
        "{field} needs a consumer image that reads configuration format {format}, and {image} reads up to {reads}: remove {field}, or use a newer image (spec.pod.image, or spec.pod.imagePolicy: FollowOperator)"
    )]
    Format {
        /// The field.
        field: &'static str,
        /// What it needs.
        format: u32,
        /// The image.
        image: String,
        /// What the image reads.
        reads: u32,
    },
    /// The object is no consumer.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

impl Validated {
    /// The knobs of a consumer that has none yet: a batch of 50 and the least concurrency, within the bounds.
    pub fn first_knobs(&self) -> Knobs {
        let (batch, concurrency) = (self.tuning.batch_size, self.tuning.concurrency);
        Knobs {
            batch_size: FIRST_BATCH_SIZE.clamp(batch.min, batch.max) as u32,
            concurrency: concurrency.min as u32,
        }
    }

    /// Whether the operator chooses the image's version.
    pub fn follows_operator(&self) -> bool {
        self.pod.image.is_none() && self.pod.image_policy == ImagePolicy::FollowOperator
    }

    /// The same consumer with the image that it is to take.
    #[must_use]
    pub fn upgraded(self) -> Self {
        match self.upgrade {
            Some(image) => Self { stock_image: Some(image.clone()), image, upgrade: None, ..self },
            None => self,
        }
    }

    /// `pods` within the administrator's bound and the partitions, where their number is known.
    pub fn at_most(&self, pods: i32, partitions: Option<i32>) -> i32 {
        pods.min(self.max_replicas).min(partitions.unwrap_or(i32::MAX))
    }

    /// Whether the administrator's bound, and not `spec.scaling.maxReplicas`, is the one in the way.
    pub fn administrator_bounds(&self) -> bool {
        self.scaling.max_replicas.is_none_or(|max| max > self.max_replicas)
    }

    /// `knobs` within the bounds, which may have changed since they were chosen.
    pub fn within_bounds(&self, knobs: Knobs) -> Knobs {
        let (batch, concurrency) = (self.tuning.batch_size, self.tuning.concurrency);
        Knobs {
            batch_size: knobs.batch_size.clamp(batch.min as u32, batch.max as u32),
            concurrency: knobs.concurrency.clamp(concurrency.min as u32, concurrency.max as u32),
        }
    }
}

/// The consumer's group: as it was pinned, as the spec names it, else NAMESPACE.NAME.
pub fn group_id(consumer: &KafkaConsumer, id: &Identity) -> String {
    let pinned = consumer.status.as_ref().and_then(|status| status.group_id.clone());
    pinned
        .or_else(|| consumer.spec.kafka.group_id.clone())
        .unwrap_or_else(|| format!("{}.{}", id.namespace, id.name))
}

/// Whether the operator is to leave the children alone.
pub fn is_paused(consumer: &KafkaConsumer) -> bool {
    is_set(consumer, labels::PAUSED)
}

/// The rules that a spec breaks. Evaluating them takes milliseconds, and passes come every second: so once for each
/// generation of the spec.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    checked: Option<i64>,
    broken: Vec<String>,
}

impl Rules {
    fn broken_by(&mut self, consumer: &KafkaConsumer) -> &[String] {
        let generation = consumer.metadata.generation;
        if generation.is_none() || self.checked != generation {
            self.broken = broken_rules(consumer);
            self.checked = generation;
        }
        &self.broken
    }
}

/// Makes a [`Validated`] of a consumer. `running_image` is the Deployment's: what was pinned, where the status was lost.
///
/// # Errors
/// When the spec cannot be followed.
pub fn validate(
    consumer: &KafkaConsumer,
    running_image: Option<String>,
    platform: &Platform,
    rules: &mut Rules,
) -> Result<Validated, Error> {
    let id = Identity::of(consumer)?;
    let broken = rules.broken_by(consumer);
    if !broken.is_empty() {
        return Err(Error::Spec(broken.to_vec()));
    }
    let (spec, status) = (&consumer.spec, consumer.status.clone().unwrap_or_default());
    // Where the whole status was lost, the Deployment says what was pinned.
    let running = running_image.filter(|_| status.image.is_none());
    let Images { image, stock: stock_image, upgrade } =
        images(&spec.pod, &status, running, platform.image.as_deref());
    let group_id = group_id(consumer, &id);
    let protocol = match spec.kafka.protocol {
        GroupProtocol::Auto => status.protocol.unwrap_or(GroupProtocol::Auto),
        chosen => chosen,
    };
    let replicas = match (spec.suspend, spec.scaling.mode) {
        (true, _) => Replicas::Suspended,
        (_, ScalingMode::Auto) => Replicas::Planner,
        (_, ScalingMode::DryRun) => Replicas::AsTheyAre,
        // The rule that requires it in this mode was checked above.
        (_, ScalingMode::Manual) => Replicas::Fixed(spec.replicas.unwrap_or(0)),
    };
    Ok(Validated {
        kafka: KafkaConfig {
            bootstrap_servers: spec.kafka.bootstrap_servers.clone(),
            topics: topics(&spec.kafka.topics)?,
            group_id,
            protocol,
            isolation: spec.kafka.isolation,
            properties: spec.kafka.properties.clone(),
        },
        start_from: spec.kafka.start_from,
        handler: spec.handler.clone(),
        ordering: spec.ordering,
        replicas,
        bounds: bounded(sluice_planner::Spec::of(spec), platform.max_replicas),
        scaling: spec.scaling.clone(),
        max_replicas: platform.max_replicas,
        run_as: platform.run_as,
        tuning: spec.tuning.clone(),
        delivery: spec.delivery.clone(),
        pod: spec.pod.clone(),
        inherited: spec.inherited_metadata.clone(),
        image: image.ok_or(Error::NoImage)?,
        stock_image,
        upgrade,
        paused: is_paused(consumer),
        take_over: is_set(consumer, labels::TAKE_OVER),
        id,
    })
}

/// The topics, each once and in order.
fn topics(names: &[String]) -> Result<Vec<TopicName>, Error> {
    let parsed = names.iter().map(|name| name.parse::<TopicName>());
    let topics = parsed.collect::<Result<BTreeSet<_>, _>>();
    let wrong = |error: NotATopic| Error::Spec(vec![format!("kafka.topics: {error}")]);
    Ok(topics.map_err(wrong)?.into_iter().collect())
}

/// What runs, and what should.
#[derive(Debug, Default, PartialEq, Eq)]
struct Images {
    image: Option<String>,
    stock: Option<String>,
    upgrade: Option<String>,
}

/// The image: the spec's; else the stock image that was chosen before; else the operator's. With `FollowOperator` the
/// operator's takes the place of an older stock image as an upgrade, which waits for its turn. Where the spec named an image
/// until now, its pods are rolled anyway, and the operator's is taken at once.
fn images(
    pod: &Pod,
    status: &KafkaConsumerStatus,
    running: Option<String>,
    operators: Option<&str>,
) -> Images {
    let chosen = status.stock_image.clone();
    if let Some(image) = &pod.image {
        return Images { image: Some(image.clone()), stock: chosen, upgrade: None };
    }
    let was_named = status.image.is_some() && status.image != chosen;
    let operators = operators.map(str::to_owned);
    let stock = match pod.image_policy {
        ImagePolicy::FollowOperator if was_named => operators.clone().or(chosen),
        _ => chosen.or(running).or_else(|| operators.clone()),
    };
    let upgrade = operators
        .filter(|_| pod.image_policy == ImagePolicy::FollowOperator)
        .filter(|operators| Some(operators) != stock.as_ref());
    Images { image: stock.clone(), stock, upgrade }
}

fn is_set(consumer: &KafkaConsumer, annotation: &str) -> bool {
    consumer
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(annotation))
        .is_some_and(|value| value == "true")
}

/// Every rule that the object breaks, as sentences that say what to write.
fn broken_rules(consumer: &KafkaConsumer) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Err(errors) = consumer.validate_cel() {
        // Rules that this build cannot evaluate were evaluated by the API server: only a clear "no" counts.
        wrong.extend(
            errors
                .iter()
                .filter(|e| e.kind == ErrorKind::ValidationFailure)
                .map(|e| e.message.clone()),
        );
    }
    let spec = &consumer.spec;
    let mut rule = |holds: bool, sentence: &str| {
        if !holds && !wrong.iter().any(|w| w == sentence) {
            wrong.push(sentence.to_owned());
        }
    };
    rule((1..=64).contains(&spec.kafka.topics.len()), "kafka.topics needs 1 to 64 topics");
    rule(
        !spec.kafka.bootstrap_servers.is_empty()
            && spec.kafka.bootstrap_servers.split(',').all(is_address),
        "kafka.bootstrapServers needs addresses host:port, separated by commas",
    );
    rule(
        spec.handler
            .http
            .as_ref()
            .is_none_or(|h| h.url.starts_with("http://") || h.url.starts_with("https://")),
        "handler.http.url must begin with http:// or https://",
    );
    rule(spec.replicas.is_none_or(|n| n >= 0), "spec.replicas must not be negative");
    rule(spec.scaling.min_replicas >= 0, "scaling.minReplicas must not be negative");
    rule(
        spec.scaling.max_replicas.is_none_or(|n| n >= 1),
        "scaling.maxReplicas must be at least 1",
    );
    rule(
        (10..=100).contains(&spec.scaling.target_utilization),
        "scaling.targetUtilization must be 10 to 100",
    );
    rule(spec.tuning.batch_size.min >= 1, "tuning.batchSize.min must be at least 1");
    rule(spec.tuning.concurrency.min >= 1, "tuning.concurrency.min must be at least 1");
    rule(
        spec.tuning.batch_size.min <= spec.tuning.batch_size.max,
        "tuning.batchSize.min must not be greater than tuning.batchSize.max",
    );
    rule(
        spec.tuning.concurrency.min <= spec.tuning.concurrency.max,
        "tuning.concurrency.min must not be greater than tuning.concurrency.max",
    );
    rule(spec.delivery.retry.max_retries >= 0, "delivery.retry.maxRetries must not be negative");
    for name in spec.kafka.properties.keys() {
        if let Some(why) = refused_property(name) {
            rule(false, &format!("kafka.properties: remove {name}: {why}"));
        }
    }
    // Only the log filter is a user's; everything else of that prefix is set by the operator.
    rule(
        spec.pod.env.iter().all(|e| !e.name.starts_with("SLUICE_") || e.name == labels::ENV_LOG),
        "pod.env: names that begin with SLUICE_ are the operator's (SLUICE_LOG may be set)",
    );
    rule(
        spec.pod.volumes.iter().all(|v| !OWN_VOLUMES.contains(&v.name.as_str())),
        "pod.volumes: the names sluice-config and sluice-tuning are the operator's",
    );
    for sentence in pod_rules(&spec.pod).into_iter().chain(metadata_rules(spec)) {
        rule(false, &sentence);
    }
    wrong
}

/// What the API server would refuse of the Deployment that is made of this: a sentence now is better than a write that
/// fails again and again.
fn pod_rules(pod: &Pod) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut twice = |field: &str, mut names: Vec<&str>| {
        names.sort_unstable();
        let doubles = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        for name in doubles.collect::<BTreeSet<_>>() {
            wrong.push(format!("{field}: {name} is there twice; remove one"));
        }
    };
    twice("pod.env", pod.env.iter().map(|e| &*e.name).collect());
    twice("pod.volumes", pod.volumes.iter().map(|v| &*v.name).collect());
    twice("pod.volumeMounts", pod.volume_mounts.iter().map(|m| &*m.mount_path).collect());
    let is_variable = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
    };
    for name in pod.env.iter().map(|e| &e.name).filter(|name| !is_variable(name)) {
        wrong.push(format!("pod.env: {name} is no name of a variable: no '=', printable ASCII"));
    }
    wrong
}

/// Labels and annotations that the API server would refuse, and those that are the operator's own.
fn metadata_rules(spec: &KafkaConsumerSpec) -> Vec<String> {
    let mut wrong = Vec::new();
    let InheritedMetadata { labels, annotations } = &spec.inherited_metadata;
    for (field, entries, are_labels) in [
        ("inheritedMetadata.labels", labels, true),
        ("inheritedMetadata.annotations", annotations, false),
        ("pod.labels", &spec.pod.labels, true),
        ("pod.annotations", &spec.pod.annotations, false),
    ] {
        for (key, value) in entries {
            // The API server takes the key of an annotation in any case.
            let lower = if are_labels { key } else { &key.to_lowercase() };
            if labels::is_own(lower) {
                wrong.push(format!("{field}: {key} is set by the operator; remove it"));
            } else if !is_label_key(lower) {
                wrong.push(format!(
                    "{field}: {key} is no key: [DOMAIN/]NAME, NAME of at most 63 of a-z, A-Z, 0-9, '-', '_' and '.'"
                ));
            } else if are_labels && !(value.is_empty() || is_label_name(value)) {
                wrong.push(format!(
                    "{field}: {key} has a value that no label can have: at most 63 of a-z, A-Z, 0-9, '-', '_' and '.'"
                ));
            }
        }
    }
    wrong
}

/// A key of a label or an annotation: a name, perhaps behind a domain.
fn is_label_key(key: &str) -> bool {
    let is_domain = |domain: &str| {
        let part = |part: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !part.is_empty()
                && part.bytes().all(allowed)
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        domain.len() <= 253 && domain.split('.').all(part)
    };
    match key.split_once('/') {
        Some((domain, name)) => is_domain(domain) && is_label_name(name),
        None => is_label_name(key),
    }
}

fn is_label_name(name: &str) -> bool {
    let ends = |c: Option<u8>| c.is_some_and(|b| b.is_ascii_alphanumeric());
    name.len() <= 63
        && ends(name.bytes().next())
        && ends(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The planner's bounds within the administrator's.
fn bounded(spec: sluice_planner::Spec, most: i32) -> sluice_planner::Spec {
    let most = most.unsigned_abs();
    sluice_planner::Spec {
        min_replicas: spec.min_replicas.min(most),
        max_replicas: Some(spec.max_replicas.map_or(most, |max| max.min(most))),
        ..spec
    }
}

/// Why a librdkafka setting is refused, if it is.
fn refused_property(name: &str) -> Option<&'static str> {
    if ENGINE_PROPERTIES.contains(&name) {
        Some("the engine owns it")
    } else if PROTOCOL_PROPERTIES.contains(&name) {
        Some("it belongs to one group protocol; choose kafka.protocol instead")
    } else if CODE_PROPERTIES.contains(&name) || SECRET_PREFIXES.iter().any(|p| name.starts_with(p))
    {
        Some("it carries a secret or loads code, and this stands in a ConfigMap")
    } else {
        None
    }
}

fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c.is_control())
            && port.parse::<u16>().is_ok()
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const MINIMAL: &str = "
apiVersion: sluice.dev/v1alpha1
kind: KafkaConsumer
metadata: { name: orders, namespace: shop, uid: u-1, generation: 1 }
spec:
  kafka: { bootstrapServers: 'kafka:9092', topics: [orders] }
  handler: { log: {} }
";

    /// `MINIMAL` with `value` at a path such as `spec.scaling.mode`.
    pub(crate) fn with(changes: &[(&str, &str)]) -> KafkaConsumer {
        let mut document: serde_yaml::Value = serde_yaml::from_str(MINIMAL).unwrap();
        for (path, value) in changes {
            let mut at = &mut document;
            for part in path.split('/') {
                let empty = || serde_yaml::Value::Mapping(serde_yaml::Mapping::new());
                at = at.as_mapping_mut().unwrap().entry(part.into()).or_insert_with(empty);
            }
            *at = serde_yaml::from_str(value).unwrap();
        }
        serde_yaml::from_value(document).unwrap()
    }

    fn validated(changes: &[(&str, &str)]) -> Result<Validated, Error> {
        let platform = Platform { image: Some("stock:1".into()), ..Platform::default() };
        validate(&with(changes), None, &platform, &mut Rules::default())
    }

    /// A consumer that was found good.
    pub(crate) fn good(changes: &[(&str, &str)]) -> Validated {
        validated(changes).unwrap()
    }

    #[test]
    fn a_consumer_with_addresses_topics_and_a_handler_has_all_else_by_default() {
        let v = good(&[]);
        assert_eq!(v.kafka.group_id, "shop.orders");
        assert_eq!((v.image.as_str(), v.replicas, v.paused), ("stock:1", Replicas::Planner, false));
        assert_eq!(v.first_knobs(), Knobs { batch_size: 50, concurrency: 1 });
    }

    #[test]
    fn what_was_pinned_stays_whatever_the_defaults_become() {
        let status =
            "{ groupId: old.group, protocol: Consumer, image: 'stock:0', stockImage: 'stock:0' }";
        let v = good(&[("status", status)]);
        assert_eq!(
            (v.kafka.group_id.as_str(), v.kafka.protocol),
            ("old.group", GroupProtocol::Consumer)
        );
        assert_eq!(v.image, "stock:0");
        // What the spec names goes before.
        let v = good(&[
            ("status", status),
            ("spec/pod/image", "mine:2"),
            ("spec/kafka/protocol", "Classic"),
        ]);
        assert_eq!((v.image.as_str(), v.kafka.protocol), ("mine:2", GroupProtocol::Classic));
    }

    #[test]
    fn the_stock_image_comes_back_when_the_spec_names_none_any_more() {
        for (changes, image, stock) in [
            // It was pinned before a bad image was named, or never.
            (vec![("status", "{ image: 'bad:1', stockImage: 'stock:0' }")], "stock:0", "stock:0"),
            (vec![("status", "{ image: 'bad:1' }")], "stock:1", "stock:1"),
            (vec![], "stock:1", "stock:1"),
        ] {
            let v = good(&changes);
            assert_eq!((v.image.as_str(), v.stock_image.as_deref()), (image, Some(stock)));
        }
        let status = "{ image: 'stock:0', stockImage: 'stock:0' }";
        let v = good(&[("spec/pod/image", "bad:1"), ("status", status)]);
        assert_eq!((v.image.as_str(), v.stock_image.as_deref()), ("bad:1", Some("stock:0")));
        assert_eq!(good(&[("spec/pod/image", "mine:1")]).stock_image, None);
    }

    #[test]
    fn the_policy_chooses_the_version_of_the_stock_image_and_nothing_of_a_named_one() {
        let old = "{ image: 'stock:0', stockImage: 'stock:0' }";
        let named = "{ image: 'mine:1', stockImage: 'stock:0' }";
        let new = "{ image: 'stock:1', stockImage: 'stock:1' }";
        let follow = ("spec/pod/imagePolicy", "FollowOperator");
        for (changes, image, stock, upgrade) in [
            (vec![("status", old)], "stock:0", Some("stock:0"), None),
            (vec![("status", old), follow], "stock:0", Some("stock:0"), Some("stock:1")),
            (vec![("status", new), follow], "stock:1", Some("stock:1"), None),
            // A new consumer has nothing to roll.
            (vec![follow], "stock:1", Some("stock:1"), None),
            // A named image wins, and the chosen stock image is remembered.
            (
                vec![("status", old), follow, ("spec/pod/image", "mine:1")],
                "mine:1",
                Some("stock:0"),
                None,
            ),
            // It is removed: the pods are rolled anyway.
            (vec![("status", named)], "stock:0", Some("stock:0"), None),
            (vec![("status", named), follow], "stock:1", Some("stock:1"), None),
            (vec![("status", "{ image: 'mine:1' }"), follow], "stock:1", Some("stock:1"), None),
        ] {
            let v = good(&changes);
            assert_eq!(
                (v.image.as_str(), v.stock_image.as_deref(), v.upgrade.as_deref()),
                (image, stock, upgrade),
                "{changes:?}"
            );
        }
        let v = good(&[("status", old), follow]).upgraded();
        assert_eq!((v.image.as_str(), v.stock_image.as_deref()), ("stock:1", Some("stock:1")));
        assert_eq!(v.upgrade, None);
        // An operator without a stock image has nothing to follow.
        let none = Platform::default();
        let v = validate(&with(&[("status", old), follow]), None, &none, &mut Rules::default());
        assert_eq!(v.unwrap().upgrade, None);
    }

    #[test]
    fn a_running_image_is_kept_where_the_status_was_lost() {
        let platform = Platform { image: Some("stock:1".into()), ..Platform::default() };
        let running = Some("stock:0".to_owned());
        let v = validate(&with(&[]), running, &platform, &mut Rules::default()).unwrap();
        assert_eq!(v.image, "stock:0");
    }

    #[test]
    fn who_decides_on_the_pods_is_as_the_table_says() {
        for (changes, expected) in [
            (vec![], Replicas::Planner),
            (vec![("spec/scaling/mode", "DryRun")], Replicas::AsTheyAre),
            (vec![("spec/scaling/mode", "Manual"), ("spec/replicas", "3")], Replicas::Fixed(3)),
            (
                vec![
                    ("spec/scaling/mode", "Manual"),
                    ("spec/replicas", "3"),
                    ("spec/suspend", "true"),
                ],
                Replicas::Suspended,
            ),
            (vec![("spec/suspend", "true")], Replicas::Suspended),
        ] {
            assert_eq!(good(&changes).replicas, expected, "{changes:?}");
        }
    }

    #[test]
    fn no_consumer_gets_more_pods_than_the_administrator_allows() {
        for (bounds, least, most) in [
            ("{ minReplicas: 0 }", 0, 256),
            ("{ maxReplicas: 12 }", 1, 12),
            ("{ maxReplicas: 300 }", 1, 256),
            ("{ minReplicas: 300, maxReplicas: 300 }", 256, 256),
        ] {
            let v = good(&[("spec/scaling", bounds)]);
            assert_eq!(
                (v.bounds.min_replicas, v.bounds.max_replicas),
                (least, Some(most)),
                "{bounds}"
            );
        }
    }

    #[test]
    fn knobs_stay_within_bounds_that_were_changed() {
        let v = good(&[(
            "spec/tuning",
            "{ batchSize: { min: 1, max: 40 }, concurrency: { min: 4, max: 8 } }",
        )]);
        assert_eq!(v.first_knobs(), Knobs { batch_size: 40, concurrency: 4 });
        assert_eq!(
            v.within_bounds(Knobs { batch_size: 90, concurrency: 1 }),
            Knobs { batch_size: 40, concurrency: 4 }
        );
    }

    #[test]
    fn a_spec_that_is_older_than_a_rule_is_refused_with_what_to_write() {
        for (changes, says) in [
            (vec![("spec/kafka/topics", "[]")], "1 to 64 topics"),
            (vec![("spec/kafka/topics", "['a b']")], "is no name of a topic"),
            (vec![("spec/kafka/bootstrapServers", "kafka")], "host:port"),
            (
                vec![("spec/kafka/properties", "{ group.id: x }")],
                "remove group.id: the engine owns it",
            ),
            (
                vec![("spec/kafka/properties", "{ session.timeout.ms: '1' }")],
                "remove session.timeout.ms",
            ),
            (vec![("spec/kafka/properties", "{ sasl.password: x }")], "remove sasl.password"),
            (
                vec![("spec/kafka/properties", "{ plugin.library.paths: x }")],
                "remove plugin.library.paths",
            ),
            (vec![("spec/handler", "{}")], "exactly one"),
            (
                vec![("spec/inheritedMetadata", "{ labels: { sluice.dev/consumer: x } }")],
                "inheritedMetadata.labels: sluice.dev/consumer is set by the operator; remove it",
            ),
            (
                vec![("spec/inheritedMetadata", "{ annotations: { 'a b': x } }")],
                "inheritedMetadata.annotations: a b is no key",
            ),
            (
                vec![("spec/pod", "{ labels: { app.kubernetes.io/name: x } }")],
                "pod.labels: app.kubernetes.io/name is set by the operator",
            ),
            (vec![("spec/handler", "{ http: { url: 'ftp://x' } }")], "http://"),
            (vec![("spec/scaling/mode", "Manual")], "spec.replicas"),
            (vec![("spec/replicas", "3")], "spec.replicas"),
            (vec![("spec/scaling", "{ minReplicas: 5, maxReplicas: 2 }")], "minReplicas"),
            (vec![("spec/scaling/targetUtilization", "0")], "10 to 100"),
            (vec![("spec/tuning", "{ batchSize: { min: 0, max: 5 } }")], "at least 1"),
            (vec![("spec/delivery/drainTimeout", "60s")], "drainTimeout"),
            (vec![("spec/pod/env", "[{ name: SLUICE_CONFIG_DIR, value: x }]")], "SLUICE_"),
            (vec![("spec/pod/env", "[{ name: A, value: x }, { name: A }]")], "pod.env: A is there"),
            (vec![("spec/pod/env", "[{ name: 'a=b' }]")], "pod.env: a=b"),
            (
                vec![(
                    "spec/pod/volumes",
                    "[{ name: a, emptyDir: {} }, { name: a, emptyDir: {} }]",
                )],
                "pod.volumes: a is there twice",
            ),
            (
                vec![(
                    "spec/pod/volumeMounts",
                    "[{ name: a, mountPath: /x }, { name: b, mountPath: /x }]",
                )],
                "pod.volumeMounts: /x is there twice",
            ),
            (vec![("spec/pod/labels", "{ 'a b': c }")], "pod.labels: a b"),
            (vec![("spec/pod/labels", "{ a: 'b c' }")], "pod.labels: a"),
            // The domain of a label's key is in lower case; that of an annotation's in any.
            (vec![("spec/pod/labels", "{ Example.com/a: c }")], "pod.labels: Example.com/a"),
            (vec![("spec/pod/annotations", "{ /a: c }")], "pod.annotations: /a"),
            (vec![("spec/pod/annotations", "{ A B: c }")], "pod.annotations: A B is no key"),
            (vec![("spec/pod/annotations", "{ A_B.com/c: d }")], "pod.annotations: A_B.com/c"),
            (vec![("spec/pod/annotations", "{ a/B/c: d }")], "pod.annotations: a/B/c"),
            (vec![("spec/pod/annotations", "{ '': d }")], "pod.annotations:  is no key"),
            (vec![("spec/kafka/bootstrapServers", "\"a\\u0001:9092\"")], "host:port"),
            (
                vec![("spec/pod/volumes", "[{ name: sluice-config, emptyDir: {} }]")],
                "sluice-config",
            ),
            (
                vec![(
                    "metadata/name",
                    "a-name-that-is-so-long-that-no-pod-could-be-named-after-it",
                )],
                "metadata.name",
            ),
        ] {
            let error = validated(&changes).unwrap_err();
            assert!(error.to_string().contains(says), "{changes:?}: {error}");
        }
    }

    #[test]
    fn labels_and_annotations_that_kubernetes_takes_are_taken() {
        good(&[
            ("spec/pod/labels", "{ example.com/team: shop-1, empty: '', a_b.c: X }"),
            (
                "spec/pod/annotations",
                "{ example.com/note: 'any text, with spaces', Example.COM/Note: x, NOTE: '' }",
            ),
        ]);
    }

    #[test]
    fn rules_are_evaluated_again_only_for_a_new_generation() {
        let mut rules = Rules::default();
        let bad = with(&[("spec/kafka/topics", "[]")]);
        let platform = Platform { image: Some("i".into()), ..Platform::default() };
        assert!(validate(&bad, None, &platform, &mut rules).is_err());
        let mut put_right = with(&[]);
        put_right.metadata.generation = Some(2);
        assert!(validate(&put_right, None, &platform, &mut rules).is_ok());
    }

    #[test]
    fn without_any_image_it_says_where_one_can_be_named() {
        let error =
            validate(&with(&[]), None, &Platform::default(), &mut Rules::default()).unwrap_err();
        assert!(error.to_string().contains("spec.pod.image"), "{error}");
    }
}
