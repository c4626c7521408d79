//! The planner's promises, over its public face alone: a table of situations, and properties over random ones.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_crds::{
    KafkaConsumerSpec,
    kafkaconsumer::{Ordering, status::PlannerMemory},
    report::{BlockedLane, ProgressReport},
    tuning::{Knobs, Tuning},
};
use sluice_planner::{
    Decision, Limit, Memory, Observed, RULES, Readings, Reason, Snapshot, Spec, plan,
    snapshot::{Committed, Group, GroupState, Partition, TopicPartition},
};

const BEGIN: i64 = 1_790_000_000_000;
const PINNED: Knobs = Knobs { batch_size: 500, concurrency: 1 };

fn spec() -> Spec {
    Spec {
        min_replicas: 1,
        max_replicas: None,
        max_behind: 10.0,
        drain_within: 60.0,
        target: 0.8,
        scale_down_after: 30.0,
        lowest: PINNED,
        highest: PINNED,
        latency_target: None,
        ordering: Ordering::Partition,
    }
}

/// A consumer whose readings are made up, one a second.
#[derive(Clone)]
struct Feed {
    spec: Spec,
    readings: Readings,
    memory: Memory,
    ends: Vec<i64>,
    now: i64,
    desired: u32,
    desired_since: Option<i64>,
    ready: u32,
    tuning: Tuning,
    tuning_at: Option<i64>,
    /// What the pods report, if they do: all of them as one.
    report: Option<ProgressReport>,
}

impl Feed {
    /// With the capacity of 500 per second measured before.
    fn of(partitions: usize, pods: u32) -> Self {
        let memory = PlannerMemory { slot_rate: Some(500.0), ..PlannerMemory::default() };
        Self {
            spec: spec(),
            readings: Readings::default(),
            memory: Memory::restore(&memory),
            ends: vec![1_000_000; partitions],
            now: BEGIN,
            desired: pods,
            desired_since: None,
            ready: pods,
            tuning: Tuning::new(1, PINNED),
            tuning_at: None,
            report: None,
        }
    }

    fn unmeasured(partitions: usize, pods: u32) -> Self {
        Self { memory: Memory::default(), ..Self::of(partitions, pods) }
    }

    fn snapshot(&self, lag: i64) -> Snapshot {
        let topic: Arc<str> = "orders".into();
        let partitions = (0..).zip(&self.ends).map(|(partition, &end)| Partition {
            id: TopicPartition { topic: Arc::clone(&topic), partition },
            start: Some(0),
            end: Some(end),
            end_at: self.now,
            committed: Committed::At(end - lag),
            committed_at: self.now,
            report: self.report.clone().map(Arc::new),
        });
        Snapshot { at: self.now, partitions: partitions.collect(), group: None }
    }

    fn ask(&mut self, snapshot: &Snapshot) -> Decision {
        let observed = Observed {
            desired: self.desired,
            desired_since: self.desired_since,
            ready: self.ready,
            tuning: self.tuning,
            tuning_at: self.tuning_at,
        };
        let (readings, memory) = (&mut self.readings, &mut self.memory);
        plan(&self.spec, readings, memory, &observed, snapshot, self.now)
    }

    fn kept(&self) -> PlannerMemory {
        self.memory.kept()
    }

    /// A second in which this many records arrive in each partition, of which `lag` are not done.
    fn second(&mut self, each: i64, lag: i64) -> Decision {
        self.now += 1_000;
        self.ends.iter_mut().for_each(|end| *end += each);
        let snapshot = self.snapshot(lag);
        self.ask(&snapshot)
    }

    /// Pods that were written now.
    fn scale(&mut self, pods: u32) {
        (self.desired, self.desired_since) = (pods, Some(self.now));
    }

    /// Knobs that were written now.
    fn tune(&mut self, knobs: Knobs) {
        self.tuning = Tuning::new(self.tuning.revision + 1, knobs);
        self.tuning_at = Some(self.now);
    }

    /// A second in which a pod of one lane per slot reports `rate` records per slot and second,
    /// with all its slots in use, at the knobs in force.
    fn working_second(&mut self, each: i64, rate: f64, in_force: Tuning) -> Decision {
        let concurrency = f64::from(in_force.knobs.concurrency);
        let report = self.report.take().unwrap_or_default();
        self.report = Some(ProgressReport {
            version: 1,
            pod: "a".into(),
            boot: BEGIN,
            at: self.now + 1_000,
            pod_handled: report.pod_handled + (rate * concurrency) as u64,
            slot_seconds: report.slot_seconds + concurrency,
            usable_slots: concurrency,
            busy: 1.0,
            full_batches: 1.0,
            revision: in_force.revision,
            ..report
        });
        self.second(each, 0)
    }

    fn seconds(&mut self, seconds: u32, each: i64, lag: i64) -> Decision {
        (1..seconds).for_each(|_| drop(self.second(each, lag)));
        self.second(each, lag)
    }
}

