//! A lab that is up: bringing it up, what can be asked of it and done to it, taking it down.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    build::{self, Binaries},
    cgroups, control_plane,
    folders::Folders,
    images::Image,
    kafka::Kafka,
    netns, node, prerequisites,
    processes::{Identity, Processes},
    progress::Progress,
    remnants, run,
};

/// The operator's image in the lab.
pub const OPERATOR_IMAGE: &str = "sluice.dev/operator:dev";
/// The stock consumer's image in the lab.
pub const CONSUMER_IMAGE: &str = "sluice.dev/consumer:dev";
/// The image of `examples/custom-handler` in the lab.
pub const CUSTOM_IMAGE: &str = "sluice.dev/custom-handler:dev";
/// The namespace that the operator is installed into.
pub const OPERATOR_NAMESPACE: &str = "sluice-system";

/// A cluster, a Kafka and Sluice's images on this machine.
#[derive(Debug)]
pub struct Lab {
    folders: Folders,
    processes: Processes,
}

impl Lab {
    /// Brings the lab up: builds what is missing, clears what an earlier lab left, starts everything, loads the images.
    ///
    /// A lab that is up already is left as it is, with the images renewed.
    pub fn up(progress: &mut Progress) -> Result<Self> {
        prerequisites::ensure(progress)?;
        let folders = Folders::from_env()?;
        let alone = folders.lock(progress)?;
        build::parts(&folders, progress)?;
        let lab = Self::open(folders);
        if !lab.is_up() {
            remnants::remove(&lab.folders)?;
            lab.start(progress)?;
        }
        // Cargo has a lock of its own, and may hold it long.
        drop(alone);
        let binaries = Binaries::build(progress)?;
        lab.load_images(&binaries, progress)?;
        progress.step("the lab is up");
        Ok(lab)
    }

    /// The lab that is up.
    pub fn attach() -> Result<Self> {
        let lab = Self::open(Folders::from_env()?);
        if !lab.is_up() {
            bail!("the lab {} is not up: run `cargo lab up`", lab.folders.name());
        }
        Ok(lab)
    }

    /// Takes the lab down, whatever of it is up, and leaves nothing behind.
    pub fn take_down(progress: &mut Progress) -> Result<()> {
        let lab = Self::open(Folders::from_env()?);
        let _alone = lab.folders.lock(progress)?;
        progress.step("taking the lab down");
        remnants::remove(&lab.folders)
    }

    fn open(folders: Folders) -> Self {
        let processes = Processes::open(folders.data(), folders.name());
        Self { folders, processes }
    }

    fn is_up(&self) -> bool {
        self.folders.complete().exists()
            && ["etcd", "kube-apiserver", "kubelet", "containerd", "kafka"]
                .iter()
                .all(|name| self.processes.find(name).is_some())
    }

    fn start(&self, progress: &mut Progress) -> Result<()> {
        let (folders, processes) = (&self.folders, &self.processes);
        progress.step("starting Kafka and the control plane");
        fs::create_dir_all(folders.data())?;
        netns::create(folders.name())?;
        self.kafka().write_scripts(&folders.scripts())?;
        self.kafka().prepare()?;
        self.kafka().launch()?;
        control_plane::prepare(folders)?;
        control_plane::start_etcd(folders, processes)?;
        control_plane::start_api_server(folders, processes)?;
        node::prepare(folders)?;
        cgroups::create(folders.name())?;
        node::start_containerd(folders, processes)?;
        Image::new(node::PAUSE_IMAGE, &folders.binary("pause")).import(folders)?;
        control_plane::wait_api_server(folders, processes)?;
        control_plane::start_controllers(folders, processes)?;
        progress.step("starting the node");
        node::start(folders, processes)?;
        control_plane::start_dns(folders, processes)?;
        self.kafka().wait()?;
        fs::write(folders.complete(), "")?;
        Ok(())
    }

    fn load_images(&self, binaries: &Binaries, progress: &mut Progress) -> Result<()> {
        progress.step("loading the images of operator and consumer");
        for (image, binary) in [
            (OPERATOR_IMAGE, "sluice-operator"),
            (CONSUMER_IMAGE, "sluice-consumer"),
            (CUSTOM_IMAGE, "sluice-example-custom-handler"),
        ] {
            Image::new(image, &binaries.path(binary)).import(&self.folders)?;
        }
        Ok(())
    }

    /// Takes this lab down and leaves nothing behind.
    pub fn down(self) -> Result<()> {
        remnants::remove(&self.folders)
    }

    /// Moves this process into the lab's network namespace, where the API server is 127.0.0.1 and pods are reachable.
    ///
    /// Only the calling thread moves: call it before any runtime or thread is started.
    pub fn enter(&self) -> Result<()> {
        netns::enter(self.folders.name())
    }

