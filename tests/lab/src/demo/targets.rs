//! What was promised, what was measured, and whether it was kept. Pure.

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{record::ReplicasSeen, verify::Verdict};

/// Partitions of the demo's topic, and so the most pods.
pub const PARTITIONS: i32 = 12;
/// Records a second before and after the step, and in it.
pub const CALM: f64 = 300.0;
/// Records a second in the step.
pub const SPIKE: f64 = 3_600.0;
/// What one pod can do, as the example is written: between these, in records a second.
pub const ONE_POD: (f64, f64) = (450.0, 550.0);
/// The step of the second act: pods alone would need to be six.
pub const SECOND_SPIKE: f64 = 1_800.0;

const FIRST_SCALE_UP: Duration = Duration::from_secs(5);
const ALL_READY: Duration = Duration::from_secs(20);
const CAUGHT_UP: Duration = Duration::from_secs(60);
/// Seconds behind that count as caught up.
const BEHIND: f64 = 2.0;
/// How much longer than `scaleDownAfter` the way back may take.
const WAY_BACK: Duration = Duration::from_secs(30);
/// Pods of the second act: half of what pods alone would need.
const SECOND_ACT_PODS: i32 = 3;

/// What happened, when. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// Records a second that one pod did alone.
    pub one_pod: f64,
    /// Pods before the step.
    pub steady: i32,
    /// When the rate rose.
    pub step: i64,
    /// When it fell again.
    pub back: i64,
    /// `scaleDownAfter` of the example, in seconds.
    pub window_seconds: u64,
    /// When the second act's rate rose, if there was a second act.
    pub second_step: Option<i64>,
    /// When it fell again.
    pub second_back: Option<i64>,
    /// The knob in force at the end of the second act's step.
    pub second_concurrency: Option<i32>,
    /// Changes of replicas through all of it.
    #[serde(skip)]
    pub replicas: Vec<ReplicasSeen>,
}

/// One line of the summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// What was promised.
    pub promised: String,
    /// What was measured.
    pub measured: String,
    /// Whether it was kept.
    pub kept: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.kept { "kept" } else { "NOT KEPT" };
        write!(f, "{:<58} {:>24}  {kept}", self.promised, self.measured)
    }
}

/// Whether one pod alone is as fast as the demo needs it.
pub fn one_pod_is_right(rate: f64) -> bool {
    (ONE_POD.0..=ONE_POD.1).contains(&rate)
}

/// Compares what was measured with what was promised.
pub fn targets(measured: &Measured, verdict: &Verdict) -> Vec<Target> {
    let Measured { step, back, steady, .. } = *measured;
    let first = |from: i64, to: i64, so: &dyn Fn(&ReplicasSeen) -> bool| {
        let seen =
            measured.replicas.iter().find(|seen| (from..to).contains(&seen.at) && so(seen))?;
        Some(Duration::from_millis((seen.at - from) as u64))
    };
    let scale_up = first(step, back, &|seen| seen.wanted > steady);
    let all_ready = first(step, back, &|seen| seen.ready >= PARTITIONS);
    let caught_up = verdict.below_for_good(step, back, BEHIND);
    let end = measured.second_step.unwrap_or(i64::MAX);
    let way_back = first(back, end, &|seen| seen.wanted == steady && seen.ready == steady);
    let window = Duration::from_secs(measured.window_seconds);

    let mut targets = vec![
        Target {
            promised: format!("one pod alone does {} to {} records a second", ONE_POD.0, ONE_POD.1),
            measured: format!("{:.0}/s", measured.one_pod),
            kept: one_pod_is_right(measured.one_pod),
        },
        within("first scale-up", FIRST_SCALE_UP, scale_up),
        within(&format!("all {PARTITIONS} pods ready"), ALL_READY, all_ready),
        within(&format!("less than {BEHIND} s behind, for good,"), CAUGHT_UP, caught_up),
        Target {
            promised: format!(
                "back to {} {} to {} s after the step's end",
                pods(steady),
                window.as_secs(),
                (window + WAY_BACK).as_secs()
            ),
            measured: shown(way_back),
            // A second before the window is over is the watch's own delay, and the rate's.
            kept: way_back.is_some_and(|took| {
                took + Duration::from_secs(1) >= window && took <= window + WAY_BACK
            }),
        },
    ];
    if let (Some(from), Some(to)) = (measured.second_step, measured.second_back) {
        let most = most_wanted(&measured.replicas, from, to);
        let concurrency = measured.second_concurrency.unwrap_or(1);
        targets.push(Target {
            promised: format!(
                "with free knobs, {SECOND_SPIKE}/s need at most {SECOND_ACT_PODS} pods (6 without)"
            ),
            measured: format!("{}, concurrency {concurrency}", pods(most)),
            kept: most <= SECOND_ACT_PODS && concurrency > 1,
        });
        let caught_up = verdict.below_for_good(from, to, BEHIND);
        targets.push(within(
            &format!("less than {BEHIND} s behind there too"),
            CAUGHT_UP,
            caught_up,
        ));
    }
    for (what, count) in [
        ("records lost", verdict.lost + verdict.missing),
        ("records handled twice", verdict.duplicated),
        ("records out of order within their key", verdict.out_of_order + verdict.overlapping),
    ] {
        targets.push(Target {
            promised: format!("no {what}, of {}", verdict.produced),
            measured: count.to_string(),
            kept: count == 0 && verdict.produced > 0 && verdict.misplaced == 0,
        });
    }
    targets
}

