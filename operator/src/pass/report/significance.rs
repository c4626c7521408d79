//! Whether a status moved enough to be written. Pure.
//!
//! Numbers of a running consumer move on every reading; written each time, they would load the API server and everybody
//! who watches. What a person acts on (pods, knobs, conditions, bindings) is written at once, the rest when it moved
//! enough, and then not more often than every few seconds.

use std::time::Duration;

use sluice_crds::KafkaConsumerStatus;

/// The least time between two writes that carry numbers alone.
pub const QUIET: Duration = Duration::from_secs(3);
/// The relative change of a number that matters.
const MOVED: f64 = 0.1;
/// Lag below so many seconds of arrivals is what is always on its way: a commit and a reading are a second apart each.
const ON_ITS_WAY: f64 = 2.0;

/// What a difference between two statuses is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Significance {
    /// No write.
    Nothing,
    /// A write, but not sooner than [`QUIET`] after the last.
    Numbers,
    /// A write now.
    Now,
}

impl Significance {
    /// Whether to write, given the time since the last write.
    pub fn is_due(self, since: Option<Duration>) -> bool {
        match self {
            Self::Nothing => false,
            Self::Numbers => since.is_none_or(|since| since >= QUIET),
            Self::Now => true,
        }
    }
}

/// What the difference between the status that was last written and the next one is worth.
pub fn significance(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> Significance {
    if last == next {
        Significance::Nothing
    } else if frame(last) != frame(next) {
        Significance::Now
    } else if numbers_moved(last, next) || words(last) != words(next) {
        Significance::Numbers
    } else {
        Significance::Nothing
    }
}

/// The status without its numbers and sentences: what is left is written at once when it differs.
fn frame(status: &KafkaConsumerStatus) -> KafkaConsumerStatus {
    let mut frame = status.clone();
    frame.lag = None;
    frame.behind_seconds = None;
    frame.arrival_rate = None;
    frame.handled_rate = None;
    frame.capacity_per_pod = None;
    if let Some(decision) = &mut frame.decision {
        // A reason that changes while the pods stay can change on every reading: it is a word among the numbers.
        let replicas = decision.replicas;
        *decision =
            sluice_crds::kafkaconsumer::status::DecisionStatus { replicas, ..Default::default() };
    }
    // What is remembered is for a restart: it rides along with the next write, and alone it is not worth one.
    frame.memory = None;
    for condition in &mut frame.conditions {
        condition.message.clear();
    }
    frame
}

/// Sentences and reasons, which matter, but not more often than the numbers.
fn words(status: &KafkaConsumerStatus) -> (Option<&str>, Vec<&str>) {
    let conditions = status.conditions.iter().map(|c| without_numbers(&c.message)).collect();
    (status.decision.as_ref().map(|d| d.reason.as_str()), conditions)
}

/// A sentence up to its first number: behind it is only what the numbers' own rule weighs.
fn without_numbers(sentence: &str) -> &str {
    sentence.find(|c: char| c.is_ascii_digit()).map_or(sentence, |end| &sentence[..end])
}

fn numbers_moved(last: &KafkaConsumerStatus, next: &KafkaConsumerStatus) -> bool {
    let arrivals = next.arrival_rate.or(last.arrival_rate).unwrap_or(0.0);
    let behind = if arrivals > 0.0 { ON_ITS_WAY } else { 0.0 };
    let whole = |n: Option<i64>| n.map(|n| n as f64);
    let capacity = |s: &KafkaConsumerStatus| s.decision.as_ref().and_then(|d| d.capacity);
    moved(whole(last.lag), whole(next.lag), arrivals * ON_ITS_WAY)
        || moved(last.behind_seconds, next.behind_seconds, behind)
        || moved(last.arrival_rate, next.arrival_rate, 0.0)
        || moved(last.handled_rate, next.handled_rate, 0.0)
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
    use sluice_crds::kafkaconsumer::status::DecisionStatus;

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
        let changes: [(&str, Change); 7] = [
            ("replicas", |s| s.replicas = Some(5)),
            ("ready", |s| s.ready_replicas = Some(1)),
            ("knobs", |s| s.batch_size = Some(60)),
            ("generation", |s| s.observed_generation = Some(2)),
            ("decided pods", |s| s.decision.as_mut().unwrap().replicas = 7),
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
        let rows: [(&str, Change, Significance); 12] = [
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
        assert_eq!(significance(&quiet(1), &quiet(0)), Significance::Numbers);
    }

    #[test]
    fn numbers_wait_for_their_turn_and_the_rest_does_not() {
        let second = Some(Duration::from_secs(1));
        assert!(!Significance::Numbers.is_due(second));
        assert!(Significance::Numbers.is_due(Some(QUIET)));
        assert!(Significance::Numbers.is_due(None));
        assert!(Significance::Now.is_due(second));
        assert!(!Significance::Nothing.is_due(None));
    }
}
