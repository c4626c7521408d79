//! etcd, API server, controller manager, scheduler and DNS: a cluster's control plane as plain processes.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use crate::{
    folders::Folders,
    netns::{self, ADDRESS, SERVICES},
    processes::Processes,
    run,
};

const LIMIT: Duration = Duration::from_secs(60);

/// The API server's address, inside the namespace.
pub const SERVER: &str = "https://127.0.0.1:6443";
const DNS: &str = "10.96.0.10";

/// Writes certificates and the kubeconfig.
pub fn prepare(folders: &Folders) -> Result<()> {
    let pki = folders.pki();
    crate::certificates::write(&pki)?;
    let kubeconfig = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {{server: '{SERVER}', certificate-authority: '{ca}'}}
users:
- name: admin
  user: {{client-certificate: '{crt}', client-key: '{key}'}}
contexts:
- name: lab
  context: {{cluster: lab, user: admin}}
current-context: lab
",
        ca = pki.join("ca.crt").display(),
        crt = pki.join("admin.crt").display(),
        key = pki.join("admin.key").display(),
    );
    fs::write(folders.kubeconfig(), kubeconfig)?;
    Ok(())
}

/// Starts etcd and waits for it.
pub fn start_etcd(folders: &Folders, processes: &Processes) -> Result<()> {
    processes.start("etcd", &folders.cluster_binary(), |command| {
        command
            .arg("etcd")
            .args(["--name", "lab", "--unsafe-no-fsync", "--log-level", "warn"])
            .args([
                "--listen-client-urls",
                "http://127.0.0.1:2379",
                "--advertise-client-urls",
                "http://127.0.0.1:2379",
            ])
            .args([
                "--listen-peer-urls",
                "http://127.0.0.1:2380",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2380",
            ])
            .args(["--initial-cluster", "lab=http://127.0.0.1:2380"])
            .arg("--data-dir")
            .arg(folders.data().join("etcd"));
    })?;
    processes.wait_ready("etcd", LIMIT, || netns::listens(folders.name(), "127.0.0.1", 2379))
}

/// Starts the API server; [`wait_api_server`] waits for it.
pub fn start_api_server(folders: &Folders, processes: &Processes) -> Result<()> {
    let pki = folders.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    processes.start("kube-apiserver", &folders.cluster_binary(), |command| {
        command
            .arg("kube-apiserver")
            .args(["--etcd-servers", "http://127.0.0.1:2379"])
            .args([
                "--bind-address",
                "0.0.0.0",
                "--secure-port",
                "6443",
                "--advertise-address",
                ADDRESS,
            ])
            .args(["--service-cluster-ip-range", SERVICES])
            .args(["--authorization-mode", "Node,RBAC"])
            .args(["--client-ca-file", &file("ca.crt")])
            .args([
                "--tls-cert-file",
                &file("apiserver.crt"),
                "--tls-private-key-file",
                &file("apiserver.key"),
            ])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-account-key-file", &file("service-accounts.pub")])
            .args(["--service-account-signing-key-file", &file("service-accounts.key")])
            .args([
                "--kubelet-client-certificate",
                &file("admin.crt"),
                "--kubelet-client-key",
                &file("admin.key"),
            ])
            .args(["--kubelet-preferred-address-types", "InternalIP"])
            // Policies that rewrite objects, as platforms have them; beta, and off by default.
            .arg("--feature-gates=MutatingAdmissionPolicy=true")
            .arg("--runtime-config=admissionregistration.k8s.io/v1beta1=true")
            .args(["--allow-privileged=false", "--v=1"]);
    })?;
    Ok(())
}

/// Waits until the API server is ready.
pub fn wait_api_server(folders: &Folders, processes: &Processes) -> Result<()> {
    processes.wait_ready("kube-apiserver", LIMIT, || {
        kubectl(folders, &["get", "--raw", "/readyz"]).is_ok()
    })
}

/// Starts controller manager and scheduler.
pub fn start_controllers(folders: &Folders, processes: &Processes) -> Result<()> {
    let pki = folders.pki();
    let kubeconfig = folders.kubeconfig();
    processes.start("kube-controller-manager", &folders.cluster_binary(), |command| {
        command
            .arg("kube-controller-manager")
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--use-service-account-credentials", "--leader-elect=false"])
            .arg("--root-ca-file")
            .arg(pki.join("ca.crt"))
            .arg("--service-account-private-key-file")
            .arg(pki.join("service-accounts.key"));
    })?;
    processes.start("kube-scheduler", &folders.cluster_binary(), |command| {
        command
            .arg("kube-scheduler")
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .arg("--leader-elect=false");
    })?;
    Ok(())
}

/// Starts DNS and tells the cluster of it.
pub fn start_dns(folders: &Folders, processes: &Processes) -> Result<()> {
    let corefile = folders.data().join("Corefile");
    fs::write(
        &corefile,
        format!(
            ".:53 {{
  bind {ADDRESS}
  errors
  health {ADDRESS}:8090
  ready {ADDRESS}:8181
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {kubeconfig} lab
    pods insecure
  }}
  cache 5
}}
",
            kubeconfig = folders.kubeconfig().display()
        ),
    )?;
    processes.start("dns", &folders.binary("sluice-dns"), |command| {
        command.arg("-conf").arg(&corefile);
    })?;
    apply(
        folders,
        &format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[
{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"kube-dns","namespace":"kube-system"}},"spec":{{"clusterIP":"{DNS}","ports":[
 {{"name":"dns","port":53,"protocol":"UDP"}},{{"name":"dns-tcp","port":53,"protocol":"TCP"}}]}}}},
{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"kube-dns","namespace":"kube-system","labels":{{"kubernetes.io/service-name":"kube-dns"}}}},
 "addressType":"IPv4","endpoints":[{{"addresses":["{ADDRESS}"],"conditions":{{"ready":true}}}}],
 "ports":[{{"name":"dns","port":53,"protocol":"UDP"}},{{"name":"dns-tcp","port":53,"protocol":"TCP"}}]}}]}}"#
        ),
    )
}

/// Runs kubectl against the lab.
pub fn kubectl(folders: &Folders, arguments: &[&str]) -> Result<String> {
    run::stdout(kubectl_command(folders).args(arguments))
}

/// A kubectl command against the lab.
pub fn kubectl_command(folders: &Folders) -> std::process::Command {
    let mut command = netns::inside(folders.name(), &folders.kubectl().display().to_string());
    command.arg("--kubeconfig").arg(folders.kubeconfig()).env("HOME", folders.data());
    command
}

/// Applies objects, given as JSON or YAML.
pub fn apply(folders: &Folders, objects: &str) -> Result<()> {
    let file = folders.data().join("apply.yaml");
    fs::write(&file, objects)?;
    run::ok(
        kubectl_command(folders)
            .args(["apply", "--server-side", "--force-conflicts", "-f"])
            .arg(&file),
    )
    .context("the lab's own objects could not be applied")
}
