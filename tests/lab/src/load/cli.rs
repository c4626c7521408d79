//! `cargo lab load`.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::Args;
use tokio::{runtime::Runtime, signal, time};

use super::{Load, LoadHandle, Schedule, Skew};
use crate::Lab;

/// Produces records at planned rates; each carries its number and its time.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// The topic; it must exist.
    #[arg(long)]
    pub topic: String,
    /// Rates one after the other: 300x30s,3600x90s,300x60s; the last may have no time, then Ctrl-C ends it.
    #[arg(long)]
    pub schedule: Schedule,
    /// Addresses of the brokers. Default: the lab's.
    #[arg(long)]
    pub bootstrap_servers: Option<String>,
    /// Partitions that get records, such as 0,1,2. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub partitions: Option<Vec<i32>>,
    /// Keys; key k goes to partition k mod P. 0: none. Default: 100 for each partition.
    #[arg(long)]
    pub keys: Option<u32>,
    /// How unequal keys are: the exponent of Zipf's law. Default: all equal.
    #[arg(long)]
    pub skew: Option<f64>,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Writes down what was acknowledged, for `verify --manifest`.
    #[arg(long)]
    pub manifest: Option<PathBuf>,
    /// Prints the manifest as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command, inside the lab unless the arguments name brokers.
pub fn run(mut args: LoadArgs) -> anyhow::Result<()> {
    let brokers = if let Some(brokers) = args.bootstrap_servers.take() {
        brokers
    } else {
        let lab = Lab::attach()?;
        lab.enter()?;
        lab.bootstrap_servers()
    };
    Runtime::new()?.block_on(load(args, brokers))
}

async fn load(args: LoadArgs, brokers: String) -> anyhow::Result<()> {
    let mut load = Load::new(brokers, args.topic, args.schedule).size(args.size);
    if let Some(partitions) = args.partitions {
        load = load.partitions(partitions);
    }
    if let Some(keys) = args.keys {
        load = load.keys(keys);
    }
    if let Some(exponent) = args.skew {
        load = load.skew(Skew::Zipf(exponent));
    }
    let handle = tokio::task::spawn_blocking(move || load.start()).await??;
    let manifest = follow(handle).await?;
    if let Some(path) = &args.manifest {
        manifest.write(path)?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&manifest)?);
    } else {
        let seconds = (manifest.ended - manifest.started) as f64 / 1e3;
        println!(
            "run {}: {} records sent to {} in {seconds:.1} s, {} acknowledged, {} failed; at most {} ms late",
            manifest.run,
            manifest.sent,
            manifest.topic,
            manifest.acknowledged,
            manifest.failed,
            manifest.most_late_ms
        );
        for error in &manifest.errors {
            println!("  {error}");
        }
    }
    ensure!(manifest.acknowledged == manifest.sent, "not all records were acknowledged");
    Ok(())
}

/// Waits for the load, tells how it goes when a person looks, and ends it on Ctrl-C.
async fn follow(handle: LoadHandle) -> anyhow::Result<super::Manifest> {
    let person = std::io::stderr().is_terminal();
    let mut second = time::interval(Duration::from_secs(1));
    let control = handle.control();
    let wait = handle.wait();
    tokio::pin!(wait);
    loop {
        tokio::select! {
            manifest = &mut wait => {
                if person { eprintln!(); }
                return manifest;
            }
            _ = signal::ctrl_c() => control.stop(),
            _ = second.tick() => if person {
                let now = control.progress();
                eprint!("\r{:>8.0}/s  {:>10} sent  {:>10} acknowledged  {:>6} failed ", now.rate, now.sent, now.acknowledged, now.failed);
            }
        }
    }
}
