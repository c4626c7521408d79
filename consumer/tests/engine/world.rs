//! A mock cluster, members of a group, and a handler that writes down what it is given.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    mocking::MockCluster,
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
    util::Timeout,
};
use sluice_consumer::{Batch, Consumer, EngineStatus, Handler, Outcomes, Overrides, Running};
use sluice_crds::{
    Duration as Length,
    config::{ConsumerConfig, KafkaConfig, VERSION},
    kafkaconsumer::{
        Ordering,
        delivery::Retry,
        handler,
        kafka::{GroupProtocol, Isolation},
        tuning::ApplyOn,
    },
    report::ProgressReport,
    tuning::Knobs,
};

pub const TOPIC: &str = "orders";
pub const GROUP: &str = "shop.orders";
/// The mock's join takes 3 s at first, and up to a session timeout of 6 s later.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// How the members of a group share partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Eager,
    Cooperative,
    Consumer,
}

pub struct World {
    pub mock: MockCluster<'static, DefaultProducerContext>,
    pub sender: Arc<Sender>,
    servers: String,
    outsider: OnceLock<BaseConsumer>,
    pub tuning: tempfile::TempDir,
}

/// Sends records; unlike the cluster it may go to another thread.
pub struct Sender {
    producer: ThreadedProducer<DefaultProducerContext>,
    produced: AtomicUsize,
}

impl Sender {
    /// Sends a record with this key; its payload is the number of records sent before.
    pub fn send(&self, key: &str) {
        let payload = self.produced.fetch_add(1, SeqCst).to_string();
        self.producer
            .send(BaseRecord::to(TOPIC).key(key).payload(&payload))
            .map_err(|(error, _)| error)
            .unwrap();
    }

    pub fn flush(&self) {
        self.producer.flush(Timeout::After(DEADLINE)).unwrap();
    }
}

impl World {
    pub fn new(partitions: i32) -> Self {
        sluice_consumer::init_logging();
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic(TOPIC, partitions, 1).unwrap();
        let servers = mock.bootstrap_servers();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &servers)
            .set("linger.ms", "1")
            .set("partitioner", "murmur2_random")
            .create()
            .unwrap();
        let sender = Arc::new(Sender { producer, produced: AtomicUsize::new(0) });
        Self {
            mock,
            sender,
            servers,
            outsider: OnceLock::new(),
            tuning: tempfile::tempdir().unwrap(),
        }
    }

    /// Sends `count` records over `keys` keys.
    pub fn send_many(&self, count: usize, keys: usize) {
        (0..count).for_each(|i| self.sender.send(&format!("k{}", i % keys)));
        self.flush();
    }

    pub fn send_to(&self, partition: i32, key: Option<&[u8]>, payload: Option<&[u8]>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(TOPIC).partition(partition);
        (record.key, record.payload) = (key, payload);
        self.sender.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.sender.produced.fetch_add(1, SeqCst);
    }

    pub fn flush(&self) {
        self.sender.flush();
    }

    pub fn produced(&self) -> usize {
        self.sender.produced.load(SeqCst)
    }

    pub fn config(&self) -> ConsumerConfig {
        ConsumerConfig {
            version: VERSION,
            kafka: KafkaConfig {
                bootstrap_servers: self.servers.clone(),
                topics: vec![TOPIC.parse().unwrap()],
                group_id: GROUP.into(),
                protocol: GroupProtocol::Classic,
                isolation: Isolation::ReadCommitted,
                properties: BTreeMap::new(),
            },
            handler: handler::Handler::default(),
            ordering: Ordering::Key,
            drain_timeout: Length::from_secs(20),
            retry: Retry {
                max_retries: 3,
                min_backoff: Length::from_millis(10),
                max_backoff: Length::from_millis(200),
            },
            apply_on: ApplyOn::Change,
            initial: Knobs { batch_size: 20, concurrency: 4 },
        }
    }

    /// A member that is about to start.
    pub fn member(
        &self,
        pod: &str,
        protocol: Protocol,
        config: ConsumerConfig,
        commit_every: Option<Duration>,
    ) -> Consumer {
        let mut config = config;
        let mut properties = vec![("fetch.wait.max.ms".to_owned(), "20".to_owned())];
        if protocol == Protocol::Consumer {
            config.kafka.protocol = GroupProtocol::Consumer;
        } else {
            properties.push(("session.timeout.ms".into(), "6000".into()));
            properties.push(("heartbeat.interval.ms".into(), "100".into()));
        }
        if protocol == Protocol::Eager {
            properties.push(("partition.assignment.strategy".into(), "range".into()));
        }
        Consumer::new(config)
            .pod_name(pod)
            .tuning_dir(self.tuning.path())
            .overrides(Overrides { properties, commit_every })
    }

    /// A member that runs, under the protocol whose groups form at once (the mock holds a classic one back for 3 s).
    pub fn start(&self, pod: &str, handler: impl Handler) -> Running {
        self.member(pod, Protocol::Consumer, self.config(), None).start(Arc::new(handler)).unwrap()
    }

    /// A client that is no member: made once, since closing one takes a second.
    fn outsider(&self) -> &BaseConsumer {
        let create = || {
            ClientConfig::new()
                .set("bootstrap.servers", &self.servers)
                .set("group.id", GROUP)
                .create()
        };
        self.outsider.get_or_init(|| create().unwrap())
    }

    /// What the group has committed: offset and metadata of each partition that has some.
    pub fn committed(&self, partitions: i32) -> HashMap<i32, (i64, String)> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(TOPIC, 0, partitions - 1);
        let list = self.outsider().committed_offsets(list, DEADLINE).unwrap();
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        list.elements()
            .iter()
            .filter_map(|one| {
                Some((one.partition(), (offset(one.offset())?, one.metadata().to_owned())))
            })
            .collect()
    }

    pub fn report(&self, partition: i32) -> Option<ProgressReport> {
        let committed = self.committed(partition + 1);
        ProgressReport::from_metadata(&committed.get(&partition)?.1).ok()
    }

    /// Commits as the operator does: from outside, while the group is empty.
    pub fn commit(&self, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(TOPIC, partition, Offset::Offset(offset)).unwrap();
        self.outsider().commit(&list, CommitMode::Sync).unwrap();
    }

    /// First and next offset of a partition's log.
    pub fn log(&self, partition: i32) -> (i64, i64) {
        self.outsider().fetch_watermarks(TOPIC, partition, DEADLINE).unwrap()
    }

    /// Records that are not committed.
    pub fn lag(&self, partitions: i32) -> i64 {
        let committed = self.committed(partitions);
        (0..partitions)
            .map(|p| self.log(p).1 - committed.get(&p).map_or(0, |(offset, _)| *offset))
            .sum()
    }
}

