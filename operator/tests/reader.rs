//! The reader against librdkafka's MockCluster: three brokers, of which one is slow or away.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
    types::{RDKafkaApiKey, RDKafkaRespErr as Code},
};
use sluice_crds::{
    conditions::reason,
    config::KafkaConfig,
    kafkaconsumer::kafka::{GroupProtocol, Isolation},
};
use sluice_operator::{
    kafka::Readers,
    kafka::port::{Group, Kafka, Reading},
};
use sluice_planner::snapshot::{Committed, TopicPartition};

const TOPIC: &str = "orders";
/// Partition `n` is led by broker `n % BROKERS + 1`.
const PARTITIONS: i32 = 6;
const BROKERS: i32 = 3;
const DEADLINE: Duration = Duration::from_secs(30);
/// Longer than a request may take.
const HANGS: Duration = Duration::from_secs(60);

struct World {
    mock: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl World {
    fn new() -> Self {
        let mock = MockCluster::new(BROKERS).unwrap();
        mock.create_topic(TOPIC, PARTITIONS, BROKERS).unwrap();
        for partition in 0..PARTITIONS {
            mock.partition_leader(TOPIC, partition, Some(partition % BROKERS + 1)).unwrap();
        }
        let servers = mock.bootstrap_servers();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("linger.ms", "1")
            .create()
            .unwrap();
        Self { mock, producer }
    }

    /// Follows a group. The mock answers for it on every broker, whoever coordinates it.
    fn follow(&self, readers: &Readers, group: &str) -> Followed {
        Followed::new(readers, &self.mock.bootstrap_servers(), group)
    }

    /// Sends this many records to each of the partitions.
    fn send(&self, partitions: impl Iterator<Item = i32>, each: usize) {
        for partition in partitions {
            for _ in 0..each {
                let record = BaseRecord::<(), str>::to(TOPIC).partition(partition).payload("x");
                self.producer.send(record).map_err(|(error, _)| error).unwrap();
            }
        }
        self.producer.flush(DEADLINE).unwrap();
    }
}

struct Followed {
    group: Arc<dyn Group>,
    readings: mpsc::Receiver<()>,
}

impl Followed {
    fn new(readers: &Readers, servers: &str, group: &str) -> Self {
        let (on_reading, readings) = mpsc::channel();
        let config = KafkaConfig {
            bootstrap_servers: servers.to_owned(),
            topics: vec![TOPIC.parse().unwrap()],
            group_id: group.to_owned(),
            protocol: GroupProtocol::Classic,
            isolation: Isolation::ReadUncommitted,
            properties: BTreeMap::new(),
        };
        let group = readers.follow(&config, Arc::new(move || _ = on_reading.send(())));
        Self { group, readings }
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
            let rang = self.readings.recv_timeout(left).is_ok();
            assert!(rang, "not within {DEADLINE:?}: {what}; the last: {reading:?}");
        }
    }
}

fn ends(reading: &Reading) -> Vec<Option<i64>> {
    reading.snapshot.iter().flat_map(|s| &s.partitions).map(|p| p.end).collect()
}

fn error(reading: &Reading) -> Option<(&str, &str)> {
    reading.error.as_ref().map(|error| (error.reason, error.message.as_str()))
}

fn all_at(end: i64) -> Vec<Option<i64>> {
    vec![Some(end); PARTITIONS as usize]
}

fn led_by(broker: i32) -> impl Fn(&i32) -> bool {
    move |partition| partition % BROKERS + 1 == broker
}

#[test]
fn a_broker_that_hangs_costs_only_its_own_partitions() {
    let (world, readers) = (World::new(), Readers::default());
    world.send(0..PARTITIONS, 10);
    let followed = world.follow(&readers, "billing");
    let first = followed.until("all is read", |r| ends(r) == all_at(10) && r.error.is_none());
    assert!(
        first
            .snapshot
            .unwrap()
            .partitions
            .iter()
            .all(|p| p.start == Some(0) && p.committed == Committed::None)
    );

    world.mock.broker_round_trip_time(2, HANGS).unwrap();
    let hung = followed.until("what does not answer is named", |r| {
        error(r).is_some_and(|t| t.0 == reason::PARTLY_KNOWN)
    });
    let (_, message) = error(&hung).unwrap();
    assert!(
        message.starts_with("2 of 6 partitions could not be read (orders-1 and others): "),
        "{message}"
    );

    // The others are read as before: each second, and what arrives is seen.
    let silent = led_by(2);
    for round in 1..=5 {
        let before = followed.group.reading().snapshot.unwrap().at;
        world.send((0..PARTITIONS).filter(|p| !silent(p)), 1);
        let sent = Instant::now();
        let reading = followed.until("the others' records", |r| {
            let ends = ends(r);
            (0..).zip(&ends).all(|(p, end)| *end == Some(if silent(&p) { 10 } else { 10 + round }))
        });
        assert!(sent.elapsed() < Duration::from_secs(3), "round {round}: {:?}", sent.elapsed());
        assert!(reading.snapshot.unwrap().at > before);
    }
    let aged = followed.group.reading().snapshot.unwrap();
    let age = |p: i32| aged.at - aged.partitions[p as usize].end_at;
    assert!(
        age(1) > 2_000 && age(4) > 2_000,
        "{} and {}: the age tells that they are of before",
        age(1),
        age(4)
    );

    world.mock.broker_round_trip_time(2, Duration::ZERO).unwrap();
    followed.until("all is well again", |r| r.error.is_none());
}

