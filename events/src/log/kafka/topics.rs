//! The topics' settings: given to topics that are missing, and demanded of those that exist.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataTopic;

use super::config::{KafkaConfig, millis};
use super::errors::{cluster, io_error, kind, lacks, mismatch, no_client, text};
use super::monitor::{Context, Monitor};
use super::places::{Topic, Topics};
use super::query::Query;
use crate::clock;
use crate::ids::Stream;
use crate::log::LogError;

/// What a topic's setting must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Must {
    Be(String),
    BeAtLeast(u64),
    /// At least this, or -1, which is for ever.
    BeAtLeastOrEver(u64),
    BeAtMost(u64),
}

impl Must {
    fn holds(&self, found: &str) -> bool {
        let number = || found.parse::<u64>().ok();
        match self {
            Must::Be(wanted) => found == wanted,
            Must::BeAtLeast(least) => number().is_some_and(|n| n >= *least),
            Must::BeAtLeastOrEver(least) => found == "-1" || number().is_some_and(|n| n >= *least),
            Must::BeAtMost(most) => number().is_some_and(|n| n <= *most),
        }
    }

    /// The value given to a new topic, and named as the remedy.
    fn value(&self) -> String {
        match self {
            Must::Be(wanted) => wanted.clone(),
            Must::BeAtLeast(n) | Must::BeAtLeastOrEver(n) | Must::BeAtMost(n) => n.to_string(),
        }
    }

    fn words(&self) -> String {
        match self {
            Must::Be(wanted) => format!("must be {wanted}"),
            Must::BeAtLeast(n) | Must::BeAtLeastOrEver(n) => format!("must be at least {n}"),
            Must::BeAtMost(n) => format!("must be at most {n}"),
        }
    }
}

/// Settings of a topic, each with the reason why it matters.
fn settings(config: &KafkaConfig, topic: Topic) -> Vec<(&'static str, Must, &'static str)> {
    let be = |value: &str| Must::Be(value.into());
    let mut all = vec![
        (
            "min.insync.replicas",
            Must::BeAtLeast(config.min_insync_replicas.into()),
            "fewer copies than configured would count as durable",
        ),
        (
            "unclean.leader.election.enable",
            be("false"),
            "a replica that lags behind could become leader, and acknowledged records be lost",
        ),
        (
            "max.message.bytes",
            Must::BeAtLeast(config.max_message_bytes() as u64),
            "the largest records would be refused",
        ),
    ];
    all.extend(match topic {
        Topic::Stream(Stream::Identity) => vec![
            (
                "cleanup.policy",
                be("delete"),
                "compaction would remove records of the only source of truth",
            ),
            (
                "retention.ms",
                be("-1"),
                "the only source of truth would be deleted by time",
            ),
            (
                "retention.bytes",
                be("-1"),
                "the only source of truth would be deleted by size",
            ),
        ],
        Topic::Stream(Stream::Activity) => vec![
            ("cleanup.policy", be("delete"), "compaction would remove records"),
            (
                "retention.ms",
                Must::BeAtLeastOrEver(millis(config.activity_retention)),
                "activity would be deleted earlier than configured",
            ),
            (
                "retention.bytes",
                be("-1"),
                "activity would be deleted earlier than configured",
            ),
        ],
        Topic::SubjectKeys => vec![
            (
                "cleanup.policy",
                be("compact"),
                "keys would be deleted, or erased ones never leave the disks",
            ),
            (
                "max.compaction.lag.ms",
                Must::BeAtMost(millis(config.segment_age())),
                "destroyed keys would stay on the disks for longer than configured",
            ),
            (
                "message.timestamp.type",
                be("LogAppendTime"),
                "when a key leaves the disks would rest on the nodes' clocks",
            ),
            (
                "delete.retention.ms",
                Must::BeAtLeast(millis(config.key_tombstone_retention)),
                "tombstones would vanish earlier than configured",
            ),
        ],
    });
    all
}

