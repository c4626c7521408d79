//! The name of a topic.

use std::{fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that a topic can have: 1 to 249 of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`, but not `.` and
/// `..` (Kafka's own rule, `org.apache.kafka.common.internals.Topic`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(String);

/// No topic can have this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a topic: use 1 to 249 of a-z, A-Z, 0-9, '.', '_' and '-' (but not . or ..)"
)]
pub struct NotATopic(String);

impl TryFrom<String> for TopicName {
    type Error = NotATopic;

    fn try_from(name: String) -> Result<Self, NotATopic> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let is_name = (1..=249).contains(&name.len()) && name.bytes().all(allowed);
        if is_name && !matches!(&*name, "." | "..") { Ok(Self(name)) } else { Err(NotATopic(name)) }
    }
}

impl FromStr for TopicName {
    type Err = NotATopic;

    fn from_str(name: &str) -> Result<Self, NotATopic> {
        name.to_owned().try_into()
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0
    }
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_a_name_that_kafka_takes() {
        for name in ["orders", "a.b_c-D9", &"x".repeat(249), "..."] {
            assert_eq!(name.parse::<TopicName>().unwrap().to_string(), name);
        }
        for name in ["", ".", "..", "a b", "a/b", "ä", "a\n", &"x".repeat(250)] {
            let error = name.parse::<TopicName>().unwrap_err().to_string();
            assert!(error.contains("a-z"), "{error}");
        }
        assert!(serde_yaml::from_str::<TopicName>("'a b'").is_err());
    }
}
