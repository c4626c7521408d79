//! `cargo lab verify`.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use tokio::{runtime::Runtime, signal, time::sleep};

use super::{Collector, Lane, TopicReader, compare};
use crate::{Lab, load::Manifest};

/// Compares what the pods handled with what was produced: lost, duplicated, out of order, delays.
///
/// It reads the pods' logs from their start, so it can be started after the load, as long as the pods are there; to see
/// pods that go away, start it before the load: it waits until all is handled, or for Ctrl-C.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The topic. Default: that of the manifest.
    #[arg(long, required_unless_present = "manifest")]
    pub topic: Option<String>,
    /// What `load --manifest` wrote: only this load's records are looked at, and all that was acknowledged must be there.
    /// May be written while this command waits.
    #[arg(long)]
    pub manifest: Option<PathBuf>,
    /// The namespace of the pods. Default: all.
    #[arg(long, short)]
    pub namespace: Option<String>,
    /// Addresses of the brokers. Default: the lab's.
    #[arg(long)]
    pub bootstrap_servers: Option<String>,
    /// The folder with the pods' logs. Default: the lab's.
    #[arg(long)]
    pub pod_logs: Option<PathBuf>,
    /// The ordering that was promised.
    #[arg(long, value_enum, default_value_t = Order::Key)]
    pub ordering: Order,
    /// How long records may take to be handled after the load.
    #[arg(long, default_value = "60s")]
    pub wait: sluice_crds::Duration,
    /// Handled more than once is no fault: after a kill it is promised no better.
    #[arg(long)]
    pub at_least_once: bool,
    /// Prints the verdict as JSON, with 'seconds behind' for every second.
    #[arg(long)]
    pub json: bool,
}

/// The ordering that was promised, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Order {
    /// Within a key.
    Key,
    /// Within a partition.
    Partition,
}

/// Runs the command, inside the lab unless the arguments name brokers and logs of their own.
pub fn run(mut args: VerifyArgs) -> anyhow::Result<()> {
    let (brokers, logs) = match (args.bootstrap_servers.take(), args.pod_logs.take()) {
        (Some(brokers), Some(logs)) => (brokers, logs),
        (brokers, logs) => {
            let lab = Lab::attach()?;
            lab.enter()?;
            (
                brokers.unwrap_or_else(|| lab.bootstrap_servers()),
                logs.unwrap_or_else(|| lab.pod_logs_dir()),
            )
        }
    };
    Runtime::new()?.block_on(verify(args, brokers, logs))
}

async fn verify(args: VerifyArgs, brokers: String, logs: PathBuf) -> anyhow::Result<()> {
    let collector = Collector::follow_files(logs, args.namespace.as_deref())?;
    let manifest = match &args.manifest {
        None => None,
        Some(path) => {
            while !path.exists() {
                tokio::select! {
                    () = sleep(Duration::from_millis(200)) => {}
                    interrupted = signal::ctrl_c() => { interrupted?; break }
                }
            }
            Some(Manifest::read(path)?)
        }
    };
    let topic =
        args.topic.or_else(|| manifest.as_ref().map(|m| m.topic.clone())).unwrap_or_default();
    let mut reader = TopicReader::new(brokers, topic.clone());
    if let Some(manifest) = &manifest {
        reader = reader.runs([manifest.run.clone()]);
    }
    let mut produced = tokio::task::spawn_blocking(move || reader.read()).await??;
    if let Some(manifest) = &manifest {
        produced.expect(manifest);
    }
    // The records themselves say what is to be waited for, so that it works without a manifest too.
    let deadline = tokio::time::Instant::now() + args.wait.to_std();
    let all: u64 = produced.partitions.values().map(|records| records.len() as u64).sum();
    let handled_all = || {
        collector.look(|evidence| {
            let handled = &evidence.topic(&topic).offsets;
            produced.partitions.iter().all(|(partition, records)| {
                records.is_empty()
                    || handled
                        .get(partition)
                        .is_some_and(|set| records.iter().all(|record| set.contains(record.offset)))
            })
        })
    };
    while collector.distinct(&topic) < all || !handled_all() {
        if tokio::time::Instant::now() >= deadline {
            break;
        }
        tokio::select! {
            () = sleep(Duration::from_millis(200)) => {}
            interrupted = signal::ctrl_c() => { interrupted?; break }
        }
    }
    let evidence = collector.finish().await;
    ensure!(
        evidence.broken() == 0,
        "{} lines of what was handled could not be read",
        evidence.broken()
    );
    let lane = match args.ordering {
        Order::Key => Lane::Key,
        Order::Partition => Lane::Partition,
    };
    let verdict = compare(&produced, evidence.topic(&topic), lane);
    let text =
        if args.json { serde_json::to_string(&verdict)? + "\n" } else { verdict.to_string() };
    // A reader that has seen enough (`| head`) is no fault.
    let _ = io::stdout().write_all(text.as_bytes());
    let fine = if args.at_least_once { verdict.at_least_once() } else { verdict.exactly_once() };
    ensure!(fine, "not every record was handled once and in order");
    Ok(())
}
