//! The lab's Kafka: one broker that is also its controller, with the settings that users have.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{control_plane, folders::Folders, netns::ADDRESS, processes::Processes, run};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 9092;
const NAME: &str = "kafka";

/// The broker of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Kafka<'a> {
    folders: &'a Folders,
    processes: &'a Processes,
}

impl<'a> Kafka<'a> {
    pub(crate) fn new(folders: &'a Folders, processes: &'a Processes) -> Self {
        Self { folders, processes }
    }

    /// The broker's address, for pods and for the lab itself.
    pub fn bootstrap_servers() -> String {
        format!("{ADDRESS}:{PORT}")
    }

    fn properties(self) -> std::path::PathBuf {
        self.folders.data().join("kafka.properties")
    }

    fn java(self) -> Command {
        let mut command = Command::new("java");
        command.arg("-cp").arg(self.folders.cache().join("kafka/libs/*"));
        command
    }

    /// Writes the broker's settings and formats its log folder.
    ///
    /// `group.initial.rebalance.delay.ms` and `auto.create.topics.enable` stay as they are: users have them so.
    pub fn prepare(self) -> Result<()> {
        let logs = self.folders.data().join("kafka-logs");
        fs::write(
            self.properties(),
            format!(
                "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9093
listeners=PLAINTEXT://0.0.0.0:{PORT},CONTROLLER://127.0.0.1:9093
advertised.listeners=PLAINTEXT://{ADDRESS}:{PORT}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
",
                logs.display()
            ),
        )?;
        run::ok(
            self.java()
                .args(["kafka.tools.StorageTool", "format", "-t", "c2x1aWNlLWxhYi1jbHVzdA", "-c"])
                .arg(self.properties()),
        )
    }

    /// Starts the broker and waits for it.
    pub fn start(self) -> Result<()> {
        self.launch()?;
        self.wait()
    }

    /// Starts the broker; [`Self::wait`] waits for it.
    pub fn launch(self) -> Result<()> {
        let libraries = self.folders.cache().join("kafka/libs/*");
        self.processes.start(NAME, Path::new("/usr/bin/env"), |command| {
            command
                .args(["java", "-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-cp"])
                .arg(libraries)
                .arg("kafka.Kafka")
                .arg(self.properties());
        })?;
        Ok(())
    }

    /// Waits until the broker listens.
    pub fn wait(self) -> Result<()> {
        self.processes.wait_ready(NAME, LIMIT, || control_plane::listens_inside(self.folders, ADDRESS, PORT))
    }

    /// Stops the broker in order.
    pub fn stop(self) {
        self.processes.end(NAME, Duration::from_secs(20));
    }

    /// Ends the broker without warning.
    pub fn kill(self) {
        if let Some(process) = self.processes.find(NAME) {
            process.signal(Signal::SIGKILL);
            process.wait_gone(Duration::from_secs(5));
        }
    }

    /// Lets the broker hang: it keeps its connections and answers nothing.
    pub fn freeze(self) {
        if let Some(process) = self.processes.find(NAME) {
            process.signal(Signal::SIGSTOP);
        }
    }

    /// Ends a hang.
    pub fn thaw(self) {
        if let Some(process) = self.processes.find(NAME) {
            process.signal(Signal::SIGCONT);
        }
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.TopicCommand`.
    pub fn tool(self, class: &str, arguments: &[&str]) -> Result<String> {
        let mut command = crate::netns::inside(self.folders.name(), "java");
        command.arg("-cp").arg(self.folders.cache().join("kafka/libs/*")).arg(class);
        run::stdout(command.args(["--bootstrap-server", &Self::bootstrap_servers()]).args(arguments))
    }
}
