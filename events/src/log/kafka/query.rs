//! Questions to the cluster: does it answer, where do partitions begin and end. All of them block.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use super::clients::replaced;
use super::config::KafkaConfig;
use super::errors::{cluster, damaged, io_error, kind, no_client, refuses, text};
use super::monitor::{Context, Monitor};
use super::places::{Place, Topic, Topics};
use crate::clock;
use crate::ids::{Offset, Partition};
use crate::log::LogError;

/// Time between two tries of a question.
const PAUSE: Duration = Duration::from_millis(50);
/// How long one question about offsets may take before it is asked again.
const ANSWER: Duration = Duration::from_secs(1);
/// Longest single try while a connection is being made, so that what went wrong is noticed.
const TRY: Duration = Duration::from_millis(500);

/// How long a client may get no answer before another takes its place.
const PATIENCE: Duration = Duration::from_secs(2);

/// A client that only asks. One that gets no answers is replaced.
pub(super) struct Query {
    client: RwLock<Arc<BaseConsumer<Context>>>,
    config: ClientConfig,
    made: Mutex<Instant>,
    /// When brokers last answered.
    answered: Mutex<Instant>,
    /// Since when nobody has said where partitions begin or end, if somebody was asked.
    unknown: Mutex<Option<Instant>>,
    topics: Arc<Topics>,
    monitor: Arc<Monitor>,
    cluster: String,
    timeout: Duration,
}

/// A question's deadline.
struct Deadline(Instant);

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self(clock::monotonic() + timeout)
    }

    fn left(&self) -> Duration {
        self.0.saturating_duration_since(clock::monotonic())
    }
}

impl Query {
    pub fn new(config: &KafkaConfig, topics: Arc<Topics>, monitor: Arc<Monitor>) -> Result<Self, LogError> {
        let mut settings = config.client("query");
        settings
            .set("allow.auto.create.topics", "false")
            .set("isolation.level", "read_uncommitted");
        let client = settings
            .create_with_context(Context::new(&monitor, "query"))
            .map_err(|e| no_client(config, e))?;
        Ok(Self {
            client: RwLock::new(Arc::new(client)),
            config: settings,
            made: Mutex::new(clock::monotonic()),
            answered: Mutex::new(clock::monotonic()),
            unknown: Mutex::default(),
            topics,
            monitor,
            cluster: cluster(config),
            timeout: config.request_timeout,
        })
    }

    /// Asks the client, and takes what it has to tell to its context.
    fn ask<T>(
        &self,
        question: impl FnOnce(&BaseConsumer<Context>) -> KafkaResult<T>,
    ) -> Result<T, KafkaError> {
        let client = self.client.read().clone();
        let answer = question(&client);
        // A poll that told something looks like one that found nothing.
        for _ in 0..64 {
            let _ = client.poll(Duration::ZERO);
        }
        answer
    }

    fn is_answered(&self) {
        *self.answered.lock() = clock::monotonic();
        self.monitor.contact();
    }

    /// Takes another client, if this one has been asked in vain since a while ago.
    fn renew(&self, since: Instant) {
        let now = clock::monotonic();
        let mut made = self.made.lock();
        let last = since.max(*made);
        if now.saturating_duration_since(last) < PATIENCE {
            return;
        }
        *made = now;
        let new = self
            .config
            .create_with_context(Context::new(&self.monitor, "query"));
        match new {
            Ok(client) => {
                let old = std::mem::replace(&mut *self.client.write(), Arc::new(client));
                replaced(&self.monitor, "query", old);
            }
            Err(e) => tracing::warn!("no new client can be made to ask Kafka: {}", text(&e)),
        }
    }

