//! Takes records from librdkafka's partition queues, many in one call: the only unsafe code of the consumer.
//!
//! rdkafka's safe API gives one message a call, at several times the cost (docs/adr has the numbers). What must hold:
//!
//! - A [`BatchQueue`] belongs to one `rd_kafka_t`, which outlives it: the engine drops all queues before the consumer, and
//!   a live queue handle would otherwise keep the client from closing.
//! - One thread only takes from the queues of a client (librdkafka's INTRODUCTION.md: concurrent batch consumers are
//!   undefined). `BatchQueue` is neither `Send` nor `Sync` by itself; the state that holds it says that it moves only with
//!   its lock, and only the fetch thread takes that lock.
//! - A queue is split *before* `assign`: after it, messages may already be in the main queue.
//! - Every message that librdkafka hands out is destroyed exactly once: [`Message`] owns it. Its bytes are copied out, since
//!   a message that is kept would pin the whole fetch response that it came in.
//! - The callback only unparks a thread, and its opaque pointer is an `Arc` that the handle keeps until the callback is off;
//!   librdkafka calls it, and switches it off, under the queue's own lock.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_void},
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

use bytes::Bytes;
use rdkafka::{
    TopicPartitionList,
    bindings::{
        rd_kafka_commit_queue, rd_kafka_consume_batch_queue, rd_kafka_consumer_group_metadata,
        rd_kafka_consumer_group_metadata_destroy, rd_kafka_consumer_group_metadata_generation_id,
        rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_destroy,
        rd_kafka_message_errstr, rd_kafka_message_headers, rd_kafka_message_t,
        rd_kafka_message_timestamp, rd_kafka_queue_cb_event_enable, rd_kafka_queue_destroy,
        rd_kafka_queue_forward, rd_kafka_queue_get_consumer, rd_kafka_queue_get_partition,
        rd_kafka_queue_t, rd_kafka_resp_err_t, rd_kafka_timestamp_type_t,
    },
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::RDKafkaErrorCode,
    types::RDKafka,
};

use super::wake::Waker;
use crate::{Header, Record};

/// Messages in one call, at most.
const CHUNK: usize = 256;

/// The queue of one partition, split from the main queue.
pub(super) struct BatchQueue {
    queue: NonNull<rd_kafka_queue_t>,
    topic: Arc<str>,
    partition: i32,
    /// The callback's opaque pointer.
    _waker: Arc<Waker>,
    /// Neither `Send` nor `Sync`.
    _owner: PhantomData<*mut ()>,
}

// SAFETY: librdkafka's queues may be used from any thread, one at a time; the handle holds no thread-local state. It has to
// move because the state that holds it lives in the client's context, behind a mutex.
unsafe impl Send for BatchQueue {}

/// What a queue gave.
pub(super) enum Taken {
    /// A record.
    Record(Record),
    /// The partition's fetcher reports an error instead of a record.
    Error(RDKafkaErrorCode, String),
}

impl BatchQueue {
    /// Splits the queue of a partition. To be called before each `assign` of it.
    pub(super) fn split<C: ConsumerContext>(
        consumer: &BaseConsumer<C>,
        topic: Arc<str>,
        partition: i32,
        waker: Arc<Waker>,
    ) -> Option<Self> {
        let name = CString::new(&*topic).ok()?;
        let client: *mut RDKafka = consumer.client().native_ptr();
        // SAFETY: `client` is alive as long as `consumer`, `name` as long as this call; the handle is checked for null.
        let queue = NonNull::new(unsafe {
            rd_kafka_queue_get_partition(client, name.as_ptr(), partition)
        })?;
        // SAFETY: `queue` is the live handle from above. A null target un-forwards it: its messages stay in it.
        unsafe { rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut()) };
        // SAFETY: the pointer is that of an `Arc` that lives as long as the handle; see the module's comment.
        unsafe {
            rd_kafka_queue_cb_event_enable(
                queue.as_ptr(),
                Some(wake),
                Arc::as_ptr(&waker).cast_mut().cast::<c_void>(),
            );
        }
        Some(Self { queue, topic, partition, _waker: waker, _owner: PhantomData })
    }

    /// Takes up to `max` messages that are there already, in their order. Returns whether there may be more.
    pub(super) fn take(&self, max: usize, mut each: impl FnMut(Taken)) -> bool {
        let mut messages = [ptr::null_mut::<rd_kafka_message_t>(); CHUNK];
        let room = max.min(CHUNK);
        // SAFETY: the array has room for `room` pointers, and librdkafka writes as many as it returns. A timeout of 0 takes
        // what is there.
        let count = unsafe {
            rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, messages.as_mut_ptr(), room)
        };
        let count = usize::try_from(count).unwrap_or(0).min(room);
        for message in
            messages.iter().take(count).filter_map(|message| NonNull::new(*message)).map(Message)
        {
            each(self.read(&message));
        }
        count == room && room > 0
    }

    fn read(&self, message: &Message) -> Taken {
        let raw = message.raw();
        if raw.err != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Taken::Error(raw.err.into(), message.error());
        }
        let (key, payload) = message.key_and_payload();
        Taken::Record(Record {
            topic: Arc::clone(&self.topic),
            partition: self.partition,
            attempt: 1,
            lane: 0,
            offset: raw.offset,
            timestamp: message.timestamp(),
            key,
            payload,
            headers: message.headers(),
        })
    }
}

