//! Every option once: its flag, its environment variable, its key in the file, its default and its bounds.
//!
//! A flag comes before the environment, the environment before the file, the file before the default.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatelog_events::domain::session;
use gatelog_events::ids::TenantId;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::values::{
    Addresses, Advertise, Hidden, KafkaMechanism, KafkaSecurity, LogAway, LogKind, Networks, PasswordPolicy,
    Signing, Size, Span,
};
use super::{Config, ConfigError, HEADER_TIMEOUT};
use crate::auth::pool::{Argon2Params, PoolConfig};
use crate::auth::private_file;
use crate::auth::throttle::Limits;
use crate::cluster::{ClusterConfig, ClusterSecret};
use crate::feeds::webhook::WebhookConfig;
use crate::telemetry::{LogFormat, LogLevel};

const BOOTSTRAP_KEY: &str = "GATELOG_BOOTSTRAP_API_KEY";
const CLUSTER_SECRET: &str = "GATELOG_CLUSTER_SECRET";

/// Declares the options. A default may use the options above it.
macro_rules! options {
    ($($(#[doc = $doc:literal])+ $name:ident: $ty:ty, $env:literal, [$($arg:tt)*], $default:expr;)+) => {
        /// What one source says; what it does not mention is absent.
        #[derive(Debug, Clone, Default, clap::Args, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[command(next_help_heading = "Options of a node")]
        pub struct Options {
            $($(#[doc = $doc])+
            #[arg(long, env = $env, hide_env_values = true, $($arg)*)]
            pub $name: Option<$ty>,)+
            /// In the file only; in the environment it is `GATELOG_BOOTSTRAP_API_KEY`. A flag would show in `ps`.
            #[arg(skip)]
            pub bootstrap_api_key: Option<Hidden>,
            /// A private file (mode 0600) with an API key that has all scopes
            #[arg(long, env = "GATELOG_BOOTSTRAP_API_KEY_FILE", hide_env_values = true, value_name = "FILE")]
            pub bootstrap_api_key_file: Option<PathBuf>,
            /// In the file only; in the environment it is `GATELOG_CLUSTER_SECRET`. A flag would show in `ps`.
            #[arg(skip)]
            pub cluster_secret: Option<Hidden>,
            /// A private file (mode 0600) with the secret by which the nodes of a cluster know each other
            #[arg(long, env = "GATELOG_CLUSTER_SECRET_FILE", hide_env_values = true, value_name = "FILE")]
            pub cluster_secret_file: Option<PathBuf>,
        }

        /// The options as they hold, without secrets. Written as TOML it is a configuration file.
        #[derive(Debug, Clone, Serialize)]
        pub struct Effective {
            $($(#[doc = $doc])+ pub $name: $ty,)+
        }

        impl Options {
            /// What `self` does not mention is taken from `below`.
            fn or(self, below: Options) -> Options {
                Options {
                    $($name: self.$name.or(below.$name),)+
                    bootstrap_api_key: self.bootstrap_api_key.or(below.bootstrap_api_key),
                    bootstrap_api_key_file: self.bootstrap_api_key_file.or(below.bootstrap_api_key_file),
                    cluster_secret: self.cluster_secret.or(below.cluster_secret),
                    cluster_secret_file: self.cluster_secret_file.or(below.cluster_secret_file),
                }
            }

            /// What nobody mentioned gets its default.
            fn effective(self) -> Effective {
                $(let $name: $ty = self.$name.unwrap_or_else(|| $default);)+
                Effective { $($name,)+ }
            }
        }

        #[cfg(test)]
        const NAMES: &[(&str, &str)] = &[$((stringify!($name), $env),)+];
    };
}

options! {
    /// Address and port to listen on
    listen: SocketAddr, "GATELOG_LISTEN", [value_name = "IP:PORT"], SocketAddr::from(([127, 0, 0, 1], 8080));
    /// Folder of the log, the read models, the keys and the secrets
    data_dir: PathBuf, "GATELOG_DATA_DIR", [value_name = "FOLDER"], PathBuf::from("./data");
    /// URL under which clients reach this node; stands in every token [default: http://localhost:PORT]
    issuer: String, "GATELOG_ISSUER", [value_name = "URL"], format!("http://localhost:{}", listen.port());
    /// Whom access tokens are for [default: the issuer]
    audience: String, "GATELOG_AUDIENCE", [value_name = "NAME"], issuer.clone();
    /// Where the event log is [default: embedded]
    log: LogKind, "GATELOG_LOG", [], LogKind::Embedded;
    /// Partitions of the log; fixed when it is created [default: 8, in Kafka 64]
    partitions: u16, "GATELOG_PARTITIONS", [value_name = "N"], if log == LogKind::Kafka { 64 } else { 8 };
    /// Kafka's brokers to begin with [default: localhost:9092]
    kafka_bootstrap: String, "GATELOG_KAFKA_BOOTSTRAP", [value_name = "HOST:PORT,…"], "localhost:9092".to_owned();
    /// What the names of all topics in Kafka begin with [default: gatelog.]
    kafka_topic_prefix: String, "GATELOG_KAFKA_TOPIC_PREFIX", [value_name = "NAME"], "gatelog.".to_owned();
    /// Copies of each record in Kafka [default: 3]
    kafka_replication: u16, "GATELOG_KAFKA_REPLICATION", [value_name = "N"], 3;
    /// Copies that must be there before a record counts as durable [default: 2, or the only one]
    kafka_min_insync: u16, "GATELOG_KAFKA_MIN_INSYNC", [value_name = "N"], kafka_replication.min(2);
    /// How connections to Kafka are protected [default: plaintext]
    kafka_security: KafkaSecurity, "GATELOG_KAFKA_SECURITY", [], KafkaSecurity::Plaintext;
    /// How a node proves to Kafka who it is [default: scram-sha-512]
    kafka_sasl_mechanism: KafkaMechanism, "GATELOG_KAFKA_SASL_MECHANISM", [], KafkaMechanism::ScramSha512;
    /// The user as whom a node connects to Kafka
    kafka_sasl_username: String, "GATELOG_KAFKA_SASL_USERNAME", [value_name = "NAME"], String::new();
    /// A private file (mode 0600) with that user's password
    kafka_sasl_password_file: PathBuf, "GATELOG_KAFKA_SASL_PASSWORD_FILE", [value_name = "FILE"], PathBuf::new();
    /// Certificates (PEM) that vouch for Kafka's brokers; without it the system's do
    kafka_ca_file: PathBuf, "GATELOG_KAFKA_CA_FILE", [value_name = "FILE"], PathBuf::new();
    /// How long Kafka may take to make a write durable; then it is answered with 503 [default: 5s]
    kafka_delivery_timeout: Span, "GATELOG_KAFKA_DELIVERY_TIMEOUT", [value_name = "TIME"], Span::seconds(5);
    /// How long a node may be silent before others write its partitions [default: 10s]
    kafka_session_timeout: Span, "GATELOG_KAFKA_SESSION_TIMEOUT", [value_name = "TIME"], Span::seconds(10);
    /// How long Kafka keeps the activity stream; never shorter than a session [default: 400d]
    kafka_activity_retention: Span, "GATELOG_KAFKA_ACTIVITY_RETENTION", [value_name = "TIME"], Span::seconds(400 * DAY);
    /// How long after an erasure Kafka may still hold the destroyed key [default: 1d]
    kafka_key_compaction_lag: Span, "GATELOG_KAFKA_KEY_COMPACTION_LAG", [value_name = "TIME"], Span::seconds(DAY);
    /// What becomes of logins while Kafka cannot be reached [default: refuse]
    login_when_log_away: LogAway, "GATELOG_LOGIN_WHEN_LOG_AWAY", [], LogAway::Refuse;
    /// Largest file of logins that wait for Kafka; beyond it they get 503 [default: 64MiB]
    spool_max_bytes: Size, "GATELOG_SPOOL_MAX_BYTES", [value_name = "SIZE"], Size(64 << 20);
    /// Listen beyond this machine without encryption
    allow_plain_http: bool, "GATELOG_ALLOW_PLAIN_HTTP", [num_args = 0..=1, default_missing_value = "true", value_name = "BOOL"], false;
    /// Proxies whose X-Forwarded-For is believed, separated by commas
    trusted_proxies: Addresses, "GATELOG_TRUSTED_PROXIES", [visible_alias = "trusted-proxy", value_name = "IP,…"], Addresses::default();
    /// Networks that are not public and that webhooks may reach all the same, such as 10.0.0.0/8, separated by commas
    webhook_networks: Networks, "GATELOG_WEBHOOK_NETWORKS", [value_name = "CIDR,…"], Networks::default();
    /// Let webhooks go over plain http
    webhook_plain_http: bool, "GATELOG_WEBHOOK_PLAIN_HTTP", [num_args = 0..=1, default_missing_value = "true", value_name = "BOOL"], false;
    /// How long a record is tried to be posted before it is a dead letter [default: 5d]
    webhook_lifetime: Span, "GATELOG_WEBHOOK_LIFETIME", [value_name = "TIME"], Span::seconds(5 * 86_400);
    /// How long an access token is good [default: 15m]
    access_token_lifetime: Span, "GATELOG_ACCESS_TOKEN_LIFETIME", [value_name = "TIME"], Span::seconds(900);
    /// How access tokens are signed [default: eddsa]
    signing_algorithm: Signing, "GATELOG_SIGNING_ALGORITHM", [], Signing::EdDsa;
    /// When a session ends, however often it is refreshed [default: 30d]
    session_lifetime: Span, "GATELOG_SESSION_LIFETIME", [value_name = "TIME"], Span(session::Policy::default().session_lifetime);
    /// When a session ends that is not refreshed [default: 14d]
    session_idle: Span, "GATELOG_SESSION_IDLE", [value_name = "TIME"], Span(session::Policy::default().session_idle);
    /// Wrong passwords in a row before an account is locked [default: 10]
    lock_after: u32, "GATELOG_LOCK_AFTER", [value_name = "N"], session::Policy::default().lock_after;
    /// Length of the first lock; each further failure doubles it [default: 1s]
    lock_base: Span, "GATELOG_LOCK_BASE", [value_name = "TIME"], Span(session::Policy::default().lock_base);
    /// The longest lock [default: 15m]
    lock_max: Span, "GATELOG_LOCK_MAX", [value_name = "TIME"], Span(session::Policy::default().lock_max);
    /// What a new password must fulfil [default: nist-4]
    password_policy: PasswordPolicy, "GATELOG_PASSWORD_POLICY", [], PasswordPolicy::Nist4;
    /// Memory of a new password hash [default: 19MiB]
    argon2_memory: Size, "GATELOG_ARGON2_MEMORY", [value_name = "SIZE"], Size(Argon2Params::default().memory_kib as usize * 1024);
    /// Passes of a new password hash over its memory [default: 2]
    argon2_iterations: u32, "GATELOG_ARGON2_ITERATIONS", [value_name = "N"], Argon2Params::default().iterations;
    /// Lanes of a new password hash [default: 1]
    argon2_lanes: u32, "GATELOG_ARGON2_LANES", [value_name = "N"], Argon2Params::default().lanes;
    /// Threads that hash passwords [default: one per processor]
    hash_threads: usize, "GATELOG_HASH_THREADS", [value_name = "N"], PoolConfig::default().threads;
    /// Longest time that a login may wait for a hashing thread; beyond it gets 503 [default: 2s]
    hash_max_wait: Span, "GATELOG_HASH_MAX_WAIT", [value_name = "TIME"], Span(PoolConfig::default().max_wait);
    /// Failed attempts at one account that cost nothing; then each must wait twice as long [default: 5]
    account_free_attempts: u32, "GATELOG_ACCOUNT_FREE_ATTEMPTS", [value_name = "N"], Limits::ACCOUNT.free;
    /// Longest wait between attempts at one account [default: 15m]
    account_longest_wait: Span, "GATELOG_ACCOUNT_LONGEST_WAIT", [value_name = "TIME"], Span(Limits::ACCOUNT.cap);
    /// Failed attempts and registrations from one network that cost nothing [default: 100]
    network_free_attempts: u32, "GATELOG_NETWORK_FREE_ATTEMPTS", [value_name = "N"], Limits::NETWORK.free;
    /// Longest wait between attempts from one network [default: 15m]
    network_longest_wait: Span, "GATELOG_NETWORK_LONGEST_WAIT", [value_name = "TIME"], Span(Limits::NETWORK.cap);
    /// Time after which one attempt from a network is forgotten [default: 10s]
    network_decay: Span, "GATELOG_NETWORK_DECAY", [value_name = "TIME"], Span(Limits::NETWORK.decay);
    /// Commands that may wait to be written; beyond they get 503 [default: 8192]
    queue: usize, "GATELOG_QUEUE", [value_name = "N"], 8192;
    /// How long the head of a request may take to come, and a connection may wait for one [default: 75s]
    header_timeout: Span, "GATELOG_HEADER_TIMEOUT", [value_name = "TIME"], Span(HEADER_TIMEOUT);
    /// Longest wait of a read for its Gatelog-Min-Position [default: 5s]
    min_position_wait: Span, "GATELOG_MIN_POSITION_WAIT", [value_name = "TIME"], Span::seconds(5);
    /// Records by which a read model may lag before /readyz says no [default: 10000]
    max_lag: u64, "GATELOG_MAX_LAG", [value_name = "N"], 10_000;
    /// Largest body of a request [default: 64KiB]
    max_body_bytes: Size, "GATELOG_MAX_BODY_BYTES", [value_name = "SIZE"], Size(64 << 10);
    /// Memory for what is read often [default: 128MiB]
    cache_bytes: Size, "GATELOG_CACHE_BYTES", [value_name = "SIZE"], Size(128 << 20);
    /// Memory for rows that are not on disk yet; a restart folds at most that much again [default: 96MiB]
    memtable_bytes: Size, "GATELOG_MEMTABLE_BYTES", [value_name = "SIZE"], Size(96 << 20);
    /// How long after an erasure its last bytes may stay on disk [default: 1h]
    compaction_delay: Span, "GATELOG_COMPACTION_DELAY", [value_name = "TIME"], Span::seconds(3600);
    /// URL at which the other nodes of the cluster reach this one, without path [default: they cannot]
    node_advertise: Advertise, "GATELOG_NODE_ADVERTISE", [value_name = "URL"], Advertise::default();
    /// Longest time that a command may take on its way to the node that writes it and back [default: 10s]
    forward_timeout: Span, "GATELOG_FORWARD_TIMEOUT", [value_name = "TIME"], Span::seconds(10);
    /// Longest wait until what another node wrote can be read on this one, before its sender is answered [default: 2s]
    forward_view_wait: Span, "GATELOG_FORWARD_VIEW_WAIT", [value_name = "TIME"], Span::seconds(2);
    /// Form of log lines [default: text]
    log_format: LogFormat, "GATELOG_LOG_FORMAT", [], LogFormat::Text;
    /// What is logged: a level, or directives such as info,gatelog::http=debug [default: info]
    log_level: LogLevel, "GATELOG_LOG_LEVEL", [value_name = "LEVEL"], LogLevel::default();
}

/// Where options come from: flags and environment, and the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Sources {
    /// A TOML file with options: names as the flags, with _ for -
    #[arg(long, env = "GATELOG_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub options: Options,
}

/// The options of a node, checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub effective: Effective,
}

impl Sources {
    /// What the environment says, for commands that have few flags of their own.
    pub fn from_environment() -> Result<Self, clap::Error> {
        use clap::{Args, FromArgMatches};
        let command = Self::augment_args(clap::Command::new("gatelog"));
        Self::from_arg_matches(&command.try_get_matches_from(["gatelog"])?)
    }

    /// Reads the file, puts the sources on top of each other, and checks every bound.
    pub fn load(self, env: impl Fn(&str) -> Option<String>) -> Result<Loaded, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => Options::default(),
        };
        let mut above = self.options;
        above.bootstrap_api_key = hidden(BOOTSTRAP_KEY, &env)?;
        above.cluster_secret = hidden(CLUSTER_SECRET, &env)?;
        // A source that names the key at all overrules those below, whichever way they name it.
        let bootstrap_api_key = match above.bootstrap_key()? {
            Some(key) => Some(key),
            None => file.bootstrap_key()?,
        };
        let cluster_secret = match above.cluster_secret()? {
            Some(secret) => Some(secret),
            None => file.cluster_secret()?,
        };
        let effective = above.or(file).effective();
        let config = effective.check(bootstrap_api_key, cluster_secret)?;
        Ok(Loaded { config, effective })
    }
}

/// A secret from the environment.
fn hidden(
    variable: &'static str,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Hidden>, ConfigError> {
    let text = env(variable).map(zeroize::Zeroizing::new);
    text.map(|text| text.parse())
        .transpose()
        .map_err(|e: super::values::Expected| ConfigError::Environment {
            variable,
            what: e.to_string(),
        })
}

fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    toml::from_str(&text).map_err(|e| ConfigError::File {
        path: path.to_owned(),
        // The line itself is not shown: it may hold a secret.
        place: e.span().map_or("somewhere".to_owned(), |span| {
            format!("line {}", 1 + text[..span.start].matches('\n').count())
        }),
        what: e.message().to_owned(),
    })
}

