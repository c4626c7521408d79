//! Holds what was handled against what was produced. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    evidence::TopicEvidence,
    topic::{Produced, Record},
};

/// How finely 'seconds behind' is looked at.
const SAMPLE_MS: i64 = 100;
/// Examples that are kept of each fault.
const EXAMPLES: usize = 5;

/// The ordering that was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// Records with the same key, in a partition.
    #[default]
    Key,
    /// Records of the same partition.
    Partition,
}

/// What came out.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The topic.
    pub topic: String,
    /// Records in the topic.
    pub produced: u64,
    /// Records that a broker acknowledged, and that are no longer in the topic: lost by Kafka, or deleted.
    pub missing: u64,
    /// Records whose place in the topic is not the one in which they were produced. The load's fault, or Kafka's.
    pub misplaced: u64,
    /// Different records that were handled, of those that were produced.
    pub handled: u64,
    /// Records that were never handled.
    pub lost: u64,
    /// Records that were handled more than once.
    pub duplicated: u64,
    /// Deliveries of those records beyond the first.
    pub repeats: u64,
    /// Records whose first handling was finished before that of an earlier record of the same lane.
    pub out_of_order: u64,
    /// Records whose first handling began before that of an earlier record of the same lane was finished.
    pub overlapping: u64,
    /// Handled offsets that are not among the records (of other loads, or deleted since).
    pub elsewhere: u64,
    /// From CreateTime to the end of the first handling.
    pub delay: Delay,
    /// The same for each partition.
    pub partitions: BTreeMap<i32, PartitionVerdict>,
    /// Each second, from the first record to the last handling.
    pub seconds: Vec<Second>,
    /// The first few faults of each kind, in words.
    pub examples: Vec<String>,
    /// Seconds behind at moments 100 ms apart, from the first record to the last handling.
    #[serde(skip)]
    samples: Vec<(i64, f64)>,
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Second {
    /// Its beginning, milliseconds since the Unix epoch.
    pub at: i64,
    /// Records that were created.
    pub produced: u64,
    /// Records whose first handling was done.
    pub handled: u64,
    /// The most seconds behind: the age of the oldest record that was there and not handled.
    pub behind: f64,
}

/// Delays in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// Half of the records were faster.
    pub p50_ms: f64,
    /// All but one in a hundred were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// What came out of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionVerdict {
    /// Records in it.
    pub produced: u64,
    /// Never handled.
    pub lost: u64,
    /// Handled more than once.
    pub duplicated: u64,
    /// Finished before an earlier one of the lane.
    pub out_of_order: u64,
    /// From CreateTime to the end of the first handling.
    pub delay: Delay,
}

impl Verdict {
    /// Nothing lost, nothing out of order; each record handled at least once.
    pub fn at_least_once(&self) -> bool {
        self.lost == 0
            && self.missing == 0
            && self.misplaced == 0
            && self.out_of_order == 0
            && self.overlapping == 0
    }

    /// Nothing lost, nothing out of order, nothing handled twice.
    pub fn exactly_once(&self) -> bool {
        self.at_least_once() && self.duplicated == 0
    }

    /// The most seconds behind between two moments (milliseconds since the Unix epoch).
    pub fn most_behind(&self, from: i64, to: i64) -> f64 {
        self.samples
            .iter()
            .filter(|(at, _)| (from..=to).contains(at))
            .fold(0.0, |most, (_, behind)| most.max(*behind))
    }

    /// How long after `step` it took until 'seconds behind' was below `limit` for good (as far as `until`). `None` when it
    /// was not below it at `until`.
    pub fn below_for_good(&self, step: i64, until: i64, limit: f64) -> Option<Duration> {
        let mut last_above = None;
        let mut last = None;
        for &(at, behind) in self.samples.iter().filter(|(at, _)| (step..=until).contains(at)) {
            last = Some(at);
            if behind >= limit {
                last_above = Some(at);
            }
        }
        match last_above {
            None => Some(Duration::ZERO),
            Some(above) if Some(above) == last => None,
            Some(above) => Some(Duration::from_millis((above + SAMPLE_MS - step) as u64)),
        }
    }
}