/// A situation in which the planner gives this reason, and the pods that it then decides on. The
/// match is exhaustive: a reason that is added does not compile until it has a situation.
fn decided_for(reason: Reason) -> (Decision, u32) {
    let knobs_free = |feed: &mut Feed| {
        feed.spec.highest.concurrency = 16;
        feed.spec.ordering = Ordering::Key;
    };
    match reason {
        Reason::LagUnknown => {
            let mut feed = Feed::of(12, 6);
            feed.seconds(20, 158, 0);
            let mut snapshot = feed.snapshot(0);
            snapshot.partitions[3].end = None;
            (feed.ask(&snapshot), 6)
        }
        Reason::Steady => (Feed::of(12, 6).seconds(70, 158, 0), 6),
        Reason::ArrivalsUp => (Feed::of(12, 1).seconds(70, 158, 0), 6),
        Reason::Backlog => (Feed::of(12, 1).seconds(20, 25, 10_000), 6),
        Reason::Draining => {
            let mut feed = Feed::of(12, 1);
            feed.seconds(40, 25, 10_000);
            (feed.desired, feed.ready) = (6, 6);
            (feed.seconds(15, 25, 4_000), 6)
        }
        Reason::JumpSuspected => {
            let mut feed = Feed::of(12, 1);
            feed.seconds(60, 25, 25);
            (feed.second(300, 260), 1)
        }
        Reason::WaitingToShrink => (Feed::of(12, 6).seconds(20, 25, 0), 6),
        Reason::ArrivalsDown => (Feed::of(12, 6).seconds(40, 25, 0), 1),
        Reason::Idle => {
            let mut feed = Feed::of(12, 1);
            feed.spec.min_replicas = 0;
            feed.seconds(5, 10, 0);
            (feed.seconds(40, 0, 0), 0)
        }
        Reason::Wake => {
            let mut feed = Feed::of(12, 0);
            feed.spec.min_replicas = 0;
            (feed.second(0, 1), 1)
        }
        Reason::KnobsFirst => {
            let mut feed = Feed::of(12, 1);
            knobs_free(&mut feed);
            let tuning = feed.tuning;
            (1..20).for_each(|_| drop(feed.working_second(158, 500.0, tuning)));
            (feed.working_second(158, 500.0, tuning), 1)
        }
        Reason::GroupUnsettled => {
            let mut feed = Feed::of(12, 12);
            feed.ready = 11;
            (feed.seconds(40, 25, 0), 12)
        }
        Reason::Learning => (Feed::unmeasured(12, 1).seconds(20, 500, 0), 1),
        Reason::RecordStuck => {
            let mut feed = Feed::of(12, 6);
            feed.seconds(30, 158, 0);
            let (offset, since) = (feed.ends[3], feed.now);
            let blocked = BlockedLane { offset, since, attempts: 7, lanes: 1 };
            let report =
                ProgressReport { version: 1, blocked: Some(blocked), ..Default::default() };
            let report = Arc::new(report);
            let mut second = || {
                feed.now += 1_000;
                feed.ends.iter_mut().for_each(|end| *end += 158);
                let mut snapshot = feed.snapshot(0);
                snapshot.partitions[3].committed = Committed::At(offset);
                snapshot.partitions[3].report = Some(Arc::clone(&report));
                feed.ask(&snapshot)
            };
            (1..20).for_each(|_| drop(second()));
            (second(), 6)
        }
        Reason::HotPartition => {
            let mut feed = Feed::of(12, 2);
            let mut second = || {
                feed.ends[3] += 890;
                feed.second(10, 0)
            };
            (1..70).for_each(|_| drop(second()));
            (second(), 2)
        }
        Reason::Bounds => (Feed::of(12, 15).seconds(20, 10, 0), 12),
        Reason::BoundReached => {
            let mut feed = Feed::of(12, 4);
            feed.spec.max_replicas = Some(4);
            (feed.seconds(20, 250, 0), 4)
        }
    }
}

#[test]
fn every_reason_has_its_situation() {
    for reason in Reason::ALL {
        let (decision, pods) = decided_for(*reason);
        assert_eq!((decision.reason, decision.replicas), (*reason, pods), "{decision:?}");
        assert!(!decision.message.is_empty(), "{decision:?}");
    }
}

#[test]
fn every_reason_has_its_rule() {
    for reason in Reason::ALL {
        assert!(RULES.iter().any(|rule| rule.reason == *reason), "{reason:?}");
    }
}

#[test]
fn as_many_pods_as_the_load_needs_at_its_target() {
    // (partitions, records per second in each, pods that run) → pods
    for (partitions, each, pods, expected) in [
        (12, 25, 1, 1),
        (12, 158, 1, 6),
        (12, 158, 6, 6),
        (12, 300, 1, 12),
        (1, 5_000, 1, 1),
        (5, 1_000, 1, 5),
        (24, 500, 22, 24),
        (64, 500, 63, 64),
        (12, 250, 6, 12),
    ] {
        let decision = Feed::of(partitions, pods).seconds(70, each, 0);
        assert_eq!(decision.replicas, expected, "{partitions} × {each}/s on {pods}: {decision:?}");
    }
}

