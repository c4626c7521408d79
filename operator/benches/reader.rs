//! What the operator costs while N consumers of one Kafka cluster are idle: CPU seconds per minute
//! by thread, and memory.
//!
//! ```text
//! cargo bench -p sluice-operator --bench reader -- 50 200 500 1000
//! ```
//!
//! For each N there are two processes. The *world* has librdkafka's mock cluster (three brokers, N
//! topics of 16 partitions, committed offsets with progress reports) and the fake API server of the
//! tests with N consumers, served over HTTP. The *operator* is the real one: watches, passes,
//! readers. Only its own process is measured, so the figures hold none of the brokers' or the API
//! server's cost. It is measured twice: when all consumers have settled, and again when the topics
//! have been idle for more than five minutes, after which they are read less often.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::too_many_lines,
    dead_code
)]

#[path = "../tests/api/server.rs"]
mod server;

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use http_body_util::BodyExt;
use kube::{Client, Config};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    mocking::MockCluster,
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use serde_json::json;
use server::Server;
use sluice_crds::report::ProgressReport;
use sluice_operator::{args::Args, control::run, kafka::Readers};
use tokio_util::sync::CancellationToken;

const BROKERS: i32 = 3;
const PARTITIONS: i32 = 16;
/// What is measured lasts so long.
const MINUTE: Duration = Duration::from_secs(60);
/// The reader takes a topic for idle after five minutes.
const IDLE: Duration = Duration::from_secs(330);
const SETTLED: Duration = Duration::from_secs(600);

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match args.as_slice() {
        [role, count] if role == "world" => world(count.parse().unwrap()),
        [role, count, brokers, api] if role == "operator" => {
            operator(count.parse().unwrap(), brokers, api);
        }
        counts => {
            let counts: Vec<usize> = counts.iter().map(|count| count.parse().unwrap()).collect();
            let counts = if counts.is_empty() { vec![50, 200, 500, 1_000] } else { counts };
            counts.into_iter().for_each(measure);
        }
    }
}

fn child(args: &[&str]) -> Child {
    let own = env::current_exe().unwrap();
    Command::new(own).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn measure(consumers: usize) {
    let count = consumers.to_string();
    let mut world = child(&["world", &count]);
    let mut line = String::new();
    BufReader::new(world.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (brokers, api) = line.trim().split_once(' ').expect("the world says where it is");
    let mut operator = child(&["operator", &count, brokers, api]);
    settle(consumers, api);
    operator.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    for line in BufReader::new(operator.stdout.as_mut().unwrap()).lines() {
        println!("{}", line.unwrap());
    }
    operator.wait().unwrap();
    // Its input ends, and with it the world.
    drop(world.stdin.take());
    world.wait().unwrap();
}

fn name(number: usize) -> String {
    format!("consumer-{number:04}")
}

/// Waits until all consumers have settled.
#[tokio::main(flavor = "current_thread")]
async fn settle(count: usize, api: &str) {
    let begin = Instant::now();
    let client = Client::try_from(Config::new(api.parse().unwrap())).unwrap();
    let consumers: kube::Api<sluice_crds::KafkaConsumer> = kube::Api::all(client);
    loop {
        let list = consumers.list(&kube::api::ListParams::default()).await.unwrap();
        let settled =
            list.iter().filter(|consumer| {
                consumer.status.iter().flat_map(|status| &status.conditions).any(|condition| {
                    condition.type_ == "ScalingActive" && condition.status == "True"
                })
            });
        let settled = settled.count();
        if settled == count {
            break;
        }
        assert!(begin.elapsed() < SETTLED, "{settled} of {count} consumers have settled");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    println!("{count} consumers have settled after {:.0?}", begin.elapsed());
}

/// Brokers and API server, until the standard input ends.
#[tokio::main]
async fn world(count: usize) {
    let mock = MockCluster::new(BROKERS).unwrap();
    let brokers = mock.bootstrap_servers();
    let client = |group: &str| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &brokers).set("group.id", group).set("linger.ms", "5");
        config
    };
    let producer: ThreadedProducer<_> = client("").create().unwrap();
    for number in 0..count {
        let topic = name(number);
        mock.create_topic(&topic, PARTITIONS, BROKERS).unwrap();
        for partition in 0..PARTITIONS {
            mock.partition_leader(&topic, partition, Some(partition % BROKERS + 1)).unwrap();
            let record = BaseRecord::<(), str>::to(&topic).partition(partition).payload("x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
    }
    producer.flush(MINUTE).unwrap();
    let server = Server::new();
    for number in 0..count {
        let name = name(number);
        let committer: BaseConsumer = client(&format!("shop.{name}")).create().unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(&name, partition, Offset::Offset(1)).unwrap();
            list.find_partition(&name, partition)
                .unwrap()
                .set_metadata(metadata(number, partition));
        }
        committer.commit(&list, CommitMode::Sync).unwrap();
        let consumer = json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "KafkaConsumer",
            "metadata": { "name": name },
            "spec": {
                "kafka": { "bootstrapServers": brokers, "topics": [name] },
                "handler": { "log": {} },
                "scaling": { "minReplicas": 1, "maxReplicas": 8 },
            },
        });
        server.put("kafkaconsumers", consumer);
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{brokers} http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            server.answer(http::Request::from_parts(parts, body.into())).await.unwrap()
        }
    });
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
        .await
        .unwrap()
        .unwrap();
    serving.abort();
}

