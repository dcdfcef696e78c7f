//! The event log: the only source of truth. One contract, several backends.
//!
//! # The contract of [`EventLog`]
//!
//! A log has the streams of [`Stream`], each with the same fixed number of partitions. A partition is a sequence of
//! records that only grows at its end:
//!
//! ```text
//!   offset   0     1     2     4     5          ascending; gaps are allowed (Kafka's control records)
//!          [claim][c]   [c]   [c]   [claim] …
//!                                          ▲ end(): every append acknowledged before the call lies below
//! ```
//!
//! * **Durable.** When `append` resolves to `Ok(position)`, the record survives any crash of process and machine.
//! * **In order.** Records that one process appends to one partition, each before the former has resolved, get
//!   ascending offsets in the order of the calls. Calls do not wait for each other: several are in flight.
//! * **Waiting.** Answers depend on no runtime: they may be awaited by any, and a thread may block on them.
//! * **All or nothing.** A record is there whole or not at all.
//! * **Unknown is possible.** `Err(Unknown)`: the record may be in the log or may still get there. Only the log
//!   itself can tell: claim again, read up to the claim.
//! * **Reading.** `read(from)` yields every record at `from` and above, in order, as soon as it is durable, and then
//!   waits for more: the stream never ends by itself. It may be dropped at any time. What cannot be read is an error
//!   that names the place; nothing is skipped. An error is the stream's last item; once the log is closed, that is
//!   `Closed`, after all that is durable.
//! * **No such partition.** Reads and `end` answer `Mismatch`, appends `Closed`.
//! * **Who may append** is not the log's business but its readers': see [`crate::log::fence`].

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod fence;
pub mod kafka;
#[cfg(any(test, feature = "conformance"))]
pub mod simulated;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use futures::stream::BoxStream;

use crate::ids::{CommitId, Offset, Partition, Position, Stream};

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A new owner's mark; its offset is the owner's epoch.
    Claim,
    /// All events of one command.
    Commit,
}

/// What stands outside a record's value: Kafka's headers, or a fixed form in the embedded log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    pub kind: RecordKind,
    /// Identity of the commit, or of the claim.
    pub commit_id: CommitId,
    /// Offset of the claim under which this was written. 0 in a claim.
    pub epoch: u64,
    /// Gapless number within the epoch, from 0. 0 in a claim.
    pub seq: u64,
    /// The aggregate's version after this commit. 0 in a claim.
    pub aggregate_version: u64,
}

/// One record as it is appended.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub header: RecordHeader,
    pub value: Bytes,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("header", &self.header)
            .field("bytes", &self.value.len())
            .finish()
    }
}

/// One record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub position: Position,
    pub record: Record,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The backend knows that another owner took over. Not written.
    #[error("another writer owns the partition")]
    Fenced,
    /// The record may have been written, or may yet be.
    #[error("the outcome of the append is unknown: {0}")]
    Unknown(String),
    /// The record exceeds the log's limit. Not written.
    #[error("the record has {size} bytes; the log takes at most {limit}")]
    TooLarge { size: usize, limit: usize },
    /// The log's keeper does not let this program write there, and says so. Not written now; an earlier try of the same
    /// append that was not answered may have been.
    #[error("{0}")]
    Refused(String),
    /// The log's own queue or the disk is full. Not written.
    #[error("the log cannot take more at present: {0}")]
    Full(String),
    /// The log is shut down. Not written.
    #[error("the log is closed")]
    Closed,
}

impl AppendError {
    /// Whether the same append may be tried again without risk of a second copy.
    pub fn retryable(&self) -> bool {
        matches!(self, AppendError::Full(_))
    }
}

/// Why records could not be read or the log not be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Stored bytes are not what was written.
    #[error("the log is damaged at {place}: {what}")]
    Damaged { place: String, what: String },
    /// Another process holds the log.
    #[error("another process uses the log in {0}; stop it first, or choose another data directory")]
    Locked(String),
    /// The log is of another kind than this program or its configuration expects.
    #[error("the log in {place} does not fit: {what}")]
    Mismatch { place: String, what: String },
    #[error("the log cannot be accessed at {place}: {source}")]
    Io {
        place: String,
        source: Arc<std::io::Error>,
    },
    /// Nobody answers where the log is kept; they may be back later.
    #[error("{place} cannot be reached: {what}")]
    Unreachable { place: String, what: String },
    /// Whoever keeps the log does not let this program do what it must.
    #[error("{place} refuses this node: {what}")]
    Refused { place: String, what: String },
    #[error("the log is closed")]
    Closed,
}

/// An end that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The offset after the last record that was durable then.
    pub end: Offset,
    /// Whether it was told when the log was asked last, some seconds ago at the most. Else the log did not say, and more may
    /// have been written since.
    pub is_current: bool,
}

/// Records that are read to an end.
pub type EntryIter = Box<dyn Iterator<Item = Result<Entry, LogError>> + Send>;

/// The log. See the module's documentation for the contract.
pub trait EventLog: Send + Sync {
    /// Number of partitions of each stream, fixed when the log was created.
    fn partitions(&self) -> u16;

    /// Appends one record. The record is queued when the call returns; the future resolves when it is durable.
    fn append(
        &self,
        stream: Stream,
        partition: Partition,
        record: Record,
    ) -> BoxFuture<'static, Result<Position, AppendError>>;

    /// All records of a partition from `from` on, then those to come.
    fn read(
        &self,
        stream: Stream,
        partition: Partition,
        from: Offset,
    ) -> BoxStream<'static, Result<Entry, LogError>>;

    /// The records of all partitions up to the present end, each partition in order. Blocks.
    ///
    /// `from` names the first position wanted of a partition; those not named are read from 0, and of one from
    /// `Offset::MAX` on nothing is wanted. This is the fast way to read much; it may yield records that became durable after the call.
    fn read_to_end(&self, from: &[Position]) -> Result<EntryIter, LogError>;

    /// The offset after the last durable record.
    fn end(&self, stream: Stream, partition: Partition) -> BoxFuture<'static, Result<Offset, LogError>>;

    /// The ends of several partitions, in the order in which they are named.
    fn ends(&self, places: &[(Stream, Partition)]) -> BoxFuture<'static, Result<Vec<Offset>, LogError>> {
        let ends = places
            .iter()
            .map(|(stream, partition)| self.end(*stream, *partition));
        try_join_all(ends).boxed()
    }

    /// Whether a partition takes records at present, as far as that is known without asking anybody.
    fn is_writable(&self, _: Stream, _: Partition) -> bool {
        true
    }

    /// The end as far as it is known without asking anybody; nothing where nobody has told it yet.
    fn heard_end(&self, stream: Stream, partition: Partition) -> Option<Heard> {
        let end = self.end(stream, partition).now_or_never()?.ok()?;
        let is_current = true;
        Some(Heard { end, is_current })
    }
}
