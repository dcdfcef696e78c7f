//! Options of a log in Kafka, checked and put together.

use std::path::PathBuf;

use gatelog_events::log::kafka::{KafkaConfig, MembershipOptions, Sasl, Secret, Security};

use super::ConfigError;
use super::options::{Effective, within};
use super::values::{KafkaSecurity, LogAway, LogKind, Size, Span};
use crate::auth::private_file;
use crate::spool::SpoolConfig;

/// The log in Kafka, and the group of nodes that write it.
#[derive(Debug, Clone)]
pub struct Kafka {
    pub log: KafkaConfig,
    pub membership: MembershipOptions,
}

/// What the options say of Kafka, if the log is there.
pub(super) fn kafka(options: &Effective) -> Result<Option<Kafka>, ConfigError> {
    if options.log == LogKind::Embedded {
        return Ok(None);
    }
    let (least, most) = (Span::seconds(1), Span::seconds(60));
    within(
        "kafka_delivery_timeout",
        options.kafka_delivery_timeout,
        least,
        most,
    )?;
    let most = Span::seconds(300);
    within(
        "kafka_session_timeout",
        options.kafka_session_timeout,
        least,
        most,
    )?;
    if options.kafka_activity_retention < options.session_lifetime {
        return Err(ConfigError::Bounds {
            option: "kafka_activity_retention",
            is: options.kafka_activity_retention.to_string(),
            must: format!("at least session_lifetime, {}", options.session_lifetime),
        });
    }
    if !(1..=options.kafka_replication).contains(&options.kafka_min_insync) {
        return Err(ConfigError::Bounds {
            option: "kafka_min_insync",
            is: options.kafka_min_insync.to_string(),
            must: format!("from 1 to kafka_replication, {}", options.kafka_replication),
        });
    }
    if options.kafka_key_compaction_lag < Span::seconds(1) {
        return Err(ConfigError::Bounds {
            option: "kafka_key_compaction_lag",
            is: options.kafka_key_compaction_lag.to_string(),
            must: "at least 1s".to_owned(),
        });
    }
    let log = KafkaConfig {
        bootstrap_servers: options.kafka_bootstrap.clone(),
        topic_prefix: options.kafka_topic_prefix.clone(),
        partitions: options.partitions,
        replication_factor: options.kafka_replication,
        min_insync_replicas: options.kafka_min_insync,
        activity_retention: options.kafka_activity_retention.0,
        key_compaction_lag: options.kafka_key_compaction_lag.0,
        security: security(options)?,
        delivery_timeout: options.kafka_delivery_timeout.0,
        ..KafkaConfig::default()
    };
    let membership = MembershipOptions {
        // Stores of other prefixes in the same cluster are other groups.
        group: match options.kafka_topic_prefix.as_str() {
            "gatelog." => MembershipOptions::default().group,
            prefix => format!("{prefix}writers"),
        },
        session_timeout: options.kafka_session_timeout.0,
    };
    Ok(Some(Kafka { log, membership }))
}

/// Where logins are kept while Kafka is away, if they are to be.
pub(super) fn spool(options: &Effective) -> Result<Option<SpoolConfig>, ConfigError> {
    within(
        "spool_max_bytes",
        options.spool_max_bytes,
        Size(4 << 10),
        Size(1 << 30),
    )?;
    match (options.login_when_log_away, options.log) {
        (LogAway::Refuse, _) => Ok(None),
        (LogAway::Spool, LogKind::Kafka) => Ok(Some(SpoolConfig {
            max_bytes: options.spool_max_bytes.0 as u64,
        })),
        (LogAway::Spool, LogKind::Embedded) => Err(ConfigError::Bounds {
            option: "login_when_log_away",
            is: "spool".to_owned(),
            must: "refuse with an embedded log, which is never away; set log to kafka, or leave it out"
                .to_owned(),
        }),
    }
}

fn security(options: &Effective) -> Result<Security, ConfigError> {
    let ca = given(&options.kafka_ca_file);
    Ok(match options.kafka_security {
        KafkaSecurity::Plaintext => Security::Plaintext,
        KafkaSecurity::Ssl => Security::Ssl { ca },
        KafkaSecurity::SaslPlaintext => Security::SaslPlaintext { sasl: sasl(options)? },
        KafkaSecurity::SaslSsl => Security::SaslSsl {
            sasl: sasl(options)?,
            ca,
        },
    })
}

fn sasl(options: &Effective) -> Result<Sasl, ConfigError> {
    let missing = |option, must: &str| ConfigError::Bounds {
        option,
        is: "missing".to_owned(),
        must: format!("{must}, because kafka_security asks for a user"),
    };
    if options.kafka_sasl_username.is_empty() {
        return Err(missing("kafka_sasl_username", "a name"));
    }
    let Some(file) = given(&options.kafka_sasl_password_file) else {
        return Err(missing("kafka_sasl_password_file", "a private file"));
    };
    let bytes = private_file::read(&file)?;
    let password = std::str::from_utf8(&bytes)
        .unwrap_or_default()
        .trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(missing(
            "kafka_sasl_password_file",
            "a file that holds a password",
        ));
    }
    Ok(Sasl {
        mechanism: options.kafka_sasl_mechanism.into(),
        user: options.kafka_sasl_username.clone(),
        password: Secret::new(password),
    })
}

/// A path, unless it is left empty.
fn given(path: &std::path::Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}
