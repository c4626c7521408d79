//! Records as HTTP calls: CloudEvents in binary, structured and batched content mode (docs/http-handler.md).
//!
//! Nothing here does I/O. The rule behind each choice: what Kafka holds comes out at the other side byte for byte, and a
//! receiver never has to guess which of two things it sees.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, HeaderMap as Headers},
};

use crate::{Header, Record};

/// The media type of a call that carries several records.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// The media type of a call that carries one record as a JSON document.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// What the value is when the record does not say it.
const OCTET_STREAM: &str = "application/octet-stream";
/// The type of every event: that of Knative's KafkaSource, whose meaning it has.
const EVENT_TYPE: &str = "dev.knative.kafka.event";
/// Headers that a call in binary mode may add. Beyond, servers begin to answer 431 (nginx: 8 KiB a line, Node: 16 KiB in
/// all), so the record travels as a document instead.
const MAX_HEADER_BYTES: usize = 4_096;
/// The parts of a JSON event that do not depend on the record, and the numbers, rounded up.
const JSON_FRAME: usize = 640;

/// One HTTP call: what goes beside the address and the headers of the spec.
#[derive(Debug)]
pub struct Call {
    /// The headers that the contract names.
    pub headers: Headers,
    /// The body.
    pub body: Bytes,
}

/// Writes the records of one consumer group as calls.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The group as it stands in URIs and idempotency keys.
    group: String,
}

impl Encoder {
    /// An encoder for the records that a group reads.
    pub fn new(group: &str) -> Self {
        Self { group: percent_encoded(group) }
    }

    /// One record: binary mode, or structured mode where binary mode would be ambiguous or too large for its headers.
    pub fn one(&self, record: &Record) -> Call {
        if let Some(headers) = self.binary(record) {
            return Call { headers, body: record.payload.clone().unwrap_or_default() };
        }
        let mut headers = document(STRUCTURED);
        self.identify(record, &mut headers);
        let mut text = String::with_capacity(json_size(record));
        self.json(record, &mut text);
        Call { headers, body: text.into() }
    }

