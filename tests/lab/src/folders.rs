//! Where the lab keeps things: what is built once (a cache outside the checkout) and what one lab needs while it is up.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// Longer than a first build of everything on a slow machine.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// The folders of one lab, by its name.
#[derive(Clone, Debug)]
pub struct Folders {
    name: String,
    cache: PathBuf,
    data: PathBuf,
}

impl Folders {
    /// Those of the lab that `SLUICE_LAB_NAME` names (default `sluice`).
    ///
    /// What is built is kept in `SLUICE_LAB_CACHE` (default: `sluice-lab` in the user's cache folder).
    pub fn from_env() -> Result<Self> {
        let name = env::var("SLUICE_LAB_NAME").unwrap_or_else(|_| "sluice".to_owned());
        let cache = match (
            env::var_os("SLUICE_LAB_CACHE"),
            env::var_os("XDG_CACHE_HOME"),
            env::var_os("HOME"),
        ) {
            (Some(own), _, _) => PathBuf::from(own),
            (None, Some(cache), _) => PathBuf::from(cache).join("sluice-lab"),
            (None, None, Some(home)) => PathBuf::from(home).join(".cache/sluice-lab"),
            (None, None, None) => PathBuf::from("/var/cache/sluice-lab"),
        };
        let data = Path::new("/var/lib/sluice-lab").join(&name);
        Ok(Self { name, cache, data })
    }

    /// The lab's name: of its namespace, its cgroups, its folders.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is built once.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Waits until no other command builds, starts or ends a lab; until the file is dropped none other does.
    ///
    /// The lock goes with the process, however that ends.
    pub fn lock(&self, progress: &mut Progress) -> Result<File> {
        fs::create_dir_all(&self.cache)
            .with_context(|| format!("{} could not be made", self.cache.display()))?;
        let file = File::create(self.cache.join("lock"))?;
        if file.try_lock().is_err() {
            progress.step("waiting for another command that builds, starts or ends a lab");
            let start = Instant::now();
            while file.try_lock().is_err() {
                if start.elapsed() > PATIENCE {
                    bail!("another command has been at it for {} minutes", PATIENCE.as_secs() / 60);
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(file)
    }

    /// A binary that the lab built.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    /// Control plane and node in one.
    pub fn cluster_binary(&self) -> PathBuf {
        self.binary("sluice-cluster")
    }

    /// kubectl: the same binary by another name.
    pub fn kubectl(&self) -> PathBuf {
        self.binary("kubectl")
    }

    /// What this lab needs while it is up; removed when it goes down.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Scripts for the lab's shell.
    pub fn scripts(&self) -> PathBuf {
        self.data.join("bin")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.data.join("pki")
    }

    /// The kubeconfig of the lab's administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.data.join("containerd.sock")
    }

    /// What containerd keeps while it runs: bundles, mounts, network namespaces of pods.
    pub fn containerd_state(&self) -> PathBuf {
        self.data.join("containerd-state")
    }

    /// Written when the lab is whole: one that was killed on its way up has none.
    pub fn complete(&self) -> PathBuf {
        self.data.join("complete")
    }

    /// The containers' output: `NAMESPACE_POD_UID/CONTAINER/N.log`.
    pub fn pod_logs(&self) -> PathBuf {
        self.data.join("pod-logs")
    }

    /// The checkout that this lab was built from.
    pub fn checkout() -> Result<PathBuf> {
        // Cargo tells where the package is that runs: checkouts that share a target folder share the binary too, with the
        // path that it was compiled in.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        package.join("../..").canonicalize().context("the checkout is gone")
    }
}
