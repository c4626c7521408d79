//! `/livez`, `/readyz` and `/metrics`: what the kubelet and Prometheus ask a pod. docs/metrics.md lists the metrics.
//!
//! It reads [`EngineStatus`] and answers; it decides nothing.

use std::{
    fmt::{self, Write as _},
    fs, io,
    net::SocketAddr,
    sync::Arc,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use sluice_crds::listen;
use tokio::net::TcpListener;

use crate::{Counter, EngineStatus, Gauge};

/// What Prometheus' text format is called in the version that is written here.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the task is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, status: Arc<EngineStatus>) -> io::Result<()> {
    axum::serve(listen::bind(address, TcpListener::bind).await?, router(status)).await
}

/// The routes alone, for a server of one's own.
pub fn router(status: Arc<EngineStatus>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status)
}

/// Fails when only a new process can help: the kubelet starts the pod again.
async fn livez(State(status): State<Arc<EngineStatus>>) -> (StatusCode, String) {
    match status.dead_because() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")),
    }
}

/// Succeeds once the pod is a member of its group, with or without partitions: a rollout goes on then. The body says what
/// is pending, and what is not as it should be though the pod is ready.
async fn readyz(State(status): State<Arc<EngineStatus>>) -> (StatusCode, String) {
    let code = if status.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    let mut line = |applies: bool, words: &dyn fmt::Display| {
        if applies {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{words}");
        }
    };
    line(
        status.ready(),
        &format_args!("ok: a member of the group, partitions: {}", status.partitions.get()),
    );
    line(status.stopping(), &"pending: the pod is stopping");
    line(!status.joined(), &"pending: the pod has not joined its consumer group yet");
    line(
        status.tuning_broken(),
        &"note: the tuning file cannot be read; the knobs in force are older than it",
    );
    let counted = [
        (
            &status.above_end,
            "partitions stand, because their committed offset is above the log's end",
        ),
        (&status.blocked_lanes, "lanes are blocked: their first record fails again and again"),
        (&status.hung, "calls of the handler take unusually long"),
    ];
    for (gauge, words) in counted {
        line(gauge.get() > 0, &format_args!("note: {} {words}", gauge.get()));
    }
    (code, text)
}

async fn metrics(State(status): State<Arc<EngineStatus>>) -> impl IntoResponse {
    let mut registry = Registry::with_prefix("sluice_consumer");
    registry.register_collector(Box::new(Metrics(status)));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [(CONTENT_TYPE, OPEN_METRICS)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, "text/plain")], error.to_string())
        }
    }
}

/// The engine's numbers under their public names, in base units.
#[derive(Debug)]
struct Metrics(Arc<EngineStatus>);

const PERMILLE: f64 = 1e-3;
const MILLIS: f64 = 1e-3;
const MICROS: f64 = 1e-6;

impl Collector for Metrics {
    #[expect(clippy::too_many_lines, reason = "it is the list of all metrics")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &*self.0;
        let seconds = Some(&Unit::Seconds);
        let bytes = Some(&Unit::Bytes);