/// Creates the topics that are missing and checks those that are there. Answers once each partition has a leader.
pub(super) async fn ensure(
    config: &KafkaConfig,
    topics: &Topics,
    query: &Arc<Query>,
    monitor: &Arc<Monitor>,
) -> Result<(), LogError> {
    let admin: AdminClient<Context> = config
        .client("admin")
        .create_with_context(Context::new(monitor, "admin"))
        .map_err(|e| no_client(config, e))?;
    let deadline = clock::monotonic() + config.connect_timeout;
    let left = || deadline.saturating_duration_since(clock::monotonic());
    let found = metadata(query, config.request_timeout).await?;
    for topic in Topic::ALL {
        if !found.iter().any(|t| t.name == topics.name(topic)) {
            if !config.may_create {
                let what = "it does not exist. Is the prefix right (kafka_topic_prefix)? A node creates what is missing";
                return Err(mismatch(format!("topic {}", topics.name(topic)), what));
            }
            create(config, topics, topic, &admin).await?;
        }
    }
    // A new topic is not known to every broker at once.
    loop {
        let found = metadata(query, config.request_timeout).await?;
        let missing = Topic::ALL
            .into_iter()
            .find(|topic| !found.iter().any(|t| t.name == topics.name(*topic) && t.led));
        let Some(missing) = missing else {
            for topic in Topic::ALL {
                if let Some(found) = found.iter().find(|t| t.name == topics.name(topic)) {
                    check_layout(config, found)?;
                    let patience = left().max(config.request_timeout);
                    let copies = check_settings(config, topics, topic, &admin, patience).await?;
                    check_copies(config, found, copies)?;
                    topics.set_min_insync(topic, copies);
                }
            }
            return Ok(());
        };
        if left().is_zero() {
            return Err(io_error(
                format!("topic {} at {}", topics.name(missing), config.bootstrap_servers),
                io::ErrorKind::TimedOut,
                "a partition has no leader: are enough brokers up?",
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the cluster says of a topic.
struct Layout {
    name: String,
    partitions: usize,
    /// Fewest copies of a partition.
    replicas: usize,
    /// Each partition has a leader.
    led: bool,
}

impl Layout {
    fn of(topic: &MetadataTopic) -> Self {
        let partitions = topic.partitions();
        Self {
            name: topic.name().to_owned(),
            partitions: partitions.len(),
            replicas: partitions.iter().map(|p| p.replicas().len()).min().unwrap_or(0),
            led: !partitions.is_empty() && partitions.iter().all(|p| p.leader() >= 0),
        }
    }
}

/// All topics, so that asking creates none.
async fn metadata(query: &Arc<Query>, timeout: Duration) -> Result<Vec<Layout>, LogError> {
    let query = query.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let metadata = query.metadata(None, timeout)?;
        Ok(metadata.topics().iter().map(Layout::of).collect())
    });
    asked.await.unwrap_or(Err(LogError::Closed))
}

async fn create(
    config: &KafkaConfig,
    topics: &Topics,
    topic: Topic,
    admin: &AdminClient<Context>,
) -> Result<(), LogError> {
    let name = topics.name(topic);
    let values: Vec<_> = settings(config, topic)
        .into_iter()
        .map(|(key, must, _)| (key, must.value()))
        .collect();
    let new = NewTopic::new(
        name,
        config.partitions.into(),
        TopicReplication::Fixed(config.replication_factor.into()),
    );
    let new = values.iter().fold(new, |new, (key, value)| new.set(key, value));
    let place = format!("topic {name} at {}", config.bootstrap_servers);
    let answer = admin
        .create_topics([&new], &options(config.connect_timeout))
        .await;
    let results = answer.map_err(|e| admin_failed(&place, &e))?;
    match results.into_iter().next() {
        Some(Ok(_)) | None => {
            tracing::info!(topic = name, partitions = config.partitions, "created");
            Ok(())
        }
        // Another node was quicker. What it made is checked like all others.
        Some(Err((_, Code::TopicAlreadyExists))) => Ok(()),
        Some(Err((
            _,
            code @ (Code::InvalidReplicationFactor | Code::InvalidConfig | Code::PolicyViolation),
        ))) => Err(mismatch(
            place,
            format!(
                "it cannot be created with {} copies of which {} must be in sync: {code}. Start more brokers, or \
                     set kafka_replication and kafka_min_insync to what the cluster can give",
                config.replication_factor, config.min_insync_replicas
            ),
        )),
        Some(Err((_, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed))) => {
            // Who may not describe a topic does not see it either.
            Err(lacks(
                config,
                "Create, or to Describe where it is there,",
                &format!("topic {name}"),
                "",
            ))
        }
        Some(Err((_, code))) => Err(io_error(
            place,
            kind(code),
            format!("it cannot be created: {code}"),
        )),
    }
}

/// Reads again how many copies must be in sync: where brokers stay away for long, operators demand fewer. Blocks.
pub(super) fn read_copies(config: &KafkaConfig, topics: &Topics, monitor: &Arc<Monitor>) {
    let context = Context::new(monitor, "admin");
    let Ok(admin) = config.client("admin").create_with_context(context) else {
        return;
    };
    let admin: AdminClient<Context> = admin;
    for topic in Topic::ALL {
        let topic_name = [&ResourceSpecifier::Topic(topics.name(topic))];
        let answer = block_on(admin.describe_configs(topic_name, &options(config.request_timeout)));
        let found = answer.ok().and_then(|found| found.into_iter().next()?.ok());
        let copies = found.as_ref().and_then(|found| found.get("min.insync.replicas"));
        // What cannot be read now stays as it was.
        if let Some(copies) = copies.and_then(|entry| entry.value.as_deref()?.parse().ok()) {
            topics.set_min_insync(topic, copies);
        }
    }
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout))
}

fn admin_failed(place: &str, error: &KafkaError) -> LogError {
    let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
    io_error(place, kind(code), text(error))
}

fn check_layout(config: &KafkaConfig, found: &Layout) -> Result<(), LogError> {
    let place = format!("topic {} at {}", found.name, config.bootstrap_servers);
    if found.partitions != usize::from(config.partitions) {
        return Err(mismatch(
            place,
            format!(
                "it has {} partitions, but partitions is {}: each user has a place by that number, so it cannot \
                 change. Set partitions to {}; or, for another store, choose another topic prefix",
                found.partitions, config.partitions, found.partitions
            ),
        ));
    }
    if found.replicas < usize::from(config.replication_factor) {
        return Err(mismatch(
            place,
            format!(
                "a partition has {} copies, but kafka_replication is {}. Add replicas with \
                 kafka-reassign-partitions.sh, or set kafka_replication to {}",
                found.replicas, config.replication_factor, found.replicas
            ),
        ));
    }
    Ok(())
}

/// A topic that demands more copies than it has takes no record.
fn check_copies(config: &KafkaConfig, found: &Layout, min_insync: usize) -> Result<(), LogError> {
    if min_insync <= found.replicas {
        return Ok(());
    }
    Err(mismatch(
        format!("topic {} at {}", found.name, config.bootstrap_servers),
        format!(
            "min.insync.replicas is {min_insync}, but a partition has {} copies, so no write would ever be taken. Add replicas \
             with kafka-reassign-partitions.sh, or lower min.insync.replicas with kafka-configs.sh",
            found.replicas
        ),
    ))
}

/// Answers how many copies the topic wants in sync.
async fn check_settings(
    config: &KafkaConfig,
    topics: &Topics,
    topic: Topic,
    admin: &AdminClient<Context>,
    timeout: Duration,
) -> Result<usize, LogError> {
    let name = topics.name(topic);
    let place = format!("topic {name} at {}", config.bootstrap_servers);
    let until = crate::clock::monotonic() + timeout;
    let answer = loop {
        let answer = admin
            .describe_configs([&ResourceSpecifier::Topic(name)], &options(timeout))
            .await
            .map_err(|e| admin_failed(&place, &e))?;
        // Just after the creation of a topic a broker may not know it, or nothing of its settings, yet.
        let knows = matches!(answer.first(), Some(Ok(found)) if !found.entries.is_empty());
        if knows || crate::clock::monotonic() >= until {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    match answer.into_iter().next() {
        // rdkafka shows a refusal as an answer without settings.
        Some(Ok(found)) if found.entries.is_empty() => {
            Err(lacks(config, "DescribeConfigs", &format!("topic {name}"), ""))
        }
        Some(Ok(found)) => {
            for (key, must, why) in &settings(config, topic) {
                check_setting(config, name, &found, (key, must, why))?;
            }
            let copies = found
                .get("min.insync.replicas")
                .and_then(|e| e.value.as_deref()?.parse().ok());
            Ok(copies.unwrap_or_else(|| config.min_insync_replicas.into()))
        }
        Some(Err(Code::TopicAuthorizationFailed)) => {
            Err(lacks(config, "DescribeConfigs", &format!("topic {name}"), ""))
        }
        Some(Err(code)) => Err(io_error(
            place,
            kind(code),
            format!("its settings cannot be read: {code}"),
        )),
        None => Err(io_error(
            cluster(config),
            io::ErrorKind::InvalidData,
            "no settings were given",
        )),
    }
}

fn check_setting(
    config: &KafkaConfig,
    topic: &str,
    found: &ConfigResource,
    (key, must, why): (&str, &Must, &str),
) -> Result<(), LogError> {
    let value = found
        .get(key)
        .and_then(|entry| entry.value.as_deref())
        .unwrap_or("not given");
    if must.holds(value) {
        return Ok(());
    }
    Err(mismatch(
        format!("topic {topic} at {}", config.bootstrap_servers),
        format!(
            "{key} is {value}, but {}: {why}. Set it with kafka-configs.sh --bootstrap-server {} --alter --entity-type \
             topics --entity-name {topic} --add-config {key}={}",
            must.words(),
            config.bootstrap_servers,
            must.value()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_setting_must_be() {
        let cases = [
            (Must::Be("-1".into()), "-1", true),
            (Must::Be("-1".into()), "604800000", false),
            (Must::BeAtLeast(2), "1", false),
            (Must::BeAtLeast(2), "3", true),
            (Must::BeAtLeast(2), "-1", false),
            (Must::BeAtLeastOrEver(1000), "-1", true),
            (Must::BeAtLeastOrEver(1000), "999", false),
            (Must::BeAtMost(10), "9223372036854775807", false),
            (Must::BeAtMost(10), "10", true),
            (Must::BeAtMost(10), "not given", false),
        ];
        for (must, found, holds) in cases {
            assert_eq!(must.holds(found), holds, "{must:?} {found}");
        }
    }

    #[test]
    fn a_new_topic_has_what_is_demanded() {
        let config = KafkaConfig::default();
        for topic in Topic::ALL {
            for (key, must, _) in settings(&config, topic) {
                assert!(must.holds(&must.value()), "{topic:?} {key}");
            }
        }
    }
}
