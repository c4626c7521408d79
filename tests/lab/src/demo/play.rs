//! The acts: a pod alone, a spike that needs pods, and one that needs knobs.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};
use sluice_crds::KafkaConsumer;
use tokio::{
    task::JoinHandle,
    time::{interval, sleep},
};

use super::{
    scene::{Phase, Shared},
    stage::Stage,
    targets::{CALM, Measured, PARTITIONS, SECOND_SPIKE, SPIKE, one_pod_is_right},
};
use crate::{
    folders::Folders,
    load::{Load, LoadControl, LoadHandle, Manifest, Schedule, producer::millis_now},
    record::{ClusterState, ClusterWatch, GroupReader, Recorder, Row},
    verify::{Collector, Lane, TopicEvidence, Verdict, verify},
};

/// Records of the backlog on which one pod is measured.
const BACKLOG: u64 = 4_000;
/// Handling at the beginning that is not counted: the pod takes its first batches.
const WARM_UP_MICROS: i64 = 1_000_000;
/// How long pods may take to be there at all.
const START: Duration = Duration::from_secs(90);
/// How long the load is calm before the step.
const BEFORE_STEP: Duration = Duration::from_secs(20);
/// How long the step lasts: the minute in which the backlog must be gone, and some time to see that it stays so.
const STEP: Duration = Duration::from_secs(75);
/// How much longer than the window the way back is waited for.
const WAY_BACK: Duration = Duration::from_secs(40);
/// How long the second act's step lasts.
const SECOND_STEP: Duration = Duration::from_secs(50);
/// A calm moment at the end of an act.
const BREATH: Duration = Duration::from_secs(5);
/// How long the last records may take.
const REST: Duration = Duration::from_mins(1);
const READING: Duration = Duration::from_millis(500);
/// Concurrency of the second act.
const FREE: i32 = 16;

/// All that came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What happened, when.
    pub measured: Measured,
    /// What became of the records.
    pub verdict: Verdict,
    /// What was produced.
    pub manifest: Manifest,
    /// The recording, a row a second.
    pub rows: Vec<Row>,
    /// What the cluster said.
    pub cluster: ClusterState,
    /// `kubectl get kcon` at the end.
    pub kubectl: String,
}

/// The example that the demo plays, as it stands in the repository, for a stage.
#[derive(Clone, Debug)]
pub struct Example {
    /// The KafkaConsumer of the acts.
    pub consumer: Value,
    /// Its name, and its topic's.
    pub name: String,
    /// The KafkaConsumer that is measured first, with one pod.
    pub one_pod: Value,
    /// Its name, and its topic's.
    pub one_pod_name: String,
    /// `scaleDownAfter`.
    window: Duration,
}

impl Example {
    /// Reads `examples/demo.yaml`, with the stage's brokers and names.
    pub fn read(stage: &Stage) -> Result<Self> {
        let path = Folders::checkout()?.join("examples/demo.yaml");
        Self::from_file(&path, stage.brokers(), |name| stage.name(name))
            .with_context(|| format!("cannot use {}", path.display()))
    }

    fn from_file(path: &Path, brokers: &str, name: impl Fn(&str) -> String) -> Result<Self> {
        let mut consumer: Value = serde_yaml::from_str(&std::fs::read_to_string(path)?)?;
        let typed: KafkaConsumer = serde_json::from_value(consumer.clone())?;
        let base = typed.metadata.name.context("it has no name")?;
        let for_load = |consumer: &mut Value, name: &str| {
            consumer["metadata"]["name"] = json!(name);
            consumer["spec"]["kafka"]["bootstrapServers"] = json!(brokers);
            consumer["spec"]["kafka"]["topics"] = json!([name]);
        };
        let mut one_pod = consumer.clone();
        let (name, one_pod_name) = (name(&base), name(&format!("{base}-one-pod")));
        for_load(&mut consumer, &name);
        for_load(&mut one_pod, &one_pod_name);
        one_pod["spec"]["replicas"] = json!(1);
        one_pod["spec"]["scaling"]["mode"] = json!("Manual");
        Ok(Self {
            consumer,
            name,
            one_pod,
            one_pod_name,
            window: typed.spec.scaling.scale_down_after.to_std(),
        })
    }
}

