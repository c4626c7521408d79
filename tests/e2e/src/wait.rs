//! Waiting for something that happens elsewhere: by asking often, never without a limit.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Asks every 100 ms until `ask` answers `Ok(Ok(value))`; fails after `limit` with what was seen last.
///
/// `ask` answers `Ok(Err(seen))` while it is not so yet. An `Err` of the asking itself (an API server that restarts) is
/// asked again too, until the limit.
///
/// # Errors
/// When the limit is reached: what was waited for, and what was seen last.
pub async fn until<T, S: Debug, F, Fut>(what: &str, limit: Duration, mut ask: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Result<T, S>>>,
{
    let start = Instant::now();
    loop {
        let seen = match ask().await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => format!("{seen:?}"),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            bail!("waited {limit:?} for: {what}; seen last: {seen}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
