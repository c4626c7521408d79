//! The lines that tell what was handled, and the memory of them. No I/O.
//!
//! A line: `{"handled":{"topic":"t","partition":3,"offsets":"5-9,11","started":1790000000000.123,"at":…,"pod":"p"}}`;
//! times are milliseconds since the Unix epoch, offsets are ranges with both ends included.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use crate::offsets::OffsetSet;

/// How such a line begins; all else that a pod prints is passed over.
const PREFIX: &[u8] = br#"{"handled":"#;

/// Offsets that were handled in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handled {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub first: i64,
    /// The last offset, included.
    pub last: i64,
    /// When the call began, microseconds since the Unix epoch.
    pub started: i64,
    /// When it was done, microseconds since the Unix epoch.
    pub at: i64,
    /// The pod: an index into [`Evidence::pods`].
    pub pod: u16,
    /// The call: ranges of one line have the same.
    pub call: u32,
}

/// All that was handled, by topic.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    topics: HashMap<String, TopicEvidence>,
    pods: Vec<String>,
    calls: u32,
    broken: u64,
    /// Lines that were taken, where the same line can arrive twice; see [`Evidence::once`].
    seen: Option<HashSet<u64>>,
}

/// What was handled of one topic, in the order in which it became known.
#[derive(Clone, Debug, Default)]
pub struct TopicEvidence {
    /// Each range of each call.
    pub events: Vec<Handled>,
    /// The offsets that were handled at least once.
    pub offsets: BTreeMap<i32, OffsetSet>,
}

#[derive(Deserialize)]
struct Line {
    handled: Fields,
}

#[derive(Deserialize)]
struct Fields {
    topic: String,
    partition: i32,
    offsets: String,
    started: f64,
    at: f64,
    pod: String,
}

static NOTHING: TopicEvidence = TopicEvidence { events: Vec::new(), offsets: BTreeMap::new() };

impl Evidence {
    /// Evidence from a source that may tell a line twice (a log stream that was opened again): the second is passed over.
    /// A record that was really handled twice has another start, so it stays visible.
    pub fn once() -> Self {
        Self { seen: Some(HashSet::new()), ..Self::default() }
    }

    /// Takes what a pod printed: a line without its end. Lines of another kind are passed over; a line of this kind that
    /// cannot be read counts as broken.
    pub fn take(&mut self, line: &[u8]) {
        if !line.starts_with(PREFIX) {
            return;
        }
        if let Some(seen) = &mut self.seen
            && !seen.insert(hash(line))
        {
            return;
        }
        let Some((fields, ranges)) = read(line) else {
            self.broken += 1;
            tracing::warn!(line = %String::from_utf8_lossy(line), "a line of what was handled cannot be read");
            return;
        };
        let pod = self.pod(fields.pod);
        let (started, at) = (micros(fields.started), micros(fields.at));
        let call = self.calls;
        self.calls += 1;
        let topic = self.topics.entry(fields.topic).or_default();
        let offsets = topic.offsets.entry(fields.partition).or_default();
        for (first, last) in ranges {
            offsets.insert_range(first, last);
            topic.events.push(Handled {
                partition: fields.partition,
                first,
                last,
                started,
                at,
                pod,
                call,
            });
        }
    }

    /// What was handled of a topic.
    pub fn topic(&self, name: &str) -> &TopicEvidence {
        self.topics.get(name).unwrap_or(&NOTHING)
    }

    /// The pods that handled anything, in the order in which they were first seen.
    pub fn pods(&self) -> &[String] {
        &self.pods
    }

    /// Lines of this kind that could not be read.
    pub fn broken(&self) -> u64 {
        self.broken
    }

    fn pod(&mut self, name: String) -> u16 {
        // Few pods print, and mostly the last one again.
        let index = self.pods.iter().rposition(|pod| *pod == name).unwrap_or_else(|| {
            self.pods.push(name);
            self.pods.len() - 1
        });
        index as u16
    }
}

impl TopicEvidence {
    /// How many different records were handled.
    pub fn distinct(&self) -> u64 {
        self.offsets.values().map(OffsetSet::len).sum()
    }
}

fn read(line: &[u8]) -> Option<(Fields, Vec<(i64, i64)>)> {
    let Line { handled } = serde_json::from_slice(line).ok()?;
    let ranges = handled.offsets.split(',').map(range).collect::<Option<Vec<_>>>()?;
    Some((handled, ranges))
}

fn range(text: &str) -> Option<(i64, i64)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 <= first && first <= last).then_some((first, last))
}

fn micros(millis: f64) -> i64 {
    (millis * 1e3).round() as i64
}

fn hash(line: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(line);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = br#"{"handled":{"topic":"t","partition":3,"offsets":"5-9,11,14-20","started":1790000000000.123,"at":1790000000005.456,"pod":"a"}}"#;

    #[test]
    fn a_line_of_the_log_handler_is_understood() {
        let mut evidence = Evidence::default();
        evidence.take(LINE);
        let topic = evidence.topic("t");
        assert_eq!(
            topic.events.iter().map(|e| (e.first, e.last)).collect::<Vec<_>>(),
            [(5, 9), (11, 11), (14, 20)]
        );
        assert_eq!(
            (topic.events[0].started, topic.events[0].at),
            (1_790_000_000_000_123, 1_790_000_000_005_456)
        );
        assert_eq!(
            (topic.distinct(), evidence.pods(), evidence.broken()),
            (13, &["a".to_owned()][..], 0)
        );
    }

    #[test]
    fn other_lines_are_passed_over_and_broken_ones_counted() {
        let mut evidence = Evidence::default();
        for line in [&b"started"[..], b"", br#"{"level":"info"}"#] {
            evidence.take(line);
        }
        assert_eq!(evidence.broken(), 0);
        for offsets in ["", "9-5", "x", "1,,2", "-3"] {
            let text = String::from_utf8(LINE.to_vec()).unwrap().replace("5-9,11,14-20", offsets);
            evidence.take(text.as_bytes());
        }
        evidence.take(&LINE[..40]);
        assert_eq!((evidence.broken(), evidence.topic("t").distinct()), (6, 0));
    }

    #[test]
    fn a_line_told_twice_is_no_second_handling_where_the_source_repeats_itself() {
        let mut stream = Evidence::once();
        stream.take(LINE);
        stream.take(LINE);
        assert_eq!(stream.topic("t").events.len(), 3);
        let mut files = Evidence::default();
        files.take(LINE);
        files.take(LINE);
        assert_eq!(files.topic("t").events.len(), 6);
    }
}
