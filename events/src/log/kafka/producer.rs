//! The appending side: one idempotent producer and the thread that hears its answers.
//!
//! librdkafka keeps the order of each partition through retries, and gives every message an end within the delivery
//! time-out. A *fatal* error means that it can keep that promise no longer. Then the producer is replaced: appends are
//! answered `Full` meanwhile, everything outstanding is answered `Unknown`, the old producer is gone with its
//! connections, and only then does the new one begin. What the old one had on the wire may still arrive, which is what
//! `Unknown` says. The same where a message's time was up although brokers answered meanwhile (see [`super::clients`]).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::{self, BoxFuture, FutureExt};
use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use tokio::sync::watch;

use super::config::KafkaConfig;
use super::errors::{grant, no_client, text};
use super::monitor::{Context, Monitor, count};
use super::places::Topics;
use crate::clock::{self, Timestamp};
use crate::ids::Offset;
use crate::log::{AppendError, LogError};

/// Longest wait of the thread before it looks whether the producer is broken or the log closed.
const POLL: Duration = Duration::from_millis(50);
/// How long answers to messages that were purged may take: they are made locally.
const PURGED: Duration = Duration::from_secs(5);
/// Times between tries to make a new producer, and between two producers.
const RETRY: Duration = Duration::from_secs(1);

type Native = BaseProducer<Deliveries>;
type Answer = Result<Offset, AppendError>;

/// Why Kafka takes nothing from this client, if that is it: it will not help to wait.
fn refuses_writing(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed
    )
}

/// One message, as librdkafka carries it for us.
pub(super) struct Pending {
    slot: usize,
    sent: Timestamp,
    done: oneshot::Sender<Answer>,
}

/// Hears what becomes of messages.
struct Deliveries {
    context: Context,
    topics: Arc<Topics>,
    /// This producer will not do any more.
    broken: Arc<AtomicBool>,
    /// As whom the client connects, and how the topics' names begin: for the remedy.
    user: Option<String>,
    prefix: String,
}

impl Deliveries {
    fn may_not_write(&self, topic: &str) -> AppendError {
        let resource = format!("topic {topic}");
        AppendError::Refused(grant(self.user.as_deref(), &self.prefix, "Write", &resource))
    }

    fn failure(&self, slot: usize, error: &KafkaError) -> AppendError {
        let name = self.topics.address(slot).0;
        match error.rdkafka_error_code() {
            Some(code) if refuses_writing(code) => self.may_not_write(name),
            // A user who may write to none of the topics does not even get a producer's identity.
            _ if self.context.monitor.is_refused() => self.may_not_write(name),
            _ => AppendError::Unknown(text(error)),
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            self.broken.store(true, Relaxed);
        }
        self.context.error(error, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        let monitor = &self.context.monitor;
        let answer = match result {
            Ok(message) => match u64::try_from(message.offset()) {
                Ok(offset) => {
                    self.topics.is_durable(pending.slot, offset);
                    monitor.contact();
                    monitor.set_refused(false);
                    if let rdkafka::Timestamp::LogAppendTime(at) = message.timestamp() {
                        monitor.measured(pending.sent, Timestamp::from_millis(at), clock::now());
                    }
                    Ok(offset)
                }
                Err(_) => Err(AppendError::Unknown(
                    "it is written, but Kafka no longer knows where".into(),
                )),
            },
            Err((error, _)) => {
                if monitor.is_stuck(error, clock::now().since(pending.sent)) {
                    self.broken.store(true, Relaxed);
                }
                Err(self.failure(pending.slot, error))
            }
        };
        count(if answer.is_ok() {
            &monitor.counts.acknowledged
        } else {
            &monitor.counts.unknown
        });
        // Nobody may be waiting any more.
        let _ = pending.done.send(answer);
    }
}

/// What appends find.
enum State {
    Open(Arc<Native>),
    /// Between two producers.
    Replacing,
    Closed,
}

/// One message to be sent.
pub(super) struct Outgoing<'a> {
    pub slot: usize,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Option<OwnedHeaders>,
}

/// The producer of one log.
pub(super) struct Producer {
    state: RwLock<State>,
    config: ClientConfig,
    user: Option<String>,
    prefix: String,
    delivery_timeout: Duration,
    max_record_bytes: usize,
    topics: Arc<Topics>,
    monitor: Arc<Monitor>,
    broken: Arc<AtomicBool>,
    closing: AtomicBool,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    /// Makes the producer and starts its thread. Connects in the background.
    pub fn start(
        config: &KafkaConfig,
        topics: Arc<Topics>,
        monitor: Arc<Monitor>,
    ) -> Result<Arc<Self>, LogError> {
        let (tell, ended) = watch::channel(false);
        let producer = Arc::new(Self {
            state: RwLock::new(State::Replacing),
            config: config.producer(),
            user: config.user().map(str::to_owned),
            prefix: config.topic_prefix.clone(),
            delivery_timeout: config.delivery_timeout,
            max_record_bytes: config.max_record_bytes,
            topics,
            monitor,
            broken: Arc::default(),
            closing: AtomicBool::new(false),
            ended,
        });
        let native = Arc::new(producer.make().map_err(|e| no_client(config, e))?);
        *producer.state.write() = State::Open(native.clone());
        let thread = producer.clone();
        thread::Builder::new()
            .name("kafka-producer".into())
            .spawn(move || {
                thread.run(native);
                tell.send_replace(true);
            })
            .map_err(|e| LogError::Io {
                place: "the thread of the Kafka producer".into(),
                source: Arc::new(e),
            })?;
        Ok(producer)
    }

