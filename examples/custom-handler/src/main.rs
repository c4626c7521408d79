//! A consumer with a handler of your own: build it into an image, name the image in `spec.pod.image`, and set
//! `spec.handler.custom`. All else (fetching, order, retries, commits, stops, health) is the library's.

use async_trait::async_trait;
use sluice_consumer::{Batch, Consumer, Handler, Outcome, Outcomes, init_logging};

/// Adds up numbers; a payload that is none fails.
struct Sum {
    label: String,
}

#[async_trait]
impl Handler for Sum {
    async fn handle(&self, batch: &Batch) -> Outcomes {
        let mut sum = 0.0;
        let outcome = |payload: &[u8]| match std::str::from_utf8(payload)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
        {
            Some(number) => {
                sum += number;
                Outcome::Done
            }
            None => Outcome::dead("the payload is no number"),
        };
        let payloads = batch
            .records()
            .iter()
            .map(|record| record.payload().map_or(&b"0"[..], |payload| payload));
        let outcomes: Vec<Outcome> = payloads.map(outcome).collect();
        tracing::info!(
            label = self.label,
            partition = batch.partition(),
            records = batch.len(),
            sum,
            "handled"
        );
        outcomes.into()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    init_logging();
    let consumer = Consumer::from_env()?;
    let config: serde_json::Value = consumer.custom_config()?;
    let label = config["label"].as_str().unwrap_or("sum").to_owned();
    consumer.run(Sum { label }).await?;
    Ok(())
}