#[test]
fn noise_around_the_target_moves_nothing() {
    // Six pods of 500: 2,400/s is the target; the band goes to 2,640.
    for (each, expected) in [(200, 6), (215, 6), (225, 12)] {
        assert_eq!(Feed::of(12, 6).seconds(70, each, 0).replicas, expected, "{each}/s a partition");
    }
}

#[test]
fn records_in_flight_are_no_backlog() {
    let decision = Feed::of(12, 6).seconds(70, 158, 250);
    assert_eq!((decision.replicas, decision.reason), (6, Reason::Steady), "{decision:?}");
    assert_eq!(decision.numbers.backlog, Some(0));
}

#[test]
fn a_backlog_is_drained_within_its_time() {
    // 120,000 records in 60 s beside 300/s need 2,300/s, of whole pods of 500.
    let decision = Feed::of(12, 1).seconds(20, 25, 10_000);
    assert_eq!(decision.replicas, 6, "{decision:?}");
    assert!(matches!(decision.reason, Reason::Backlog | Reason::ArrivalsUp), "{decision:?}");
    assert!((decision.numbers.demand.unwrap() - 2_290.0).abs() < 30.0, "{decision:?}");
}

#[test]
fn what_was_chosen_for_a_backlog_is_kept_until_it_is_gone() {
    let mut feed = Feed::of(12, 1);
    assert_eq!(feed.seconds(40, 25, 10_000).replicas, 6);
    (feed.desired, feed.ready) = (6, 6);
    for lag in [8_000, 4_000, 2_000, 500, 150] {
        let decision = feed.seconds(15, 25, lag);
        assert_eq!(
            (decision.replicas, decision.reason),
            (6, Reason::Draining),
            "{lag} left: {decision:?}"
        );
    }
    // The window is for arrivals: pods that only a backlog asked for go when it is gone.
    assert_eq!(feed.seconds(3, 25, 20).replicas, 1);
}

#[test]
fn a_jump_waits_for_its_second_interval_and_then_is_met_at_once() {
    let mut feed = Feed::of(12, 1);
    feed.seconds(60, 25, 25);
    let first = feed.second(300, 260);
    assert_eq!((first.replicas, first.reason), (1, Reason::JumpSuspected), "{first:?}");
    let second = feed.second(300, 520);
    assert_eq!(second.replicas, 12, "{second:?}");
}

#[test]
fn one_odd_second_changes_nothing() {
    let mut feed = Feed::of(12, 1);
    feed.seconds(60, 25, 0);
    assert_eq!(feed.second(70, 20).replicas, 1);
    assert_eq!(feed.seconds(10, 25, 0).replicas, 1);
}

#[test]
fn bounds_hold_and_are_named() {
    // (min, max, partitions, records per second in each, pods) → (pods, limit)
    for (min, max, partitions, each, pods, expected, limit) in [
        (1, Some(11), 12, 300, 1, 6, Some(Limit::MaxReplicas)),
        (1, Some(4), 12, 300, 4, 4, Some(Limit::MaxReplicas)),
        (3, None, 12, 10, 3, 3, Some(Limit::MinReplicas)),
        (20, None, 12, 10, 12, 12, Some(Limit::Partitions)),
        (1, None, 12, 900, 12, 12, Some(Limit::Partitions)),
        (1, None, 12, 10, 15, 12, None),
        (2, None, 12, 10, 0, 2, Some(Limit::MinReplicas)),
        (1, Some(4), 12, 10, 9, 4, None),
    ] {
        let mut feed = Feed::of(partitions, pods);
        (feed.spec.min_replicas, feed.spec.max_replicas) = (min, max);
        let decision = feed.seconds(20, each, 0);
        let case = format!("{min}..{max:?} of {partitions}, {each}/s each on {pods}: {decision:?}");
        assert_eq!(decision.replicas, expected, "{case}");
        assert_eq!(decision.limit, limit, "{case}");
    }
}

#[test]
fn unknown_is_not_zero() {
    type Break = fn(&mut Partition);
    let breaks: [Break; 4] = [
        |p| p.end = None,
        |p| p.start = None,
        |p| p.committed = Committed::Unknown,
        |p| p.end_at -= 60_000,
    ];
    for (n, broken) in breaks.iter().enumerate() {
        let mut feed = Feed::of(12, 6);
        feed.spec.min_replicas = 0;
        feed.seconds(100, 0, 0);
        feed.now += 1_000;
        let mut snapshot = feed.snapshot(0);
        broken(&mut snapshot.partitions[7]);
        let decision = feed.ask(&snapshot);
        assert_eq!((decision.replicas, decision.reason), (6, Reason::LagUnknown), "{n}");
        assert_eq!(decision.numbers.lag, None, "{n}");
    }
}