fn pods(count: i32) -> String {
    if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") }
}

fn within(what: &str, limit: Duration, took: Option<Duration>) -> Target {
    Target {
        promised: format!("{what} within {} s of the step", limit.as_secs()),
        measured: shown(took),
        kept: took.is_some_and(|took| took <= limit),
    }
}

fn shown(took: Option<Duration>) -> String {
    took.map_or_else(|| "never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()))
}

/// The most pods asked for between two moments, with those that stood at the first.
fn most_wanted(replicas: &[ReplicasSeen], from: i64, to: i64) -> i32 {
    let before = replicas.iter().rev().find(|seen| seen.at < from).map(|seen| seen.wanted);
    replicas
        .iter()
        .filter(|seen| (from..to).contains(&seen.at))
        .map(|seen| seen.wanted)
        .chain(before)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{Evidence, Lane, Produced, compare, topic::Record};

    /// A record every 100 ms for 200 s, each handled after 50 ms.
    fn verdict(lose: bool) -> Verdict {
        let records =
            (0..2_000).map(|n| Record { offset: n, created: n * 100, key: Some(0) }).collect();
        let produced = Produced {
            topic: "t".into(),
            partitions: [(0, records)].into(),
            ..Produced::default()
        };
        let mut evidence = Evidence::default();
        for n in i64::from(lose)..2_000 {
            let at = n * 100 + 50;
            let line = format!(
                r#"{{"handled":{{"topic":"t","partition":0,"offsets":"{n}","started":{at},"at":{at},"pod":"p"}}}}"#
            );
            evidence.take(line.as_bytes());
        }
        compare(&produced, evidence.topic("t"), Lane::Key)
    }

    fn measured(changes: &[(i64, i32, i32)]) -> Measured {
        Measured {
            one_pod: 498.0,
            steady: 1,
            step: 20_000,
            back: 95_000,
            window_seconds: 30,
            replicas: changes
                .iter()
                .map(|&(at, wanted, ready)| ReplicasSeen { at, wanted, ready })
                .collect(),
            ..Measured::default()
        }
    }

    const GOOD: [(i64, i32, i32); 5] =
        [(0, 1, 1), (22_500, 12, 1), (29_000, 12, 12), (127_000, 1, 12), (129_000, 1, 1)];

    fn failed(measured: &Measured, verdict: &Verdict) -> Vec<String> {
        targets(measured, verdict)
            .into_iter()
            .filter(|target| !target.kept)
            .map(|target| target.promised)
            .collect()
    }

    #[test]
    fn a_good_run_keeps_all() {
        assert_eq!(failed(&measured(&GOOD), &verdict(false)), Vec::<String>::new());
        let second = Measured {
            second_step: Some(140_000),
            second_back: Some(190_000),
            second_concurrency: Some(5),
            ..measured(&GOOD)
        };
        assert_eq!(failed(&second, &verdict(false)), Vec::<String>::new());
        assert_eq!(
            targets(&second, &verdict(false)).len(),
            targets(&measured(&GOOD), &verdict(false)).len() + 2
        );
    }

    #[test]
    fn each_promise_that_is_broken_is_named() {
        let slow = Measured { one_pod: 300.0, ..measured(&GOOD) };
        assert!(failed(&slow, &verdict(false))[0].starts_with("one pod alone"));
        for (changes, named) in [
            (
                &[(0, 1, 1), (26_000, 12, 1), (29_000, 12, 12), (129_000, 1, 1)][..],
                "first scale-up",
            ),
            (
                &[(0, 1, 1), (22_500, 12, 1), (41_000, 12, 12), (129_000, 1, 1)][..],
                "all 12 pods ready",
            ),
            (&[(0, 1, 1), (22_500, 12, 1), (29_000, 12, 12), (100_000, 1, 1)][..], "back to 1 pod"),
            (
                &[(0, 1, 1), (22_500, 12, 1), (29_000, 12, 12), (127_000, 1, 12)][..],
                "back to 1 pod",
            ),
        ] {
            let failed = failed(&measured(changes), &verdict(false));
            assert!(failed.len() == 1 && failed[0].starts_with(named), "{named}: {failed:?}");
        }
        let lost = failed(&measured(&GOOD), &verdict(true));
        assert!(lost.iter().any(|target| target.starts_with("no records lost")), "{lost:?}");
        let pods = Measured {
            second_step: Some(125_000),
            second_back: Some(190_000),
            second_concurrency: Some(5),
            ..measured(&GOOD)
        };
        assert!(
            failed(&pods, &verdict(false))
                .iter()
                .any(|target| target.starts_with("with free knobs"))
        );
    }
}