/// The first handling of a record.
#[derive(Clone, Copy)]
struct First {
    started: i64,
    at: i64,
    call: u32,
    times: u32,
}

const NEVER: First = First { started: i64::MAX, at: i64::MAX, call: u32::MAX, times: 0 };

/// Compares. Records without a key have no order under [`Lane::Key`].
pub fn compare(produced: &Produced, evidence: &TopicEvidence, lane: Lane) -> Verdict {
    let mut verdict = Verdict {
        topic: produced.topic.clone(),
        misplaced: produced.misplaced,
        ..Verdict::default()
    };
    let mut firsts: BTreeMap<i32, Vec<First>> = produced
        .partitions
        .iter()
        .map(|(&partition, records)| (partition, vec![NEVER; records.len()]))
        .collect();
    deliver(produced, evidence, &mut firsts, &mut verdict);

    let mut delays = DelayCounter::new();
    let mut times: Vec<(i64, i64)> = Vec::new();
    for (&partition, records) in &produced.partitions {
        let Some(firsts) = firsts.get(&partition) else { continue };
        verdict.produced += records.len() as u64;
        let counted =
            partition_verdict(partition, records, firsts, lane, &mut delays, &mut verdict);
        verdict.partitions.insert(partition, counted);
        times.extend(
            records.iter().zip(firsts).map(|(record, first)| (record.created * 1_000, first.at)),
        );
        if let Some(acknowledged) = produced.acknowledged.get(&partition) {
            let there: u64 =
                records.iter().map(|record| u64::from(acknowledged.contains(record.offset))).sum();
            verdict.missing += acknowledged.len() - there;
        }
    }
    for (partition, acknowledged) in &produced.acknowledged {
        if !produced.partitions.contains_key(partition) {
            verdict.missing += acknowledged.len();
        }
    }
    verdict.delay = delays.delay();
    verdict.samples = behind(&mut times);
    verdict.seconds = by_second(&verdict.samples, &times);
    verdict
}

/// Finds each record's first handling: the one that was finished first.
fn deliver(
    produced: &Produced,
    evidence: &TopicEvidence,
    firsts: &mut BTreeMap<i32, Vec<First>>,
    verdict: &mut Verdict,
) {
    for event in &evidence.events {
        let length = (event.last - event.first + 1) as u64;
        let (Some(records), Some(firsts)) =
            (produced.partitions.get(&event.partition), firsts.get_mut(&event.partition))
        else {
            verdict.elsewhere += length;
            continue;
        };
        let from = records.partition_point(|record| record.offset < event.first);
        let mut found = 0;
        for (record, first) in records.iter().zip(firsts).skip(from) {
            if record.offset > event.last {
                break;
            }
            found += 1;
            first.times += 1;
            if event.at < first.at {
                *first = First {
                    started: event.started,
                    at: event.at,
                    call: event.call,
                    times: first.times,
                };
            }
        }
        verdict.elsewhere += length - found;
    }
}

fn partition_verdict(
    partition: i32,
    records: &[Record],
    firsts: &[First],
    lane: Lane,
    delays: &mut DelayCounter,
    verdict: &mut Verdict,
) -> PartitionVerdict {
    let mut counted =
        PartitionVerdict { produced: records.len() as u64, ..PartitionVerdict::default() };
    let mut own_delays = DelayCounter::new();
    // Of each lane: the first handling, among the records so far, that was finished last.
    let mut latest: HashMap<u32, First> = HashMap::new();
    for (record, first) in records.iter().zip(firsts) {
        let place = || format!("partition {partition} offset {}", record.offset);
        if first.times == 0 {
            counted.lost += 1;
            example(&mut verdict.examples, counted.lost, || format!("lost: {}", place()));
            continue;
        }
        verdict.handled += 1;
        if first.times > 1 {
            counted.duplicated += 1;
            verdict.repeats += u64::from(first.times) - 1;
            example(&mut verdict.examples, counted.duplicated, || {
                format!("handled {} times: {}", first.times, place())
            });
        }
        delays.add(first.at - record.created * 1_000);
        own_delays.add(first.at - record.created * 1_000);
        let lane = match lane {
            Lane::Partition => 0,
            Lane::Key => match record.key {
                Some(key) => key,
                None => continue,
            },
        };
        let before = latest.entry(lane).or_insert(*first);
        if first.at < before.at {
            counted.out_of_order += 1;
            example(&mut verdict.examples, counted.out_of_order, || {
                format!(
                    "out of order: {} was done {} ms before an earlier one",
                    place(),
                    (before.at - first.at) as f64 / 1e3
                )
            });
        } else {
            if first.call != before.call && first.started < before.at {
                verdict.overlapping += 1;
                example(&mut verdict.examples, verdict.overlapping, || {
                    format!(
                        "overlapping: {} began {} ms too early",
                        place(),
                        (before.at - first.started) as f64 / 1e3
                    )
                });
            }
            *before = *first;
        }
    }
    counted.delay = own_delays.delay();
    verdict.lost += counted.lost;
    verdict.duplicated += counted.duplicated;
    verdict.out_of_order += counted.out_of_order;
    counted
}

