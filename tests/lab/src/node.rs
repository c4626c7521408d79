//! The node: containerd, kubelet and kube-proxy, in cgroups of the lab's own.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;

use crate::{
    cgroups, control_plane,
    folders::Folders,
    netns::{self, ADDRESS, PODS},
    processes::Processes,
    run,
};

const LIMIT: Duration = Duration::from_secs(60);
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
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
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
        Root = "{state}/runc"
"#,
            state = folders.containerd_state().display(),
            socket = folders.containerd_socket().display()
        ),
    )?;
    fs::write(
        data.join("cni/10-lab.conflist"),
        format!(
            r#"{{"cniVersion":"0.4.0","name":"{name}","plugins":[
{{"type":"bridge","bridge":"dev0","isGateway":true,"hairpinMode":true,
 "ipam":{{"type":"host-local","dataDir":"{d}/ipam","ranges":[[{{"subnet":"{PODS}","rangeStart":"10.244.0.10"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}}]}}"#,
            name = folders.name()
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
cgroupRoot: {cgroups}
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
            cgroups = cgroups::path(folders.name()),
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
            &[
                "get",
                "node",
                "lab",
                "-o",
                "jsonpath={.status.conditions[?(@.type=='Ready')].status}",
            ],
        )
        .is_ok_and(|status| status == "True")
    })
}
