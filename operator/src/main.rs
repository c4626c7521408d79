//! The operator's binary: arguments, logs, and [`control::run`].

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sluice_crds::error::sentence;
use sluice_operator::{
    args::{Args, LogFormat},
    control,
};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    match start().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn start() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log).context("--log (SLUICE_LOG) is no filter")?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => logs.with_ansi(false).init(),
        LogFormat::Json => logs.json().init(),
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), scopes = ?args.scopes(), "sluice-operator");
    control::run::run(args).await.context("sluice-operator cannot run")
}
