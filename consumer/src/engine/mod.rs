//! Fetches, orders, retries and commits: one thread that owns the Kafka client and all state of partitions and offsets.
//!
//! A record's way: [`batch_queue`] takes it from librdkafka, [`tracker`] gives it a slot, [`lanes`] says when it may go,
//! [`state`] sends it out with others as a batch and takes the batch back, [`commit`] commits below the first record that
//! is not done, with a progress report. [`rebalance`] gives partitions and takes them away. [`fetch`] is the thread.
//! Handlers run on tokio and know none of this.

mod backoff;
mod batch_queue;
mod commit;
mod context;
mod fetch;
mod knobs;
mod lanes;
mod meter;
mod partition;
mod rebalance;
mod settings;
mod starts;
mod state;
mod stop;
mod tracker;
mod wake;

use std::{path::PathBuf, sync::Arc, thread};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use sluice_crds::config::ConsumerConfig;
use tokio::sync::oneshot;

pub use self::settings::Overrides;
pub(crate) use self::stop::Stop;
use crate::{EngineStatus, Handler};

/// All that an engine needs.
pub(crate) struct EngineConfig {
    pub(crate) consumer: ConsumerConfig,
    /// The folder of the tuning file.
    pub(crate) tuning_dir: PathBuf,
    /// The pod's name: who it is in reports.
    pub(crate) pod: String,
    /// The client id: by its end the operator knows its own members.
    pub(crate) client_id: String,
    /// When the process started, milliseconds since the epoch.
    pub(crate) boot: i64,
    pub(crate) overrides: Overrides,
}

/// Why the engine ended other than by a stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be made or subscribed: a setting is wrong.
    #[error("the Kafka client cannot be made")]
    Client(#[source] KafkaError),
    /// The client can do nothing any more; a new process can.
    #[error("the Kafka client has failed for good: {code}: {reason}")]
    Fatal {
        /// librdkafka's code.
        code: RDKafkaErrorCode,
        /// Its words.
        reason: String,
    },
    /// The fetch thread cannot be made, or has panicked.
    #[error("the fetch thread ended: {0}")]
    Thread(String),
}

/// A running engine.
pub(crate) struct Engine {
    pub(crate) stop: Arc<Stop>,
    end: oneshot::Receiver<Result<(), Error>>,
}

impl Engine {
    /// Starts the fetch thread. Handlers run on the calling tokio runtime.
    pub(crate) fn start(
        config: EngineConfig,
        handler: Arc<dyn Handler>,
        status: Arc<EngineStatus>,
    ) -> Result<Self, Error> {
        let waker = Arc::new(wake::Waker::default());
        let stop = Arc::new(Stop::new(Arc::clone(&waker)));
        let (tell, end) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        let for_thread = Arc::clone(&stop);
        thread::Builder::new()
            .name("fetch".into())
            .spawn(move || {
                let _ =
                    tell.send(fetch::run(config, handler, status, &runtime, for_thread, &waker));
            })
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Self { stop, end })
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        self.end.await.unwrap_or_else(|_| Err(Error::Thread("it panicked".into())))
    }
}
