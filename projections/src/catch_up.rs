//! Folding the log from where the tables were left, up to its end.

use std::sync::Arc;
use std::sync::mpsc;

use futures::executor::block_on;
use futures::future::try_join_all;
use gatelog_events::ids::{Offset, Partition, Stream};
use gatelog_events::log::{Entry, EntryIter, EventLog, LogError};
use gatelog_events::seal::KeySource;

use crate::folder::{Decoded, Folder, Touched};
use crate::projection::{Checkpoint, Projection};
use crate::store::{Store, StoreError};

/// Records folded between two writes.
pub const BATCH: usize = 2048;

/// Why a catch-up ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatchUpError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Store(#[from] StoreError),
    /// What was folded once is not in the log any more.
    #[error(
        "the log is shorter than what was read of it: the read model {view} has folded {stream}:{partition} up to offset \
         {folded}, and that partition now ends at {end}. Records were lost, or the log was replaced: bring it back from a \
         backup, or, if it is right as it is, remove {place}, and the read models are built from it"
    )]
    Ahead {
        view: &'static str,
        stream: Stream,
        partition: Partition,
        folded: Offset,
        end: Offset,
        place: String,
    },
}

/// Refuses where a read model has folded more than the log holds. Blocks.
pub fn check_ends(
    store: &Store,
    projections: &[Arc<dyn Projection>],
    log: &dyn EventLog,
) -> Result<(), CatchUpError> {
    let places: Vec<_> = Stream::ALL
        .into_iter()
        .flat_map(|s| (0..log.partitions()).map(move |p| (s, Partition(p))))
        .collect();
    let ends = block_on(try_join_all(places.iter().map(|(s, p)| log.end(*s, *p))))?;
    for projection in projections {
        let Some(table) = store.active(projection.name()) else {
            continue;
        };
        let checkpoint = Checkpoint::load(store, &table)?;
        for ((stream, partition), end) in places.iter().copied().zip(&ends) {
            let folded = checkpoint.get(stream, partition).next;
            if folded > *end {
                return Err(CatchUpError::Ahead {
                    view: projection.name(),
                    stream,
                    partition,
                    folded,
                    end: *end,
                    place: store.place().display().to_string(),
                });
            }
        }
    }
    Ok(())
}

/// Records that are handed over at once, and how many such groups may wait.
const GROUP: usize = 256;
const GROUPS: usize = 8;

/// Folds everything up to the present end of the log, and says how many records that were. `seen` is shown each
/// record after it was folded, in memory but perhaps not in the store.
///
/// Reading, checking and opening go on in a thread of their own, ahead of the folds.
pub fn catch_up(
    folder: &mut Folder,
    log: &dyn EventLog,
    keys: &dyn KeySource,
    mut seen: impl FnMut(&Entry),
) -> Result<u64, CatchUpError> {
    let entries = log.read_to_end(&folder.starts(log.partitions()))?;
    std::thread::scope(|scope| {
        let (out, groups) = mpsc::sync_channel(GROUPS);
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn_scoped(scope, move || read(entries, keys, &out))
            .map_err(|e| LogError::Io {
                place: "a thread that reads the log".to_owned(),
                source: Arc::new(e),
            })?;
        let mut folded = 0;
        let mut pending = 0;
        let mut touched = Touched::new();
        for group in groups {
            for (entry, record) in group? {
                folder.fold_decoded(&record);
                touched.insert((record.position.stream, record.position.partition));
                seen(&entry);
                folded += 1;
                pending += 1;
                if pending >= BATCH {
                    folder.write(&std::mem::take(&mut touched))?;
                    pending = 0;
                }
            }
        }
        folder.write(&touched)?;
        Ok(folded)
    })
}

type Group = Result<Vec<(Entry, Decoded)>, LogError>;

/// Reads until the end, an error, or until nobody folds any more.
fn read(entries: EntryIter, keys: &dyn KeySource, out: &mpsc::SyncSender<Group>) {
    let mut group = Vec::with_capacity(GROUP);
    for entry in entries {
        match entry {
            Ok(entry) => {
                let record = Decoded::read(&entry, keys);
                group.push((entry, record));
            }
            Err(e) => {
                let _ = out.send(Ok(group)).and_then(|()| out.send(Err(e)));
                return;
            }
        }
        if group.len() == GROUP {
            let full = std::mem::replace(&mut group, Vec::with_capacity(GROUP));
            if out.send(Ok(full)).is_err() {
                return;
            }
        }
    }
    let _ = out.send(Ok(group));
}
