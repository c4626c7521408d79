//! Whether a status moved enough to be written. Pure.
//!
//! Numbers of a running consumer move on every reading; written each time, they would load the API server and everybody
//! who watches. What a person acts on (pods, knobs, conditions, bindings) is written at once, the rest when it moved
//! enough, and then not more often than every few seconds.

use std::time::Duration;

use tokio::time::Instant;

use sluice_crds::{
    KafkaConsumerStatus,
    kafkaconsumer::{kafka::GroupProtocol, status::ParkedOffsets},
};

/// The least time between two writes that carry numbers alone.
pub const QUIET: Duration = Duration::from_secs(3);
/// So many writes of small change come as soon as those of numbers …
const SMALL_WRITES: u32 = 6;
/// … and one more for each of these times: lag that comes and goes all the time is written twice a minute.
const SMALL_EVERY: Duration = Duration::from_secs(30);
/// Each consumer of the operator makes the quiet time this much longer: with a thousand of them the API server gets some
/// tens of such writes per second at most.
const QUIET_PER_CONSUMER: Duration = Duration::from_millis(50);
/// The relative change of a number that matters.
const MOVED: f64 = 0.1;
/// Lag below so many seconds of arrivals is what is always on its way: a commit and a reading are a second apart each.
const ON_ITS_WAY: f64 = 2.0;
/// So many records, and so many records per second, are small change: of a topic with a record now and then each one
/// would be two writes.
const SMALL: f64 = 10.0;

/// What a difference between two statuses is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Significance {
    /// No write.
    Nothing,
    /// A write like one of numbers, as long as the consumer's [`Allowance`] lasts.
    Small,
    /// A write, but not sooner than [`QUIET`] after the last.
    Numbers,
    /// A write now.
    Now,
}

impl Significance {
    /// How long the write still waits, given the time since the last write and the number of consumers of this operator;
    /// `None` where there is none.
    pub fn rest(self, since: Option<Duration>, consumers: usize) -> Option<Duration> {
        let consumers = u32::try_from(consumers).unwrap_or(u32::MAX);
        let pause = match self {
            Self::Nothing => return None,
            Self::Small | Self::Numbers => {
                QUIET.saturating_add(QUIET_PER_CONSUMER.saturating_mul(consumers))
            }
            Self::Now => Duration::ZERO,
        };
        Some(since.map_or(Duration::ZERO, |since| pause.saturating_sub(since)))
    }
}

/// How many writes of small change a consumer still has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    spent: u32,
    /// When the last one was given back, or the first one spent.
    since: Option<Instant>,
}

impl Allowance {
    /// How long the next write waits for the allowance.
    pub fn rest(&mut self, now: Instant) -> Duration {
        while let Some(since) = self.since.filter(|_| self.spent > 0)
            && now.duration_since(since) >= SMALL_EVERY
        {
            self.spent -= 1;
            self.since = Some(since + SMALL_EVERY);
        }
        match self.since {
            Some(since) if self.spent >= SMALL_WRITES => (since + SMALL_EVERY).duration_since(now),
            _ => Duration::ZERO,
        }
    }

    /// A write was made.
    pub fn spend(&mut self, now: Instant) {
        if self.spent == 0 {
            self.since = Some(now);
        }
        self.spent += 1;
    }
}

/// What the difference between the status that was last written and the next one is worth.
pub fn significance(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> Significance {
    if last == next {
        return Significance::Nothing;
    }
    let (old, new) = (Parts::of(last), Parts::of(next));
    if old.frame != new.frame {
        Significance::Now
    } else if numbers_moved(last, next, 0.0) || old.words != new.words {
        if old.words == new.words && !numbers_moved(last, next, SMALL) {
            Significance::Small
        } else {
            Significance::Numbers
        }
    } else if old.slow != new.slow {
        Significance::Small
    } else {
        Significance::Nothing
    }
}

/// A status by what its parts are worth. It is taken apart without `..`: a field that is added does not compile until
/// somebody says here what kind it is.
#[derive(PartialEq)]
struct Parts<'a> {
    /// What a person or a machine acts on.
    frame: Frame<'a>,
    /// What may change on every reading, and matters, but no more than the numbers do.
    words: Words<'a>,
    /// What is kept for later.
    slow: Option<&'a ParkedOffsets>,
}