    /// Waits until a broker answers. Wrong credentials are not waited for.
    pub fn connect(&self, timeout: Duration) -> Result<(), LogError> {
        let deadline = Deadline::after(timeout);
        loop {
            if self.metadata(None, TRY.min(deadline.left())).is_ok() {
                self.monitor.recovered();
                return Ok(());
            }
            let last = self.monitor.last_error();
            let refused = last.as_ref().is_some_and(|(code, _)| refuses(*code));
            if refused || deadline.left().is_zero() {
                let why = last
                    .as_ref()
                    .map_or_else(String::new, |(_, reason)| format!(": {reason}"));
                let kind = match last {
                    Some((code, _)) if refused => kind(code),
                    _ => io::ErrorKind::TimedOut,
                };
                let what = match kind {
                    io::ErrorKind::PermissionDenied => format!(
                        "user or password is wrong{why}. Check kafka_sasl_username, kafka_sasl_password_file and \
                         kafka_sasl_mechanism"
                    ),
                    io::ErrorKind::InvalidData => format!(
                        "no secure connection can be made{why}. Check kafka_security and kafka_ca_file"
                    ),
                    _ => format!(
                        "no broker answers{why}. Check kafka_bootstrap and kafka_security, and whether Kafka is running"
                    ),
                };
                return Err(io_error(&self.cluster, kind, what));
            }
        }
    }

    /// Metadata of one topic, or of all that this client may see.
    pub fn metadata(&self, topic: Option<&str>, timeout: Duration) -> Result<Metadata, LogError> {
        let timeout = timeout.max(Duration::from_millis(1));
        match self.ask(|client| client.fetch_metadata(topic, timeout)) {
            Ok(metadata) => {
                self.is_answered();
                Ok(metadata)
            }
            Err(e) => {
                let answered = *self.answered.lock();
                self.renew(answered);
                let code = e.rdkafka_error_code().unwrap_or(Code::Unknown);
                Err(io_error(&self.cluster, kind(code), text(&e)))
            }
        }
    }

    /// Asks for a sign of life, how the topics' partitions are, and where they end.
    pub fn probe(&self, timeout: Duration) {
        // Whoever stands still while brokers answer does not take the answer for a new one.
        let since = self.topics.elapsed();
        let mut unwritable = 0;
        for topic in Topic::ALL {
            let Ok(metadata) = self.metadata(Some(self.topics.name(topic)), timeout) else {
                // Asked, and nothing was told.
                self.topics.saw_ends(since, []);
                return;
            };
            self.monitor.recovered();
            let copies = self.topics.min_insync(topic);
            for found in metadata.topics() {
                self.topics.has_now(topic, found.partitions().len());
                for p in found.partitions() {
                    let writable = p.leader() >= 0 && p.isr().len() >= copies;
                    unwritable += u64::from(!writable);
                    let partition = u16::try_from(p.id()).ok().map(Partition);
                    let place = partition.map(|partition| Place { topic, partition });
                    if let Some(slot) = place.and_then(|place| self.topics.slot(place)) {
                        self.topics.set_writable(slot, writable);
                    }
                }
            }
        }
        self.monitor.set_unwritable(unwritable);
        // Apart, or nothing would be known of any partition while one has no leader, or one that does not know its end yet.
        let (well, sick): (Vec<_>, Vec<_>) =
            (0..self.topics.slots()).partition(|slot| self.topics.is_writable(*slot));
        let mut told = Vec::with_capacity(well.len() + sick.len());
        if let Ok(ends) = self.bare_ends(&well, timeout) {
            told.extend(well.into_iter().zip(ends));
        }
        if !sick.is_empty()
            && let Ok(ends) = self.try_offsets(&sick, At::End, timeout.min(ANSWER))
        {
            told.extend(sick.into_iter().zip(ends));
        }
        self.topics.saw_ends(since, told);
    }

    /// How many members a consumer group has now, those included that died and were not missed yet.
    pub fn members(&self, group: &str, timeout: Duration) -> Result<usize, LogError> {
        let answer = self.ask(|client| client.fetch_group_list(Some(group), timeout));
        let groups = answer.map_err(|e| {
            let code = e.rdkafka_error_code().unwrap_or(Code::Unknown);
            io_error(&self.cluster, kind(code), text(&e))
        })?;
        let of = groups.groups().iter().filter(|found| found.name() == group);
        Ok(of.map(|found| found.members().len()).sum())
    }

