//! From librdkafka's errors to the log's.

use std::io;
use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::config::{ConfigError, KafkaConfig};
use crate::log::LogError;

/// What an error says. Values of settings are left out, as they may be secrets.
pub(super) fn text(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, name, _) => format!("the setting {name} is refused: {why}"),
        other => other
            .rdkafka_error_code()
            .map_or_else(|| other.to_string(), |code| code.to_string()),
    }
}

/// What a request that failed in this way means.
pub(super) fn io_error(place: impl Into<String>, kind: io::ErrorKind, what: impl Into<String>) -> LogError {
    let (place, what) = (place.into(), what.into());
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidData => LogError::Refused { place, what },
        io::ErrorKind::TimedOut | io::ErrorKind::NotConnected | io::ErrorKind::NotFound => {
            LogError::Unreachable { place, what }
        }
        kind => LogError::Io {
            place,
            source: Arc::new(io::Error::new(kind, what)),
        },
    }
}

/// What this client lacks a right for, and how to give it; the script may need more options than those.
pub(super) fn lacks(config: &KafkaConfig, operation: &str, resource: &str, more: &str) -> LogError {
    LogError::Refused {
        place: cluster(config),
        what: grant(config.user(), &config.topic_prefix, operation, resource) + more,
    }
}

/// The sentence for a right that is missing.
pub(super) fn grant(user: Option<&str>, prefix: &str, operation: &str, resource: &str) -> String {
    let who = user.map_or_else(|| "an unnamed user".to_owned(), |user| format!("the user {user}"));
    let user = user.map_or_else(String::new, |user| format!(" --user {user}"));
    format!(
        "{who} has no right to {operation} {resource}; grant what a node needs with deploy/kafka-acls{user} --prefix \
         {prefix}"
    )
}

pub(super) fn mismatch(place: impl Into<String>, what: impl Into<String>) -> LogError {
    LogError::Mismatch {
        place: place.into(),
        what: what.into(),
    }
}

pub(super) fn damaged(place: impl Into<String>, what: impl Into<String>) -> LogError {
    LogError::Damaged {
        place: place.into(),
        what: what.into(),
    }
}

/// Where the log is, for messages.
pub(super) fn cluster(config: &KafkaConfig) -> String {
    format!("Kafka at {}", config.bootstrap_servers)
}

/// A configuration that cannot be.
pub(super) fn bad_config(config: &KafkaConfig, error: &ConfigError) -> LogError {
    mismatch(cluster(config), error.to_string())
}

/// A client could not be made.
pub(super) fn no_client(config: &KafkaConfig, error: KafkaError) -> LogError {
    let what = match error {
        KafkaError::ClientConfig(_, why, name, _) => ConfigError::Refused { name, why }.to_string(),
        KafkaError::ClientCreation(why) => why,
        other => text(&other),
    };
    mismatch(cluster(config), what)
}

/// What a failed request means to the operator.
pub(super) fn kind(code: Code) -> io::ErrorKind {
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed => io::ErrorKind::PermissionDenied,
        Code::SSL => io::ErrorKind::InvalidData,
        Code::Resolve => io::ErrorKind::NotFound,
        Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut => io::ErrorKind::TimedOut,
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::NetworkException => {
            io::ErrorKind::NotConnected
        }
        _ => io::ErrorKind::Other,
    }
}

/// The other side is there and does not want this client: waiting does not help.
pub(super) fn refuses(code: Code) -> bool {
    matches!(
        kind(code),
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidData
    )
}

/// Errors of a consumer that pass by themselves: librdkafka goes on trying, and nothing is skipped meanwhile.
pub(super) fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::SSL
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::KafkaStorageError
            | Code::OffsetNotAvailable
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicId
            | Code::FetchSessionIdNotFound
            | Code::InvalidFetchSessionEpoch
            | Code::ThrottlingQuotaExceeded
            // Of groups nothing is needed: a reader is told what to read.
            | Code::WaitingForCoordinator
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::GroupAuthorizationFailed
            | Code::PollExceeded
    )
}
