//! What the planner promises, in closed loop with the model.

use sluice_crds::{kafkaconsumer::Ordering, tuning::Knobs};
use sluice_planner::{Limit, Reason};
use sluice_simulator::{Change, Outage, Outcome, PodModel, Scenario, Trace, run};

const MINUTE: i64 = 60_000;

/// The demo's load: 300 → 3,600 → 300 records per second, with the first step `at` milliseconds.
fn spike(at: i64) -> Scenario {
    let trace = Trace::constant(300.0).step(at, 3_600.0).step(at + 2 * MINUTE, 300.0);
    let mut scenario = Scenario::pinned(trace, (at + 4 * MINUTE) / 1_000);
    scenario.spec.scale_down_after = 30.0;
    scenario
}

fn pods(outcome: &Outcome) -> Vec<(u32, u32)> {
    outcome.scalings().map(|c| c.replicas).collect()
}

#[test]
fn a_step_is_met_in_one_change_wherever_it_falls_between_readings_and_however_slowly_pods_start() {
    for start in [1_500, 3_000, 45_000] {
        for phase in [0, 250, 500, 750, 950] {
            let mut scenario = spike(2 * MINUTE);
            (scenario.pods.start, scenario.phase) = (start, phase);
            // The first pod's own start is over long before the step.
            let outcome = run(&scenario);
            let after: Vec<_> = outcome.scalings_after(2 * MINUTE - 5_000).collect();
            let story = outcome.story();
            assert_eq!(after[0].replicas.1, 12, "start {start}, phase {phase}:\n{story}");
            assert!(after[0].at - 2 * MINUTE <= 3_000, "start {start}, phase {phase}:\n{story}");
            // Up once, down once, to the one pod that 300/s need.
            assert_eq!(after.len(), 2, "start {start}, phase {phase}:\n{story}");
            assert_eq!(after[1].replicas, (12, 1), "start {start}, phase {phase}:\n{story}");
        }
    }
}

#[test]
fn pods_wait_for_no_batch_size_where_concurrency_is_pinned() {
    let mut scenario = spike(2 * MINUTE);
    (scenario.knobs.batch_size, scenario.pods.per_batch) = (50, 0.005);
    let outcome = run(&scenario);
    let first = outcome.scalings_after(MINUTE).next().unwrap();
    assert_eq!(first.replicas, (1, 12), "{}", outcome.story());
    assert!(first.at - 2 * MINUTE <= 3_000, "{}", outcome.story());
}

#[test]
fn after_a_step_the_pods_are_there_within_twenty_seconds_and_nothing_is_late_after_a_minute() {
    let outcome = run(&spike(2 * MINUTE));
    assert_eq!(outcome.at(2 * MINUTE + 20_000).unwrap().ready, 12, "{}", outcome.story());
    assert!(
        outcome.most_behind(3 * MINUTE, 4 * MINUTE) < 2.0,
        "{}",
        outcome.most_behind(3 * MINUTE, 4 * MINUTE)
    );
}

#[test]
fn pods_go_when_the_window_is_over_and_not_before() {
    let scenario = spike(2 * MINUTE);
    let outcome = run(&scenario);
    let down = outcome.scalings().find(|c| c.replicas.1 < c.replicas.0).unwrap();
    let after = down.at - 4 * MINUTE;
    assert!(
        (30_000..36_000).contains(&after),
        "{after} ms after the step back:\n{}",
        outcome.story()
    );
}

#[test]
fn one_pod_at_sixty_per_cent_stays_one() {
    assert_eq!(pods(&run(&Scenario::pinned(Trace::constant(300.0), 600))), []);
}

#[test]
fn a_steady_load_moves_nothing_after_the_first_settling() {
    let outcome = run(&Scenario::pinned(Trace::constant(1_900.0), 660));
    assert_eq!(outcome.at(11 * MINUTE).unwrap().desired, 6, "{}", outcome.story());
    assert_eq!(outcome.scalings_after(MINUTE).count(), 0, "{}", outcome.story());
    assert!(outcome.most_behind(MINUTE, 11 * MINUTE) < 2.0);
}