/// A report of an ordinary size.
fn metadata(number: usize, partition: i32) -> String {
    let report = ProgressReport {
        version: 1,
        pod: format!("{}-7d9c4b5f6-00000", name(number)),
        boot: 1_700_000_000_000,
        epoch: 1_700_000_001_000,
        sequence: 1_000 + partition as u64,
        at: 1_700_000_100_000,
        handled: 1,
        pod_handled: 16,
        slot_seconds: 12.5,
        usable_slots: 8.0,
        partitions: 16,
        revision: 1,
        ..ProgressReport::default()
    };
    report.to_metadata().unwrap()
}

/// The operator, measured and then ended.
#[tokio::main]
async fn operator(count: usize, brokers: &str, api: &str) {
    let _ = brokers;
    let args = Args::try_parse_from([
        "op",
        "--listen",
        "127.0.0.1:0",
        "--consumer-image",
        "sluice/consumer:1",
    ])
    .unwrap();
    let client = Client::try_from(Config::new(api.parse().unwrap())).unwrap();
    let readers = Readers::new(args.kafka_limits());
    let stop = CancellationToken::new();
    let operating = tokio::spawn(run::operate(args, client, Arc::new(readers), stop.clone()));
    // What asks whether they have settled is not part of the operator: a line says it.
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
        .await
        .unwrap()
        .unwrap();
    // The last topic may have been found just now.
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(30)).await;
    minute(&format!("{count} consumers, topics quiet for less than five minutes")).await;
    tokio::time::sleep(IDLE.saturating_sub(begin.elapsed())).await;
    minute(&format!("{count} consumers, topics idle")).await;
    stop.cancel();
    operating.await.unwrap().unwrap();
}

/// Measures this process for a minute.
async fn minute(what: &str) {
    let (before, begin) = (threads(), Instant::now());
    tokio::time::sleep(MINUTE).await;
    let (after, took) = (threads(), begin.elapsed());
    let mut by_name: BTreeMap<String, f64> = BTreeMap::new();
    for (id, (name, nanos)) in &after {
        let used = nanos - before.get(id).map_or(0, |(_, nanos)| *nanos);
        *by_name.entry(name.clone()).or_default() += used as f64 / 1e9;
    }
    let scale = MINUTE.as_secs_f64() / took.as_secs_f64();
    let all: f64 = by_name.values().sum();
    let memory = ["VmRSS:", "VmHWM:"].map(|field| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
        line.trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    });
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{what}: {:.2} CPU seconds per minute, {} MiB (at most {} MiB so far), {} threads",
        all * scale,
        memory[0],
        memory[1],
        after.len()
    )
    .unwrap();
    for (name, used) in by_name.iter().filter(|(_, used)| **used >= 0.005) {
        writeln!(out, "  {name:<16} {:6.2}", used * scale).unwrap();
    }
}

/// The threads of this process by id: name, and CPU time in nanoseconds.
fn threads() -> BTreeMap<String, (String, u64)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).ok();
            let name = read("comm")?.trim().to_owned();
            let nanos = read("schedstat")?.split(' ').next()?.parse().ok()?;
            // Of brokers' threads there are many: they count together.
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
            Some((task.file_name().to_string_lossy().into_owned(), (name, nanos)))
        })
        .collect()
}
