//! One group, one owner: which consumers lay claim to which group. Who has pods keeps it, else the older.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use sluice_crds::KafkaConsumer;

use crate::{identity::Identity, pass::validate};

/// A consumer's claim to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who claims.
    pub id: Identity,
    /// Whether it has pods, or is to have some: who runs keeps the group. Else an older consumer that is suspended, or one
    /// that was created again, would stop a running one.
    pub running: bool,
    /// When it was created: of those that run, or of those that don't, the older keeps the group.
    pub since: Option<Timestamp>,
    /// The brokers as the spec has them.
    pub bootstrap_servers: String,
    /// The Kafka cluster's id, where it is known: it unites different addresses of one cluster.
    pub cluster_id: Option<String>,
}

impl Claim {
    /// A consumer's claim, with its group.
    pub fn of(consumer: &KafkaConsumer) -> Option<(String, Self)> {
        let id = Identity::of(consumer).ok()?;
        let status = consumer.status.clone().unwrap_or_default();
        let claim = Self {
            running: status.desired_replicas.is_some_and(|pods| pods > 0),
            since: consumer.metadata.creation_timestamp.as_ref().map(|t| t.0),
            bootstrap_servers: consumer.spec.kafka.bootstrap_servers.clone(),
            cluster_id: status.cluster_id,
            id,
        };
        Some((validate::group_id(consumer, &claim.id), claim))
    }
}

/// All claims, by group.
#[derive(Debug, Default)]
pub struct Groups(Mutex<HashMap<String, Vec<Claim>>>);

impl Groups {
    /// Notes a claim to `group` and answers with the better claim that it conflicts with, if there is one.
    pub fn claim(&self, group: &str, claim: Claim) -> Option<Identity> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = groups.entry(group.to_owned()).or_default();
        let older = claims
            .iter()
            .filter(|other| other.id.uid != claim.id.uid && same_cluster(other, &claim))
            .filter(|other| rank(other) < rank(&claim))
            .min_by(|a, b| rank(a).cmp(&rank(b)))
            .map(|other| other.id.clone());
        match claims.iter_mut().find(|other| other.id.uid == claim.id.uid) {
            Some(own) => *own = claim,
            None => claims.push(claim),
        }
        older
    }

    /// How many consumers have a claim.
    pub fn consumers(&self) -> usize {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.values().map(Vec::len).sum()
    }

    /// Drops all claims of a consumer that is gone.
    pub fn release(&self, uid: &str) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, claims| {
            claims.retain(|claim| claim.id.uid != uid);
            !claims.is_empty()
        });
    }
}

/// Who runs first, then the older; of the same second, the one whose uid sorts first, so that both see the same owner.
fn rank(claim: &Claim) -> (bool, Option<Timestamp>, &str) {
    (!claim.running, claim.since, &claim.id.uid)
}

fn same_cluster(a: &Claim, b: &Claim) -> bool {
    if a.cluster_id.is_some() && a.cluster_id == b.cluster_id {
        return true;
    }
    // One address in common is one cluster.
    let addresses = |servers: &str| {
        servers.split(',').map(|s| s.trim().to_lowercase()).collect::<BTreeSet<_>>()
    };
    !addresses(&a.bootstrap_servers).is_disjoint(&addresses(&b.bootstrap_servers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, second: i64, servers: &str, cluster: Option<&str>) -> Claim {
        Claim {
            id: Identity {
                namespace: "shop".into(),
                name: name.into(),
                uid: format!("uid-{name}"),
            },
            running: false,
            since: Timestamp::from_second(second).ok(),
            bootstrap_servers: servers.into(),
            cluster_id: cluster.map(Into::into),
        }
    }

    #[test]
    fn the_older_of_two_consumers_keeps_the_group_whoever_is_seen_first() {
        let groups = Groups::default();
        assert_eq!(groups.claim("g", claim("young", 20, "kafka:9092", None)), None);
        assert_eq!(groups.claim("g", claim("old", 10, "kafka:9092", None)), None);
        assert_eq!(groups.claim("g", claim("young", 20, "kafka:9092", None)).unwrap().name, "old");
        groups.release("uid-old");
        assert_eq!(groups.claim("g", claim("young", 20, "kafka:9092", None)), None);
    }

    #[test]
    fn who_runs_keeps_the_group_from_an_older_one_that_does_not() {
        let groups = Groups::default();
        let running = Claim { running: true, ..claim("young", 20, "kafka:9092", None) };
        assert_eq!(groups.claim("g", running.clone()), None);
        assert_eq!(groups.claim("g", claim("old", 10, "kafka:9092", None)).unwrap().name, "young");
        assert_eq!(groups.claim("g", running), None);
        // When it has no pods any more, the older one has its turn.
        assert!(groups.claim("g", claim("young", 20, "kafka:9092", None)).is_some());
        assert_eq!(groups.claim("g", claim("old", 10, "kafka:9092", None)), None);
    }

    #[test]
    fn the_same_name_on_another_cluster_is_another_group() {
        let groups = Groups::default();
        groups.claim("g", claim("old", 10, "a:9092,b:9092", Some("one")));
        assert_eq!(groups.claim("g", claim("young", 20, "c:9092", Some("two"))), None);
        assert!(groups.claim("g", claim("young", 20, "c:9092", Some("one"))).is_some());
        assert!(groups.claim("g", claim("young", 20, "B:9092", None)).is_some());
        assert_eq!(groups.claim("h", claim("young", 20, "a:9092", Some("one"))), None);
    }
}
