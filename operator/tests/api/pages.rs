//! What the operator serves: its real pages, compared with what the documentation says of them.

use std::time::Duration;

use sluice_operator::kafka::port::{ClusterStatistics, ReadError, Statistics};

use crate::{
    condition, consumer, is, kafka::FakeKafka, quiet, ready, running, server::Server, start,
    start_with,
};

const METRICS: &str = include_str!("../../../docs/metrics.md");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

fn has(page: &str, line: &str) {
    assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
}

/// The names of metrics in a text, without what PromQL or Markdown put around them.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("sluice_operator_"))
}

#[tokio::test(start_paused = true)]
async fn every_metric_that_is_served_and_every_one_of_an_alert_is_documented() {
    let (_, _, operator) = running(3).await;
    let (_, page) = operator.ask("/metrics").await;
    for help in page.lines().filter_map(|l| l.strip_prefix("# HELP ")) {
        let name = help.split(' ').next().unwrap();
        assert!(METRICS.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
    }
    let alerts = &OPERATIONS[OPERATIONS.find("```yaml\ngroups:").unwrap()..];
    let alerts = &alerts[..alerts[3..].find("```").unwrap()];
    assert!(names(alerts).count() > 5, "{alerts}");
    for name in names(alerts) {
        assert!(
            METRICS.contains(&format!("`{name}")),
            "{name} of an alert is not in docs/metrics.md"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_brokers_were_never_reached_has_the_series_that_an_alert_looks_at() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    kafka.set(|reading| {
        reading.snapshot = None;
        reading.protocol = None;
        let message = "no broker of kafka:9093 answers".to_owned();
        reading.error = Some(ReadError { reason: "BrokersUnreachable", message });
    });
    let operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    quiet().await;
    let (_, page) = operator.ask("/metrics").await;
    let labels = |type_: &str, status: &str| {
        format!(r#"{{namespace="shop",name="orders",type="{type_}",status="{status}"}}"#)
    };
    let unknown = labels("KafkaReachable", "False");
    has(&page, &format!("sluice_operator_consumer_condition{unknown} 1"));
    has(&page, r#"sluice_operator_consumer_mode{namespace="shop",name="orders",mode="Manual"} 1"#);
    let alert = r#"sluice_operator_consumer_condition{type="KafkaReachable",status!="True"} == 1"#;
    assert!(OPERATIONS.contains(alert), "the alert SluiceConsumerUnknown does not look at it");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_became_invalid_keeps_none_of_its_numbers() {
    let (server, _, operator) = running(3).await;
    let ready = r#"consumer_replicas_ready{namespace="shop",name="orders"}"#;
    assert!(operator.ask("/metrics").await.1.contains(ready));
    let mut invalid = consumer("orders", 3);
    invalid["spec"]["kafka"]["properties"] = serde_json::json!({ "plugin.library.paths": "/x" });
    server.put("kafkaconsumers", invalid);
    quiet().await;
    let (_, page) = operator.ask("/metrics").await;
    assert!(!page.contains(ready), "{page}");
    let labels = r#"{namespace="shop",name="orders",type="Ready",status="False"}"#;
    has(&page, &format!("sluice_operator_consumer_condition{labels} 1"));
}

#[tokio::test(start_paused = true)]
async fn failed_passes_and_unreadable_objects_are_counted_over_all_namespaces() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let operator = start_with(&server, &kafka, &["--watch-namespaces", "other,shop"]);
    has(
        &operator.ask("/metrics").await.1,
        r#"sluice_operator_reconcile_errors_total{reason="Invalid"} 0"#,
    );
    server.fault(|method, path| {
        (method == "PATCH" && path.contains("-config-"))
            .then_some(crate::server::Fault::Status(422, "Invalid"))
    });
    server.put("kafkaconsumers", consumer("orders", 3));
    server.put("kafkaconsumers", consumer("bills", 3));
    server.put_in("other", "kafkaconsumers", consumer("orders", 3));
    let mut unreadable = consumer("unreadable", 3);
    unreadable["spec"]["kafka"]["topics"] = serde_json::json!({ "not": "a list" });
    server.put_in("other", "kafkaconsumers", unreadable);
    quiet().await;
    let (_, page) = operator.ask("/metrics").await;
    has(&page, "sluice_operator_objects_in_backoff 3");
    has(&page, "sluice_operator_objects_unreadable 1");
    server.heal();
    server.delete("kafkaconsumers", "bills");
    ready(&server, "orders", 3).await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    has(&operator.ask("/metrics").await.1, "sluice_operator_objects_in_backoff 0");
}

fn cluster(bootstrap_servers: &str, age: u64) -> ClusterStatistics {
    ClusterStatistics {
        bootstrap_servers: bootstrap_servers.to_owned(),
        age: Duration::from_secs(age),
        interval: Duration::from_secs(2),
        last_round: Duration::from_millis(30),
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_late_is_named_by_readyz_and_metrics_and_makes_nothing_unready() {
    let (_, kafka, operator) = running(3).await;
    let clusters = vec![cluster("hangs:9092", 7), cluster("reads:9092", 6)];
    kafka.statistics(Statistics { clusters, failures: 4, restarts: 1 });
    let (code, body) = operator.ask("/readyz").await;
    assert_eq!(code, 200, "one lost cluster must not hang a rollout");
    assert!(body.contains(r#""bootstrapServers":"hangs:9092""#), "{body}");
    assert!(body.contains(r#""ageSeconds":7.0"#) && !body.contains("reads:9092"), "{body}");
    let page = operator.ask("/metrics").await.1;
    for line in [
        r#"sluice_operator_kafka_reading_age_seconds{bootstrap_servers="hangs:9092"} 7.0"#,
        r#"sluice_operator_kafka_reading_age_seconds{bootstrap_servers="reads:9092"} 6.0"#,
        r#"sluice_operator_kafka_round_seconds{bootstrap_servers="reads:9092"} 0.03"#,
        "sluice_operator_kafka_request_failures_total 4",
        "sluice_operator_kafka_reader_restarts_total 1",
    ] {
        has(&page, line);
    }
    // Nobody follows one of them any more.
    let clusters = vec![cluster("reads:9092", 1)];
    kafka.statistics(Statistics { clusters, ..Statistics::default() });
    let page = operator.ask("/metrics").await.1;
    assert!(!page.contains("hangs:9092"), "{page}");
    has(&page, r#"sluice_operator_kafka_reading_age_seconds{bootstrap_servers="reads:9092"} 1.0"#);
}

#[tokio::test(start_paused = true)]
async fn kafka_is_not_called_reachable_after_a_reading_that_is_older_than_three_intervals() {
    let (server, kafka) = (Server::new(), FakeKafka::new(12));
    let now = sluice_operator::clock::now;
    kafka.set(|reading| {
        (reading.read_at, reading.interval) = (Some(now()), Some(Duration::from_secs(3_600)));
    });
    let _operator = start(&server, &kafka);
    server.put("kafkaconsumers", consumer("orders", 3));
    let object = ready(&server, "orders", 3).await;
    assert!(is(&object, "KafkaReachable", "True", "Reachable"), "{object:#}");
    kafka.set(|reading| {
        (reading.read_at, reading.interval) =
            (Some(now() - 600_000), Some(Duration::from_secs(15)));
    });
    // The condition changes when the change has held for three seconds.
    quiet().await;
    kafka.set(|_| {});
    quiet().await;
    let object = server.get("kafkaconsumers", "orders").unwrap();
    assert!(is(&object, "KafkaReachable", "Unknown", "ReadingLate"), "{object:#}");
    let said = condition(&object, "KafkaReachable").unwrap()["message"].as_str().unwrap();
    assert!(said.starts_with("the newest reading is 60"), "{said}");
}