/// Plays all acts.
pub async fn play(stage: &Stage, example: &Example, scene: &Shared, acts: u32) -> Result<Outcome> {
    scene.lock().begun = millis_now();
    enter(scene, "Setting the stage", "two topics with 12 partitions, two KafkaConsumers");
    stage.create_topic(&example.name, PARTITIONS).await?;
    stage.create_topic(&example.one_pod_name, PARTITIONS).await?;
    let collector = stage.collector()?;
    let watch = Arc::new(ClusterWatch::start(stage.client(), stage.namespace(), &example.name));
    stage.apply(&example.consumer).await?;
    let one_pod = calibrate(stage, example, scene, &collector).await?;
    ensure!(
        one_pod_is_right(one_pod),
        "one pod alone does {one_pod:.0} records a second; the demo needs 450 to 550 to show anything: is this machine busy with other work?"
    );
    if !watch.wait_for(START, |state| state.ready() == Some(1)).await {
        bail!(
            "no pod of {} is ready after {} s{}",
            example.name,
            START.as_secs(),
            watch.look(condition)
        );
    }

    let group = format!("{}.{}", stage.namespace(), example.name);
    let reader = GroupReader::new(stage.brokers(), &group, std::slice::from_ref(&example.name))?;
    let recorder = Recorder::start(reader, Some(Arc::clone(&watch)), |_| {})?;
    let load = start(Load::new(stage.brokers(), &example.name, Schedule::endless(CALM))).await?;
    scene.lock().forget_readings();
    let control = load.control();
    let reading = read(
        scene,
        &watch,
        move || control.progress().acknowledged,
        collector.counter(&example.name),
    );

    let mut measured =
        Measured { one_pod, window_seconds: example.window.as_secs(), ..Measured::default() };
    act_one(scene, &watch, &load.control(), example, &mut measured).await;
    if acts > 1 {
        act_two(stage, scene, &watch, &load.control(), example, &mut measured).await?;
    }

    enter(
        scene,
        "The end",
        "the load has stopped; what was handled is compared with what was produced",
    );
    let manifest = load.stop().await?;
    collector.wait_for(&manifest, REST).await;
    let kubectl = stage
        .kubectl(&["get", "kcon", &example.name, "-o", "wide"])
        .unwrap_or_else(|error| format!("{error:#}"));
    drop(reading);
    let rows = recorder.finish().await;
    let evidence = collector.finish().await;
    let verdict =
        verify(stage.brokers(), std::slice::from_ref(&manifest), &evidence, Lane::Key).await?;
    let cluster = watch.state();
    measured.replicas.clone_from(&cluster.replicas);
    Ok(Outcome { measured, verdict, manifest, rows, cluster, kubectl })
}

/// Measures what one pod does with a backlog, with nothing else going on.
async fn calibrate(
    stage: &Stage,
    example: &Example,
    scene: &Shared,
    collector: &Collector,
) -> Result<f64> {
    enter(
        scene,
        "First, one pod alone",
        "a backlog for a single pod: it should do 450 to 550 records a second",
    );
    let topic = &example.one_pod_name;
    let seconds = 0.2;
    let schedule = Schedule::steady(BACKLOG as f64 / seconds, Duration::from_secs_f64(seconds));
    let manifest = start(Load::new(stage.brokers(), topic, schedule)).await?.wait().await?;
    let watch = Arc::new(ClusterWatch::start(stage.client(), stage.namespace(), topic));
    let _reading = read(scene, &watch, || BACKLOG, collector.counter(topic));
    stage.apply(&example.one_pod).await?;
    if !collector.wait_for(&manifest, START).await {
        bail!(
            "one pod has handled {} of {BACKLOG} records in {} s{}",
            collector.distinct(topic),
            START.as_secs(),
            watch.look(condition)
        );
    }
    let rate = collector
        .look(|evidence| rate(evidence.topic(topic)))
        .context("one pod's rate could not be measured")?;
    // It must not take processor time from the acts; its children go in the background.
    stage.delete(topic).await?;
    Ok(rate)
}

async fn act_one(
    scene: &Shared,
    watch: &ClusterWatch,
    load: &LoadControl,
    example: &Example,
    measured: &mut Measured,
) {
    enter(
        scene,
        "Act one: pods",
        "300 records a second; concurrency is pinned to 1, so pods are what is needed",
    );
    sleep(BEFORE_STEP).await;
    measured.steady = watch.look(ClusterState::wanted).unwrap_or(1);
    measured.step = load.set_rate(SPIKE);
    enter(
        scene,
        "Act one: pods",
        "3,600 records a second: 12 times as many, and 7 times what one pod can do",
    );
    sleep(STEP).await;
    measured.back = load.set_rate(CALM);
    let steady = measured.steady;
    let text = format!(
        "300 records a second again: the pods go when {} s (scaleDownAfter) have shown that they may",
        example.window.as_secs()
    );
    enter(scene, "Act one: pods", &text);
    watch
        .wait_for(example.window + WAY_BACK, |state| {
            state.wanted() == Some(steady) && state.ready() == Some(steady)
        })
        .await;
    sleep(BREATH).await;
}

