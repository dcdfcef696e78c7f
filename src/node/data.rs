//! What a node keeps under its data directory, and opening it for this process alone.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatelog_events::directory::Directory;
use gatelog_events::log::{EventLog, embedded};
use gatelog_events::seal::MasterKey;
use gatelog_projections::catch_up::{catch_up, check_ends};
use gatelog_projections::folder::{Folder, Member};
use gatelog_projections::projection::Projection;
use gatelog_projections::rebuild::{drop_forgotten, let_serve, table_for};
use gatelog_projections::store::{Store, StoreOptions};
use gatelog_projections::subject_keys::SubjectKeys;
use gatelog_projections::users;

use super::NodeError;
use crate::auth::secrets::Secrets;
use crate::backend::Backend;
use crate::config::Config;
use crate::writer::undestroyed;

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
    /// Where `gatelog verify` folds the log again.
    pub scratch: PathBuf,
}

impl Folders {
    pub fn under(data_dir: &Path) -> Self {
        Self {
            log: data_dir.join("log"),
            views: data_dir.join("views"),
            keys: data_dir.join("keys"),
            secrets: data_dir.join("secrets"),
            spool: data_dir.join("spool"),
            scratch: data_dir.join("verify.tmp"),
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
        remove_scratch(&folders.scratch)?;
        let may_make = backend.may_have_new_secrets(config)?;
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
        backend.check_whole()?;
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

    /// Folds what the read models have not folded, and destroys the keys of everyone who was erased, as a start does: for
    /// commands that must not leave out what another process, or one that was killed, had acknowledged. Blocks.
    pub fn catch_up(&self) -> Result<(), NodeError> {
        self.keys.catch_up()?;
        let mut members = Vec::with_capacity(self.projections.len());
        for projection in &self.projections {
            let table = table_for(&self.store, projection.as_ref())?;
            let partitions = self.log.partitions();
            members.push(Member::open(&self.store, projection.clone(), table, partitions)?);
        }
        let mut folder = Folder::new(self.store.clone(), members);
        catch_up(&mut folder, self.log.as_ref(), self.keys.as_ref(), |_, _| {})?;
        for Member { projection, mark, .. } in folder.members() {
            if let Some(stopped) = mark.applied.stopped().first() {
                return Err(NodeError::Stopped {
                    view: projection.name(),
                    position: stopped.position,
                    reason: stopped.reason.clone(),
                });
            }
            let_serve(&self.store, projection.name(), &mark.table)?;
        }
        let Some(users) = self.store.active(users::NAME) else {
            return Ok(());
        };
        for (tenant, user) in undestroyed(&self.store, &users, self.keys.as_ref())? {
            self.keys.destroy(&tenant, user)?;
        }
        Ok(())
    }
}

/// What a command left that was killed: it holds personal data that no erasure reaches.
pub fn remove_scratch(folder: &Path) -> Result<(), NodeError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(NodeError::DataDir {
            place: folder.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
