//! Building a read model anew, beside the one that serves, while the writer goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatelog_events::ids::{Partition, Stream};
use gatelog_projections::catch_up::catch_up;
use gatelog_projections::folder::{Folder, Member};
use gatelog_projections::projection::Projection;
use gatelog_projections::rebuild::new_table;
use gatelog_projections::store::Table;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::swap::Swap;
use super::takeover::{Message, Parts};

/// Records that may be left to fold while the writer waits.
const SMALL_REST: u64 = 1000;
/// Passes over the log's end before the writer is made to wait all the same.
const PASSES: usize = 20;

/// How far a rebuild is.
#[derive(Debug, Default)]
pub struct RebuildProgress {
    folded: AtomicU64,
    total: AtomicU64,
    ended: Mutex<Option<Result<(), String>>>,
}

impl RebuildProgress {
    /// Records folded so far.
    pub fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    /// Records to fold, as counted when it began.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<Result<(), String>> {
        self.ended.lock().clone()
    }
}

/// Why a rebuild did not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    #[error("there is no projection of this name; GET /v1/projections lists them")]
    Unknown,
    #[error("this projection is being rebuilt already")]
    Running,
    #[error("the rebuild could not be started: {0}")]
    Thread(String),
}

/// Starts rebuilds and remembers the last of each projection.
pub struct Rebuilds {
    parts: Arc<Parts>,
    projections: Vec<Arc<dyn Projection>>,
    writer: mpsc::Sender<Message>,
    last: Mutex<HashMap<&'static str, Arc<RebuildProgress>>>,
}

impl Rebuilds {
    pub fn new(parts: Arc<Parts>, projections: Vec<Arc<dyn Projection>>, writer: &super::Writer) -> Self {
        Self {
            parts,
            projections,
            writer: writer.queue.clone(),
            last: Mutex::default(),
        }
    }

    /// The last rebuild of each projection that was rebuilt since the start.
    pub fn progress(&self) -> Vec<(&'static str, Arc<RebuildProgress>)> {
        let mut all: Vec<_> = self.last.lock().iter().map(|(n, p)| (*n, p.clone())).collect();
        all.sort_by_key(|(name, _)| *name);
        all
    }

    /// Starts to rebuild one projection in a thread of its own.
    pub fn start(&self, name: &str) -> Result<Arc<RebuildProgress>, RebuildError> {
        let projection = self
            .projections
            .iter()
            .find(|p| p.name() == name)
            .ok_or(RebuildError::Unknown)?
            .clone();
        let mut last = self.last.lock();
        if last.get(projection.name()).is_some_and(|p| p.ended().is_none()) {
            return Err(RebuildError::Running);
        }
        let progress = Arc::new(RebuildProgress::default());
        last.insert(projection.name(), progress.clone());
        let (parts, writer, shared) = (self.parts.clone(), self.writer.clone(), progress.clone());
        std::thread::Builder::new()
            .name(format!("rebuild-{name}"))
            .spawn(move || {
                let result = rebuild(&parts, projection, &writer, &shared);
                if let Err(reason) = &result {
                    tracing::error!(%reason, "the rebuild failed; the old read model goes on serving");
                }
                *shared.ended.lock() = Some(result);
            })
            .map_err(|e| RebuildError::Thread(e.to_string()))?;
        Ok(progress)
    }
}

fn rebuild(
    parts: &Parts,
    projection: Arc<dyn Projection>,
    writer: &mpsc::Sender<Message>,
    progress: &RebuildProgress,
) -> Result<(), String> {
    let name = projection.name();
    let old = parts.store.active(name);
    progress
        .total
        .store(records(parts, projection.as_ref())?, Ordering::Relaxed);
    let table = new_table(&parts.store, projection.as_ref()).map_err(|e| e.to_string())?;
    let built = build(parts, projection, table.clone(), writer, progress);
    // Of the two the one goes that does not serve: erasures do not reach it any more.
    let serving = parts.store.active(name);
    let both = old.into_iter().chain([table]);
    let dropped = both
        .filter(|table| Some(table) != serving.as_ref())
        .try_for_each(|table| parts.store.drop_table(&table));
    built.and(dropped.map_err(|e| e.to_string()))
}

/// Folds everything into a new table, and lets it take over.
fn build(
    parts: &Parts,
    projection: Arc<dyn Projection>,
    table: Table,
    writer: &mpsc::Sender<Message>,
    progress: &RebuildProgress,
) -> Result<(), String> {
    let say = |e: &dyn std::fmt::Display| e.to_string();
    let member =
        Member::open(&parts.store, projection, table, parts.log.partitions()).map_err(|e| say(&e))?;
    let mut folder = Folder::new(parts.store.clone(), vec![member]);
    for _ in 0..PASSES {
        let folded = catch_up(&mut folder, parts.log.as_ref(), parts.keys.as_ref(), |_, _| {
            progress.folded.fetch_add(1, Ordering::Relaxed);
        })
        .map_err(|e| say(&e))?;
        if folded < SMALL_REST {
            break;
        }
    }
    let (finished, mut waits) = watch::channel(None);
    writer
        .blocking_send(Message::Swap(Box::new(Swap { folder, finished })))
        .map_err(|_| "the node is shutting down".to_owned())?;
    futures::executor::block_on(waits.wait_for(Option::is_some))
        .map_err(|_| "the node is shutting down".to_owned())?
        .clone()
        .unwrap_or(Ok(()))
}

/// Records in the streams that a projection folds.
fn records(parts: &Parts, projection: &dyn Projection) -> Result<u64, String> {
    let mut sum = 0;
    for stream in projection.streams() {
        for partition in (0..parts.log.partitions()).map(Partition) {
            sum += end(parts, *stream, partition)?;
        }
    }
    Ok(sum)
}

fn end(parts: &Parts, stream: Stream, partition: Partition) -> Result<u64, String> {
    futures::executor::block_on(parts.log.end(stream, partition)).map_err(|e| e.to_string())
}
