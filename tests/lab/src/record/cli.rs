//! `cargo lab record`.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use kube::{Api, Client, Config, config::KubeConfigOptions};
use sluice_crds::KafkaConsumer;
use tokio::{runtime::Runtime, signal, time::sleep};

use super::{ClusterWatch, GroupReader, Recorder, row::HEADER};
use crate::Lab;

/// Writes one CSV line a second: produced, committed, lag, members, replicas, knobs and the decision. Ctrl-C ends it.
#[derive(Args, Debug)]
pub struct RecordArgs {
    /// The KafkaConsumer.
    pub name: String,
    /// Its namespace.
    #[arg(long, short, default_value = "default")]
    pub namespace: String,
    /// A context of your kubeconfig, in place of the lab.
    #[arg(long)]
    pub context: Option<String>,
    /// Addresses of the brokers. Default: the lab's; with --context, those that the KafkaConsumer names.
    #[arg(long)]
    pub bootstrap_servers: Option<String>,
    /// Where to. Default: standard output.
    #[arg(long, short)]
    pub out: Option<PathBuf>,
    /// Ends after this time.
    #[arg(long = "for")]
    pub lasts: Option<sluice_crds::Duration>,
}

/// Runs the command, inside the lab unless a context is named.
pub fn run(args: RecordArgs) -> anyhow::Result<()> {
    if let Some(context) = args.context.clone() {
        return Runtime::new()?.block_on(async {
            let client = client_of_context(&context).await?;
            record(args, client, None).await
        });
    }
    let lab = Lab::attach()?;
    lab.enter()?;
    Runtime::new()?
        .block_on(async { record(args, lab.client().await?, Some(lab.bootstrap_servers())).await })
}

async fn record(args: RecordArgs, client: Client, lab: Option<String>) -> anyhow::Result<()> {
    let (name, namespace) = (&args.name, &args.namespace);
    let consumer = Api::<KafkaConsumer>::namespaced(client.clone(), namespace)
        .get(name)
        .await
        .with_context(|| format!("cannot read the KafkaConsumer {namespace}/{name}"))?;
    let group = group_id(&consumer, namespace, name);
    let brokers = args
        .bootstrap_servers
        .clone()
        .or(lab)
        .unwrap_or_else(|| consumer.spec.kafka.bootstrap_servers.clone());
    let reader = GroupReader::new(&brokers, &group, &consumer.spec.kafka.topics)?;
    let watch = Arc::new(ClusterWatch::start(client, namespace, name));
    // So that the first row is whole; a consumer without pods is recorded all the same.
    watch
        .wait_for(Duration::from_secs(3), |state| {
            state.consumer.is_some() && state.wanted().is_some()
        })
        .await;
    let mut out: Box<dyn Write + Send> = match &args.out {
        Some(path) => Box::new(
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        ),
        None => Box::new(io::stdout()),
    };
    writeln!(out, "{HEADER}")?;
    let recorder = Recorder::start(reader, Some(watch), move |row| {
        // A reader that went away (`| head`) is no fault; Ctrl-C ends the recording.
        let _ = writeln!(out, "{}", row.csv());
    })?;
    tokio::select! {
        interrupted = signal::ctrl_c() => interrupted?,
        () = sleep(args.lasts.map_or(Duration::MAX, sluice_crds::Duration::to_std)) => {}
    }
    recorder.finish().await;
    Ok(())
}

/// A client of a cluster of the user's own.
pub async fn client_of_context(context: &str) -> anyhow::Result<Client> {
    let options =
        KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    Ok(Client::try_from(Config::from_kubeconfig(&options).await?)?)
}

/// The group of a consumer: as pinned, as written, or the default.
pub fn group_id(consumer: &KafkaConsumer, namespace: &str, name: &str) -> String {
    let pinned = consumer.status.as_ref().and_then(|status| status.group_id.clone());
    pinned
        .or_else(|| consumer.spec.kafka.group_id.clone())
        .unwrap_or_else(|| format!("{namespace}.{name}"))
}
