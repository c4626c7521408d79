//! What went wrong, as a status says it. Without Kafka.

use rdkafka::types::RDKafkaErrorCode;
use sluice_crds::conditions::reason;
use sluice_planner::snapshot::TopicPartition;

use super::{
    Limits,
    answers::{Failure, LARGEST_METADATA, MOST_ASSIGNED, MOST_MEMBERS},
    cause::Cause,
    port::ReadError,
};

/// What is wrong where the ends of some partitions, or of `all`, could not be read.
pub fn ends_error(
    addresses: &str,
    silent: &[(TopicPartition, &Failure)],
    all: usize,
) -> Option<ReadError> {
    let (first, failure) = silent.first()?;
    if silent.len() == all {
        return Some(read_error(addresses, failure));
    }
    let first = format!("{}-{}", first.topic, first.partition);
    let which = if silent.len() == 1 { first } else { format!("{first} and others") };
    let message = format!(
        "{} of {all} partitions could not be read ({which}): {}",
        silent.len(),
        name(failure)
    );
    Some(ReadError { reason: reason::PARTLY_KNOWN, message })
}

/// What is wrong where the committed offsets of some partitions could not be read.
pub fn commits_error(failed: &[(TopicPartition, &Failure)], all: usize) -> Option<ReadError> {
    let (first, failure) = failed.first()?;
    let reason = match failure.code {
        RDKafkaErrorCode::TopicAuthorizationFailed => reason::ACCESS_DENIED,
        _ => reason::PARTLY_KNOWN,
    };
    let message = format!(
        "the committed offsets of {} of {all} partitions could not be read ({}-{}): {}",
        failed.len(),
        first.topic,
        first.partition,
        name(failure)
    );
    Some(ReadError { reason, message })
}

/// Committed offsets that carry more metadata than is read: the offsets themselves are known.
pub fn metadata_error(oversized: &[TopicPartition], all: usize) -> Option<ReadError> {
    let first = oversized.first()?;
    let message = format!(
        "the committed offsets of {} of {all} partitions ({}-{}) carry more metadata than the \
         {} KiB that the operator reads: the progress reports in it are not known",
        oversized.len(),
        first.topic,
        first.partition,
        LARGEST_METADATA / 1_024
    );
    Some(ReadError { reason: reason::PARTLY_KNOWN, message })
}

/// The group has more members than are read.
pub fn too_many_members() -> ReadError {
    ReadError {
        reason: reason::TOO_MANY_MEMBERS,
        message: format!(
            "the group has more than {MOST_MEMBERS} members, or more than {MOST_ASSIGNED} \
             partitions are assigned to them: the operator reads no more"
        ),
    }
}

/// Whether this client may not do what it asked for: every broker would say so.
pub fn is_refusal(failure: &Failure) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        failure.code,
        Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TopicAuthorizationFailed
    )
}

/// Whether another broker is to be asked for a group.
pub fn is_search(failure: &Failure) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        failure.code,
        Code::NotCoordinator | Code::CoordinatorNotAvailable | Code::CoordinatorLoadInProgress
    )
}

/// Whether nobody answered, rather than somebody with an error.
pub fn is_transport(failure: &Failure) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        failure.code,
        Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::Retry
    )
}

/// Nobody answers, as a condition says it.
pub fn unreachable(addresses: &str, cause: Cause) -> ReadError {
    let message = match cause {
        Cause::TooLarge => format!("a broker of {addresses} cannot be read: {cause}"),
        _ => format!("no broker of {addresses} answers: {cause}"),
    };
    ReadError { reason: reason::UNREACHABLE, message }
}

/// What a failure is called in a condition: a broker's own words, and librdkafka's, are in the operator's log alone.
fn name(failure: &Failure) -> String {
    if is_transport(failure) {
        return Cause::of(failure.code, &failure.words, true).to_string();
    }
    failure.code.to_string()
}

/// A failed request as a condition says it.
pub fn read_error(addresses: &str, failure: &Failure) -> ReadError {
    use RDKafkaErrorCode as Code;
    if is_transport(failure) {
        return unreachable(addresses, Cause::of(failure.code, &failure.words, true));
    }
    let reason = match failure.code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => reason::ACCESS_DENIED,
        _ => reason::BROKER_ERROR,
    };
    ReadError { reason, message: format!("Kafka at {addresses} says: {}", name(failure)) }
}

/// Committed offsets that could not be read, as a condition says it.
pub fn offsets_error(addresses: &str, group: &str, failure: &Failure) -> ReadError {
    use RDKafkaErrorCode as Code;
    if matches!(failure.code, Code::NotCoordinator | Code::CoordinatorLoadInProgress) {
        let message = format!("the coordinator of group {group} is still moving; trying again");
        return ReadError { reason: reason::PARTLY_KNOWN, message };
    }
    let error = read_error(addresses, failure);
    let reason = if is_transport(failure) { reason::PARTLY_KNOWN } else { error.reason };
    let message =
        format!("the committed offsets of group {group} could not be read: {}", name(failure));
    ReadError { reason, message }
}

/// A topic that could not be described.
pub fn topic_error(name: &str, failure: &Failure) -> ReadError {
    use RDKafkaErrorCode as Code;
    let (reason, message) = match failure.code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic => (
            reason::UNKNOWN_TOPIC,
            format!("the topic {name} does not exist: create it, or correct spec.kafka.topics"),
        ),
        Code::TopicAuthorizationFailed => {
            (reason::ACCESS_DENIED, format!("Kafka refuses access to the topic {name}"))
        }
        code => (reason::BROKER_ERROR, format!("Kafka says of the topic {name}: {code}")),
    };
    ReadError { reason, message }
}

/// The topics have more partitions than are read for one consumer.
pub fn too_many_partitions(count: usize, limits: &Limits) -> ReadError {
    ReadError {
        reason: reason::TOO_MANY_PARTITIONS,
        message: format!(
            "the topics have {count} partitions; the operator reads at most {} for one consumer \
             (--max-partitions-per-consumer)",
            limits.partitions
        ),
    }
}

/// The cluster announces more brokers than are connected to.
pub fn too_many_brokers(addresses: &str, limits: &Limits) -> ReadError {
    ReadError {
        reason: reason::TOO_MANY_BROKERS,
        message: format!(
            "Kafka at {addresses} announces more than {} brokers; the operator tries again in five \
             minutes",
            limits.brokers
        ),
    }
}
