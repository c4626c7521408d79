//! What many consumers cost the API server while their load is steady.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    kafka::{FakeKafka, reading},
    load::{Load, PARTITIONS, follower},
    server::{Call, Server},
    start, statuses,
};

/// The planner knows the load after a window of this many seconds, and its pods have come.
const SETTLED: u64 = 240;

/// Feeds the loads for so many seconds, and returns the requests of the time after `SETTLED`.
async fn calls_of(
    loads: &mut [Load],
    seconds: u64,
    server: &Server,
    kafka: &FakeKafka,
) -> Vec<Call> {
    for load in loads.iter() {
        kafka.set_of(&load.group(), |own| *own = reading(PARTITIONS));
        server.put("kafkaconsumers", follower(&load.name));
    }
    for second in 1..=(SETTLED + seconds) as i64 {
        if second == SETTLED as i64 {
            server.take_calls();
        }
        for load in loads.iter_mut() {
            load.second(kafka, server);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    server.take_calls()
}

/// How often each kind of request was made.
fn counted(calls: &[Call]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        let kind = call.path.split('/').rev().take(3).collect::<Vec<_>>().join(" < ");
        *counts.entry(format!("{} {kind}", call.method)).or_default() += 1;
    }
    counts
}

async fn a_steady_load_costs_nothing(consumers: u64, seconds: u64) {
    let (server, kafka) = (Server::new(), FakeKafka::new(PARTITIONS));
    let _operator = start(&server, &kafka);
    let mut loads: Vec<_> =
        (0..consumers).map(|n| Load::of(&format!("steady-{n}"), 80.0, 0.0, n)).collect();
    let calls = calls_of(&mut loads, seconds, &server, &kafka).await;
    assert_eq!(counted(&calls), BTreeMap::new());
    let object = server.get("kafkaconsumers", "steady-0").unwrap();
    assert_eq!(object["status"]["desiredReplicas"], 3, "960/s, 400 a pod: {object:#}");
}

#[tokio::test(start_paused = true)]
async fn a_steady_load_causes_no_write_and_no_read() {
    a_steady_load_costs_nothing(5, 300).await;
}

/// Run with `cargo test -p sluice-operator --test api -- --ignored a_hundred`.
#[tokio::test(start_paused = true)]
#[ignore = "a soak of some minutes"]
async fn a_hundred_consumers_with_a_steady_load_cause_no_write_and_no_read() {
    a_steady_load_costs_nothing(100, 300).await;
}

/// Status writes per second and consumer that noise and trickles cause: a tenth of the consumers
/// gets a record now and then, the load of the others differs by a tenth from second to second.
async fn writes_of_noise(consumers: u64, seconds: u64) -> f64 {
    let (server, kafka) = (Server::new(), FakeKafka::new(PARTITIONS));
    let _operator = start(&server, &kafka);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut loads: Vec<_> = (0..consumers)
        .map(|n| {
            let each = if n % 10 == 0 { 0.01 } else { 80.0 };
            Load::of(&format!("noisy-{n}"), each, 0.1, seed.wrapping_add(n))
        })
        .collect();
    let calls = calls_of(&mut loads, seconds, &server, &kafka).await;
    println!("{:#?}", counted(&calls));
    let others: Vec<_> = calls.iter().filter(|c| !c.path.ends_with("/status")).collect();
    assert!(others.is_empty(), "{others:?}");
    statuses(&calls) as f64 / seconds as f64 / consumers as f64
}

/// A thousand consumers, a hundred of them with a trickle, may cause five status writes per second.
const BUDGET: f64 = 5.0 / 1_000.0;

#[tokio::test(start_paused = true)]
async fn noise_and_trickles_stay_within_the_budget_of_status_writes() {
    let writes = writes_of_noise(10, 600).await;
    assert!(writes < BUDGET, "{writes:.4} status writes per second and consumer");
}

/// Run with `cargo test -p sluice-operator --test api -- --ignored --nocapture a_thousand`.
#[tokio::test(start_paused = true)]
#[ignore = "a soak of some minutes"]
async fn a_thousand_noisy_consumers_stay_within_the_budget_of_status_writes() {
    let writes = writes_of_noise(1_000, 120).await;
    println!("{:.2} status writes per second for 1,000 consumers", writes * 1_000.0);
    assert!(writes < BUDGET, "{writes:.4} status writes per second and consumer");
}
