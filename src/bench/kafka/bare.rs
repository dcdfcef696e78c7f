//! librdkafka alone, with the promises that the log asks of it.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::log::kafka::KafkaConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::super::BenchError;
use super::super::measure::{Took, Watch};
use super::{TIME, Worked, each};

/// Records that are kept to be sent again, from the end of each partition.
const KEPT: i64 = 1000;
const WAIT: Duration = Duration::from_secs(10);

struct Kept {
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// How a producer is set up.
#[derive(Debug, Clone, Copy)]
pub enum Setup {
    /// As librdkafka is by default, but for what the log asks of it.
    Default,
    /// As the node sets it up: no linger, LZ4.
    Same,
}

/// Producers, and records that the node wrote.
pub struct Bare {
    default: FutureProducer,
    same: FutureProducer,
    topic: Arc<str>,
    partitions: usize,
    records: Arc<[Kept]>,
}

fn failed(e: impl std::fmt::Display) -> BenchError {
    BenchError::Ended(format!("Kafka: {e}"))
}

fn client(log: &KafkaConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &log.bootstrap_servers)
        .set_log_level(RDKafkaLogLevel::Error);
    client
}

fn consumer(log: &KafkaConfig) -> Result<BaseConsumer, BenchError> {
    let mut client = client(log);
    client
        .set("group.id", format!("{}bare", log.topic_prefix))
        .set("enable.auto.commit", "false");
    client.create().map_err(failed)
}

fn topic(log: &KafkaConfig, name: &str) -> String {
    format!("{}{name}", log.topic_prefix)
}

impl Bare {
    /// Makes a topic beside the node's, and reads what the node wrote last.
    pub async fn new(log: &KafkaConfig) -> Result<Self, BenchError> {
        let name = topic(log, "bare");
        let admin: AdminClient<DefaultClientContext> = client(log).create().map_err(failed)?;
        let copies = TopicReplication::Fixed(i32::from(log.replication_factor));
        let wanted = NewTopic::new(&name, i32::from(log.partitions), copies);
        let made = admin
            .create_topics([&wanted], &AdminOptions::new())
            .await
            .map_err(failed)?;
        if let Some(Err((_, code))) = made.into_iter().next() {
            return Err(failed(code));
        }
        let mut producer = client(log);
        producer.set("enable.idempotence", "true").set("acks", "all");
        let default = producer.create().map_err(failed)?;
        producer.set("linger.ms", "0").set("compression.type", "lz4");
        let records = tokio::task::block_in_place(|| newest(log))?;
        if records.is_empty() {
            return Err(BenchError::Ended("the node has written nothing".to_owned()));
        }
        Ok(Self {
            default,
            same: producer.create().map_err(failed)?,
            topic: name.into(),
            partitions: usize::from(log.partitions),
            records: records.into(),
        })
    }

    /// Senders in turn send what was kept, each waiting until its record is acknowledged.
    pub async fn produce(&self, setup: Setup, at_once: usize) -> Result<Worked, BenchError> {
        let producer = match setup {
            Setup::Default => &self.default,
            Setup::Same => &self.same,
        };
        each(at_once, |n| {
            let (producer, topic, records) = (producer.clone(), self.topic.clone(), self.records.clone());
            let partition = (n % self.partitions) as i32;
            async move {
                let until = clock::monotonic() + TIME;
                let mut latencies = Vec::new();
                for kept in records.iter().cycle().skip(n) {
                    if clock::monotonic() >= until {
                        break;
                    }
                    let begun = clock::monotonic();
                    let record = FutureRecord::<[u8], _>::to(&topic)
                        .partition(partition)
                        .payload(&kept.value)
                        .headers(kept.headers.clone());
                    producer.send(record, WAIT).await.map_err(|(e, _)| failed(e))?;
                    latencies.push(begun.elapsed().as_secs_f64());
                }
                Ok(latencies)
            }
        })
        .await
    }
}

/// The newest records of the identity stream, a number from each partition.
fn newest(log: &KafkaConfig) -> Result<Vec<Kept>, BenchError> {
    let (consumer, name) = (consumer(log)?, topic(log, "identity"));
    let (mut list, mut there) = (TopicPartitionList::new(), 0);
    for partition in (0..log.partitions).map(i32::from) {
        let (low, high) = consumer
            .fetch_watermarks(&name, partition, WAIT)
            .map_err(failed)?;
        let from = low.max(high - KEPT);
        there += high - from;
        list.add_partition_offset(&name, partition, Offset::Offset(from))
            .map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)?;
    let mut kept = Vec::new();
    for _ in 0..there {
        let message = next(&consumer)?;
        if let (Some(value), Some(headers)) = (message.payload(), message.headers()) {
            kept.push(Kept {
                value: value.to_vec(),
                headers: headers.detach(),
            });
        }
    }
    Ok(kept)
}

/// Reads as many records of both streams as were folded, and drops them.
pub fn consume(log: &KafkaConfig, records: u64) -> Result<Took, BenchError> {
    let watch = Watch::start();
    let consumer = consumer(log)?;
    let mut list = TopicPartitionList::new();
    for name in ["identity", "activity"] {
        for partition in (0..log.partitions).map(i32::from) {
            list.add_partition_offset(&topic(log, name), partition, Offset::Beginning)
                .map_err(failed)?;
        }
    }
    consumer.assign(&list).map_err(failed)?;
    for _ in 0..records {
        next(&consumer)?;
    }
    Ok(watch.stop(records as f64))
}

fn next(consumer: &BaseConsumer) -> Result<rdkafka::message::BorrowedMessage<'_>, BenchError> {
    match consumer.poll(WAIT) {
        Some(message) => message.map_err(failed),
        None => Err(BenchError::Ended(
            "Kafka holds fewer records than were folded".to_owned(),
        )),
    }
}
