//! The test lab: a real cluster and a real Kafka on one machine, load for it, and what became of the load.
//!
//! Here lives everything that a test or a demonstration stands on. What Sluice promises is asserted in `tests/e2e`.

pub mod build;
pub mod certificates;
pub mod cgroups;
pub mod cli;
pub mod control_plane;
pub mod demo;
pub mod folders;
pub mod images;
pub mod kafka;
pub mod lab;
pub mod load;
pub mod netns;
pub mod node;
pub mod offsets;
pub mod prerequisites;
pub mod processes;
pub mod progress;
pub mod record;
pub mod remnants;
pub mod run;
pub mod verify;

pub use self::lab::Lab;
