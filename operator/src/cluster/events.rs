//! Events: what happened, on transitions only; `kubectl describe` and the log show them. No pass waits for an event.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{self, EventType, Recorder, Reporter},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The longest note that the API server takes.
const NOTE: usize = 1_024;
/// Events that wait to be sent, at most: a second's worth for a thousand consumers.
const WAITING: usize = 1_000;
/// An event that takes longer to send is given up.
const SEND: Duration = Duration::from_secs(10);
/// The source that events name.
pub const CONTROLLER: &str = "sluice-operator";

/// Something that happened to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether somebody should look.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: Cow<'static, str>,
    /// What was being done.
    pub action: &'static str,
    /// One sentence with its numbers.
    pub note: String,
}

impl Event {
    /// Something ordinary.
    pub fn normal(
        reason: impl Into<Cow<'static, str>>,
        action: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self { warning: false, reason: reason.into(), action, note: note.into() }
    }

    /// Something that somebody should look at.
    pub fn warning(
        reason: impl Into<Cow<'static, str>>,
        action: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self { warning: true, reason: reason.into(), action, note: note.into() }
    }
}

/// Takes events in, without waiting: [`Publisher::run`] sends them. Each is a line of the log, too.
#[derive(Clone)]
pub struct Events(Arc<Queue>);

/// Sends events, one after the other. A failure is counted and logged, and changes nothing.
pub struct Publisher {
    queue: Arc<Queue>,
    client: Client,
    instance: Option<String>,
}

struct Queue {
    waiting: Mutex<VecDeque<(Event, ObjectReference)>>,
    changed: Notify,
    metrics: Arc<Metrics>,
}

impl Events {
    /// A queue and its publisher, which names `instance` (the operator's pod) as the source.
    pub fn new(
        client: Client,
        instance: Option<String>,
        metrics: Arc<Metrics>,
    ) -> (Self, Publisher) {
        let queue = Arc::new(Queue { waiting: Mutex::default(), changed: Notify::new(), metrics });
        (Self(Arc::clone(&queue)), Publisher { queue, client, instance })
    }

    /// Publishes what happened to `object`, soon. Where too many events wait, the oldest is dropped.
    pub fn publish(&self, events: Vec<Event>, object: &ObjectReference) {
        for event in events {
            say(&event, object);
            let dropped = {
                let mut waiting = self.0.lock();
                waiting.push_back((event, object.clone()));
                (waiting.len() > WAITING).then(|| waiting.pop_front())
            };
            if dropped.is_some() {
                self.0.metrics.event_dropped();
            }
        }
        self.0.changed.notify_one();
    }
}

/// What the operator finds is in its log, one line for each transition.
fn say(event: &Event, object: &ObjectReference) {
    let word = |word: &Option<String>| word.clone().unwrap_or_default();
    let consumer = format!("{}/{}", word(&object.namespace), word(&object.name));
    let (reason, note) = (&event.reason, one_line(&event.note));
    if event.warning {
        tracing::warn!(consumer, %reason, "{note}");
    } else {
        tracing::info!(consumer, %reason, "{note}");
    }
}

/// Words of brokers, webhooks and kubelets may have line breaks, which would look like lines of the log.
fn one_line(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Event, ObjectReference)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// Sends events until `stop`, and then those that still wait.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            // Looked at before the queue: an event that came before the stop is then seen.
            let stopping = stop.is_cancelled();
            let next = self.queue.lock().pop_front();
            match next {
                Some((event, object)) => self.send(&event, &object).await,
                None if stopping => return,
                None => tokio::select! {
                    () = self.queue.changed.notified() => {}
                    () = stop.cancelled() => {}
                },
            }
        }
    }

    async fn send(&self, event: &Event, object: &ObjectReference) {
        // kube's Recorder takes events of one action and reason for one series and repeats the first one's note, so that
        // "3 to 5 pods" would appear as "1 to 3 pods" for six minutes. A recorder of its own for each event has no memory to
        // do that with; that the same is not said twice is the business of the transitions.
        let reporter =
            Reporter { controller: CONTROLLER.to_owned(), instance: self.instance.clone() };
        let published = events::Event {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.clone().into_owned(),
            action: event.action.to_owned(),
            note: Some(shorten(&event.note, NOTE)),
            secondary: None,
        };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let error = match tokio::time::timeout(SEND, recorder.publish(&published, object)).await {
            Ok(Ok(())) => None,
            // A create that was repeated after a lost answer is there already (kube retries a POST too).
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", SEND.as_secs())),
        };
        match error {
            None => self.queue.metrics.write("Event"),
            Some(error) => {
                self.queue.metrics.event_failed();
                tracing::warn!(error, reason = %event.reason, "an event cannot be published");
            }
        }
    }
}

/// At most `max` bytes from the beginning.
pub fn shorten(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_takes_no_events_holds_up_nobody_and_fills_no_memory() {
        let hangs = tower::service_fn(|_: Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::io::Error>>()
        });
        let metrics = Arc::new(Metrics::default());
        let client = Client::new(hangs, "default");
        let (events, publisher) = Events::new(client, None, Arc::clone(&metrics));
        let object = ObjectReference { namespace: Some("shop".into()), ..Default::default() };
        for number in 0..WAITING + 7 {
            let note = format!("event {number}");
            events.publish(vec![Event::normal("ScaledUp", "Scale", note)], &object);
        }
        assert_eq!(events.0.lock().len(), WAITING);
        assert_eq!(events.0.lock().front().unwrap().0.note, "event 7");
        assert!(metrics.render().contains("events_dropped_total 7"), "{}", metrics.render());
        let task = tokio::spawn(publisher.run(CancellationToken::new()));
        tokio::time::sleep(SEND * 2 + SEND / 2).await;
        assert!(metrics.render().contains("events_failed_total 2"), "{}", metrics.render());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_comes_just_before_the_stop_is_sent() {
        let refuses = tower::service_fn(|_: Request<Body>| async {
            Err::<Response<Body>, _>(std::io::Error::other("refused"))
        });
        let metrics = Arc::new(Metrics::default());
        let client = Client::new(refuses, "default");
        let object = ObjectReference { namespace: Some("shop".into()), ..Default::default() };
        // Both wake the publisher at once, and which it looks at first is chance.
        for _ in 0..32 {
            let (events, publisher) = Events::new(client.clone(), None, Arc::clone(&metrics));
            let stop = CancellationToken::new();
            let task = tokio::spawn(publisher.run(stop.clone()));
            tokio::task::yield_now().await;
            events.publish(vec![Event::normal("ScaledUp", "Scale", "1 → 2 pods")], &object);
            stop.cancel();
            task.await.unwrap();
        }
        assert!(metrics.render().contains("events_failed_total 32"), "{}", metrics.render());
    }

    #[test]
    fn words_of_others_are_one_line_of_the_log() {
        assert_eq!(one_line("no\nlevel=error forged"), "no level=error forged");
    }
}
