//! Brokers that a tenant may name in a KafkaConsumer, and that try to harm the operator which all tenants share.

#![allow(missing_docs, clippy::unwrap_used)]

mod fake_broker;

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write},
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use fake_broker::{Answers, FakeBroker, LIST_OFFSETS, METADATA, OFFSET_FETCH};
use sluice_crds::{
    conditions::reason,
    config::KafkaConfig,
    kafkaconsumer::kafka::{GroupProtocol, Isolation},
};
use sluice_operator::{
    kafka::port::{Group, Kafka, Reading},
    kafka::{Limits, Readers},
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
        Self::of_group(readers, servers, "billing")
    }

    fn of_group(readers: &Readers, servers: &str, group: &str) -> Self {
        let (wake, readings) = mpsc::channel();
        let config = KafkaConfig {
            bootstrap_servers: servers.to_owned(),
            topics: vec!["orders".parse().unwrap()],
            group_id: group.to_owned(),
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
    let others = (2..=10_000).map(|id| (id, "127.0.0.1".to_owned(), 1)).collect();
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

fn follow(readers: &Readers, broker: &FakeBroker, group: &str) -> Followed {
    Followed::of_group(readers, &broker.address.to_string(), group)
}

#[test]
fn no_call_names_more_partitions_than_librdkafka_can_merge_and_all_are_read() {
    let broker = FakeBroker::start(Answers { partitions: 1_300, ..Answers::default() });
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    let read = followed.until("all is read", |r| r.error.is_none() && r.snapshot.is_some());
    let partitions = &read.snapshot.unwrap().partitions;
    assert!(partitions.len() == 1_300 && partitions.iter().all(|p| p.lag() == Some(5)));
    for (api, most) in [(LIST_OFFSETS, 100), (OFFSET_FETCH, 500)] {
        let asked: Vec<usize> = broker.asked(api).iter().map(|asked| asked.named).collect();
        assert!(asked.iter().all(|count| *count <= most), "{api}: {asked:?}");
        assert!(asked.contains(&most), "{api}: {asked:?}");
    }
}

#[test]
fn a_group_that_may_not_be_read_neither_blocks_nor_slows_the_others() {
    let group = |name: &str| match name {
        "secret" => fake_broker::Group { error: 30, ..Default::default() },
        _ => fake_broker::Group::default(),
    };
    let broker = FakeBroker::start(Answers { partitions: 4, group, ..Answers::default() });
    let readers = Readers::default();
    let secret = follow(&readers, &broker, "secret");
    let billing = follow(&readers, &broker, "billing");
    secret.until("it is refused", has_reason(reason::ACCESS_DENIED));
    let asked = |group: &str| {
        let asked = broker.asked(OFFSET_FETCH).into_iter();
        asked.filter(|asked| asked.group == group).count()
    };
    let searches = || broker.asked(METADATA).iter().filter(|asked| asked.named == 0).count();
    let before = (asked("secret"), asked("billing"), searches());
    billing.until("it was read six times more", |_| asked("billing") >= before.1 + 6);
    assert!(asked("secret") <= before.0 + 1, "a refusal is asked for again every ten seconds");
    assert!(billing.group.reading().error.is_none());
    assert_eq!(searches(), before.2, "no other broker is looked for");
}

#[test]
fn two_expired_groups_of_one_topic_do_not_keep_its_starts_from_being_read() {
    let broker = FakeBroker::start(Answers { partitions: 4, start: 7, ..Answers::default() });
    let readers = Readers::default();
    let first = follow(&readers, &broker, "billing");
    let _second = follow(&readers, &broker, "audit");
    let starts = || {
        let asked = broker.asked(LIST_OFFSETS).into_iter();
        asked.filter(|asked| asked.starts).map(|asked| asked.at).collect::<Vec<_>>()
    };
    // All of them once, at once those below which a group is, and then these every five seconds.
    first.until("the starts", |_| starts().len() >= 3);
    let took = starts()[2].duration_since(starts()[0]);
    assert!(took < Duration::from_secs(9), "they are read every ten seconds only: {took:?}");
}

#[test]
fn a_search_for_a_coordinator_holds_up_no_other_group() {
    let group = |name: &str| match name {
        "lost" => fake_broker::Group { error: 16, ..Default::default() },
        _ => fake_broker::Group::default(),
    };
    let answers = Answers { partitions: 4, hides_brokers: true, group, ..Answers::default() };
    let broker = FakeBroker::start(answers);
    let readers = Readers::default();
    let _lost = follow(&readers, &broker, "lost");
    let billing = follow(&readers, &broker, "billing");
    // Who the brokers are is asked, and never answered: a request lasts three seconds.
    let search = || {
        let fetched = broker.asked(OFFSET_FETCH).first()?.at;
        let mut asked = broker.asked(METADATA).into_iter();
        asked.find(|asked| asked.named == 0 && asked.at > fetched).map(|asked| asked.at)
    };
    billing.until("the search", |_| search().is_some());
    let search = search().unwrap();
    let during = |broker: &FakeBroker| {
        let asked = broker.asked(OFFSET_FETCH).into_iter();
        let since = asked.filter(|asked| asked.group == "billing" && asked.at > search);
        since.map(|asked| asked.at.duration_since(search)).collect::<Vec<_>>()
    };
    billing.until("it is read meanwhile", |_| during(&broker).len() >= 2);
    let first = during(&broker)[0];
    assert!(first < Duration::from_millis(2_500), "{first:?}");
}

#[test]
fn what_is_said_of_one_partition_s_offset_reaches_the_reading() {
    let group = |_: &str| fake_broker::Group { error_of_last: 29, ..Default::default() };
    let broker = FakeBroker::start(Answers { partitions: 4, group, ..Answers::default() });
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    let reading = followed.until("the refusal", has_reason(reason::ACCESS_DENIED));
    let message = reading.error.unwrap().message;
    let said = "the committed offsets of 1 of 4 partitions could not be read (orders-3): ";
    assert!(message.starts_with(said) && message.contains("authorization"), "{message}");
    let partitions = &reading.snapshot.unwrap().partitions;
    assert!(partitions[0].lag() == Some(5) && partitions[3].lag().is_none());
}

#[test]
fn a_topic_that_one_answer_does_not_know_is_not_called_missing() {
    let answers = Answers { partitions: 4, unknown_at_first: 1, ..Answers::default() };
    let broker = FakeBroker::start(answers);
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    let reading = followed.until("the topic", |r| r.error.is_some() || r.snapshot.is_some());
    assert_eq!(reading.error, None);
}

fn message(reading: &Reading) -> &str {
    reading.error.as_ref().map_or("", |error| error.message.as_str())
}

#[test]
fn a_broker_that_is_not_allowed_gets_no_connection_and_the_allowed_one_still_works() {
    for (list, bootstrap, announced, listener) in [
        // By its address, by a name of that address, and by another spelling of it.
        ("127.0.0.2", "127.0.0.2", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2", "localhost", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2", "127.1", "127.0.0.1"),
        ("localhost", "localhost", "127.0.0.2", "127.0.0.2"),
    ] {
        let forbidden = FakeBroker::start_at(listener, Answers::default());
        let others = vec![(2, announced.to_owned(), forbidden.address.port())];
        let leader = |partition| partition % 2 + 1;
        let answers = Answers { partitions: 4, others, leader, ..Answers::default() };
        let allowed = FakeBroker::start_at(bootstrap, answers);
        let servers = format!("{bootstrap}:{}", allowed.address.port());

        let limits = Limits { allowed: list.parse().unwrap(), ..Limits::default() };
        let readers = Readers::new(limits);
        let followed = Followed::new(&readers, &servers);
        let case = format!("{announced} beside {list}");
        let reading = followed.until(&case, |reading| {
            has_reason(reason::BROKER_NOT_ALLOWED)(reading)
                && reading.snapshot.as_ref().is_some_and(|s| s.partitions[0].lag() == Some(5))
        });
        assert!(message(&reading).contains(listener) || message(&reading).contains(announced));
        let ends: Vec<_> = reading.snapshot.unwrap().partitions.iter().map(|p| p.end).collect();
        assert_eq!(ends, [Some(10), None, Some(10), None], "{case}");
        assert_eq!(forbidden.accepts(), 0, "{case}");

        // Where everything is allowed, the same broker is connected to: the listener counts.
        let readers = Readers::default();
        let followed = Followed::new(&readers, &servers);
        followed.until("a connection", |_| forbidden.accepts() > 0);
    }
}

#[test]
fn a_topic_with_too_many_partitions_is_not_read_and_the_bound_is_named() {
    let broker = FakeBroker::start(Answers { partitions: 25_000, ..Answers::default() });
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    let reading = followed.until("the bound", has_reason(reason::TOO_MANY_PARTITIONS));
    let said = message(&reading);
    assert!(said.contains("25000 partitions") && said.contains("at most 20000"), "{said}");
    assert!(broker.asked(LIST_OFFSETS).is_empty() && broker.asked(OFFSET_FETCH).is_empty());
}

#[test]
fn too_many_members_are_not_taken_and_the_bound_is_named() {
    fn said_of(group: fn(&str) -> fake_broker::Group) -> String {
        let broker = FakeBroker::start(Answers { partitions: 4, group, ..Answers::default() });
        let readers = Readers::default();
        let followed = follow(&readers, &broker, "billing");
        followed.group.with_members(true);
        let is_so = |reading: &Reading| {
            has_reason(reason::TOO_MANY_MEMBERS)(reading) && reading.snapshot.is_some()
        };
        let reading = followed.until("the bound", is_so);
        assert!(reading.snapshot.as_ref().unwrap().group.is_none());
        message(&reading).to_owned()
    }
    for said in [
        said_of(|_| fake_broker::Group { members: 5_001, assigned: 1, ..Default::default() }),
        said_of(|_| fake_broker::Group { members: 100, assigned: 2_001, ..Default::default() }),
    ] {
        assert!(said.contains("5000 members") && said.contains("200000 partitions"), "{said}");
    }
}

#[test]
fn metadata_that_is_too_large_is_not_taken_and_the_bound_is_named() {
    let group = |_: &str| fake_broker::Group { metadata: 16 * 1_024 + 1, ..Default::default() };
    let broker = FakeBroker::start(Answers { partitions: 4, group, ..Answers::default() });
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    let reading = followed.until("the bound", |reading| message(reading).contains("16 KiB"));
    let partitions = &reading.snapshot.unwrap().partitions;
    assert!(
        partitions.iter().all(|p| p.lag() == Some(5) && p.report.is_none()),
        "the lag is known"
    );
}

#[test]
fn an_answer_that_is_too_large_is_not_read_and_the_bound_is_named() {
    let group = |_: &str| fake_broker::Group { metadata: 16 * 1_024, ..Default::default() };
    let broker = FakeBroker::start(Answers { partitions: 500, group, ..Answers::default() });
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    followed.until("the bound", |reading| message(reading).contains("4 MiB"));
}

#[test]
fn statistics_are_of_the_clusters_that_are_followed() {
    let broker = FakeBroker::start(Answers { partitions: 4, ..Answers::default() });
    let readers = Readers::default();
    let followed = follow(&readers, &broker, "billing");
    followed.until("all is read", |r| r.error.is_none() && r.snapshot.is_some());
    let clusters = readers.statistics().clusters;
    assert_eq!(clusters.len(), 1);
    assert_eq!(clusters[0].bootstrap_servers, broker.address.to_string());
    assert!(!clusters[0].last_round.is_zero());
    drop(followed);
    assert_eq!(readers.statistics().clusters, []);
}

/// What was logged, by all threads of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_librdkafka_logs_is_in_the_operator_s_log_and_not_in_the_reading() {
    const NAME: &str = "what_librdkafka_logs_is_in_the_operator_s_log_and_not_in_the_reading";
    let Ok(address) = env::var(CHILD) else {
        // Nobody listens there.
        return in_a_child(NAME, "127.0.0.1:1".parse().unwrap());
    };
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).init();
    let readers = Readers::default();
    let followed = Followed::new(&readers, &address);
    let reading = followed.until("the cause", |reading| message(reading).contains("refused"));
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let mut lines = logged.lines();
    let line = lines.find(|line| line.contains("sluice_operator::librdkafka")).unwrap();
    assert!(line.contains("Connection refused") && line.contains("WARN"), "{line}");
    assert!(!message(&reading).contains("CONNECT"), "{reading:?}");
}

#[test]
fn a_name_that_a_broker_announces_forges_no_line_of_the_log() {
    const NAME: &str = "a_name_that_a_broker_announces_forges_no_line_of_the_log";
    let Ok(address) = env::var(CHILD) else {
        let others = vec![(2, "evil\nFORGED".to_owned(), 9_092)];
        let answers = Answers { partitions: 4, others, leader: |_| 2, ..Answers::default() };
        return in_a_child(NAME, FakeBroker::start(answers).address);
    };
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).init();
    let logged = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let readers = Readers::default();
    let followed = Followed::new(&readers, &address);
    followed.until("the name is logged", |_| logged().contains("FORGED"));
    let logged = logged();
    assert!(!logged.lines().any(|line| line.starts_with("FORGED")), "{logged}");
}
