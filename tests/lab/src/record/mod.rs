//! Record: what a consumer, its group and its pods did, second by second.
//!
//! [`ClusterWatch`] sees each change of replicas and each decision as the API server tells it, with its time; a
//! [`Recorder`] writes one [`Row`] a second from that and from Kafka. Whether what it saw is good is not decided here.

pub mod cli;
mod cluster;
mod group;
mod recorder;
mod row;

pub use self::{
    cluster::{ClusterState, ClusterWatch, DecisionSeen, ReplicasSeen},
    group::{GroupReader, GroupSample},
    recorder::Recorder,
    row::{Row, write_csv},
};
