//! Folding the log from where the tables were left, up to its end.

use gatelog_events::log::{Entry, EventLog, LogError};
use gatelog_events::seal::KeySource;

use crate::folder::{Folder, Touched};
use crate::store::StoreError;

/// Records folded between two writes.
pub const BATCH: usize = 2048;

/// Why a catch-up ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatchUpError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Folds everything up to the present end of the log, and says how many records that were. `seen` is shown each
/// record after it was folded, in memory but perhaps not in the store.
pub fn catch_up(
    folder: &mut Folder,
    log: &dyn EventLog,
    keys: &dyn KeySource,
    mut seen: impl FnMut(&Entry),
) -> Result<u64, CatchUpError> {
    let mut folded = 0;
    let mut pending = 0;
    let mut touched = Touched::new();
    for entry in log.read_to_end(&folder.starts(log.partitions()))? {
        let entry = entry?;
        folder.fold_entry(&entry, keys);
        touched.insert((entry.position.stream, entry.position.partition));
        seen(&entry);
        folded += 1;
        pending += 1;
        if pending >= BATCH {
            folder.write(&std::mem::take(&mut touched))?;
            pending = 0;
        }
    }
    folder.write(&touched)?;
    Ok(folded)
}