    /// The kubeconfig of the lab's administrator; it works inside the lab's network namespace.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folders.kubeconfig()
    }

    /// A client of the API server; for a process that has [entered](Self::enter) the lab.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig(), None).await
    }

    /// Runs kubectl and returns what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        control_plane::kubectl(&self.folders, arguments)
    }

    /// A kubectl command against the lab.
    pub fn kubectl_command(&self) -> Command {
        control_plane::kubectl_command(&self.folders)
    }

    /// A helm command against the lab.
    pub fn helm(&self) -> Command {
        let mut command =
            netns::inside(self.folders.name(), &self.folders.binary("helm").display().to_string());
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folders.data());
        command
    }

    /// The address at which pods and the lab reach Kafka.
    pub fn bootstrap_servers(&self) -> String {
        Kafka::bootstrap_servers()
    }

    /// The address at which pods reach what the lab's own processes serve.
    pub fn address(&self) -> &'static str {
        netns::ADDRESS
    }

    /// The broker.
    pub fn kafka(&self) -> Kafka<'_> {
        Kafka::new(&self.folders, &self.processes)
    }

    /// Stops the API server and starts it again after `away`.
    pub fn restart_api_server(&self, away: Duration) -> Result<()> {
        // Asked to end, it refuses new requests at once and holds open watches for a minute.
        self.processes.end("kube-apiserver", Duration::from_secs(3));
        std::thread::sleep(away);
        control_plane::start_api_server(&self.folders, &self.processes)?;
        control_plane::wait_api_server(&self.folders, &self.processes)
    }

    /// The containers' output: `NAMESPACE_POD_UID/CONTAINER/N.log`.
    pub fn pod_logs_dir(&self) -> PathBuf {
        self.folders.pod_logs()
    }

    /// Imports a further image made of one binary.
    pub fn load_image(&self, name: &str, binary: &std::path::Path) -> Result<()> {
        Image::new(name, binary).import(&self.folders)
    }

    /// Processes of a pod's containers, by the pod's uid; the pause container's is not among them.
    pub fn processes_of_pod(&self, uid: &str) -> Vec<Identity> {
        cgroups::processes(self.folders.name())
            .into_iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|c| c.contains(uid))
            })
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name.trim() != "pause")
            })
            .filter_map(Identity::of)
            .collect()
    }

    /// Installs Sluice with its own charts, as a user does, and waits until the operator is ready.
    pub fn install_sluice(&self, values: &[&str]) -> Result<()> {
        let charts = Folders::checkout()?.join("charts");
        run::ok(
            self.helm()
                .args(["upgrade", "--install", "sluice-crds"])
                .arg(charts.join("sluice-crds"))
                .args([
                    "--namespace",
                    OPERATOR_NAMESPACE,
                    "--create-namespace",
                    "--wait",
                    "--timeout",
                    "60s",
                ]),
        )?;
        let mut command = self.helm();
        command.args(["upgrade", "--install", "sluice"]).arg(charts.join("sluice")).args([
            "--namespace",
            OPERATOR_NAMESPACE,
            "--wait",
            "--timeout",
            "90s",
            "--set",
            "image.repository=sluice.dev/operator",
            "--set",
            "image.tag=dev",
            "--set",
            "image.pullPolicy=Never",
            "--set",
            "consumerImage.repository=sluice.dev/consumer",
            "--set",
            "consumerImage.tag=dev",
        ]);
        // The tag stays the same: what tells that another binary is in it makes helm roll the operator.
        let image = Image::imported(&self.folders, OPERATOR_IMAGE).unwrap_or_default();
        command.args(["--set-string", &format!("podAnnotations.image={image}")]);
        for value in values {
            command.args(["--set", value]);
        }
        run::ok(&mut command)
    }

    /// Uninstalls the operator; the definitions and all consumers stay.
    pub fn uninstall_operator(&self) -> Result<()> {
        run::ok(self.helm().args([
            "uninstall",
            "sluice",
            "--namespace",
            OPERATOR_NAMESPACE,
            "--wait",
            "--timeout",
            "60s",
        ]))
    }

    /// A shell inside the lab, with kubectl and helm on the PATH.
    pub fn shell(&self) -> Command {
        let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/bash".to_owned());
        let mut command = netns::inside(self.folders.name(), &shell);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env(
                "PATH",
                format!(
                    "{}:{}:{path}",
                    self.folders.cache().join("bin").display(),
                    self.folders.scripts().display()
                ),
            )
            .env("KUBECONFIG", self.kubeconfig())
            .env("KAFKA", Kafka::bootstrap_servers())
            .env("CLASSPATH", self.folders.cache().join("kafka/libs/*"));
        command
    }

    /// What runs, for a person who asks.
    pub fn status() -> Result<Vec<(String, i32)>> {
        let lab = Self::open(Folders::from_env()?);
        Ok(lab
            .processes
            .running()
            .into_iter()
            .map(|(name, process)| (name, process.pid()))
            .collect())
    }
}

/// A client from a kubeconfig, by its current context or by one that is named.
pub async fn client(kubeconfig: &std::path::Path, context: Option<&str>) -> Result<kube::Client> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let options = kube::config::KubeConfigOptions {
        context: context.map(str::to_owned),
        ..Default::default()
    };
    let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
    Ok(kube::Client::try_from(config)?)
}
