//! Folding entries of the log into the tables of a set of projections, one write per batch.

use std::collections::BTreeSet;
use std::sync::Arc;

use gatelog_events::codec::{self, CodecError};
use gatelog_events::commit::Commit;
use gatelog_events::failpoint;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::fence::{Progress, Verdict};
use gatelog_events::log::{Entry, RecordHeader, RecordKind};
use gatelog_events::seal::{KeySource, KeySourceError};

use crate::applied::{Applied, Stopped};
use crate::projection::{Checkpoint, Located, Projection};
use crate::store::{Change, Store, StoreError, Table};
use crate::view::{FoldView, Overlay, View};

/// A projection, the table that it writes, and how far it has come.
pub struct Member {
    pub projection: Arc<dyn Projection>,
    pub mark: Mark,
    overlay: Overlay,
}

/// Partitions of which something was folded.
pub type Touched = BTreeSet<(Stream, Partition)>;

/// How far a table has come.
#[derive(Clone)]
pub struct Mark {
    pub table: Table,
    streams: &'static [Stream],
    checkpoint: Checkpoint,
    pub applied: Arc<Applied>,
}

impl Mark {
    pub fn follows(&self, stream: Stream) -> bool {
        self.streams.contains(&stream)
    }

    pub fn progress(&self, stream: Stream, partition: Partition) -> Progress {
        self.checkpoint.get(stream, partition)
    }

    /// Says that everything of a partition below `progress.next` is folded.
    pub fn advance(&mut self, stream: Stream, partition: Partition, progress: Progress) {
        if self.follows(stream) {
            self.checkpoint.set(stream, partition, progress);
        }
    }

    /// Moves on over one record whose rows are folded elsewhere, and says what it means; nothing if it was passed
    /// before, or if the fold stands still there.
    pub fn pass(&mut self, position: Position, header: &RecordHeader) -> Option<Verdict> {
        let Position {
            stream,
            partition,
            offset,
        } = position;
        let mut progress = self.progress(stream, partition);
        if !self.follows(stream) || offset < progress.next || self.applied.is_stopped_before(position) {
            return None;
        }
        let verdict = progress.pass(offset, header);
        self.advance(stream, partition, progress);
        Some(verdict)
    }

    /// The change that stores the checkpoint.
    pub fn change(&self) -> Result<Change, StoreError> {
        self.checkpoint.change(&self.table)
    }

    /// Lets everybody see how far it is, after it was written.
    pub fn publish(&self, touched: &Touched) {
        for (stream, partition) in touched {
            if self.follows(*stream) {
                let next = self.progress(*stream, *partition).next;
                self.applied.set(*stream, *partition, next);
            }
        }
        self.applied.wake();
    }
}

/// Several projections that are folded together.
pub struct Folder {
    store: Arc<Store>,
    members: Vec<Member>,
}

/// Some of a folder's members.
pub(crate) struct Share<'a> {
    store: &'a Store,
    members: &'a mut [Member],
}

impl Share<'_> {
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Folds records in their order; see [`Folder::fold_decoded`]. Member by member, so that what one needs stays close
    /// to the processor.
    pub fn fold<'r>(&mut self, records: impl Iterator<Item = &'r Decoded> + Clone) {
        for member in self.members.iter_mut() {
            member.take(self.store, records.clone());
        }
    }

    fn drain(&mut self) -> Result<Vec<(Table, Vec<Change>)>, StoreError> {
        let mut all = Vec::with_capacity(self.members.len());
        for member in self.members.iter_mut() {
            let mut changes = member.overlay.drain();
            changes.push(member.mark.change()?);
            all.push((member.mark.table.clone(), changes));
        }
        Ok(all)
    }

    /// See [`Folder::write`].
    pub fn write(&mut self, touched: &Touched) -> Result<(), StoreError> {
        let changes = self.drain()?;
        failpoint::hit("views.before_write");
        self.store.write(changes.iter().map(|(t, c)| (t, c.as_slice())))?;
        failpoint::hit("views.after_write");
        publish(self.members, touched);
        Ok(())
    }
}