    /// Several records, in the order given: batched mode.
    pub fn many<'a>(&self, records: impl IntoIterator<Item = &'a Record, IntoIter: Clone>) -> Call {
        let records = records.into_iter();
        let mut text = String::with_capacity(2 + records.clone().map(json_size).sum::<usize>());
        text.push('[');
        for (index, record) in records.enumerate() {
            if index > 0 {
                text.push(',');
            }
            self.json(record, &mut text);
        }
        text.push(']');
        Call { headers: document(BATCH), body: text.into() }
    }

    /// The headers of binary mode; none where the record needs a document.
    fn binary(&self, record: &Record) -> Option<Headers> {
        let mut headers = HeaderMap::with_capacity(18);
        let mut bytes = 0;
        let mut fits = true;
        self.attributes(record, |name, value| {
            let name = format!("ce-{name}");
            let value = match value {
                Value::Text(text) => header_encoded(text),
                Value::Integer(number) => number.to_string(),
                Value::True => "true".to_owned(),
            };
            bytes += name.len() + value.len();
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => {
                    headers.insert(name, value);
                }
                _ => fits = false,
            }
        });
        if record.payload.is_some() {
            match content_type(record) {
                // A value that is itself a CloudEvent would read as our own structured mode.
                Some(own)
                    if own
                        .get(..23)
                        .is_some_and(|s| s.eq_ignore_ascii_case("application/cloudevents")) =>
                {
                    return None;
                }
                own => headers
                    .insert(CONTENT_TYPE, HeaderValue::from_str(own.unwrap_or(OCTET_STREAM)).ok()?),
            };
        }
        self.identify(record, &mut headers);
        (fits && bytes <= MAX_HEADER_BYTES).then_some(headers)
    }

    /// What a call with one record carries in every mode: the idempotency key, and the trace that the record belongs to.
    fn identify(&self, record: &Record, headers: &mut Headers) {
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        set("idempotency-key", &self.idempotency_key(record));
        trace(record, set);
    }

    /// One event as JSON. The value is always `data_base64`: JSON in `data` would not keep its bytes.
    fn json(&self, record: &Record, out: &mut String) {
        out.push('{');
        let mut first = true;
        let mut member = |out: &mut String, name: &str, value: Value<'_>| {
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            out.push('"');
            out.push_str(name);
            out.push_str("\":");
            match value {
                Value::Text(text) => push_json_string(out, text),
                Value::Integer(number) => push(out, format_args!("{number}")),
                Value::True => out.push_str("true"),
            }
        };
        self.attributes(record, |name, value| member(out, name, value));
        member(out, "idempotencykey", Value::Text(&self.idempotency_key(record)));
        trace(record, |name, value| member(out, name, Value::Text(value)));
        if let Some(payload) = &record.payload {
            member(
                out,
                "datacontenttype",
                Value::Text(content_type(record).unwrap_or(OCTET_STREAM)),
            );
            out.push_str(",\"data_base64\":\"");
            BASE64.encode_string(payload, out);
            out.push('"');
        }
        out.push('}');
    }

    /// The attributes that all modes share, in the order in which they are written.
    fn attributes(&self, record: &Record, mut put: impl FnMut(&str, Value<'_>)) {
        let Record { topic, partition, offset, .. } = record;
        put("specversion", Value::Text("1.0"));
        put("type", Value::Text(EVENT_TYPE));
        put("source", Value::Text(&format!("/sluice.dev/groups/{}#{topic}", self.group)));
        put("id", Value::Text(&id(record)));
        put("subject", Value::Text(&format!("partition:{partition}#{offset}")));
        if let Some(time) = time(record) {
            put("time", Value::Text(&time));
        }
        put("kafkatopic", Value::Text(topic));
        put("kafkapartition", Value::Integer(*partition));
        // A CloudEvents Integer has 32 bits; an offset has 64.
        put("kafkaoffset", Value::Text(&offset.to_string()));
        match &record.key {
            None => {}
            Some(key) => match text_attribute(key) {
                Some(text) => put("key", Value::Text(text)),
                None => put("keybase64", Value::Text(&BASE64.encode(key))),
            },
        }
        if !record.headers.is_empty() {
            put("kafkaheaders", Value::Text(&record_headers(record)));
        }
        if record.payload.is_none() {
            put("kafkatombstone", Value::True);
        }
    }

    /// The same in every delivery of the record, and in every mode. The group is in it because two groups may post to one
    /// receiver, from two clusters even; the time because a topic that was made anew begins at offset 0 again.
    fn idempotency_key(&self, record: &Record) -> String {
        format!("{}/{}@{}", self.group, record.idempotency_key(), record.timestamp().unwrap_or(-1))
    }
}

/// The value of an attribute; the types are those of CloudEvents.
#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Integer(i32),
    True,
}

/// What names a record inside one call: the event's id, and the `itemIdentifier` of a partial answer.
pub fn id(record: &Record) -> String {
    format!("partition:{}/offset:{}", record.partition, record.offset)
}

/// About how many bytes the record has as JSON; never too few by more than what escapes add.
pub fn json_size(record: &Record) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|Header { name, value }| name.len() + value.as_ref().map_or(0, Bytes::len) * 4 / 3 + 8)
        .sum();
    JSON_FRAME
        + record.topic.len() * 3
        + record.key.as_ref().map_or(0, Bytes::len) * 4 / 3
        + record.payload.as_ref().map_or(0, Bytes::len) * 4 / 3
        + headers
}

/// The headers of a call whose body is a JSON document.
fn document(media_type: &'static str) -> Headers {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

/// When the record was made, by its own time stamp.
fn time(record: &Record) -> Option<String> {
    let timestamp = record.timestamp.filter(|ms| *ms >= 0)?;
    Some(jiff::Timestamp::from_millisecond(timestamp).ok()?.to_string())
}

/// The value of the first header of that name, where it is text that an HTTP header can carry.
fn text_header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let header = record.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    let text = std::str::from_utf8(header.value.as_ref()?).ok()?;
    (!text.is_empty() && text.len() <= 512 && text.bytes().all(|b| (0x20..0x7f).contains(&b)))
        .then_some(text)
}

/// The record's own word on what its value is, where it looks like a media type.
fn content_type(record: &Record) -> Option<&str> {
    text_header(record, "content-type").filter(|text| text.contains('/') && text.trim() == *text)
}

