//! The producer: hands records to librdkafka as the schedule says, and writes down what the brokers acknowledge.
//!
//! The load is open: it does not wait for acknowledgements, so a slow broker does not slow it down; only a full queue
//! (100,000 records) does, and then it catches up. The producer is idempotent with `acks=all`: a retry never makes a
//! second copy, and never changes the order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow, bail};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    error::KafkaError,
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::sync::oneshot;

use super::{
    KeyPlan, Manifest, PartitionManifest, RateChange, Schedule, Skew,
    payload::{Payload, key_text},
    schedule::Pacer,
};

/// How often records are handed over: their times lie this close to the plan.
const TICK: Duration = Duration::from_millis(2);
/// How long the end of a load waits for the brokers' last acknowledgements.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_mins(1);
/// Errors that are kept for the manifest.
const ERRORS_KEPT: usize = 5;

/// The plan of a load. Each method sets one thing; the rest has defaults.
#[derive(Clone, Debug)]
pub struct Load {
    bootstrap_servers: String,
    topic: String,
    schedule: Schedule,
    keys: Option<u32>,
    skew: Skew,
    size: usize,
    partitions: Option<Vec<i32>>,
    linger: Duration,
    properties: BTreeMap<String, String>,
}

impl Load {
    /// A load of 100-byte records, 100 keys for each partition, evenly spread.
    pub fn new(
        bootstrap_servers: impl Into<String>,
        topic: impl Into<String>,
        schedule: Schedule,
    ) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            topic: topic.into(),
            schedule,
            keys: None,
            skew: Skew::Even,
            size: 100,
            partitions: None,
            linger: Duration::from_millis(10),
            properties: BTreeMap::new(),
        }
    }

    /// How many keys there are (default: 100 for each partition); with 0 the records have none.
    #[must_use]
    pub fn keys(mut self, keys: u32) -> Self {
        self.keys = Some(keys);
        self
    }

    /// How keys are spread over the records (default: evenly).
    #[must_use]
    pub fn skew(mut self, skew: Skew) -> Self {
        self.skew = skew;
        self
    }

    /// The value's size in bytes (default 100).
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    /// The partitions that get records (default: all that the topic has when the load starts).
    #[must_use]
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = i32>) -> Self {
        self.partitions = Some(partitions.into_iter().collect());
        self
    }

    /// How long the producer gathers records into one request (default 10 ms).
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// A further librdkafka setting of the producer.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Starts the load; it has begun when this returns. Blocks for a moment, to look up the topic's partitions.
    ///
    /// # Errors
    /// When no broker answers within 10 s, or the topic does not exist.
    pub fn start(self) -> anyhow::Result<LoadHandle> {
        let shared = Arc::new(Shared::default());
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "sluice-lab-load")
            .set("allow.auto.create.topics", "false")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.max.bytes", "10000000")
            .set("linger.ms", self.linger.as_millis().to_string());
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        let producer: ThreadedProducer<Acknowledgements> =
            config.create_with_context(Acknowledgements(Arc::clone(&shared)))?;
        let partitions = match &self.partitions {
            Some(partitions) if partitions.is_empty() => {
                bail!("a load needs at least one partition")
            }
            Some(partitions) => partitions.clone(),
            None => partitions_of(&producer, &self.topic)?,
        };
        let keys = self.keys.unwrap_or(100 * partitions.len() as u32);
        let run = format!("{:08x}", fastrand::u32(..));
        let plan = KeyPlan::new(partitions, keys, self.skew, 1);

        let started = Instant::now();
        let started_at = millis_now();
        *lock(&shared.pacer) = Some(Pacer::new(&self.schedule));
        let (done, outcome) = oneshot::channel();
        let generator = Generator {
            load: self,
            producer,
            plan,
            run,
            started,
            started_at,
            shared: Arc::clone(&shared),
        };
        thread::Builder::new().name("lab-load".into()).spawn(move || {
            // Nobody is left to tell when the handle was dropped.
            let _ = done.send(generator.run());
        })?;
        Ok(LoadHandle { control: LoadControl { shared, started, started_at }, outcome })
    }
}