fn publish(members: &[Member], touched: &Touched) {
    for member in members {
        member.mark.publish(touched);
    }
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

/// A record with its commit, read once for all who fold it.
#[derive(Clone)]
pub struct Decoded {
    pub position: Position,
    pub header: RecordHeader,
    /// None in a claim.
    commit: Option<Result<Arc<Commit>, CodecError>>,
}

impl Decoded {
    /// Reads an entry. What is wrong with it is told to those who fold it, if it counts.
    pub fn read(entry: &Entry, keys: &dyn KeySource) -> Self {
        let header = entry.record.header;
        Self {
            position: entry.position,
            header,
            commit: (header.kind == RecordKind::Commit).then(|| read_commit(entry, keys).map(Arc::new)),
        }
    }

    /// Why the key store could not answer when this was read, if it could not and may later: until then nobody should fold
    /// it, for who does stops for good.
    pub fn lacks_key(&self) -> Option<&KeySourceError> {
        match &self.commit {
            Some(Err(CodecError::Keys(e @ KeySourceError::Unavailable(_)))) => Some(e),
            _ => None,
        }
    }

    /// A commit that was written here, so that it need not be read again.
    pub fn own(position: Position, header: RecordHeader, commit: Arc<Commit>) -> Self {
        Self {
            position,
            header,
            commit: Some(Ok(commit)),
        }
    }

    /// A record of which it is known that it does not count.
    pub fn stray(position: Position, header: RecordHeader) -> Self {
        Self {
            position,
            header,
            commit: None,
        }
    }

    /// Where it stands, but for the offset.
    pub fn place(&self) -> (Stream, Partition) {
        (self.position.stream, self.position.partition)
    }

    /// The commit, if it is one and can be read.
    pub fn commit(&self) -> Option<&Arc<Commit>> {
        self.commit.as_ref().and_then(|c| c.as_ref().ok())
    }

    fn to_fold(&self) -> Result<&Commit, CodecError> {
        match &self.commit {
            Some(Ok(commit)) => Ok(commit),
            Some(Err(e)) => Err(e.clone()),
            None => Err(CodecError::Form("a claim holds no events".to_owned())),
        }
    }
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
        let streams = projection.streams();
        let mark = Mark {
            checkpoint: Checkpoint::load(store, &table)?,
            applied: Arc::new(Applied::new(projection.name(), partitions)),
            streams,
            table,
        };
        let all = streams
            .iter()
            .flat_map(|s| (0..partitions).map(|p| (*s, Partition(p))));
        mark.publish(&all.collect());
        Ok(Self {
            projection,
            mark,
            overlay: Overlay::default(),
        })
    }

    fn fold(&mut self, store: &Store, at: Located<'_>) -> Result<(), StoreError> {
        let mut rows = FoldView::new(store, &self.mark.table, &mut self.overlay);
        self.projection.apply(&mut rows, at)
    }

    /// Takes note of records in their order. Those of one partition mostly follow each other, so that its progress is
    /// looked up once for them.
    fn take<'r>(&mut self, store: &Store, records: impl Iterator<Item = &'r Decoded>) {
        let mut records = records.peekable();
        while let Some(place) = records.peek().map(|r| r.place()) {
            let mut run = std::iter::from_fn(|| records.next_if(|r| r.place() == place));
            self.take_run(store, place, &mut run);
            run.for_each(drop);
        }
    }

    /// Takes note of records of one partition: judges each, folds it if it counts, and moves on; or stops for good.
    fn take_run<'r>(
        &mut self,
        store: &Store,
        (stream, partition): (Stream, Partition),
        records: impl Iterator<Item = &'r Decoded>,
    ) {
        if !self.mark.follows(stream) || self.mark.applied.is_stopped(stream, partition) {
            return;
        }
        let before = self.mark.progress(stream, partition);
        let mut progress = before;
        for record in records {
            let (position, offset) = (record.position, record.position.offset);
            if offset < progress.next {
                continue;
            }
            let mut passed = progress;
            if passed.pass(offset, &record.header) == Verdict::Commit {
                let folded = record
                    .to_fold()
                    .map_err(FoldError::from)
                    .and_then(|commit| Ok(self.fold(store, Located { position, commit })?));
                if let Err(e) = folded {
                    self.stop(position, &e);
                    break;
                }
            }
            progress = passed;
        }
        if progress != before {
            self.mark.advance(stream, partition, progress);
        }
    }

    fn stop(&self, position: Position, e: &FoldError) {
        self.mark.applied.stop(Stopped {
            position,
            reason: e.to_string(),
        });
        tracing::error!(
            projection = self.projection.name(),
            %position,
            error = %e,
            "the projection stops in this partition; nothing is skipped"
        );
    }

    /// What the projection holds, with what is not yet written.
    pub fn view<'a>(&'a self, store: &'a Store) -> View<'a> {
        View {
            store,
            table: &self.mark.table,
            overlay: Some(&self.overlay),
        }
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

    /// A member's rows, by the projection's name.
    pub fn view(&self, projection: &str) -> Option<View<'_>> {
        self.members
            .iter()
            .find(|m| m.projection.name() == projection)
            .map(|m| m.view(&self.store))
    }

    /// From where each partition must be read, so that no member misses anything.
    pub fn starts(&self, partitions: u16) -> Vec<Position> {
        let mut starts = Vec::new();
        for stream in Stream::ALL {
            for partition in (0..partitions).map(Partition) {
                let next = self
                    .members
                    .iter()
                    .filter(|m| m.mark.follows(stream))
                    .map(|m| m.mark.progress(stream, partition).next)
                    .min();
                // What nobody follows is wanted by nobody: from the end of all numbers on.
                starts.push(Position {
                    stream,
                    partition,
                    offset: next.unwrap_or(Offset::MAX),
                });
            }
        }
        starts
    }

    /// Folds one entry into every member that has not folded it yet.
    ///
    /// A member that cannot goes no further in this partition, says so in its [`Applied`], and does not hold up the
    /// others.
    pub fn fold_entry(&mut self, entry: &Entry, keys: &dyn KeySource) {
        self.fold_decoded(&Decoded::read(entry, keys));
    }

    /// As [`fold_entry`](Self::fold_entry), of a record that is read already.
    pub fn fold_decoded(&mut self, record: &Decoded) {
        self.fold_all(std::slice::from_ref(record));
    }

    /// As [`fold_decoded`](Self::fold_decoded), of several records in their order.
    pub fn fold_all(&mut self, records: &[Decoded]) {
        self.whole().fold(records.iter());
    }

    /// As [`fold_decoded`](Self::fold_decoded), with the changes kept in order for [`take_changes`](Self::take_changes).
    pub fn fold_followed(&mut self, record: &Decoded) {
        for member in &mut self.members {
            member.overlay.keep_order();
        }
        self.fold_decoded(record);
    }

    /// Folds a commit that was decided here and is on its way to the log. Its position is not known yet, so only
    /// projections that do not look at it may be members. Progress does not move.
    pub fn fold_decided(&mut self, at: Located<'_>) -> Result<(), StoreError> {
        for member in &mut self.members {
            if member.mark.follows(at.position.stream) {
                member.overlay.keep_order();
                member.fold(&self.store, at)?;
            }
        }
        Ok(())
    }

    /// The changes since the last call, by table, in order. Reads still see them until they are settled.
    pub fn take_changes(&mut self) -> Vec<(Table, Vec<Change>)> {
        self.members
            .iter_mut()
            .map(|m| (m.mark.table.clone(), m.overlay.take_changes()))
            .filter(|(_, changes)| !changes.is_empty())
            .collect()
    }

    /// Forgets changes that were written.
    pub fn settle<'k>(&mut self, table: &Table, keys: impl IntoIterator<Item = &'k bytes::Bytes>) {
        if let Some(member) = self.members.iter_mut().find(|m| m.mark.table == *table) {
            member.overlay.settle(keys);
        }
    }

    /// Whether there are changes that are not settled.
    pub fn is_settled(&self) -> bool {
        self.members.iter().all(|m| m.overlay.is_empty())
    }

    /// What is to be written: the members' rows and checkpoints.
    pub fn drain(&mut self) -> Result<Vec<(Table, Vec<Change>)>, StoreError> {
        self.whole().drain()
    }

    /// Lets everybody see what was written.
    pub fn publish(&self, touched: &Touched) {
        publish(&self.members, touched);
    }

    /// Writes rows and checkpoints as one and lets everybody see them.
    pub fn write(&mut self, touched: &Touched) -> Result<(), StoreError> {
        self.whole().write(touched)
    }

    fn whole(&mut self) -> Share<'_> {
        Share {
            store: &self.store,
            members: &mut self.members,
        }
    }

    /// The members in two shares, to be folded by two threads. No member looks at another's table, and each has a
    /// checkpoint of its own, so that one share may be ahead of the other.
    pub(crate) fn shares(&mut self) -> (Share<'_>, Share<'_>) {
        let half = self.members.len().div_ceil(2);
        let (first, second) = self.members.split_at_mut(half);
        let share = |members| Share {
            store: &self.store,
            members,
        };
        (share(first), share(second))
    }

    /// Replaces the table of a projection by another that is equally far. The old member, if there was one.
    pub fn replace(&mut self, member: Member) -> Option<Member> {
        let old = self
            .members
            .iter_mut()
            .find(|m| m.projection.name() == member.projection.name())?;
        Some(std::mem::replace(old, member))
    }
}
