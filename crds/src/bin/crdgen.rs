//! Writes the CustomResourceDefinition, the chart's copy of it and its reference, or tells whether they are fresh.

use std::{fs, path::Path, process::ExitCode};

use sluice_crds::kafkaconsumer;

const PLAIN: &str = "crds/kafkaconsumers.sluice.dev.yaml";
const CHART: &str = "charts/sluice-crds/templates/kafkaconsumers.sluice.dev.yaml";
const REFERENCE: &str = "docs/kafkaconsumer.md";

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("crdgen: unknown argument {other}; there is only --check");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well: the files were written, or (with `check`) they are fresh.
fn run(check: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut fresh = true;
    for (path, text) in [
        (PLAIN, kafkaconsumer::crd_yaml(false)?),
        (CHART, kafkaconsumer::crd_yaml(true)?),
        (REFERENCE, kafkaconsumer::reference_md()),
    ] {
        let file = root.join(path);
        if check {
            if fs::read_to_string(&file).unwrap_or_default() != text {
                eprintln!("crdgen: {path} is not what the types say; run: cargo crdgen");
                fresh = false;
            }
        } else {
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&file, text)?;
            println!("wrote {path}");
        }
    }
    Ok(fresh)
}
