//! The tuning file.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use sluice_crds::{
    kafkaconsumer::tuning::ApplyOn,
    tuning::{FILE_NAME, Knobs, Tuning},
};

use crate::world::{Protocol, Recorder, World, eventually, joined, stop};

/// Writes the file as the kubelet does: a new folder, and a symbolic link that is swapped.
fn write(folder: &Path, version: &str, text: &str) {
    let data = folder.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join(FILE_NAME), text).unwrap();
    let (link, new) = (folder.join("..data"), folder.join("..data_tmp"));
    symlink(&data, &new).unwrap();
    fs::rename(new, link).unwrap();
    let file = folder.join(FILE_NAME);
    if !file.is_symlink() {
        symlink(Path::new("..data").join(FILE_NAME), file).unwrap();
    }
}

fn knobs(revision: u64, batch_size: u32, concurrency: u32) -> String {
    Tuning::new(revision, Knobs { batch_size, concurrency }).to_yaml().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_knobs_are_taken_when_the_file_changes_and_a_broken_one_keeps_the_old() {
    let world = World::new(1);
    let folder = world.tuning.path();
    write(folder, "1", &knobs(1, 7, 2));
    let book = Recorder::new("a");
    let member = world.start("a", book.clone());
    let status = Arc::clone(member.status());
    let in_force = || {
        (
            status.revision.get(),
            status.batch_size.get(),
            status.concurrency.get(),
            status.tuning_broken(),
        )
    };
    eventually("the file counts from the start", || in_force() == (1, 7, 2, false)).await;
    joined(&status).await;

    write(folder, "2", &knobs(2, 3, 5));
    eventually("the new knobs are in force", || in_force() == (2, 3, 5, false)).await;
    eventually("the report says so", || world.report(0).is_some_and(|report| report.revision == 2))
        .await;
    world.send_many(20, 20);
    eventually("it works", || book.done() == 20).await;

    write(folder, "3", "batchSize: many\n");
    eventually("a broken file is noticed", || status.tuning_broken()).await;
    assert_eq!(in_force(), (2, 3, 5, true), "and the knobs stay");
    let told =
        || world.report(0).is_some_and(|report| report.tuning_broken && report.revision == 2);
    eventually("the report says so", told).await;
    world.send_many(20, 20);
    eventually("it goes on working", || book.done() == 40).await;

    write(folder, "4", &knobs(4, 9, 1));
    eventually("it recovers", || in_force() == (4, 9, 1, false)).await;
    stop(member).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_rebalance_new_knobs_wait_for_one() {
    let world = World::new(2);
    let folder = world.tuning.path();
    write(folder, "1", &knobs(1, 7, 2));
    let mut config = world.config();
    config.apply_on = ApplyOn::Rebalance;
    let book = Recorder::new("a");
    let a =
        world.member("a", Protocol::Consumer, config, None).start(Arc::new(book.clone())).unwrap();
    eventually("it has its partitions", || a.status().partitions.get() == 2).await;
    write(folder, "2", &knobs(2, 3, 5));
    // As long as four looks at the file would take.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(a.status().revision.get(), 1);
    let b = world.start("b", book.of("b"));
    eventually("the rebalance brings them", || a.status().revision.get() == 2).await;
    stop(a).await;
    stop(b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_never_larger_than_the_knob() {
    let world = World::new(1);
    write(world.tuning.path(), "1", &knobs(1, 6, 3));
    let book = Recorder::new("a").with_delay(Duration::from_millis(2)).answering(|batch, _| {
        assert!(batch.len() <= 6);
        sluice_consumer::Outcomes::done()
    });
    world.send_many(100, 30);
    let member = world.start("a", book.clone());
    eventually("all is handled", || book.done() == 100).await;
    assert_eq!(member.status().panics.get(), 0);
    stop(member).await;
}
