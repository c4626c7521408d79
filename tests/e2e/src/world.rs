//! The lab with Sluice in it, and the scenes that tests play there: each has a namespace, a topic and a consumer.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};
use sluice_lab::{
    Lab,
    lab::OPERATOR_NAMESPACE,
    load::{Load, LoadHandle, Manifest, Schedule},
    progress::Progress,
    verify::{self, Collector, Evidence, Lane, Verdict},
};

use crate::{consumer::Consumer, records::Kafka};

/// The lab with Sluice in it.
pub struct World {
    /// Cluster and Kafka.
    pub lab: Lab,
    /// A client of the API server.
    pub client: Client,
    /// A client of Kafka.
    pub kafka: Kafka,
    /// The scene that is played now, for who asks what went wrong in it.
    scene: Mutex<Option<String>>,
}

/// A namespace, a topic and a consumer for one test.
pub struct Scene {
    world: Arc<World>,
    /// The namespace, which is also the test's name.
    pub namespace: String,
    /// The topic.
    pub topic: String,
    /// The consumer; it is not applied yet.
    pub consumer: Consumer,
    collector: Option<Collector>,
}

impl World {
    /// Brings the lab up, moves this process into it, and installs Sluice with its charts.
    ///
    /// To be called from the main thread before any other is started.
    pub fn start(progress: &mut Progress) -> Result<(Lab, tokio::runtime::Runtime)> {
        let lab = Lab::up(progress)?;
        lab.enter()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        progress.step("installing Sluice with its charts");
        lab.install_sluice(&[])?;
        progress.step("running the tests");
        Ok((lab, runtime))
    }

    /// The world in a lab that is up.
    pub async fn new(lab: Lab) -> Result<Self> {
        let client = lab.client().await?;
        let kafka = Kafka::new(&lab.bootstrap_servers());
        Ok(Self { lab, client, kafka, scene: Mutex::default() })
    }

    /// Prepares a scene: an empty namespace and a topic of this many partitions.
    pub async fn scene(self: &Arc<Self>, name: &str, partitions: i32) -> Result<Scene> {
        // Scenes of one run differ, so that a topic is never that of an earlier try.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        self.kafka.create_topic(&name, partitions).await?;
        *self.scene.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.clone());
        let collector = Collector::follow_files(self.lab.pod_logs_dir(), Some(&name))?;
        Ok(Scene {
            world: self.clone(),
            consumer: Consumer::new(&self.client, &name, "work"),
            topic: name.clone(),
            namespace: name,
            collector: Some(collector),
        })
    }

    /// The body of the operator's `/readyz`.
    pub fn readyz(&self) -> Result<String> {
        let pod = self.lab.kubectl(&[
            "get",
            "pods",
            "-n",
            OPERATOR_NAMESPACE,
            "-l",
            "app.kubernetes.io/name=sluice",
            "--field-selector=status.phase=Running",
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ])?;
        let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{pod}:8080/proxy/readyz");
        self.lab.kubectl(&["get", "--raw", &path])
    }

    /// Starts the operator's pod again, and waits until it is ready.
    pub fn restart_the_operator(&self) -> Result<()> {
        let lab = &self.lab;
        lab.kubectl(&["rollout", "restart", "deployment/sluice", "-n", OPERATOR_NAMESPACE])?;
        lab.kubectl(&[
            "rollout",
            "status",
            "deployment/sluice",
            "-n",
            OPERATOR_NAMESPACE,
            "--timeout=60s",
        ])?;
        Ok(())
    }

    /// What a person would look at after a failure of the last scene, written into a file; its path.
    pub fn explain(&self) -> Result<String> {
        let scene = self.scene.lock().unwrap_or_else(PoisonError::into_inner).take();
        let namespace = scene.as_deref().unwrap_or("default");
        let mut text = String::new();
        for arguments in [
            &["get", "kcon,deploy,pods,configmaps", "-n", namespace, "-o", "wide"][..],
            &["describe", "kcon", "-n", namespace],
            &["get", "kcon", "-n", namespace, "-o", "yaml"],
            &["describe", "pods", "-n", namespace],
            &[
                "logs",
                "-n",
                namespace,
                "-l",
                "app.kubernetes.io/name=kafka-consumer",
                "--tail=60",
                "--prefix",
            ],
            &[
                "logs",
                "-n",
                OPERATOR_NAMESPACE,
                "-l",
                "app.kubernetes.io/name=sluice",
                "--tail=300",
            ],
        ] {
            let answer = self.lab.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}"));
            writeln!(text, "$ kubectl {}\n{answer}", arguments.join(" "))?;
        }
        let folder = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), Into::into)
            .join("e2e");
        fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{namespace}.txt"));
        fs::write(&file, text)?;
        // It would go on consuming beside the tests that follow.
        self.lab.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
        Ok(file.display().to_string())
    }
}

impl Scene {
    /// A spec that consumes the scene's topic and logs, with this merged over it.
    pub fn spec(&self, over: &Value) -> Value {
        let mut spec = json!({
            "kafka": { "bootstrapServers": self.world.lab.bootstrap_servers(), "topics": [self.topic] },
            "handler": { "log": {} },
        });
        merge(&mut spec, over);
        spec
    }

    /// A spec whose pods do 500 records a second each: two milliseconds a record, one at a time.
    pub fn slow_spec(&self, over: &Value) -> Value {
        let mut spec = self.spec(&json!({
            "handler": { "log": { "delayPerRecord": "2ms" } },
            "tuning": { "concurrency": { "min": 1, "max": 1 } },
        }));
        merge(&mut spec, over);
        spec
    }

    /// Starts a load on the scene's topic, such as `300x30s,3600x60s`.
    pub fn load(&self, schedule: &str) -> Result<LoadHandle> {
        let schedule: Schedule = schedule.parse()?;
        Load::new(self.world.lab.bootstrap_servers(), &self.topic, schedule).start()
    }

    /// Waits until all of these loads has been handled, and holds both against each other.
    ///
    /// The first call ends the collecting of evidence: nothing that is handled later is seen.
    pub async fn verify(&mut self, loads: &[Manifest], limit: Duration) -> Result<Verdict> {
        let evidence = self.evidence(loads, limit).await?;
        verify::verify(&self.world.lab.bootstrap_servers(), loads, &evidence, Lane::Key).await
    }

    /// How many different records of the scene's topic were handled so far.
    pub fn handled(&self) -> u64 {
        self.collector.as_ref().map_or(0, |collector| collector.distinct(&self.topic))
    }

    async fn evidence(&mut self, loads: &[Manifest], limit: Duration) -> Result<Evidence> {
        let collector = self.collector.take().context("the evidence was taken already")?;
        for manifest in loads {
            ensure!(manifest.failed == 0, "the load itself failed: {:?}", manifest.errors);
            collector.wait_for(manifest, limit).await;
        }
        Ok(collector.finish().await)
    }

    /// Removes the scene; the namespace goes on its own.
    pub async fn end(self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.world.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await?;
        Ok(())
    }
}

/// Merges objects, key by key; anything else is replaced, and `null` removes.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
