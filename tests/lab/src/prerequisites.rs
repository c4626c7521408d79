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
    Need { what: "containerd", package: "containerd", present: || Path::new("/usr/bin/containerd").exists() },
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
    Need { what: "Java 17 or newer", package: "default-jre-headless", present: || on_path("java") },
    Need { what: "Maven", package: "maven", present: || on_path("mvn") },
];

/// The oldest Go that reads the lab's modules; it fetches the toolchain that they name by itself.
const GO: &str = "Go 1.21 or newer (https://go.dev/dl)";

/// Why the lab cannot run on this machine, in a sentence that says what to do; `None` where it can.
///
/// Whatever can be installed counts as there: [`ensure`] installs it.
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("the lab needs root (network namespaces, containers): run it as root on Debian".to_owned());
    }
    if !on_path("go") {
        return Some(format!("the lab needs {GO}: install it and have `go` on the PATH"));
    }
    let missing = missing();
    if !missing.is_empty() && !may_install() {
        return Some(sentence(&missing));
    }
    None
}

/// Looks for everything, and installs what is missing where that is possible and wanted.
///
/// # Errors
/// With the whole list of what to install, when something is missing and not to be installed from here.
pub fn ensure(progress: &mut Progress) -> Result<()> {
    if let Some(obstacle) = obstacle() {
        bail!(obstacle);
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
    progress.step(&format!("installing Debian packages: {} (SLUICE_LAB_INSTALL=0 never does)", packages.join(" ")));
    let install = |packages: &[&str]| {
        run::ok(
            Command::new("apt-get")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    if install(&packages).is_err() {
        // The list of packages may be missing or old.
        run::ok(Command::new("apt-get").args(["update", "-qq"]))?;
        install(&packages)?;
    }
    let left = self::missing();
    if left.is_empty() { Ok(()) } else { bail!(sentence(&left)) }
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.present)()).collect()
}

fn may_install() -> bool {
    env::var("SLUICE_LAB_INSTALL").as_deref() != Ok("0")
        && fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|l| l == "ID=debian"))
}

fn sentence(missing: &[&Need]) -> String {
    let what: Vec<&str> = missing.iter().map(|n| n.what).collect();
    let packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
    format!("the lab needs {}; on Debian: apt-get install {}", what.join(", "), packages.join(" "))
}

/// Whether a program is found, also where root's PATH often does not look.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .any(|folder| folder.join(program).is_file())
}