#[test]
fn noise_rarely_changes_anything() {
    for (noise, allowed) in [(0.05, 0.5), (0.1, 0.8), (0.2, 1.8)] {
        let (mut changes, mut runs) = (0, 0);
        for rate in [300.0, 500.0, 800.0, 1_200.0, 1_700.0, 1_900.0, 2_400.0, 3_000.0, 4_000.0] {
            for seed in 1..=2 {
                let outcome =
                    run(&Scenario::pinned(Trace::constant(rate).noisy(noise, seed), 1_200));
                // The first settling is not noise.
                changes += outcome.scalings_after(MINUTE).count();
                runs += 1;
                let behind = outcome.most_behind(2 * MINUTE, 20 * MINUTE);
                assert!(
                    behind < 10.0,
                    "{rate}/s ± {noise}: {behind} s behind\n{}",
                    outcome.story()
                );
            }
        }
        let mean = f64::from(changes as u32) / f64::from(runs);
        println!("noise {noise}: {mean:.2} changes in 20 minutes");
        assert!(mean <= allowed, "noise {noise}: {mean} changes in 20 minutes");
    }
}

#[test]
fn noise_around_a_bound_does_not_make_the_bound_come_and_go() {
    // (name, least and most pods, the rate at which the bound begins to be in the way)
    let (partitions, most, least) = ((1, None, 6_000.0), (1, Some(4), 2_000.0), (6, None, 1_600.0));
    let mut total = 0;
    for (min, max, bound) in [partitions, most, least] {
        for share in [0.8, 0.9, 0.97, 1.0, 1.03, 1.1, 1.2] {
            for seed in 1..=3 {
                let trace = Trace::constant(bound * share).noisy(0.1, seed);
                let mut scenario = Scenario::pinned(trace, 15 * 60);
                (scenario.spec.min_replicas, scenario.spec.max_replicas) = (min, max);
                scenario.replicas = min;
                let outcome = run(&scenario);
                // The first minute is for the pods to come.
                let limits: Vec<_> =
                    outcome.samples.iter().filter(|s| s.at >= MINUTE).map(|s| s.limit).collect();
                let flips = limits.windows(2).filter(|pair| pair[0] != pair[1]).count();
                total += flips;
                assert!(
                    flips <= 1,
                    "{min}..{max:?} at {share} of the bound, {seed}: {flips} flips"
                );
            }
        }
    }
    println!("bounds: {total} flips in 63 runs of 14 minutes");
}

#[test]
fn a_bound_that_is_in_the_way_is_reported_and_its_end_too() {
    let trace = Trace::constant(1_000.0).step(2 * MINUTE, 3_000.0).step(5 * MINUTE, 1_000.0);
    let mut scenario = Scenario::pinned(trace, 15 * 60);
    scenario.spec.max_replicas = Some(4);
    let outcome = run(&scenario);
    let limit = |at: i64| outcome.at(at).unwrap().limit;
    assert_eq!(limit(2 * MINUTE), None);
    assert_eq!(limit(2 * MINUTE + 10_000), Some(Limit::MaxReplicas));
    assert_eq!(limit(5 * MINUTE), Some(Limit::MaxReplicas));
    assert_eq!(limit(14 * MINUTE), None, "{}", outcome.story());
}

#[test]
fn a_backlog_wakes_pods_from_zero_and_is_gone_in_time() {
    let mut scenario = Scenario::pinned(Trace::constant(0.0), 420);
    (scenario.backlog, scenario.replicas, scenario.spec.min_replicas) = (200_000.0, 0, 0);
    let outcome = run(&scenario);
    let gone = outcome.samples.iter().find(|s| s.lag < 1.0).unwrap().at;
    println!(
        "backlog of 200,000 from zero: gone after {:.1} s\n{}",
        gone as f64 / 1e3,
        outcome.story()
    );
    assert!(gone <= 80_000, "{gone} ms\n{}", outcome.story());
    let last = outcome.scalings().last().unwrap();
    assert_eq!((last.replicas.1, last.reason), (0, Reason::Idle), "{}", outcome.story());
    // One window of silence, not two.
    assert!(last.at < gone + 125_000, "{}", outcome.story());
}

#[test]
fn a_load_that_begins_at_zero_pods_is_met_in_one_change() {
    let mut scenario = Scenario::pinned(Trace::constant(0.0).step(30_000, 1_900.0), 120);
    (scenario.replicas, scenario.spec.min_replicas) = (0, 0);
    // The capacity was measured before the pods went.
    scenario.remembered = Some(500.0);
    let outcome = run(&scenario);
    assert_eq!(pods(&outcome), [(0, 6)], "{}", outcome.story());
    assert!(outcome.scalings().next().unwrap().at <= 33_000, "{}", outcome.story());
}

#[test]
fn with_no_load_and_no_pods_nothing_happens() {
    let mut scenario = Scenario::pinned(Trace::constant(0.0), 300);
    (scenario.replicas, scenario.spec.min_replicas) = (0, 0);
    assert_eq!(pods(&run(&scenario)), []);
}

