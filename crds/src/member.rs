//! How a pod's member of the group is known as its KafkaConsumer's: by the end of its client id.
//!
//! The client id is `POD.XXXXXXXX`: the pod's name, and the first eight hex digits of the KafkaConsumer's
//! uid. A name says too little: the same manifest in two Kubernetes clusters makes pods of the same name
//! in the same group. A member stays its consumer's after its pod is gone, until Kafka drops it.

use std::fmt;

/// The digits of a uid that stand in client ids.
const DIGITS: usize = 8;

/// What the client ids of one KafkaConsumer's pods end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSuffix(String);

impl MemberSuffix {
    /// Of the KafkaConsumer with this uid: its first eight hex digits, filled up with zeros.
    pub fn of(uid: &str) -> Self {
        let digits = uid.chars().filter(char::is_ascii_hexdigit).chain(std::iter::repeat('0'));
        Self(digits.take(DIGITS).collect::<String>().to_ascii_lowercase())
    }

    /// The client id of a pod.
    pub fn client_id(&self, pod: &str) -> String {
        format!("{pod}.{self}")
    }

    /// Whether a member with this client id is one of this KafkaConsumer's pods.
    pub fn is_in(&self, client_id: &str) -> bool {
        // Pods' names are host names of one label here: they have no dot.
        client_id.rsplit_once('.').is_some_and(|(pod, end)| !pod.is_empty() && end == self.0)
    }
}

impl fmt::Display for MemberSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_its_consumers_by_the_uid_and_not_by_the_name() {
        let here = MemberSuffix::of("5D0C1b7e-3a51-4b8e-9f66-0f6f4b1b2c3d");
        let there = MemberSuffix::of("77ab01e2-0000-4b8e-9f66-0f6f4b1b2c3d");
        let member = here.client_id("orders-7d9c4b5f6-x2x2x");
        assert_eq!(member, "orders-7d9c4b5f6-x2x2x.5d0c1b7e");
        assert!(here.is_in(&member));
        assert!(!there.is_in(&member), "the same manifest in another Kubernetes cluster");
        for other in ["orders-7d9c4b5f6-x2x2x", "rdkafka", "", ".5d0c1b7e", "5d0c1b7e"] {
            assert!(!here.is_in(other), "{other:?}");
        }
    }

    #[test]
    fn a_uid_of_another_form_still_tells_two_consumers_apart() {
        assert_eq!(MemberSuffix::of("u-1").to_string(), "10000000");
        assert_ne!(MemberSuffix::of("u-1"), MemberSuffix::of("u-2"));
    }
}
