//! When a pass runs: start and stop, the queue of consumers that are due, health. What a pass does is `pass`.

pub mod health;
pub mod queue;
pub mod run;
pub mod schedule;
