//! The handlers of the stock consumer, one file each, and the choice among them. No engine and no Kafka client here.
//!
//! A handler knows records and outcomes ([`crate::Handler`]) and its own part of the spec. Retries, order and offsets are
//! the engine's.

pub mod http;
pub mod log;

use std::sync::Arc;

use sluice_crds::{
    config::ConsumerConfig,
    kafkaconsumer::handler::{Handler as Handlers, HandlerKind},
};

use crate::Handler;

/// Why there is no handler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the http handler cannot be followed.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The configuration asks for the user's own handler, which this binary does not have.
    #[error(
        "handler.custom is set, but this is the stock consumer, which has no handler of yours: set pod.image to the image of \
         your own consumer, built on the library (examples/custom-handler)"
    )]
    Custom,
    /// The configuration asks for nothing that this binary knows, or for two handlers at once.
    #[error(
        "the configuration does not name exactly one of this consumer's handlers ({}): a handler \
         that came later needs a newer image",
        Handlers::NAMES.join(", ")
    )]
    Unknown,
}

/// The stock handler that the configuration asks for. `pod` is the pod's name, for what the handler writes.
///
/// # Errors
/// When it asks for a custom one, or for something that cannot be made.
pub fn from_config(config: &ConsumerConfig, pod: &str) -> Result<Arc<dyn Handler>, Error> {
    match config.handler.kind().ok_or(Error::Unknown)? {
        HandlerKind::Http(spec) => {
            Ok(Arc::new(http::HttpHandler::new(spec, &config.kafka.group_id)?))
        }
        HandlerKind::Log(spec) => Ok(Arc::new(log::LogHandler::new(spec, pod))),
        HandlerKind::Custom(_) => Err(Error::Custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(handler: &str) -> ConsumerConfig {
        let text = format!(
            "{{version: 1, kafka: {{bootstrapServers: 'k:9092', topics: [t], groupId: g, protocol: Classic, isolation: \
             ReadCommitted}}, handler: {handler}, ordering: Key, drainTimeout: 20s, retry: {{}}, applyOn: Change, initial: \
             {{batchSize: 1, concurrency: 1}}}}"
        );
        ConsumerConfig::from_yaml(&text).unwrap()
    }

    #[tokio::test]
    async fn the_stock_consumer_makes_what_it_has_and_says_what_to_do_for_what_it_has_not() {
        assert!(
            from_config(&config("{http: {url: 'http://orders.shop.svc/records'}}"), "p").is_ok()
        );
        assert!(from_config(&config("{log: {}}"), "p").is_ok());
        for (handler, says) in [
            ("{custom: {}}", "pod.image"),
            ("{}", "newer image"),
            ("{exec: {}}", "newer image"),
            ("{http: {url: 'orders'}}", "http://"),
        ] {
            let error =
                from_config(&config(handler), "p").err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(says), "{handler}: {error}");
        }
    }
}
