//! A Kafka that says what a test wants it to say, and writes down what was committed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use sluice_crds::{config::KafkaConfig, kafkaconsumer::kafka::GroupProtocol};
use sluice_operator::kafka::port::{Group, Kafka, OnReading, ReadError, Reading, Statistics};
use sluice_planner::snapshot::{self as s, Committed, GroupState, Snapshot, TopicPartition};

#[derive(Default)]
struct State {
    statistics: Statistics,
    reading: Reading,
    /// Readings of groups that have one of their own.
    own: BTreeMap<String, Reading>,
    listeners: Vec<(String, OnReading)>,
    commits: Vec<(String, i32, i64)>,
    /// What each group has committed, where the snapshot says that there is none.
    committed: BTreeMap<(String, TopicPartition), i64>,
    /// Groups whose commits are not answered begin with this.
    silent: Option<String>,
}

#[derive(Clone, Default)]
pub struct FakeKafka(Arc<Mutex<State>>);

impl FakeKafka {
    /// A cluster with a topic of `partitions`, an empty group, and offsets 100 to 200 in each partition.
    pub fn new(partitions: i32) -> Self {
        let kafka = Self::default();
        kafka.set(|reading| *reading = self::reading(partitions));
        kafka
    }

    /// Changes what is read, and tells those who follow.
    pub fn set(&self, change: impl FnOnce(&mut Reading)) {
        let listeners = {
            let mut state = self.0.lock().unwrap();
            change(&mut state.reading);
            state.listeners.clone()
        };
        for (_, on_reading) in listeners {
            on_reading();
        }
    }

    /// Changes the newest snapshot.
    pub fn snapshot(&self, change: impl FnOnce(&mut Snapshot)) {
        self.set(|reading| {
            let mut snapshot = reading.snapshot.as_deref().unwrap().clone();
            change(&mut snapshot);
            if let Some(group) = &mut snapshot.group {
                group.at = snapshot.at;
            }
            reading.snapshot = Some(Arc::new(snapshot));
        });
    }

    /// Changes what is read of one group alone, and tells those who follow it.
    pub fn set_of(&self, group: &str, change: impl FnOnce(&mut Reading)) {
        let listeners: Vec<_> = {
            let mut state = self.0.lock().unwrap();
            let all = state.reading.clone();
            change(state.own.entry(group.to_owned()).or_insert(all));
            state
                .listeners
                .iter()
                .filter(|(of, _)| of == group)
                .map(|(_, on_reading)| on_reading.clone())
                .collect()
        };
        for on_reading in listeners {
            on_reading();
        }
    }

    pub fn commits(&self) -> Vec<(String, i32, i64)> {
        self.0.lock().unwrap().commits.clone()
    }

    /// Leaves commits of groups without an answer whose ids begin so; `None` answers all that are made from now on.
    pub fn silence(&self, groups: Option<&str>) {
        self.0.lock().unwrap().silent = groups.map(str::to_owned);
    }

    /// Changes how the readers fare.
    pub fn statistics(&self, statistics: Statistics) {
        self.0.lock().unwrap().statistics = statistics;
    }

    /// Groups that are followed.
    pub fn followed(&self) -> Vec<String> {
        self.0.lock().unwrap().listeners.iter().map(|(group, _)| group.clone()).collect()
    }
}

pub fn reading(partitions: i32) -> Reading {
    let partition = |number| s::Partition {
        id: TopicPartition { topic: "orders".into(), partition: number },
        start: Some(100),
        end: Some(200),
        end_at: 0,
        committed: Committed::At(200),
        committed_at: 0,
        report: None,
    };
    Reading {
        snapshot: Some(Arc::new(Snapshot {
            at: 0,
            partitions: (0..partitions).map(partition).collect(),
            group: Some(s::Group { at: 0, state: GroupState::Empty, members: Vec::new() }),
        })),
        error: None,
        cluster_id: Some("cluster".to_owned()),
        topic_ids: BTreeMap::from([("orders".to_owned(), "id-1".to_owned())]),
        protocol: Some(GroupProtocol::Classic),
        ..Reading::default()
    }
}

struct FakeGroup(FakeKafka, String);

impl Kafka for FakeKafka {
    fn follow(&self, what: &KafkaConfig, on_reading: OnReading) -> Arc<dyn Group> {
        self.0.lock().unwrap().listeners.push((what.group_id.clone(), on_reading));
        Arc::new(FakeGroup(self.clone(), what.group_id.clone()))
    }

    fn statistics(&self) -> Statistics {
        self.0.lock().unwrap().statistics.clone()
    }
}

impl Group for FakeGroup {
    fn reading(&self) -> Reading {
        let state = self.0.0.lock().unwrap();
        let mut reading = state.own.get(&self.1).unwrap_or(&state.reading).clone();
        if let Some(snapshot) = reading.snapshot.as_mut().filter(|_| !state.committed.is_empty()) {
            for partition in &mut Arc::make_mut(snapshot).partitions {
                let key = (self.1.clone(), partition.id.clone());
                if let (Committed::None, Some(offset)) =
                    (partition.committed, state.committed.get(&key))
                {
                    partition.committed = Committed::At(*offset);
                }
            }
        }
        reading
    }

    fn with_members(&self, _: bool) {}

    fn commit(&self, offsets: Vec<(TopicPartition, i64)>) -> BoxFuture<'_, Result<(), ReadError>> {
        let mut state = self.0.0.lock().unwrap();
        for (id, offset) in &offsets {
            state.commits.push((id.topic.to_string(), id.partition, *offset));
        }
        if state.silent.as_ref().is_some_and(|groups| self.1.starts_with(groups)) {
            return Box::pin(std::future::pending());
        }
        for (id, offset) in offsets {
            state.committed.insert((self.1.clone(), id), offset);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for FakeGroup {
    fn drop(&mut self) {
        // Another may follow the same group by now: only one of them has gone.
        let mut state = self.0.0.lock().unwrap();
        if let Some(at) = state.listeners.iter().position(|(group, _)| *group == self.1) {
            state.listeners.remove(at);
        }
    }
}
