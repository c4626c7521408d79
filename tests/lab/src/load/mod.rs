//! Load: records for a real Kafka at a planned rate, each with its number and its time.
//!
//! [`Load`] is the plan, [`LoadHandle`] the running load, [`Manifest`] what the brokers acknowledged. Here live the
//! schedule ([`schedule`]), the choice of key and partition ([`keys`]), what a record carries ([`payload`]) and the
//! producer ([`producer`]). What became of the records is not known here: see [`crate::verify`].

pub mod cli;
pub mod keys;
mod manifest;
pub mod payload;
pub mod producer;
pub mod schedule;

pub use self::{
    keys::{KeyPlan, Skew},
    manifest::{Manifest, PartitionManifest, RateChange},
    producer::{Load, LoadControl, LoadHandle, Progress},
    schedule::Schedule,
};