/// A running load. When it is dropped, the load stops.
#[derive(Debug)]
pub struct LoadHandle {
    control: LoadControl,
    outcome: oneshot::Receiver<anyhow::Result<Manifest>>,
}

/// Looks at a running load and steers it, from anywhere.
#[derive(Clone, Debug)]
pub struct LoadControl {
    shared: Arc<Shared>,
    started: Instant,
    started_at: i64,
}

/// What a load has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Records handed to the producer.
    pub sent: u64,
    /// Records that a broker acknowledged.
    pub acknowledged: u64,
    /// Records that were given up.
    pub failed: u64,
    /// The planned rate now, records a second.
    pub rate: f64,
}

impl LoadControl {
    /// What the load has done so far.
    pub fn progress(&self) -> Progress {
        Progress {
            sent: self.shared.sent.load(Ordering::Relaxed),
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            rate: lock(&self.shared.pacer)
                .as_ref()
                .map_or(0.0, |pacer| pacer.rate(self.started.elapsed())),
        }
    }

    /// From now on, this rate until the load is stopped; what the schedule planned for later is dropped. The answer is
    /// the moment of the change, milliseconds since the Unix epoch.
    pub fn set_rate(&self, rate: f64) -> i64 {
        let elapsed = self.started.elapsed();
        if let Some(pacer) = lock(&self.shared.pacer).as_mut() {
            pacer.set_rate(elapsed, rate);
        }
        self.started_at + elapsed.as_millis() as i64
    }

    /// Sends nothing more; [`LoadHandle::wait`] then returns when all that was sent is acknowledged.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// When the load began, milliseconds since the Unix epoch.
    pub fn started_at(&self) -> i64 {
        self.started_at
    }
}

impl LoadHandle {
    /// What looks at the load and steers it.
    pub fn control(&self) -> LoadControl {
        self.control.clone()
    }

    /// What the load has done so far.
    pub fn progress(&self) -> Progress {
        self.control.progress()
    }

    /// See [`LoadControl::set_rate`].
    pub fn set_rate(&self, rate: f64) -> i64 {
        self.control.set_rate(rate)
    }

    /// Waits until the schedule is over and all is acknowledged. With an endless last step, that is never.
    ///
    /// # Errors
    /// When the producer failed for good.
    pub async fn wait(mut self) -> anyhow::Result<Manifest> {
        (&mut self.outcome).await.context("the load's thread ended without an outcome")?
    }

    /// Ends the load now and waits for what is not acknowledged yet, up to a minute.
    ///
    /// # Errors
    /// When the producer failed for good.
    pub async fn stop(self) -> anyhow::Result<Manifest> {
        self.control.stop();
        self.wait().await
    }
}

impl Drop for LoadHandle {
    fn drop(&mut self) {
        self.control.stop();
    }
}

/// What the generator's thread, the producer's thread and the handle have in common.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    pacer: Mutex<Option<Pacer>>,
    partitions: Mutex<BTreeMap<i32, PartitionManifest>>,
    errors: Mutex<Vec<String>>,
}

impl Shared {
    fn note(&self, error: &KafkaError) {
        let mut errors = lock(&self.errors);
        if errors.len() < ERRORS_KEPT {
            errors.push(error.to_string());
        }
    }
}

/// A thread that panicked left counters behind, nothing that could be half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the brokers' answers, on the producer's own thread.
struct Acknowledgements(Arc<Shared>);

impl ClientContext for Acknowledgements {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the load's producer");
    }
}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
                // A retry that the broker had already taken may be acknowledged without an offset; the topic is read
                // again by verify in any case.
                if message.offset() >= 0 {
                    lock(&self.0.partitions)
                        .entry(message.partition())
                        .or_default()
                        .offsets
                        .insert(message.offset());
                }
            }
            Err((error, _)) => {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
                self.0.note(error);
            }
        }
    }
}