#[test]
fn a_spike_before_anything_was_measured_is_met_within_seconds() {
    // Nothing is known of the pods: the one that runs is measured while it works, and the rest follows.
    let mut scenario = Scenario::pinned(Trace::constant(0.0).step(20_000, 3_600.0), 120);
    scenario.phase = 500;
    let outcome = run(&scenario);
    println!("cold spike:\n{}", outcome.story());
    let full = outcome.samples.iter().find(|s| s.desired == 12).unwrap().at;
    assert!(full <= 30_000, "{full} ms\n{}", outcome.story());
    assert!(pods(&outcome).len() <= 2, "{}", outcome.story());
}

#[test]
fn nothing_moves_while_a_broker_is_away() {
    for outage in [Outage::Silence, Outage::SomeEnds, Outage::Commits] {
        for (rate, away) in [(3_600.0, MINUTE), (300.0, MINUTE)] {
            // The load changes while nobody can see it.
            let mut scenario =
                Scenario::pinned(Trace::constant(1_900.0).step(3 * MINUTE + 5_000, rate), 240);
            scenario.outages = vec![(3 * MINUTE, 3 * MINUTE + away, outage)];
            let outcome = run(&scenario);
            let moved =
                outcome.scalings_after(3 * MINUTE).filter(|c| c.at < 3 * MINUTE + away).count();
            assert_eq!(moved, 0, "{outage:?}:\n{}", outcome.story());
        }
    }
}

#[test]
fn an_outage_under_steady_load_changes_nothing_at_all() {
    for outage in [Outage::Silence, Outage::SomeEnds, Outage::Commits] {
        let mut scenario = Scenario::pinned(Trace::constant(1_900.0), 480);
        scenario.outages = vec![(3 * MINUTE, 4 * MINUTE, outage)];
        let outcome = run(&scenario);
        assert_eq!(outcome.scalings_after(MINUTE).count(), 0, "{outage:?}:\n{}", outcome.story());
    }
}

#[test]
fn a_restart_of_the_operator_moves_nothing_under_steady_load() {
    let mut scenario = Scenario::pinned(Trace::constant(1_900.0), 480);
    scenario.restarts = vec![3 * MINUTE, 5 * MINUTE];
    let outcome = run(&scenario);
    assert_eq!(outcome.scalings_after(MINUTE).count(), 0, "{}", outcome.story());
}

#[test]
fn a_record_that_fails_again_and_again_adds_no_pods() {
    let mut scenario = Scenario::pinned(Trace::constant(300.0), 600);
    scenario.block = Some((MINUTE, 3));
    let outcome = run(&scenario);
    assert!(outcome.samples.last().unwrap().lag > 5_000.0, "the partition does not wait");
    assert_eq!(pods(&outcome), [], "{}", outcome.story());
}

#[test]
fn a_hot_partition_adds_no_pods_that_cannot_help_it() {
    let mut scenario = Scenario::pinned(Trace::constant(1_600.0), 300);
    scenario.shares = vec![1.0; 12];
    scenario.shares[4] = 11.0;
    let outcome = run(&scenario);
    println!("hot partition:\n{}", outcome.story());
    // 800/s in one partition, 800/s in the others: three pods for those, and one for the hot one.
    assert!(outcome.samples.last().unwrap().desired <= 6, "{}", outcome.story());
}

/// Knobs that may move, and a handler with a cost for each call.
fn free(rate: f64, to: f64, seconds: i64) -> Scenario {
    let mut scenario = Scenario::pinned(Trace::constant(rate).step(2 * MINUTE, to), seconds);
    scenario.spec.highest.concurrency = 16;
    scenario.spec.ordering = Ordering::Key;
    scenario.pods = PodModel { ordering: Ordering::Key, per_batch: 0.005, ..PodModel::default() };
    scenario.knobs = Knobs { batch_size: 50, concurrency: 1 };
    scenario
}

#[test]
fn freed_knobs_do_the_work_of_pods_and_then_stay() {
    let outcome = run(&free(300.0, 3_600.0, 900));
    println!("freed knobs:\n{}", outcome.story());
    let last = outcome.samples.last().unwrap();
    assert!(last.knobs.concurrency >= 4 && last.behind < 2.0, "{}", outcome.story());
    assert!(last.desired <= 2, "{}", outcome.story());
    assert_eq!(
        outcome.changes.iter().filter(|c| c.at > 8 * MINUTE).count(),
        0,
        "{}",
        outcome.story()
    );
    let first =
        outcome.changes.iter().find(|c| c.at >= 2 * MINUTE && c.knobs.0 != c.knobs.1).unwrap().at;
    assert!((2 * MINUTE..2 * MINUTE + 30_000).contains(&first), "{}", outcome.story());
}

