//! The HTTP handler: posts records to a service. docs/http-handler.md is its contract.
//!
//! `event` writes calls, `answer` reads what comes back, both without I/O; here is the client, and the order in which the
//! calls of one batch are made.

mod answer;
mod event;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, USER_AGENT},
    uri::Scheme,
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use sluice_crds::{error::sentence, kafkaconsumer::handler::HttpHandler as Spec};
use tokio::time::Instant;

use self::{
    answer::{Item, Verdict},
    event::{Call, Encoder},
};
use crate::{Batch, Handler, Outcome, Outcomes, Record};

/// The longest answer that is read. A partial answer for the largest batch has a fraction of it.
const MAX_ANSWER: usize = 1 << 20;
/// The largest body of a call with several records, about: what nginx takes by default. A record that is larger goes alone.
const MAX_BATCH_BODY: usize = 1_000_000;
/// Connections kept open while nothing is sent on them. In use there are never more than calls at once.
const MAX_IDLE_CONNECTIONS: usize = 64;
/// Shorter than what most servers keep an idle connection (nginx 75 s, Go without end; Node with its 5 s closes first,
/// which the client sees), and short enough that a service's new pods get their share.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a receiver that does not know batches is spared them.
const SINGLES_FOR: Duration = Duration::from_mins(1);
/// Headers that the contract or the protocol owns, beside `ce-*`.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "idempotency-key",
    "sluice-attempt",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Why a handler could not be made from its part of the spec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is none.
    #[error("handler.http.url {url:?} is no address that can be posted to: {why}")]
    Url {
        /// As the spec has it.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A header cannot be sent.
    #[error("handler.http.headers: {name:?} {why}")]
    Header {
        /// The header's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Every call would fail before it began.
    #[error("handler.http.timeout is 0: write the time that one call may take, such as 10s")]
    NoTime,
    /// The TLS library did not start.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
}

/// Posts the records to a service.
#[derive(Debug)]
pub struct HttpHandler {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
    encoder: Encoder,
    /// Until when no batch is sent, because the receiver answered one with 415.
    singles_until: Mutex<Option<Instant>>,
}

/// Why a call brought no complete answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    #[error("the receiver cannot be reached: {0}")]
    Connect(String),
    #[error("the call failed: {0}")]
    Send(String),
    #[error("the answer broke off: {0}")]
    Broken(String),
    #[error("the answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
}

impl HttpHandler {
    /// A handler for the records that a group reads.
    ///
    /// # Errors
    /// When the spec's address or headers cannot be used.
    pub fn new(spec: &Spec, group: &str) -> Result<Self, Error> {
        let timeout = spec.timeout.to_std();
        if timeout.is_zero() {
            return Err(Error::NoTime);
        }
        let url = address(&spec.url)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(url.scheme() == Some(&Scheme::HTTPS))?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            // All calls share one connection under HTTP/2: one that died in silence would fail them all until the kernel
            // gives it up, a quarter of an hour later.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5))
            .build(connector);
        Ok(Self {
            client,
            url,
            headers: fixed_headers(spec)?,
            timeout,
            encoder: Encoder::new(group),
            singles_until: Mutex::new(None),
        })
    }

    /// Makes one call and reads its answer to the end.
    async fn call(&self, call: Call, attempt: u32, several: bool) -> Verdict {
        let error =
            match tokio::time::timeout(self.timeout, self.exchange(call, attempt, several)).await {
                Ok(Ok(verdict)) => return verdict,
                Ok(Err(error)) => error,
                Err(_) => CallError::Timeout(self.timeout),
            };
        let (reason, after) = (error.to_string(), None);
        if matches!(error, CallError::Connect(_)) {
            Verdict::Unavailable { reason, after }
        } else {
            Verdict::NoAnswer { reason, after }
        }
    }

