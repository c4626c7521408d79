//! The operator's binary: arguments, logs, and [`control::run`].

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
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
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes. Most sentences end with their cause already: it is said once.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| {
        if said.is_empty() {
            cause
        } else if said.contains(&cause) {
            said
        } else {
            format!("{said}: {cause}")
        }
    })
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
