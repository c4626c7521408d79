//! SIGTERM: finish what is in work, commit, leave.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sluice_consumer::{Batch, Handler, Outcomes};
use sluice_crds::Duration as Length;

use crate::world::{DEADLINE, Protocol, Recorder, World, eventually, stop};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_is_in_work_and_leaves_the_rest_to_others() {
    let world = World::new(1);
    let book = Recorder::new("a").with_delay(Duration::from_millis(500));
    world.send_many(200, 50);
    let member = world
        .member("a", Protocol::Consumer, world.config(), Some(Duration::from_hours(1)))
        .start(Arc::new(book.clone()))
        .unwrap();
    eventually("it is in work", || !book.log().is_empty()).await;
    stop(member).await;
    let started = book.log();
    assert!(started.iter().all(|one| one.done), "nothing was cut off");
    assert!(started.len() < 200, "nothing new was begun");
    // The rest, and only the rest, comes to the next member.
    let book = book.with_delay(Duration::ZERO);
    let next = world.start("b", book.of("b"));
    eventually("the rest is handled", || book.done() >= 200).await;
    stop(next).await;
    book.assert_exactly_once_in_order(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_pod_is_not_ready_and_ends_its_membership() {
    let world = World::new(1);
    let book = Recorder::new("a").with_delay(Duration::from_secs(2));
    world.send_many(1, 1);
    let mut member = world.start("a", book.clone());
    eventually("it is in work", || !book.log().is_empty()).await;
    eventually("it is ready", || member.status().ready()).await;
    member.stop();
    eventually("it is not ready", || !member.status().ready()).await;
    assert_eq!(book.done(), 0, "and still at work");
    tokio::time::timeout(DEADLINE, member.ended()).await.unwrap().unwrap();
    assert_eq!((book.done(), world.lag(1)), (1, 0));
    // A member that had only vanished would be waited for until its session times out (6 s).
    let since = Instant::now();
    let next = world.start("b", book.of("b"));
    world.send_many(1, 1);
    eventually("the next one works", || book.done_by("b") == 1).await;
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    stop(next).await;
}

/// Hangs for ever.
struct Hangs;

#[async_trait]
impl Handler for Hangs {
    async fn handle(&self, _: &Batch) -> Outcomes {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_drain_is_cancelled_and_handled_again() {
    let world = World::new(1);
    world.send_many(5, 5);
    let mut config = world.config();
    config.drain_timeout = Length::from_millis(300);
    let mut member =
        world.member("a", Protocol::Consumer, config, None).start(Arc::new(Hangs)).unwrap();
    eventually("it is in work", || member.status().in_work.get() > 0).await;
    let since = Instant::now();
    member.stop();
    tokio::time::timeout(DEADLINE, member.ended()).await.unwrap().unwrap();
    assert!(
        since.elapsed() >= Duration::from_millis(300) && since.elapsed() < Duration::from_secs(5)
    );
    let book = Recorder::new("b");
    let next = world.start("b", book.clone());
    eventually("all is handled", || book.done() == 5).await;
    stop(next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_cuts_the_drain_short() {
    let world = World::new(1);
    world.send_many(5, 5);
    let mut member =
        world.member("a", Protocol::Consumer, world.config(), None).start(Arc::new(Hangs)).unwrap();
    eventually("it is in work", || member.status().in_work.get() > 0).await;
    let since = Instant::now();
    member.stop();
    member.stop_now();
    tokio::time::timeout(DEADLINE, member.ended()).await.unwrap().unwrap();
    assert!(since.elapsed() < Duration::from_secs(5), "the drain timeout is 20 s");
}
