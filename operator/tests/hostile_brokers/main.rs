//! Brokers that a tenant may name in a KafkaConsumer, and that try to harm the operator which all tenants share.

#![allow(missing_docs, clippy::unwrap_used)]

mod fake_broker;

use std::{
    collections::BTreeMap,
    env,
    net::SocketAddr,
    process::Command,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use fake_broker::{Answers, FakeBroker};
use sluice_crds::{
    conditions::reason,
    config::KafkaConfig,
    kafkaconsumer::kafka::{GroupProtocol, Isolation},
};
use sluice_operator::{
    kafka::Readers,
    kafka::port::{Group, Kafka, Reading},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// Set in the process that reads: to the address that it reads from.
const CHILD: &str = "SLUICE_TEST_READS_FROM";

struct Followed {
    group: Arc<dyn Group>,
    readings: mpsc::Receiver<()>,
}

impl Followed {
    fn new(readers: &Readers, servers: &str) -> Self {
        let (wake, readings) = mpsc::channel();
        let config = KafkaConfig {
            bootstrap_servers: servers.to_owned(),
            topics: vec!["orders".to_owned()],
            group_id: "billing".to_owned(),
            protocol: GroupProtocol::Classic,
            isolation: Isolation::ReadUncommitted,
            properties: BTreeMap::new(),
        };
        Self { group: readers.follow(&config, Arc::new(move || _ = wake.send(()))), readings }
    }

    /// The first reading that is as it should be.
    fn until(&self, what: &str, is_so: impl Fn(&Reading) -> bool) -> Reading {
        let begin = Instant::now();
        loop {
            let reading = self.group.reading();
            if is_so(&reading) {
                return reading;
            }
            let left = DEADLINE.saturating_sub(begin.elapsed());
            let woke = self.readings.recv_timeout(left).is_ok();
            assert!(woke, "not within {DEADLINE:?}: {what}; the last: {reading:?}");
        }
    }
}

fn has_reason(reason: &'static str) -> impl Fn(&Reading) -> bool {
    move |reading| reading.error.as_ref().is_some_and(|error| error.reason == reason)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Runs this test alone in a process of its own, which finds the address in its environment.
fn in_a_child(test: &str, address: SocketAddr) {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, address.to_string())
        .output()
        .unwrap();
    assert!(
        child.status.success(),
        "the process that read from this broker ended with {}: {}",
        child.status,
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn a_telemetry_answer_of_minus_one_elements_does_not_abort_the_process() {
    if let Ok(address) = env::var(CHILD) {
        let readers = Readers::default();
        let followed = Followed::new(&readers, &address);
        followed.until("the broker answers", has_reason(reason::UNKNOWN_TOPIC));
        // Telemetry is asked for at the same time as the topics: long before these two have come.
        for _ in 0..2 {
            followed.readings.recv_timeout(DEADLINE).unwrap();
        }
        return;
    }
    let broker = FakeBroker::start(Answers { telemetry: true, ..Answers::default() });
    in_a_child(
        "a_telemetry_answer_of_minus_one_elements_does_not_abort_the_process",
        broker.address,
    );
    assert!(broker.accepts() > 0);
}

#[test]
fn ten_thousand_announced_brokers_start_no_more_than_a_thousand_threads() {
    const NAME: &str = "ten_thousand_announced_brokers_start_no_more_than_a_thousand_threads";
    if let Ok(address) = env::var(CHILD) {
        let readers = Readers::default();
        let followed = Followed::new(&readers, &address);
        let (begin, mut most) = (Instant::now(), 0);
        while !has_reason("TooManyBrokers")(&followed.group.reading()) {
            assert!(begin.elapsed() < DEADLINE, "{most} threads, {:?}", followed.group.reading());
            let _ = followed.readings.recv_timeout(Duration::from_millis(1));
            most = most.max(threads());
        }
        assert!(most < 1_200, "{most} threads");
        // The client is closed, and stays so: all of its threads are gone.
        while threads() > 20 {
            assert!(begin.elapsed() < DEADLINE, "{} threads", threads());
            std::thread::sleep(Duration::from_millis(5));
        }
        return;
    }
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let others = (2..=10_000).map(|id| (id, nobody)).collect();
    let broker = FakeBroker::start(Answers { others, ..Answers::default() });
    in_a_child(NAME, broker.address);
}

#[test]
fn a_server_that_answers_like_ssh_is_no_kafka_broker() {
    let readers = Readers::default();
    let greeting = b"SSH-2.0-OpenSSH_9.6\r\n";
    let broker = FakeBroker::start(Answers { greeting, ..Answers::default() });
    let followed = Followed::new(&readers, &broker.address.to_string());
    let reading = followed.until("an error", |reading| {
        has_reason(reason::UNREACHABLE)(reading)
            && reading.error.as_ref().unwrap().message.contains("not a Kafka broker")
    });
    let message = reading.error.unwrap().message;
    assert!(!message.contains("SSH") && !message.contains("1397966893"), "{message}");
}
