//! The node: containerd, kubelet and kube-proxy, in cgroups of the lab's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    control_plane,
    folders::Folders,
    netns::{self, ADDRESS, PODS},
    processes::Processes,
    run,
};

const LIMIT: Duration = Duration::from_secs(60);
const CGROUPS: &str = "/sys/fs/cgroup";
/// The image that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "sluice.dev/pause:1";

/// Writes the configuration of containerd, CNI, kubelet and kube-proxy.
pub fn prepare(folders: &Folders) -> Result<()> {
    let data = folders.data();
    fs::create_dir_all(data.join("cni"))?;
    fs::create_dir_all(folders.pod_logs())?;
    let d = data.display();
    fs::write(
        data.join("containerd.toml"),
        // restrict_oom_score_adj: lowering it needs CAP_SYS_RESOURCE, and runc dies without it.
        format!(
            r#"version = 2
root = "{d}/containerd"
state = "{d}/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{d}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
            socket = folders.containerd_socket().display()
        ),
    )?;
    fs::write(
        data.join("cni/10-lab.conflist"),
        format!(
            r#"{{"cniVersion":"0.4.0","name":"lab","plugins":[
{{"type":"bridge","bridge":"dev0","isGateway":true,"hairpinMode":true,
 "ipam":{{"type":"host-local","dataDir":"{d}/ipam","ranges":[[{{"subnet":"{PODS}","rangeStart":"10.244.0.10"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#
        ),
    )?;
    fs::write(
        data.join("kubelet.yaml"),
        // syncFrequency stays as it is: how a changed ConfigMap reaches a pod is one of the things under test.
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{d}/pki/ca.crt"}}}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: /{name}
enforceNodeAllocatable: []
failSwapOn: false
localStorageCapacityIsolation: false
resolvConf: ""
clusterDNS: ["10.96.0.10"]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://{socket}
podLogsDir: "{logs}"
containerLogMaxSize: 1Gi
maxPods: 200
evictionHard: {{memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
registerNode: true
"#,
            name = folders.name(),
            socket = folders.containerd_socket().display(),
            logs = folders.pod_logs().display(),
        ),
    )?;
    fs::write(
        data.join("kube-proxy.yaml"),
        format!(
            r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
mode: nftables
clusterCIDR: {PODS}
clientConnection: {{kubeconfig: "{}"}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s, udpTimeout: 0s, udpStreamTimeout: 0s}}
"#,
            folders.kubeconfig().display()
        ),
    )?;
    Ok(())
}

/// Makes the cgroups that all pods stand in. Two kubelets that share a root would end each other's pods.
pub fn create_cgroups(folders: &Folders) -> Result<()> {
    for controller in cgroup_controllers()? {
        let own = controller.join(folders.name());
        fs::create_dir_all(&own)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let from = controller.join(file);
            if from.exists() {
                fs::write(own.join(file), fs::read(from)?)?;
            }
        }
    }
    Ok(())
}

/// Removes the lab's cgroups, innermost first.
pub fn remove_cgroups(folders: &Folders) -> Result<()> {
    for controller in cgroup_controllers()? {
        remove_tree(&controller.join(folders.name()));
    }
    Ok(())
}

fn remove_tree(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path());
        }
    }
    // Fails while a process is still in it; the next start tries again.
    let _ = fs::remove_dir(folder);
}

/// Processes that are left in the lab's cgroups: containers whose shim is gone.
pub fn processes_in_cgroups(folders: &Folders) -> Vec<i32> {
    fn collect(folder: &Path, found: &mut Vec<i32>) {
        if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
            found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                collect(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    for controller in cgroup_controllers().unwrap_or_default() {
        collect(&controller.join(folders.name()), &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn cgroup_controllers() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(CGROUPS).context("there are no cgroups")?;
    Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir() && !p.is_symlink()).collect())
}

/// Starts containerd and waits for it.
pub fn start_containerd(folders: &Folders, processes: &Processes) -> Result<()> {
    let config = folders.data().join("containerd.toml");
    processes.start("containerd", Path::new("/usr/bin/containerd"), |command| {
        command.arg("--config").arg(config);
    })?;
    processes.wait_ready("containerd", LIMIT, || run::ok(ctr(folders).args(["version"])).is_ok())
}

/// A `ctr` command against the lab's containerd.
pub fn ctr(folders: &Folders) -> Command {
    let mut command = netns::inside(folders.name(), "ctr");
    command.arg("--address").arg(folders.containerd_socket()).args(["--namespace", "k8s.io"]);
    command
}

/// Starts kubelet and kube-proxy and waits until the node is ready.
pub fn start(folders: &Folders, processes: &Processes) -> Result<()> {
    let data = folders.data();
    processes.start("kubelet", &folders.cluster_binary(), |command| {
        command
            .arg("kubelet")
            .arg("--config")
            .arg(data.join("kubelet.yaml"))
            .arg("--kubeconfig")
            .arg(folders.kubeconfig())
            .arg("--root-dir")
            .arg(data.join("kubelet"))
            .arg("--cert-dir")
            .arg(data.join("kubelet-pki"))
            .args(["--hostname-override", "lab", "--node-ip", ADDRESS]);
    })?;
    processes.start("kube-proxy", &folders.cluster_binary(), |command| {
        command
            .arg("kube-proxy")
            .arg("--config")
            .arg(data.join("kube-proxy.yaml"))
            .args(["--hostname-override", "lab"]);
    })?;
    processes.wait_ready("kubelet", LIMIT, || {
        control_plane::kubectl(
            folders,
            &["get", "node", "lab", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"],
        )
        .is_ok_and(|status| status == "True")
    })
}

/// Unmounts what kubelet and containerd mounted below the lab's folder.
pub fn unmount(folders: &Folders) {
    let prefix = folders.data().display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut points: Vec<&str> =
        mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| p.starts_with(&prefix)).collect();
    points.sort_unstable_by_key(|p| std::cmp::Reverse(p.len()));
    for point in points {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}