fn example(examples: &mut Vec<String>, count: u64, text: impl FnOnce() -> String) {
    if count <= EXAMPLES as u64 && examples.len() < 6 * EXAMPLES {
        examples.push(text());
    }
}

/// Seconds behind at moments 100 ms apart: the age of the oldest record that is there and not handled.
///
/// `times` holds for each record when it was created and when it was handled, in microseconds; it gets sorted.
fn behind(times: &mut [(i64, i64)]) -> Vec<(i64, f64)> {
    times.sort_unstable();
    let (Some(&(begin, _)), Some(&(last_created, _))) = (times.first(), times.last()) else {
        return Vec::new();
    };
    let last_handled =
        times.iter().map(|&(_, at)| at).filter(|&at| at != i64::MAX).max().unwrap_or(last_created);
    let end = last_handled.max(last_created);
    let (mut samples, mut oldest) = (Vec::new(), 0);
    let mut now = begin / 1_000;
    while now * 1_000 <= end + SAMPLE_MS * 1_000 {
        // What was handled stays handled, so the oldest open record only moves on.
        while times.get(oldest).is_some_and(|&(_, at)| at <= now * 1_000) {
            oldest += 1;
        }
        let age = times.get(oldest).map_or(0, |&(created, _)| now * 1_000 - created);
        samples.push((now, age.max(0) as f64 / 1e6));
        now += SAMPLE_MS;
    }
    samples
}

fn by_second(samples: &[(i64, f64)], times: &[(i64, i64)]) -> Vec<Second> {
    let mut seconds: BTreeMap<i64, Second> = BTreeMap::new();
    let mut second = |at: i64, add: &dyn Fn(&mut Second)| {
        let at = at - at.rem_euclid(1_000);
        add(seconds.entry(at).or_insert(Second { at, ..Second::default() }));
    };
    for &(at, behind) in samples {
        second(at, &|second| second.behind = second.behind.max(behind));
    }
    for &(created, handled) in times {
        second(created / 1_000, &|second| second.produced += 1);
        if handled != i64::MAX {
            second(handled / 1_000, &|second| second.handled += 1);
        }
    }
    seconds.into_values().collect()
}

/// Counts delays with three digits, in microseconds up to a day.
struct DelayCounter(Option<Histogram<u64>>);

