//! Start, run and stop: connects, waits for the definition, watches each scope, serves health, and drains on SIGTERM.

use std::{sync::Arc, time::Duration};

use kube::{Client, Config};
use sluice_crds::error::sentence;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    args::Args,
    cluster::{events::Events, watch},
    control::{
        health::{self, Health},
        queue,
    },
    kafka::{Readers, port::Kafka},
    metrics::Metrics,
    pass::{claims::Groups, context::Shared, rollouts::Rollouts},
};

/// How long passes that run may go on after SIGTERM; the chart's grace period is longer.
const DRAIN: Duration = Duration::from_secs(20);
/// How long the last events may take after that.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// The definition is looked for this often.
const LOOK: Duration = Duration::from_secs(2);
/// Every so many looks a line says that it is still missing.
const SAY: u32 = 5;

/// Why the operator cannot run; it then ends with a failure, since waiting would not help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither in a cluster nor with a kubeconfig.
    #[error("cannot find out how to reach the API server")]
    Config(#[source] kube::Error),
    /// The client could not be made.
    #[error("cannot make a client for the API server")]
    Client(#[source] kube::Error),
    /// The API server does not know this account.
    #[error("the API server refuses this account")]
    Refused(#[source] kube::Error),
    /// Signals or the listening socket.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot run at all; what may pass (no API server, no definition, no Kafka) is waited for.
pub async fn run(args: Args) -> Result<(), Error> {
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let config = Config::infer().await.map_err(|e| Error::Config(kube::Error::InferConfig(e)))?;
    let client = Client::try_from(config).map_err(Error::Client)?;
    let readers = Readers::new(args.kafka_limits());
    operate(args, client, Arc::new(readers), stop).await
}

/// Operates through `client` until `stop`: [`run`] without signals and kubeconfig.
///
/// # Errors
/// As [`run`].
pub async fn operate(
    args: Args,
    client: Client,
    kafka: Arc<dyn Kafka>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let health = Arc::new(Health::default());
    let metrics = Arc::new(Metrics::default());
    health.wait_for(DEFINITION);
    health.wait_for(queue::WATCHES);
    let (shown, served, readers) = (Arc::clone(&health), Arc::clone(&metrics), Arc::clone(&kafka));
    let page = move || {
        shown.watches.show(&served);
        served.readers(&readers.statistics());
        served.render()
    };
    let router = health::router(Arc::clone(&health), Arc::new(page), Arc::clone(&kafka));
    let server = tokio::spawn(health::serve(args.listen, router, stop.clone()));
    // A port that is taken is found at once; afterwards the server ends only with the operator.
    let server = async {
        match server.await {
            Ok(Err(source)) => {
                Err(Error::Io { what: "serve /livez, /readyz and /metrics", source })
            }
            _ => Ok(()),
        }
    };
    let (events, publisher) =
        Events::new(client.clone(), args.pod_name.clone(), Arc::clone(&metrics));
    // It goes on after the stop: the passes that end then have events, too.
    let drained = CancellationToken::new();
    let publishing = AbortOnDropHandle::new(tokio::spawn(publisher.run(drained.clone())));
    let shared = Arc::new(Shared {
        definition: Arc::clone(&health.definition),
        events,
        client,
        platform: args.platform(),
        groups: Groups::default(),
        rollouts: Rollouts::new(usize::from(args.max_rollouts)),
        kafka,
        metrics,
    });
    let work = async {
        tokio::select! {
            found = definition(&shared.client, &health) => found?,
            () = stop.cancelled() => return Ok(()),
        }
        let follower = Arc::clone(&shared);
        let _schema = AbortOnDropHandle::new(tokio::spawn(async move {
            follower.definition.follow(&follower.client).await;
        }));
        let scopes = args
            .scopes()
            .iter()
            .map(|namespace| {
                let watches = &health.watches;
                watch::scope(&shared.client, namespace.as_deref(), watches, &shared.metrics)
            })
            .collect();
        tokio::select! {
            () = queue::run(&shared, &health, scopes, args.concurrency, stop.clone()) => {}
            () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {
                tracing::warn!("passes did not end in time and are cut off");
            }
        }
        drained.cancel();
        if tokio::time::timeout(LAST_EVENTS, publishing).await.is_err() {
            tracing::warn!("some events were not published in time");
        }
        Ok(())
    };
    tokio::pin!(server, work);
    tokio::select! {
        ended = &mut work => { stop.cancel(); ended }
        ended = &mut server => {
            // It ends with the stop; passes and events that are on their way have their time still.
            ended?;
            work.await
        }
    }
}

/// Discovery takes no longer.
const DISCOVERY: Duration = Duration::from_secs(10);
const DEFINITION: &str = "the definition of kafkaconsumers.sluice.dev";

/// Waits until the API server serves `KafkaConsumer`: a restart would not bring the definition, so none is asked for.
async fn definition(client: &Client, health: &Health) -> Result<(), Error> {
    for look in 0_u32.. {
        // kube itself repeats for minutes what the API server throttles; liveness would end the wait.
        let list = client.list_api_group_resources("sluice.dev/v1alpha1");
        let Ok(list) = tokio::time::timeout(DISCOVERY, list).await else {
            missing(look, "the API server does not answer");
            health.tick();
            continue;
        };
        match list {
            Ok(list) if list.resources.iter().any(|r| r.name == "kafkaconsumers") => break,
            Err(error @ kube::Error::Api(_)) if refused(&error) => {
                return Err(Error::Refused(error));
            }
            // Discovery answers "not found" for a group that nobody has defined.
            Ok(_) => missing(look, "it is not installed"),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                missing(look, "it is not installed");
            }
            Err(error) => missing(look, &sentence(&error)),
        }
        health.tick();
        tokio::time::sleep(LOOK).await;
    }
    health.done(DEFINITION);
    Ok(())
}

fn refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

fn missing(look: u32, why: &str) {
    if look.is_multiple_of(SAY) {
        tracing::warn!(why, "waiting for {DEFINITION}: install the chart sluice-crds");
    }
}

fn stop_on_signals(stop: &CancellationToken) -> Result<(), Error> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals =
            signal(kind).map_err(|source| Error::Io { what: "listen for signals", source })?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            tracing::info!("stopping");
            stop.cancel();
        });
    }
    Ok(())
}