#[test]
fn a_broker_that_hangs_and_comes_back_is_neither_a_lull_nor_a_jump() {
    for away in [2, 5, 9] {
        let mut feed = Feed::of(12, 6);
        feed.seconds(100, 158, 0);
        for second in 1..away + 60 {
            feed.now += 1_000;
            feed.ends.iter_mut().for_each(|end| *end += 158);
            let mut snapshot = feed.snapshot(0);
            if second <= away {
                for partition in &mut snapshot.partitions[..6] {
                    partition.end = partition.end.map(|end| end - 158 * second);
                    partition.end_at -= 1_000 * second;
                    partition.committed = Committed::At(partition.end.unwrap());
                    partition.committed_at = partition.end_at;
                }
            }
            let decision = feed.ask(&snapshot);
            let case = format!("second {second}, away for {away}: {decision:?}");
            assert_eq!(decision.replicas, 6, "{case}");
            assert!((decision.numbers.arrivals.unwrap() - 1_896.0).abs() < 20.0, "{case}");
        }
    }
}

#[test]
fn an_old_reading_is_not_taken_for_now() {
    let mut feed = Feed::of(12, 6);
    feed.seconds(20, 158, 0);
    let snapshot = feed.snapshot(0);
    feed.now += 15_000;
    assert_eq!(feed.ask(&snapshot).reason, Reason::LagUnknown);
}

#[test]
fn a_clock_that_goes_back_begins_the_readings_again_and_removes_no_pod() {
    for back in [7_000, 60_000, 3_600_000] {
        let mut feed = Feed::of(12, 6);
        feed.seconds(100, 158, 0);
        feed.now -= back;
        // The load is lower from now on: that counts once it was seen for a whole window.
        let held: Vec<_> = (0..25).map(|_| feed.second(25, 0)).collect();
        assert!(held.iter().all(|d| d.replicas == 6), "{back} ms: {held:?}");
        let arrivals = held[5].numbers.arrivals.unwrap();
        assert!((arrivals - 300.0).abs() < 1.0, "{back} ms: {arrivals}");
        let decision = feed.seconds(15, 25, 0);
        assert_eq!((decision.replicas, decision.reason), (1, Reason::ArrivalsDown), "{back} ms");
        // Nor does it keep pods from being added.
        let mut feed = Feed::of(12, 6);
        feed.seconds(100, 158, 0);
        feed.now -= back;
        assert_eq!(feed.seconds(5, 300, 0).replicas, 12, "{back} ms");
    }
}

#[test]
fn a_clock_that_goes_forward_or_a_long_gap_is_no_window_in_which_few_pods_were_needed() {
    for forward in [90_000, 3_600_000] {
        let mut feed = Feed::of(12, 6);
        feed.seconds(100, 158, 0);
        feed.now += forward;
        let held: Vec<_> = (0..90).map(|_| feed.second(158, 0).replicas).collect();
        assert!(held.iter().all(|pods| *pods == 6), "{forward} ms: {held:?}");
        // Nor does it keep them for ever.
        assert_eq!(feed.seconds(100, 25, 0).replicas, 1, "{forward} ms");
    }
}

#[test]
fn a_small_step_of_the_clock_back_is_ignored_until_it_has_caught_up() {
    let mut feed = Feed::of(12, 6);
    feed.seconds(100, 158, 0);
    feed.now -= 3_000;
    let decided: Vec<_> = (0..60).map(|_| feed.second(158, 0)).collect();
    assert!(decided.iter().all(|d| d.replicas == 6), "{decided:?}");
    // What was read before still counts: a whole window lies behind.
    let arrivals = decided[2].numbers.arrivals.unwrap();
    assert!((arrivals - 1_896.0).abs() < 1.0, "{arrivals}");
}

#[test]
fn no_time_is_learnt_across_a_clock_that_goes_back() {
    let mut feed = Feed::of(12, 4);
    feed.seconds(60, 158, 0);
    feed.scale(6);
    feed.seconds(3, 158, 0);
    feed.now -= 3_600_000;
    feed.desired_since = Some(feed.now - 3_000);
    feed.second(158, 0);
    feed.ready = 6;
    feed.second(158, 0);
    assert_eq!(feed.kept().start_seconds, None);
}

#[test]
fn a_topic_without_partitions_moves_nothing() {
    let decision = Feed::of(0, 3).second(0, 0);
    assert_eq!((decision.replicas, decision.reason), (3, Reason::LagUnknown));
}

#[test]
fn to_zero_after_one_window_of_silence_and_back_with_the_first_record() {
    let mut feed = Feed::of(12, 1);
    feed.spec.min_replicas = 0;
    feed.seconds(40, 10, 0);
    assert_eq!(feed.seconds(28, 0, 0).replicas, 1);
    let zero = feed.seconds(5, 0, 0);
    assert_eq!((zero.replicas, zero.reason), (0, Reason::Idle), "{zero:?}");
    (feed.desired, feed.ready) = (0, 0);
    assert_eq!(feed.seconds(30, 0, 0).replicas, 0);
    feed.now += 1_000;
    feed.ends[3] += 1;
    let mut snapshot = feed.snapshot(0);
    snapshot.partitions[3].committed = Committed::At(feed.ends[3] - 1);
    let wake = feed.ask(&snapshot);
    assert_eq!((wake.replicas, wake.reason), (1, Reason::Wake), "{wake:?}");
}

