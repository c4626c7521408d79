//! The lab's processes: started in its network namespace, remembered by id and start time, ended by id.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::netns;

/// A process by its id and the time at which it started (clock ticks since boot): an id alone may be another's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pid: i32,
    started: u64,
}

impl Identity {
    /// The process that has this id now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may hold anything: fields count from the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            return None;
        }
        Some(Self { pid, started: fields.get(19)?.parse().ok()? })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Its id.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Sends a signal, if it still runs.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the look and the signal; then there is nobody left to end.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Ends it: politely, and after `patience` by force.
    pub fn end(self, patience: Duration) {
        self.signal(Signal::SIGCONT);
        self.signal(Signal::SIGTERM);
        if !self.wait_gone(patience) {
            self.signal(Signal::SIGKILL);
            self.wait_gone(Duration::from_secs(5));
        }
    }

    /// Waits until it is gone; says whether it is.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.is_alive() {
            if start.elapsed() > limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// The variable by which a process of a lab is known, whatever became of the lab that started it: its value is the lab's
/// name. containerd hands it to its shims; containers do not get it.
const MARK: &str = "SLUICE_LAB_PART_OF";

/// The processes that carry the mark of this lab.
pub fn marked(lab: &str) -> Vec<Identity> {
    let mark = format!("{MARK}={lab}");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            // Unreadable: the kernel's own, or gone by now.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        })
        .filter_map(Identity::of)
        .collect()
}

/// What is written down of a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    #[serde(flatten)]
    identity: Identity,
}

/// The processes of one lab, written down in its folder so that another `lab` command can find and end them.
#[derive(Debug)]
pub struct Processes {
    file: PathBuf,
    logs: PathBuf,
    lab: String,
    /// Our own children, which must be waited for or they stay as zombies.
    children: Mutex<Vec<Child>>,
}

impl Processes {
    /// The processes of this lab, which are written down in its folder.
    pub fn open(folder: &Path, lab: &str) -> Self {
        let file = folder.join("processes.json");
        Self { file, logs: folder.join("logs"), lab: lab.to_owned(), children: Mutex::default() }
    }

    fn entries(&self) -> Vec<Entry> {
        fs::read(&self.file)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    fn write(&self, entries: &[Entry]) -> Result<()> {
        let next = self.file.with_extension("next");
        fs::write(&next, serde_json::to_vec_pretty(entries)?)?;
        fs::rename(&next, &self.file)?;
        Ok(())
    }

    /// The log of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Starts a process in the lab's network namespace; its output goes to its log.
    pub fn start(
        &self,
        name: &str,
        program: &Path,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Identity> {
        fs::create_dir_all(&self.logs)?;
        let log = OpenOptions::new().create(true).append(true).open(self.log(name))?;
        // A session of its own: Ctrl-C and the end of the terminal are for the command, not for the lab that it started.
        let mut command = Command::new("setsid");
        command
            .arg("nsenter")
            .arg(format!("--net={}", netns::path(&self.lab).display()))
            .arg("--")
            .arg(program);
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).env(MARK, &self.lab);
        // Held until the entry is written: parts are started side by side.
        let mut children = self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let child = command
            .spawn()
            .with_context(|| format!("{name} could not be started ({})", program.display()))?;
        let pid = i32::try_from(child.id())?;
        let identity = Identity::of(pid)
            .with_context(|| format!("{name} ended at once; see {}", self.log(name).display()))?;
        children.push(child);
        let mut entries = self.entries();
        entries.retain(|e| e.name != name);
        entries.push(Entry { name: name.to_owned(), identity });
        self.write(&entries)?;
        Ok(identity)
    }

    /// The process of this name, if it runs.
    pub fn find(&self, name: &str) -> Option<Identity> {
        self.reap();
        self.entries()
            .into_iter()
            .find(|e| e.name == name)
            .map(|e| e.identity)
            .filter(|i| i.is_alive())
    }

    /// All that run, in the order of their start.
    pub fn running(&self) -> Vec<(String, Identity)> {
        self.reap();
        self.entries()
            .into_iter()
            .filter(|e| e.identity.is_alive())
            .map(|e| (e.name, e.identity))
            .collect()
    }

    /// Collects those of our children that ended.
    fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Ends the process of this name.
    pub fn end(&self, name: &str, patience: Duration) {
        if let Some(identity) = self.find(name) {
            identity.end(patience);
        }
        self.reap();
    }

    /// Waits until `ready` says so; fails early when the process ends, with the end of its log.
    pub fn wait_ready(
        &self,
        name: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !ready() {
            if self.find(name).is_none() {
                bail!(
                    "{name} ended; the end of its log ({}):\n{}",
                    self.log(name).display(),
                    self.tail(name)
                );
            }
            if start.elapsed() > limit {
                bail!(
                    "{name} was not ready within {limit:?}; the end of its log ({}):\n{}",
                    self.log(name).display(),
                    self.tail(name)
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The last lines of a log.
    pub fn tail(&self, name: &str) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.log(name))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(4_000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }
}
