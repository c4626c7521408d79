//! Runs a handler as a consumer pod does: configuration and knobs from files, health server, signals, graceful stop.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sluice_crds::{
    config::{self, ConsumerConfig},
    labels, listen,
    member::MemberSuffix,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    EngineStatus, Handler,
    engine::{self, Engine, EngineConfig, Overrides, Stop},
    health,
    status::now_millis,
};

/// How much longer than the drain a stop may take: the last commit, and leaving the group.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// Why a consumer did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration's file cannot be opened.
    #[error("the configuration {path} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration is not one.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// `handler.custom.config` does not have the shape that this handler reads.
    #[error("handler.custom.config is not what this handler reads")]
    CustomConfig(#[source] serde_json::Error),
    /// The health server's address cannot be bound.
    #[error("the health server cannot listen on {address}")]
    Health {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// The engine ended.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A graceful stop took too long: what could not be committed will be handled again.
    #[error("the stop took longer than the drain timeout and {} s more", STOP_TIMEOUT.as_secs())]
    StopTimeout,
}

/// A consumer that is about to run.
///
/// ```no_run
/// # struct MyHandler;
/// # #[async_trait::async_trait]
/// # impl sluice_consumer::Handler for MyHandler {
/// #     async fn handle(&self, _: &sluice_consumer::Batch) -> sluice_consumer::Outcomes { sluice_consumer::Outcomes::done() }
/// # }
/// # async fn main_() -> Result<(), sluice_consumer::Error> {
/// sluice_consumer::init_logging();
/// sluice_consumer::Consumer::from_env()?.run(MyHandler).await
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    config: ConsumerConfig,
    tuning_dir: PathBuf,
    pod: String,
    member_suffix: Option<MemberSuffix>,
    health: Option<SocketAddr>,
    overrides: Overrides,
}

impl Consumer {
    /// Reads the configuration as the operator lays it out for a pod: `SLUICE_CONFIG_DIR`, `SLUICE_TUNING_DIR`,
    /// `SLUICE_POD_NAME` and `SLUICE_MEMBER_SUFFIX` say where and who, with the defaults of the pods.
    ///
    /// # Errors
    /// When the file is not there, or cannot be followed.
    pub fn from_env() -> Result<Self, Error> {
        let folder = |name: &str, default: &str| {
            PathBuf::from(env::var_os(name).unwrap_or_else(|| default.into()))
        };
        let path = folder(labels::ENV_CONFIG_DIR, labels::CONFIG_DIR).join(config::FILE_NAME);
        let text = fs::read_to_string(&path).map_err(|source| Error::Open { path, source })?;
        let mut consumer = Self::new(ConsumerConfig::from_yaml(&text)?);
        consumer.tuning_dir = folder(labels::ENV_TUNING_DIR, labels::TUNING_DIR);
        consumer.health = Some(listen::everywhere(labels::HEALTH_PORT));
        Ok(consumer)
    }

    /// A consumer of this configuration, without a health server: for programs that have their configuration elsewhere.
    pub fn new(config: ConsumerConfig) -> Self {
        let pod = [labels::ENV_POD_NAME, "HOSTNAME"].iter().find_map(|name| env::var(name).ok());
        Self {
            config,
            tuning_dir: PathBuf::from(labels::TUNING_DIR),
            pod: pod.unwrap_or_else(|| format!("pid-{}", std::process::id())),
            member_suffix: env::var(labels::ENV_MEMBER_SUFFIX).ok().map(|s| MemberSuffix::of(&s)),
            health: None,
            overrides: Overrides::default(),
        }
    }

    /// Who this is: the name in progress reports, and the client id (in a pod with a suffix that tells whose it is).
    #[must_use]
    pub fn pod_name(self, name: impl Into<String>) -> Self {
        Self { pod: name.into(), ..self }
    }

    /// The folder of the tuning file.
    #[must_use]
    pub fn tuning_dir(self, folder: impl AsRef<Path>) -> Self {
        Self { tuning_dir: folder.as_ref().to_owned(), ..self }
    }

    /// Where `/livez`, `/readyz` and `/metrics` are served; `None` for nowhere.
    #[must_use]
    pub fn health_address(self, address: Option<SocketAddr>) -> Self {
        Self { health: address, ..self }
    }

