//! The planner: (spec, readings, memory, what is there, snapshot, now) → decision. Pure.
//!
//! Here live the rules on how many pods a consumer needs and which knobs they run with, one file a question: how fast do
//! records arrive and are handled ([`readings`]), what can a pod do ([`capacity`]), how many are
//! needed ([`count`]), which knobs ([`knobs`]), what was learnt ([`memory`]), may it act
//! ([`plan()`]). No tokio, no API client, no Kafka, and no clock: `now` is an argument.

pub mod capacity;
pub mod count;
pub mod decision;
pub mod jump;
pub mod knobs;
pub mod memory;
pub mod plan;
pub mod readings;
pub mod snapshot;
pub mod spec;
pub mod window;

pub use self::{
    decision::{Decision, Limit, Numbers, Reason},
    memory::Memory,
    plan::{
        plan,
        rules::{RULES, Rule},
    },
    readings::Readings,
    snapshot::{Millis, Snapshot},
    spec::{Observed, Spec},
};
