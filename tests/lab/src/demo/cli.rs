//! `cargo demo`: sets the stage, lets the play run, says what came of it, and clears up.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::runtime::Runtime;

use super::{
    interrupt::Interrupt,
    picture::Picture,
    play::{Example, Outcome, play},
    scene::Shared,
    screen::View,
    stage::{self, Stage},
    targets::{Target, targets},
};
use crate::{Lab, folders::Folders, progress::Progress, record::write_csv};

/// A real cluster, a real Kafka, a spike of records, and what Sluice makes of it.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Leave the cluster up afterwards, and say how to use it.
    #[arg(long)]
    pub keep: bool,
    /// Where recording and picture go. Default: target/demo.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// A context of your kubeconfig: plays on that cluster, in place of the lab.
    #[arg(long, requires = "bootstrap_servers")]
    pub context: Option<String>,
    /// The Kafka that goes with --context: its addresses, reachable from here and from the pods.
    #[arg(long, requires = "context")]
    pub bootstrap_servers: Option<String>,
    /// The namespace that goes with --context.
    #[arg(long, default_value = "default")]
    pub namespace: String,
    /// With --context: a value for the chart, such as image.repository=registry.example/sluice-operator.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub values: Vec<String>,
    /// With --context: Sluice is installed there already.
    #[arg(long)]
    pub installed: bool,
    /// How many of the two acts are played.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=2))]
    pub acts: u32,
}

/// Runs the command.
pub fn run(args: &DemoArgs) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => Folders::checkout()?.join("target/demo"),
    };
    fs::create_dir_all(&out)
        .with_context(|| format!("cannot make the folder {}", out.display()))?;
    match (&args.context, &args.bootstrap_servers) {
        (Some(context), Some(brokers)) => on_own_cluster(args, context, brokers, &interrupt, &out),
        _ => in_the_lab(args, &interrupt, &out),
    }
}

