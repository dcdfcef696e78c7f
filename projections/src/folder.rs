//! Folding entries of the log into the tables of a set of projections, one write per batch.

use std::sync::Arc;

use gatelog_events::codec::{self, CodecError};
use gatelog_events::commit::Commit;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::Entry;
use gatelog_events::log::fence::{Fence, Verdict};
use gatelog_events::seal::KeySource;

use crate::applied::{Applied, Stopped};
use crate::projection::{Checkpoint, Located, Progress, Projection};
use crate::store::{Change, Store, StoreError, Table};
use crate::view::{FoldView, Overlay, View};

/// A projection, the table that it writes, and how far it has come.
pub struct Member {
    pub projection: Arc<dyn Projection>,
    pub table: Table,
    checkpoint: Checkpoint,
    overlay: Overlay,
    pub applied: Arc<Applied>,
}

/// Several projections that are folded together.
pub struct Folder {
    store: Arc<Store>,
    members: Vec<Member>,
}

/// Why an entry cannot be folded by anyone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FoldError {
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Reads a commit from its entry, personal parts opened.
pub fn read_commit(entry: &Entry, keys: &dyn KeySource) -> Result<Commit, CodecError> {
    let mut commit = codec::decode(entry.record.header.commit_id, &entry.record.value)?;
    codec::open(&mut commit, keys)?;
    Ok(commit)
}

impl Member {
    /// Takes up a projection's table where it was left.
    pub fn open(
        store: &Store,
        projection: Arc<dyn Projection>,
        table: Table,
        partitions: u16,
    ) -> Result<Self, StoreError> {
        store.create(&table)?;
        let checkpoint = Checkpoint::load(store, &table)?;
        let applied = Arc::new(Applied::new(projection.name(), partitions));
        for stream in projection.streams() {
            for partition in (0..partitions).map(Partition) {
                applied.set(*stream, partition, checkpoint.get(*stream, partition).next);
            }
        }
        Ok(Self {
            projection,
            table,
            checkpoint,
            overlay: Overlay::default(),
            applied,
        })
    }

    fn follows(&self, stream: Stream) -> bool {
        self.projection.streams().contains(&stream)
    }

    fn fold(&mut self, store: &Store, at: Located<'_>) -> Result<(), StoreError> {
        let mut rows = FoldView::new(store, &self.table, &mut self.overlay);
        self.projection.apply(&mut rows, at)
    }

