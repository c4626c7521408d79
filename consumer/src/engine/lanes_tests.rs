//! What the lanes promise: order, progress, and that a bad record ends up alone.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use sluice_crds::{Duration as Length, kafkaconsumer::delivery::Retry};

use super::*;

const RETRY: Retry = Retry {
    max_retries: 3,
    min_backoff: Length::from_millis(100),
    max_backoff: Length::from_secs(10),
};

fn judge(now: Instant, good: u64) -> Judge {
    Judge { backoff: Backoff::new(&RETRY), now, now_millis: 1_000, good }
}

fn record(offset: i64, key: Option<&str>) -> Pending {
    let mut record = Record::new("t", 0, offset);
    record.key = key.map(|key| Bytes::copy_from_slice(key.as_bytes()));
    Pending::new(record, offset as Slot)
}

fn lanes(ordering: Ordering, keys: &[Option<&str>]) -> Lanes {
    let mut lanes = Lanes::new(ordering);
    for (offset, key) in keys.iter().enumerate() {
        lanes.push(record(offset as i64, *key));
    }
    lanes
}

fn offsets(batch: &[Pending]) -> Vec<i64> {
    batch.iter().map(|pending| pending.record.offset).collect()
}

fn done(lanes: &mut Lanes, batch: Vec<Pending>, now: Instant) {
    lanes.complete(batch, Outcomes::done(), &judge(now, 1), |_| ());
}

#[test]
fn a_key_is_never_in_two_batches_at_once_and_others_pass_it() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[Some("a"), Some("b"), Some("a"), Some("c"), Some("a")]);
    let first = lanes.take(now, 1, 1);
    let second = lanes.take(now, 10, 2);
    assert_eq!((offsets(&first), offsets(&second)), (vec![0], vec![1, 3]));
    assert!(lanes.held_by_order());
    assert!(lanes.take(now, 10, 3).is_empty());
    done(&mut lanes, first, now);
    assert_eq!(offsets(&lanes.take(now, 10, 4)), [2, 4], "together, in their order");
    assert!(!lanes.held_by_order());
}

#[test]
fn one_batch_may_hold_many_records_of_one_key_in_order() {
    let mut lanes = lanes(Ordering::Key, &[Some("a"), Some("b"), Some("a"), None]);
    let batch = lanes.take(Instant::now(), 10, 1);
    assert_eq!(offsets(&batch), [0, 1, 2, 3]);
    assert_eq!(batch.iter().map(|pending| pending.record.lane).collect::<Vec<_>>(), [0, 1, 0, 2]);
}

#[test]
fn records_without_key_have_no_order() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[None, None, None]);
    for batch in 0..3 {
        assert_eq!(lanes.take(now, 1, batch).len(), 1);
    }
}

#[test]
fn an_empty_key_is_a_key() {
    let mut lanes = lanes(Ordering::Key, &[Some(""), Some("")]);
    let now = Instant::now();
    assert_eq!(lanes.take(now, 1, 1).len(), 1);
    assert!(lanes.take(now, 1, 2).is_empty());
}

#[test]
fn a_partition_is_one_lane() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Partition, &[Some("a"), Some("b"), None]);
    let first = lanes.take(now, 2, 1);
    assert_eq!(offsets(&first), [0, 1]);
    assert!(lanes.take(now, 2, 2).is_empty());
    done(&mut lanes, first, now);
    assert_eq!(offsets(&lanes.take(now, 2, 3)), [2]);
}

#[test]
fn a_lane_that_failed_waits_while_others_go_on() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[Some("a"), Some("b"), Some("a")]);
    let batch = lanes.take(now, 2, 1);
    let outcomes = Outcomes::Each(vec![Outcome::retry("no"), Outcome::Done]);
    let verdict = lanes.complete(batch, outcomes, &judge(now, 1), |slot| assert_eq!(slot, 1));
    assert_eq!((verdict.done, verdict.failed, verdict.newly_blocked), (1, 1, 0));
    lanes.push(record(3, Some("b")));
    let due = lanes.next_try().unwrap();
    assert!(due <= now + Duration::from_millis(100));
    if due > now {
        assert_eq!(offsets(&lanes.take(now, 10, 2)), [3]);
    }
    let again = lanes.take(due, 10, 3);
    assert_eq!(offsets(&again), [0, 2]);
    assert_eq!((again[0].record.attempt, again[1].record.attempt), (2, 1));
}