/// W3C trace context, passed on as it came.
fn trace(record: &Record, mut put: impl FnMut(&'static str, &str)) {
    if let Some(parent) = text_header(record, "traceparent") {
        put("traceparent", parent);
        if let Some(state) = text_header(record, "tracestate") {
            put("tracestate", state);
        }
    }
}

/// All headers of the record in their order: `name:value,name:value`, values in base64, `name` alone for a null value.
/// A name with other characters than letters, digits, `_`, `.` and `-` is written as `~` and its base64.
fn record_headers(record: &Record) -> String {
    let mut out = String::new();
    for (index, Header { name, value }) in record.headers.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            out.push_str(name);
        } else {
            out.push('~');
            BASE64.encode_string(name, &mut out);
        }
        if let Some(value) = value {
            out.push(':');
            BASE64.encode_string(value, &mut out);
        }
    }
    out
}

/// The bytes as a CloudEvents String, if they are one: not empty, UTF-8, without control characters and noncharacters.
fn text_attribute(bytes: &[u8]) -> Option<&str> {
    let allowed = |c: char| {
        let code = u32::from(c);
        !c.is_control() && !(0xFDD0..=0xFDEF).contains(&code) && code & 0xFFFE != 0xFFFE
    };
    std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty() && text.chars().all(allowed))
}

/// An attribute's value in an HTTP header, by the CloudEvents HTTP binding (3.1.3.2).
fn header_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => push(&mut out, format_args!("%{byte:02X}")),
            0x21..=0x7e => out.push(char::from(byte)),
            _ => push(&mut out, format_args!("%{byte:02X}")),
        }
    }
    out
}

/// A name as one segment of a URI's path.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            push(&mut out, format_args!("%{byte:02X}"));
        }
    }
    out
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = out.write_fmt(arguments);
}

fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => push(out, format_args!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    const GROUP: &str = "shop.orders";

    fn encoder() -> Encoder {
        Encoder::new(GROUP)
    }

    fn record() -> Record {
        Record::new("orders", 3, 42)
            .with_timestamp(1_790_000_000_123)
            .with_key("customer 7")
            .with_payload(r#"{"a": 1.0}"#)
    }

    /// What a receiver that follows docs/http-handler.md makes of a call with one record or of one event of a batch.
    #[derive(Debug, PartialEq)]
    struct Received {
        place: (String, i32, i64),
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Option<Vec<u8>>)>,
    }

    fn sent(record: &Record) -> Received {
        Received {
            place: (record.topic().to_owned(), record.partition(), record.offset()),
            key: record.key().map(|b| b.to_vec()),
            value: record.payload().map(|b| b.to_vec()),
            headers: record
                .headers()
                .iter()
                .map(|h| (h.name.clone(), h.value.as_ref().map(|v| v.to_vec())))
                .collect(),
        }
    }

    fn decoded(base64: &str) -> Vec<u8> {
        BASE64.decode(base64).unwrap()
    }

    /// From attributes as text; the value is read by the caller.
    fn received(attribute: impl Fn(&str) -> Option<String>, data: Vec<u8>) -> Received {
        let headers = attribute("kafkaheaders").map_or_else(Vec::new, |list| {
            list.split(',')
                .map(|item| {
                    let (name, value) =
                        item.split_once(':').map_or((item, None), |(n, v)| (n, Some(decoded(v))));
                    let name = name
                        .strip_prefix('~')
                        .map_or(name.into(), |n| String::from_utf8(decoded(n)).unwrap());
                    (name, value)
                })
                .collect()
        });
        Received {
            place: (
                attribute("kafkatopic").unwrap(),
                attribute("kafkapartition").unwrap().parse().unwrap(),
                attribute("kafkaoffset").unwrap().parse().unwrap(),
            ),
            key: attribute("key")
                .map(String::into_bytes)
                .or_else(|| attribute("keybase64").map(|k| decoded(&k))),
            value: (attribute("kafkatombstone").as_deref() != Some("true")).then_some(data),
            headers,
        }
    }

    fn from_json(event: &Json) -> Received {
        let attribute = |name: &str| match &event[name] {
            Json::Null => None,
            Json::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        received(attribute, event["data_base64"].as_str().map(decoded).unwrap_or_default())
    }

    fn from_call(call: &Call) -> Received {
        if call.headers.get(CONTENT_TYPE).is_some_and(|t| t == STRUCTURED) {
            return from_json(&serde_json::from_slice(&call.body).unwrap());
        }
        let attribute = |name: &str| {
            let raw = call.headers.get(format!("ce-{name}"))?.as_bytes();
            let mut bytes = Vec::new();
            let mut rest = raw;
            while let [first, tail @ ..] = rest {
                (bytes, rest) = if *first == b'%' {
                    bytes.push(
                        u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap(),
                    );
                    (bytes, &tail[2..])
                } else {
                    bytes.push(*first);
                    (bytes, tail)
                };
            }
            Some(String::from_utf8(bytes).unwrap())
        };
        received(attribute, call.body.to_vec())
    }

    fn header<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
        call.headers.get(name).map(|v| v.to_str().unwrap())
    }

    #[test]
    fn one_record_is_an_event_in_binary_mode() {
        let record = record()
            .with_header("content-type", Some("application/json".into()))
            .with_header("traceparent", Some("00-1-2-01".into()));
        let call = encoder().one(&record);
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-type", "dev.knative.kafka.event"),
            ("ce-source", "/sluice.dev/groups/shop.orders#orders"),
            ("ce-id", "partition:3/offset:42"),
            ("ce-subject", "partition:3#42"),
            ("ce-time", "2026-09-21T14:13:20.123Z"),
            ("ce-kafkatopic", "orders"),
            ("ce-kafkapartition", "3"),
            ("ce-kafkaoffset", "42"),
            ("ce-key", "customer%207"),
            ("ce-kafkaheaders", "content-type:YXBwbGljYXRpb24vanNvbg==,traceparent:MDAtMS0yLTAx"),
            ("content-type", "application/json"),
            ("idempotency-key", "shop.orders/orders-3-42@1790000000123"),
            ("traceparent", "00-1-2-01"),
        ] {
            assert_eq!(header(&call, name), Some(value), "{name}");
        }
        assert_eq!(call.headers.len(), 14, "{:?}", call.headers);
        assert_eq!(&call.body[..], br#"{"a": 1.0}"#);
    }

    #[test]
    fn several_records_are_a_batch_whose_values_keep_their_bytes() {
        let records =
            [record(), Record::new("orders", 3, 43), Record::new("orders", 3, 44).with_payload("")];
        let call = encoder().many(&records);
        assert_eq!(header(&call, "content-type"), Some("application/cloudevents-batch+json"));
        assert_eq!(
            serde_json::from_slice::<Json>(&call.body).unwrap(),
            serde_json::json!([
                {
                    "specversion": "1.0", "type": "dev.knative.kafka.event",
                    "source": "/sluice.dev/groups/shop.orders#orders",
                    "id": "partition:3/offset:42", "subject": "partition:3#42", "time": "2026-09-21T14:13:20.123Z",
                    "kafkatopic": "orders", "kafkapartition": 3, "kafkaoffset": "42", "key": "customer 7",
                    "idempotencykey": "shop.orders/orders-3-42@1790000000123",
                    "datacontenttype": "application/octet-stream", "data_base64": "eyJhIjogMS4wfQ==",
                },
                {
                    "specversion": "1.0", "type": "dev.knative.kafka.event",
                    "source": "/sluice.dev/groups/shop.orders#orders",
                    "id": "partition:3/offset:43", "subject": "partition:3#43",
                    "kafkatopic": "orders", "kafkapartition": 3, "kafkaoffset": "43", "kafkatombstone": true,
                    "idempotencykey": "shop.orders/orders-3-43@-1",
                },
                {
                    "specversion": "1.0", "type": "dev.knative.kafka.event",
                    "source": "/sluice.dev/groups/shop.orders#orders",
                    "id": "partition:3/offset:44", "subject": "partition:3#44",
                    "kafkatopic": "orders", "kafkapartition": 3, "kafkaoffset": "44",
                    "idempotencykey": "shop.orders/orders-3-44@-1",
                    "datacontenttype": "application/octet-stream", "data_base64": "",
                },
            ])
        );
    }

    #[test]
    fn a_tombstone_is_not_an_empty_value_and_a_null_key_is_not_an_empty_one() {
        for (record, key, value) in [
            (Record::new("t", 0, 1), None, None),
            (Record::new("t", 0, 1).with_payload(""), None, Some(vec![])),
            (Record::new("t", 0, 1).with_key(""), Some(vec![]), None),
        ] {
            let one = from_call(&encoder().one(&record));
            assert_eq!((one.key, one.value), (key, value));
        }
        let tombstone = encoder().one(&Record::new("t", 0, 1));
        assert_eq!(header(&tombstone, "ce-kafkatombstone"), Some("true"));
        assert_eq!(header(&tombstone, "content-type"), None);
    }

    #[test]
    fn headers_that_servers_would_refuse_travel_as_a_document() {
        let record = record().with_header("big", Some(vec![b'x'; 4_000].into()));
        let call = encoder().one(&record);
        assert_eq!(header(&call, "content-type"), Some("application/cloudevents+json"));
        assert_eq!(header(&call, "idempotency-key"), Some("shop.orders/orders-3-42@1790000000123"));
        assert_eq!(from_call(&call), sent(&record));
    }

    #[test]
    fn a_value_that_is_itself_a_cloudevent_is_not_mistaken_for_the_call() {
        for own in
            ["application/cloudevents+json", "Application/CloudEvents-Batch+json; charset=utf-8"]
        {
            let record = record().with_header("content-type", Some(own.as_bytes().into()));
            let call = encoder().one(&record);
            assert_eq!(header(&call, "content-type"), Some("application/cloudevents+json"));
            let event: Json = serde_json::from_slice(&call.body).unwrap();
            assert_eq!(event["datacontenttype"], own);
            assert_eq!(event["id"], "partition:3/offset:42");
        }
    }

    #[test]
    fn a_content_type_that_is_none_is_not_sent() {
        for bad in ["", "json", "a/b\r\nx: y", "ä/b", " a/b"] {
            let record = record().with_header("content-type", Some(bad.as_bytes().to_vec().into()));
            assert_eq!(
                header(&encoder().one(&record), "content-type"),
                Some("application/octet-stream"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_idempotency_key_is_the_same_in_every_mode_and_delivery() {
        let mut later = record();
        later.attempt = 7;
        let one = encoder().one(&record());
        let batch: Json = serde_json::from_slice(&encoder().many(&[later]).body).unwrap();
        assert_eq!(batch[0]["idempotencykey"], header(&one, "idempotency-key").unwrap());
        assert_ne!(
            encoder().idempotency_key(&record()),
            Encoder::new("other").idempotency_key(&record())
        );
    }

    #[test]
    fn a_group_with_any_characters_is_sent() {
        let call = Encoder::new("a group/ü%").one(&record());
        assert_eq!(
            header(&call, "idempotency-key"),
            Some("a%20group%2F%C3%BC%25/orders-3-42@1790000000123")
        );
        assert_eq!(
            header(&call, "ce-source"),
            Some("/sluice.dev/groups/a%2520group%252F%25C3%25BC%2525#orders")
        );
    }

    #[test]
    fn a_time_stamp_that_is_no_time_is_left_out() {
        for timestamp in [-1, i64::MAX] {
            assert_eq!(
                header(&encoder().one(&record().with_timestamp(timestamp)), "ce-time"),
                None
            );
        }
    }

    fn any_bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            "\\PC{0,20}".prop_map(String::into_bytes),
            "[ -~]{0,20}".prop_map(String::into_bytes),
        ])
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let headers = proptest::collection::vec((".{0,10}", any_bytes()), 0..4);
        (
            any::<i32>(),
            any::<i64>(),
            proptest::option::of(any::<i64>()),
            any_bytes(),
            any_bytes(),
            headers,
        )
            .prop_map(|(partition, offset, timestamp, key, payload, headers)| {
                let mut record = Record::new("t", partition, offset);
                record.timestamp = timestamp;
                record.key = key.map(Into::into);
                record.payload = payload.map(Into::into);
                headers
                    .into_iter()
                    .fold(record, |r, (name, value)| r.with_header(name, value.map(Into::into)))
            })
    }

    proptest! {
        #[test]
        fn whatever_a_record_holds_comes_out_byte_for_byte(records in proptest::collection::vec(any_record(), 1..4)) {
            for record in &records {
                prop_assert_eq!(from_call(&encoder().one(record)), sent(record));
            }
            let batch = encoder().many(&records);
            let events: Vec<Json> = serde_json::from_slice(&batch.body).unwrap();
            prop_assert_eq!(events.iter().map(from_json).collect::<Vec<_>>(), records.iter().map(sent).collect::<Vec<_>>());
        }
    }
}
