//! The log of many machines: topics of one Kafka cluster. Needs Kafka 2.3 or what speaks its protocol.
//!
//! | part | what |
//! |---|---|
//! | `<prefix>identity`, `<prefix>activity` | one topic for each [`Stream`]; a record is one message, its header is in [headers], its value untouched |
//! | `<prefix>subject-keys` | compacted, see [`SubjectKeyTopic`] |
//! | [`producer`] | appends: idempotent, `acks=all`, no key, the partition given; one thread hears the answers |
//! | [`fetcher`] | reads: one consumer and thread for all partitions ([lanes]), one more for each further reader of the same partition |
//! | [`bulk`] | [`EventLog::read_to_end`] |
//! | [`query`] | ends of partitions, signs of life |
//! | [`Membership`] | who should append to what, by a consumer group; safety does not rest on it |
//!
//! **What an append's error means.** `Unknown`: Kafka did not answer within the delivery time-out, or with an error; the
//! record may be there, or yet arrive. `Full`: it was not even queued. `Fenced` does not occur: the log's readers decide.
//!
//! **Reading** goes on by itself when Kafka was away. An offset below the partition's beginning is where the activity
//! stream was cut by time, and reading begins at what is left; in the other topics it is `Damaged`, and so is a partition
//! that ends below what was once read or acknowledged here. A batch whose checksum is wrong ends all readers of that
//! consumer, as librdkafka does not say whose it was.

mod bulk;
mod clients;
mod config;
mod errors;
mod feed;
mod fetcher;
mod headers;
mod keys;
mod lane;
mod lanes;
mod marks;
mod membership;
mod monitor;
mod outlet;
mod places;
mod producer;
mod query;
mod rights;
#[cfg(test)]
mod tests;
mod topics;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use rdkafka::message::{BorrowedMessage, Message};
use tokio::runtime::Handle;

pub use self::config::{Compression, ConfigError, KafkaConfig, Sasl, SaslMechanism, Secret, Security};
pub use self::keys::{KeyIter, KeyRecord, SubjectKeyTopic};
pub use self::marks::StoreMark;
pub use self::membership::{Membership, MembershipOptions};
pub use self::monitor::{Counters, Health};
pub use self::outlet::{Outlet, OutletMessage};

use self::bulk::{Bulk, Source, plan};
use self::errors::{bad_config, cluster, damaged, mismatch};
use self::lanes::Lanes;
use self::monitor::Monitor;
use self::places::{Place, Topic, Topics};
use self::producer::{Outgoing, Producer};
use self::query::Query;
use super::{AppendError, Entry, EntryIter, EventLog, Heard, LogError, Record};
use crate::clock;
use crate::ids::{Offset, Partition, Position, Stream};

/// The log in a Kafka cluster. Dropping it closes it, without waiting for that.
pub struct KafkaLog {
    source: Source,
    producer: Arc<Producer>,
    lanes: Arc<Lanes>,
    runtime: Handle,
    /// Ends the thread that asks for signs of life.
    probe: Mutex<Option<mpsc::Sender<()>>>,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("config", &self.source.config)
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Connects, creates the topics that are missing, and checks those that are there.
    ///
    /// Must be called within a tokio runtime, which has to live as long as the log.
    ///
    /// Errors: `Mismatch` where the configuration or a topic's setting is wrong, with the remedy; `Unreachable` where no
    /// broker answers; `Refused` where they do not let this client in, or not do what it must.
    pub async fn open(config: KafkaConfig) -> Result<Arc<Self>, LogError> {
        config.check().map_err(|e| bad_config(&config, &e))?;
        let topics = Arc::new(Topics::new(&config));
        let monitor = Monitor::new(config.probe_interval);
        let query = Arc::new(Query::new(&config, topics.clone(), monitor.clone())?);
        let (asked, timeout) = (query.clone(), config.connect_timeout);
        tokio::task::spawn_blocking(move || asked.connect(timeout))
            .await
            .unwrap_or(Err(LogError::Closed))?;
        topics::ensure(&config, &topics, &query, &monitor).await?;
        let (on, of, by) = (config.clone(), topics.clone(), monitor.clone());
        tokio::task::spawn_blocking(move || rights::check_reading(&on, &of, &by, on.connect_timeout))
            .await
            .unwrap_or(Err(LogError::Closed))?;
        Self::assemble(config, topics, monitor, query)
    }

