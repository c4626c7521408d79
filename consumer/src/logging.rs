//! Log lines: for people on a terminal, JSON otherwise.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use sluice_crds::labels::ENV_LOG;
use tracing_subscriber::EnvFilter;

/// Sends log lines to standard error; `SLUICE_LOG` is the filter (`tracing` syntax, default `info`). A filter that cannot
/// be read counts as the default. Does nothing when logging was set up already.
pub fn init_logging() {
    let filter = env::var(ENV_LOG).ok().and_then(|text| EnvFilter::try_new(text).ok());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("info")))
        .with_writer(io::stderr);
    // Fails only when a subscriber is there already, which is the caller's wish then.
    let _ = if io::stderr().is_terminal() {
        lines.try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
}
