//! How Gatelog speaks to Kafka: addresses, topics, security and times, and what librdkafka is told of them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use zeroize::Zeroizing;

/// Room for a batch's and a record's own fields and headers beside the value, in bytes.
pub(super) const OVERHEAD: usize = 64 << 10;
/// Largest value that may be configured, in bytes: what fits into one fetch of every client.
const LARGEST_RECORD: usize = 64 << 20;

/// A password. Shows nothing of itself, and is overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How a client proves who it is (SASL, RFC 4422).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// RFC 4616: the password crosses the connection. Only over TLS.
    Plain,
    /// RFC 7677.
    ScramSha256,
    /// As `ScramSha256`, with SHA-512.
    ScramSha512,
}

impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// User and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub user: String,
    pub password: Secret,
}

/// How the connection is protected. The variants are Kafka's `security.protocol`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Security {
    /// Neither encrypted nor authenticated.
    #[default]
    Plaintext,
    /// TLS. Without `ca` (a PEM file) the system's certificates decide whom to trust.
    Ssl { ca: Option<PathBuf> },
    /// A user, but no encryption.
    SaslPlaintext { sasl: Sasl },
    /// TLS and a user.
    SaslSsl { sasl: Sasl, ca: Option<PathBuf> },
}

/// How records are compressed on the wire and on Kafka's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    None,
    #[default]
    Lz4,
}

/// The log's place in a Kafka cluster and how it behaves there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Brokers to begin with: `host:port`, separated by commas.
    pub bootstrap_servers: String,
    /// What the names of all topics begin with. Two stores in one cluster need different ones.
    pub topic_prefix: String,
    /// Partitions of each topic, from 1. Fixed when the log is created.
    pub partitions: u16,
    /// Whether topics that are missing are created. Who only reads is told that they are missing.
    pub may_create: bool,
    /// Copies of each record, on as many brokers.
    pub replication_factor: u16,
    /// How many copies must be there before a record counts as durable (`min.insync.replicas`).
    pub min_insync_replicas: u16,
    /// How long the activity stream is kept. Whole milliseconds.
    pub activity_retention: Duration,
    /// How long after an erasure Kafka may still hold the destroyed key on its disks; see [`Self::segment_age`].
    pub key_compaction_lag: Duration,
    /// How long a key's tombstone itself stays (`delete.retention.ms`).
    pub key_tombstone_retention: Duration,
    /// Largest value of a record in bytes. At most 64 MiB.
    pub max_record_bytes: usize,
    /// Most bytes that wait to be delivered; beyond, appends are answered `Full`.
    pub queue_bytes: usize,
    /// Most bytes of a partition that wait for one reader, at least one record. A slower reader pauses its partition.
    pub read_buffer_bytes: usize,
    pub compression: Compression,
    pub security: Security,
    /// When an append that Kafka has not answered becomes `Unknown`. librdkafka looks once a second.
    pub delivery_timeout: Duration,
    /// How long opening waits for a broker, and for the topics' leaders.
    pub connect_timeout: Duration,
    /// How long a question about offsets or metadata may take.
    pub request_timeout: Duration,
    /// How often brokers are asked for a sign of life, for [`super::Health`].
    pub probe_interval: Duration,
}

impl Default for KafkaConfig {
    /// For a cluster of three brokers or more, without security.
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            bootstrap_servers: "localhost:9092".into(),
            topic_prefix: "gatelog.".into(),
            partitions: 64,
            may_create: true,
            replication_factor: 3,
            min_insync_replicas: 2,
            activity_retention: Duration::from_secs(400 * DAY),
            key_compaction_lag: Duration::from_secs(DAY),
            key_tombstone_retention: Duration::from_secs(7 * DAY),
            max_record_bytes: 1 << 20,
            queue_bytes: 64 << 20,
            read_buffer_bytes: 1 << 20,
            compression: Compression::default(),
            security: Security::default(),
            delivery_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(2),
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("bootstrap_servers is empty: name at least one broker as host:port")]
    NoServers,
    #[error(
        "the topic prefix {0:?} is not one: Kafka takes letters, digits, '.', '_' and '-', in all 249 at most"
    )]
    BadPrefix(String),
    #[error("{what} is {found}, but must be from {least} to {most}")]
    OutOfRange {
        what: &'static str,
        found: u64,
        least: u64,
        most: u64,
    },
    #[error("user or password is empty")]
    NoCredentials,
    #[error("SASL PLAIN would send the password in the clear: use it over TLS, or take SCRAM-SHA-512")]
    PlainWithoutTls,
    #[error("the file of trusted certificates {0} cannot be read: {1}")]
    UnreadableCa(PathBuf, std::io::ErrorKind),
    /// librdkafka refuses a setting. Its value is not shown, as it may be a secret.
    #[error("librdkafka refuses the setting {name}: {why}")]
    Refused { name: String, why: String },
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn within(what: &'static str, found: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&found) {
        Ok(())
    } else {
        Err(ConfigError::OutOfRange {
            what,
            found,
            least,
            most,
        })
    }
}

