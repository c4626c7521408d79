//! Records that fail: retries, blocked lanes, panics, and that nothing is skipped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use sluice_consumer::{Batch, Outcome, Outcomes, Record};
use sluice_crds::kafkaconsumer::Ordering;

use crate::world::{Protocol, Recorder, World, eventually, stop};

/// Outcomes for a handler that stops a lane at its first failure.
fn each(batch: &Batch, fails: impl Fn(&Record) -> bool) -> Outcomes {
    let mut failed = Vec::new();
    let outcome = |record: &Record| {
        if failed.contains(&record.lane()) {
            Outcome::NotTried
        } else if fails(record) {
            failed.push(record.lane());
            Outcome::retry("no")
        } else {
            Outcome::Done
        }
    };
    Outcomes::Each(batch.records().iter().map(outcome).collect())
}

fn is_key(record: &Record, key: &str) -> bool {
    record.key().is_some_and(|other| &other[..] == key.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_fails_is_tried_again_while_other_keys_go_on() {
    let world = World::new(1);
    let book = Recorder::new("a")
        .answering(|batch, _| each(batch, |record| is_key(record, "k3") && record.attempt() < 3));
    world.send_many(100, 10);
    let member = world.start("a", book.clone());
    eventually("all is handled", || book.done() == 100).await;
    book.assert_exactly_once_in_order(100);
    assert_eq!(member.status().retries.get(), 20, "ten records of k3, two failures each");
    eventually("all is committed", || world.lag(1) == 0).await;
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_lane_is_reported_holds_the_commit_and_recovers_by_itself() {
    let world = World::new(1);
    let healthy = Arc::new(AtomicBool::new(false));
    let book = {
        let healthy = Arc::clone(&healthy);
        Recorder::new("a").answering(move |batch, _| {
            each(batch, |record| is_key(record, "k3") && !healthy.load(SeqCst))
        })
    };
    world.send_many(100, 10);
    let member = world.start("a", book.clone());
    eventually("the other keys are handled", || book.done() == 90).await;
    eventually("the lane is blocked", || member.status().blocked_lanes.get() == 1).await;
    let told = || {
        world.report(0).is_some_and(|report| {
            report.blocked.is_some_and(|blocked| {
                blocked.offset == 3 && blocked.lanes == 1 && blocked.attempts > 3
            }) && report.done_beyond == 87
                && report.open == 10
        })
    };
    eventually("the report says so", told).await;
    assert_eq!(world.committed(1)[&0].0, 3, "nothing is skipped");
    healthy.store(true, SeqCst);
    eventually("all is handled", || book.done() == 100).await;
    book.assert_exactly_once_in_order(100);
    eventually("all is committed", || world.lag(1) == 0).await;
    eventually("nothing is blocked", || member.status().blocked_lanes.get() == 0).await;
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_away_blocks_all_and_all_recovers() {
    for ordering in [Ordering::Key, Ordering::Partition] {
        let world = World::new(2);
        let healthy = Arc::new(AtomicBool::new(false));
        let book = {
            let healthy = Arc::clone(&healthy);
            Recorder::new("a").answering(move |_, _| {
                if healthy.load(SeqCst) { Outcomes::done() } else { Outcomes::retry("503") }
            })
        };
        world.send_many(400, 50);
        let mut config = world.config();
        config.ordering = ordering;
        let member = world
            .member("a", Protocol::Consumer, config, None)
            .start(Arc::new(book.clone()))
            .unwrap();
        eventually("lanes are blocked", || member.status().blocked_lanes.get() >= 2).await;
        assert_eq!(book.done(), 0);
        healthy.store(true, SeqCst);
        eventually("all is handled", || book.done() == 400).await;
        book.assert_exactly_once_in_order(400);
        eventually("all is committed", || world.lag(2) == 0).await;
        stop(member).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_is_tried_again() {
    let world = World::new(1);
    let book = Recorder::new("a").answering(|_, call| {
        assert!(call > 1, "two calls panic, for this test");
        Outcomes::done()
    });
    world.send_many(30, 5);
    let member = world.start("a", book.clone());
    eventually("all is handled", || book.done() == 30).await;
    assert_eq!(member.status().panics.get(), 2);
    book.assert_exactly_once_in_order(30);
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_record_blocks_its_lane_at_once_and_is_not_skipped() {
    let world = World::new(1);
    let book = Recorder::new("a").answering(|batch, _| {
        let outcome = |record: &Record| {
            if is_key(record, "k1") && record.attempt() < 3 {
                Outcome::dead("bad")
            } else {
                Outcome::Done
            }
        };
        Outcomes::Each(batch.records().iter().map(outcome).collect())
    });
    world.send_many(3, 3);
    let member = world.start("a", book.clone());
    eventually("all is handled in the end", || book.done() == 3).await;
    assert_eq!((member.status().dead.get(), member.status().retries.get()), (2, 2));
    eventually("all is committed", || world.lag(1) == 0).await;
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_behind_a_blocked_lane_are_bounded() {
    let world = World::new(1);
    let book = Recorder::new("a").answering(|_, _| Outcomes::retry("no"));
    let mut config = world.config();
    config.ordering = Ordering::Partition;
    world.send_many(5_000, 10);
    let member =
        world.member("a", Protocol::Consumer, config, None).start(Arc::new(book.clone())).unwrap();
    eventually("the lane is blocked", || member.status().blocked_lanes.get() == 1).await;
    // As long as ten fetches would take.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(member.status().open.get() <= 300, "{} of 5,000 are held", member.status().open.get());
    stop(member).await;
}
