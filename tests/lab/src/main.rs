//! `cargo lab` and `cargo demo`.

use std::process::ExitCode;

use clap::Parser;
use sluice_lab::cli;

fn main() -> ExitCode {
    match cli::run(cli::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
