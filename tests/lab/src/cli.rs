//! The command line of `cargo lab`: one subcommand a thing to do; those that are large have a file of their own.

use std::{os::unix::process::CommandExt, path::PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{Lab, demo, folders::Folders, load, progress::Progress, record, verify};

/// The test lab: a real Kubernetes and a real Kafka on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", disable_version_flag = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring the lab up: about 15 minutes the first time (everything is built), under a minute afterwards.
    Up {
        /// Leave Sluice out, to install it by hand: its images are there, with the tag dev.
        #[arg(long)]
        bare: bool,
    },
    /// Take the lab down and leave nothing behind.
    Down,
    /// What of the lab runs.
    Status,
    /// A shell inside the lab, with kubectl and helm.
    Shell,
    /// kubectl, inside the lab.
    #[command(disable_help_flag = true)]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// helm: inside the lab if it is up, and without one for what needs no cluster (`lint`, `template`).
    #[command(disable_help_flag = true)]
    Helm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// One of Kafka's own tools, inside the lab: `cargo lab kafka topics --list`.
    #[command(disable_help_flag = true)]
    Kafka {
        /// Such as topics, groups, offsets, configs, produce, consume.
        tool: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Load an image that is made of one binary and what it links.
    Image {
        /// The image's name, such as `sluice.dev/custom:dev`.
        name: String,
        /// The binary, which is also the entry point.
        binary: PathBuf,
    },
    /// Produce records at planned rates.
    Load(load::cli::LoadArgs),
    /// Compare what was handled with what was produced.
    Verify(verify::cli::VerifyArgs),
    /// Write one CSV line a second of what a KafkaConsumer does.
    Record(record::cli::RecordArgs),
    /// Show what Sluice makes of a spike: `cargo demo`.
    Demo(demo::DemoArgs),
}

/// Does what was asked.
pub fn run(arguments: Arguments) -> Result<()> {
    let mut progress = Progress::default();
    match arguments.command {
        Verb::Up { bare } => {
            let lab = Lab::up(&mut progress)?;
            if !bare {
                progress.step("installing Sluice");
                lab.install_sluice(&[])?;
            }
            println!(
                "\n{} Its Kafka is at {}, for pods and for `cargo lab kafka topics --list`.\n\
                 Look around with `cargo lab shell` or `cargo lab kubectl get pods -A`; end it with `cargo lab down`.",
                if bare {
                    "The lab is up, without Sluice."
                } else {
                    "The lab is up, with Sluice in it."
                },
                lab.bootstrap_servers(),
            );
            Ok(())
        }
        Verb::Down => Lab::take_down(&mut progress),
        Verb::Status => {
            let running = Lab::status()?;
            if running.is_empty() {
                println!("The lab is down. `cargo lab up` brings it up.");
            }
            for (name, pid) in running {
                println!("{name:<24} {pid}");
            }
            Ok(())
        }
        Verb::Shell => Err(Lab::attach()?.shell().exec().into()),
        Verb::Kubectl { arguments } => {
            Err(Lab::attach()?.kubectl_command().args(arguments).exec().into())
        }
        Verb::Kafka { tool, arguments } => {
            Err(Lab::attach()?.kafka().tool_command(&tool)?.args(arguments).exec().into())
        }
        Verb::Image { name, binary } => Lab::attach()?.load_image(&name, &binary),
        Verb::Helm { arguments } => {
            let mut command = if let Ok(lab) = Lab::attach() {
                lab.helm()
            } else {
                std::process::Command::new(crate::build::helm(
                    &Folders::from_env()?,
                    &mut progress,
                )?)
            };
            Err(command.args(arguments).exec().into())
        }
        Verb::Load(arguments) => load::cli::run(arguments),
        Verb::Verify(arguments) => verify::cli::run(arguments),
        Verb::Record(arguments) => record::cli::run(arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
    }
}