#[test]
fn a_lag_keeps_the_last_pod() {
    let mut feed = Feed::of(12, 1);
    feed.spec.min_replicas = 0;
    assert_eq!(feed.seconds(200, 0, 1).replicas, 1);
}

#[test]
fn pods_do_not_go_while_the_group_is_on_the_move_but_not_for_ever() {
    let mut feed = Feed::of(12, 12);
    feed.seconds(20, 300, 0);
    let ask = |feed: &mut Feed, ready: u32| {
        feed.now += 1_000;
        feed.ends.iter_mut().for_each(|end| *end += 25);
        feed.ready = ready;
        let mut snapshot = feed.snapshot(0);
        let state = if ready == 12 { GroupState::Stable } else { GroupState::Rebalancing };
        snapshot.group = Some(Group { at: feed.now, state, members: Vec::new() });
        feed.ask(&snapshot)
    };
    let held: Vec<_> = (0..50).map(|_| ask(&mut feed, 11)).collect();
    assert!(
        held.iter().all(|d| d.replicas == 12),
        "{:?}",
        held.iter().map(|d| d.replicas).collect::<Vec<_>>()
    );
    assert_eq!((held[45].reason, held[45].wants_group), (Reason::GroupUnsettled, true));
    let acts = (0..30).map(|_| ask(&mut feed, 11)).find(|d| d.replicas < 12).unwrap();
    assert_eq!(acts.replicas, 1, "{acts:?}");
    assert!(acts.message.contains("has not settled"), "{}", acts.message);
}

#[test]
fn asking_for_more_does_not_wait_for_pods_that_start() {
    let mut feed = Feed::of(12, 1);
    feed.seconds(60, 25, 0);
    feed.seconds(5, 158, 0);
    (feed.desired, feed.ready) = (6, 1);
    assert_eq!(feed.seconds(5, 300, 0).replicas, 12);
}

#[test]
fn what_was_not_measured_is_said_to_be_a_guess() {
    let mut feed = Feed::unmeasured(12, 0);
    feed.spec.min_replicas = 0;
    let decision = feed.second(0, 20_000);
    assert_eq!(decision.numbers.capacity, None);
    assert!(decision.replicas >= 1 && decision.replicas < 12, "few pods first: {decision:?}");
    let mut feed = Feed::unmeasured(12, 1);
    let decision = feed.seconds(20, 500, 0);
    assert_eq!((decision.replicas, decision.reason), (1, Reason::Learning), "{decision:?}");
}

#[test]
fn capacity_comes_from_the_counters_of_one_boot_at_the_newest_knobs() {
    let report = |boot, handled, slot_seconds, revision, second: i64| ProgressReport {
        version: 1,
        pod: "a".into(),
        boot,
        at: BEGIN + second * 1_000,
        pod_handled: handled,
        slot_seconds,
        usable_slots: 1.0,
        busy: 0.9,
        partitions: 12,
        revision,
        ..ProgressReport::default()
    };
    // (reports in turn) → the slot's rate
    for (name, reports, expected) in [
        ("one report says nothing", vec![report(1, 900, 3.0, 1, 0)], None),
        ("two do", vec![report(1, 0, 0.0, 1, 0), report(1, 900, 3.0, 1, 1)], Some(300.0)),
        ("too little evidence", vec![report(1, 0, 0.0, 1, 0), report(1, 9, 0.03, 1, 1)], None),
        (
            "a restart between",
            vec![report(1, 5_000, 50.0, 1, 0), report(2, 6_000, 52.0, 1, 1)],
            None,
        ),
        ("knobs between", vec![report(1, 0, 0.0, 1, 0), report(1, 900, 3.0, 2, 1)], None),
        (
            "only the newest knobs",
            vec![
                report(1, 0, 0.0, 1, 0),
                report(1, 900, 3.0, 1, 1),
                report(1, 900, 3.0, 2, 2),
                report(1, 1_900, 5.0, 2, 3),
            ],
            Some(500.0),
        ),
    ] {
        let mut feed = Feed::unmeasured(12, 1);
        for report in reports {
            feed.now += 1_000;
            let mut snapshot = feed.snapshot(0);
            let report = Arc::new(report);
            snapshot.partitions.iter_mut().for_each(|p| p.report = Some(Arc::clone(&report)));
            feed.ask(&snapshot);
        }
        assert_eq!(feed.kept().slot_rate, expected, "{name}");
    }
}

#[test]
fn what_is_remembered_comes_back_and_nonsense_does_not() {
    let memory = Feed::of(1, 1).kept();
    assert_eq!(memory.slot_rate, Some(500.0));
    for nonsense in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let memory = PlannerMemory { slot_rate: Some(nonsense), ..PlannerMemory::default() };
        assert_eq!(Memory::restore(&memory).kept().slot_rate, None, "{nonsense}");
    }
}

#[test]
fn a_decision_that_is_not_carried_out_stays_the_same() {
    // A dry run: the pods stay as they are, and the decision does not wander.
    let mut feed = Feed::of(12, 1);
    feed.seconds(30, 158, 0);
    let all: Vec<_> = (0..300).map(|_| feed.second(158, 0).replicas).collect();
    assert!(all.iter().all(|replicas| *replicas == 6), "{all:?}");
}

