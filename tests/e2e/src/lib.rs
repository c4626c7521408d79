//! What the end-to-end tests are written with: a lab that is up, consumers to apply, records to send, answers to wait for.
//!
//! The tests themselves stand in `tests/e2e/`, one file for each thing that a user does or that fails. Here stands no
//! assertion of a promise; the cluster, Kafka and the load come from the lab (`tests/lab`).

pub mod consumer;
pub mod receiver;
pub mod records;
pub mod wait;
pub mod world;

pub use self::{wait::until, world::World};