impl DelayCounter {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 86_400_000_000, 3).ok())
    }

    fn add(&mut self, micros: i64) {
        if let Some(histogram) = &mut self.0 {
            // Clocks of two machines may differ: less than nothing counts as nothing.
            histogram.saturating_record(micros.max(0) as u64);
        }
    }

    fn delay(&self) -> Delay {
        self.0.as_ref().filter(|histogram| !histogram.is_empty()).map_or(
            Delay::default(),
            |histogram| Delay {
                p50_ms: histogram.value_at_quantile(0.5) as f64 / 1e3,
                p99_ms: histogram.value_at_quantile(0.99) as f64 / 1e3,
                max_ms: histogram.max() as f64 / 1e3,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{offsets::OffsetSet, verify::evidence::Evidence};

    /// Ten records in partition 0, one a second from time 0; even offsets have key 0, odd ones key 1.
    fn ten() -> Produced {
        let records = (0..10)
            .map(|offset| Record {
                offset,
                created: offset * 1_000,
                key: Some((offset % 2) as u32),
            })
            .collect();
        Produced { topic: "t".into(), partitions: [(0, records)].into(), ..Produced::default() }
    }

    /// A call: offsets, start and end in milliseconds.
    type Call = (&'static str, f64, f64);

    fn handled(calls: &[(&str, f64, f64)]) -> Evidence {
        let mut evidence = Evidence::default();
        for (offsets, started, at) in calls {
            let line = format!(
                r#"{{"handled":{{"topic":"t","partition":0,"offsets":"{offsets}","started":{started},"at":{at},"pod":"p"}}}}"#
            );
            evidence.take(line.as_bytes());
        }
        assert_eq!(evidence.broken(), 0);
        evidence
    }

    struct Faults {
        lost: u64,
        duplicated: u64,
        out_of_order: u64,
        overlapping: u64,
        elsewhere: u64,
    }

    const NONE: Faults =
        Faults { lost: 0, duplicated: 0, out_of_order: 0, overlapping: 0, elsewhere: 0 };

    #[test]
    fn each_fault_that_is_put_in_is_found_and_nothing_else() {
        let all = ("0-9", 9_000.0, 9_100.0);
        let table: [(&str, &[Call], Lane, Faults); 11] = [
            ("nothing wrong", &[all], Lane::Key, NONE),
            (
                "in batches",
                &[("0-4", 5_000.0, 5_010.0), ("5-9", 9_000.0, 9_010.0)],
                Lane::Partition,
                NONE,
            ),
            ("nothing handled", &[], Lane::Key, Faults { lost: 10, ..NONE }),
            (
                "one left out",
                &[("0-3,5-9", 9_000.0, 9_100.0)],
                Lane::Key,
                Faults { lost: 1, ..NONE },
            ),
            (
                "two handled again later",
                &[all, ("3-4", 9_200.0, 9_300.0)],
                Lane::Key,
                Faults { duplicated: 2, ..NONE },
            ),
            (
                // The order of first deliveries is right, whatever comes again.
                "handled again by the next owner, told before the first",
                &[("0-1", 20_000.0, 20_001.0), all],
                Lane::Key,
                Faults { duplicated: 2, ..NONE },
            ),
            (
                "a later record of the key done first",
                &[("2", 2_000.0, 2_010.0), ("0-1,3-9", 9_000.0, 9_100.0)],
                Lane::Key,
                Faults { out_of_order: 1, ..NONE },
            ),
            (
                "another key overtakes, which it may",
                &[("1,3,5,7,9", 9_000.0, 9_010.0), ("0,2,4,6,8", 9_100.0, 9_110.0)],
                Lane::Key,
                NONE,
            ),
            (
                "another key overtakes, which a partition forbids",
                &[("1,3,5,7,9", 9_000.0, 9_010.0), ("0,2,4,6,8", 9_100.0, 9_110.0)],
                Lane::Partition,
                // Offset 0 comes first in the partition and is done last: all five odd ones came before it.
                Faults { out_of_order: 5, ..NONE },
            ),
            (
                "two batches of one key at once",
                &[("0-3", 4_000.0, 4_500.0), ("4-9", 4_400.0, 9_500.0)],
                Lane::Key,
                // Records 4 and 5 are the first of their keys in the second batch; the others follow them in it.
                Faults { overlapping: 2, ..NONE },
            ),
            (
                "offsets that nobody produced",
                &[all, ("10-12", 1.0, 2.0)],
                Lane::Key,
                Faults { elsewhere: 3, ..NONE },
            ),
        ];
        for (name, calls, lane, expected) in table {
            let evidence = handled(calls);
            let verdict = compare(&ten(), evidence.topic("t"), lane);
            let found = [
                verdict.lost,
                verdict.duplicated,
                verdict.out_of_order,
                verdict.overlapping,
                verdict.elsewhere,
            ];
            let Faults { lost, duplicated, out_of_order, overlapping, elsewhere } = expected;
            assert_eq!(
                found,
                [lost, duplicated, out_of_order, overlapping, elsewhere],
                "{name}: {:?}",
                verdict.examples
            );
            assert_eq!((verdict.produced, verdict.handled), (10, 10 - lost), "{name}");
            let clean = lost + out_of_order + overlapping == 0;
            assert_eq!(
                (verdict.at_least_once(), verdict.exactly_once()),
                (clean, clean && duplicated == 0),
                "{name}"
            );
            assert_eq!(
                verdict.examples.is_empty(),
                clean && duplicated == 0,
                "{name}: {:?}",
                verdict.examples
            );
        }
    }

    #[test]
    fn a_record_that_was_acknowledged_and_is_gone_from_the_topic_is_missing() {
        let mut produced = ten();
        produced.acknowledged.insert(0, OffsetSet::from(vec![(0, 11)]));
        produced.acknowledged.insert(7, OffsetSet::from(vec![(0, 0)]));
        let evidence = handled(&[("0-9", 9_000.0, 9_100.0)]);
        let verdict = compare(&produced, evidence.topic("t"), Lane::Key);
        assert_eq!((verdict.missing, verdict.lost, verdict.at_least_once()), (3, 0, false));
    }

    #[test]
    fn records_without_a_key_have_no_order_among_them() {
        let mut produced = ten();
        for record in produced.partitions.get_mut(&0).unwrap() {
            record.key = None;
        }
        let evidence = handled(&[("5-9", 9_000.0, 9_010.0), ("0-4", 9_100.0, 9_110.0)]);
        assert!(compare(&produced, evidence.topic("t"), Lane::Key).exactly_once());
        assert_eq!(compare(&produced, evidence.topic("t"), Lane::Partition).out_of_order, 5);
    }

    #[test]
    fn delays_run_from_create_time_to_the_end_of_the_first_handling() {
        let calls: Vec<(String, f64, f64)> = (0..10)
            .map(|n| {
                (
                    n.to_string(),
                    f64::from(n) * 1e3,
                    f64::from(n) * 1e3 + if n == 9 { 500.0 } else { 20.0 },
                )
            })
            .collect();
        let calls: Vec<_> =
            calls.iter().map(|(offsets, started, at)| (offsets.as_str(), *started, *at)).collect();
        let delay = compare(&ten(), handled(&calls).topic("t"), Lane::Key).delay;
        for (measured, expected) in
            [(delay.p50_ms, 20.0), (delay.p99_ms, 500.0), (delay.max_ms, 500.0)]
        {
            assert!((measured - expected).abs() < expected * 0.002, "{delay:?}");
        }
    }

    #[test]
    fn seconds_behind_is_the_age_of_the_oldest_record_that_is_not_handled() {
        // Record n is created at n seconds. All up to 4 wait until 4.5 s; from then on each takes 100 ms.
        let mut calls = vec![("0-4".to_owned(), 4_400.0, 4_500.0)];
        calls.extend(
            (5..10).map(|n| (n.to_string(), f64::from(n) * 1e3, f64::from(n) * 1e3 + 100.0)),
        );
        let calls: Vec<_> =
            calls.iter().map(|(offsets, started, at)| (offsets.as_str(), *started, *at)).collect();
        let verdict = compare(&ten(), handled(&calls).topic("t"), Lane::Key);
        assert!((verdict.most_behind(0, 4_400) - 4.4).abs() < 1e-9);
        assert!(verdict.most_behind(4_500, 20_000) < 0.11);
        assert_eq!(verdict.seconds[0], Second { at: 0, produced: 1, handled: 0, behind: 0.9 });
        assert_eq!(verdict.seconds[4], Second { at: 4_000, produced: 1, handled: 5, behind: 4.4 });
        assert_eq!(verdict.below_for_good(0, 9_000, 2.0), Some(Duration::from_millis(4_500)));
        assert_eq!(verdict.below_for_good(5_000, 9_000, 2.0), Some(Duration::ZERO));
        assert_eq!(verdict.below_for_good(0, 4_000, 2.0), None);
    }

    #[test]
    fn a_record_that_is_never_handled_stays_behind_to_the_end() {
        let verdict =
            compare(&ten(), handled(&[("0-4,6-9", 9_000.0, 9_100.0)]).topic("t"), Lane::Key);
        assert!(verdict.most_behind(9_100, 9_200) > 4.0);
        assert_eq!(verdict.below_for_good(0, 9_200, 2.0), None);
    }
}