#[test]
fn the_start_time_is_that_of_pods_that_were_written_and_not_of_a_decision() {
    // 290 s of a dry run in which six pods are decided on and four stay; then they are written.
    let mut feed = Feed::of(12, 4);
    assert_eq!(feed.seconds(290, 158, 0).replicas, 6);
    feed.scale(6);
    feed.seconds(3, 158, 0);
    feed.ready = 6;
    feed.second(158, 0);
    let learnt = feed.kept().start_seconds.unwrap();
    assert!((3.0..=4.0).contains(&learnt), "{learnt} s");
}

#[test]
fn nothing_is_learnt_of_pods_that_somebody_else_added() {
    // It is paused: a person writes the pods that it would have asked for.
    let mut feed = Feed::of(12, 4);
    assert_eq!(feed.seconds(60, 158, 0).replicas, 6);
    feed.desired = 6;
    feed.seconds(10, 158, 0);
    feed.ready = 6;
    feed.second(158, 0);
    assert_eq!(feed.kept().start_seconds, None);
}

#[test]
fn knobs_that_were_never_written_are_decided_again_and_no_trial_is_judged() {
    let mut feed = Feed::of(12, 1);
    feed.spec.highest.concurrency = 16;
    feed.spec.ordering = Ordering::Key;
    let first = feed.tuning;
    let decided = (0..60).map(|_| feed.working_second(50, 500.0, first).knobs.concurrency);
    let decided: Vec<_> = decided.collect();
    let begin = decided.iter().position(|concurrency| *concurrency > 1).unwrap();
    assert!(decided[begin..].iter().all(|concurrency| *concurrency > 1), "{decided:?}");
    // They are written at last, and gain what they promise: they stay, and so does the slot's rate.
    feed.tune(Knobs { concurrency: 2, ..PINNED });
    let second = feed.tuning;
    for _ in 0..30 {
        let decision = feed.working_second(50, 500.0, second);
        assert!(decision.knobs.concurrency >= 2, "{decision:?}");
    }
    assert_eq!(feed.kept().slot_rate, Some(500.0));
}

#[test]
fn a_change_that_could_not_be_taken_back_is_taken_back_until_it_is() {
    let mut feed = Feed::of(12, 1);
    feed.spec.highest.concurrency = 16;
    feed.spec.ordering = Ordering::Key;
    let first = feed.tuning;
    let raised = (0..30).map(|_| feed.working_second(50, 500.0, first)).last().unwrap().knobs;
    assert!(raised.concurrency > 1, "{raised:?}");
    feed.tune(raised);
    let (second, gained) = (feed.tuning, 500.0 / f64::from(raised.concurrency));
    // It gains nothing, and the write that takes it back fails: it is decided again each time.
    let decided = (0..40).map(|_| feed.working_second(50, gained, second).knobs.concurrency);
    let decided: Vec<_> = decided.collect();
    let back = decided.iter().position(|concurrency| *concurrency == 1).unwrap();
    assert!(decided[back..].iter().all(|concurrency| *concurrency == 1), "{decided:?}");
    // What one slot does is still known once it is written.
    feed.tune(PINNED);
    let third = feed.tuning;
    (0..5).for_each(|_| drop(feed.working_second(50, 480.0, third)));
    let learnt = feed.kept().slot_rate.unwrap();
    assert!((470.0..=500.0).contains(&learnt), "{learnt}");
}

#[test]
fn seconds_behind_are_read_off_the_ends() {
    let mut feed = Feed::of(1, 1);
    feed.seconds(60, 100, 0);
    // 1,000 records at 100/s: the first of them arrived ten seconds ago.
    let behind = feed.second(100, 1_000).numbers.behind.unwrap();
    assert!((behind - 10.0).abs() < 0.1, "{behind}");
    // Older than the readings: unknown, not zero and not a guess.
    assert_eq!(Feed::of(1, 1).second(100, 1_000).numbers.behind, None);
}

#[test]
fn a_stuck_record_is_named_with_partition_offset_age_and_tries() {
    let mut feed = Feed::of(12, 6);
    feed.seconds(30, 158, 0);
    let since = feed.now;
    let stuck = |feed: &mut Feed, partitions: &[(usize, i64)]| {
        feed.now += 1_000;
        feed.ends.iter_mut().for_each(|end| *end += 158);
        let mut snapshot = feed.snapshot(0);
        for &(partition, since) in partitions {
            snapshot.partitions[partition].committed = Committed::At(1_004_740);
            snapshot.partitions[partition].report = Some(Arc::new(ProgressReport {
                version: 1,
                pod: "a".into(),
                at: feed.now,
                blocked: Some(BlockedLane { offset: 1_004_740, since, attempts: 7, lanes: 1 }),
                ..ProgressReport::default()
            }));
        }
        feed.ask(&snapshot)
    };
    let one: Vec<_> = (0..20).map(|_| stuck(&mut feed, &[(3, since)])).collect();
    let last = one.last().unwrap();
    assert_eq!((last.replicas, last.reason), (6, Reason::RecordStuck), "{last:?}");
    assert_eq!(
        last.message,
        "orders-3 makes no progress at offset 1004740: its record has failed for 20 s (7 tries); \
         more pods would not help"
    );
    // The oldest is named, and the others are counted.
    let three: Vec<_> = (0..20)
        .map(|_| stuck(&mut feed, &[(1, since + 9_000), (3, since), (5, since + 9_000)]))
        .collect();
    let message = &three.last().unwrap().message;
    assert!(message.starts_with("orders-3 ") && message.contains("and 2 more"), "{message}");
}

