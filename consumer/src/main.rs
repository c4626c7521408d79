//! The stock consumer: the handler that the configuration names.

use mimalloc::MiMalloc;
use sluice_consumer::{Consumer, handlers, init_logging};

// Feature `override` gives it to librdkafka too: with glibc its broker thread and ours meet on the arena's lock.
#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    init_logging();
    let consumer = Consumer::from_env()?;
    let handler = handlers::from_config(consumer.config(), consumer.pod())?;
    consumer.run(handler).await?;
    Ok(())
}