    /// The log on topics that are as they must be.
    fn assemble(
        config: KafkaConfig,
        topics: Arc<Topics>,
        monitor: Arc<Monitor>,
        query: Arc<Query>,
    ) -> Result<Arc<Self>, LogError> {
        let producer = Producer::start(&config, topics.clone(), monitor.clone())?;
        let lanes = Lanes::start(config.clone(), query.clone(), topics.clone(), monitor.clone())?;
        let probe = start_probe(&config, &query, (&topics, &monitor))?;
        Ok(Arc::new(Self {
            source: Source {
                config,
                query,
                topics,
                monitor,
                closed: Arc::new(AtomicBool::new(false)),
            },
            producer,
            lanes: Arc::new(lanes),
            runtime: Handle::current(),
            probe: Mutex::new(Some(probe)),
        }))
    }

    /// The cluster's identity. Blocks. `None`: it is not known.
    pub fn cluster_id(&self) -> Option<String> {
        self.source.query.cluster_id()
    }

    /// Whether brokers can be reached. Asks nobody.
    pub fn health(&self) -> Health {
        self.source.monitor.health()
    }

    /// Brokers' clock minus this machine's in ms, as the last record of the keys' topic has shown; 0 where they may agree.
    pub fn clock_skew(&self) -> i64 {
        self.source.monitor.skew()
    }

    /// What has happened since the log was opened.
    pub fn counters(&self) -> Counters {
        self.source.monitor.counts.read()
    }

    /// The topic of subject keys.
    pub fn subject_keys(&self) -> SubjectKeyTopic {
        SubjectKeyTopic {
            source: self.source.clone(),
            producer: self.producer.clone(),
            lanes: self.lanes.clone(),
        }
    }

    /// A compacted topic that outsiders read, which is created if it is missing.
    pub async fn outlet(&self, name: &str) -> Result<Outlet, LogError> {
        Outlet::open(&self.source.config, name, &self.source.monitor).await
    }

    /// Joins the group of writers, in which the identity topic's partitions are shared out.
    pub fn join(&self, options: &MembershipOptions) -> Result<Membership, LogError> {
        Membership::join(
            &self.source.config,
            options,
            &self.source.topics,
            &self.source.query,
            &self.source.monitor,
        )
    }

    /// Delivers what is queued and ends the log; at the latest after the delivery time-out. Readers then get what is
    /// durable, and `Closed`. May be called again.
    pub async fn close(&self) {
        self.shut();
        self.producer.close().await;
        self.lanes.close();
    }

    fn shut(&self) {
        self.source.closed.store(true, Relaxed);
        self.probe.lock().take();
        self.producer.shut();
    }

    fn slot(&self, stream: Stream, partition: Partition) -> Option<usize> {
        let topic = Topic::Stream(stream);
        self.source.topics.slot(Place { topic, partition })
    }

    fn no_such_partition(&self, stream: Stream, partition: Partition) -> LogError {
        let n = self.source.topics.partitions();
        mismatch(
            cluster(&self.source.config),
            format!("it has {n} partitions, none for {stream}:{partition}"),
        )
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.shut();
        self.lanes.close();
    }
}

/// How often it is read anew, while partitions take no writes, how many copies must be in sync.
const COPIES: Duration = Duration::from_secs(10);

/// The thread that asks for signs of life, until its sender is dropped.
fn start_probe(
    config: &KafkaConfig,
    query: &Arc<Query>,
    (topics, monitor): (&Arc<Topics>, &Arc<Monitor>),
) -> Result<mpsc::Sender<()>, LogError> {
    let (stop, stopped) = mpsc::channel::<()>();
    let (query, interval, config) = (query.clone(), config.probe_interval, config.clone());
    let (topics, monitor) = (topics.clone(), monitor.clone());
    thread::Builder::new()
        .name("kafka-probe".into())
        .spawn(move || {
            let mut read = clock::monotonic();
            while stopped.recv_timeout(interval) == Err(mpsc::RecvTimeoutError::Timeout) {
                query.probe(interval);
                if monitor.health().unwritable_partitions > 0 && read.elapsed() >= COPIES {
                    topics::read_copies(&config, &topics, &monitor);
                    read = clock::monotonic();
                }
            }
        })
        .map_err(|e| LogError::Io {
            place: "the thread that watches Kafka".into(),
            source: Arc::new(e),
        })?;
    Ok(stop)
}

/// An entry of the log of a message.
fn decode(topics: &Topics, slot: usize, message: &BorrowedMessage<'_>) -> Result<Entry, LogError> {
    let offset = u64::try_from(message.offset()).unwrap_or(0);
    let bad = |what: String| damaged(topics.describe(slot, offset), what);
    let Topic::Stream(stream) = topics.place(slot).topic else {
        return Err(bad("it is not of an event stream".into()));
    };
    // rdkafka panics where a header's name is not UTF-8.
    let header = catch_unwind(AssertUnwindSafe(|| headers::decode(message.headers())))
        .unwrap_or_else(|_| Err("its headers cannot be read".into()))
        .map_err(|what| bad(format!("the record is not one of this log: {what}")))?;
    Ok(Entry {
        position: Position {
            stream,
            partition: topics.place(slot).partition,
            offset,
        },
        record: Record {
            header,
            value: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
        },
    })
}

