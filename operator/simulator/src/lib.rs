//! A model of partitions, a group and its pods in virtual time, which runs the planner in closed loop.
//!
//! Here live the model ([`world`]), the arrivals that it is given ([`trace`]) and the loop that lets the planner act on it
//! and writes down what came of it ([`run()`]). No rule of scaling lives here: those are the planner's. Everything is a
//! function of the scenario and its seed, and nothing waits for a real clock.

pub mod run;
pub mod trace;
pub mod world;

pub use self::{
    run::{Change, Outage, Outcome, Sample, Scenario, run},
    trace::Trace,
    world::PodModel,
};
