//! What is kept of a consumer between passes, in memory only.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kube::ResourceExt;
use sluice_crds::{config::KafkaConfig, kafkaconsumer::kafka::GroupProtocol, member::MemberSuffix};
use sluice_planner::Readings;
use tokio::time::Instant;

use crate::{
    cluster::{configs, written::Written},
    kafka::port::{Group, Kafka, OnReading, Reading},
    pass::{
        offsets,
        report::{damping::Damper, significance::Allowance, writer::Tries},
        starting::Starting,
        validate::Rules,
    },
};

/// What is kept of a consumer between passes.
#[derive(Default)]
pub struct Memory {
    /// The rules that its spec breaks.
    pub rules: Rules,
    /// Its topics and group, as the readers follow them.
    pub followed: Option<Followed>,
    /// The commit of the group's start positions.
    pub starting: Starting,
    /// Who was in the group when its members were last read: that is not done on every reading.
    pub members: Option<Members>,
    /// What was read over the last minutes, as the planner keeps it.
    pub readings: Readings,
    /// What the planner learnt; `None` until it is restored from the status.
    pub learnt: Option<sluice_planner::Memory>,
    /// Its static configurations.
    pub configs: configs::Known,
    /// What is remembered of a status that could not be written.
    pub status: Tries,
    /// What is known of its objects beyond the watches.
    pub written: Written,
    /// Conditions that have not held for long enough to be reported.
    pub damper: Damper,
    /// How many status writes of small change are left.
    pub small_writes: Allowance,
    /// Since when its objects cannot be read.
    pub unobserved_since: Option<Instant>,
    /// Something was in the way of the pods and was reported; its end is too.
    pub obstructed: bool,
    /// The version of the object that could not be read, and was spoken of.
    pub unreadable: Option<String>,
}

/// Members that were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// When.
    pub at: Instant,
    /// The client ids that are not of this consumer's pods.
    pub foreign: Vec<String>,
}

/// Describing a group costs a request or two: where no decision is near, once in this time is enough to find a stranger.
const LOOK: Duration = Duration::from_secs(60);

/// A group that is followed, and what for: when that changes, it is followed again.
pub struct Followed {
    /// Brokers, topics and group.
    pub what: KafkaConfig,
    /// The group.
    pub group: Arc<dyn Group>,
}

impl Memory {
    /// Takes in who is in the group, where that was read just now; `ours` is in the client ids of our members.
    pub fn see_members(&mut self, reading: &Reading, ours: &MemberSuffix, now: Instant) {
        if let Some(members) = offsets::fresh_members(reading) {
            let foreign = members.iter().filter(|id| !ours.is_in(id));
            self.members =
                Some(Members { at: now, foreign: foreign.map(|id| (*id).to_owned()).collect() });
        }
    }

    /// Whether it is time to look who is in the group, though nothing else asks for it.
    pub fn members_are_old(&self, now: Instant) -> bool {
        self.members.as_ref().is_none_or(|members| now.duration_since(members.at) >= LOOK)
    }

    /// Follows no group any more.
    pub fn leave(&mut self) {
        self.followed = None;
        self.starting = Starting::default();
    }

    /// The group of `what`; `on_reading` is called when there is a new reading.
    pub fn follow(
        &mut self,
        what: &KafkaConfig,
        kafka: &dyn Kafka,
        on_reading: impl FnOnce() -> OnReading,
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
        (self.readings, self.learnt) = (Readings::default(), None);
        (self.members, self.starting) = (None, Starting::default());
        let group = kafka.follow(&what, on_reading());
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
    /// What failed: another is tried at once.
    pub tried: Tried,
    /// When the first of them was.
    pub since: Option<Timestamp>,
}

/// What of a consumer a pass depends on: where that is another, what failed before says nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    generation: Option<i64>,
    annotations: u64,
}

impl Tried {
    /// Of this object.
    pub fn of(object: &impl ResourceExt) -> Self {
        let mut hasher = DefaultHasher::new();
        object.annotations().hash(&mut hasher);
        Self { generation: object.meta().generation, annotations: hasher.finish() }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use sluice_planner::snapshot::{Snapshot, TopicPartition};

    use super::*;
    use crate::{
        kafka::port::ReadError,
        pass::{
            Moment,
            offsets::Commit,
            starting::{Committing, Progress},
            validate::tests::good,
        },
    };

    /// A Kafka of which nothing is read.
    struct Unread;

    impl Kafka for Unread {
        fn follow(&self, _: &KafkaConfig, _: OnReading) -> Arc<dyn Group> {
            Arc::new(Self)
        }
    }

    impl Group for Unread {
        fn reading(&self) -> Reading {
            Reading::default()
        }

        fn with_members(&self, _: bool) {}

        fn commit(&self, _: Vec<(TopicPartition, i64)>) -> BoxFuture<'_, Result<(), ReadError>> {
            Box::pin(std::future::pending())
        }
    }

    fn follow(memory: &mut Memory, what: &KafkaConfig) {
        memory.follow(what, &Unread, || Arc::new(|| ()));
    }

    /// How far the commit of the group is that is followed; it is answered at once.
    fn advance(memory: &mut Memory, now: Moment) -> Progress {
        let answer = |_| -> Committing { Box::pin(std::future::ready(Ok(()))) };
        let snapshot = Snapshot { at: 0, partitions: Vec::new(), group: None };
        memory.starting.advance(Commit::default(), &snapshot, answer, || (), now)
    }

    #[tokio::test(start_paused = true)]
    async fn the_commit_of_another_group_opens_no_gate() {
        let (mut memory, now) = (Memory::default(), Moment::now());
        let one = good(&[("spec/kafka/groupId", "one")]).kafka;
        let other = good(&[("spec/kafka/groupId", "other")]).kafka;
        follow(&mut memory, &one);
        assert_eq!(advance(&mut memory, now), Progress::Waits);
        while memory.starting.answered(now).is_none() {
            tokio::task::yield_now().await;
        }
        follow(&mut memory, &one);
        assert_eq!(advance(&mut memory, now), Progress::Committed, "the same group");
        follow(&mut memory, &other);
        assert_eq!(advance(&mut memory, now), Progress::Waits, "it needs a commit of its own");
    }
}
