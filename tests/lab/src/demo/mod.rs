//! `cargo demo`: a real cluster, a real Kafka, a spike of records, and what Sluice makes of it, before one's eyes.
//!
//! `stage` is where it plays (the lab, or a cluster of the user's own), `play` the acts, `scene` what is known of
//! them at a moment; `screen` and `lines` show it to a terminal and to a pipe; `picture` draws it afterwards, and
//! `targets` says whether what was promised was kept. Load, evidence and recording come from the lab's other parts.

pub mod cli;
mod interrupt;
mod lines;
pub mod picture;
mod play;
mod scene;
mod screen;
mod stage;
mod targets;

pub use self::{
    cli::{DemoArgs, run},
    targets::{Measured, Target, targets},
};
