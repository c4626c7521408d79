//! A consumer whose load and pods are made up: what the reader would read of them, second by second.

use std::sync::Arc;

use serde_json::{Value, json};
use sluice_crds::report::ProgressReport;
use sluice_operator::clock;
use sluice_planner::snapshot::{Committed, Group, GroupState, Snapshot};

use crate::{kafka::FakeKafka, server::Server};

pub const PARTITIONS: i32 = 12;
/// Records per second that one slot handles.
const SLOT: f64 = 500.0;
/// What arrives at one consumer, and how its pods handle it.
pub struct Load {
    /// The consumer's name.
    pub name: String,
    /// Records per second and partition, in the mean; below one, a record comes now and then.
    each: f64,
    /// The share by which a second differs from the mean.
    noise: f64,
    dice: fastrand::Rng,
    end: Vec<i64>,
    handled: u64,
    busy_seconds: f64,
}

impl Load {
    pub fn of(name: &str, each: f64, noise: f64, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            each,
            noise,
            dice: fastrand::Rng::with_seed(seed),
            end: vec![200; PARTITIONS as usize],
            handled: 0,
            busy_seconds: 0.0,
        }
    }

    pub fn group(&self) -> String {
        format!("shop.{}", self.name)
    }

    /// One more second of it, as it is read now. What arrived in the second before is handled and
    /// committed by the pods that are ready.
    pub fn second(&mut self, kafka: &FakeKafka, server: &Server) {
        let at = clock::now();
        let pods = server.get("deployments", &self.name);
        let pods = pods.and_then(|d| d["status"]["readyReplicas"].as_i64()).unwrap_or(0);
        let before = self.end.clone();
        for end in &mut self.end {
            let mean = self.each * (1.0 + self.noise * (2.0 * self.dice.f64() - 1.0));
            *end += (mean + self.dice.f64()).floor() as i64;
        }
        let arrived: i64 = self.end.iter().zip(&before).map(|(now, then)| now - then).sum();
        self.handled += arrived.unsigned_abs();
        self.busy_seconds += arrived as f64 / SLOT;
        let state = if pods == 0 { GroupState::Empty } else { GroupState::Stable };
        let pods = pods.max(1);
        let report = |pod: i64| ProgressReport {
            version: 1,
            pod: format!("pod-{pod}"),
            boot: 1,
            at,
            pod_handled: self.handled / pods.unsigned_abs(),
            slot_seconds: self.busy_seconds / pods as f64,
            busy: (arrived as f64 / SLOT / pods as f64).min(1.0),
            usable_slots: 1.0,
            partitions: PARTITIONS.unsigned_abs(),
            revision: 1,
            ..ProgressReport::default()
        };
        let reports: Vec<_> = (0..pods).map(|pod| Arc::new(report(pod))).collect();
        kafka.set_of(&self.group(), |reading| {
            let mut snapshot: Snapshot = reading.snapshot.as_deref().unwrap().clone();
            snapshot.at = at;
            for (n, partition) in snapshot.partitions.iter_mut().enumerate() {
                partition.end = Some(self.end[n]);
                partition.committed = Committed::At(before[n]);
                (partition.end_at, partition.committed_at) = (at, at);
                partition.report = Some(Arc::clone(&reports[n % reports.len()]));
            }
            snapshot.group = Some(Group { at, state, members: Vec::new() });
            reading.snapshot = Some(Arc::new(snapshot));
        });
    }
}

/// A consumer that follows its lag. Its knobs are pinned: what they cost is another matter.
pub fn follower(name: &str) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "KafkaConsumer",
        "metadata": { "name": name },
        "spec": {
            "kafka": { "bootstrapServers": "kafka:9092", "topics": ["orders"] },
            "handler": { "log": {} },
            "tuning": {
                "batchSize": { "min": 100, "max": 100 }, "concurrency": { "min": 1, "max": 1 },
            },
        },
    })
}
