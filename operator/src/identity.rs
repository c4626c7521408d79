//! Which consumer: the names that everything about one `KafkaConsumer` is kept under.

use sluice_crds::{KafkaConsumer, member::MemberSuffix};

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
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