impl Options {
    fn bootstrap_key(&self) -> Result<Option<SecretString>, ConfigError> {
        match (&self.bootstrap_api_key, &self.bootstrap_api_key_file) {
            (Some(_), Some(_)) => Err(ConfigError::TwoBootstrapKeys),
            (Some(key), None) => Ok(Some(key.0.clone())),
            (None, Some(path)) => read_key(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn cluster_secret(&self) -> Result<Option<ClusterSecret>, ConfigError> {
        let (option, text) = match (&self.cluster_secret, &self.cluster_secret_file) {
            (Some(_), Some(_)) => return Err(ConfigError::TwoClusterSecrets),
            (None, None) => return Ok(None),
            (Some(secret), None) => {
                let text = zeroize::Zeroizing::new(secret.0.expose_secret().as_bytes().to_vec());
                ("cluster_secret", text)
            }
            (None, Some(path)) => ("cluster_secret_file", private_file::read(path)?),
        };
        ClusterSecret::parse(&text)
            .map(Some)
            .map_err(|e| ConfigError::ClusterSecret { option, error: e })
    }
}

/// Reads an API key from a private file.
pub fn read_key(path: &Path) -> Result<SecretString, ConfigError> {
    let bytes = private_file::read(path)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    text.parse::<Hidden>()
        .map(|key| key.0)
        .map_err(|e| ConfigError::Bounds {
            option: "bootstrap_api_key_file",
            is: path.display().to_string(),
            must: format!(
                "a file that holds {}",
                e.to_string().trim_start_matches("expected ")
            ),
        })
}

/// Checks that a value lies between two others, both included.
pub(super) fn within<T: PartialOrd + Display>(
    option: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    if least <= value && value <= most {
        return Ok(());
    }
    Err(ConfigError::Bounds {
        option,
        is: value.to_string(),
        must: format!("from {least} to {most}"),
    })
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

impl Effective {
    fn check(
        &self,
        bootstrap_api_key: Option<SecretString>,
        cluster_secret: Option<ClusterSecret>,
    ) -> Result<Config, ConfigError> {
        self.check_network()?;
        self.check_cluster(cluster_secret.is_some())?;
        self.check_sessions()?;
        self.check_hashing()?;
        self.check_resources()?;
        let mut config = self.config(bootstrap_api_key, cluster_secret);
        config.kafka = super::kafka::kafka(self)?;
        config.spool = super::kafka::spool(self)?;
        Ok(config)
    }

    fn check_cluster(&self, has_secret: bool) -> Result<(), ConfigError> {
        if self.node_advertise.0.is_some() && !has_secret {
            return Err(ConfigError::NoClusterSecret);
        }
        // A request ends after 30 s, and its answer takes a moment too.
        within(
            "forward_timeout",
            self.forward_timeout,
            Span(Duration::from_millis(100)),
            Span::seconds(25),
        )?;
        within(
            "forward_view_wait",
            self.forward_view_wait,
            Span::seconds(0),
            Span::seconds(10),
        )
    }

    fn check_network(&self) -> Result<(), ConfigError> {
        let shielded = self.listen.ip().is_loopback() || !self.trusted_proxies.0.is_empty();
        if !shielded && !self.allow_plain_http {
            return Err(ConfigError::PlainHttp { listen: self.listen });
        }
        let rest = self
            .issuer
            .strip_prefix("https://")
            .or(self.issuer.strip_prefix("http://"));
        let is_url =
            rest.is_some_and(|r| !r.is_empty() && !r.ends_with('/') && !r.contains(['?', '#', ' ', '@']));
        if !is_url {
            return Err(ConfigError::Bounds {
                option: "issuer",
                is: format!("{:?}", self.issuer),
                must: "a URL such as https://login.example.com, without / at its end".to_owned(),
            });
        }
        if self.audience.trim().is_empty() {
            return Err(ConfigError::Bounds {
                option: "audience",
                is: "empty".to_owned(),
                must: "a name; leave it out to use the issuer".to_owned(),
            });
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), ConfigError> {
        let s = Span::seconds;
        within(
            "access_token_lifetime",
            self.access_token_lifetime,
            s(MINUTE),
            s(DAY),
        )?;
        within("session_lifetime", self.session_lifetime, s(MINUTE), s(400 * DAY))?;
        within(
            "session_idle",
            self.session_idle,
            s(MINUTE),
            self.session_lifetime,
        )?;
        // SP 800-63B-4, section 3.2.2: no more than 100 failures in a row.
        within("lock_after", self.lock_after, 1, 100)?;
        within(
            "lock_base",
            self.lock_base,
            Span(Duration::from_millis(1)),
            s(HOUR),
        )?;
        within("lock_max", self.lock_max, self.lock_base, s(DAY))?;
        within("account_free_attempts", self.account_free_attempts, 1, 100)?;
        within("account_longest_wait", self.account_longest_wait, s(1), s(DAY))?;
        within("network_free_attempts", self.network_free_attempts, 1, 1_000_000)?;
        within("network_longest_wait", self.network_longest_wait, s(1), s(DAY))?;
        within(
            "network_decay",
            self.network_decay,
            Span(Duration::from_millis(1)),
            s(DAY),
        )
    }

    fn check_hashing(&self) -> Result<(), ConfigError> {
        within("argon2_memory", self.argon2_memory, Size(7 << 20), Size(1 << 30))?;
        within("argon2_iterations", self.argon2_iterations, 1, 16)?;
        within("argon2_lanes", self.argon2_lanes, 1, 16)?;
        // The weakest of OWASP's equivalent settings is 7 MiB with 5 passes; less memory needs more passes.
        let work = self
            .argon2_memory
            .0
            .saturating_mul(self.argon2_iterations as usize);
        if work < 35 << 20 {
            return Err(ConfigError::Bounds {
                option: "argon2_iterations",
                is: self.argon2_iterations.to_string(),
                must: format!(
                    "at least {} with {} of memory (OWASP's password storage guidance)",
                    (35usize << 20).div_ceil(self.argon2_memory.0),
                    self.argon2_memory
                ),
            });
        }
        within("hash_threads", self.hash_threads, 1, 256)?;
        within(
            "hash_max_wait",
            self.hash_max_wait,
            Span(Duration::from_millis(50)),
            Span::seconds(MINUTE),
        )
    }

    fn check_resources(&self) -> Result<(), ConfigError> {
        within("partitions", self.partitions, 1, 1024)?;
        within("queue", self.queue, 16, 1_000_000)?;
        let second = Span::seconds(1);
        within("header_timeout", self.header_timeout, second, Span::seconds(HOUR))?;
        within(
            "min_position_wait",
            self.min_position_wait,
            Span::seconds(0),
            Span::seconds(MINUTE),
        )?;
        within("max_lag", self.max_lag, 1, u64::MAX)?;
        within(
            "max_body_bytes",
            self.max_body_bytes,
            Size(4 << 10),
            Size(512 << 10),
        )?;
        within("cache_bytes", self.cache_bytes, Size(8 << 20), Size(1 << 40))?;
        within(
            "memtable_bytes",
            self.memtable_bytes,
            Size(8 << 20),
            Size(64 << 30),
        )?;
        within(
            "compaction_delay",
            self.compaction_delay,
            Span::seconds(0),
            Span::seconds(30 * DAY),
        )
    }

    fn config(
        &self,
        bootstrap_api_key: Option<SecretString>,
        cluster_secret: Option<ClusterSecret>,
    ) -> Config {
        Config {
            listen: self.listen,
            data_dir: self.data_dir.clone(),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            partitions: self.partitions,
            tenant: TenantId::default(),
            bootstrap_api_key,
            trusted_proxies: self.trusted_proxies.0.clone(),
            webhooks: WebhookConfig::new(
                self.webhook_plain_http,
                self.webhook_networks.0.clone(),
                self.webhook_lifetime.0,
            ),
            access_token_lifetime: self.access_token_lifetime.0,
            signing_algorithm: self.signing_algorithm.into(),
            session: session::Policy {
                session_lifetime: self.session_lifetime.0,
                session_idle: self.session_idle.0,
                lock_after: self.lock_after,
                lock_base: self.lock_base.0,
                lock_max: self.lock_max.0,
            },
            password_policy: self.password_policy.into(),
            pool: PoolConfig {
                threads: self.hash_threads,
                max_wait: self.hash_max_wait.0,
                params: Argon2Params {
                    memory_kib: (self.argon2_memory.0 / 1024) as u32,
                    iterations: self.argon2_iterations,
                    lanes: self.argon2_lanes,
                },
                ..PoolConfig::default()
            },
            account_limits: Limits {
                free: self.account_free_attempts,
                cap: self.account_longest_wait.0,
                ..Limits::ACCOUNT
            },
            network_limits: Limits {
                free: self.network_free_attempts,
                cap: self.network_longest_wait.0,
                decay: self.network_decay.0,
                ..Limits::NETWORK
            },
            queue: self.queue,
            header_timeout: self.header_timeout.0,
            min_position_wait: self.min_position_wait.0,
            max_lag: self.max_lag,
            max_body_bytes: self.max_body_bytes.0,
            cache_bytes: self.cache_bytes.0,
            memtable_bytes: self.memtable_bytes.0,
            compaction_delay: self.compaction_delay.0,
            kafka: None,
            spool: None,
            cluster: cluster_secret.map(|secret| ClusterConfig {
                secret,
                advertise: self.node_advertise.0.clone(),
                forward_timeout: self.forward_timeout.0,
                view_wait: self.forward_view_wait.0,
            }),
        }
    }
}

impl Loaded {
    /// The options as they hold, as a configuration file. Secrets are only mentioned.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut text = toml::to_string(&self.effective)?;
        let known = self.config.bootstrap_api_key.as_ref();
        text.push_str(match known.map(|k| k.expose_secret().len()) {
            None => "# bootstrap_api_key is not set\n",
            Some(_) => "# bootstrap_api_key is set (not shown)\n",
        });
        text.push_str(match &self.config.cluster {
            None => "# cluster_secret is not set\n",
            Some(_) => "# cluster_secret is set (not shown)\n",
        });
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
