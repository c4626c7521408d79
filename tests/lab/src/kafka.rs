//! The lab's Kafka: one broker that is also its controller, with the settings that users have.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};

use crate::{
    folders::Folders,
    netns::{self, ADDRESS},
    processes::Processes,
    run,
};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 9092;
const NAME: &str = "kafka";

/// Kafka's own tools, by the names that the lab gives them.
const TOOLS: &[(&str, &str)] = &[
    ("configs", "kafka.admin.ConfigCommand"),
    ("consume", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
    ("delete-records", "org.apache.kafka.tools.DeleteRecordsCommand"),
    ("groups", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ("offsets", "org.apache.kafka.tools.GetOffsetShell"),
    ("produce", "org.apache.kafka.tools.ConsoleProducer"),
    ("topics", "org.apache.kafka.tools.TopicCommand"),
    ("transactions", "org.apache.kafka.tools.TransactionsCommand"),
];

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

    /// Waits until the broker answers.
    pub fn wait(self) -> Result<()> {
        self.processes.wait_ready(NAME, LIMIT, || {
            netns::listens(self.folders.name(), ADDRESS, PORT) && self.answers()
        })
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

    /// One of Kafka's own tools by its short name (`topics`, `groups` …), to be run inside the lab.
    pub fn tool_command(self, name: &str) -> Result<Command> {
        let Some((_, class)) = TOOLS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = TOOLS.iter().map(|(known, _)| *known).collect();
            bail!("there is no tool {name}; there are {}", known.join(", "));
        };
        let mut command = netns::inside(self.folders.name(), "java");
        command
            .arg("-cp")
            .arg(self.libraries())
            .arg(class)
            .args(["--bootstrap-server", &Self::bootstrap_servers()]);
        Ok(command)
    }

    /// Writes a script for each of the tools (`kafka-topics` …), for the lab's shell.
    pub(crate) fn write_scripts(self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for (name, class) in TOOLS {
            let script = folder.join(format!("kafka-{name}"));
            let (libraries, servers) = (self.libraries(), Self::bootstrap_servers());
            let text = format!(
                "#!/bin/sh\nexec java -cp '{}' {class} --bootstrap-server {servers} \"$@\"\n",
                libraries.display()
            );
            fs::write(&script, text)?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn libraries(self) -> PathBuf {
        self.folders.cache().join("kafka/libs/*")
    }

    /// Whether the broker knows itself: it listens a moment before that.
    fn answers(self) -> bool {
        let ask = || {
            let client: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", Self::bootstrap_servers()).create()?;
            Ok(client.fetch_metadata(None, Duration::from_secs(5))?.brokers().len())
        };
        netns::within(self.folders.name(), ask).is_ok_and(|brokers| brokers > 0)
    }

    /// Runs one of Kafka's own tools, such as `org.apache.kafka.tools.TopicCommand`.
    pub fn tool(self, class: &str, arguments: &[&str]) -> Result<String> {
        let mut command = crate::netns::inside(self.folders.name(), "java");
        command.arg("-cp").arg(self.folders.cache().join("kafka/libs/*")).arg(class);
        run::stdout(
            command.args(["--bootstrap-server", &Self::bootstrap_servers()]).args(arguments),
        )
    }
}