#[test]
fn concurrency_that_gains_nothing_is_taken_back() {
    let mut scenario = free(300.0, 1_900.0, 600);
    // Calls wait for each other from the second slot on.
    scenario.pods.knee = 1.0;
    let outcome = run(&scenario);
    println!("a downstream that gains nothing:\n{}", outcome.story());
    let last = outcome.samples.last().unwrap();
    assert_eq!(last.knobs.concurrency, 1, "{}", outcome.story());
    assert!(last.desired >= 6 && last.behind < 2.0, "{}", outcome.story());
    // What was measured while slots waited for each other asks for no pods.
    assert_eq!(pods(&outcome), [(1, 6)], "{}", outcome.story());
}

#[test]
fn a_trial_goes_on_over_a_restart_and_is_taken_back_if_it_gains_nothing() {
    let mut scenario = free(300.0, 1_900.0, 600);
    scenario.pods.knee = 1.0;
    let raised = |outcome: &Outcome| {
        let raise = |c: &&Change| c.knobs.1.concurrency > c.knobs.0.concurrency;
        outcome.changes.iter().find(raise).unwrap().at
    };
    let undisturbed = run(&scenario);
    for after in [500, 1_000, 3_000, 8_000] {
        scenario.restarts = vec![raised(&undisturbed) + after];
        let outcome = run(&scenario);
        let last = outcome.samples.last().unwrap();
        assert_eq!(last.knobs.concurrency, 1, "{after} ms:\n{}", outcome.story());
        assert_eq!(pods(&outcome), [(1, 6)], "{after} ms:\n{}", outcome.story());
    }
}

#[test]
fn while_writes_fail_nothing_is_learnt_of_them_and_then_all_goes_its_way() {
    for failing in [20_000, 90_000, 200_000] {
        // Pods: the start time that is learnt is the pods' own.
        let mut scenario = spike(2 * MINUTE);
        scenario.spec.drain_within = 600.0;
        scenario.trace = Trace::constant(300.0).step(2 * MINUTE, 3_600.0);
        scenario.failing_writes = vec![(2 * MINUTE, 2 * MINUTE + failing)];
        let outcome = run(&scenario);
        assert_eq!(pods(&outcome), [(1, 12)], "{failing} ms:\n{}", outcome.story());
        let start = outcome.memory.start_seconds.unwrap();
        assert!((2.0..=5.0).contains(&start), "{failing} ms: {start} s");

        // Knobs: a trial begins when it is written, also one that is taken back.
        let mut scenario = free(300.0, 1_900.0, 900);
        scenario.pods.knee = 1.0;
        scenario.failing_writes = vec![(2 * MINUTE, 2 * MINUTE + failing)];
        let outcome = run(&scenario);
        let last = outcome.samples.last().unwrap();
        assert_eq!(last.knobs.concurrency, 1, "{failing} ms:\n{}", outcome.story());
        assert!(last.desired >= 6 && last.behind < 2.0, "{failing} ms:\n{}", outcome.story());
    }
}

#[test]
fn knobs_that_never_arrive_hold_no_pods_back() {
    for ordering in [Ordering::Key, Ordering::Partition] {
        let mut scenario = free(300.0, 3_600.0, 300);
        scenario.pods =
            PodModel { ordering, per_batch: 0.0, knobs_arrive: i64::MAX / 4, ..scenario.pods };
        scenario.spec.ordering = ordering;
        let outcome = run(&scenario);
        assert!(outcome.at(3 * MINUTE).unwrap().desired >= 12, "{ordering:?}\n{}", outcome.story());
    }
}

#[test]
fn a_ramp_is_followed_without_falling_far_behind() {
    let trace = Trace::constant(300.0).ramp(2 * MINUTE, MINUTE, 3_000.0);
    let outcome = run(&Scenario::pinned(trace, 360));
    println!(
        "ramp:\n{}\nmost behind {:.1} s",
        outcome.story(),
        outcome.most_behind(2 * MINUTE, 4 * MINUTE)
    );
    assert!(outcome.scalings().count() <= 5, "{}", outcome.story());
    assert!(outcome.most_behind(2 * MINUTE, 4 * MINUTE) < 5.0, "{}", outcome.story());
}

#[test]
fn the_same_scenario_has_the_same_outcome() {
    let scenario = Scenario::pinned(Trace::constant(1_900.0).noisy(0.2, 5), 600);
    assert_eq!(run(&scenario), run(&scenario));
}