async fn act_two(
    stage: &Stage,
    scene: &Shared,
    watch: &ClusterWatch,
    load: &LoadControl,
    example: &Example,
    measured: &mut Measured,
) -> Result<()> {
    enter(
        scene,
        "Act two: knobs",
        "concurrency may now be 1 to 16: the same pod can do more at once",
    );
    stage.free_concurrency(&example.name, FREE).await?;
    sleep(BREATH).await;
    measured.second_step = Some(load.set_rate(SECOND_SPIKE));
    enter(scene, "Act two: knobs", "1,800 records a second: six pods' work at concurrency 1");
    sleep(SECOND_STEP).await;
    measured.second_concurrency =
        watch.look(|state| state.consumer.as_ref()?.status.as_ref()?.concurrency);
    measured.second_back = Some(load.set_rate(CALM));
    enter(scene, "Act two: knobs", "300 records a second again");
    sleep(BREATH).await;
    Ok(())
}

/// Looking up the topic blocks for a moment.
async fn start(load: Load) -> Result<LoadHandle> {
    tokio::task::spawn_blocking(move || load.start()).await?
}

fn enter(scene: &Shared, title: &str, text: &str) {
    scene.lock().enter(Phase {
        title: title.to_owned(),
        text: text.to_owned(),
        since: millis_now(),
    });
}

/// Reads totals into the scene until the answer is dropped.
fn read(
    scene: &Shared,
    watch: &Arc<ClusterWatch>,
    arrived: impl Fn() -> u64 + Send + 'static,
    handled: impl Fn() -> u64 + Send + 'static,
) -> Reading {
    let (scene, watch) = (scene.clone(), Arc::clone(watch));
    Reading(tokio::spawn(async move {
        let mut tick = interval(READING);
        loop {
            tick.tick().await;
            let (arrived, handled) = (arrived(), handled());
            watch.look(|cluster| scene.lock().read(millis_now(), arrived, handled, cluster));
        }
    }))
}

struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Records a second of a pod that had enough to do, after its warm-up.
fn rate(evidence: &TopicEvidence) -> Option<f64> {
    let mut done: Vec<(i64, i64)> =
        evidence.events.iter().map(|event| (event.at, event.last - event.first + 1)).collect();
    done.sort_unstable();
    let warm = done.first()?.0 + WARM_UP_MICROS;
    let from = done.iter().map(|&(at, _)| at).find(|&at| at >= warm)?;
    let to = done.last()?.0;
    let records: i64 = done.iter().filter(|&&(at, _)| at > from).map(|&(_, records)| records).sum();
    (to > from).then(|| records as f64 * 1e6 / (to - from) as f64)
}

/// What the consumer's conditions say of what stands in the way, for an error's text.
fn condition(state: &ClusterState) -> String {
    let Some(consumer) = &state.consumer else {
        return ": the KafkaConsumer is not there".to_owned();
    };
    let Some(status) = &consumer.status else {
        return ": the operator has not looked at the KafkaConsumer".to_owned();
    };
    let bad = |condition: &&Condition| {
        condition.status != "True"
            && ["Ready", "KafkaReachable", "ScalingActive"].contains(&condition.type_.as_str())
    };
    let text =
        |c: &Condition| format!("\n  {} is {}: {} {}", c.type_, c.status, c.reason, c.message);
    status.conditions.iter().filter(bad).map(text).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Evidence;

    #[test]
    fn a_pods_rate_leaves_its_warm_up_out() {
        let mut evidence = Evidence::default();
        let mut offset = 0;
        let mut batch = |at: i64, records: i64| {
            let line = format!(
                r#"{{"handled":{{"topic":"t","partition":0,"offsets":"{offset}-{}","started":{at},"at":{at},"pod":"p"}}}}"#,
                offset + records - 1
            );
            offset += records;
            evidence.take(line.as_bytes());
        };
        batch(0, 1);
        batch(900, 10);
        for n in 0..80 {
            batch(1_000 + n * 100, 50);
        }
        assert!((rate(evidence.topic("t")).unwrap() - 500.0).abs() < 1e-6);
        assert_eq!(rate(&TopicEvidence::default()), None);
    }

    #[test]
    fn the_example_that_is_played_is_the_one_that_users_read() {
        let path = Folders::checkout().unwrap().join("examples/demo.yaml");
        let example = Example::from_file(&path, "broker:9092", |name| format!("{name}-x")).unwrap();
        let typed =
            |value: &Value| -> KafkaConsumer { serde_json::from_value(value.clone()).unwrap() };
        let (consumer, one_pod) = (typed(&example.consumer), typed(&example.one_pod));
        assert_eq!(consumer.spec.kafka.bootstrap_servers, "broker:9092");
        assert_eq!(consumer.spec.kafka.topics, std::slice::from_ref(&example.name));
        assert_eq!((consumer.spec.replicas, one_pod.spec.replicas), (None, Some(1)));
        // What the acts stand on.
        let log = consumer.spec.handler.log.unwrap();
        assert_eq!(log.delay_per_record, Some(sluice_crds::Duration::from_millis(2)));
        assert_eq!(
            (consumer.spec.tuning.concurrency.min, consumer.spec.tuning.concurrency.max),
            (1, 1)
        );
        assert_eq!(example.window, Duration::from_secs(30));
    }
}