        let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
        };
        let number = |gauge: &Gauge| gauge.get() as f64;
        gauge(
            "joined",
            "1 while the pod is a member of its consumer group.",
            None,
            f64::from(u8::from(status.joined())),
        )?;
        gauge("partitions", "Partitions assigned to the pod.", None, number(&status.partitions))?;
        gauge("batches_in_work", "Batches in the handler now.", None, number(&status.in_work))?;
        gauge(
            "busy_ratio",
            "Mean slots in use / usable slots over the last second.",
            None,
            number(&status.busy_permille) * PERMILLE,
        )?;
        gauge(
            "records_open",
            "Records taken from Kafka and not done.",
            None,
            number(&status.open),
        )?;
        gauge(
            "open",
            "Keys, values and headers of the open records.",
            bytes,
            number(&status.open_bytes),
        )?;
        gauge(
            "handler_p99",
            "99th percentile of a batch's time in the handler in the last minute.",
            seconds,
            number(&status.handler_p99_micros) * MICROS,
        )?;
        gauge(
            "lanes_blocked",
            "Lanes whose first record failed more often than delivery.retry.maxRetries.",
            None,
            number(&status.blocked_lanes),
        )?;
        gauge(
            "lanes_waiting",
            "Lanes that wait for their next try, blocked ones included.",
            None,
            number(&status.waiting_lanes),
        )?;
        gauge(
            "calls_hung",
            "Calls of the handler that take longer than a minute.",
            None,
            number(&status.hung),
        )?;
        gauge(
            "partitions_above_end",
            "Partitions that stand: their committed offset is above the log's end.",
            None,
            number(&status.above_end),
        )?;
        gauge(
            "rebalance_pause",
            "How long the pod's partitions stood at the last rebalance.",
            seconds,
            number(&status.rebalance_pause_ms) * MILLIS,
        )?;
        gauge(
            "batch_size",
            "The knob in force: records in a batch, at most.",
            None,
            number(&status.batch_size),
        )?;
        gauge(
            "concurrency",
            "The knob in force: batches in work at once, at most.",
            None,
            number(&status.concurrency),
        )?;
        gauge(
            "tuning_revision",
            "The revision of the knobs in force, 0 before a tuning file was read.",
            None,
            number(&status.revision),
        )?;
        gauge(
            "tuning_broken",
            "1 while the tuning file cannot be read.",
            None,
            f64::from(u8::from(status.tuning_broken())),
        )?;
        if let Some(resident) = resident_bytes() {
            gauge("memory_resident", "Resident memory of the process.", bytes, resident)?;
        }

        let mut counter = |name: &str, help: &str, unit: Option<&Unit>, value: f64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, counter.metric_type())?)
        };
        let count = |counter: &Counter| counter.get() as f64;
        counter("records_handled", "Records done.", None, count(&status.handled))?;
        counter(
            "handled",
            "Keys, values and headers of the records done.",
            bytes,
            count(&status.handled_bytes),
        )?;
        counter("batches", "Calls of the handler that ended.", None, count(&status.batches))?;
        counter(
            "handler",
            "Time of the handler's calls together.",
            seconds,
            count(&status.handler_micros) * MICROS,
        )?;
        counter(
            "retries",
            "Tries of records that failed and are tried again.",
            None,
            count(&status.retries),
        )?;
        counter(
            "dead",
            "Tries of records that the handler called dead.",
            None,
            count(&status.dead),
        )?;
        counter(
            "handler_panics",
            "Calls of the handler that panicked.",
            None,
            count(&status.panics),
        )?;
        counter(
            "batches_cancelled",
            "Batches cancelled because their partition was gone and drainTimeout was over.",
            None,
            count(&status.cancelled),
        )?;
        counter(
            "batches_stale",
            "Batches that ended after their partition was gone; they are handled again.",
            None,
            count(&status.stale),
        )?;
        counter("rebalances", "Rebalances that touched the pod.", None, count(&status.rebalances))?;
        counter(
            "partitions_lost",
            "Partitions lost instead of revoked.",
            None,
            count(&status.partitions_lost),
        )?;
        counter(
            "records_lost",
            "Records that were deleted or had expired before they could be read.",
            None,
            count(&status.records_lost),
        )?;
        counter("commits", "Commits that the broker took.", None, count(&status.commits))?;
        counter(
            "commit_failures",
            "Commits that failed, those around a rebalance included.",
            None,
            count(&status.commit_failures),
        )?;
        counter(
            "client_errors",
            "Errors that the Kafka client reported.",
            None,
            count(&status.client_errors),
        )
    }
}

