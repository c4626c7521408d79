//! Everything that crosses a process boundary, as types: what users write, and what operator and consumer tell each other.
//!
//! Here live the [`KafkaConsumer`] resource with its defaults and CEL rules, the files that the operator writes for the
//! pods ([`config`], [`tuning`]), the [`report`] that the pods write beside each committed offset, and the names of
//! labels, annotations, conditions and reasons; and what both binaries do alike ([`listen`], and [`error`]: an error with
//! its causes as one sentence). Here lives no I/O, no decision, and nothing of Kafka's or Kubernetes'
//! client libraries beyond the types of their objects.

pub mod conditions;
pub mod config;
pub mod duration;
pub mod error;
pub mod kafkaconsumer;
pub mod labels;
pub mod listen;
pub mod member;
pub mod report;
pub mod topic;
pub mod tuning;

pub use duration::Duration;
pub use kafkaconsumer::{KafkaConsumer, KafkaConsumerSpec, KafkaConsumerStatus};
pub use topic::TopicName;
