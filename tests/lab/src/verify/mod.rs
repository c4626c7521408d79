//! Verify: what was handled against what was produced.
//!
//! Evidence of handling is what the pods print: the stock `log` handler writes one line for each batch ([`evidence`]). A
//! [`Collector`] follows those lines while the pods run, from the node's log files ([`files`]) or through the API server
//! ([`api`]). What was produced is read back from the topic itself ([`topic`]). [`mod@compare`] holds both against each other
//! and finds what was lost, handled twice or out of order, and how long it took: pure, without I/O.

pub mod api;
pub mod cli;
mod collector;
pub mod compare;
pub mod cri;
pub mod evidence;
pub mod files;
mod print;
pub mod topic;

pub use self::{
    collector::Collector,
    compare::{Lane, Second, Verdict, compare},
    evidence::{Evidence, Handled, TopicEvidence},
    topic::{Produced, TopicReader},
};

use crate::load::Manifest;

/// Reads the topic again and compares it with what was handled: the whole of verify for records of some loads.
///
/// # Errors
/// When the topic cannot be read.
pub async fn verify(
    bootstrap_servers: &str,
    manifests: &[Manifest],
    evidence: &Evidence,
    lane: Lane,
) -> anyhow::Result<Verdict> {
    let Some(first) = manifests.first() else { anyhow::bail!("there is no load to verify") };
    anyhow::ensure!(
        manifests.iter().all(|manifest| manifest.topic == first.topic),
        "the loads went to several topics"
    );
    let reader = TopicReader::new(bootstrap_servers, &first.topic)
        .runs(manifests.iter().map(|m| m.run.clone()));
    let mut produced = tokio::task::spawn_blocking(move || reader.read()).await??;
    for manifest in manifests {
        produced.expect(manifest);
    }
    Ok(compare(&produced, evidence.topic(&first.topic), lane))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::load::{Load, Schedule, Skew};

    /// Load, topic and comparison speak of the same records: with one call for each partition, all is well; with one
    /// record left out, exactly this one is lost.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_load_produces_is_what_verify_expects() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("orders", 3, 1).unwrap();
        let brokers = kafka.bootstrap_servers();
        let schedule = Schedule::steady(500.0, Duration::from_secs(1))
            .then(1_000.0, Duration::from_millis(500));
        let load = Load::new(&brokers, "orders", schedule).keys(10).skew(Skew::Zipf(0.5)).size(200);
        let load = tokio::task::spawn_blocking(move || load.start()).await.unwrap().unwrap();
        let manifest = load.wait().await.unwrap();
        assert_eq!(
            (manifest.sent, manifest.acknowledged, manifest.failed),
            (1_000, 1_000, 0),
            "{:?}",
            manifest.errors
        );
        assert_eq!(manifest.step(1), Some(manifest.started + 1_000));

        let mut evidence = Evidence::default();
        let mut left_out = Evidence::default();
        for (partition, acknowledged) in &manifest.partitions {
            let last = acknowledged.offsets.last().unwrap();
            let line = |from| {
                format!(
                    r#"{{"handled":{{"topic":"orders","partition":{partition},"offsets":"{from}-{last}","started":{},"at":{},"pod":"p"}}}}"#,
                    manifest.ended + 10,
                    manifest.ended + 20
                )
            };
            evidence.take(line(0).as_bytes());
            left_out.take(line(i64::from(*partition == 1)).as_bytes());
        }
        let verdict =
            verify(&brokers, std::slice::from_ref(&manifest), &evidence, Lane::Key).await.unwrap();
        assert!(verdict.exactly_once() && verdict.produced == 1_000, "{verdict}");
        assert!(
            (1_400.0..3_000.0).contains(&verdict.delay.max_ms),
            "the first record waited for the whole load: {verdict}"
        );
        let verdict = verify(&brokers, &[manifest], &left_out, Lane::Key).await.unwrap();
        assert_eq!((verdict.lost, verdict.handled), (1, 999), "{verdict}");
    }

    /// A load without an end is steered by hand: another rate, then the end, and all that was sent is acknowledged.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_endless_load_ends_when_it_is_stopped() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("orders", 1, 1).unwrap();
        let load =
            Load::new(kafka.bootstrap_servers(), "orders", Schedule::endless(1_000.0)).keys(0);
        let load = tokio::task::spawn_blocking(move || load.start()).await.unwrap().unwrap();
        while load.progress().acknowledged < 100 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load.set_rate(10.0);
        let manifest =
            tokio::time::timeout(Duration::from_secs(30), load.stop()).await.unwrap().unwrap();
        assert!(manifest.acknowledged >= 100 && manifest.acknowledged == manifest.sent);
        assert_eq!(manifest.rates.len(), 2);
    }
}