struct Generator {
    load: Load,
    producer: ThreadedProducer<Acknowledgements>,
    plan: KeyPlan,
    run: String,
    started: Instant,
    started_at: i64,
    shared: Arc<Shared>,
}

impl Generator {
    fn run(mut self) -> anyhow::Result<Manifest> {
        let (mut sent, mut most_late) = (0_u64, Duration::ZERO);
        let (mut key, mut value) = (String::new(), Vec::new());
        let mut tick = Duration::ZERO;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let elapsed = self.started.elapsed();
            let (due, over) = {
                let pacer = lock(&self.shared.pacer);
                let pacer = pacer.as_ref().ok_or_else(|| anyhow!("the load has no schedule"))?;
                (pacer.due(elapsed), pacer.is_over(elapsed))
            };
            while sent < due {
                self.send(sent, &mut key, &mut value)?;
                sent += 1;
                self.shared.sent.store(sent, Ordering::Relaxed);
            }
            if over {
                break;
            }
            most_late = most_late.max(self.started.elapsed().saturating_sub(tick + TICK));
            // Ticks lie on a grid from the start, so that a late one does not move the next.
            tick = Duration::from_nanos(
                (self.started.elapsed().as_nanos() / TICK.as_nanos() + 1) as u64
                    * TICK.as_nanos() as u64,
            );
            thread::sleep(tick.saturating_sub(self.started.elapsed()));
        }
        let flushed = self.producer.flush(LAST_ACKNOWLEDGEMENTS);
        if let Err(error) = &flushed {
            self.shared.note(error);
        }
        Ok(self.manifest(sent, most_late))
    }

    fn send(&mut self, seq: u64, key: &mut String, value: &mut Vec<u8>) -> anyhow::Result<()> {
        let choice = self.plan.choose();
        let time = millis_now();
        Payload { run: &self.run, seq, key_seq: choice.sequence, time }
            .write(self.load.size, value);
        let mut record = BaseRecord::<str, [u8]>::to(&self.load.topic)
            .partition(choice.partition)
            .timestamp(time)
            .payload(value.as_slice());
        if let Some(number) = choice.key {
            *key = key_text(number);
            record = record.key(key.as_str());
        }
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    if self.shared.stop.load(Ordering::Relaxed) {
                        bail!(
                            "the load was stopped while its queue was full: no broker takes its records"
                        );
                    }
                    record = back;
                    thread::sleep(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error).context("the producer refuses a record"),
            }
        }
    }

    fn manifest(&self, sent: u64, most_late: Duration) -> Manifest {
        let rates = lock(&self.shared.pacer).as_ref().map_or_else(Vec::new, |pacer| {
            let at = |offset: Duration| self.started_at + offset.as_millis() as i64;
            pacer.changes().map(|(offset, rate)| RateChange { at: at(offset), rate }).collect()
        });
        Manifest {
            run: self.run.clone(),
            topic: self.load.topic.clone(),
            started: self.started_at,
            ended: millis_now(),
            rates,
            sent,
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            errors: lock(&self.shared.errors).clone(),
            most_late_ms: most_late.as_millis() as u64,
            partitions: lock(&self.shared.partitions).clone(),
        }
    }
}

fn partitions_of(
    producer: &ThreadedProducer<Acknowledgements>,
    topic: &str,
) -> anyhow::Result<Vec<i32>> {
    let metadata = producer
        .client()
        .fetch_metadata(Some(topic), Duration::from_secs(10))
        .with_context(|| format!("cannot look up the topic {topic:?}"))?;
    let found = metadata.topics().first().context("the broker's answer has no topic")?;
    if let Some(error) = found.error() {
        return Err(anyhow!("{}", KafkaError::MetadataFetch(error.into())))
            .with_context(|| format!("the topic {topic:?}"));
    }
    let mut partitions: Vec<i32> =
        found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(partitions)
}

/// Milliseconds since the Unix epoch, now.
pub(crate) fn millis_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
