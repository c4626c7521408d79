//! The test lab: a real cluster and a real Kafka on one machine, load for it, and what became of the load.

pub mod load;
pub mod offsets;
pub mod verify;