    async fn exchange(
        &self,
        call: Call,
        attempt: u32,
        several: bool,
    ) -> Result<Verdict, CallError> {
        let mut request = Request::new(Full::new(call.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.extend(call.headers);
        headers.insert("sluice-attempt", HeaderValue::from(attempt));
        let answer = self.client.request(request).await.map_err(|e| {
            // hyper keeps the cause ("connection refused") in the last of its sources.
            let why = sentence(&e);
            if e.is_connect() { CallError::Connect(why) } else { CallError::Send(why) }
        })?;
        let (head, body) = answer.into_parts();
        let announced =
            head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > MAX_ANSWER) {
            return Err(CallError::TooLarge);
        }
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| {
            if e.is::<LengthLimitError>() {
                CallError::TooLarge
            } else {
                CallError::Broken(sentence(&*e))
            }
        })?;
        Ok(answer::read(
            head.status,
            &head.headers,
            &body.to_bytes(),
            several,
            jiff::Timestamp::now(),
        ))
    }

    /// Whether several records may be sent in one call now.
    fn knows_batches(&self) -> bool {
        self.singles_until().is_none_or(|until| Instant::now() >= until)
    }

    fn spare_batches(&self) {
        tracing::warn!(
            url = %self.url,
            "the receiver does not know {}: records are sent one by one; set tuning.batchSize.max to 1, or see docs/http-handler.md",
            event::BATCH
        );
        *self.singles_until() = Some(Instant::now() + SINGLES_FOR);
    }

    fn singles_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.singles_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn handle(&self, batch: &Batch) -> Outcomes {
        let mut delivery = Delivery::new(batch.records());
        // Dropping a call ends it: its connection is closed.
        tokio::select! {
            biased;
            () = batch.cancellation().cancelled() => {}
            () = delivery.run(self) => {}
        }
        delivery.outcomes()
    }
}

/// One batch on its way: which of its records are done, and which may still be sent.
struct Delivery<'a> {
    records: &'a [Record],
    outcomes: Vec<Option<Outcome>>,
    /// The lanes in which a record failed: what comes after it must not overtake it.
    stopped: HashSet<u32>,
    /// Why the batch failed, where all of it was one call and one record may be to blame: the engine divides it.
    as_a_whole: Option<Outcome>,
}

impl<'a> Delivery<'a> {
    fn new(records: &'a [Record]) -> Self {
        Self {
            records,
            outcomes: vec![None; records.len()],
            stopped: HashSet::new(),
            as_a_whole: None,
        }
    }

    /// Sends all records, in order: in one call where the receiver and the size allow it.
    async fn run(&mut self, http: &HttpHandler) {
        let mut next = 0;
        // The records before this index were part of a call that was refused as a whole, so they go one by one.
        let mut singles_to = 0;
        while let Some(indices) = self.next_call(&mut next, singles_to, http.knows_batches()) {
            let several = indices.len() > 1;
            let call = match indices[..] {
                [index] => http.encoder.one(&self.records[index]),
                _ => http.encoder.many(indices.iter().map(|&index| &self.records[index])),
            };
            let attempt =
                indices.iter().map(|&index| self.records[index].attempt()).max().unwrap_or(1);
            match http.call(call, attempt, several).await {
                Verdict::Done => {
                    for &index in &indices {
                        self.outcomes[index] = Some(Outcome::Done);
                    }
                }
                Verdict::Partly(failed) => self.partly(&indices, &failed),
                Verdict::Refused { media_type, .. } if several => {
                    if media_type {
                        http.spare_batches();
                    }
                    singles_to = next;
                    next = indices[0];
                }
                Verdict::Refused { reason, .. } => self.stop(&indices, &Outcome::dead(reason)),
                Verdict::Failed { reason, after } => {
                    self.fail(&indices, Outcome::Retry { reason: reason.into(), after });
                }
                // After these two the rest would fail as well, each record after a timeout of its own.
                Verdict::NoAnswer { reason, after } => {
                    return self.fail(&indices, Outcome::Retry { reason: reason.into(), after });
                }
                Verdict::Unavailable { reason, after } => {
                    return self.stop(&indices, &Outcome::Retry { reason: reason.into(), after });
                }
            }
        }
    }

    /// The records of the next call, by index; none when nothing is left that may be sent.
    fn next_call(&self, next: &mut usize, singles_to: usize, batches: bool) -> Option<Vec<usize>> {
        let mut indices = Vec::new();
        let mut size = 0;
        while let Some(record) = self.records.get(*next) {
            if self.outcomes[*next].is_none() && !self.stopped.contains(&record.lane()) {
                let this = event::json_size(record);
                if !indices.is_empty() && size + this > MAX_BATCH_BODY {
                    break;
                }
                size += this;
                indices.push(*next);
            }
            *next += 1;
            if !indices.is_empty() && (!batches || *next <= singles_to) {
                break;
            }
        }
        (!indices.is_empty()).then_some(indices)
    }

