//! The log that a node was told to use: in the data folder, or in Kafka.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;

use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::embedded::{EmbeddedLog, EmbeddedOptions};
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog, StoreMark};
use gatelog_events::log::{EventLog, LogError};
use gatelog_events::seal::{KeySourceError, MasterKey};
use gatelog_projections::subject_keys::{CacheOptions, SubjectKeys};
use tokio::runtime::{Handle, Runtime};

use crate::auth::secrets::{Fingerprints, Secrets, SecretsError};
use crate::auth::{private_file, random};
use crate::config::Config;
use crate::node::{Folders, NodeError};

/// See the module.
#[derive(Clone)]
pub enum Backend {
    Embedded(Arc<EmbeddedLog>),
    Kafka(Arc<KafkaLog>),
}

/// What a check of every byte found intact.
#[derive(Debug, Clone, Copy)]
pub struct Intact {
    pub records: u64,
    /// Bytes that were checked here; none of Kafka, which checks its own.
    pub bytes: u64,
}

impl Backend {
    /// Opens the log for writing, or creates it. Blocks.
    pub fn open(config: &Config, folder: &Path) -> Result<Self, LogError> {
        match &config.kafka {
            None => {
                let options = EmbeddedOptions {
                    partitions: config.partitions,
                    ..EmbeddedOptions::default()
                };
                Ok(Self::Embedded(EmbeddedLog::open(folder, options)?))
            }
            Some(kafka) => Self::connect(kafka.log.clone()),
        }
    }

    /// Opens the log for reading, while others may write it. Blocks.
    pub fn open_read_only(config: &Config, folder: &Path) -> Result<Self, LogError> {
        match &config.kafka {
            None => Ok(Self::Embedded(EmbeddedLog::open_read_only(folder)?)),
            Some(kafka) => Self::connect(KafkaConfig {
                may_create: false,
                ..kafka.log.clone()
            }),
        }
    }

    fn connect(kafka: KafkaConfig) -> Result<Self, LogError> {
        let log = runtime()?.block_on(KafkaLog::open(kafka))?;
        Ok(Self::Kafka(log))
    }

    pub fn log(&self) -> Arc<dyn EventLog> {
        match self {
            Self::Embedded(log) => log.clone(),
            Self::Kafka(log) => log.clone(),
        }
    }

    pub fn embedded(&self) -> Option<&Arc<EmbeddedLog>> {
        match self {
            Self::Embedded(log) => Some(log),
            Self::Kafka(_) => None,
        }
    }

    /// Whether secrets may be made where there are none: in a data folder whose log was never written under any.
    pub fn may_have_new_secrets(&self, config: &Config) -> Result<bool, LogError> {
        match self {
            Self::Embedded(_) => Ok(!mark_file(config).exists() && self.records()? == 0),
            // They are compared with those in Kafka.
            Self::Kafka(_) => Ok(true),
        }
    }

    /// How many offsets all partitions have given out.
    fn records(&self) -> Result<u64, LogError> {
        let log = self.log();
        let mut records = 0;
        for stream in Stream::ALL {
            for partition in (0..log.partitions()).map(Partition) {
                records += futures::executor::block_on(log.end(stream, partition))?;
            }
        }
        Ok(records)
    }

    /// What tells this log from every other, so that read models are not served over another one: of Kafka the cluster, the
    /// topics' prefix, and what was drawn when the topics were new. A store's secrets are those of its first node. Blocks.
    pub fn id(&self, config: &Config, secrets: &Secrets) -> Result<String, NodeError> {
        let mine = secrets.fingerprints();
        let (log, kafka) = match (self, &config.kafka) {
            (Self::Embedded(log), _) => {
                let mark = mark_file(config);
                let store = format!("the log of which {} tells", mark.display());
                same_secrets(config, &mine, &first_secrets(&mark, &mine)?, store)?;
                return Ok(log.log_id().to_string());
            }
            (Self::Kafka(log), kafka) => (log, kafka),
        };
        let new = StoreMark {
            id: uuid::Builder::from_random_bytes(random().map_err(SecretsError::from)?).into_uuid(),
            value: serde_json::to_vec(&mine).unwrap_or_default().into(),
        };
        let store = log.subject_keys().store(&new)?;
        let prefix = kafka.as_ref().map_or("", |k| k.log.topic_prefix.as_str());
        let theirs = serde_json::from_slice(&store.value).map_err(|e| LogError::Damaged {
            place: format!("the mark of the store in topic {prefix}subject-keys"),
            what: e.to_string(),
        })?;
        same_secrets(config, &mine, &theirs, format!("the topics {prefix}…"))?;
        let cluster = log.cluster_id().ok_or(LogError::Closed)?;
        Ok(format!("kafka:{cluster}:{prefix}:{}", store.id))
    }

