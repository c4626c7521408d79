//! The stock consumer: the handler that the configuration names.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use sluice_consumer::{Consumer, handlers, init_logging};
use sluice_crds::error::sentence;

// Feature `override` gives it to librdkafka too: with glibc its broker thread and ours meet on the arena's lock.
#[global_allocator]
static GLOBAL: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    init_logging();
    // The allocator asks for huge pages, of which a small pod uses little and pays all: 8 to 18 MB of 40. Where the kernel
    // does not know the call, the pod is merely larger.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_thp_disable(true);
    let consumer = Consumer::from_env()?;
    let handler = handlers::from_config(consumer.config(), consumer.pod())?;
    consumer.run(handler).await?;
    Ok(())
}
