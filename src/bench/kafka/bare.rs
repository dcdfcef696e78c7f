//! librdkafka alone, with the promises that the log asks of it.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::log::kafka::KafkaConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer, ThreadedProducer,
};
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

pub fn topic(log: &KafkaConfig, name: &str) -> String {
    format!("{}{name}", log.topic_prefix)
}

impl Bare {
    /// Makes a topic beside the node's, and reads what the node wrote last.
    pub async fn new(log: &KafkaConfig) -> Result<Self, BenchError> {
        let name = topic(log, "bare");
        create(log, &name).await?;
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

async fn create(log: &KafkaConfig, name: &str) -> Result<(), BenchError> {
    let admin: AdminClient<DefaultClientContext> = client(log).create().map_err(failed)?;
    let copies = TopicReplication::Fixed(i32::from(log.replication_factor));
    let wanted = NewTopic::new(name, i32::from(log.partitions), copies);
    let made = admin
        .create_topics([&wanted], &AdminOptions::new())
        .await
        .map_err(failed)?;
    match made.into_iter().next() {
        Some(Err((_, code))) => Err(failed(code)),
        _ => Ok(()),
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

/// Sees how many messages a topic has had so far.
pub struct Counter {
    consumer: BaseConsumer,
    partitions: u16,
    pub topic: String,
}

impl Counter {
    pub fn new(log: &KafkaConfig, topic: String) -> Result<Self, BenchError> {
        Ok(Self {
            consumer: consumer(log)?,
            partitions: log.partitions,
            topic,
        })
    }

    /// None while the topic is not there yet. Blocks.
    pub fn count(&self) -> Result<u64, BenchError> {
        let end = |partition| match self.consumer.fetch_watermarks(&self.topic, partition, WAIT) {
            Ok((_, high)) => Ok(u64::try_from(high).unwrap_or(0)),
            Err(e) => match e.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::NotLeaderForPartition,
                ) => Ok(0),
                _ => Err(failed(e)),
            },
        };
        (0..self.partitions).map(i32::from).map(end).sum()
    }
}

/// What a loop says, and where it says it.
struct Said {
    partition: i32,
    key: Vec<u8>,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// Consumes the log and produces what a feed said.
pub struct Loop {
    consumer: BaseConsumer,
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    said: Vec<Said>,
}

impl Loop {
    /// It says what the feed's topic has, so many messages of it.
    pub async fn new(log: &KafkaConfig, feed: &str, messages: usize) -> Result<Self, BenchError> {
        let name = topic(log, "loop");
        create(log, &name).await?;
        let consumer = consumer(log)?;
        assign(&consumer, log, feed)?;
        let mut said = Vec::with_capacity(messages);
        for _ in 0..messages {
            let message = tokio::task::block_in_place(|| next(&consumer))?;
            said.push(Said {
                partition: message.partition(),
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().unwrap_or_default().to_vec(),
                headers: message.headers().map(|h| h.detach()).unwrap_or_default(),
            });
        }
        let mut producer = client(log);
        producer
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.type", "lz4");
        Ok(Self {
            consumer,
            producer: producer.create().map_err(failed)?,
            topic: name,
            said,
        })
    }

    /// From the first record consumed until the last message is acknowledged.
    pub fn run(&self, log: &KafkaConfig) -> Result<Took, BenchError> {
        assign(&self.consumer, log, &topic(log, "identity"))?;
        next(&self.consumer)?;
        let watch = Watch::start();
        for said in &self.said {
            next(&self.consumer)?;
            let mut record = BaseRecord::to(&self.topic)
                .partition(said.partition)
                .key(&said.key)
                .payload(&said.value)
                .headers(said.headers.clone());
            while let Err((e, again)) = self.producer.send(record) {
                if e.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(failed(e));
                }
                std::thread::sleep(Duration::from_millis(1));
                record = again;
            }
        }
        self.producer.flush(WAIT).map_err(failed)?;
        Ok(watch.stop(self.said.len() as f64))
    }
}

fn assign(consumer: &BaseConsumer, log: &KafkaConfig, topic: &str) -> Result<(), BenchError> {
    let mut list = TopicPartitionList::new();
    for partition in (0..log.partitions).map(i32::from) {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)
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
