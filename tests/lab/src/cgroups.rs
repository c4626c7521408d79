//! The lab's cgroups: all pods stand below one group of the lab's own, so that two labs do not end each other's pods.
//!
//! Both layouts are known: one hierarchy for each controller (version 1), and one for all of them (version 2).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// The group's path below each hierarchy, as the kubelet is told it.
pub fn path(lab: &str) -> String {
    format!("/sluice-lab-{lab}")
}

/// Makes the group in every hierarchy.
pub fn create(lab: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let own = group(&hierarchy, lab);
        fs::create_dir_all(&own)
            .with_context(|| format!("the cgroup {} could not be made", own.display()))?;
        // Version 1: a group without CPUs and memory nodes takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let from = hierarchy.join(file);
            if from.exists() {
                fs::write(own.join(file), fs::read(from)?)?;
            }
        }
        // Version 2: a controller is there below a group only when the group hands it on.
        let controllers = hierarchy.join("cgroup.controllers");
        if hierarchy == Path::new(ROOT) && controllers.exists() {
            let hand_on: Vec<String> = fs::read_to_string(controllers)?
                .split_whitespace()
                .map(|name| format!("+{name}"))
                .collect();
            for group in [&hierarchy, &own] {
                fs::write(group.join("cgroup.subtree_control"), hand_on.join(" ")).with_context(
                    || format!("{} does not hand its controllers on", group.display()),
                )?;
            }
        }
    }
    Ok(())
}

/// The processes in the group and below it.
pub fn processes(lab: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        collect(&group(&hierarchy, lab), &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Removes the groups, innermost first; one in which a process is left stays.
pub fn remove(lab: &str) {
    for hierarchy in hierarchies().unwrap_or_default() {
        remove_tree(&group(&hierarchy, lab));
    }
}

/// The groups that are there.
pub fn existing(lab: &str) -> Vec<PathBuf> {
    hierarchies().unwrap_or_default().iter().map(|h| group(h, lab)).filter(|g| g.exists()).collect()
}

fn group(hierarchy: &Path, lab: &str) -> PathBuf {
    hierarchy.join(path(lab).trim_start_matches('/'))
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = fs::read_dir(root).context("there are no cgroups")?;
    // Links such as cpu -> cpu,cpuacct name a hierarchy twice.
    Ok(entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect())
}

fn collect(folder: &Path, found: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for folder in folders_in(folder) {
        collect(&folder, found);
    }
}

fn remove_tree(folder: &Path) {
    for inner in folders_in(folder) {
        remove_tree(&inner);
    }
    // Refused while a process is in it: the caller looks at what is left.
    let _ = fs::remove_dir(folder);
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}
