//! What a pass is given: what all passes share, and what the watches of its scope have seen.

use std::sync::Arc;

use kube::{Client, runtime::reflector::ObjectRef};

use crate::{
    cluster::{
        events::Events,
        schema::Definition,
        watch::{Stores, Wake},
    },
    identity::Identity,
    kafka::port::{Kafka, OnReading},
    metrics::Metrics,
    pass::{claims::Groups, rollouts::Rollouts},
    platform::Platform,
};

/// What all scopes share.
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// What the administrator decided for all consumers.
    pub platform: Platform,
    /// Who claims which group.
    pub groups: Groups,
    /// Who takes the operator's image now.
    pub rollouts: Rollouts,
    /// The readers, one for each Kafka cluster.
    pub kafka: Arc<dyn Kafka>,
    /// The definition as the API server serves it.
    pub definition: Arc<Definition>,
    /// Publishes events.
    pub events: Events,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What passes of one scope are given.
pub struct Context {
    /// What all scopes share.
    pub shared: Arc<Shared>,
    /// What the watches have seen.
    pub stores: Stores,
    /// Asks for passes when a reading has come.
    pub wake: Wake,
}

impl Context {
    /// What is called when a consumer has a new reading: it asks for a pass.
    pub fn on_reading(&self, id: &Identity) -> OnReading {
        Arc::new(self.waker(&id.namespace, &id.name))
    }

    /// What asks for a pass over a consumer.
    pub fn waker(&self, namespace: &str, name: &str) -> impl Fn() + Send + Sync + 'static {
        let (wake, object) = (self.wake.clone(), ObjectRef::new(name).within(namespace));
        // A controller that has stopped needs no pass.
        move || drop(wake.unbounded_send(object.clone()))
    }
}
