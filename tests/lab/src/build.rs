//! What the lab is made of, built once and kept: the Go binaries, Kafka's jars, and Sluice's own binaries.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{folders::Folders, prerequisites, progress::Progress, run};

/// The Kubernetes release, as `kubectl version` shows it.
const KUBERNETES: &str = "v1.34.4";

/// A Go program of the lab.
struct Program {
    name: &'static str,
    folder: &'static str,
    package: &'static str,
    cold: &'static str,
}

const PROGRAMS: &[Program] = &[
    Program { name: "pause", folder: "pause", package: ".", cold: "seconds" },
    Program {
        name: "sluice-dns",
        folder: "dns",
        package: ".",
        cold: "a minute or two the first time",
    },
    Program {
        name: "helm",
        folder: "helm",
        package: "helm.sh/helm/v3/cmd/helm",
        cold: "a minute or two the first time",
    },
    Program {
        name: "sluice-cluster",
        folder: "",
        package: ".",
        cold: "5 to 8 minutes the first time",
    },
];

/// Builds everything that is not there yet or whose sources changed, except Sluice itself.
pub fn parts(folders: &Folders, progress: &mut Progress) -> Result<()> {
    fs::create_dir_all(folders.cache().join("bin"))?;
    let sources = Folders::checkout()?.join("tests/cluster");
    for program in PROGRAMS {
        go(folders, &sources.join(program.folder), program, progress)?;
    }
    let kubectl = folders.kubectl();
    if !kubectl.exists() {
        std::os::unix::fs::symlink("sluice-cluster", &kubectl)?;
    }
    kafka(folders, &sources.join("kafka/pom.xml"), progress)
}

/// helm alone, for what needs no cluster.
pub fn helm(folders: &Folders, progress: &mut Progress) -> Result<PathBuf> {
    fs::create_dir_all(folders.cache().join("bin"))?;
    let sources = Folders::checkout()?.join("tests/cluster");
    for program in PROGRAMS.iter().filter(|p| p.name == "helm") {
        go(folders, &sources.join(program.folder), program, progress)?;
    }
    Ok(folders.binary("helm"))
}

fn go(folders: &Folders, sources: &Path, program: &Program, progress: &mut Progress) -> Result<()> {
    let target = folders.binary(program.name);
    let inputs = fingerprint(sources)?;
    let mark = target.with_extension("inputs");
    if target.exists() && fs::read_to_string(&mark).is_ok_and(|seen| seen == inputs) {
        return Ok(());
    }
    progress.step(&format!("building {} ({})", program.name, program.cold));
    let version = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES} -X k8s.io/client-go/pkg/version.gitVersion={KUBERNETES}"
    );
    let next = target.with_extension("next");
    run::ok(
        Command::new("go")
            .current_dir(sources)
            .args(["build", "-mod=readonly", "-ldflags", &version, "-o"])
            .arg(&next)
            .arg(program.package)
            .env("CGO_ENABLED", "0")
            .envs(prerequisites::go_toolchain().map(|toolchain| ("GOTOOLCHAIN", toolchain))),
    )?;
    fs::rename(next, &target)?;
    fs::write(mark, inputs)?;
    Ok(())
}

fn kafka(folders: &Folders, pom: &Path, progress: &mut Progress) -> Result<()> {
    let folder = folders.cache().join("kafka");
    let inputs = fs::read_to_string(pom)?;
    let mark = folder.join("inputs");
    if fs::read_to_string(&mark).is_ok_and(|seen| seen == inputs) {
        return Ok(());
    }
    progress.step("fetching Kafka (54 MB the first time)");
    let libraries = folder.join("libs");
    if libraries.exists() {
        fs::remove_dir_all(&libraries)?;
    }
    fs::create_dir_all(&libraries)?;
    run::ok(
        Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", libraries.display())),
    )?;
    fs::write(mark, inputs)?;
    Ok(())
}

/// The files that a build reads, as one text: names and contents.
fn fingerprint(sources: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(sources)?.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort();
    let mut text = String::new();
    for file in files {
        let sum = run::stdout(Command::new("sha256sum").arg(&file))?;
        text.push_str(sum.split_whitespace().next().unwrap_or_default());
        text.push('\n');
    }
    Ok(text)
}

/// Sluice's binaries, built by Cargo in the profile that the tests use, so that no dependency is compiled twice.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Builds operator, consumer and the example of a custom handler.
    pub fn build(progress: &mut Progress) -> Result<Self> {
        let checkout = Folders::checkout()?;
        progress.step("building operator and consumer (2 minutes the first time)");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(&checkout)
            .args(["build", "--quiet", "--locked", "--bins"])
            // All crates of the workspace that have binaries, or features of shared dependencies differ from the tests'.
            .args([
                "-p",
                "sluice-operator",
                "-p",
                "sluice-consumer",
                "-p",
                "sluice-example-custom-handler",
                "-p",
                "sluice-lab",
            ])
            .stdin(Stdio::null());
        // Cargo tells the binary that it runs about itself; a Cargo below must not take that for its own.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_")
                || text.starts_with("CARGO_BIN_")
                || text == "CARGO_MANIFEST_DIR"
                || text == "CARGO_MANIFEST_PATH"
            {
                command.env_remove(&name);
            }
        }
        let status = command.status().context("cargo could not be started")?;
        if !status.success() {
            bail!("operator and consumer could not be built ({status})");
        }
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
        Ok(Self { folder: target.join("debug") })
    }

    /// One of the binaries.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
