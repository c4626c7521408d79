//! When a pass runs: start and stop, the queue of consumers that are due, health. What a pass does is `pass`.

mod health;
mod queue;
pub mod run;
mod schedule;
