//! What the planner costs in one pass, for each partition: about the same however many there are.
//!
//! `cargo bench -p sluice-planner`; the throughput is in partitions, so its reciprocal is the time for one.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_crds::{
    kafkaconsumer::Ordering,
    report::ProgressReport,
    tuning::{Knobs, Tuning},
};
use sluice_planner::{
    Memory, Observed, Readings, Snapshot, Spec, plan,
    snapshot::{Committed, Partition, TopicPartition},
};

const BEGIN: i64 = 1_790_000_000_000;
const KNOBS: Knobs = Knobs { batch_size: 500, concurrency: 4 };
const PODS: u32 = 16;

const SPEC: Spec = Spec {
    min_replicas: 1,
    max_replicas: None,
    max_behind: 10.0,
    drain_within: 60.0,
    target: 0.8,
    scale_down_after: 120.0,
    lowest: KNOBS,
    highest: Knobs { batch_size: 500, concurrency: 16 },
    latency_target: None,
    ordering: Ordering::Key,
};

/// A second's reading of uneven partitions with reports, as the reader makes it.
fn reading(partitions: i32, second: i64) -> Snapshot {
    let topic: Arc<str> = "orders".into();
    let at = BEGIN + second * 1_000;
    let partition = |number: i32| {
        let rate = 20 + i64::from(number * 7 % 31);
        let end = 1_000 + rate * second;
        let report = ProgressReport {
            version: 1,
            pod: format!("orders-6d5f9c8b7d-{:05}", number % PODS as i32),
            boot: BEGIN,
            at,
            handled: (end - rate).unsigned_abs(),
            pod_handled: (rate * second).unsigned_abs() * 100,
            slot_seconds: second as f64,
            usable_slots: 4.0,
            busy: 0.6,
            revision: 1,
            ..ProgressReport::default()
        };
        Partition {
            id: TopicPartition { topic: Arc::clone(&topic), partition: number },
            start: Some(0),
            end: Some(end),
            end_at: at,
            committed: Committed::At(end - rate),
            committed_at: at,
            report: Some(Arc::new(report)),
        }
    };
    Snapshot { at, partitions: (0..partitions).map(partition).collect(), group: None }
}

fn pass(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pass");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for partitions in [64, 1_000, 64_000] {
        group.throughput(Throughput::Elements(partitions));
        let id = BenchmarkId::from_parameter(partitions);
        group.bench_function(id, |bencher| {
            let observed = Observed {
                desired: PODS,
                desired_since: None,
                ready: PODS,
                tuning: Tuning::new(1, KNOBS),
                tuning_at: None,
            };
            let (mut readings, mut memory) = (Readings::default(), Memory::default());
            let mut second = 0;
            // The readings reach as far back as they ever do.
            for _ in 0..if partitions > 10_000 { 60 } else { 160 } {
                second += 1;
                let snapshot = reading(partitions as i32, second);
                plan(&SPEC, &mut readings, &mut memory, &observed, &snapshot, snapshot.at);
            }
            bencher.iter_custom(|passes| {
                let mut spent = Duration::ZERO;
                for _ in 0..passes {
                    second += 1;
                    let snapshot = reading(partitions as i32, second);
                    let begin = std::time::Instant::now();
                    black_box(plan(
                        &SPEC,
                        &mut readings,
                        &mut memory,
                        &observed,
                        &snapshot,
                        snapshot.at,
                    ));
                    spent += begin.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pass);
criterion_main!(benches);