/// A call of the handler for one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handled {
    pub pod: &'static str,
    pub partition: i32,
    pub offset: i64,
    pub attempt: u32,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    /// Whether the handler said that it is done.
    pub done: bool,
}

type Answer = dyn Fn(&Batch, usize) -> Outcomes + Send + Sync;

/// Writes down what it is given, in the order in which it is given.
#[derive(Clone)]
pub struct Recorder {
    pod: &'static str,
    log: Arc<Mutex<Vec<Handled>>>,
    delay: Duration,
    answer: Arc<Answer>,
    calls: Arc<AtomicUsize>,
}

impl Recorder {
    pub fn new(pod: &'static str) -> Self {
        Self {
            pod,
            log: Arc::default(),
            delay: Duration::ZERO,
            answer: Arc::new(|_, _| Outcomes::done()),
            calls: Arc::default(),
        }
    }

    /// Another pod's, in the same book.
    pub fn of(&self, pod: &'static str) -> Self {
        Self { pod, ..self.clone() }
    }

    pub fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Answers so; the number is that of the call, from 0.
    pub fn answering(
        self,
        answer: impl Fn(&Batch, usize) -> Outcomes + Send + Sync + 'static,
    ) -> Self {
        Self { answer: Arc::new(answer), ..self }
    }

    pub fn log(&self) -> Vec<Handled> {
        self.log.lock().unwrap().clone()
    }

    pub fn done(&self) -> usize {
        let log = self.log.lock().unwrap();
        log.iter().filter(|one| one.done).count()
    }

    /// Records that are done, those that came twice counted once.
    pub fn different(&self) -> usize {
        let log = self.log.lock().unwrap();
        log.iter()
            .filter(|one| one.done)
            .map(|one| (one.partition, one.offset))
            .collect::<HashSet<_>>()
            .len()
    }

    pub fn done_by(&self, pod: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|one| one.done && one.pod == pod).count()
    }

    /// Each produced record was done, and each key's records were handed over in their order when they came first.
    pub fn assert_all_in_order(&self, produced: usize) {
        let mut done = HashSet::new();
        let mut given = HashSet::new();
        let mut last: HashMap<Vec<u8>, i64> = HashMap::new();
        for one in self.log() {
            if one.done {
                done.insert((one.partition, one.offset));
            }
            if given.insert((one.partition, one.offset)) {
                let before = last.insert(one.key.clone().unwrap(), one.offset);
                assert!(
                    before.is_none_or(|before| before < one.offset),
                    "out of order: {one:?} after {before:?}"
                );
            }
        }
        assert_eq!(done.len(), produced, "lost");
    }

    /// Each produced record was done exactly once, and each key's records in their order.
    pub fn assert_exactly_once_in_order(&self, produced: usize) {
        let log = self.log();
        let mut seen: HashMap<(i32, i64), usize> = HashMap::new();
        let mut last: HashMap<Vec<u8>, i64> = HashMap::new();
        for one in log.iter().filter(|one| one.done) {
            *seen.entry((one.partition, one.offset)).or_default() += 1;
            let key = one.key.clone().unwrap_or_else(|| format!("none{}", one.offset).into_bytes());
            let before = last.insert(key, one.offset);
            assert!(
                before.is_none_or(|before| before < one.offset),
                "out of order: {one:?} after {before:?}"
            );
        }
        let twice = seen.values().filter(|times| **times > 1).count();
        assert_eq!((seen.len(), twice), (produced, 0), "(handled, duplicated) of {produced}");
    }
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, batch: &Batch) -> Outcomes {
        let call = self.calls.fetch_add(1, SeqCst);
        let first = {
            let mut log = self.log.lock().unwrap();
            let first = log.len();
            log.extend(batch.records().iter().map(|record| Handled {
                pod: self.pod,
                partition: record.partition(),
                offset: record.offset(),
                attempt: record.attempt(),
                key: record.key().map(|key| key.to_vec()),
                payload: record.payload().map(|payload| payload.to_vec()),
                done: false,
            }));
            first
        };
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let outcomes = (self.answer)(batch, call);
        let mut log = self.log.lock().unwrap();
        for i in 0..batch.len() {
            log[first + i].done = match &outcomes {
                Outcomes::All(outcome) => *outcome == sluice_consumer::Outcome::Done,
                Outcomes::Each(each) => each[i] == sluice_consumer::Outcome::Done,
            };
        }
        outcomes
    }
}

/// Waits until something is so. The client tells nobody when, so it is asked.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn joined(status: &EngineStatus) {
    eventually("the member joins", || status.ready()).await;
}

/// Stops a member and waits for its orderly end.
pub async fn stop(mut member: Running) {
    member.stop();
    tokio::time::timeout(DEADLINE, member.ended()).await.expect("the stop takes too long").unwrap();
}
