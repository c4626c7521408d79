//! The command line, each argument also by environment.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use sluice_crds::listen;

use crate::{
    kafka::{Limits, allowed::AllowedBrokers},
    platform::{self, Platform, RunAs},
};

/// Keeps Kafka consumers exactly as large as their backlog needs.
#[derive(Clone, Debug, Parser)]
#[command(name = "sluice-operator", version)]
pub struct Args {
    /// Namespaces to watch, separated by commas; none means all.
    #[arg(
        long,
        env = "SLUICE_WATCH_NAMESPACES",
        value_delimiter = ',',
        default_value = "",
        hide_default_value = true
    )]
    pub watch_namespaces: Vec<String>,

    /// The stock consumer's image, for KafkaConsumers that name none; `imagePolicy` says when a running one takes it.
    #[arg(long, env = "SLUICE_CONSUMER_IMAGE")]
    pub consumer_image: Option<String>,

    /// How many KafkaConsumers with `imagePolicy: FollowOperator` are rolled to a new stock image at a time; the next ones when
    /// the pods of those are ready.
    #[arg(long, env = "SLUICE_MAX_ROLLOUTS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub max_rollouts: u16,

    /// The user and group of consumer pods whose spec names none; `assigned` where the platform chooses one, as OpenShift does.
    #[arg(long, env = "SLUICE_CONSUMER_RUN_AS_USER", default_value_t)]
    pub consumer_run_as_user: RunAs,

    /// The most pods of one consumer, whatever its spec says.
    #[arg(long, env = "SLUICE_MAX_REPLICAS_PER_CONSUMER", default_value_t = platform::MAX_REPLICAS,
        value_parser = clap::value_parser!(i32).range(1..=100_000))]
    pub max_replicas_per_consumer: i32,

    /// Where /livez, /readyz and /metrics are served.
    ///
    /// `[::]` takes IPv4 and IPv6; on a machine without IPv6 it stands for `0.0.0.0`.
    #[arg(long, env = "SLUICE_LISTEN", default_value_t = listen::everywhere(8080))]
    pub listen: SocketAddr,

    /// How many consumers are reconciled at once, in each watched namespace (or in all of them together); one namespace has
    /// at most half of them.
    #[arg(long, env = "SLUICE_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,

    /// Brokers that may be connected to: host names (`example.com`, `.example.com`) and networks (`10.0.0.0/8`), separated
    /// by commas; none means all.
    #[arg(long, env = "SLUICE_ALLOWED_BROKERS", default_value = "", hide_default_value = true)]
    pub allowed_brokers: AllowedBrokers,

    /// The most partitions that are read for one consumer; one with more gets a condition instead.
    #[arg(long, env = "SLUICE_MAX_PARTITIONS_PER_CONSUMER", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_partitions_per_consumer: u32,

    /// What is logged, in the syntax of tracing-subscriber: `info`, `sluice_operator=debug,info` …
    #[arg(long, env = "SLUICE_LOG", default_value = "info")]
    pub log: String,

    /// How it is logged.
    #[arg(long, env = "SLUICE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// The operator's pod: the source that events name.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Args {
    /// The scopes to watch: each a namespace, or one `None` for all.
    pub fn scopes(&self) -> Vec<Option<String>> {
        let mut names: Vec<_> = self
            .watch_namespaces
            .iter()
            .map(|n| n.trim().to_owned())
            .filter(|n| !n.is_empty())
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
    }

    /// What holds for all consumers.
    pub fn platform(&self) -> Platform {
        // An empty image is none: charts write so what is not set.
        let image = self.consumer_image.as_deref().map(str::trim);
        Platform {
            image: image.filter(|image| !image.is_empty()).map(str::to_owned),
            run_as: self.consumer_run_as_user,
            max_replicas: self.max_replicas_per_consumer,
        }
    }

    /// What is taken from the brokers that consumers name.
    pub fn kafka_limits(&self) -> Limits {
        Limits {
            allowed: self.allowed_brokers.clone(),
            partitions: usize::try_from(self.max_partitions_per_consumer).unwrap_or(usize::MAX),
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_listens_on_both_ip_families() {
        let args = Args::try_parse_from(["sluice-operator"]).unwrap();
        assert_eq!(args.listen.to_string(), "[::]:8080");
    }

    #[test]
    fn namespaces_come_as_a_list_and_none_means_all() {
        let scopes = |list: &str| {
            let args =
                Args::try_parse_from(["sluice-operator", "--watch-namespaces", list]).unwrap();
            args.scopes()
        };
        assert_eq!(scopes(""), vec![None]);
        assert_eq!(scopes("b,a, a,"), vec![Some("a".into()), Some("b".into())]);
    }
}
