//! Images without a registry: a binary and the libraries that it names, as an OCI archive that containerd imports.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{folders::Folders, node, run};

/// The user that images run as.
const NONROOT: u32 = 65_532;

/// An image to make.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its name, such as `sluice.dev/consumer:dev`.
    pub name: String,
    /// The binary in it, which is also its entry point.
    pub binary: PathBuf,
}

impl Image {
    /// An image of one binary.
    pub fn new(name: &str, binary: &Path) -> Self {
        Self { name: name.to_owned(), binary: binary.to_owned() }
    }

    /// Imports it into the lab's containerd, unless this very binary was imported before.
    pub fn import(&self, folders: &Folders) -> Result<()> {
        let digest = sha256(&self.binary)?;
        let mark = mark(folders, &self.name);
        let marks = folders.data().join("images");
        fs::create_dir_all(&marks)?;
        if fs::read_to_string(&mark).is_ok_and(|imported| imported == digest) {
            return Ok(());
        }
        let archive = self.archive(&marks)?;
        run::ok(node::ctr(folders).args(["images", "import"]).arg(&archive))?;
        fs::remove_file(&archive)?;
        fs::write(mark, digest)?;
        Ok(())
    }

    /// The digest of the binary that was imported under this name.
    pub fn imported(folders: &Folders, name: &str) -> Option<String> {
        fs::read_to_string(mark(folders, name)).ok()
    }

    fn archive(&self, scratch: &Path) -> Result<PathBuf> {
        let work = tempfile::tempdir_in(scratch)?;
        let root = work.path().join("root");
        self.fill(&root)?;
        let oci = work.path().join("oci");
        let blobs = oci.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let layer_tar = work.path().join("layer.tar");
        // Fixed times and owners: the same binary makes the same image.
        run::ok(
            Command::new("tar")
                .args([
                    "--sort=name",
                    "--mtime=@0",
                    "--owner=0",
                    "--group=0",
                    "--numeric-owner",
                    "-C",
                ])
                .arg(&root)
                .arg("-cf")
                .arg(&layer_tar)
                .arg("."),
        )?;
        let layer = add_blob(&blobs, &layer_tar)?;
        let entry = format!("/{}", self.entry_name()?);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "User": format!("{NONROOT}:{NONROOT}"), "Entrypoint": [entry], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.0)] },
        });
        let config = add_json(&blobs, &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = add_json(&blobs, &manifest)?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name });
        fs::write(
            oci.join("index.json"),
            json!({ "schemaVersion": 2, "manifests": [entry] }).to_string(),
        )?;
        fs::write(oci.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let archive = scratch.join(format!("{}.tar", self.entry_name()?));
        run::ok(Command::new("tar").arg("-C").arg(&oci).arg("-cf").arg(&archive).arg("."))?;
        Ok(archive)
    }

    fn entry_name(&self) -> Result<String> {
        Ok(self.binary.file_name().context("a binary has a name")?.to_string_lossy().into_owned())
    }

    /// The image's files: the binary without its symbols, the libraries that `ldd` names, and a user that is not root.
    fn fill(&self, root: &Path) -> Result<()> {
        fs::create_dir_all(root.join("etc"))?;
        fs::create_dir_all(root.join("tmp"))?;
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::write(
            root.join("etc/passwd"),
            format!(
                "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{NONROOT}:{NONROOT}::/:/sbin/nologin\n"
            ),
        )?;
        fs::write(root.join("etc/group"), format!("root:x:0:\nnonroot:x:{NONROOT}:\n"))?;
        fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
        let target = root.join(self.entry_name()?);
        if run::ok(Command::new("strip").arg("-o").arg(&target).arg(&self.binary)).is_err() {
            fs::copy(&self.binary, &target)?;
        }
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        // A static binary has none: ldd then fails, and says so.
        let libraries = run::stdout(Command::new("ldd").arg(&self.binary)).unwrap_or_default();
        for library in libraries.split_whitespace().filter(|w| w.starts_with('/')) {
            copy_into(root, Path::new(library))?;
        }
        if !libraries.trim().is_empty() {
            // Loaded at run time to resolve names, so ldd does not name them.
            for library in ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"] {
                for folder in ["/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"] {
                    let path = Path::new(folder).join(library);
                    if path.exists() {
                        copy_into(root, &path)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Where it is noted which binary an image holds.
fn mark(folders: &Folders, name: &str) -> PathBuf {
    folders.data().join("images").join(name.replace(['/', ':'], "_"))
}

fn copy_into(root: &Path, file: &Path) -> Result<()> {
    let target = root.join(file.strip_prefix("/").unwrap_or(file));
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(file, &target).with_context(|| format!("{} could not be copied", file.display()))?;
    Ok(())
}

/// A blob's digest and size.
type Blob = (String, u64);

fn add_blob(blobs: &Path, file: &Path) -> Result<Blob> {
    let digest = sha256(file)?;
    let size = fs::metadata(file)?.len();
    fs::rename(file, blobs.join(&digest))?;
    Ok((digest, size))
}

fn add_json(blobs: &Path, value: &serde_json::Value) -> Result<Blob> {
    let file = blobs.join("next");
    fs::write(&file, value.to_string())?;
    add_blob(blobs, &file)
}

fn descriptor(kind: &str, blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{}", blob.0), "size": blob.1 })
}

fn sha256(file: &Path) -> Result<String> {
    let text = run::stdout(Command::new("sha256sum").arg(file))?;
    Ok(text.split_whitespace().next().context("sha256sum said nothing")?.to_owned())
}

const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
