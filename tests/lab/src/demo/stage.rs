//! Where the demo plays: the lab, or a cluster and a Kafka of the user's own.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};
use serde_json::{Value, json};
use sluice_crds::KafkaConsumer;
use tokio::time::{Instant, sleep};

use crate::{Lab, folders::Folders, run, verify::Collector};

/// The field manager of what the demo applies.
const MANAGER: &str = "sluice-demo";
const KAFKA_ANSWERS: Duration = Duration::from_secs(15);
const TOPIC_GONE: Duration = Duration::from_secs(20);

/// A cluster and a Kafka to play on.
#[derive(Clone)]
pub struct Stage {
    client: Client,
    brokers: String,
    namespace: String,
    ground: Ground,
    /// Distinguishes what the demo makes from what a user's cluster has; empty in the lab.
    suffix: String,
}

#[derive(Clone, Debug)]
enum Ground {
    Lab { logs: PathBuf, kubectl: PathBuf, kubeconfig: PathBuf },
    Own { context: String },
}

impl Stage {
    /// The lab; the calling process has entered it.
    pub async fn lab(lab: &Lab) -> Result<Self> {
        let ground = Ground::Lab {
            logs: lab.pod_logs_dir(),
            kubectl: Folders::from_env()?.kubectl(),
            kubeconfig: lab.kubeconfig(),
        };
        let client = lab.client().await?;
        let brokers = lab.bootstrap_servers();
        Ok(Self { client, brokers, namespace: "default".to_owned(), ground, suffix: String::new() })
    }

    /// A cluster of the user's own.
    pub async fn own(context: &str, namespace: &str, brokers: &str) -> Result<Self> {
        Ok(Self {
            client: crate::record::cli::client_of_context(context).await?,
            brokers: brokers.to_owned(),
            namespace: namespace.to_owned(),
            ground: Ground::Own { context: context.to_owned() },
            suffix: format!("-demo-{:04x}", fastrand::u16(..)),
        })
    }

    /// The API server's client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The brokers' addresses.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The namespace of the KafkaConsumer.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name that a KafkaConsumer or a topic of the example has here.
    pub fn name(&self, name: &str) -> String {
        format!("{name}{}", self.suffix)
    }

    /// Begins to gather what the pods print.
    pub fn collector(&self) -> Result<Collector> {
        match &self.ground {
            Ground::Lab { logs, .. } => Collector::follow_files(logs, Some(&self.namespace)),
            Ground::Own { .. } => Ok(Collector::follow_api(self.client(), &self.namespace)),
        }
    }

    /// What kubectl prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = match &self.ground {
            Ground::Lab { kubectl, kubeconfig, .. } => {
                let mut command = Command::new(kubectl);
                command.arg("--kubeconfig").arg(kubeconfig);
                command
            }
            Ground::Own { context } => {
                let mut command = Command::new("kubectl");
                command.args(["--context", context]);
                command
            }
        };
        run::stdout(command.args(["--namespace", &self.namespace]).args(arguments))
    }

    /// Applies a KafkaConsumer.
    pub async fn apply(&self, consumer: &Value) -> Result<()> {
        let name = consumer["metadata"]["name"].as_str().context("the example has no name")?;
        self.consumers()
            .patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(consumer))
            .await
            .with_context(|| format!("cannot apply the KafkaConsumer {name}"))?;
        Ok(())
    }

    /// Frees the concurrency of a KafkaConsumer.
    pub async fn free_concurrency(&self, name: &str, max: i32) -> Result<()> {
        let change = json!({ "spec": { "tuning": { "concurrency": { "min": 1, "max": max } } } });
        self.consumers().patch(name, &PatchParams::default(), &Patch::Merge(change)).await?;
        Ok(())
    }

    /// Deletes a KafkaConsumer and waits until it and its children are gone.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        match self.consumers().delete(name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.consumers().get_opt(name).await?.is_some() {
            if Instant::now() > deadline {
                bail!("the KafkaConsumer {name} is still there a minute after it was deleted");
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Creates a topic; one of an earlier demo makes way.
    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let admin = self.admin()?;
        let replication = match self.ground {
            Ground::Lab { .. } => 1,
            // The broker's own default.
            Ground::Own { .. } => -1,
        };
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replication));
        let deadline = Instant::now() + TOPIC_GONE;
        loop {
            match admin.create_topics([&topic], &options()).await?.pop() {
                Some(Ok(_)) => return Ok(()),
                Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists)))
                    if Instant::now() < deadline =>
                {
                    // Deleting takes a moment, and so long the name is taken.
                    admin.delete_topics(&[name], &options()).await?;
                    sleep(Duration::from_millis(300)).await;
                }
                Some(Err((_, error))) => bail!("the topic {name} could not be created: {error}"),
                None => bail!("the broker did not say whether it created the topic {name}"),
            }
        }
    }

    /// Removes what the demo made, where the ground stays.
    pub async fn clear(&self, consumers: &[String], topics: &[String]) -> Result<()> {
        for name in consumers {
            self.delete(name).await?;
        }
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        self.admin()?.delete_topics(&topics, &options()).await?;
        Ok(())
    }

    fn consumers(&self) -> Api<KafkaConsumer> {
        Api::namespaced(self.client(), &self.namespace)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", MANAGER)
            .create()?)
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(KAFKA_ANSWERS)).operation_timeout(Some(KAFKA_ANSWERS))
}

/// Installs Sluice by helm on a cluster of the user's own.
pub fn install(context: &str, values: &[String]) -> Result<()> {
    let charts = Folders::checkout()?.join("charts");
    for (release, settings) in [("sluice-crds", &[][..]), ("sluice", values)] {
        let mut command = Command::new("helm");
        command
            .args(["upgrade", "--install", release])
            .arg(charts.join(release))
            .args([
                "--kube-context",
                context,
                "--namespace",
                crate::lab::OPERATOR_NAMESPACE,
                "--create-namespace",
            ])
            .args(["--wait", "--timeout", "3m"]);
        for value in settings {
            command.args(["--set", value]);
        }
        run::ok(&mut command)?;
    }
    Ok(())
}