    fn make(&self) -> Result<Native, KafkaError> {
        self.config.create_with_context(Deliveries {
            context: Context::new(&self.monitor, "producer"),
            topics: self.topics.clone(),
            broken: self.broken.clone(),
            user: self.user.clone(),
            prefix: self.prefix.clone(),
        })
    }

    /// Queues one message. The order of calls for a partition is the order of its records.
    pub fn send(&self, out: Outgoing<'_>) -> BoxFuture<'static, Answer> {
        let size = out.value.map_or(0, <[u8]>::len);
        let (done, answer) = oneshot::channel();
        match self.enqueue(out, size, done) {
            Ok(()) => answer
                .map(|answer| {
                    answer.unwrap_or_else(|_| Err(AppendError::Unknown("the producer is gone".into())))
                })
                .boxed(),
            Err(e) => {
                if matches!(e, AppendError::Full(_)) {
                    count(&self.monitor.counts.full);
                }
                future::ready(Err(e)).boxed()
            }
        }
    }

    fn enqueue(
        &self,
        out: Outgoing<'_>,
        size: usize,
        done: oneshot::Sender<Answer>,
    ) -> Result<(), AppendError> {
        let limit = self.max_record_bytes;
        if size > limit {
            return Err(AppendError::TooLarge { size, limit });
        }
        let (topic, partition) = self.topics.address(out.slot);
        // Held while the message is queued, so that none is queued behind a replacement's or the end's back.
        let state = self.state.read();
        let native = match &*state {
            State::Open(native) => native,
            State::Replacing => return Err(AppendError::Full("the producer is being replaced".into())),
            State::Closed => return Err(AppendError::Closed),
        };
        let (slot, sent) = (out.slot, clock::now());
        let mut record =
            BaseRecord::with_opaque_to(topic, Box::new(Pending { slot, sent, done })).partition(partition);
        record.key = out.key;
        record.payload = out.value;
        record.headers = out.headers;
        match native.send(record) {
            Ok(()) => {
                let counts = &self.monitor.counts;
                count(&counts.appends);
                counts.append_bytes.fetch_add(size as u64, Relaxed);
                Ok(())
            }
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(Code::QueueFull) => AppendError::Full("the producer's queue is full".into()),
                Some(Code::MessageSizeTooLarge) => AppendError::TooLarge { size, limit },
                // Not queued, so not written.
                _ => AppendError::Full(text(&error)),
            }),
        }
    }

    /// Appends are refused from now on; what is queued is still delivered. Resolves when that has ended, at the latest
    /// after the delivery time-out. May be called again.
    pub async fn close(&self) {
        self.shut();
        let mut ended = self.ended.clone();
        // The sender's end is an end, too.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// As `close`, without waiting.
    pub fn shut(&self) {
        self.closing.store(true, Relaxed);
        *self.state.write() = State::Closed;
    }

    fn run(&self, mut native: Arc<Native>) {
        let mut made = clock::monotonic();
        loop {
            native.poll(POLL);
            if self.closing.load(Relaxed) {
                return self.finish(&native);
            }
            if !self.broken.load(Relaxed) && native.client().fatal_error().is_none() {
                continue;
            }
            self.give_up(native);
            // A fatal error that comes back at once must not become a storm of connections.
            thread::sleep(RETRY.saturating_sub(clock::monotonic().saturating_duration_since(made)));
            match self.renew() {
                Some(new) => native = new,
                None => return,
            }
            made = clock::monotonic();
        }
    }

    /// Answers everything outstanding and drops the producer.
    fn give_up(&self, native: Arc<Native>) {
        {
            let mut state = self.state.write();
            if matches!(*state, State::Open(_)) {
                *state = State::Replacing;
            }
        }
        let fatal = native.client().fatal_error();
        if let Some((code, _)) = &fatal
            && refuses_writing(*code)
        {
            self.monitor.set_refused(true);
        }
        let reason = fatal.map_or_else(
            || "messages ran out of time although brokers answer".to_owned(),
            |(_, reason)| reason,
        );
        tracing::error!(reason, "the Kafka producer is broken and is replaced");
        count(&self.monitor.counts.producers_replaced);
        Self::purge(&native);
    }

    /// A new producer; `None` once the log is closed.
    fn renew(&self) -> Option<Arc<Native>> {
        self.broken.store(false, Relaxed);
        while !self.closing.load(Relaxed) {
            match self.make() {
                Ok(native) => {
                    let native = Arc::new(native);
                    let mut state = self.state.write();
                    if matches!(*state, State::Replacing) {
                        *state = State::Open(native.clone());
                        return Some(native);
                    }
                    return None;
                }
                Err(e) => tracing::error!("no new Kafka producer can be made: {}", text(&e)),
            }
            thread::sleep(RETRY);
        }
        None
    }

    /// What can no longer be delivered is answered `Unknown`.
    fn purge(native: &Native) {
        native.purge(PurgeConfig::default().queue().inflight());
        let deadline = clock::monotonic() + PURGED;
        while native.in_flight_count() > 0 && clock::monotonic() < deadline {
            native.poll(Duration::from_millis(5));
        }
    }

    fn finish(&self, native: &Native) {
        // Every message ends by itself within its time-out, of which librdkafka takes notice once a second.
        let deadline = clock::monotonic() + self.delivery_timeout + Duration::from_secs(2);
        while native.in_flight_count() > 0 && clock::monotonic() < deadline {
            native.poll(Duration::from_millis(5));
        }
        Self::purge(native);
    }
}
