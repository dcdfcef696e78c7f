//! The data folder of commands that work without a running node.

use std::path::PathBuf;
use std::sync::Arc;

use gatelog_events::directory::Directory;
use gatelog_events::ids::UserId;
use gatelog_events::log::EventLog;
use gatelog_events::seal::{KeySource, MasterKey};
use gatelog_projections::key_snapshot::KeySnapshot;
use gatelog_projections::subject_keys::SubjectKeys;

use super::{Failure, load};
use crate::auth::secrets::Secrets;
use crate::backend::Backend;
use crate::config::Config;
use crate::config::options::{Loaded, Sources};
use crate::config::values::LogKind;
use crate::node::Folders;
use crate::telemetry;

/// Which data folder.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// The data folder [default: ./data]. All other options of a node come from the environment and the file
    #[arg(long, env = "GATELOG_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// A TOML file with options, as for `gatelog serve`
    #[arg(long, env = "GATELOG_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which data folder, and how to say what was found in it.
#[derive(Debug, clap::Args)]
pub struct Printed {
    #[command(flatten)]
    pub data: Args,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// The configuration for this folder, wherever its data is; logging is started.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let mut sources = Sources::from_environment().map_err(Failure::usage)?;
        sources.config = self.config.clone().or(sources.config);
        sources.options.data_dir = self.data_dir.clone().or(sources.options.data_dir);
        // This command listens nowhere.
        sources.options.allow_plain_http = Some(true);
        let loaded = load(sources)?;
        telemetry::start(loaded.effective.log_format, &loaded.effective.log_level);
        Ok(loaded)
    }

    /// The configuration for this folder with another kind of log and so many partitions.
    pub fn load_for(&self, log: LogKind, partitions: u16) -> Result<Config, Failure> {
        let mut sources = Sources::from_environment().map_err(Failure::usage)?;
        sources.config = self.config.clone().or(sources.config);
        sources.options.data_dir = self.data_dir.clone().or(sources.options.data_dir);
        sources.options.allow_plain_http = Some(true);
        sources.options.log = Some(log);
        sources.options.partitions = Some(partitions);
        Ok(load(sources)?.config)
    }

    /// The configuration for a folder that must hold data already, with the partitions that its log has.
    pub fn existing(&self) -> Result<Config, Failure> {
        let mut config = self.load()?.config;
        config.partitions = read_log(&config)?.partitions();
        Ok(config)
    }

    /// The same for the embedded log in the folder, whatever else is set: a shell may say already where the log shall be.
    pub fn existing_embedded(&self) -> Result<Config, Failure> {
        let mut config = self.load()?.config;
        config.kafka = None;
        config.partitions = read_log(&config)?.partitions();
        Ok(config)
    }
}

impl Failure {
    fn usage(e: clap::Error) -> Self {
        Failure::Usage(e.to_string())
    }
}

/// The log of a folder, for reading; another process may use it.
pub fn read_log(config: &Config) -> Result<Arc<dyn EventLog>, Failure> {
    Ok(read_only(config)?.log())
}

/// The same, of a kind that is known.
pub fn read_only(config: &Config) -> Result<Backend, Failure> {
    let log = Folders::under(&config.data_dir).log;
    if config.kafka.is_none() && !log.is_dir() {
        return Err(Failure::Usage(format!(
            "there is no Gatelog data in {}; name the folder with --data-dir",
            config.data_dir.display()
        )));
    }
    Ok(Backend::open_read_only(config, &log)?)
}

/// The node's secrets. What only reads makes none.
pub fn secrets(config: &Config) -> Result<Secrets, Failure> {
    let folder = Folders::under(&config.data_dir).secrets;
    Secrets::open(&folder, false, |name| std::env::var(name).ok()).map_err(Failure::other)
}

/// The keys of subjects as they are now, for reading, while other processes may use them; on Kafka that of
/// the subject `only` alone, if one is named. Blocks.
///
/// Asked for once it is fixed what is read of the log, they hold each key that any of that was sealed under.
pub fn read_keys(
    config: &Config,
    secrets: &Secrets,
    backend: &Backend,
    only: Option<UserId>,
) -> Result<Box<dyn KeySource>, Failure> {
    let master = MasterKey::new(*secrets.master_key.expose());
    let Backend::Kafka(log) = backend else {
        let folder = Folders::under(&config.data_dir).keys;
        let keys = SubjectKeys::open_read_only(&folder, master).map_err(Failure::other)?;
        return Ok(Box::new(keys));
    };
    // The folder has a copy, too, but nobody brings it up to date unless its node runs.
    let topic = log.subject_keys();
    let records = match only {
        Some(subject) => topic.read_partition(subject.shard().partition(log.partitions()), 0)?,
        None => topic.read_all()?,
    };
    Ok(Box::new(KeySnapshot::read(records, only, master)?))
}

/// Where identifiers and settings belong.
pub fn directory(secrets: &Secrets) -> Directory {
    Directory::new(
        secrets.identifier_pepper.expose(),
        secrets.routing_secret.expose(),
    )
}
