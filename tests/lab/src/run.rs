//! Commands that are run to their end, with errors that say what was run and what it said.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs it; its output matters only when it fails.
pub fn ok(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs it and returns what it wrote to standard output.
pub fn stdout(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?.stdout).into_owned())
}

fn output(command: &mut Command) -> Result<Output> {
    let line = line(command);
    let output = command.output().with_context(|| format!("`{line}` could not be started"))?;
    if !output.status.success() {
        bail!(
            "`{line}` failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output)
}

fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
