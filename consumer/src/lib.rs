//! Runs a handler over the records of a Kafka consumer group: what every consumer pod of Sluice is built on.
//!
//! Here live the [`Handler`] contract, the engine that fetches, orders, retries and commits, the stock handlers and the
//! health server. Here lives no decision about scale: the operator makes it and writes the knobs into a file.

mod consumer;
mod engine;
mod handler;
pub mod handlers;
pub mod health;
mod logging;
mod status;

pub use consumer::{Consumer, Error, Running};
pub use engine::Error as EngineError;
#[doc(hidden)]
pub use engine::Overrides;
pub use handler::{Batch, Handler, Header, IdempotencyKey, Outcome, Outcomes, Record};
pub use logging::init_logging;
pub use status::{Counter, DEAD_AFTER, EngineStatus, Gauge, HANGS_AFTER, HEARTBEAT_TIMEOUT};
