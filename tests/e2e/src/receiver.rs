//! A receiver for the http handler: it remembers what it was sent, and misbehaves when a test asks it to.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};

/// What the receiver does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Takes it: 204.
    #[default]
    Take,
    /// Refuses it: 500.
    Fail,
    /// Never answers.
    Hang,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
    /// What was answered.
    pub behaviour: Behaviour,
}

#[derive(Debug, Default)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    calls: Mutex<Vec<Call>>,
}

/// A receiver that listens until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl Receiver {
    /// Listens on a free port of this address, which pods can reach.
    pub async fn start(host: &str) -> Result<Self> {
        Self::listen(tokio::net::TcpListener::bind((host, 0)).await?)
    }

    /// Goes away: nobody listens any more. What it was sent so far, and a way to come back at the same address.
    pub async fn leave(self) -> Away {
        self.server.abort();
        // Until the socket is closed: an aborted task drops it when it is next looked at.
        while !self.server.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Away(self.address)
    }

    fn listen(listener: tokio::net::TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let app = Router::new()
            .route("/", post(receive))
            .layer(axum::extract::DefaultBodyLimit::max(16 << 20))
            .with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the receiver ended: {error}");
            }
        });
        Ok(Self { address, shared, server })
    }

    /// The address to write into `handler.http.url`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Changes what is done with the calls from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The calls that were taken.
    pub fn taken(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|c| c.behaviour == Behaviour::Take).collect()
    }
}

/// A receiver that went away.
#[derive(Clone, Copy, Debug)]
pub struct Away(SocketAddr);

impl Away {
    /// Comes back at the same address, knowing nothing of what was before.
    pub async fn come_back(self) -> Result<Receiver> {
        Receiver::listen(tokio::net::TcpListener::bind(self.0).await?)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let behaviour = *shared.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let call = Call { headers, body: body.to_vec(), behaviour };
    shared.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    match behaviour {
        Behaviour::Take => StatusCode::NO_CONTENT,
        Behaviour::Fail => StatusCode::INTERNAL_SERVER_ERROR,
        Behaviour::Hang => {
            // Longer than any timeout that a test sets.
            tokio::time::sleep(Duration::from_secs(600)).await;
            StatusCode::NO_CONTENT
        }
    }
}