#[derive(PartialEq)]
struct Frame<'a> {
    pods: (Option<i32>, Option<&'a str>, Option<i32>),
    knobs: (Option<i32>, Option<i32>, Option<i64>),
    /// Group, cluster, image and stock image.
    pinned: [Option<&'a str>; 4],
    protocol: Option<GroupProtocol>,
    config_format: Option<i32>,
    observed_generation: Option<i64>,
    has_decision: bool,
    has_parked: bool,
    /// Type, status, reason and generation.
    conditions: Vec<(&'a str, &'a str, &'a str, Option<i64>)>,
}

#[derive(PartialEq)]
struct Words<'a> {
    /// Pods come and go one by one; that all are ready is a condition.
    pods: (Option<i32>, Option<i32>),
    decision: Option<(&'a str, i32)>,
    /// Batch size and concurrency decided on.
    knobs: Option<(Option<i32>, Option<i32>)>,
    conditions: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(status: &'a KafkaConsumerStatus) -> Self {
        let KafkaConsumerStatus {
            observed_generation,
            replicas,
            ready_replicas,
            desired_replicas,
            selector,
            partitions,
            // Numbers: `numbers_moved` weighs them.
            lag: _,
            behind_seconds: _,
            arrival_rate: _,
            handled_rate: _,
            capacity_per_pod: _,
            batch_size,
            concurrency,
            tuning_revision,
            group_id,
            protocol,
            cluster_id,
            image,
            stock_image,
            config_format,
            decision,
            // For a restart: it rides along with the next write, and alone it is not worth one.
            memory: _,
            parked,
            conditions,
        } = status;
        Self {
            frame: Frame {
                pods: (*desired_replicas, selector.as_deref(), *partitions),
                knobs: (*batch_size, *concurrency, *tuning_revision),
                pinned: [
                    group_id.as_deref(),
                    cluster_id.as_deref(),
                    image.as_deref(),
                    stock_image.as_deref(),
                ],
                protocol: *protocol,
                config_format: *config_format,
                observed_generation: *observed_generation,
                has_decision: decision.is_some(),
                has_parked: parked.is_some(),
                conditions: conditions
                    .iter()
                    .map(|c| (&*c.type_, &*c.status, &*c.reason, c.observed_generation))
                    .collect(),
            },
            words: Words {
                pods: (*replicas, *ready_replicas),
                decision: decision.as_ref().map(|d| (d.reason.as_str(), d.replicas)),
                knobs: decision.as_ref().map(|d| (d.batch_size, d.concurrency)),
                conditions: conditions.iter().map(|c| without_numbers(&c.message)).collect(),
            },
            slow: parked.as_ref(),
        }
    }
}

/// A sentence up to its first number: behind it is only what the numbers' own rule weighs.
fn without_numbers(sentence: &str) -> &str {
    sentence.find(|c: char| c.is_ascii_digit()).map_or(sentence, |end| &sentence[..end])
}

/// Whether a number moved enough; counts of records and rates of up to `small` are always moving.
fn numbers_moved(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus, small: f64) -> bool {
    let arrivals = next.arrival_rate.or(last.arrival_rate).unwrap_or(0.0);
    let behind = if arrivals > 0.0 { ON_ITS_WAY } else { 0.0 };
    let whole = |n: Option<i64>| n.map(|n| n as f64);
    let capacity = |s: &KafkaConsumerStatus| s.decision.as_ref().and_then(|d| d.capacity);
    // How long a few records wait is as small a change as they are.
    let few = whole(last.lag.max(next.lag)).is_some_and(|lag| lag <= small);
    let behind = if few { f64::MAX } else { behind };
    moved(whole(last.lag), whole(next.lag), (arrivals * ON_ITS_WAY).max(small))
        || moved(last.behind_seconds, next.behind_seconds, behind)
        || moved(last.arrival_rate, next.arrival_rate, small)
        || moved(last.handled_rate, next.handled_rate, small)
        || moved(last.capacity_per_pod, next.capacity_per_pod, 0.0)
        || moved(capacity(last), capacity(next), 0.0)
}

/// Whether a number moved enough: by a tenth (to or from zero is more than that), or to or from unknown. Up to `noise` it
/// is always moving, also to and from zero.
fn moved(last: Option<f64>, next: Option<f64>, noise: f64) -> bool {
    match (last, next) {
        (None, None) => false,
        (Some(last), Some(next)) => {
            (last > noise || next > noise)
                && (next - last).abs() > MOVED * last.abs().max(next.abs())
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use sluice_crds::kafkaconsumer::status::{DecisionStatus, ParkedTopic};

    use super::*;

    fn status() -> KafkaConsumerStatus {
        KafkaConsumerStatus {
            replicas: Some(4),
            lag: Some(5_000),
            behind_seconds: Some(4.0),
            arrival_rate: Some(1_000.0),
            handled_rate: Some(1_000.0),
            capacity_per_pod: Some(500.0),
            decision: Some(DecisionStatus {
                reason: "Steady".into(),
                replicas: 4,
                ..DecisionStatus::default()
            }),
            conditions: vec![Condition {
                type_: "Ready".into(),
                status: "True".into(),
                reason: "AsDecided".into(),
                message: "4 of 4 pods ready".into(),
                observed_generation: Some(1),
                last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            }],
            ..KafkaConsumerStatus::default()
        }
    }

    #[test]
    fn what_people_act_on_is_written_at_once() {
        type Change = fn(&mut KafkaConsumerStatus);
        let changes: [(&str, Change); 5] = [
            ("desired", |s| s.desired_replicas = Some(5)),
            ("knobs", |s| s.batch_size = Some(60)),
            ("generation", |s| s.observed_generation = Some(2)),
            ("condition", |s| s.conditions[0].status = "False".into()),
            ("condition's reason", |s| s.conditions[0].reason = "Progressing".into()),
        ];
        for (what, change) in changes {
            let mut next = status();
            change(&mut next);
            assert_eq!(significance(&status(), &next), Significance::Now, "{what}");
        }
    }

    #[test]
    fn numbers_are_written_when_they_moved_by_more_than_a_tenth() {
        type Change = fn(&mut KafkaConsumerStatus);
        let rows: [(&str, Change, Significance); 15] = [
            ("pods", |s| s.replicas = Some(5), Significance::Numbers),
            ("ready pods", |s| s.ready_replicas = Some(1), Significance::Numbers),
            ("decided pods", |s| s.decision.as_mut().unwrap().replicas = 7, Significance::Numbers),
            ("lag by a little", |s| s.lag = Some(5_300), Significance::Nothing),
            ("lag by more", |s| s.lag = Some(6_000), Significance::Numbers),
            ("lag to unknown", |s| s.lag = None, Significance::Numbers),
            ("lag to zero", |s| s.lag = Some(0), Significance::Numbers),
            ("behind by a little", |s| s.behind_seconds = Some(4.3), Significance::Nothing),
            ("behind by more", |s| s.behind_seconds = Some(9.0), Significance::Numbers),
            ("arrivals by a little", |s| s.arrival_rate = Some(1_090.0), Significance::Nothing),
            ("arrivals by more", |s| s.arrival_rate = Some(1_200.0), Significance::Numbers),
            (
                "reason",
                |s| s.decision.as_mut().unwrap().reason = "Draining".into(),
                Significance::Numbers,
            ),
            (
                "sentence of the decision",
                |s| s.decision.as_mut().unwrap().message = "…".into(),
                Significance::Nothing,
            ),
            (
                "numbers in a sentence",
                |s| s.conditions[0].message = "5 of 5 pods".into(),
                Significance::Nothing,
            ),
            (
                "another sentence",
                |s| s.conditions[0].message = "pod a: no".into(),
                Significance::Numbers,
            ),
        ];
        for (what, change, expected) in rows {
            let mut next = status();
            change(&mut next);
            assert_eq!(significance(&status(), &next), expected, "{what}");
        }
    }

    #[test]
    fn what_is_always_on_its_way_at_a_steady_load_is_not_written() {
        let steady = |lag, behind| KafkaConsumerStatus {
            lag: Some(lag),
            behind_seconds: Some(behind),
            ..status()
        };
        assert_eq!(significance(&steady(300, 0.3), &steady(1_400, 1.4)), Significance::Nothing);
        assert_eq!(significance(&steady(300, 0.3), &steady(0, 0.0)), Significance::Nothing);
        // It ends when it is no longer that little, and when nothing arrives any more.
        assert_eq!(significance(&steady(300, 0.3), &steady(2_600, 2.6)), Significance::Numbers);
        let quiet = |lag| KafkaConsumerStatus {
            arrival_rate: Some(0.0),
            handled_rate: Some(0.0),
            ..steady(lag, 0.0)
        };
        assert_eq!(significance(&quiet(1), &quiet(0)), Significance::Small);
        assert_eq!(significance(&quiet(100), &quiet(0)), Significance::Numbers);
    }

    #[test]
    fn numbers_wait_for_their_turn_and_the_rest_does_not() {
        let second = Some(Duration::from_secs(1));
        let due = |significance: Significance, since, consumers| {
            significance.rest(since, consumers).is_some_and(|rest| rest.is_zero())
        };
        for numbers in [Significance::Numbers, Significance::Small] {
            assert!(!due(numbers, second, 1));
            assert!(due(numbers, Some(QUIET + QUIET_PER_CONSUMER), 1));
            assert!(due(numbers, None, 1));
            // The more consumers there are, the less often each of them is written.
            assert!(!due(numbers, Some(Duration::from_secs(30)), 1_000));
        }
        assert!(due(Significance::Now, second, 1));
        assert!(!due(Significance::Nothing, None, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn small_change_is_written_soon_at_first_and_then_twice_a_minute() {
        let (mut allowance, begin) = (Allowance::default(), Instant::now());
        let mut writes = Vec::new();
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            if allowance.rest(now).is_zero() {
                allowance.spend(now);
                writes.push(second);
            }
        }
        assert_eq!(writes[..7], [0, 1, 2, 3, 4, 5, 30]);
        assert_eq!(writes.len(), 6 + 19);
        // After some minutes of quiet there are as many again.
        let later = begin + Duration::from_secs(2_000);
        for _ in 0..SMALL_WRITES {
            assert!(allowance.rest(later).is_zero());
            allowance.spend(later);
        }
        assert_eq!(allowance.rest(later), SMALL_EVERY);
    }

    #[test]
    fn a_record_now_and_then_is_small_change() {
        let trickle = |lag, rate| KafkaConsumerStatus {
            lag: Some(lag),
            behind_seconds: Some(lag as f64 / 2.0),
            arrival_rate: Some(rate),
            handled_rate: Some(rate),
            ..status()
        };
        for (last, next) in [((0, 0.1), (1, 0.1)), ((1, 0.1), (0, 0.2)), ((3, 0.5), (0, 0.0))] {
            let (last, next) = (trickle(last.0, last.1), trickle(next.0, next.1));
            assert_eq!(significance(&last, &next), Significance::Small);
        }
    }

    #[test]
    fn offsets_that_are_parked_are_written_at_once_and_those_that_move_are_small_change() {
        let with = |offset: Option<i64>| KafkaConsumerStatus {
            parked: offset.map(|offset| ParkedOffsets {
                cluster_id: "c".into(),
                topics: vec![ParkedTopic {
                    name: "t".into(),
                    id: "i".into(),
                    offsets: vec![offset],
                }],
            }),
            ..status()
        };
        assert_eq!(significance(&with(None), &with(Some(1))), Significance::Now);
        assert_eq!(significance(&with(Some(1)), &with(None)), Significance::Now);
        assert_eq!(significance(&with(Some(1)), &with(Some(2))), Significance::Small);
    }
}
