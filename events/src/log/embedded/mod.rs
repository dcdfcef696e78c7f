//! The log of one machine: segment files in one directory.
//!
//! All partitions share one sequence of records, so that one fdatasync makes a whole group of appends durable, whatever
//! their partitions. Layout of the bytes: [`format`]. Files of the directory:
//!
//! | file | what |
//! |---|---|
//! | `0000000001.log`, … | segments; the last one grows |
//! | `0000000001.index`, … | where each partition's records stand in a sealed segment |
//! | `lock` | held by the process that appends |
//! | `clean` | there only while the log is closed: where it ended |
//!
//! At start a torn tail (bytes after the last whole group, with no whole group behind them) is cut off: nobody was ever
//! told that it was written. Everything else that is not as it was written is [`LogError::Damaged`], with its place.

mod appender;
mod files;
mod format;
mod index;
mod marker;
mod reader;
mod recover;
mod scan;
mod segment;
mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::{self, BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use uuid::Uuid;

pub use scan::{Records, Scrubbed};

use self::appender::{Appender, Queue, Tail};
use self::files::{io_error, mismatch};
use self::recover::Found;
use self::state::Shared;
use super::{AppendError, Entry, EntryIter, EventLog, LogError, Record};
use crate::ids::{Offset, Partition, Position, Stream};

/// Places of the embedded log at which a test may end the process (see [`crate::failpoint`]).
pub const FAILPOINTS: &[&str] = &[
    "log.before_write",
    "log.mid_write",
    "log.before_sync",
    "log.after_sync",
    "log.before_roll",
    "log.after_index",
    "log.after_segment",
    "log.before_clean",
    "log.after_clean",
    "log.tail_cut",
    "log.clean_removed",
];

/// How the embedded log behaves. What is stored does not depend on it, but for the number of partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// Partitions of each stream, from 1. Fixed when the log is created.
    pub partitions: u16,
    /// A segment is sealed when the next group would make it larger. At most 1 GiB.
    pub segment_bytes: u32,
    /// Largest value of a record in bytes. At most 64 MiB.
    pub max_record_bytes: usize,
    /// Most bytes that become durable together, if there is more than one record. At most 64 MiB.
    pub group_bytes: usize,
    /// Most records that become durable together.
    pub group_records: usize,
    /// Most bytes that wait to be written; beyond, appends are answered [`AppendError::Full`].
    pub queue_bytes: usize,
    /// How long the contents of sealed segments are checked at start. What is left is for [`EmbeddedLog::scrub`].
    pub check_at_start: Duration,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            partitions: 8,
            segment_bytes: 64 << 20,
            max_record_bytes: 1 << 20,
            group_bytes: 1 << 20,
            group_records: 1024,
            queue_bytes: 64 << 20,
            check_at_start: Duration::from_secs(1),
        }
    }
}

impl EmbeddedOptions {
    /// Keeps every place in a segment within 32 bits.
    fn check(&self, dir: &Path) -> Result<(), LogError> {
        const LARGEST: usize = 64 << 20;
        let fits = self.partitions > 0
            && (1..=1 << 30).contains(&self.segment_bytes)
            && (1..=LARGEST).contains(&self.max_record_bytes)
            && self.group_bytes <= LARGEST
            && self.group_records > 0;
        if fits {
            Ok(())
        } else {
            Err(mismatch(dir, "an option of the log is out of its bounds"))
        }
    }
}

/// The log in a directory. Dropping it closes it, and waits for that.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    writer: Option<Writer>,
}

