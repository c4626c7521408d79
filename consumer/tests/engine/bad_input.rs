//! Odd records, and offsets that do not exist.

use std::{sync::Arc, time::Duration};

use sluice_consumer::{Consumer, Overrides};

use crate::world::{Protocol, Recorder, World, eventually, stop};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn null_keys_null_values_empty_ones_and_large_records_come_through_as_they_are() {
    let world = World::new(1);
    let large = vec![7_u8; 900_000];
    world.send_to(0, None, Some(b"no key"));
    world.send_to(0, Some(b"tombstone"), None);
    world.send_to(0, Some(b""), Some(b""));
    world.send_to(0, None, None);
    world.send_to(0, Some(b"large"), Some(&large));
    world.send_to(0, Some(b"after"), Some(b"it"));
    world.flush();
    let book = Recorder::new("a");
    let member = world.start("a", book.clone());
    eventually("all is handled", || book.done() == 6).await;
    let mut log = book.log();
    log.sort_by_key(|one| one.offset);
    let seen: Vec<_> = log.iter().map(|one| (one.key.as_deref(), one.payload.as_deref())).collect();
    assert_eq!(
        seen,
        [
            (None, Some(&b"no key"[..])),
            (Some(&b"tombstone"[..]), None),
            (Some(&b""[..]), Some(&b""[..])),
            (None, None),
            (Some(&b"large"[..]), Some(&large[..])),
            (Some(&b"after"[..]), Some(&b"it"[..])),
        ]
    );
    eventually("all is committed", || world.lag(1) == 0).await;
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_offset_below_the_log_starts_at_the_log_and_counts_what_is_lost() {
    for protocol in [Protocol::Eager, Protocol::Cooperative, Protocol::Consumer] {
        let world = World::new(2);
        // The mock keeps 5 MiB of a partition.
        let large = vec![0; 900_000];
        for _ in 0..10 {
            world.send_to(0, None, Some(&large));
            world.flush();
        }
        world.send_to(1, None, Some(b"other"));
        world.flush();
        world.commit(0, 0);
        world.commit(1, 0);
        let (start, end) = world.log(0);
        assert!(start > 0, "the mock deleted some");
        let book = Recorder::new("a");
        let member = world
            .member("a", protocol, world.config(), None)
            .start(Arc::new(book.clone()))
            .unwrap();
        let all = (end - start) as usize + 1;
        eventually("what is left is handled", || book.done() == all).await;
        assert_eq!(member.status().records_lost.get(), start as u64);
        eventually("the report says so", || {
            world.report(0).is_some_and(|report| report.lost == start as u64)
        })
        .await;
        eventually("all is committed", || world.committed(2)[&0].0 == end).await;
        assert_eq!(book.log().len(), all, "and the other partition's record came once");
        stop(member).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_offset_above_the_log_stops_that_partition_alone() {
    let world = World::new(2);
    for partition in 0..2 {
        world.send_to(partition, None, Some(b"x"));
    }
    world.flush();
    world.commit(0, 3);
    let book = Recorder::new("a");
    let member = world.start("a", book.clone());
    eventually("the partition stands", || member.status().above_end.get() == 1).await;
    eventually("the report says so", || world.report(0).is_some_and(|report| report.above_end))
        .await;
    eventually("the other one is handled", || book.done() == 1).await;
    assert_eq!(world.committed(2)[&0].0, 3, "and nothing was decided for its owner");
    // The log grows past it: the records from there on are handled.
    (0..5).for_each(|_| world.send_to(0, None, Some(b"y")));
    world.flush();
    eventually("it goes on by itself", || book.done() == 4 && member.status().above_end.get() == 0)
        .await;
    eventually("all is committed", || world.lag(2) == 0).await;
    let offsets: Vec<i64> =
        book.log().iter().filter(|one| one.partition == 0).map(|one| one.offset).collect();
    assert_eq!(offsets, [3, 4, 5]);
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_topic_is_not_ready_not_created_and_found_when_it_comes() {
    for protocol in [Protocol::Cooperative, Protocol::Consumer] {
        let world = World::new(1);
        let mut config = world.config();
        config.kafka.topics = vec!["later".parse().unwrap()];
        let member =
            world.member("a", protocol, config, None).start(Arc::new(Recorder::new("a"))).unwrap();
        // Longer than a group needs to form, as nothing tells that something does not happen.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!member.status().ready() && member.status().partitions.get() == 0, "{protocol:?}");
        world.mock.create_topic("later", 2, 1).unwrap();
        // The mock's side of the consumer protocol gives partitions only when members come or go.
        let all = if protocol == Protocol::Consumer { 0 } else { 2 };
        eventually("it is found", || {
            member.status().partitions.get() == all && member.status().ready()
        })
        .await;
        stop(member).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_a_pod_is_alive_not_ready_and_stops_when_asked() {
    let world = World::new(1);
    let mut config = world.config();
    config.kafka.bootstrap_servers = "127.0.0.1:1".into();
    let consumer =
        Consumer::new(config).tuning_dir(world.tuning.path()).overrides(Overrides::default());
    let member = consumer.start(Arc::new(Recorder::new("a"))).unwrap();
    eventually("the client complains", || member.status().client_errors.get() > 0).await;
    assert!(!member.status().ready());
    assert_eq!(member.status().dead_because(), None);
    stop(member).await;
}

#[tokio::test]
async fn a_setting_that_the_client_does_not_know_ends_the_pod_with_its_name() {
    let world = World::new(1);
    let mut config = world.config();
    config.kafka.properties.insert("no.such.setting".into(), "1".into());
    let mut member = Consumer::new(config).start(Arc::new(Recorder::new("a"))).unwrap();
    let error = member.ended().await.unwrap_err();
    let sentence = sluice_crds::error::sentence(&error);
    assert!(sentence.contains("no.such.setting"), "{sentence}");
}
