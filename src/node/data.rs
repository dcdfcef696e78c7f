//! What a node keeps under its data directory, and opening it for this process alone.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatelog_events::directory::Directory;
use gatelog_events::log::{EventLog, embedded};
use gatelog_events::seal::MasterKey;
use gatelog_projections::catch_up::check_ends;
use gatelog_projections::projection::Projection;
use gatelog_projections::rebuild::drop_forgotten;
use gatelog_projections::store::{Store, StoreOptions};
use gatelog_projections::subject_keys::SubjectKeys;

use super::NodeError;
use crate::auth::secrets::Secrets;
use crate::backend::Backend;
use crate::config::Config;

/// Where a node keeps what, under its data directory. Keys and secrets lie apart from log and views, so that a backup
/// of those does not hold them.
#[derive(Debug, Clone)]
pub struct Folders {
    pub log: PathBuf,
    pub views: PathBuf,
    pub keys: PathBuf,
    pub secrets: PathBuf,
    /// Logins that wait for the log.
    pub spool: PathBuf,
}

impl Folders {
    pub fn under(data_dir: &Path) -> Self {
        Self {
            log: data_dir.join("log"),
            views: data_dir.join("views"),
            keys: data_dir.join("keys"),
            secrets: data_dir.join("secrets"),
            spool: data_dir.join("spool"),
        }
    }
}

/// The data of a node, opened for writing by this process alone.
pub struct Data {
    /// Keeps other processes out of the folder where the log does not.
    pub(super) lock: Option<File>,
    pub backend: Backend,
    pub log: Arc<dyn EventLog>,
    pub store: Arc<Store>,
    pub keys: Arc<SubjectKeys>,
    pub directory: Arc<Directory>,
    pub secrets: Secrets,
    pub projections: Vec<Arc<dyn Projection>>,
}

impl Data {
    /// Opens log, views, keys and secrets, or creates them.
    pub fn open(config: &Config) -> Result<Self, NodeError> {
        let folders = Folders::under(&config.data_dir);
        // Read models hold personal data in the clear, so the folder is its owner's alone.
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder
            .create(&config.data_dir)
            .map_err(|source| NodeError::DataDir {
                place: config.data_dir.clone(),
                source,
            })?;
        let lock = match &config.kafka {
            // The log comes first: it holds the lock on the directory.
            None => None,
            Some(_) => Some(embedded::lock(&config.data_dir)?),
        };
        let backend = Backend::open(config, &folders.log)?;
        let may_make = backend.may_have_new_secrets(config);
        let secrets = Secrets::open(&folders.secrets, may_make, |name| std::env::var(name).ok())?;
        let directory = Arc::new(Directory::new(
            secrets.identifier_pepper.expose(),
            secrets.routing_secret.expose(),
        ));
        let store = Store::open(
            &folders.views,
            StoreOptions {
                cache_bytes: config.cache_bytes,
                memtable_bytes: config.memtable_bytes,
            },
        )?;
        let id = backend.id(config, &secrets)?;
        store.bind(&id)?;
        let projections = gatelog_projections::all::all(&directory);
        for projection in &projections {
            drop_forgotten(&store, projection.as_ref())?;
        }
        check_ends(&store, &projections, backend.log().as_ref())?;
        let master = MasterKey::new(*secrets.master_key.expose());
        let keys = Arc::new(backend.keys(config, (&folders.keys, &id), master)?);
        Ok(Self {
            lock,
            log: backend.log(),
            backend,
            store,
            keys,
            directory,
            secrets,
            projections,
        })
    }
}
