//! A topic that is not part of the log: what outsiders read, one message per subject after compaction.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _, PurgeConfig};

use super::clients::replaced;
use super::config::{KafkaConfig, millis};
use super::errors::{io_error, kind, lacks, no_client, text};
use super::monitor::{Context, Monitor};
use crate::clock;
use crate::ids::Partition;
use crate::log::LogError;

/// How long a message may be on its way at the most, whatever is set: whoever takes over waits for as long.
const LONGEST_WAY: Duration = Duration::from_secs(5);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletMessage {
    pub key: String,
    /// None deletes what the key has.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, String)>,
}

/// See the module. Messages of one partition keep their order.
pub struct Outlet {
    topic: String,
    line: Arc<Line>,
}

/// The producer, and what another is made of.
struct Line {
    producer: RwLock<Arc<FutureProducer<Context>>>,
    settings: ClientConfig,
    monitor: Arc<Monitor>,
}

impl Line {
    fn make(settings: &ClientConfig, monitor: &Arc<Monitor>) -> Result<FutureProducer<Context>, KafkaError> {
        settings.create_with_context(Context::new(monitor, "feed"))
    }

    /// Takes another producer in the place of one whose messages run out of time although brokers answer.
    fn renew(&self, stuck: &Arc<FutureProducer<Context>>) {
        let mut producer = self.producer.write();
        if !Arc::ptr_eq(&producer, stuck) {
            return;
        }
        match Self::make(&self.settings, &self.monitor) {
            Ok(new) => {
                let old = std::mem::replace(&mut *producer, Arc::new(new));
                // What it still has could land behind what the new one sends.
                old.purge(PurgeConfig::default().queue().inflight());
                replaced(&self.monitor, "feed", old);
            }
            Err(e) => tracing::warn!("no new producer can be made for a feed: {}", text(&e)),
        }
    }
}

impl Outlet {
    /// How long after another client has queued its last message it may still come into the topic: what is sent later stands
    /// behind it. Only where a client, a broker or the network
    /// between them stands still as a whole it may take longer.
    // librdkafka looks once a second whose time is over.
    pub const LANDING: Duration = Duration::from_secs(LONGEST_WAY.as_secs() + 1);

    /// The topic has as many partitions and copies as the log's own, and is compacted.
    pub(super) async fn open(
        config: &KafkaConfig,
        name: &str,
        monitor: &Arc<Monitor>,
    ) -> Result<Self, LogError> {
        let topic = format!("{}{name}", config.topic_prefix);
        let admin: AdminClient<Context> = config
            .client("admin")
            .create_with_context(Context::new(monitor, "admin"))
            .map_err(|e| no_client(config, e))?;
        create(config, &admin, &topic).await?;
        Self::on(config, topic, monitor)
    }

    /// To a topic that is there.
    pub(super) fn on(config: &KafkaConfig, topic: String, monitor: &Arc<Monitor>) -> Result<Self, LogError> {
        let way = config.delivery_timeout.min(LONGEST_WAY);
        let mut settings = config.producer();
        settings
            // A feed need not be as quick as a login, and larger batches cost everybody less.
            .set("linger.ms", "5")
            .set("message.timeout.ms", millis(way).to_string())
            .set("request.timeout.ms", millis(way).max(1000).to_string());
        let producer = Line::make(&settings, monitor).map_err(|e| no_client(config, e))?;
        let line = Line {
            producer: RwLock::new(Arc::new(producer)),
            settings,
            monitor: monitor.clone(),
        };
        Ok(Self {
            topic,
            line: Arc::new(line),
        })
    }

    /// Queues a message; the answer says whether Kafka has it. What was not taken may be there all the same.
    pub fn send(
        &self,
        partition: Partition,
        message: &OutletMessage,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let headers = message.headers.iter();
        let headers = headers.fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(value),
            })
        });
        let record = FutureRecord::<String, Vec<u8>> {
            topic: &self.topic,
            partition: Some(i32::from(partition.0)),
            payload: message.value.as_ref(),
            key: Some(&message.key),
            timestamp: None,
            headers: Some(headers),
        };
        let producer = self.line.producer.read().clone();
        let queued = producer.send_result(record);
        let queued = queued.map_err(|(e, _)| e.to_string());
        let (line, sent) = (self.line.clone(), clock::monotonic());
        async move {
            match queued?.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((e, _))) => {
                    if line.monitor.is_stuck(&e, sent.elapsed()) {
                        line.renew(&producer);
                    }
                    Err(e.to_string())
                }
                Err(_) => Err("the producer was closed".to_owned()),
            }
        }
    }
}

async fn create(config: &KafkaConfig, admin: &AdminClient<Context>, topic: &str) -> Result<(), LogError> {
    let copies = config.min_insync_replicas.to_string();
    let bytes = config.max_message_bytes().to_string();
    // What a tombstone deletes shall be gone as soon as a destroyed key.
    let lag = config.segment_age().as_millis().to_string();
    let new = NewTopic::new(
        topic,
        config.partitions.into(),
        TopicReplication::Fixed(config.replication_factor.into()),
    )
    .set("cleanup.policy", "compact")
    .set("max.compaction.lag.ms", &lag)
    .set("min.insync.replicas", &copies)
    .set("max.message.bytes", &bytes);
    let place = || format!("topic {topic} at {}", config.bootstrap_servers);
    let failed = |e: &KafkaError| {
        io_error(
            place(),
            kind(e.rdkafka_error_code().unwrap_or(Code::Unknown)),
            text(e),
        )
    };
    let options = options(config.connect_timeout);
    let answer = admin
        .create_topics([&new], &options)
        .await
        .map_err(|e| failed(&e))?;
    match answer.into_iter().next() {
        Some(Ok(_)) => {
            tracing::info!(topic, partitions = config.partitions, "created");
            Ok(())
        }
        None | Some(Err((_, Code::TopicAlreadyExists))) => Ok(()),
        // Who may not create topics is told so, whether it is there or not.
        Some(Err((_, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed))) => {
            match is_there(config, admin, topic) {
                true => Ok(()),
                false => Err(lacks(config, "Create", &format!("topic {topic}"), "")),
            }
        }
        Some(Err((_, code))) => Err(io_error(
            place(),
            kind(code),
            format!("it cannot be created: {code}"),
        )),
    }
}

/// Blocks, but not for long: the cluster has just answered.
fn is_there(config: &KafkaConfig, admin: &AdminClient<Context>, topic: &str) -> bool {
    let found = admin.inner().fetch_metadata(Some(topic), config.connect_timeout);
    found.is_ok_and(|found| {
        let mut topics = found.topics().iter();
        topics.any(|t| t.name() == topic && t.error().is_none() && !t.partitions().is_empty())
    })
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(timeout))
        .operation_timeout(Some(timeout))
}