impl Drop for BatchQueue {
    fn drop(&mut self) {
        // SAFETY: the handle is live until here and never used again. The callback is off before the `Arc` goes.
        unsafe {
            rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Called by librdkafka's threads when a queue is no longer empty.
unsafe extern "C" fn wake(_: *mut RDKafka, opaque: *mut c_void) {
    // SAFETY: `opaque` is the `Waker` that `BatchQueue::split` gave, alive until the callback is off.
    unsafe { &*opaque.cast::<Waker>() }.wake();
}

/// A message that librdkafka handed out.
struct Message(NonNull<rd_kafka_message_t>);

impl Message {
    fn raw(&self) -> &rd_kafka_message_t {
        // SAFETY: the message is alive until it is destroyed in `drop`.
        unsafe { self.0.as_ref() }
    }

    fn error(&self) -> String {
        // SAFETY: librdkafka returns a string that lives as long as the message, or null.
        let text = unsafe { rd_kafka_message_errstr(self.0.as_ptr()) };
        // SAFETY: as above.
        if text.is_null() { String::new() } else { unsafe { text_of(text) } }
    }

    /// Copies key and payload into one allocation. A null pointer is a null key or value; an empty one is not null.
    fn key_and_payload(&self) -> (Option<Bytes>, Option<Bytes>) {
        let raw = self.raw();
        // SAFETY: librdkafka's key and payload are `key_len` and `len` bytes that live as long as the message.
        let key = (!raw.key.is_null())
            .then(|| unsafe { slice::from_raw_parts(raw.key.cast::<u8>(), raw.key_len) });
        // SAFETY: as above.
        let payload = (!raw.payload.is_null())
            .then(|| unsafe { slice::from_raw_parts(raw.payload.cast(), raw.len) });
        match (key, payload) {
            (Some(key), Some(payload)) => {
                let both = Bytes::from([key, payload].concat());
                (Some(both.slice(..key.len())), Some(both.slice(key.len()..)))
            }
            (key, payload) => {
                (key.map(Bytes::copy_from_slice), payload.map(Bytes::copy_from_slice))
            }
        }
    }

    fn timestamp(&self) -> Option<i64> {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, `kind` is written.
        let millis = unsafe { rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        (kind != rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && millis >= 0)
            .then_some(millis)
    }

    fn headers(&self) -> Vec<Header> {
        let mut list: *mut rd_kafka_headers_t = ptr::null_mut();
        // SAFETY: the message is alive; the list, if there is one, stays the message's.
        let err = unsafe { rd_kafka_message_headers(self.0.as_ptr(), &raw mut list) };
        let mut headers = Vec::new();
        if err != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || list.is_null() {
            return headers;
        }
        loop {
            let (mut name, mut value, mut size) =
                (ptr::null::<c_char>(), ptr::null::<c_void>(), 0_usize);
            // SAFETY: the list is alive; on success the three are written, and point into it.
            let err = unsafe {
                rd_kafka_header_get_all(
                    list,
                    headers.len(),
                    &raw mut name,
                    &raw mut value,
                    &raw mut size,
                )
            };
            if err != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return headers;
            }
            // SAFETY: `name` ends with a zero, `value` has `size` bytes; both are copied here.
            let (name, value) = unsafe {
                let bytes =
                    (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), size));
                (text_of(name), bytes.map(Bytes::copy_from_slice))
            };
            headers.push(Header { name, value });
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: handed out by librdkafka once, destroyed once.
        unsafe { rd_kafka_message_destroy(self.0.as_ptr()) };
    }
}

/// # Safety
/// `text` ends with a zero and lives through the call.
unsafe fn text_of(text: *const c_char) -> String {
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The group's generation (or the member's epoch) that this client is in; `None` while it is no member.
pub(super) fn generation<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<i32> {
    // SAFETY: the client is alive as long as `consumer`; what is returned is ours, checked for null and destroyed once.
    let generation = unsafe {
        let metadata = rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return None;
        }
        let generation = rd_kafka_consumer_group_metadata_generation_id(metadata);
        rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    };
    (generation > 0).then_some(generation)
}

/// Asks for a commit, whose answer comes to `commit_callback` from the client's next poll.
///
/// rdkafka's own `commit(…, Async)` asks without an address for the answer: librdkafka then tells nobody (it posts an event
/// only where a commit callback is configured, and rdkafka configures none).
pub(super) fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    offsets: &TopicPartitionList,
) -> Result<(), RDKafkaErrorCode> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is alive as long as `consumer`; the handle is checked for null and given back once.
    let Some(queue) = NonNull::new(unsafe { rd_kafka_queue_get_consumer(client) }) else {
        return Err(RDKafkaErrorCode::UnknownGroup);
    };
    // SAFETY: client, list and queue are alive through the call. librdkafka copies the list, and keeps a reference of its own
    // to the queue. Without a callback the answer comes as an event, which rdkafka's poll hands to the context.
    let err = unsafe {
        rd_kafka_commit_queue(client, offsets.ptr(), queue.as_ptr(), None, ptr::null_mut())
    };
    // SAFETY: ours from above, not used again.
    unsafe { rd_kafka_queue_destroy(queue.as_ptr()) };
    if err == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(err.into()) }
}