/// The process' resident memory, where the system tells it.
fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};

    use super::*;

    async fn ask(status: &Arc<EngineStatus>, path: &str) -> (StatusCode, String) {
        ask_at(status, path, "127.0.0.1").await
    }

    /// What a server on all addresses answers at `host`.
    async fn ask_at(status: &Arc<EngineStatus>, path: &str, host: &str) -> (StatusCode, String) {
        let listener = listen::bind(listen::everywhere(0), TcpListener::bind).await.unwrap();
        let address = format!("{host}:{}", listener.local_addr().unwrap().port());
        let server = tokio::spawn(axum::serve(listener, router(status.clone())).into_future());
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let answer = client.get(format!("http://{address}{path}").parse().unwrap()).await.unwrap();
        let code = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        server.abort();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn every_number_is_set_somewhere() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = fs::read_dir(source.join("engine")).unwrap();
        let engine: String =
            files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        let status = fs::read_to_string(source.join("status.rs")).unwrap();
        let fields = status.lines().filter_map(|line| {
            let (name, kind) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
            matches!(kind, "Gauge," | "Counter,").then_some(name)
        });
        let unset: Vec<_> = fields
            .filter(|name| {
                let uses = [format!(".{name}.set("), format!(".{name}.add(")];
                !uses.iter().any(|used| engine.contains(used.as_str()))
            })
            .collect();
        assert!(unset.is_empty(), "{unset:?} are served and never set");
    }

    #[tokio::test]
    async fn the_kubelet_reaches_a_pod_by_both_ip_families() {
        let status = Arc::new(EngineStatus::default());
        assert_eq!(ask_at(&status, "/livez", "127.0.0.1").await.0, StatusCode::OK);
        if TcpListener::bind("[::1]:0").await.is_ok() {
            assert_eq!(ask_at(&status, "/livez", "[::1]").await.0, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn a_pod_is_ready_once_it_has_joined_and_until_it_stops() {
        let status = Arc::new(EngineStatus::default());
        let (code, body) = ask(&status, "/readyz").await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("pending: the pod has not joined"), "{body}");

        status.set_joined(true);
        let (code, body) = ask(&status, "/readyz").await;
        assert_eq!((code, &*body), (StatusCode::OK, "ok: a member of the group, partitions: 0\n"));

        status.set_stopping();
        let (code, body) = ask(&status, "/readyz").await;
        assert_eq!(
            (code, &*body),
            (StatusCode::SERVICE_UNAVAILABLE, "pending: the pod is stopping\n")
        );
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_ready_pod_is_said_and_does_not_make_it_unready() {
        let status = Arc::new(EngineStatus::default());
        status.set_joined(true);
        status.set_tuning_broken(true);
        status.blocked_lanes.set(2);
        let (code, body) = ask(&status, "/readyz").await;
        assert_eq!(code, StatusCode::OK);
        assert!(
            body.contains("note: the tuning file") && body.contains("note: 2 lanes are blocked"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn a_fetch_thread_that_stands_still_costs_the_pod_its_life() {
        let status = Arc::new(EngineStatus::default());
        assert_eq!(ask(&status, "/livez").await.0, StatusCode::OK, "before the engine began");
        status.beat(crate::status::now_millis());
        assert_eq!(ask(&status, "/livez").await.0, StatusCode::OK);
        status.beat(crate::status::now_millis() - 2 * crate::HEARTBEAT_TIMEOUT.as_millis() as i64);
        let (code, body) = ask(&status, "/livez").await;
        assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.contains("fetch thread"), "{body}");
    }

    #[tokio::test]
    async fn metrics_have_the_documented_names_and_base_units() {
        let status = Arc::new(EngineStatus::default());
        status.handled.add(7);
        status.handler_micros.add(1_500_000);
        status.handler_p99_micros.set(2_500);
        status.busy_permille.set(875);
        let (code, text) = ask(&status, "/metrics").await;
        assert_eq!(code, StatusCode::OK);
        for line in [
            "sluice_consumer_records_handled_total 7.0",
            "sluice_consumer_handler_seconds_total 1.5",
            "sluice_consumer_handler_p99_seconds 0.0025",
            "sluice_consumer_busy_ratio 0.875",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let document = include_str!("../../docs/metrics.md");
        for name in text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()) {
            assert!(document.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
        }
        let is_name = |word: &&str| {
            word.starts_with("sluice_consumer_") && !word.contains(char::is_whitespace)
        };
        let named = document.split('`').filter(is_name);
        for name in named.map(|n| n.trim_end_matches("_total")) {
            assert!(
                text.contains(&format!("# TYPE {name} ")),
                "{name} is in docs/metrics.md, but not in the metrics"
            );
        }
    }
}
