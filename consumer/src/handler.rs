//! What a handler sees and says: records in, an outcome for each of them back.
//!
//! Here lives the whole contract between the engine and a handler; no Kafka client and no handler of our own.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

/// Does the work. One value serves the whole pod: calls run side by side, at most as many as the knob `concurrency`.
///
/// The records of one call are of one partition. Calls that run at the same time never hold records of the same lane
/// (a key, or under `Partition` the partition), and a lane's records come in the order of their offsets.
///
/// The future may be dropped at any await: when the pod loses the partition and `drainTimeout` is over. The record is
/// then handled again by the new owner, so work that is not idempotent should be made so by
/// [`Record::idempotency_key`]. A panic counts as [`Outcome::Retry`].
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles the records and says how each went.
    async fn handle(&self, batch: &Batch) -> Outcomes;
}

#[async_trait]
impl<H: Handler + ?Sized> Handler for Arc<H> {
    async fn handle(&self, batch: &Batch) -> Outcomes {
        (**self).handle(batch).await
    }
}

/// How one record went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done: its offset may be committed.
    Done,
    /// It failed and is worth another try: its lane waits, the others go on.
    Retry {
        /// Why, for the log.
        reason: Cow<'static, str>,
        /// When the other side asked for a pause (`Retry-After`): the next try is not before it. Five minutes at most.
        after: Option<Duration>,
    },
    /// It will never go well. There are no dead letters yet, so the lane is reported as blocked at once and the record is
    /// tried again at the longest backoff: nothing is skipped.
    Dead {
        /// Why, for the log.
        reason: Cow<'static, str>,
    },
    /// It was not tried, because a record before it in its lane failed. It goes out again after that one, and this does
    /// not count as a try.
    NotTried,
}

impl Outcome {
    /// A failure that is worth another try.
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Retry { reason: reason.into(), after: None }
    }

    /// A failure that is worth another try, but not before `after`.
    pub fn retry_after(reason: impl Into<Cow<'static, str>>, after: Duration) -> Self {
        Self::Retry { reason: reason.into(), after: Some(after) }
    }

    /// A failure for good.
    pub fn dead(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Dead { reason: reason.into() }
    }
}

/// How a batch went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcomes {
    /// All its records alike. When it is a failure the engine cannot know which record is to blame, and sends the records
    /// again in smaller batches until the guilty one stands alone.
    All(Outcome),
    /// One for each record, in the batch's order. A missing one counts as [`Outcome::Retry`].
    Each(Vec<Outcome>),
}

impl Outcomes {
    /// All records are done.
    pub const fn done() -> Self {
        Self::All(Outcome::Done)
    }

    /// None is done, all are worth another try.
    pub fn retry(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::All(Outcome::retry(reason))
    }
}

impl From<Outcome> for Outcomes {
    fn from(outcome: Outcome) -> Self {
        Self::All(outcome)
    }
}

impl From<Vec<Outcome>> for Outcomes {
    fn from(outcomes: Vec<Outcome>) -> Self {
        Self::Each(outcomes)
    }
}

/// Records of one partition, handed over in one call. Never empty.
#[derive(Debug)]
pub struct Batch {
    records: Vec<Record>,
    cancellation: CancellationToken,
}

impl Batch {
    /// A batch of these records: for tests of a handler.
    pub fn new(records: Vec<Record>) -> Self {
        Self { records, cancellation: CancellationToken::new() }
    }

    /// The same batch under another token.
    #[must_use]
    pub fn with_cancellation(self, cancellation: CancellationToken) -> Self {
        Self { cancellation, ..self }
    }

    /// Its records; those of one lane in the order of their offsets.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The topic of all its records.
    pub fn topic(&self) -> &str {
        self.records.first().map_or("", Record::topic)
    }

    /// The partition of all its records.
    pub fn partition(&self) -> i32 {
        self.records.first().map_or(-1, Record::partition)
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never true for a batch from the engine.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Cancelled when the pod no longer owns the partition, and what is said of the batch no longer counts. The future of
    /// [`Handler::handle`] is dropped then; tasks and blocking work that it started should watch this.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// The records again, when the handler is through with them.
    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records
    }
}

/// A header of a record. The name need not be unique, and the value may be null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
}

/// One record. Cheap to clone: key and payload are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) attempt: u32,
    pub(crate) lane: u32,
    pub(crate) offset: i64,
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) payload: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
}

impl Record {
    /// A record without key, payload, time stamp and headers: for tests of a handler.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32, offset: i64) -> Self {
        Self {
            topic: topic.into(),
            partition,
            attempt: 1,
            lane: 0,
            offset,
            timestamp: None,
            key: None,
            payload: None,
            headers: Vec::new(),
        }
    }

    /// The same record with a key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// The same record with a payload.
    #[must_use]
    pub fn with_payload(self, payload: impl Into<Bytes>) -> Self {
        Self { payload: Some(payload.into()), ..self }
    }

    /// The same record with a time stamp, milliseconds since the Unix epoch.
    #[must_use]
    pub fn with_timestamp(self, millis: i64) -> Self {
        Self { timestamp: Some(millis), ..self }
    }

    /// The same record with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: Option<Bytes>) -> Self {
        self.headers.push(Header { name: name.into(), value });
        self
    }

    /// The same record in another lane of its batch, see [`Record::lane`].
    #[must_use]
    pub fn with_lane(self, lane: u32) -> Self {
        Self { lane, ..self }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// The time stamp, milliseconds since the Unix epoch, if the record has one.
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// The key; `None` is null, and a record without key has no order towards others (under `Key`).
    pub fn key(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// The value; `None` is null (a tombstone).
    pub fn payload(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// The headers in their order.
    pub fn headers(&self) -> &[Header] {
        &self.headers
    }

    /// Which try this is, in this pod: 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The lane within this batch: records with the same number must be handled in the batch's order, others need not.
    /// When one fails, those after it with the same number should be left alone ([`Outcome::NotTried`]).
    pub fn lane(&self) -> u32 {
        self.lane
    }

    /// Names the record, the same in every delivery of it: `TOPIC-PARTITION-OFFSET`.
    pub fn idempotency_key(&self) -> IdempotencyKey<'_> {
        IdempotencyKey(self)
    }
}

/// Prints as `TOPIC-PARTITION-OFFSET`; read from its end it cannot be mistaken, whatever the topic's name is.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyKey<'a>(&'a Record);

impl fmt::Display for IdempotencyKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.0.topic, self.0.partition, self.0.offset)
    }
}
