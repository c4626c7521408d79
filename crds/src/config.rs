//! The static configuration of a consumer's pods, as the operator writes it and they read it once at their start.
//!
//! It is YAML in the ConfigMap `NAME-config-HASH`, key [`FILE_NAME`]. Another meaning is another ConfigMap, and rolls the
//! pods; so it holds what cannot change while a pod runs. Defaults are resolved: a pod never has to guess.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Duration, TopicName,
    kafkaconsumer::{
        Ordering,
        delivery::Retry,
        handler::Handler,
        kafka::{GroupProtocol, Isolation},
        tuning::ApplyOn,
    },
    tuning::Knobs,
};

/// The key in the ConfigMap, and the file's name in the pod.
pub const FILE_NAME: &str = "consumer.yaml";

/// The newest format that this crate reads; a later one is refused. A field that an older image would ignore, and should not,
/// comes with a new format and a line in [`SINCE`].
pub const VERSION: u32 = 1;

/// The first format: what is written unless a field needs a later one, so that an image of any age reads it.
pub const FIRST: u32 = 1;

/// A field that came with a later format than the first.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// The format.
    pub format: u32,
    /// The field's path in the spec.
    pub field: &'static str,
    /// Whether a configuration makes use of it.
    pub is_used: fn(&ConsumerConfig) -> bool,
}

/// All fields that came with a later format than the first: none yet.
pub const SINCE: &[Since] = &[];

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerConfig {
    /// The format: the oldest that holds all that is configured.
    pub version: u32,
    /// Brokers, topics and group.
    pub kafka: KafkaConfig,
    /// What is done with the records.
    pub handler: Handler,
    /// The ordering domain.
    pub ordering: Ordering,
    /// The time in which work is finished at a stop or a revoke.
    pub drain_timeout: Duration,
    /// How a record that failed is tried again.
    pub retry: Retry,
    /// When new knobs are taken.
    pub apply_on: ApplyOn,
    /// The knobs until the tuning file could be read.
    pub initial: Knobs,
}

/// Brokers, topics and group, all resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaConfig {
    /// Addresses, `host:port` separated by commas.
    pub bootstrap_servers: String,
    /// The topics.
    pub topics: Vec<TopicName>,
    /// The consumer group.
    pub group_id: String,
    /// The group protocol; never `Auto` here.
    pub protocol: GroupProtocol,
    /// Which records of transactions are delivered.
    pub isolation: Isolation,
    /// Further librdkafka settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not YAML, or a field is missing or of the wrong type.
    #[error("the configuration cannot be read")]
    Syntax(#[from] serde_yaml::Error),
    /// The file is of a format that this build does not know.
    #[error(
        "the configuration has format version {found}, this build reads up to {VERSION}: use a newer consumer image"
    )]
    Version {
        /// The version that the file names.
        found: u32,
    },
    /// The group protocol was not resolved.
    #[error(
        "the configuration names the protocol Auto; the operator resolves it to Classic or Consumer"
    )]
    Unresolved,
}

impl ConsumerConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When the text is not such a file: the pod cannot start.
    pub fn from_yaml(text: &str) -> Result<Self, Error> {
        let config: Self = serde_yaml::from_str(text)?;
        if config.version > VERSION {
            return Err(Error::Version { found: config.version });
        }
        if config.kafka.protocol == GroupProtocol::Auto {
            return Err(Error::Unresolved);
        }
        Ok(config)
    }

    /// The field that needs the latest format, of those in `since` ([`SINCE`]); `None` where the first format is enough.
    pub fn needs<'a>(&self, since: &'a [Since]) -> Option<&'a Since> {
        since.iter().filter(|field| (field.is_used)(self)).max_by_key(|field| field.format)
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for this type; the signature is that of the serializer.
    pub fn to_yaml(&self) -> Result<String, Error> {
        Ok(serde_yaml::to_string(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafkaconsumer::handler::LogHandler;

    fn config() -> ConsumerConfig {
        ConsumerConfig {
            version: VERSION,
            kafka: KafkaConfig {
                bootstrap_servers: "kafka:9092".into(),
                topics: vec!["orders".parse().unwrap()],
                group_id: "shop.orders".into(),
                protocol: GroupProtocol::Classic,
                isolation: Isolation::ReadCommitted,
                properties: BTreeMap::new(),
            },
            handler: Handler { log: Some(LogHandler::default()), ..Handler::default() },
            ordering: Ordering::Key,
            drain_timeout: Duration::from_secs(20),
            retry: Retry::default(),
            apply_on: ApplyOn::Change,
            initial: Knobs { batch_size: 50, concurrency: 1 },
        }
    }

    #[test]
    fn what_the_operator_writes_is_what_the_pod_reads() {
        assert_eq!(ConsumerConfig::from_yaml(&config().to_yaml().unwrap()).unwrap(), config());
    }

    #[test]
    fn an_older_pod_reads_a_file_with_fields_that_came_later() {
        let text = config().to_yaml().unwrap() + "deadLetters:\n  topic: x\n";
        assert_eq!(ConsumerConfig::from_yaml(&text).unwrap(), config());
    }

    #[test]
    fn the_format_is_the_oldest_that_holds_all_that_is_used() {
        let field = |format, field, is_used| Since { format, field, is_used };
        let since = [
            field(2, "ordering", |c| c.ordering == Ordering::Partition),
            field(4, "kafka.isolation", |c| c.kafka.isolation == Isolation::ReadUncommitted),
            field(3, "handler.log", |c| c.handler.log.is_some()),
        ];
        let needs = |config: &ConsumerConfig| config.needs(&since).map(|s| (s.format, s.field));
        assert_eq!(needs(&config()), Some((3, "handler.log")));
        let plain = ConsumerConfig { handler: Handler::default(), ..config() };
        assert_eq!(needs(&plain), None);
        let newest = SINCE.iter().map(|since| since.format).max();
        assert_eq!(newest.unwrap_or(FIRST), VERSION, "a format without a field of its own");
    }

    #[test]
    fn a_file_that_a_pod_cannot_follow_is_refused() {
        let later = ConsumerConfig { version: 2, ..config() }.to_yaml().unwrap();
        assert!(
            ConsumerConfig::from_yaml(&later)
                .unwrap_err()
                .to_string()
                .contains("newer consumer image")
        );
        let mut auto = config();
        auto.kafka.protocol = GroupProtocol::Auto;
        assert!(ConsumerConfig::from_yaml(&auto.to_yaml().unwrap()).is_err());
        assert!(ConsumerConfig::from_yaml("version: one").is_err());
    }
}