impl KafkaConfig {
    /// Refuses what cannot work, before anything is connected.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.bootstrap_servers.split(',').all(|s| s.trim().is_empty()) {
            return Err(ConfigError::NoServers);
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !self.topic_prefix.bytes().all(legal) || self.topic_prefix.len() > 249 - "subject-keys".len() {
            return Err(ConfigError::BadPrefix(self.topic_prefix.clone()));
        }
        const YEARS: u64 = 100 * 366 * 24 * 60 * 60 * 1000;
        let replicas = u64::from(self.replication_factor);
        let times = [
            ("activity_retention", self.activity_retention, 60_000, YEARS),
            ("key_compaction_lag", self.key_compaction_lag, 1000, YEARS),
            ("key_tombstone_retention", self.key_tombstone_retention, 1, YEARS),
            ("delivery_timeout", self.delivery_timeout, 100, 900_000),
            ("connect_timeout", self.connect_timeout, 100, 900_000),
            ("request_timeout", self.request_timeout, 100, 900_000),
            ("probe_interval", self.probe_interval, 100, 900_000),
        ];
        for (what, found, least, most) in times {
            within(what, millis(found), least, most)?;
        }
        within("partitions", self.partitions.into(), 1, 4096)?;
        within("replication_factor", replicas, 1, 100)?;
        within(
            "min_insync_replicas",
            self.min_insync_replicas.into(),
            1,
            replicas,
        )?;
        within(
            "max_record_bytes",
            self.max_record_bytes as u64,
            1,
            LARGEST_RECORD as u64,
        )?;
        within(
            "queue_bytes",
            self.queue_bytes as u64,
            (self.max_record_bytes + OVERHEAD) as u64,
            1 << 31,
        )?;
        within("read_buffer_bytes", self.read_buffer_bytes as u64, 1, 1 << 31)?;
        self.check_security()
    }

    fn check_security(&self) -> Result<(), ConfigError> {
        let (sasl, ca, tls) = match &self.security {
            Security::Plaintext => (None, None, false),
            Security::Ssl { ca } => (None, ca.as_ref(), true),
            Security::SaslPlaintext { sasl } => (Some(sasl), None, false),
            Security::SaslSsl { sasl, ca } => (Some(sasl), ca.as_ref(), true),
        };
        if let Some(sasl) = sasl {
            if sasl.user.is_empty() || sasl.password.0.is_empty() {
                return Err(ConfigError::NoCredentials);
            }
            if sasl.mechanism == SaslMechanism::Plain && !tls {
                return Err(ConfigError::PlainWithoutTls);
            }
        }
        if let Some(ca) = ca {
            std::fs::File::open(ca).map_err(|e| ConfigError::UnreadableCa(ca.clone(), e.kind()))?;
        }
        Ok(())
    }

    /// As whom this client connects, if it says who it is.
    pub(super) fn user(&self) -> Option<&str> {
        match &self.security {
            Security::SaslPlaintext { sasl } | Security::SaslSsl { sasl, .. } => Some(&sasl.user),
            Security::Plaintext | Security::Ssl { .. } => None,
        }
    }

    /// What `max.compaction.lag.ms` of the keys' topic must be at most: after that an owner lets Kafka close the
    /// segment, and the other half is for that and for Kafka's cleaner.
    pub fn segment_age(&self) -> Duration {
        self.key_compaction_lag / 2
    }

    /// Bytes that a batch with the largest record may have: what topics must let through.
    pub(super) fn max_message_bytes(&self) -> usize {
        self.max_record_bytes + OVERHEAD
    }

    /// What all clients are told. Quick to notice a broken connection and to come back.
    pub(super) fn client(&self, what: &str) -> ClientConfig {
        // Before librdkafka does it in its own way, by which OpenSSL takes itself down when the process exits, while
        // threads of clients that were dropped may still use it: a node that refuses to start would crash instead.
        openssl_sys::init();
        let mut c = ClientConfig::new();
        c.set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", format!("gatelog-{what}"))
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set(
                "receive.message.max.bytes",
                (100_000_000usize.max(2 * self.max_message_bytes())).to_string(),
            )
            // Lines about single connections are noise while a broker restarts; errors come by callback.
            .set("log.connection.close", "false")
            .set_log_level(RDKafkaLogLevel::Warning);
        let (protocol, sasl, ca) = match &self.security {
            Security::Plaintext => ("plaintext", None, None),
            Security::Ssl { ca } => ("ssl", None, ca.as_ref()),
            Security::SaslPlaintext { sasl } => ("sasl_plaintext", Some(sasl), None),
            Security::SaslSsl { sasl, ca } => ("sasl_ssl", Some(sasl), ca.as_ref()),
        };
        c.set("security.protocol", protocol);
        if let Some(sasl) = sasl {
            c.set("sasl.mechanisms", sasl.mechanism.name())
                .set("sasl.username", &sasl.user)
                .set("sasl.password", sasl.password.0.as_str());
        }
        if let Some(ca) = ca {
            c.set("ssl.ca.location", ca.to_string_lossy());
        }
        c
    }

    /// An idempotent producer whose messages keep their order and end in time, one way or the other.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut c = self.client("producer");
        c.set("enable.idempotence", "true")
            .set("acks", "all")
            .set("max.in.flight.requests.per.connection", "5")
            .set("linger.ms", "0")
            .set("message.timeout.ms", millis(self.delivery_timeout).to_string())
            .set(
                "request.timeout.ms",
                millis(self.delivery_timeout).max(1000).to_string(),
            )
            .set("retry.backoff.ms", "50")
            .set("message.max.bytes", self.max_message_bytes().to_string())
            .set("batch.size", self.max_message_bytes().min(1_000_000).to_string())
            .set("queue.buffering.max.messages", "1000000")
            .set(
                "queue.buffering.max.kbytes",
                self.queue_bytes.div_ceil(1024).to_string(),
            )
            .set(
                "compression.type",
                match self.compression {
                    Compression::None => "none",
                    Compression::Lz4 => "lz4",
                },
            );
        c
    }

    /// A consumer that is told what to read. Its group is only a name: nothing is committed, nobody is joined.
    pub(super) fn consumer(&self, what: &str) -> ClientConfig {
        let mut c = self.client(what);
        c.set("group.id", format!("{}{what}", self.topic_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("check.crcs", "true")
            // No record of ours belongs to a transaction: the end is the high watermark.
            .set("isolation.level", "read_uncommitted")
            .set("fetch.min.bytes", "1")
            .set("fetch.error.backoff.ms", "50")
            .set("fetch.queue.backoff.ms", "10");
        c
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sasl(mechanism: SaslMechanism) -> Sasl {
        Sasl {
            mechanism,
            user: "gatelog".into(),
            password: Secret::new("hunter2"),
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        type Change = fn(&mut KafkaConfig);
        let cases: [(Change, &str); 9] = [
            (|c| c.bootstrap_servers = " , ".into(), "bootstrap_servers"),
            (|c| c.topic_prefix = "my log".into(), "prefix"),
            (|c| c.partitions = 0, "partitions"),
            (|c| c.min_insync_replicas = 4, "min_insync_replicas"),
            (|c| c.max_record_bytes = 65 << 20, "max_record_bytes"),
            (|c| c.queue_bytes = 1000, "queue_bytes"),
            (|c| c.delivery_timeout = Duration::ZERO, "delivery_timeout"),
            (
                |c| {
                    c.security = Security::SaslPlaintext {
                        sasl: sasl(SaslMechanism::Plain),
                    }
                },
                "in the clear",
            ),
            (
                |c| {
                    c.security = Security::Ssl {
                        ca: Some("/no/such.pem".into()),
                    }
                },
                "/no/such.pem",
            ),
        ];
        assert_eq!(KafkaConfig::default().check(), Ok(()));
        for (change, named) in cases {
            let mut config = KafkaConfig::default();
            change(&mut config);
            let refusal = config.check().unwrap_err().to_string();
            assert!(refusal.contains(named), "{refusal}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let config = KafkaConfig {
            security: Security::SaslSsl {
                sasl: sasl(SaslMechanism::ScramSha512),
                ca: None,
            },
            ..Default::default()
        };
        assert_eq!(config.check(), Ok(()));
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.client("x").get("sasl.password"), Some("hunter2"));
    }
}
