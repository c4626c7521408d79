//! Why there is no connection, in the few words that a status may say. Without Kafka.
//!
//! The operator connects to what a tenant names, from a place in the network that the tenant may not have. librdkafka's own
//! words would make it a scanner of ports and names; they are in the operator's log alone. What is left is what a person
//! needs who made a typing error.

use std::fmt;

use rdkafka::types::RDKafkaErrorCode;

/// The cause of a failed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The port is closed.
    Refused,
    /// The name is not known.
    Unresolved,
    /// There was no answer in time.
    TimedOut,
    /// There was an answer, but no Kafka broker's.
    NotKafka,
    /// A broker's answer is larger than what the operator takes.
    TooLarge,
    /// There was none yet, or it ended.
    NoConnection,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Unresolved => "the name does not resolve",
            Self::TimedOut => "timed out",
            Self::NotKafka => "not a Kafka broker, or one that requires TLS",
            Self::TooLarge => "an answer is larger than the 4 MiB that the operator accepts",
            Self::NoConnection => "there is no connection",
        })
    }
}

impl Cause {
    /// The cause behind an error of librdkafka's; `spoke_kafka` where the cluster has answered before.
    pub fn of(code: RDKafkaErrorCode, words: &str, spoke_kafka: bool) -> Self {
        use RDKafkaErrorCode as Code;
        let says = |part: &str| words.contains(part);
        if code == Code::Resolve || says("Failed to resolve") {
            Self::Unresolved
        } else if says("Connection refused") {
            Self::Refused
        } else if says("receive.message.max.bytes") && spoke_kafka {
            Self::TooLarge
        } else if says("Invalid response size")
            || says("Invalid frame size")
            || says("ApiVersion")
            || code == Code::BadMessage
        {
            Self::NotKafka
        } else if code == Code::OperationTimedOut || says("timed out") || says("timeout") {
            Self::TimedOut
        } else {
            Self::NoConnection
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_librdkafka_become_one_of_a_few() {
        use RDKafkaErrorCode as Code;
        for (code, words, spoke_kafka, cause) in [
            (
                Code::BrokerTransportFailure,
                "10.0.0.5:22/bootstrap: Connect to ipv4#10.0.0.5:22 failed: Connection refused \
                 (after 0ms in state CONNECT)",
                false,
                Cause::Refused,
            ),
            (
                Code::Resolve,
                "nowhere:9092/bootstrap: Failed to resolve 'nowhere:9092': Name or service not \
                 known",
                false,
                Cause::Unresolved,
            ),
            (
                Code::BrokerTransportFailure,
                "Connection setup timed out in state CONNECT (after 5000ms in state CONNECT)",
                false,
                Cause::TimedOut,
            ),
            (
                Code::BadMessage,
                "Receive failed: Invalid response size 1397966893 (0..4194304): increase \
                 receive.message.max.bytes",
                false,
                Cause::NotKafka,
            ),
            (
                Code::BadMessage,
                "Receive failed: Invalid response size 5000000 (0..4194304): increase \
                 receive.message.max.bytes",
                true,
                Cause::TooLarge,
            ),
            (
                Code::BrokerTransportFailure,
                "Disconnected while requesting ApiVersion: might be caused by incorrect \
                 security.protocol configuration",
                false,
                Cause::NotKafka,
            ),
            (Code::BrokerTransportFailure, "Disconnected", true, Cause::NoConnection),
        ] {
            assert_eq!(Cause::of(code, words, spoke_kafka), cause, "{words}");
        }
    }
}
