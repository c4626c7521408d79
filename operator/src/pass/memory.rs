//! What is kept of a consumer between passes, in memory only.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use sluice_crds::{config::KafkaConfig, kafkaconsumer::kafka::GroupProtocol, member::MemberSuffix};
use sluice_planner::History;
use tokio::time::Instant;

use crate::{
    cluster::{configs, written::Writes},
    kafka::port::{Group, Kafka, OnReading, Reading},
    pass::{offsets, validate::Rules},
};

/// What is kept of a consumer between passes.
#[derive(Default)]
pub struct Memory {
    /// The rules that its spec breaks.
    pub rules: Rules,
    /// Its topics and group, as the readers follow them.
    pub followed: Option<Followed>,
    /// Members that are not of its pods, when the members were last read: that is not done on every reading.
    pub foreign: Vec<String>,
    /// What the planner keeps.
    pub history: Option<History>,
    /// What was written.
    pub writes: Writes,
    /// Its static configurations.
    pub configs: configs::Known,
    /// The version of the object that could not be read, and was spoken of.
    pub unreadable: Option<String>,
}

/// A group that is followed, and what it was asked for with: when that changes, it is followed anew.
pub struct Followed {
    /// Brokers, topics and group.
    pub what: KafkaConfig,
    /// The group.
    pub group: Arc<dyn Group>,
}

impl Memory {
    /// Takes in who is in the group, where that was read just now; `ours` is in the client ids of our members.
    pub fn see_members(&mut self, reading: &Reading, ours: &MemberSuffix) {
        if let Some(members) = offsets::fresh_members(reading) {
            self.foreign =
                members.iter().filter(|id| !ours.is_in(id)).map(|id| (*id).to_owned()).collect();
        }
    }

    /// The group of `what`; `bell` rings when there is a new reading.
    pub fn follow(
        &mut self,
        what: &KafkaConfig,
        kafka: &dyn Kafka,
        bell: impl FnOnce() -> OnReading,
    ) -> Arc<dyn Group> {
        // The pods' own settings are no business of the readers'.
        let what = KafkaConfig {
            properties: BTreeMap::new(),
            protocol: GroupProtocol::Auto,
            ..what.clone()
        };
        if let Some(followed) = &self.followed
            && followed.what == what
        {
            return Arc::clone(&followed.group);
        }
        // What was learnt of other topics, or of another group, says nothing of these.
        self.history = None;
        self.foreign.clear();
        let group = kafka.follow(&what, bell());
        self.followed = Some(Followed { what, group: Arc::clone(&group) });
        group
    }
}

/// A consumer that waits after a failed pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Failures in a row.
    pub failures: u32,
    /// No pass before this.
    pub until: Option<Instant>,
    /// The version of the spec that failed: another is tried at once.
    pub generation: Option<i64>,
    /// When the first of them was.
    pub since: Option<Timestamp>,
}