impl EventLog for KafkaLog {
    fn partitions(&self) -> u16 {
        self.source.topics.partitions()
    }

    /// A partition that the log does not have is answered `Closed`: nothing will ever be written there.
    fn append(
        &self,
        stream: Stream,
        partition: Partition,
        record: Record,
    ) -> BoxFuture<'static, Result<Position, AppendError>> {
        let Some(slot) = self.slot(stream, partition) else {
            return future::ready(Err(AppendError::Closed)).boxed();
        };
        let sent = self.producer.send(Outgoing {
            slot,
            key: None,
            value: Some(&record.value),
            headers: Some(headers::encode(&record.header)),
        });
        sent.map(move |answer| {
            answer.map(|offset| Position {
                stream,
                partition,
                offset,
            })
        })
        .boxed()
    }

    /// Fetching begins with the call. A value has memory of its own.
    fn read(
        &self,
        stream: Stream,
        partition: Partition,
        from: Offset,
    ) -> BoxStream<'static, Result<Entry, LogError>> {
        match self.slot(stream, partition) {
            Some(slot) => self.lanes.read(slot, from, decode),
            None => stream::iter([Err(self.no_such_partition(stream, partition))]).boxed(),
        }
    }

    /// Stream by stream. A position above the end is `Damaged`: something below it was once read. Gives up with
    /// `Io` (`TimedOut`) where Kafka is away for half a minute.
    fn read_to_end(&self, from: &[Position]) -> Result<EntryIter, LogError> {
        for p in from {
            if self.slot(p.stream, p.partition).is_none() {
                return Err(self.no_such_partition(p.stream, p.partition));
            }
        }
        if self.source.closed.load(Relaxed) {
            return Err(LogError::Closed);
        }
        let mut bulks = Vec::new();
        for stream in Stream::ALL {
            let first = |partition| {
                let named = from
                    .iter()
                    .find(|p| (p.stream, p.partition) == (stream, partition));
                named.map_or(0, |p| p.offset)
            };
            let places: Vec<_> = (0..self.partitions())
                .map(Partition)
                .filter_map(|p| Some((self.slot(stream, p)?, first(p))))
                // Nobody wants anything of these.
                .filter(|(_, from)| *from != Offset::MAX)
                .collect();
            let rest = plan(&self.source, Topic::Stream(stream), &places)?;
            bulks.push(Bulk::new(self.source.clone(), rest, decode));
        }
        let mut failed = false;
        let until_error =
            move |item: &Result<Entry, LogError>| !std::mem::replace(&mut failed, item.is_err());
        Ok(Box::new(bulks.into_iter().flatten().take_while(until_error)))
    }

    fn is_writable(&self, stream: Stream, partition: Partition) -> bool {
        let slot = self.slot(stream, partition);
        slot.is_some_and(|slot| self.source.topics.is_writable(slot))
    }

    fn heard_end(&self, stream: Stream, partition: Partition) -> Option<Heard> {
        self.source.topics.heard_end(self.slot(stream, partition)?)
    }

    fn end(&self, stream: Stream, partition: Partition) -> BoxFuture<'static, Result<Offset, LogError>> {
        let ends = self.ends(&[(stream, partition)]);
        async move { ends.await?.first().copied().ok_or(LogError::Closed) }.boxed()
    }

    /// One question, which holds one thread, however many partitions there are.
    fn ends(&self, places: &[(Stream, Partition)]) -> BoxFuture<'static, Result<Vec<Offset>, LogError>> {
        let slot = |(stream, partition): &(Stream, Partition)| {
            let slot = self.slot(*stream, *partition);
            slot.ok_or_else(|| self.no_such_partition(*stream, *partition))
        };
        let slots = match places.iter().map(slot).collect::<Result<Vec<usize>, LogError>>() {
            Ok(slots) => slots,
            Err(e) => return future::ready(Err(e)).boxed(),
        };
        if self.source.closed.load(Relaxed) {
            return future::ready(Err(LogError::Closed)).boxed();
        }
        let (query, timeout) = (self.source.query.clone(), self.source.config.request_timeout);
        // On the runtime of the opening, so that any thread may wait for it.
        let runtime = self.runtime.clone();
        async move {
            let asked = runtime.spawn_blocking(move || query.ends(&slots, timeout)).await;
            asked.unwrap_or(Err(LogError::Closed))
        }
        .boxed()
    }
}