fn in_the_lab(args: &DemoArgs, interrupt: &Interrupt, out: &Path) -> Result<()> {
    let was_up = Lab::attach().is_ok();
    announce(was_up)?;
    let mut progress = Progress::default();
    let result = set_up(&mut progress, interrupt).and_then(|lab| {
        lab.enter()?;
        let runtime = Runtime::new()?;
        let result = runtime.block_on(async {
            let stage = Stage::lab(&lab).await?;
            perform(&stage, args, interrupt, out, was_up && !args.keep).await
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
        result
    });
    if args.keep && interrupt.check().is_ok() {
        println!(
            "\nThe cluster stays up. Look around with `cargo lab shell` (kubectl and helm are there), see the consumer with\n\
             `cargo lab kubectl get kcon orders -o wide` or `cargo lab kubectl describe kcon orders`, and make more load with\n\
             `cargo lab load --topic orders --schedule 300x30s,3600x60s,300x60s`. `cargo lab down` ends it."
        );
    } else if was_up {
        println!("\nThe lab was up before, and stays so; `cargo lab down` ends it.");
    } else {
        let down = Lab::take_down(&mut progress);
        result?;
        return down;
    }
    result
}

/// Says beforehand how long it takes.
fn announce(was_up: bool) -> Result<()> {
    let built = Folders::from_env()?.cluster_binary().exists();
    let set_up = match (was_up, built) {
        (true, _) => "about 20 s: the lab is up already",
        (false, true) => "about a minute: what it needs is built already",
        (false, false) => {
            "10 to 15 minutes this first time (the control plane is 5 to 8 of them, helm and DNS 3, operator and\n\
             \x20                consumer 2), about a minute from then on"
        }
    };
    println!(
        "Sluice's demo: a real Kubernetes and a real Kafka on this machine, and a spike of records.\n\
         \x20 setting up     {set_up}\n\
         \x20 one pod alone  about 20 s: it must do 450 to 550 records a second\n\
         \x20 act one        about 2½ minutes: 300 → 3,600 → 300 records a second, answered with pods\n\
         \x20 act two        about a minute: 300 → 1,800 records a second, answered with concurrency\n\
         \x20 verifying      some seconds; then everything is taken down\n\
         Ctrl-C ends it at any time, and clears up.\n"
    );
    Ok(())
}

fn set_up(progress: &mut Progress, interrupt: &Interrupt) -> Result<Lab> {
    let lab = Lab::up(progress)?;
    interrupt.check()?;
    progress.step("installing Sluice with its charts");
    lab.install_sluice(&[])?;
    interrupt.check()?;
    Ok(lab)
}

fn on_own_cluster(
    args: &DemoArgs,
    context: &str,
    brokers: &str,
    interrupt: &Interrupt,
    out: &Path,
) -> Result<()> {
    println!(
        "Sluice's demo on the cluster of the context {context}, with Kafka at {brokers}: about 5 minutes.\n\
         It makes KafkaConsumers in the namespace {} and topics named like *-demo-*, and removes them at the end.\n",
        args.namespace
    );
    if !args.installed {
        println!(
            "Installing Sluice with its charts (helm) into {}",
            crate::lab::OPERATOR_NAMESPACE
        );
        stage::install(context, &args.values)?;
    }
    let runtime = Runtime::new()?;
    let result = runtime.block_on(async {
        let stage = Stage::own(context, &args.namespace, brokers).await?;
        perform(&stage, args, interrupt, out, !args.keep).await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    if !args.installed {
        println!(
            "Sluice stays installed; `helm uninstall sluice --namespace {}` removes it.",
            crate::lab::OPERATOR_NAMESPACE
        );
    }
    result
}

/// Plays, shows, says what came of it. With `clear`, what was made is removed again.
async fn perform(
    stage: &Stage,
    args: &DemoArgs,
    interrupt: &Interrupt,
    out: &Path,
    clear: bool,
) -> Result<()> {
    let example = Example::read(stage)?;
    // What an earlier demo left would be a second consumer of the same topic.
    stage.delete(&example.name).await?;
    stage.delete(&example.one_pod_name).await?;
    let scene = Shared::default();
    let view = View::start(scene.clone(), interrupt.clone())?;
    let played = tokio::select! {
        outcome = play(stage, &example, &scene, args.acts) => outcome,
        () = interrupt.asked() => Err(anyhow::anyhow!("interrupted")),
    };
    view.end();
    let result = played.and_then(|outcome| conclude(&outcome, out));
    if clear {
        let names = [example.name.clone(), example.one_pod_name.clone()];
        stage.clear(&names, &names).await?;
    }
    result
}

/// Saves and prints what came of it; fails when a promise was not kept.
fn conclude(outcome: &Outcome, out: &Path) -> Result<()> {
    let Outcome { measured, verdict, manifest, rows, cluster, kubectl } = outcome;
    write_csv(rows, fs::File::create(out.join("recording.csv"))?)?;
    fs::write(out.join("demo.svg"), picture(outcome).svg()?)?;
    let targets = targets(measured, verdict);
    let result =
        serde_json::json!({ "targets": targets, "measured": measured, "verdict": verdict });
    fs::write(out.join("result.json"), serde_json::to_vec_pretty(&result)?)?;

    println!("\nWhat the operator decided:");
    for decision in &cluster.decisions {
        let at = (decision.at - manifest.started) as f64 / 1e3;
        println!(
            "{at:>7.1} s  {:>2} pods  {}: {}",
            decision.replicas, decision.reason, decision.message
        );
    }
    println!("\n$ kubectl get kcon -o wide\n{kubectl}");
    print!("{verdict}");
    println!();
    for target in &targets {
        println!("{target}");
    }
    println!("\nRecording and picture: {}", out.display());
    let broken: Vec<&Target> = targets.iter().filter(|target| !target.kept).collect();
    ensure!(broken.is_empty(), "{} of {} promises were not kept", broken.len(), targets.len());
    Ok(())
}

fn picture(outcome: &Outcome) -> Picture {
    let Outcome { measured, verdict, manifest, rows, cluster, .. } = outcome;
    let mut marks =
        vec![(measured.step, "3,600/s".to_owned()), (measured.back, "300/s".to_owned())];
    if let (Some(step), Some(back)) = (measured.second_step, measured.second_back) {
        marks.push((step, "knobs free, 1,800/s".to_owned()));
        marks.push((back, "300/s".to_owned()));
    }
    Picture {
        title: "Sluice: 300 → 3,600 → 300 records a second, pods of about 500 records a second"
            .to_owned(),
        from: manifest.started,
        to: manifest.ended,
        marks,
        seconds: verdict.seconds.clone(),
        replicas: cluster.replicas.clone(),
        concurrency: rows.iter().filter_map(|row| Some((row.at, row.concurrency?))).collect(),
    }
}
