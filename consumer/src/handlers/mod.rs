//! The handlers of the stock consumer, one file each, behind [`crate::Handler`]. No engine and no Kafka client here.

pub mod http;
pub mod log;

use std::sync::Arc;

use sluice_crds::kafkaconsumer::handler::Handler as HandlerConfig;

use crate::Handler;

/// Why there is no handler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for a handler that this binary does not have.
    #[error(
        "the configuration names no handler of the stock consumer (http, log); a custom handler needs an image of its own"
    )]
    NotStock,
    /// The handler cannot be made of its configuration.
    #[error("the handler's configuration cannot be followed: {0}")]
    Config(String),
}

/// The stock handler that the configuration asks for.
///
/// # Errors
/// When it asks for a custom one, or for something that cannot be made.
pub fn from_config(config: &HandlerConfig) -> Result<Arc<dyn Handler>, Error> {
    match config {
        HandlerConfig { http: Some(http), .. } => Ok(Arc::new(http::HttpHandler::new(http)?)),
        HandlerConfig { log: Some(log), .. } => Ok(Arc::new(log::LogHandler::new(log))),
        _ => Err(Error::NotStock),
    }
}