    /// What the projection holds, with what is not yet written.
    pub fn view<'a>(&'a self, store: &'a Store) -> View<'a> {
        View {
            store,
            table: &self.table,
            overlay: Some(&self.overlay),
        }
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl Folder {
    pub fn new(store: Arc<Store>, members: Vec<Member>) -> Self {
        Self { store, members }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn into_members(self) -> Vec<Member> {
        self.members
    }

    /// From where each partition must be read, so that no member misses anything.
    pub fn starts(&self, partitions: u16) -> Vec<(Stream, Partition, Offset)> {
        let mut starts = Vec::new();
        for stream in Stream::ALL {
            for partition in (0..partitions).map(Partition) {
                let next = self
                    .members
                    .iter()
                    .filter(|m| m.follows(stream))
                    .map(|m| m.checkpoint.get(stream, partition).next)
                    .min();
                starts.extend(next.map(|n| (stream, partition, n)));
            }
        }
        starts
    }

    /// Folds one entry into every member that has not folded it yet.
    ///
    /// A member that cannot goes no further in this partition, says so in its [`Applied`], and does not hold up the
    /// others.
    pub fn fold_entry(&mut self, entry: &Entry, keys: &dyn KeySource) {
        let Position { stream, partition, offset } = entry.position;
        let mut commit: Option<Result<Commit, CodecError>> = None;
        for member in &mut self.members {
            let mut progress = member.checkpoint.get(stream, partition);
            if !member.follows(stream)
                || offset < progress.next
                || member.applied.is_stopped(stream, partition)
            {
                continue;
            }
            if progress.fence.admit(offset, &entry.record.header) == Verdict::Commit {
                let commit = commit.get_or_insert_with(|| read_commit(entry, keys));
                let folded = match commit {
                    Ok(commit) => member
                        .fold(&self.store, Located { position: entry.position, commit })
                        .map_err(FoldError::from),
                    Err(e) => Err(FoldError::from(e.clone())),
                };
                if let Err(e) = folded {
                    member.applied.stop(Stopped {
                        position: entry.position,
                        reason: e.to_string(),
                    });
                    tracing::error!(
                        projection = member.projection.name(),
                        position = %entry.position,
                        error = %e,
                        "the projection stops in this partition; nothing is skipped"
                    );
                    continue;
                }
            }
            progress.next = offset + 1;
            member.checkpoint.set(stream, partition, progress);
        }
    }

    /// Folds a commit that was decided here and is on its way to the log. Its position is not known yet, so only
    /// projections that do not look at it may be members. Progress does not move.
    pub fn fold_decided(&mut self, at: Located<'_>) -> Result<(), StoreError> {
        for member in &mut self.members {
            if member.follows(at.position.stream) {
                member.fold(&self.store, at)?;
            }
        }
        Ok(())
    }

    /// The changes since the last call, by table, in order. Reads still see them until they are settled.
    pub fn take_changes(&mut self) -> Vec<(Table, Vec<Change>)> {
        self.members
            .iter_mut()
            .map(|m| (m.table.clone(), m.overlay.take_changes()))
            .filter(|(_, changes)| !changes.is_empty())
            .collect()
    }

    /// Forgets changes that were written.
    pub fn settle(&mut self, changes: &[(Table, Vec<Change>)]) {
        for (table, changes) in changes {
            if let Some(member) = self.members.iter_mut().find(|m| m.table == *table) {
                member.overlay.settle(changes.iter().map(|(key, _)| key));
            }
        }
    }

    /// Forgets everything that is not written.
    pub fn forget(&mut self) {
        for member in &mut self.members {
            member.overlay.clear();
        }
    }

    /// Says that all members have folded a partition up to `next`.
    pub fn advance(&mut self, stream: Stream, partition: Partition, next: Offset, fence: Fence) {
        for member in self.members.iter_mut().filter(|m| m.follows(stream)) {
            member
                .checkpoint
                .set(stream, partition, Progress { next, fence });
        }
    }

    /// What is to be written: the members' rows and checkpoints.
    pub fn drain(&mut self) -> Result<Vec<(Table, Vec<Change>)>, StoreError> {
        let mut all = Vec::with_capacity(self.members.len());
        for member in &mut self.members {
            let mut changes = member.overlay.drain();
            changes.push(member.checkpoint.change(&member.table)?);
            all.push((member.table.clone(), changes));
        }
        Ok(all)
    }

    /// Lets everybody see what was written.
    pub fn publish(&self, touched: impl Iterator<Item = (Stream, Partition)> + Clone) {
        for member in &self.members {
            for (stream, partition) in touched.clone() {
                if member.follows(stream) {
                    let next = member.checkpoint.get(stream, partition).next;
                    member.applied.set(stream, partition, next);
                }
            }
            member.applied.wake();
        }
    }

    /// Writes rows and checkpoints as one and lets everybody see them.
    pub fn write(
        &mut self,
        touched: impl Iterator<Item = (Stream, Partition)> + Clone,
    ) -> Result<(), StoreError> {
        let changes = self.drain()?;
        gatelog_events::failpoint::hit("views.before_write");
        self.store
            .write(changes.iter().map(|(t, c)| (t, c.clone())))?;
        gatelog_events::failpoint::hit("views.after_write");
        self.publish(touched);
        Ok(())
    }

    /// Replaces the table of a projection by another that is equally far.
    pub fn replace(&mut self, member: Member) -> Option<Member> {
        let old = self
            .members
            .iter_mut()
            .find(|m| m.projection.name() == member.projection.name())?;
        Some(std::mem::replace(old, member))
    }
}
