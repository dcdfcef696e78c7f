//! Whether this client may read the topics. Kafka tells only who tries, and a node must not find out when it is at work.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::config::KafkaConfig;
use super::errors::{cluster, io_error, lacks, no_client, text};
use super::monitor::{Context, Monitor};
use super::places::{Topic, Topics};
use crate::clock;
use crate::log::LogError;

const POLL: Duration = Duration::from_millis(50);

/// Fetches once from each topic. Blocks.
pub(super) fn check_reading(
    config: &KafkaConfig,
    topics: &Topics,
    monitor: &Arc<Monitor>,
    timeout: Duration,
) -> Result<(), LogError> {
    let mut client = config.consumer("bulk");
    client
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .set("queued.min.messages", "1")
        .set("max.partition.fetch.bytes", "1024");
    let consumer: BaseConsumer<Context> = client
        .create_with_context(Context::new(monitor, "rights"))
        .map_err(|e| no_client(config, e))?;
    let until = clock::monotonic() + timeout;
    for topic in Topic::ALL {
        let name = topics.name(topic);
        let mut list = TopicPartitionList::with_capacity(1);
        // A number, for which nobody has to be asked first. Of a new leader Kafka does not tell the end while too few copies
        // are in sync, and each such question takes librdkafka a second.
        list.add_partition_offset(name, 0, At::Offset(0))
            .and_then(|()| consumer.assign(&list))
            .map_err(|e| no_client(config, e))?;
        let mut seen = HashSet::new();
        loop {
            match consumer.poll(POLL) {
                // A record, the partition's end, or that it begins later by now: it was let in.
                Some(Ok(message)) if message.topic() == name => break,
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(e)) if out_of_range(&e) => break,
                Some(Err(e)) if e.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) => {
                    return Err(lacks(config, "Read", &format!("topic {name}"), ""));
                }
                Some(Err(e)) => drop(seen.insert(text(&e))),
                _ => {}
            }
            if clock::monotonic() >= until {
                let seen: Vec<_> = seen.into_iter().collect();
                let what = format!("topic {name} could not be read in time. {}", seen.join("; "));
                return Err(io_error(cluster(config), io::ErrorKind::TimedOut, what));
            }
        }
    }
    Ok(())
}

fn out_of_range(e: &KafkaError) -> bool {
    matches!(
        e.rdkafka_error_code(),
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)
    )
}
