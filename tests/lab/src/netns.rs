//! The lab's network namespace: ports, bridge, rules and pod addresses touch nothing outside it.

use std::{
    fs::File,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::run;

/// The bridge's address: node, broker and whatever the lab itself serves to pods.
pub const ADDRESS: &str = "10.244.0.1";
/// The addresses of pods.
pub const PODS: &str = "10.244.0.0/24";
/// The addresses of services.
pub const SERVICES: &str = "10.96.0.0/16";

/// Where the namespace of this name stands.
pub fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Makes the namespace with its bridge.
pub fn create(name: &str) -> Result<()> {
    run::ok(Command::new("ip").args(["netns", "add", name]))?;
    for arguments in [
        "ip link set lo up",
        "ip link add dev0 type bridge",
        "ip addr add 10.244.0.1/24 dev dev0",
        "ip link set dev0 up",
    ] {
        let words: Vec<&str> = arguments.split(' ').collect();
        run::ok(inside(name, words[0]).args(&words[1..]))?;
    }
    run::ok(inside(name, "sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
}

/// A command that will run inside. (`ip netns exec` would remount /sys and hide the cgroups.)
pub fn inside(name: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(name).display())).arg("--").arg(program);
    command
}

/// Does something inside, on a thread of its own: the caller stays where it is.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(name)?;
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether something listens on this port inside.
pub fn listens(name: &str, host: &str, port: u16) -> bool {
    within(name, || Ok(TcpStream::connect((host, port))?)).is_ok()
}

/// Removes the namespace, if there is one.
pub fn remove(name: &str) -> Result<()> {
    if path(name).exists() {
        run::ok(Command::new("ip").args(["netns", "delete", name]))?;
    }
    Ok(())
}

/// Moves this process into the namespace. Only the calling thread moves: call it before any other is started.
pub fn enter(name: &str) -> Result<()> {
    let file = File::open(path(name))
        .with_context(|| format!("the lab {name} is not up: run `cargo lab up`"))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .context("the lab's network namespace could not be entered; are you root?")
}
