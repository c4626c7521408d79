//! The engine against librdkafka's MockCluster: real groups, real rebalances, no broker.
//!
//! The mock has no transactions, no DeleteRecords and no metadata limit: those are tested end to end, on Apache Kafka.

// A test's helper may unwrap as the test may.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "engine/bad_input.rs"]
mod bad_input;
#[path = "engine/failures.rs"]
mod failures;
#[path = "engine/groups.rs"]
mod groups;
#[path = "engine/knobs.rs"]
mod knobs;
#[path = "engine/stops.rs"]
mod stops;
#[path = "engine/world.rs"]
mod world;
