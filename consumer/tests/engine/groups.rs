//! Members come and go under load: nothing lost, nothing handled twice, order kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use sluice_consumer::Outcomes;

use crate::world::{Protocol, Recorder, World, eventually, joined, stop};

const PARTITIONS: i32 = 6;

async fn members_come_and_go(protocol: Protocol) {
    let world = World::new(PARTITIONS);
    let book = Recorder::new("a").with_delay(Duration::from_millis(20));
    let over = Arc::new(AtomicBool::new(false));
    let load = {
        let (sender, over) = (Arc::clone(&world.sender), Arc::clone(&over));
        thread::spawn(move || {
            let mut i = 0;
            while !over.load(SeqCst) {
                (0..10).for_each(|_| {
                    i += 1;
                    sender.send(&format!("k{}", i % 97));
                });
                thread::sleep(Duration::from_millis(10));
            }
            sender.flush();
        })
    };
    let start = |pod| {
        // Without commits in between only those of the revokes and the stops count. The mock refuses a commit while any
        // member of a classic group joins (Kafka takes it), so there it cannot be that strict.
        let every = (protocol == Protocol::Consumer).then_some(Duration::from_hours(1));
        let member = world.member(pod, protocol, world.config(), every);
        member.start(Arc::new(book.of(pod))).unwrap()
    };
    let a = start("a");
    eventually("the first member works", || book.done_by("a") > 500).await;
    let b = start("b");
    eventually("the second member works", || book.done_by("b") > 500).await;
    let c = start("c");
    eventually("the third member works", || book.done_by("c") > 300).await;
    assert!(a.status().partitions.get() < PARTITIONS as u64, "the first gave some away");
    let status = Arc::clone(a.status());
    stop(a).await;
    let given_up = status.commit_failures.get();
    let before = book.done_by("b");
    eventually("the others go on", || book.done_by("b") > before + 300).await;
    over.store(true, SeqCst);
    load.join().unwrap();
    eventually("all is handled", || book.different() == world.produced()).await;
    let refused = b.status().commit_failures.get() + c.status().commit_failures.get() + given_up;
    stop(b).await;
    stop(c).await;
    book.assert_all_in_order(world.produced());
    if protocol == Protocol::Consumer {
        assert_eq!(refused, 0);
    }
    if refused == 0 {
        book.assert_exactly_once_in_order(world.produced());
        assert_eq!(world.lag(PARTITIONS), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eager_members_come_and_go_without_loss() {
    members_come_and_go(Protocol::Eager).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cooperative_members_come_and_go_without_loss() {
    members_come_and_go(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_the_consumer_protocol_come_and_go_without_loss_or_repeat() {
    members_come_and_go(Protocol::Consumer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_partition_is_never_committed() {
    let world = World::new(1);
    let book = Recorder::new("a");
    world.send_many(10, 3);
    let member = world
        .member("a", Protocol::Cooperative, world.config(), Some(Duration::from_hours(1)))
        .start(Arc::new(book.clone()))
        .unwrap();
    eventually("all is handled once", || book.done() == 10).await;
    // The group has thrown the member out: somebody else may have the partition by now.
    let unknown = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 3];
    world.mock.request_errors(RDKafkaApiKey::Heartbeat, &unknown);
    eventually("the partition is lost", || member.status().partitions_lost.get() > 0).await;
    world.mock.clear_request_errors(RDKafkaApiKey::Heartbeat);
    let tried = member.status().commits.get() + member.status().commit_failures.get();
    assert_eq!(tried, 0, "not even tried: a broker that has not noticed yet would take it");
    // Had they been committed at the loss, they would not come again.
    eventually("all is handled again", || book.done() == 20).await;
    stop(member).await;
    assert_eq!(world.lag(1), 0, "the second time they were committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_lost_partition_no_longer_counts() {
    let world = World::new(1);
    world.send_many(1, 1);
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let handler = Waits { book: Recorder::new("a"), release: Arc::clone(&release) };
    let book = handler.book.clone();
    let member = world
        .member("a", Protocol::Cooperative, world.config(), Some(Duration::from_hours(1)))
        .start(Arc::new(handler))
        .unwrap();
    eventually("it is in work", || member.status().in_work.get() == 1).await;
    let unknown = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 3];
    world.mock.request_errors(RDKafkaApiKey::Heartbeat, &unknown);
    eventually("what was in work is cancelled, without a drain", || {
        member.status().stale.get() == 1
    })
    .await;
    world.mock.clear_request_errors(RDKafkaApiKey::Heartbeat);
    release.add_permits(1);
    eventually("it is handled by the next owner", || book.done() == 1).await;
    stop(member).await;
    assert_eq!(world.lag(1), 0);
}

struct Waits {
    book: Recorder,
    release: Arc<tokio::sync::Semaphore>,
}

#[async_trait::async_trait]
impl sluice_consumer::Handler for Waits {
    async fn handle(&self, batch: &sluice_consumer::Batch) -> Outcomes {
        self.release.acquire().await.unwrap().forget();
        self.book.handle(batch).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_partitions_is_ready() {
    for protocol in [Protocol::Cooperative, Protocol::Consumer] {
        let world = World::new(1);
        let book = Recorder::new("a");
        let start = |pod| {
            world.member(pod, protocol, world.config(), None).start(Arc::new(book.of(pod))).unwrap()
        };
        let (a, b) = (start("a"), start("b"));
        joined(a.status()).await;
        joined(b.status()).await;
        eventually("one has the partition", || {
            a.status().partitions.get() + b.status().partitions.get() == 1
        })
        .await;
        assert!(a.status().ready() && b.status().ready(), "{protocol:?}");
        stop(a).await;
        stop(b).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoke_waits_for_slow_work_and_the_lane_goes_on_elsewhere() {
    let world = World::new(2);
    // Each call takes longer than a heartbeat or a commit; all must be done once.
    let book = Recorder::new("a").with_delay(Duration::from_millis(1_500));
    world.send_many(60, 12);
    let a = world.start("a", book.of("a"));
    eventually("it is in work", || a.status().in_work.get() > 0).await;
    let b = world.start("b", book.of("b"));
    eventually("all is handled", || book.done() == 60).await;
    stop(a).await;
    stop(b).await;
    book.assert_exactly_once_in_order(60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_commit_carries_a_report_and_the_lag_gets_to_zero_by_itself() {
    let world = World::new(1);
    let book = Recorder::new("a").with_delay(Duration::from_millis(5));
    world.send_many(300, 10);
    let member = world.start("orders-1", book.clone());
    eventually("all is committed", || {
        world.committed(1).get(&0).is_some_and(|(offset, _)| *offset == 300)
    })
    .await;
    let report = world.report(0).unwrap();
    assert_eq!(
        (report.pod.as_str(), report.handled, report.pod_handled, report.open),
        ("orders-1", 300, 300, 0)
    );
    assert_eq!(
        (report.partitions, report.revision, report.tuning_broken, report.blocked),
        (1, 0, false, None)
    );
    assert!(report.slot_seconds > 0.05 && report.handler_p99_ms >= 5.0, "{report:?}");
    assert!(report.epoch > 0 && report.sequence > 0 && report.at >= report.boot, "{report:?}");
    stop(member).await;
    assert_eq!(book.log().len(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_stands_still_still_reports() {
    let world = World::new(1);
    world.send_many(1, 1);
    let member = world.start(
        "a",
        Waits { book: Recorder::new("a"), release: Arc::new(tokio::sync::Semaphore::new(0)) },
    );
    eventually("it reports what is open", || {
        world.report(0).is_some_and(|report| report.open == 1)
    })
    .await;
    let first = world.report(0).unwrap();
    assert!(first.oldest_open.is_some() && first.handled == 0);
    let next = || {
        world.report(0).is_some_and(|report| report.sequence > first.sequence && report.busy > 0.2)
    };
    eventually("it reports again, and that its slot is in use", next).await;
    let (since, before) = (Instant::now(), member.status().commits.get());
    eventually("it commits again and again", || member.status().commits.get() >= before + 3).await;
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "every second, not when an answer is given up: {:?}",
        since.elapsed()
    );
    member.stop_now();
    drop(member);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_and_comes_back_costs_no_record() {
    let world = World::new(2);
    let book = Recorder::new("a");
    world.send_many(100, 10);
    let member = world.start("a", book.clone());
    eventually("it works", || book.done() == 100).await;
    world.mock.broker_down(1).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.mock.broker_up(1).unwrap();
    world.send_many(100, 10);
    eventually("it goes on", || book.done() >= 200).await;
    let all = || world.lag(2) == 0;
    eventually("all is committed", all).await;
    stop(member).await;
}
