//! The fetch thread: polls events, turns the state, sleeps until something happens, and stops in order.

use std::{
    collections::HashMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use sluice_crds::{TopicName, kafkaconsumer::tuning::ApplyOn};

use super::{
    EngineConfig, Error, Stop, batch_queue, context::Context, partition::Partition, settings,
    state::State, wake::Waker,
};
use crate::{EngineStatus, Handler};

/// How often it is looked whether the pod is a member of its group.
const MEMBER_EVERY: Duration = Duration::from_millis(250);
/// The same error of the client is logged once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(30);
/// While a topic does not exist, how often it is looked for, and how long an answer may take.
const LOOK_FOR_TOPIC_EVERY: Duration = Duration::from_secs(2);
const TOPIC_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stop waits for a rebalance that refuses its last commit: in a rollout one is nearly always under way.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long leaving the group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until a stop or a fatal error.
pub(super) fn run(
    config: EngineConfig,
    handler: Arc<dyn Handler>,
    status: Arc<EngineStatus>,
    runtime: &tokio::runtime::Handle,
    stop: Arc<Stop>,
    waker: &Arc<Waker>,
) -> Result<(), Error> {
    waker.register();
    let client = settings::client(&config.consumer.kafka, &config.client_id, &config.overrides);
    let topics = config.consumer.kafka.topics.clone();
    let watch = config.consumer.apply_on == ApplyOn::Change;
    let Some(mut state) = State::new(
        config,
        handler,
        Arc::clone(&status),
        runtime.clone(),
        Arc::clone(&stop),
        Arc::clone(waker),
    ) else {
        return Err(Error::Thread("its meter cannot be made".into()));
    };
    state.read_knobs();
    state.show_knobs();
    let knobs = Arc::clone(&state.knobs_file);
    let watcher = watch.then(|| {
        let waker = Arc::clone(waker);
        runtime.spawn(async move { knobs.watch(|| waker.wake()).await })
    });

    let mut consumer: BaseConsumer<Context> =
        client.create_with_context(Context::new(state)).map_err(Error::Client)?;
    let for_events = Arc::clone(waker);
    consumer.set_nonempty_callback(move || for_events.wake());
    consumer
        .subscribe(&topics.iter().map(|name| &**name).collect::<Vec<_>>())
        .map_err(Error::Client)?;

    let mut thread = Thread {
        consumer,
        status,
        stop,
        said: HashMap::new(),
        member_at: None,
        topics,
        missing: Some(Instant::now()),
    };
    let result = thread.work();
    if let Some(watcher) = watcher {
        watcher.abort();
    }
    thread.status.set_joined(false);
    let status = Arc::clone(&thread.status);
    thread.leave();
    status.beat(0);
    result
}

struct Thread {
    consumer: BaseConsumer<Context>,
    status: Arc<EngineStatus>,
    stop: Arc<Stop>,
    /// Errors by their number, and when they were logged last.
    said: HashMap<i32, Instant>,
    member_at: Option<Instant>,
    topics: Vec<TopicName>,
    /// A topic may not exist: when to look for it (again).
    missing: Option<Instant>,
}

impl Thread {
    /// Works until it is asked to stop and has drained.
    fn work(&mut self) -> Result<(), Error> {
        let mut deadline = None;
        let mut drained_at = None;
        loop {
            self.poll()?;
            let now = Instant::now();
            self.look_for_membership(now);
            let context = Arc::clone(self.consumer.context());
            let mut state = context.state();
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            if self.stop.asked() && deadline.is_none() {
                deadline = Some(now + self.begin_stop(&mut state));
            }
            state.take_knobs();
            let more = state.turn(now);
            state.tick(&self.consumer, now);
            state.bring_back(&self.consumer, now);
            if let Some(deadline) = deadline {
                let open = state.partitions.iter().any(Partition::unfinished);
                if !open || now >= deadline || self.stop.hurries() {
                    self.finish(&mut state);
                    let since = *drained_at.get_or_insert(now);
                    if state.is_settled()
                        || now.duration_since(since) >= SETTLE_TIMEOUT
                        || self.stop.hurries()
                    {
                        return Ok(());
                    }
                    // The broker takes no commit until the group has shared out its partitions, which goes on in poll.
                    drop(state);
                    Waker::sleep(Duration::from_millis(50));
                    continue;
                }
            }
            let nap = state.nap(now);
            drop(state);
            if !more {
                Waker::sleep(nap);
            }
        }
    }

    /// Serves what librdkafka has to say; rebalances and answers to commits run inside.
    fn poll(&mut self) -> Result<(), Error> {
        // A handful at once, so that a flood of errors cannot starve the partitions.
        for _ in 0..16 {
            match self.consumer.poll(Duration::ZERO) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    // All queues are split before they are assigned. Should one leak all the same, its record is not lost:
                    // nothing above it is committed in order, and the process starts anew from the committed offset.
                    use rdkafka::Message as _;
                    let reason = format!(
                        "a record of {}-{} came on the main queue",
                        message.topic(),
                        message.partition()
                    );
                    return Err(Error::Fatal { code: RDKafkaErrorCode::State, reason });
                }
                Some(Err(error)) => self.heard(&error)?,
            }
        }
        Ok(())
    }

    fn heard(&mut self, error: &KafkaError) -> Result<(), Error> {
        self.status.client_errors.add(1);
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            return Err(Error::Fatal { code, reason });
        }
        let Some(code) = error.rdkafka_error_code() else { return Ok(()) };
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(Error::Fatal { code, reason: error.to_string() });
        }
        let now = Instant::now();
        if self.said.get(&(code as i32)).is_some_and(|at| now.duration_since(*at) < SAY_AGAIN) {
            return Ok(());
        }
        self.said.insert(code as i32, now);
        match code {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                self.missing = Some(now);
                tracing::error!(
                    "a topic does not exist, or may not be seen by this user; looking again and again"
                );
            }
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed => {
                tracing::error!(%code, "the broker refuses access; trying again");
            }
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve => {
                tracing::warn!(%code, "no broker can be reached; trying again");
            }
            _ => tracing::warn!(%error, "the Kafka client reports an error"),
        }
        Ok(())
    }

    /// Asks for each topic alone; asking does not create it.
    fn is_topic_missing(&self) -> bool {
        let missing = |topic: &str| {
            let metadata = self.consumer.fetch_metadata(Some(topic), TOPIC_TIMEOUT).ok();
            let known = metadata.as_ref().and_then(|metadata| metadata.topics().first());
            known.is_none_or(|topic| topic.error().is_some() || topic.partitions().is_empty())
        };
        let found = self.topics.iter().find(|topic| missing(topic));
        if let Some(topic) = found {
            tracing::warn!(
                %topic,
                "the topic does not exist, or cannot be read; looking again, not ready until then"
            );
        }
        found.is_some()
    }

    /// A member without partitions gets no callback under KIP-848, so the client is asked.
    fn look_for_membership(&mut self, now: Instant) {
        if self.member_at.is_some_and(|at| now.duration_since(at) < MEMBER_EVERY) {
            return;
        }
        self.member_at = Some(now);
        // A member that has nothing because its topic does not exist is not ready: a rollout must not go on with it.
        // Under KIP-848 the client does not complain of it, so it is looked for once in any case.
        let member = batch_queue::generation(&self.consumer).is_some();
        if member && self.missing.is_some_and(|at| at <= now) {
            self.missing = self.is_topic_missing().then(|| now + LOOK_FOR_TOPIC_EVERY);
        }
        let member = member && self.missing.is_none();
        if member != self.status.joined() {
            self.status.set_joined(member);
            tracing::info!(
                "{}",
                if member {
                    "joined the group"
                } else {
                    "no member of the group any more; joining again"
                }
            );
        }
    }

    /// Stops taking records; what was begun is finished. Returns how long to wait for what is in work.
    fn begin_stop(&self, state: &mut State) -> Duration {
        self.status.set_stopping();
        state.closing = true;
        let in_work = state.partitions.iter().map(|partition| partition.in_work).sum::<usize>();
        tracing::info!(in_work, "stopping: finishing what is in work");
        for partition in &mut state.partitions {
            partition.lanes.finish_begun();
        }
        state.config.consumer.drain_timeout.to_std()
    }

    /// The drain is over: what is late is cancelled, what is done is committed.
    fn finish(&self, state: &mut State) {
        let again = mem::replace(&mut state.finished, true);
        let late: usize = state.partitions.iter().map(|partition| partition.in_work).sum();
        if late > 0 && !again {
            tracing::warn!(
                batches = late,
                "the drain is over; what is in work is cancelled and will be handled again"
            );
        }
        for partition in &mut state.partitions {
            partition.cancel.cancel();
            partition.lanes.clear();
        }
        let settled =
            |partition: &Partition| partition.committed == partition.tracker.committable();
        state.commit_now(&self.consumer, |partition| {
            !(partition.leaving || again && settled(partition))
        });
    }

    /// Leaves the group, so that others take over at once. What does not answer in time is left to the process's end.
    fn leave(self) {
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        {
            let context = Arc::clone(self.consumer.context());
            let mut state = context.state();
            (state.closing, state.finished) = (true, true);
        }
        self.consumer.unsubscribe();
        let closing = self.consumer.close_queue();
        while closing.is_ok() && !self.consumer.closed() && Instant::now() < deadline {
            self.consumer.poll(Duration::from_millis(20));
        }
        // Queue handles keep the client from closing.
        self.consumer.context().state().forget(|_| true);
        if self.consumer.closed() {
            tracing::info!("left the group");
        } else {
            // Its destructor would wait without limit.
            tracing::warn!("the group could not be left in time; the session timeout has to do it");
            mem::forget(self.consumer);
        }
    }
}