    /// Refuses a log that is still being copied here: whoever wrote to it would go on from an earlier moment. Blocks.
    pub fn check_whole(&self) -> Result<(), NodeError> {
        match self {
            Self::Kafka(log) if log.subject_keys().is_half_copied()? => Err(NodeError::HalfCopied),
            _ => Ok(()),
        }
    }

    /// Whether the log can be asked at present, as far as that is known without asking.
    pub fn is_reachable(&self) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::Kafka(log) => log.health().reachable,
        }
    }

    /// Partitions that take no writes at present, as far as that is known without asking.
    pub fn unwritable_partitions(&self) -> u64 {
        match self {
            Self::Embedded(_) => 0,
            Self::Kafka(log) => log.health().unwritable_partitions,
        }
    }

    /// By how many milliseconds this machine's clock is ahead of Kafka's brokers', at least, as last measured.
    pub fn clock_ahead(&self) -> i64 {
        match self {
            Self::Embedded(_) => 0,
            Self::Kafka(log) => -log.clock_skew(),
        }
    }

    /// Largest value of a record in bytes.
    pub fn max_record_bytes(&self, config: &Config) -> usize {
        match &config.kafka {
            None => EmbeddedOptions::default().max_record_bytes,
            Some(kafka) => kafka.log.max_record_bytes,
        }
    }

    /// The keys of subjects: in `folder` alone, or there as a copy of those that nodes share. Blocks.
    pub fn keys(
        &self,
        config: &Config,
        (folder, log_id): (&Path, &str),
        master: MasterKey,
    ) -> Result<SubjectKeys, KeySourceError> {
        let cache = CacheOptions::default();
        match (self, &config.kafka) {
            (Self::Kafka(log), Some(kafka)) => {
                let topic = (log.subject_keys(), log.partitions());
                SubjectKeys::open_shared(folder, master, cache, topic, (log_id, kafka.log.request_timeout))
            }
            _ => SubjectKeys::open(folder, master, cache),
        }
    }

    /// Checks every byte that was not checked at the start. Blocks.
    pub fn scrub(&self) -> Result<Intact, LogError> {
        match self {
            Self::Embedded(log) => {
                let found = log.scrub()?;
                Ok(Intact {
                    records: found.records,
                    bytes: found.bytes,
                })
            }
            Self::Kafka(_) => Ok(Intact {
                records: self.records()?,
                bytes: 0,
            }),
        }
    }

    /// As [`close`](Self::close), for commands. Blocks.
    pub fn close_now(&self) -> Result<(), LogError> {
        runtime()?.block_on(self.close())
    }

    /// Writes what is queued and ends the log.
    pub async fn close(&self) -> Result<(), LogError> {
        match self {
            Self::Embedded(log) => log.close().await,
            Self::Kafka(log) => {
                log.close().await;
                Ok(())
            }
        }
    }
}

/// The runtime of this thread, or one for commands that have none. Lives as long as the process.
fn runtime() -> Result<Handle, LogError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    if let Ok(handle) = Handle::try_current() {
        return Ok(handle);
    }
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .enable_all()
            .worker_threads(1)
            .build()
            .map_err(|e| e.to_string())
    });
    match made {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(e) => Err(LogError::Io {
            place: "the runtime".to_owned(),
            source: Arc::new(std::io::Error::other(e.clone())),
        }),
    }
}

/// What tells the secrets under which an embedded log is written from others; beside the log, so that its backups have it.
fn mark_file(config: &Config) -> PathBuf {
    Folders::under(&config.data_dir).log.join("secrets-mark")
}

/// What is on record of the secrets; these, where nothing is yet.
fn first_secrets(file: &Path, mine: &Fingerprints) -> Result<Fingerprints, NodeError> {
    let wrong = |what: String| NodeError::Mark {
        place: file.to_owned(),
        what,
    };
    if !file.exists() {
        let text = serde_json::to_vec(mine).map_err(|e| wrong(e.to_string()))?;
        private_file::create(file, &text).map_err(SecretsError::from)?;
    }
    // It is no secret, so it may come from a backup with any mode.
    let text = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))
}

fn same_secrets(
    config: &Config,
    mine: &Fingerprints,
    theirs: &Fingerprints,
    store: String,
) -> Result<(), NodeError> {
    match mine.differences(theirs) {
        differ if differ.is_empty() => Ok(()),
        differ => Err(NodeError::OtherSecrets {
            names: differ.join(", "),
            store,
            folder: Folders::under(&config.data_dir).secrets,
        }),
    }
}