/// The first broker is asked first.
#[test]
fn another_broker_is_asked_for_a_group_whose_coordinator_hangs_and_the_ends_stay_known() {
    let (world, readers) = (World::new(), Readers::default());
    for partition in (0..PARTITIONS).filter(led_by(1)) {
        world.mock.partition_leader(TOPIC, partition, Some(2)).unwrap();
    }
    world.send(0..PARTITIONS, 10);
    let followed = world.follow(&readers, "billing");
    followed.until("all is read", |r| ends(r) == all_at(10) && r.error.is_none());

    world.mock.broker_round_trip_time(1, HANGS).unwrap();
    world.send(0..PARTITIONS, 1);
    let hung = followed.until("ends stay known", |r| ends(r) == all_at(11)).snapshot.unwrap();
    followed.until("another one tells, and that is seen", |r| {
        let offsets_at = r.snapshot.as_ref().unwrap().partitions[0].committed_at;
        r.error.is_none() && offsets_at > hung.at
    });
}

#[test]
fn the_coordinator_is_searched_among_all_brokers_and_a_reason_told_if_none_is_it() {
    let (world, readers) = (World::new(), Readers::default());
    world.send(0..PARTITIONS, 10);
    let not_me = |times| {
        let errors = vec![Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR; times];
        world.mock.request_errors(RDKafkaApiKey::OffsetFetch, &errors);
    };
    not_me(BROKERS as usize - 1);
    let followed = world.follow(&readers, "billing");
    let errors = Cell::new(0);
    followed.until("the last of them is it", |r| {
        errors.set(errors.get() + usize::from(r.error.is_some()));
        ends(r) == all_at(10)
            && r.snapshot
                .as_ref()
                .unwrap()
                .partitions
                .iter()
                .all(|p| p.committed == Committed::None)
    });
    assert_eq!(errors.get(), 0, "a search is no error");

    not_me(BROKERS as usize);
    let nobody = followed.until("none of them is it", |r| r.error.is_some());
    assert!(
        error(&nobody).unwrap().1.contains("the coordinator of group billing is still moving"),
        "{nobody:?}"
    );
    followed.until("one is", |r| r.error.is_none());
}

#[test]
fn a_cluster_that_is_away_is_unreachable_and_comes_back_with_all() {
    let (world, readers) = (World::new(), Readers::default());
    world.send(0..PARTITIONS, 3);
    let followed = world.follow(&readers, "billing");
    followed.until("all is read", |r| ends(r) == all_at(3) && r.error.is_none());
    for broker in 1..=BROKERS {
        world.mock.broker_down(broker).unwrap();
    }
    let away = followed.until("it is away", |r| {
        error(r)
            .is_some_and(|(word, words)| word == reason::UNREACHABLE && words.contains("refused"))
    });
    assert_eq!(ends(&away), all_at(3), "what was known stays, with its age");
    for broker in 1..=BROKERS {
        world.mock.broker_up(broker).unwrap();
    }
    world.send(0..PARTITIONS, 1);
    followed.until("it is back", |r| r.error.is_none() && ends(r) == all_at(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_seen_in_the_next_reading() {
    let (world, readers) = (World::new(), Readers::default());
    world.send(0..PARTITIONS, 10);
    let followed = world.follow(&readers, "billing");
    followed.until("all is read", |r| ends(r) == all_at(10) && r.error.is_none());
    for offset in [4, 7] {
        let offsets: Vec<_> = (0..PARTITIONS)
            .map(|partition| (TopicPartition { topic: TOPIC.into(), partition }, offset))
            .collect();
        followed.group.commit(offsets).await.unwrap();
        let committed = |r: &Reading| {
            r.snapshot
                .iter()
                .flat_map(|s| &s.partitions)
                .all(|p| p.committed == Committed::At(offset))
        };
        followed.until("the commit", committed);
    }
}

#[test]
fn a_topic_that_is_not_there_is_said_by_name_and_found_when_it_comes() {
    let (world, readers) = (World::new(), Readers::default());
    world.send(0..PARTITIONS, 2);
    world.mock.topic_error(TOPIC, Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let followed = world.follow(&readers, "billing");
    let missing = followed.until("it is missing", |r| r.error.is_some());
    let (word, message) = error(&missing).unwrap();
    assert_eq!(word, reason::UNKNOWN_TOPIC);
    assert!(message.contains("the topic orders does not exist"), "{message}");
    assert!(missing.snapshot.is_none());
    world.mock.topic_error(TOPIC, Code::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    followed.until("it is found", |r| ends(r) == all_at(2) && r.error.is_none());
}

#[test]
fn addresses_that_nobody_answers_are_named_with_the_reason() {
    let readers = Readers::default();
    let followed = Followed::new(&readers, "127.0.0.1:1", "billing");
    let reading = followed
        .until("the reason", |r| error(r).is_some_and(|(_, words)| words.contains("refused")));
    let (word, message) = error(&reading).unwrap();
    assert_eq!(word, reason::UNREACHABLE);
    assert!(
        message.starts_with("no broker of 127.0.0.1:1 answers: ") && reading.snapshot.is_none(),
        "{message}"
    );
}
