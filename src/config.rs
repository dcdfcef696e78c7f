//! Configuration of a node, from the command line, the environment and one TOML file.

pub mod kafka;
pub mod options;
pub mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gatelog_events::domain::session;
use gatelog_events::ids::TenantId;
use secrecy::SecretString;

use crate::auth::keys::SigningAlgorithm;
use crate::auth::policy::Policy;
use crate::auth::pool::PoolConfig;
use crate::auth::throttle::Limits;
use crate::cluster::ClusterConfig;
use crate::feeds::webhook::WebhookConfig;
use crate::spool::SpoolConfig;

/// Longer than proxies keep a connection that nobody uses (60 s with many), so that none sends on one that is being closed.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(75);

/// Everything a node can be told. Made once at start, then read only.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// `iss` of tokens: the URL under which clients reach this node.
    pub issuer: String,
    pub audience: String,
    pub partitions: u16,
    pub tenant: TenantId,
    /// An API key with all scopes.
    pub bootstrap_api_key: Option<SecretString>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// How records of feeds are posted.
    pub webhooks: WebhookConfig,
    pub access_token_lifetime: Duration,
    pub signing_algorithm: SigningAlgorithm,
    pub session: session::Policy,
    pub password_policy: Policy,
    pub pool: PoolConfig,
    pub account_limits: Limits,
    pub network_limits: Limits,
    /// Commands that may wait for the writer.
    pub queue: usize,
    /// How long the head of a request may take to come, and a connection may be idle.
    pub header_timeout: Duration,
    /// Longest wait for `Gatelog-Min-Position`.
    pub min_position_wait: Duration,
    /// A projection further behind than this makes `/readyz` say no, in records.
    pub max_lag: u64,
    pub max_body_bytes: usize,
    pub cache_bytes: usize,
    /// Memory for rows that are not yet on disk; a restart folds at most that much again.
    pub memtable_bytes: usize,
    /// How long after an erasure its last bytes may stay on disk.
    pub compaction_delay: Duration,
    /// Where the log is in Kafka; it is in the data folder otherwise.
    pub kafka: Option<kafka::Kafka>,
    /// Where logins are kept while the log is away; they are refused without it.
    pub spool: Option<SpoolConfig>,
    /// How this node works with others; none where it has no secret for that.
    pub cluster: Option<ClusterConfig>,
}

impl Config {
    /// How long the log keeps at least of what people and receivers did; all of it for ever if none.
    pub fn activity_retention(&self) -> Option<Duration> {
        self.kafka.as_ref().map(|kafka| kafka.log.activity_retention)
    }
}

/// Why there is no configuration. Names the option and what to do; never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file {path} cannot be read: {error}", path = .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("the configuration file {path}, {place}: {what}", path = .path.display())]
    File {
        path: PathBuf,
        place: String,
        what: String,
    },
    #[error("the environment variable {variable}: {what}")]
    Environment { variable: &'static str, what: String },
    #[error("{option} is {is}, but it must be {must}")]
    Bounds {
        option: &'static str,
        is: String,
        must: String,
    },
    #[error(transparent)]
    PrivateFile(#[from] crate::auth::private_file::PrivateFileError),
    #[error(
        "set either bootstrap_api_key or bootstrap_api_key_file in the environment or in the file, not both"
    )]
    TwoBootstrapKeys,
    #[error("set either cluster_secret or cluster_secret_file in the environment or in the file, not both")]
    TwoClusterSecrets,
    #[error("{option}: {error}")]
    ClusterSecret {
        option: &'static str,
        error: crate::cluster::auth::InvalidClusterSecret,
    },
    #[error(
        "node_advertise is set, but there is no cluster secret, so other nodes cannot know whom to trust. Put the \
         same 32 random bytes, in hexadecimal, into a private file on each node and name it with --cluster-secret-file"
    )]
    NoClusterSecret,
    #[error(
        "listen is {listen}, which other machines can reach without encryption. Put a proxy that speaks HTTPS in \
         front and name it with --trusted-proxies, or accept the risk with --allow-plain-http"
    )]
    PlainHttp { listen: SocketAddr },
}
