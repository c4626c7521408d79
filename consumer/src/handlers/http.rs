//! Posts records to a service.

use async_trait::async_trait;
use sluice_crds::kafkaconsumer::handler::HttpHandler as Config;

use super::Error;
use crate::{Batch, Handler, Outcomes};

/// Posts records to a service.
#[derive(Debug)]
pub struct HttpHandler {}

impl HttpHandler {
    /// A handler for this configuration.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(_: &Config) -> Result<Self, Error> {
        Ok(Self {})
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn handle(&self, _: &Batch) -> Outcomes {
        Outcomes::retry("not built yet")
    }
}