#[test]
fn after_the_retries_the_lane_is_blocked_and_goes_on_being_tried_until_it_recovers() {
    let mut now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[Some("a"), Some("a")]);
    for tries in 1..=6 {
        let batch = lanes.take(now, 1, tries);
        assert_eq!(offsets(&batch), [0], "nothing is skipped");
        let verdict =
            lanes.complete(batch, Outcomes::retry("no"), &judge(now, 0), |_| panic!("not done"));
        assert_eq!(verdict.newly_blocked, usize::from(tries == 4));
        assert_eq!(lanes.blocked_lanes(), usize::from(tries >= 4));
        let due = lanes.next_try().unwrap();
        assert!(due <= now + Duration::from_secs(10));
        if tries >= 4 {
            assert!(due >= now + Duration::from_millis(7_500), "the longest backoff");
            assert_eq!(
                lanes.blocked(),
                Some(Blocked { offset: 0, since: 1_000, tries: tries as u32, lanes: 1 })
            );
        }
        now = due;
    }
    let batch = lanes.take(now, 10, 9);
    done(&mut lanes, batch, now);
    assert_eq!((lanes.blocked_lanes(), lanes.blocked(), lanes.next_try()), (0, None, None));
}

#[test]
fn a_dead_record_blocks_its_lane_at_once_and_is_not_skipped() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[None]);
    let batch = lanes.take(now, 1, 1);
    let verdict =
        lanes.complete(batch, Outcome::dead("bad").into(), &judge(now, 0), |_| panic!("not done"));
    assert_eq!((verdict.dead, lanes.blocked_lanes()), (1, 1));
    assert!(lanes.next_try().unwrap() >= now + Duration::from_millis(7_500));
    let batch = lanes.take(lanes.next_try().unwrap(), 1, 2);
    done(&mut lanes, batch, now);
    assert!(lanes.by_id.is_empty(), "no state is left behind");
}

#[test]
fn not_tried_goes_again_and_is_no_try() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[Some("a"), Some("a"), None]);
    let batch = lanes.take(now, 10, 1);
    let outcomes = Outcomes::Each(vec![Outcome::retry("no"), Outcome::NotTried, Outcome::NotTried]);
    lanes.complete(batch, outcomes, &judge(now, 0), |_| panic!("not done"));
    let batch = lanes.take(now + Duration::from_secs(1), 10, 2);
    let mut attempts: Vec<_> =
        batch.iter().map(|one| (one.record.offset, one.record.attempt)).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [(0, 2), (1, 1), (2, 1)]);
    done(&mut lanes, batch, now);
    assert!(lanes.by_id.is_empty(), "no state is left behind");
}

#[test]
fn what_the_other_side_asks_for_is_kept() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[Some("a")]);
    let batch = lanes.take(now, 1, 1);
    lanes.complete(
        batch,
        Outcome::retry_after("later", Duration::from_secs(3)).into(),
        &judge(now, 0),
        |_| (),
    );
    assert_eq!(lanes.next_try(), Some(now + Duration::from_secs(3)));
}

#[test]
fn a_missing_outcome_is_a_failure() {
    let now = Instant::now();
    let mut lanes = lanes(Ordering::Key, &[None, None]);
    let batch = lanes.take(now, 2, 1);
    let verdict =
        lanes.complete(batch, Outcomes::Each(vec![Outcome::Done]), &judge(now, 0), |slot| {
            assert_eq!(slot, 0);
        });
    assert_eq!((verdict.done, verdict.failed), (1, 1));
}

/// A handler that can only say yes or no to a whole batch, and a record that never goes well.
fn until_the_bad_one_is_alone(ordering: Ordering, bad: i64, others: bool) -> usize {
    let mut now = Instant::now();
    let keys: Vec<String> = (0..64).map(|i| i.to_string()).collect();
    let mut lanes = lanes(ordering, &keys.iter().map(|key| Some(key.as_str())).collect::<Vec<_>>());
    let (mut calls, mut good) = (0, 0);
    let mut is_done = HashSet::new();
    // Under `Key` all others get through; under `Partition` those before it do.
    let reachable = if ordering == Ordering::Key { 63 } else { bad as usize };
    while is_done.len() < reachable {
        calls += 1;
        assert!(calls < 2_000, "it never gets through: {} done", is_done.len());
        let batch = lanes.take(now, 500, calls as u64);
        if batch.is_empty() {
            now = lanes.next_try().unwrap().max(now);
            continue;
        }
        good += u64::from(others);
        let bad_in_it = batch.iter().any(|one| one.record.offset == bad);
        let outcomes = if bad_in_it { Outcomes::retry("no") } else { Outcomes::done() };
        good += u64::from(!bad_in_it);
        lanes.complete(batch, outcomes, &judge(now, good), |slot| assert!(is_done.insert(slot)));
    }
    calls
}

#[test]
fn a_bad_record_in_a_batch_ends_up_alone() {
    for ordering in [Ordering::Key, Ordering::Partition] {
        for bad in [0, 31, 63] {
            for others in [true, false] {
                until_the_bad_one_is_alone(ordering, bad, others);
            }
        }
    }
}

