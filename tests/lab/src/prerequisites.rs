//! What the lab needs of the machine: all of it is looked for first, and named (or installed) at once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{progress::Progress, run};

/// Something that the lab needs, and the Debian package that has it.
struct Need {
    what: &'static str,
    package: &'static str,
    present: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        what: "containerd",
        package: "containerd",
        present: || Path::new("/usr/bin/containerd").exists(),
    },
    Need { what: "runc", package: "runc", present: || on_path("runc") },
    Need {
        what: "CNI plugins",
        package: "containernetworking-plugins",
        present: || Path::new("/usr/lib/cni/bridge").exists(),
    },
    Need { what: "nft", package: "nftables", present: || on_path("nft") },
    Need { what: "ip", package: "iproute2", present: || on_path("ip") },
    Need { what: "nsenter, mount", package: "util-linux", present: || on_path("nsenter") },
    Need { what: "strip", package: "binutils", present: || on_path("strip") },
    Need { what: "a C compiler", package: "gcc", present: || on_path("cc") || on_path("gcc") },
    Need { what: "make", package: "make", present: || on_path("make") },
    Need { what: "perl", package: "perl", present: || on_path("perl") },
    Need { what: "Java 17 or newer", package: "default-jre-headless", present: java_serves },
    Need { what: "Maven", package: "maven", present: || on_path("mvn") },
];

/// The oldest Go that can fetch the release which the lab's modules name, by itself.
const GO_THAT_FETCHES: Version = (1, 21);
/// The oldest Go that builds the lab's modules as it is.
const GO_THAT_BUILDS: Version = (1, 25);
const GO: Need = Need {
    what: "Go 1.25 or newer (https://go.dev/dl)",
    package: "golang-go",
    present: || go_serves(go_version()),
};

type Version = (u32, u32);

/// Why the lab cannot run on this machine, in a sentence that says all that is to be done; `None` where it can.
///
/// Whatever can be installed counts as there: [`ensure`] installs it.
pub fn obstacle() -> Option<String> {
    let mut obstacles = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        obstacles
            .push("the lab needs root (network namespaces, containers): run it as root".to_owned());
    }
    let missing = missing();
    let (installable, other): (Vec<&Need>, Vec<&Need>) =
        missing.into_iter().partition(|need| may_install(need));
    if !other.is_empty() {
        // Whatever is missing is said at once, what could be installed too.
        obstacles.push(sentence(&[other, installable].concat()));
    }
    (!obstacles.is_empty()).then(|| obstacles.join("; "))
}

/// Looks for everything, and installs what is missing where that is possible and wanted.
///
/// # Errors
/// With the whole list of what to install, when something is missing and not to be installed from here.
pub fn ensure(progress: &mut Progress) -> Result<()> {
    if !missing().is_empty() && installs() {
        // Which releases there are is known only from an up-to-date list.
        progress.step("looking for Debian packages");
        let _ = run::ok(Command::new("apt-get").args(["update", "-qq"]));
    }
    if let Some(obstacle) = obstacle() {
        bail!(obstacle);
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
    progress.step(&format!(
        "installing Debian packages: {} (SLUICE_LAB_INSTALL=0 never does)",
        packages.join(" ")
    ));
    run::ok(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    let left = self::missing();
    if left.is_empty() { Ok(()) } else { bail!(sentence(&left)) }
}

/// What `GOTOOLCHAIN` must be for this machine's Go to build the lab's modules, if anything.
pub fn go_toolchain() -> Option<&'static str> {
    // An older Go fetches the release that the module names, unless it was told not to.
    go_version().is_some_and(|version| version < GO_THAT_BUILDS).then_some("auto")
}

fn go_version() -> Option<Version> {
    // Outside a module, and with what is installed: within one it might fetch another release first.
    let text =
        run::stdout(Command::new("go").arg("version").current_dir("/").env("GOTOOLCHAIN", "local"))
            .ok()?;
    version_after(&text, "go version go")
}

fn go_serves(version: Option<Version>) -> bool {
    version.is_some_and(|version| version >= GO_THAT_FETCHES)
}

fn java_serves() -> bool {
    // Java says its version on standard error, in quotes.
    let Ok(output) = Command::new("java").arg("-version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    version_after(&text, "version \"").is_some_and(|(major, _)| major >= 17)
}

/// The first two numbers after these words.
fn version_after(text: &str, words: &str) -> Option<Version> {
    let (_, rest) = text.split_once(words)?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    Some((major, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().chain([&GO]).filter(|need| !(need.present)()).collect()
}

fn installs() -> bool {
    nix::unistd::geteuid().is_root()
        && env::var("SLUICE_LAB_INSTALL").as_deref() != Ok("0")
        && fs::read_to_string("/etc/os-release")
            .is_ok_and(|text| text.lines().any(|l| l == "ID=debian"))
}

fn may_install(need: &Need) -> bool {
    // Debian 12's Go is too old even to fetch a newer one.
    installs() && (need.package != GO.package || go_serves(candidate(GO.package)))
}

/// The version of a package that would be installed.
fn candidate(package: &str) -> Option<Version> {
    let text = run::stdout(Command::new("apt-cache").args(["policy", package])).ok()?;
    // An epoch (`2:1.24`) comes first.
    let line = text.lines().find(|line| line.contains("Candidate:"))?;
    version_after(line, if line.matches(':').count() > 1 { "2:" } else { "Candidate: " })
}

fn sentence(missing: &[&Need]) -> String {
    let what: Vec<&str> = missing.iter().map(|n| n.what).collect();
    let go_is_old = !go_serves(candidate(GO.package));
    let packages: Vec<&str> =
        missing.iter().map(|n| n.package).filter(|p| *p != GO.package || !go_is_old).collect();
    let install = if packages.is_empty() {
        String::new()
    } else {
        format!("; on Debian: apt-get install {}", packages.join(" "))
    };
    format!("the lab needs {}{install}", what.join(", "))
}

/// Whether a program is found, also where root's PATH often does not look.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_tools_print_them() {
        assert_eq!(
            version_after("go version go1.26.8 linux/amd64", "go version go"),
            Some((1, 26))
        );
        assert_eq!(
            version_after("openjdk version \"17.0.15\" 2025-04-15", "version \""),
            Some((17, 0))
        );
        assert_eq!(version_after("openjdk version \"21\" 2023-09-19", "version \""), Some((21, 0)));
        assert_eq!(version_after("  Candidate: 2:1.24~2", "2:"), Some((1, 24)));
        assert_eq!(version_after("  Candidate: (none)", "Candidate: "), None);
    }
}
