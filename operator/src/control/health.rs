//! `/livez`, `/readyz` and `/metrics`.
//!
//! Liveness is about this process alone: a missing definition, an API server or a Kafka that is unavailable are no reason
//! to restart, since a restart would not bring them back. Readiness says in its body what is pending, and what fails though
//! the operator is ready: one lost namespace must not hang the rollout for all others.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;
use sluice_crds::listen;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{
        schema::{Definition, UPGRADE},
        watches::Watches,
    },
    kafka::port::{ClusterStatistics, Kafka},
};

/// The controller's loop ticks every second; a loop that stood for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// What is pending, what fails, and when the controller last showed life.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    beat: AtomicU64,
    pending: Mutex<BTreeSet<String>>,
    /// How the watches fare.
    pub watches: Watches,
    /// The served definition: whether it is older than this operator.
    pub definition: Arc<Definition>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            beat: AtomicU64::new(0),
            pending: Mutex::new(BTreeSet::new()),
            watches: Watches::default(),
            definition: Arc::default(),
        }
    }
}

impl Health {
    /// Notes that something is waited for; `/readyz` is 503 until [`Health::done`].
    pub fn wait_for(&self, what: &str) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
    }

    /// Notes that it has come.
    pub fn done(&self, what: &str) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    /// What is waited for.
    pub fn pending(&self) -> Vec<String> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Called by the controller's loop.
    pub fn tick(&self) {
        self.beat.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether the controller's loop turns.
    pub fn alive(&self) -> bool {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last) < STUCK
    }
}

/// What the handlers share: the health, and a way to write all metrics down.
#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    kafka: Arc<dyn Kafka>,
}

/// A Kafka cluster whose reader is late, as `/readyz` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Late {
    bootstrap_servers: String,
    /// The age of the newest reading, and how often there should be one.
    age_seconds: f64,
    interval_seconds: f64,
}

/// The routes.
pub fn router(
    health: Arc<Health>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    kafka: Arc<dyn Kafka>,
) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Served { health, metrics, kafka })
}

/// Serves the routes until `stop`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listen::bind(address, TcpListener::bind).await?;
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn livez(State(served): State<Served>) -> impl IntoResponse {
    if served.health.alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "the controller's loop stands still\n")
    }
}

async fn readyz(State(served): State<Served>) -> impl IntoResponse {
    let pending = served.health.pending();
    let code = if pending.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "ready": pending.is_empty(),
        "pending": pending,
        "watches": served.health.watches.problems(),
        "kafka": late(&*served.kafka),
        "definition": served.health.definition.older().map(|older| serde_json::json!({
            "lacks": older.lacks,
            "do": UPGRADE,
        })),
    });
    (code, Json(body))
}

/// The clusters without a reading for longer than three intervals. One lost cluster is no reason to
/// be unready: it would hang the rollout for all others.
fn late(kafka: &dyn Kafka) -> Vec<Late> {
    let clusters = kafka.statistics().clusters.into_iter();
    let late = clusters.filter(ClusterStatistics::is_late).map(|cluster| Late {
        bootstrap_servers: cluster.bootstrap_servers,
        age_seconds: cluster.age.as_secs_f64(),
        interval_seconds: cluster.interval.as_secs_f64(),
    });
    late.collect()
}

async fn render(State(served): State<Served>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], (served.metrics)())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;
    use crate::kafka::Readers;

    async fn ask(health: &Arc<Health>, path: &str) -> (StatusCode, String) {
        let kafka = Arc::new(Readers::default());
        let router = router(Arc::clone(health), Arc::new(|| "# EOF\n".to_owned()), kafka);
        let answer = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn readiness_says_what_is_waited_for() {
        let health = Arc::new(Health::default());
        health.wait_for("the definition of kafkaconsumers.sluice.dev");
        let (status, body) = ask(&health, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("kafkaconsumers.sluice.dev"), "{body}");
        // Waiting is no reason to be restarted.
        assert_eq!(ask(&health, "/livez").await.0, StatusCode::OK);
        health.done("the definition of kafkaconsumers.sluice.dev");
        assert_eq!(ask(&health, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_restarted() {
        let health = Arc::new(Health::default());
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(health.alive());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(ask(&health, "/livez").await.0, StatusCode::INTERNAL_SERVER_ERROR);
        health.tick();
        assert!(health.alive());
    }
}
