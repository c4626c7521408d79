//! The Kafka client's settings.

use std::time::Duration;

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use sluice_crds::{
    config::KafkaConfig,
    kafkaconsumer::kafka::{GroupProtocol, Isolation},
};

/// What tests change: they cannot wait for real timeouts, and try the eager protocol too.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Settings of the client that win over all others.
    pub properties: Vec<(String, String)>,
    /// The pause between two commits.
    pub commit_every: Option<Duration>,
}

/// The client's settings: what the engine's promises hang on, and under it what the user asked for.
pub(crate) fn client(kafka: &KafkaConfig, client_id: &str, overrides: &Overrides) -> ClientConfig {
    let mut config = ClientConfig::new();
    let mut set = |name: &str, value: &str| {
        config.set(name, value);
    };

    // Prefetch. Both limits count per partition queue, and are fixed when the client is made, before it is known how many
    // partitions the pod will have. A message costs librdkafka some 350 bytes beside its own; with these values twelve
    // partitions of small records stay below 15 MB, and a record of any size still comes through: a broker always gives at
    // least one batch.
    set("queued.min.messages", "1000");
    set("queued.max.messages.kbytes", "1024");
    set("fetch.message.max.bytes", "131072");
    set("fetch.max.bytes", "4194304");
    // How long a partition whose queue was full is left alone; the default of a second would stop and go.
    set("fetch.queue.backoff.ms", "5");
    set("fetch.wait.max.ms", "100");
    set("fetch.error.backoff.ms", "100");
    set("check.crcs", "true");
    set("socket.keepalive.enable", "true");
    // A commit at a revoke waits for this long at most.
    set("socket.timeout.ms", "10000");
    set("reconnect.backoff.ms", "50");
    set("reconnect.backoff.max.ms", "1000");
    // New partitions, and topics that did not exist at the start, are found this fast.
    set("topic.metadata.refresh.interval.ms", "10000");
    set("log.connection.close", "false");

    for (name, value) in &kafka.properties {
        set(name, value);
    }

    set("bootstrap.servers", &kafka.bootstrap_servers);
    set("group.id", &kafka.group_id);
    set("client.id", client_id);
    set("enable.auto.commit", "false");
    set("enable.auto.offset.store", "false");
    set("enable.partition.eof", "false");
    set("auto.offset.reset", "error");
    set("allow.auto.create.topics", "false");
    set("max.poll.interval.ms", "300000");
    set(
        "isolation.level",
        match kafka.isolation {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        },
    );
    match kafka.protocol {
        GroupProtocol::Consumer => set("group.protocol", "consumer"),
        GroupProtocol::Classic | GroupProtocol::Auto => {
            set("group.protocol", "classic");
            set("partition.assignment.strategy", "cooperative-sticky");
            set("session.timeout.ms", "10000");
            // A member learns of a rebalance by its heartbeat: partitions move in a second instead of three.
            set("heartbeat.interval.ms", "500");
        }
    }
    for (name, value) in &overrides.properties {
        set(name, value);
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sluice_crds::kafkaconsumer::kafka::{
        CODE_PROPERTIES, ENGINE_PROPERTIES, PROTOCOL_PROPERTIES,
    };

    use super::*;

    fn kafka(protocol: GroupProtocol, properties: &[(&str, &str)]) -> KafkaConfig {
        KafkaConfig {
            bootstrap_servers: "kafka:9092".into(),
            topics: vec!["orders".parse().unwrap()],
            group_id: "shop.orders".into(),
            protocol,
            isolation: Isolation::ReadCommitted,
            properties: properties
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn a_user_cannot_take_away_what_the_promises_hang_on() {
        let harm =
            [("enable.auto.commit", "true"), ("auto.offset.reset", "latest"), ("client.id", "x")];
        let config = client(&kafka(GroupProtocol::Classic, &harm), "pod", &Overrides::default());
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
        assert_eq!(config.get("client.id"), Some("pod"));
    }

    #[test]
    fn a_user_may_set_what_the_spec_allows() {
        let config = client(
            &kafka(GroupProtocol::Classic, &[("fetch.message.max.bytes", "1048576")]),
            "pod",
            &Overrides::default(),
        );
        assert_eq!(config.get("fetch.message.max.bytes"), Some("1048576"));
    }

    #[test]
    fn the_consumer_protocol_gets_none_of_the_classic_settings() {
        let config = client(&kafka(GroupProtocol::Consumer, &[]), "pod", &Overrides::default());
        for name in ["session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"]
        {
            assert_eq!(config.get(name), None, "{name}");
        }
        assert_eq!(config.get("group.protocol"), Some("consumer"));
    }

    #[test]
    fn librdkafka_takes_these_settings_in_both_protocols() {
        for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
            let config = client(&kafka(protocol, &[]), "pod", &Overrides::default());
            config.create_native_config().unwrap();
        }
    }

    #[test]
    fn what_the_engine_sets_is_what_the_spec_refuses() {
        // The engine's defaults that a user may change are not in the list; all that wins over the user's must be.
        for name in [
            "enable.auto.commit",
            "auto.offset.reset",
            "client.id",
            "isolation.level",
            "max.poll.interval.ms",
        ] {
            assert!(ENGINE_PROPERTIES.contains(&name), "{name}");
        }
        assert!(PROTOCOL_PROPERTIES.contains(&"session.timeout.ms"));
        assert!(CODE_PROPERTIES.contains(&"plugin.library.paths"));
    }
}