#[test]
fn a_backlog_that_grows_behind_a_bound_is_not_said_to_be_drained() {
    // Four pods of 500 are allowed, and 3,000 per second arrive.
    let mut feed = Feed::of(12, 4);
    feed.spec.max_replicas = Some(4);
    feed.seconds(20, 250, 0);
    for lag in [1_000, 3_000, 6_000] {
        let decision = feed.seconds(15, 250, lag);
        assert_eq!(
            (decision.replicas, decision.reason, decision.limit),
            (4, Reason::BoundReached, Some(Limit::MaxReplicas)),
            "{lag} in each partition: {decision:?}"
        );
    }
    // Where less arrives than they handle, they drain it.
    let decision = feed.seconds(70, 100, 6_000);
    assert_eq!(decision.reason, Reason::Draining, "{decision:?}");
}

#[test]
fn a_change_of_the_knobs_has_a_sentence_of_its_own() {
    let free = |highest: Knobs| {
        let mut feed = Feed::of(12, 1);
        (feed.spec.ordering, feed.spec.highest) = (Ordering::Key, highest);
        feed
    };
    let play = |feed: &mut Feed, rate| {
        let tuning = feed.tuning;
        let decided: Vec<_> = (0..30).map(|_| feed.working_second(50, rate, tuning)).collect();
        decided.into_iter().find_map(|decision| decision.knobs_message)
    };
    let concurrency = Knobs { concurrency: 16, ..PINNED };
    assert_eq!(
        play(&mut free(concurrency), 500.0).unwrap(),
        "concurrency 1 → 2: the fullest pod has to handle 600 records per second; its target is 400"
    );
    let batches = Knobs { batch_size: 1_000, ..PINNED };
    assert_eq!(
        play(&mut free(batches), 500.0).unwrap(),
        "batch size 500 → 600: batches go out full, and the fullest pod has to handle 600 \
         records per second; its target is 400"
    );
    let mut slow = free(PINNED);
    (slow.spec.lowest.batch_size, slow.spec.latency_target) = (1, Some(150.0));
    slow.report = Some(ProgressReport { handler_p99_ms: 210.0, ..ProgressReport::default() });
    assert_eq!(
        play(&mut slow, 500.0).unwrap(),
        "batch size 500 → 400: p99 210 ms is over latencyTarget 150 ms"
    );
    let mut back = free(concurrency);
    play(&mut back, 500.0);
    back.tune(Knobs { concurrency: 2, ..PINNED });
    assert_eq!(
        play(&mut back, 250.0).unwrap(),
        "concurrency 2 → 1: lowered again: the higher concurrency gained nothing (a pod \
         handles 500 records per second, 500 before)"
    );
    let mut bounded = free(Knobs { batch_size: 200, ..PINNED });
    bounded.spec.lowest.batch_size = 10;
    assert_eq!(
        play(&mut bounded, 500.0).unwrap(),
        "batch size 500 → 200: spec.tuning allows batches of 10 to 200 and a concurrency of 1 to 1"
    );
    assert_eq!(play(&mut free(PINNED), 500.0), None);
}

#[test]
fn a_backlog_that_is_mostly_in_one_partition_names_it() {
    let mut feed = Feed::of(12, 1);
    let mut second = |in_one: i64, elsewhere: i64| {
        feed.now += 1_000;
        feed.ends.iter_mut().for_each(|end| *end += 25);
        let mut snapshot = feed.snapshot(elsewhere);
        snapshot.partitions[3].committed = Committed::At(feed.ends[3] - in_one);
        feed.ask(&snapshot).message
    };
    let even: Vec<_> = (0..20).map(|_| second(2_000, 2_000)).collect();
    assert!(even[19].contains(" records wait") && !even[19].contains("of them"), "{}", even[19]);
    let uneven: Vec<_> = (0..20).map(|_| second(9_000, 100)).collect();
    assert!(uneven[19].contains(" of them in orders-3,"), "{}", uneven[19]);
}

#[test]
fn a_hot_partition_is_named() {
    let message = decided_for(Reason::HotPartition).0.message;
    assert_eq!(
        message,
        "orders-3 receives more than a pod can handle (a pod handles 500 per second): more pods \
         would not help"
    );
}

#[test]
fn a_sentence_says_of_which_span_its_rate_is() {
    let mut feed = Feed::of(12, 6);
    let steady = feed.seconds(70, 158, 0).message;
    assert!(steady.starts_with("1896 records per second arrive (mean of 10 s), "), "{steady}");
    feed.second(300, 0);
    let jumped = feed.second(300, 0).message;
    assert!(jumped.starts_with("3600 records per second arrive (mean of 1 s), "), "{jumped}");
    let first = Feed::of(12, 6).second(158, 0).message;
    assert!(first.starts_with("what arrives is not known yet"), "{first}");
}