/// The appending side, absent where the log is only read.
struct Writer {
    queue: Arc<Queue>,
    max_record_bytes: usize,
    /// What came of the appender's thread, once it has ended.
    ended: watch::Receiver<Option<Result<(), LogError>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("dir", &self.shared.dir)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or creates it there, for this process alone. Blocks while it checks and repairs.
    ///
    /// Errors: `Locked`, `Mismatch` (another number of partitions or version), `Damaged` (with the place), `Io`.
    pub fn open(dir: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Arc<Self>, LogError> {
        let dir = dir.as_ref();
        options.check(dir)?;
        std::fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
        let lock = lock(dir)?;
        let (found, tail) = recover::for_appending(dir, options.partitions)?;
        let (ends, shared) = share(dir, found);
        scan::check_newest(&shared, options.check_at_start)?;
        recover::begin_appending(dir, &tail)?;
        Self::start(shared, ends, tail, lock, options)
    }

    /// Starts the appender at the end of a log that was opened.
    fn start(
        shared: Arc<Shared>,
        ends: Vec<watch::Sender<Offset>>,
        tail: Tail,
        lock: File,
        options: EmbeddedOptions,
    ) -> Result<Arc<Self>, LogError> {
        let queue = Arc::new(Queue::new(options.queue_bytes));
        let max_record_bytes = options.max_record_bytes;
        let (tell, ended) = watch::channel(None);
        let appender = Appender {
            shared: shared.clone(),
            queue: queue.clone(),
            options,
            ends,
            tail,
            rolling: false,
            lock,
        };
        let thread = std::thread::Builder::new()
            .name("log-appender".into())
            .spawn(move || {
                let result = appender.run();
                tell.send_replace(Some(result));
            })
            .map_err(|e| io_error(&shared.dir, e))?;
        let writer = Writer {
            queue,
            max_record_bytes,
            ended,
            thread: Mutex::new(Some(thread)),
        };
        Ok(Arc::new(Self {
            shared,
            writer: Some(writer),
        }))
    }

    /// Opens the log in `dir` for reading up to its present end, while another process may go on appending.
    ///
    /// Appends answer `Closed`; so do reads once they have reached that end. What is read was written whole, but the
    /// last of it may not have been durable yet.
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Arc<Self>, LogError> {
        let dir = dir.as_ref();
        let (_, shared) = share(dir, recover::for_reading(dir)?);
        Ok(Arc::new(Self { shared, writer: None }))
    }

    /// The log's identity, drawn at random when it was created.
    pub fn log_id(&self) -> Uuid {
        self.shared.log_id
    }

    /// The records of all partitions in the order in which they were written, up to the present end. Blocks.
    ///
    /// Goes through the files once, so it is the fast way to read everything. `from` names the first position wanted
    /// of a partition; those not named are read from 0. A value shares the memory of its whole group.
    pub fn read_all(&self, from: &[Position]) -> Result<Records, LogError> {
        Records::new(self.shared.clone(), from)
    }

    /// Checks every byte up to the present end. Blocks. `Damaged` names the place.
    pub fn scrub(&self) -> Result<Scrubbed, LogError> {
        scan::scrub(&self.shared)
    }

    /// Length in bytes of each group that one fdatasync made durable, in the order of writing. Reads the whole log.
    /// Blocks.
    pub fn group_lengths(&self) -> Result<Vec<u64>, LogError> {
        scan::group_lengths(&self.shared)
    }

    /// Waits until the log takes nothing more, and says why: its disk failed, or a fault of the program. Never for a log that is
    /// only read, nor because it was closed.
    pub async fn failed(&self) -> LogError {
        let Some(writer) = &self.writer else {
            return future::pending().await;
        };
        let mut ended = writer.ended.clone();
        let failure = match ended.wait_for(Option::is_some).await {
            Ok(result) => match &*result {
                Some(Ok(())) => None,
                Some(Err(e)) => Some(e.clone()),
                None => Some(LogError::Closed),
            },
            // Its thread is gone, and left no word.
            Err(_) => Some(LogError::Closed),
        };
        match failure {
            Some(e) => e,
            None => future::pending().await,
        }
    }

    /// Writes what is queued, marks the end as clean and releases the directory. May be called again.
    ///
    /// The error is what ended the log, if it was not this call.
    pub async fn close(&self) -> Result<(), LogError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        writer.queue.close();
        let mut ended = writer.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(LogError::Closed)),
            Err(_) => Err(LogError::Closed),
        }
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        if let Some(writer) = &self.writer {
            writer.queue.close();
            if let Some(thread) = writer.thread.lock().take() {
                let _ = thread.join();
            }
        }
    }
}

/// Takes the directory for this process.
/// Takes a folder for this process, until the file is dropped.
///
/// Errors: `Locked` where another process has it; `Io`.
pub fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(files::LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked(dir.display().to_string())),
        Err(TryLockError::Error(e)) => Err(io_error(&path, e)),
    }
}

fn share(dir: &Path, found: Found) -> (Vec<watch::Sender<Offset>>, Arc<Shared>) {
    let (senders, ends) = found.ends.iter().map(|end| watch::channel(*end)).unzip();
    let shared = Shared {
        dir: dir.to_owned(),
        log_id: found.log_id,
        slots: found.slots,
        state: RwLock::new(found.state),
        ends,
    };
    (senders, Arc::new(shared))
}

impl EmbeddedLog {
    fn no_such_partition(&self, stream: Stream, partition: Partition) -> LogError {
        mismatch(
            &self.shared.dir,
            format!(
                "it has {} partitions, none for {stream}:{partition}",
                self.shared.slots.partitions
            ),
        )
    }
}

impl EventLog for EmbeddedLog {
    fn partitions(&self) -> u16 {
        self.shared.slots.partitions
    }

    /// A partition that the log does not have is answered `Closed`: nothing will ever be written there.
    fn append(
        &self,
        stream: Stream,
        partition: Partition,
        record: Record,
    ) -> BoxFuture<'static, Result<Position, AppendError>> {
        let (Some(writer), Some(slot)) = (&self.writer, self.shared.slots.of(stream, partition)) else {
            return future::ready(Err(AppendError::Closed)).boxed();
        };
        let (size, limit) = (record.value.len(), writer.max_record_bytes);
        if size > limit {
            return future::ready(Err(AppendError::TooLarge { size, limit })).boxed();
        }
        match writer.queue.push(
            slot,
            Position {
                stream,
                partition,
                offset: 0,
            },
            record,
        ) {
            Ok(answer) => answer
                .map(|answer| {
                    answer.unwrap_or_else(|_| Err(AppendError::Unknown("the log's thread ended".into())))
                })
                .boxed(),
            Err(e) => future::ready(Err(e)).boxed(),
        }
    }

    /// Must be polled within a tokio runtime. A value shares the memory of the piece that was read, up to 1 MiB.
    /// Once the log is closed, the stream yields what is left and then `Closed`.
    fn read(
        &self,
        stream: Stream,
        partition: Partition,
        from: Offset,
    ) -> BoxStream<'static, Result<Entry, LogError>> {
        match self.shared.slots.of(stream, partition) {
            Some(slot) => reader::stream(self.shared.clone(), slot, (stream, partition), from),
            None => stream::iter([Err(self.no_such_partition(stream, partition))]).boxed(),
        }
    }

    fn read_to_end(&self, from: &[Position]) -> Result<EntryIter, LogError> {
        Ok(Box::new(self.read_all(from)?))
    }

    fn end(&self, stream: Stream, partition: Partition) -> BoxFuture<'static, Result<Offset, LogError>> {
        let end = match self.shared.slots.of(stream, partition) {
            Some(slot) => Ok(*self.shared.ends[slot].borrow()),
            None => Err(self.no_such_partition(stream, partition)),
        };
        future::ready(end).boxed()
    }
}
