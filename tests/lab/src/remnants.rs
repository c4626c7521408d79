//! What a lab leaves on the machine, and its removal: processes, mounts, cgroups, sockets, the network namespace, files.
//!
//! Nothing here needs the lab to be whole, or its records: a lab that was killed at any moment is found by what its
//! processes carry (a mark in their environment), by its cgroups and by its folder.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

use crate::{
    cgroups,
    folders::Folders,
    netns,
    processes::{Identity, Processes, marked},
};

/// How long the kernel may take to end what was killed and to let its cgroups go.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends and removes all of it.
pub fn remove(folders: &Folders) -> Result<()> {
    end_processes(folders)?;
    remove_shim_sockets(folders);
    unmount(folders)?;
    remove_cgroups(folders)?;
    netns::remove(folders.name())?;
    remove_files(folders);
    if folders.data().exists() {
        fs::remove_dir_all(folders.data())
            .with_context(|| format!("{} could not be removed", folders.data().display()))?;
    }
    // The folder of all labs goes with the last of them.
    if let Some(parent) = folders.data().parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// By force: of what the lab's parts hold, nothing is kept.
fn end_processes(folders: &Folders) -> Result<()> {
    let recorded = Processes::open(folders.data(), folders.name());
    let start = Instant::now();
    loop {
        // Again until there are none: a shim may start a container while its kubelet is being ended.
        let mut left = marked(folders.name());
        left.extend(recorded.running().into_iter().map(|(_, process)| process));
        left.extend(cgroups::processes(folders.name()).into_iter().filter_map(Identity::of));
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            let pids: Vec<i32> = left.iter().map(|process| process.pid()).collect();
            bail!("processes of the lab do not end: {pids:?}");
        }
        for process in &left {
            process.signal(Signal::SIGKILL);
        }
        for process in &left {
            process.wait_gone(Duration::from_millis(200));
        }
    }
}

/// containerd's shims listen in a folder that is the same for every containerd, on sockets that they name in their bundles.
fn remove_shim_sockets(folders: &Folders) {
    for bundle in bundles(folders) {
        if let Ok(address) = fs::read_to_string(bundle.join("address")) {
            let _ = fs::remove_file(address.trim().trim_start_matches("unix://"));
        }
    }
    for folder in ["/run/containerd/s", "/run/containerd"] {
        // Refused while another containerd has something in it.
        let _ = fs::remove_dir(folder);
    }
}

/// A folder for each container that was there at the end, named by the container's id.
fn bundles(folders: &Folders) -> Vec<PathBuf> {
    let bundles = folders.containerd_state().join("io.containerd.runtime.v2.task/k8s.io");
    fs::read_dir(bundles).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn unmount(folders: &Folders) -> Result<()> {
    for point in mounts_below(folders.data()) {
        let _ = umount2(&point, MntFlags::MNT_DETACH);
    }
    // What is still mounted must not be deleted with the folder.
    let left = mounts_below(folders.data());
    if left.is_empty() { Ok(()) } else { bail!("these stay mounted: {left:?}") }
}

/// Innermost first.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect();
    points.reverse();
    points
}

fn remove_cgroups(folders: &Folders) -> Result<()> {
    let start = Instant::now();
    loop {
        cgroups::remove(folders.name());
        let left = cgroups::existing(folders.name());
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            bail!("these cgroups stay: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Files that kubelet and the network plugins keep in folders of the machine.
fn remove_files(folders: &Folders) {
    let logs = Path::new("/var/log/containers");
    for entry in fs::read_dir(logs).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(folders.data())) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(logs);
    // One for each network of a pod, NETWORK-ID-INTERFACE.
    let results = Path::new("/var/lib/cni/results");
    let bundles = bundles(folders);
    let pods: Vec<_> = bundles.iter().filter_map(|bundle| bundle.file_name()?.to_str()).collect();
    for entry in fs::read_dir(results).into_iter().flatten().flatten() {
        if pods.iter().any(|id| entry.file_name().to_string_lossy().contains(id)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(results);
    let _ = fs::remove_dir("/var/lib/cni");
    // Where kubelets listen for device plugins, whatever their own folder is. A node that is more than a lab has more there.
    let kubelet = Path::new("/var/lib/kubelet");
    if fs::read_dir(kubelet)
        .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == "device-plugins"))
    {
        let _ = fs::remove_dir_all(kubelet);
    }
}