    #[doc(hidden)]
    #[must_use]
    pub fn overrides(self, overrides: Overrides) -> Self {
        Self { overrides, ..self }
    }

    /// What it was configured with.
    pub fn config(&self) -> &ConsumerConfig {
        &self.config
    }

    /// Who this is.
    pub fn pod(&self) -> &str {
        &self.pod
    }

    /// `spec.handler.custom.config`, read as a type of yours; where there is none, as an empty object.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn custom_config<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        let config = self.config.handler.custom.as_ref().and_then(|custom| custom.config.clone());
        let config = config.unwrap_or_else(|| serde_json::Value::Object(serde_json::Map::new()));
        serde_json::from_value(config).map_err(Error::CustomConfig)
    }

    /// Runs until SIGTERM or SIGINT: then it finishes what is in work, commits, leaves the group and returns. A second
    /// signal cuts the drain short.
    ///
    /// # Errors
    /// When it cannot start, when the Kafka client fails for good, or when the stop takes too long. The process should end
    /// with a code other than 0 then.
    pub async fn run(self, handler: impl Handler) -> Result<(), Error> {
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
        let patience = self.config.drain_timeout.to_std() + STOP_TIMEOUT;
        let mut running = self.start(Arc::new(handler))?;
        let end = tokio::select! {
            end = running.ended() => return end,
            () = async { tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} } } => {
                running.stop();
                tokio::time::timeout(patience, async {
                    loop {
                        tokio::select! {
                            end = running.ended() => return end,
                            _ = terminate.recv() => running.stop_now(),
                            _ = interrupt.recv() => running.stop_now(),
                        }
                    }
                })
                .await
            }
        };
        end.unwrap_or(Err(Error::StopTimeout))
    }

    /// Starts without signals: for tests, and for programs with a life of their own.
    ///
    /// # Errors
    /// When the engine cannot start.
    pub fn start(self, handler: Arc<dyn Handler>) -> Result<Running, Error> {
        let status = Arc::new(EngineStatus::default());
        let topics: Vec<&str> = self.config.kafka.topics.iter().map(|name| &**name).collect();
        tracing::info!(
            pod = self.pod,
            group = self.config.kafka.group_id,
            topics = topics.join(","),
            ordering = ?self.config.ordering,
            "starting"
        );
        let health = self.health.map(|address| {
            let status = Arc::clone(&status);
            tokio::spawn(async move {
                health::serve(address, status)
                    .await
                    .map_err(|source| Error::Health { address, source })
            })
        });
        let config = EngineConfig {
            consumer: self.config,
            tuning_dir: self.tuning_dir,
            client_id: match &self.member_suffix {
                Some(suffix) => suffix.client_id(&self.pod),
                None => self.pod.clone(),
            },
            pod: self.pod,
            boot: now_millis(),
            overrides: self.overrides,
        };
        let engine = Engine::start(config, handler, Arc::clone(&status))?;
        let stop = Arc::clone(&engine.stop);
        Ok(Running { stop, engine: tokio::spawn(engine.ended()), health, status })
    }
}

/// A consumer that runs.
#[derive(Debug)]
pub struct Running {
    stop: Arc<Stop>,
    engine: JoinHandle<Result<(), engine::Error>>,
    health: Option<JoinHandle<Result<(), Error>>>,
    status: Arc<EngineStatus>,
}

impl Running {
    /// What it shows of itself.
    pub fn status(&self) -> &Arc<EngineStatus> {
        &self.status
    }

    /// Finish what is in work, commit, leave the group. Returns at once; [`Running::ended`] waits.
    pub fn stop(&self) {
        self.stop.drain();
    }

    /// Commit what is done, leave the group.
    pub fn stop_now(&self) {
        self.stop.now();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it ended other than by a stop.
    pub async fn ended(&mut self) -> Result<(), Error> {
        let unhealthy = async {
            match &mut self.health {
                Some(health) => match health.await {
                    Ok(Err(error)) => error,
                    // A server that ends without an error has been told to.
                    _ => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            end = &mut self.engine => match end {
                Ok(end) => Ok(end?),
                Err(error) => Err(engine::Error::Thread(error.to_string()).into()),
            },
            error = unhealthy => Err(error),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody watches any more; the fetch thread must not go on alone.
        self.stop.now();
        if let Some(health) = &self.health {
            health.abort();
        }
    }
}