    /// Takes a partial answer.
    fn partly(&mut self, indices: &[usize], failed: &HashMap<String, Item>) {
        let ids: Vec<String> =
            indices.iter().map(|&index| event::id(&self.records[index])).collect();
        if let Some(unknown) = failed.keys().find(|id| !ids.contains(id)) {
            // Whatever it means, it is not that the rest is done.
            let reason = format!(
                "the receiver's answer names a failed item that was not in the call: {unknown:?}"
            );
            return self.stop(indices, &Outcome::retry(reason));
        }
        for (&index, id) in indices.iter().zip(&ids) {
            let Some(Item { dead, reason }) = failed.get(id) else {
                self.outcomes[index] = Some(Outcome::Done);
                continue;
            };
            let reason = match reason {
                Some(reason) => {
                    format!("the receiver listed the record in batchItemFailures: {reason}")
                }
                None => "the receiver listed the record in batchItemFailures".to_owned(),
            };
            self.stop(
                &[index],
                &if *dead { Outcome::dead(reason) } else { Outcome::retry(reason) },
            );
        }
    }

    /// Notes a call that failed, perhaps because of one of its records.
    fn fail(&mut self, indices: &[usize], outcome: Outcome) {
        self.stop(indices, &outcome);
        self.as_a_whole = (indices.len() == self.records.len()).then_some(outcome);
    }

    /// Notes records that are not done, and ends their lanes for this batch.
    fn stop(&mut self, indices: &[usize], outcome: &Outcome) {
        for &index in indices {
            self.outcomes[index] = Some(outcome.clone());
            self.stopped.insert(self.records[index].lane());
        }
    }

    fn outcomes(self) -> Outcomes {
        match self.as_a_whole {
            Some(outcome) => Outcomes::All(outcome),
            None => Outcomes::Each(
                self.outcomes.into_iter().map(|o| o.unwrap_or(Outcome::NotTried)).collect(),
            ),
        }
    }
}

/// The address as the client takes it.
fn address(text: &str) -> Result<Uri, Error> {
    let error = |why: &str| Error::Url { url: text.to_owned(), why: why.to_owned() };
    if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(error("it must begin with http:// or https://"));
    }
    let url: Uri = text.parse().map_err(|e: http::uri::InvalidUri| error(&e.to_string()))?;
    match url.authority() {
        None => Err(error("it names no host")),
        // The client would drop them; and a password does not belong into a ConfigMap.
        Some(authority) if authority.as_str().contains('@') => {
            Err(error("it carries a user name; write it without"))
        }
        Some(_) => Ok(url),
    }
}

/// The headers of every call.
fn fixed_headers(spec: &Spec) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::with_capacity(spec.headers.len() + 20);
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION"))),
    );
    for (name, value) in &spec.headers {
        let error = |why| Error::Header { name: name.clone(), why };
        let key = HeaderName::try_from(name).map_err(|_| error("is no header name"))?;
        if RESERVED.contains(&key.as_str()) || key.as_str().starts_with("ce-") {
            return Err(error("is written by the handler itself; remove it"));
        }
        headers.insert(
            key,
            HeaderValue::try_from(value)
                .map_err(|_| error("has a value that no header can carry"))?,
        );
    }
    Ok(headers)
}

/// TLS with the machine's certificates (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured, which is how a private authority
/// is trusted until the spec has a field for it), or Mozilla's where there are none, as in an image with nothing in it.
fn tls(needed: bool) -> Result<ClientConfig, Error> {
    // Named, because a process in which two crates ask for two providers has no default.
    let provider = Arc::new(ring::default_provider());
    let builder = || {
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()
    };
    if !needed {
        return Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    }
    let builder = match builder()?.with_native_roots() {
        Ok(builder) => builder,
        Err(error) => {
            tracing::info!(%error, "no certificates on this machine: Mozilla's, built in, are used");
            builder()?.with_webpki_roots()
        }
    };
    Ok(builder.with_no_client_auth())
}