#[test]
fn readings_that_come_seldom_are_reported() {
    let mut feed = Feed::of(12, 6);
    feed.seconds(20, 158, 0);
    let mut after = |seconds: i64| {
        feed.now += (seconds - 1) * 1_000;
        feed.ends.iter_mut().for_each(|end| *end += 158 * (seconds - 1));
        feed.second(158, 0).message
    };
    // One that is late makes no interval.
    assert!(!after(8).contains("readings come"));
    assert!(after(8).ends_with("; readings come every 8 s"));
    assert!(!after(1).contains("readings come"));
}

#[test]
fn sentences_are_right_for_one_and_for_many() {
    let one = Feed::of(1, 1).seconds(30, 100, 0).message;
    assert!(one.ends_with("1 pod on 1 partition keeps up"), "{one}");
    let many = Feed::of(12, 6).seconds(70, 158, 0).message;
    assert!(many.ends_with("6 pods on 12 partitions keep up"), "{many}");
    assert!(!one.contains("/s") && one.contains("per second"), "{one}");
}

#[test]
fn a_spec_with_its_defaults_is_taken_over_as_it_is() {
    let yaml = "kafka: {bootstrapServers: 'kafka:9092', topics: [orders]}\nhandler: {log: {}}";
    let spec: KafkaConsumerSpec = serde_yaml::from_str(yaml).unwrap();
    let taken = Spec::of(&spec);
    assert_eq!((taken.min_replicas, taken.max_replicas), (1, None));
    assert!((taken.target - 0.8).abs() < 1e-9 && (taken.drain_within - 60.0).abs() < 1e-9);
    assert_eq!(taken.highest, Knobs { batch_size: 500, concurrency: 16 });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_beyond_the_bounds_and_never_down_on_unknown(
        partitions in 1_usize..40,
        pods in 0_u32..50,
        min in 0_u32..50,
        max in proptest::option::of(1_u32..50),
        seconds in proptest::collection::vec((0_i64..800, 0_i64..20_000, 0_u8..10), 1..80),
    ) {
        let mut feed = Feed::of(partitions, pods);
        (feed.spec.min_replicas, feed.spec.max_replicas) = (min.min(max.unwrap_or(min)), max);
        let all = partitions as u32;
        for (each, lag, broken) in seconds {
            feed.now += 1_000;
            feed.ends.iter_mut().for_each(|end| *end += each);
            let mut snapshot = feed.snapshot(lag);
            if broken == 0 {
                snapshot.partitions[0].end = None;
            }
            let decision = feed.ask(&snapshot);
            prop_assert!(decision.replicas <= all, "{decision:?}");
            if broken == 0 {
                prop_assert_eq!(decision.replicas, feed.desired.min(all));
                prop_assert_eq!(decision.knobs, PINNED);
            } else {
                prop_assert!(decision.replicas <= max.unwrap_or(all), "{:?}", decision);
                prop_assert!(decision.replicas >= feed.spec.min_replicas.min(all), "{:?}", decision);
            }
            (feed.desired, feed.ready) = (decision.replicas, decision.replicas);
        }
    }

    #[test]
    fn more_arrivals_never_ask_for_fewer_pods(
        partitions in 1_usize..40, pods in 1_u32..40, less in 0_i64..700, more in 0_i64..700,
    ) {
        let pods = pods.min(partitions as u32);
        let (less, more) = (less.min(more), less.max(more));
        let answer = |each| Feed::of(partitions, pods).seconds(65, each, 0).replicas;
        prop_assert!(answer(less) <= answer(more));
    }

    #[test]
    fn more_lag_never_asks_for_fewer_pods(
        partitions in 1_usize..40, each in 0_i64..700, less in 0_i64..50_000, more in 0_i64..50_000,
    ) {
        let (less, more) = (less.min(more), less.max(more));
        let answer = |lag| Feed::of(partitions, 1).seconds(65, each, lag).replicas;
        prop_assert!(answer(less) <= answer(more));
    }

    #[test]
    fn the_same_history_gives_the_same_decision(
        seconds in proptest::collection::vec((0_i64..800, 0_i64..5_000), 1..60),
    ) {
        let play = || {
            let mut feed = Feed::of(12, 3);
            seconds.iter().map(|&(each, lag)| feed.second(each, lag)).collect::<Vec<_>>()
        };
        prop_assert_eq!(play(), play());
    }

    #[test]
    fn asking_twice_answers_the_same(seconds in proptest::collection::vec((0_i64..800, 0_i64..5_000), 1..60)) {
        let mut feed = Feed::of(12, 3);
        for (each, lag) in seconds {
            let decision = feed.second(each, lag);
            let snapshot = feed.snapshot(lag);
            let again = feed.ask(&snapshot);
            prop_assert_eq!(decision, again);
        }
    }
}