#[test]
fn while_nothing_goes_well_batches_stay_large() {
    let mut now = Instant::now();
    let keys: Vec<String> = (0..64).map(|i| i.to_string()).collect();
    let mut lanes =
        lanes(Ordering::Key, &keys.iter().map(|key| Some(key.as_str())).collect::<Vec<_>>());
    let mut calls = 0;
    let end = now + Duration::from_mins(2);
    while now < end {
        let batch = lanes.take(now, 500, calls);
        if batch.is_empty() {
            now = lanes.next_try().unwrap().max(now);
            continue;
        }
        calls += 1;
        lanes.complete(batch, Outcomes::retry("away"), &judge(now, 0), |_| ());
    }
    assert!(calls < 120, "{calls} calls to a receiver that is away for two minutes");
}

/// What a run of random takes and completions must keep.
fn play(ordering: Ordering, keys: &[Option<u8>], seed: u64, failures: f64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut now = Instant::now();
    let mut lanes = Lanes::new(ordering);
    let mut arriving: VecDeque<_> = keys.iter().enumerate().collect();
    let mut out: Vec<(u64, Vec<Pending>)> = Vec::new();
    // By lane: the highest offset that was handed out for the first time, and what is done.
    let mut first_seen: HashMap<u16, i64> = HashMap::new();
    let mut is_done = HashSet::new();
    let (mut number, mut steps, mut good) = (0, 0, 0);
    let lane_of = |key: Option<u8>, offset: i64| match (ordering, key) {
        (Ordering::Partition, _) => 0,
        (Ordering::Key, Some(key)) => u16::from(key),
        (Ordering::Key, None) => 1_000 + offset as u16,
    };
    while is_done.len() < keys.len() {
        steps += 1;
        assert!(steps < 100_000, "stuck with {} of {} done", is_done.len(), keys.len());
        now += Duration::from_millis(random.u64(0..2_000));
        for _ in 0..random.usize(0..4) {
            if let Some((offset, key)) = arriving.pop_front() {
                let key = key.map(|key| key.to_string());
                lanes.push(record(offset as i64, key.as_deref()));
            }
        }
        if random.bool() && out.len() < 4 {
            number += 1;
            let size = random.usize(1..6);
            let batch = lanes.take(now, size, number);
            assert!(batch.len() <= size);
            let mut in_batch: HashMap<u16, i64> = HashMap::new();
            for pending in &batch {
                let offset = pending.record.offset;
                let lane = lane_of(keys[offset as usize], offset);
                assert!(!is_done.contains(&offset), "{offset} again");
                if let Some(before) = in_batch.insert(lane, offset) {
                    assert!(before < offset, "order within a batch");
                }
                if pending.record.attempt == 1 && pending.since == 0 {
                    let before = first_seen.insert(lane, offset);
                    assert!(
                        before.is_none_or(|before| before < offset),
                        "order among first deliveries"
                    );
                }
                let elsewhere =
                    out.iter().flat_map(|(_, batch)| batch).map(|other| other.record.offset);
                for other in elsewhere {
                    assert_ne!(lane_of(keys[other as usize], other), lane, "a lane in two batches");
                }
            }
            if !batch.is_empty() {
                out.push((number, batch));
            }
        } else if !out.is_empty() {
            let (_, batch) = out.swap_remove(random.usize(0..out.len()));
            let mut failed = HashSet::new();
            let whole = random.f64() < failures / 2.0;
            let each = batch.iter().map(|pending| {
                let offset = pending.record.offset;
                let lane = lane_of(keys[offset as usize], offset);
                if failed.contains(&lane) {
                    Outcome::NotTried
                } else if random.f64() < failures {
                    failed.insert(lane);
                    Outcome::retry("no")
                } else {
                    Outcome::Done
                }
            });
            let outcomes =
                if whole { Outcomes::retry("no") } else { Outcomes::Each(each.collect()) };
            good += 1;
            lanes.complete(batch, outcomes, &judge(now, good), |slot| {
                assert!(is_done.insert(slot as i64), "{slot} twice");
            });
        }
        let queued: usize = lanes.by_id.values().map(|lane| lane.queue.len()).sum();
        assert_eq!(
            lanes.ready_records + lanes.behind_work + lanes.behind_failure,
            queued,
            "the counters"
        );
        assert_eq!(lanes.blocked, lanes.by_id.values().filter(|lane| lane.blocked).count());
    }
    assert!(lanes.by_id.is_empty() && lanes.fresh.is_empty(), "no state is left behind");
    assert_eq!(
        (lanes.waiting(), lanes.behind_work, lanes.behind_failure, lanes.blocked_lanes()),
        (0, 0, 0, 0)
    );
}

proptest! {
    #[test]
    fn order_holds_and_all_is_done_once(
        keys in prop::collection::vec(prop::option::weighted(0.8, 0_u8..6), 1..120),
        seed in any::<u64>(),
        failures in prop::sample::select(vec![0.0, 0.1, 0.5]),
        ordering in prop::sample::select(vec![Ordering::Key, Ordering::Partition]),
    ) {
        play(ordering, &keys, seed, failures);
    }
}
