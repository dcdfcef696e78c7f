//! What all clients of one log notice: whether brokers answer, the last error, and counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::errors::refuses;
use crate::clock::{self, Timestamp};

/// Whether the brokers can be reached, as far as it is known without asking them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// A broker has answered lately: an append, a read, or the regular sign of life.
    pub reachable: bool,
    /// Time since a broker last answered.
    pub since_contact: Duration,
    /// Partitions that take no writes: they have no leader, or fewer copies in sync than `min.insync.replicas`.
    pub unwritable_partitions: u64,
    /// The last error since the last regular sign of life, in librdkafka's words.
    pub last_error: Option<String>,
}

/// What has happened since the log was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Appends handed to the producer.
    pub appends: u64,
    /// Bytes of their values.
    pub append_bytes: u64,
    /// Appends that are durable.
    pub acknowledged: u64,
    /// Appends of which nobody knows.
    pub unknown: u64,
    /// Appends refused because the queue was full.
    pub full: u64,
    /// Producers given up after a fatal error.
    pub producers_replaced: u64,
    /// Other clients that were replaced since they got nowhere, while brokers could be reached or after.
    pub clients_replaced: u64,
    /// Records handed to readers.
    pub records_read: u64,
    /// Times that a partition waited for a slow reader.
    pub pauses: u64,
    /// Times that offsets skipped some. Without transactions Kafka itself leaves no gaps.
    pub offset_gaps: u64,
    /// Times that a reader was set anew because its offset was out of range.
    pub offset_resets: u64,
    /// Consumers that are open for readers at present.
    pub consumers: u64,
    /// Errors that librdkafka reported.
    pub errors: u64,
}

macro_rules! counts {
    ($($name:ident)*) => {
        #[derive(Default)]
        pub(super) struct Counts { $(pub $name: AtomicU64,)* }
        impl Counts {
            pub fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}
counts!(appends append_bytes acknowledged unknown full producers_replaced clients_replaced records_read pauses offset_gaps offset_resets consumers errors);

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Shared by all clients of one log.
pub(super) struct Monitor {
    begun: Instant,
    /// Milliseconds from `begun` to the last answer of a broker.
    contact: AtomicU64,
    /// How old the last answer may be.
    patience: Duration,
    last_error: Mutex<Option<(RDKafkaErrorCode, String)>>,
    unwritable: AtomicU64,
    /// Brokers' clock minus this machine's in ms, as far as it is certain.
    skew: AtomicI64,
    /// The brokers take nothing from this client, as it has no right to write.
    refused: AtomicBool,
    pub counts: Counts,
}

impl Monitor {
    pub fn new(probe_interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            begun: clock::monotonic(),
            contact: AtomicU64::new(0),
            // A probe may take as long as the time between two.
            patience: probe_interval * 2 + Duration::from_secs(1),
            last_error: Mutex::new(None),
            unwritable: AtomicU64::new(0),
            skew: AtomicI64::new(0),
            refused: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    fn elapsed(&self) -> u64 {
        let since = clock::monotonic().saturating_duration_since(self.begun);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// A broker has answered.
    pub fn contact(&self) {
        self.contact.store(self.elapsed(), Relaxed);
    }

    /// As `contact`, where brokers were silent: errors before are over.
    pub fn recovered(&self) {
        self.contact();
        *self.last_error.lock() = None;
    }

    /// Keeps what says most: not that all brokers are down where it is known why.
    pub fn error(&self, code: RDKafkaErrorCode, reason: &str) {
        count(&self.counts.errors);
        let mut last = self.last_error.lock();
        let keep = last.as_ref().is_some_and(|(before, _)| {
            code == RDKafkaErrorCode::AllBrokersDown || refuses(*before) && !refuses(code)
        });
        if !keep {
            *last = Some((code, reason.to_owned()));
        }
    }

    /// How many partitions take no writes at present.
    pub fn set_unwritable(&self, partitions: u64) {
        let before = self.unwritable.swap(partitions, Relaxed);
        if partitions > 0 && before != partitions {
            tracing::error!(
                partitions,
                "partitions have no leader, or fewer copies in sync than min.insync.replicas: writes to them are answered with \
                 503 until enough brokers are back, and reads go on"
            );
        } else if partitions == 0 && before > 0 {
            tracing::info!("all partitions have enough copies in sync again");
        }
    }

    /// A record was sent and acknowledged at these moments of this machine's clock, and taken at that of a broker's.
    pub fn measured(&self, sent: Timestamp, taken: Timestamp, acknowledged: Timestamp) {
        self.skew.store(skew(sent, taken, acknowledged), Relaxed);
    }

    /// Brokers' clock minus this machine's in ms, as last measured; 0 where they may agree.
    pub fn skew(&self) -> i64 {
        self.skew.load(Relaxed)
    }

    /// Whether the brokers refuse this client's producer altogether.
    pub fn set_refused(&self, refused: bool) {
        self.refused.store(refused, Relaxed);
    }

    pub fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    pub fn last_error(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last_error.lock().clone()
    }

    /// Whether a producer gets nowhere: a message ran out of time, and meanwhile brokers have answered others. Where
    /// partitions take no writes, another producer would get no further.
    pub fn is_stuck(&self, error: &KafkaError, waited: Duration) -> bool {
        let late = error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut);
        let health = self.health();
        late && health.since_contact < waited && health.unwritable_partitions == 0
    }

    pub fn health(&self) -> Health {
        let since = self.elapsed().saturating_sub(self.contact.load(Relaxed));
        let since_contact = Duration::from_millis(since);
        Health {
            reachable: since_contact <= self.patience,
            since_contact,
            unwritable_partitions: self.unwritable.load(Relaxed),
            last_error: self.last_error().map(|(_, reason)| reason),
        }
    }
}

/// How far two clocks are apart at least: the other showed `taken` at some moment between `sent` and `acknowledged`.
fn skew(sent: Timestamp, taken: Timestamp, acknowledged: Timestamp) -> i64 {
    let taken = taken.millis();
    if taken > acknowledged.millis() {
        taken - acknowledged.millis()
    } else if taken < sent.millis() {
        taken - sent.millis()
    } else {
        0
    }
}

/// What one client reports to the monitor.
#[derive(Clone)]
pub(super) struct Context {
    pub monitor: Arc<Monitor>,
    /// What the client is for.
    pub what: &'static str,
    /// The reason that came with the client's last error: consumers' errors do not carry theirs.
    pub reason: Arc<Mutex<String>>,
}

impl Context {
    pub fn new(monitor: &Arc<Monitor>, what: &'static str) -> Self {
        Self {
            monitor: monitor.clone(),
            what,
            reason: Arc::default(),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.what;
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(client, facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                tracing::warn!(client, facility, "librdkafka: {message}");
            }
            _ => tracing::debug!(client, facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        tracing::debug!(client = self.what, ?code, "librdkafka: {reason}");
        reason.clone_into(&mut self.reason.lock());
        self.monitor.error(code, reason);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_by_what_is_certain() {
        let at = Timestamp::from_millis;
        for (sent, taken, acknowledged, expected) in [
            (100, 150, 200, 0),
            (100, 100, 100, 0),
            (100, 260, 200, 60),
            (100, 40, 200, -60),
        ] {
            assert_eq!(skew(at(sent), at(taken), at(acknowledged)), expected);
        }
    }
}
