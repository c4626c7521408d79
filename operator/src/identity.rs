//! Which consumer: the names that everything about one `KafkaConsumer` is kept under.

use std::collections::BTreeMap;

use sluice_crds::{KafkaConsumer, labels, member::MemberSuffix};

/// Which consumer: what its children's names, labels and owner references are made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The object came without a name, namespace or uid, which no API server does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the object has no {0}")]
pub struct Incomplete(pub &'static str);

impl Identity {
    /// Who the object is.
    ///
    /// # Errors
    /// [`Incomplete`].
    pub fn of(consumer: &KafkaConsumer) -> Result<Self, Incomplete> {
        let meta = &consumer.metadata;
        Ok(Self {
            namespace: meta.namespace.clone().ok_or(Incomplete("namespace"))?,
            name: meta.name.clone().ok_or(Incomplete("name"))?,
            uid: meta.uid.clone().ok_or(Incomplete("uid"))?,
        })
    }
}

impl Identity {
    /// What the client ids of its pods end with.
    pub fn member_suffix(&self) -> MemberSuffix {
        MemberSuffix::of(&self.uid)
    }

    /// Name of its Deployment.
    pub fn deployment_name(&self) -> &str {
        &self.name
    }

    /// What the names of its static configurations begin with; the hash of their meaning follows.
    pub fn config_prefix(&self) -> String {
        format!("{}-config-", self.name)
    }

    /// Name of the ConfigMap with the static configuration of this meaning.
    pub fn config_name(&self, hash: &str) -> String {
        self.config_prefix() + hash
    }

    /// Name of the ConfigMap with the tuning file.
    pub fn tuning_name(&self) -> String {
        format!("{}-tuning", self.name)
    }

    /// The labels that select its pods.
    pub fn selector_labels(&self) -> BTreeMap<String, String> {
        [(labels::NAME, labels::NAME_VALUE), (labels::INSTANCE, self.name.as_str())]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    /// The selector as the scale subresource has it.
    pub fn selector(&self) -> String {
        format!("{}={},{}={}", labels::NAME, labels::NAME_VALUE, labels::INSTANCE, self.name)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