    pub fn cluster_id(&self) -> Option<String> {
        let client = self.client.read().clone();
        client.client().fetch_cluster_id(self.timeout)
    }

    /// Per slot asked for: the offset after the last durable record. Every append acknowledged before lies below.
    ///
    /// A new leader answers only once it knows how far its predecessor had acknowledged (KIP-207). An end below what
    /// was acknowledged or read before is therefore a loss, and `Damaged`.
    pub fn ends(&self, slots: &[usize], timeout: Duration) -> Result<Vec<Offset>, LogError> {
        let known: Vec<_> = slots.iter().map(|slot| self.topics.known_end(*slot)).collect();
        let ends = self.bare_ends(slots, timeout)?;
        for ((slot, known), end) in slots.iter().zip(known).zip(&ends) {
            if *end < known {
                let what =
                    format!("Kafka has lost records: the partition ends here, and had reached {known}");
                return Err(damaged(self.topics.describe(*slot, *end), what));
            }
            self.topics.saw_end(*slot, *end);
        }
        Ok(ends)
    }

    /// As `ends`, but only what Kafka says: below what was known where records are lost.
    pub fn bare_ends(&self, slots: &[usize], timeout: Duration) -> Result<Vec<Offset>, LogError> {
        self.offsets(slots, At::End, timeout)
    }

    /// Per slot asked for: the first offset that is still there.
    pub fn begins(&self, slots: &[usize], timeout: Duration) -> Result<Vec<Offset>, LogError> {
        self.offsets(slots, At::Beginning, timeout)
    }

    fn offsets(&self, slots: &[usize], at: At, timeout: Duration) -> Result<Vec<Offset>, LogError> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Deadline::after(timeout);
        loop {
            // A leader that died does not answer: better asked anew, of who leads now, than waited for.
            let patience = ANSWER.min(deadline.left()).max(Duration::from_millis(1));
            match self.try_offsets(slots, at, patience) {
                Ok(offsets) => {
                    *self.unknown.lock() = None;
                    self.is_answered();
                    return Ok(offsets);
                }
                Err((code, why))
                    if deadline.left().is_zero() || kind(code) == io::ErrorKind::PermissionDenied =>
                {
                    return Err(io_error(&self.cluster, kind(code), why));
                }
                Err(_) => {
                    // Metadata may come, and be of no use.
                    let since = *self.unknown.lock().get_or_insert_with(clock::monotonic);
                    self.renew(since);
                    let _ = self.metadata(None, ANSWER.min(deadline.left()));
                    thread::sleep(PAUSE.min(deadline.left()));
                }
            }
        }
    }

    /// One request to each leader. A time stamp of -1 stands for the end, -2 for the beginning (ListOffsets).
    fn try_offsets(&self, slots: &[usize], at: At, timeout: Duration) -> Result<Vec<Offset>, (Code, String)> {
        let failed = |e: KafkaError| {
            let code = e.rdkafka_error_code().unwrap_or(Code::Unknown);
            (
                code,
                format!("its partitions' offsets are not known: {}", text(&e)),
            )
        };
        let mut list = TopicPartitionList::with_capacity(slots.len());
        for slot in slots {
            let (topic, partition) = self.topics.address(*slot);
            list.add_partition_offset(topic, partition, at).map_err(failed)?;
        }
        let answer = self.ask(|client| client.offsets_for_times(list, timeout));
        let answer = answer.map_err(failed)?;
        slots
            .iter()
            .map(|slot| {
                let (topic, partition) = self.topics.address(*slot);
                let found = answer.find_partition(topic, partition);
                let found = found.ok_or((
                    Code::UnknownPartition,
                    format!("{topic}:{partition} is not there"),
                ))?;
                found.error().map_err(failed)?;
                match found.offset() {
                    At::Offset(offset) => Ok(u64::try_from(offset).unwrap_or(0)),
                    _ => Err((
                        Code::UnknownPartition,
                        format!("no offset is known of {topic}:{partition}"),
                    )),
                }
            })
            .collect()
    }
}
