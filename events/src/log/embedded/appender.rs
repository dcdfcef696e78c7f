//! The thread that writes: it takes all that was queued, makes it one group, one write and one fdatasync, and answers.
//!
//! There is no timer. A group is what arrived while the one before was being made durable.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures::channel::oneshot;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::format::{self, GROUP_HEADER, GroupHeader, GroupSeal, RECORD_HEADER, STREAMS, SegmentHeader};
use super::marker::Marker;
use super::state::{Segment, Shared};
use super::{EmbeddedOptions, files, index};
use crate::failpoint;
use crate::ids::{Offset, Position};
use crate::log::{AppendError, LogError, Record};

pub type Answer = Result<Position, AppendError>;

/// One record on its way to the disk. Its position has the offset 0 until the appender gives it one.
pub struct Pending {
    slot: usize,
    position: Position,
    record: Record,
    done: oneshot::Sender<Answer>,
}

impl Pending {
    fn bytes(&self) -> usize {
        RECORD_HEADER + self.record.value.len()
    }
}

/// What waits to be written, in the order of the calls.
pub struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    max_bytes: usize,
}

#[derive(Default)]
struct Waiting {
    records: VecDeque<Pending>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    pub fn new(max_bytes: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            max_bytes,
        }
    }

    /// Queues a record.
    pub fn push(
        &self,
        slot: usize,
        position: Position,
        record: Record,
    ) -> Result<oneshot::Receiver<Answer>, AppendError> {
        let (done, answer) = oneshot::channel();
        let pending = Pending {
            slot,
            position,
            record,
            done,
        };
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(AppendError::Closed);
        }
        let bytes = waiting.bytes + pending.bytes();
        if bytes > self.max_bytes && !waiting.records.is_empty() {
            return Err(AppendError::Full(format!(
                "{} bytes wait to be written",
                waiting.bytes
            )));
        }
        waiting.bytes = bytes;
        waiting.records.push_back(pending);
        if waiting.records.len() == 1 {
            self.arrived.notify_one();
        }
        Ok(answer)
    }

    /// Takes no more; what is queued is still written.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Takes no more, and answers what is queued: it will not be written.
    fn reject_all(&self) {
        let rejected = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            waiting.bytes = 0;
            std::mem::take(&mut waiting.records)
        };
        for pending in rejected {
            let _ = pending.done.send(Err(AppendError::Closed));
        }
    }

    /// Waits for records and takes as many as one group may hold. `false`: closed, and all was taken.
    fn take(&self, options: &EmbeddedOptions, group: &mut Vec<Pending>) -> bool {
        let mut waiting = self.waiting.lock();
        while waiting.records.is_empty() {
            if waiting.closed {
                return false;
            }
            self.arrived.wait(&mut waiting);
        }
        let mut bytes = 0;
        while let Some(next) = waiting.records.front() {
            bytes += next.bytes();
            let full = bytes > options.group_bytes || group.len() == options.group_records;
            if full && !group.is_empty() {
                break;
            }
            group.extend(waiting.records.pop_front());
        }
        waiting.bytes -= group.iter().map(Pending::bytes).sum::<usize>();
        true
    }
}

/// Why a group was not made durable.
enum Failure {
    /// Nothing of it is in the file; the log goes on.
    DiskFull(io::Error),
    /// Nobody can tell what the disk holds. The log must end: a failed fsync is never tried again.
    Fatal(io::Error),
}

/// Owner of the end of the log.
pub struct Appender {
    pub shared: Arc<Shared>,
    pub queue: Arc<Queue>,
    pub options: EmbeddedOptions,
    /// Per slot, tells readers the end. Dropped when the log ends, by whatever way.
    pub ends: Vec<watch::Sender<Offset>>,
    pub tail: Tail,
    /// A roll was begun and has not succeeded: nothing may be appended before it has, as the next segment may be there.
    pub rolling: bool,
    /// Held as long as the log is open.
    pub lock: File,
}

/// Where the next group goes.
pub struct Tail {
    pub file: File,
    pub segment: u64,
    /// Length of the file up to its last whole group.
    pub at: u64,
    /// Number of the first group of this segment.
    pub first_group: u64,
    pub next_group: u64,
    pub offsets: Vec<Offset>,
    pub seal: GroupSeal,
}

impl Appender {
    /// Writes until the log is closed or the disk fails.
    pub fn run(mut self) -> Result<(), LogError> {
        let mut group = Vec::new();
        let mut bytes = Vec::new();
        let mut places = Vec::new();
        while self.queue.take(&self.options, &mut group) {
            match self.write(&mut group, &mut bytes, &mut places) {
                Ok(()) => {
                    self.publish(&group, &places, bytes.len());
                    for p in group.drain(..) {
                        let _ = p.done.send(Ok(p.position));
                    }
                }
                Err(Failure::DiskFull(e)) => {
                    tracing::error!(error = %e, "the log cannot grow");
                    for p in group.drain(..) {
                        let _ = p.done.send(Err(AppendError::Full(e.to_string())));
                    }
                }
                Err(Failure::Fatal(e)) => {
                    let path = files::segment_path(&self.shared.dir, self.tail.segment);
                    tracing::error!(error = %e, place = %path.display(), "the log's disk failed; the log ends");
                    for p in group.drain(..) {
                        let _ = p.done.send(Err(AppendError::Unknown(e.to_string())));
                    }
                    self.queue.reject_all();
                    return Err(files::io_error(&path, e));
                }
            }
        }
        self.mark_clean()
    }

    /// Makes the group durable, as one write and one fdatasync.
    fn write(
        &mut self,
        group: &mut [Pending],
        bytes: &mut Vec<u8>,
        places: &mut Vec<u32>,
    ) -> Result<(), Failure> {
        let len = GROUP_HEADER + group.iter().map(Pending::bytes).sum::<usize>();
        let is_empty = self.tail.next_group == self.tail.first_group;
        let is_full = self.tail.at + len as u64 > u64::from(self.options.segment_bytes) && !is_empty;
        if is_full || self.rolling {
            self.rolling = true;
            self.roll()?;
            self.rolling = false;
        }
        self.encode(group, bytes, places);
        failpoint::hit("log.before_write");
        if let Err(e) = write_group(&self.tail.file, bytes, self.tail.at) {
            return Err(self.undo(group, e));
        }
        failpoint::hit("log.before_sync");
        self.tail.file.sync_data().map_err(Failure::Fatal)?;
        failpoint::hit("log.after_sync");
        Ok(())
    }

    /// Gives each record its offset and lays out the group in `bytes`; `places` says where each record begins.
    fn encode(&mut self, group: &mut [Pending], bytes: &mut Vec<u8>, places: &mut Vec<u32>) {
        bytes.clear();
        bytes.resize(GROUP_HEADER, 0);
        places.clear();
        for pending in group.iter_mut() {
            let next = &mut self.tail.offsets[pending.slot];
            pending.position.offset = *next;
            *next += 1;
            // Fits: the options keep a segment, and a group larger than one, below 4 GiB.
            places.push((self.tail.at + bytes.len() as u64) as u32);
            format::put_record(bytes, pending.position, &pending.record);
        }
        let header = self.tail.seal.encode(GroupHeader {
            bytes: (bytes.len() - GROUP_HEADER) as u32,
            records: group.len() as u32,
            number: self.tail.next_group,
        });
        bytes[..GROUP_HEADER].copy_from_slice(&header);
    }

    /// After a failed write: a full disk is no reason to end the log if the file can be cut back to what it was.
    fn undo(&mut self, group: &[Pending], error: io::Error) -> Failure {
        if !is_disk_full(&error) || self.tail.file.set_len(self.tail.at).is_err() {
            return Failure::Fatal(error);
        }
        for pending in group {
            self.tail.offsets[pending.slot] -= 1;
        }
        Failure::DiskFull(error)
    }

    /// Shows the group to readers.
    fn publish(&mut self, group: &[Pending], places: &[u32], bytes: usize) {
        self.tail.at += bytes as u64;
        self.tail.next_group += 1;
        {
            let mut state = self.shared.state.write();
            for (pending, place) in group.iter().zip(places) {
                state.places[pending.slot].push(*place);
            }
            state.len = self.tail.at;
        }
        for (end, next) in self.ends.iter().zip(&self.tail.offsets) {
            end.send_if_modified(|known| std::mem::replace(known, *next) != *next);
        }
    }

    /// Seals the segment with its index and begins the next. Can be done again after a full disk, or where the process has
    /// no file left that it may open.
    fn roll(&mut self) -> Result<(), Failure> {
        let failed = |e: io::Error| match is_disk_full(&e) || is_out_of_files(&e) {
            true => Failure::DiskFull(e),
            false => Failure::Fatal(e),
        };
        failpoint::hit("log.before_roll");
        let shared = &self.shared;
        let (dir, tail) = (&shared.dir, &mut self.tail);
        // Only this thread changes the places, so reading them keeps no reader waiting.
        index::write(
            dir,
            (tail.segment, shared.log_id),
            (tail.at, tail.next_group),
            &shared.state.read().places,
        )
        .map_err(failed)?;
        failpoint::hit("log.after_index");
        let header = SegmentHeader {
            streams: STREAMS,
            partitions: shared.slots.partitions,
            segment: tail.segment + 1,
            log_id: shared.log_id,
            first_group: tail.next_group,
            starts: tail.offsets.clone(),
        };
        let file = create_segment(dir, &header).map_err(failed)?;
        failpoint::hit("log.after_segment");
        {
            let mut state = shared.state.write();
            let sealed = tail.at;
            if let Some(last) = state.segments.last_mut() {
                last.len = sealed;
            }
            state.segments.push(Segment::new(&header));
            state.len = header.len() as u64;
            state.places.iter_mut().for_each(|p| *p = Vec::new());
        }
        tail.file = file;
        tail.segment = header.segment;
        tail.at = header.len() as u64;
        tail.first_group = tail.next_group;
        tail.seal = GroupSeal::new(shared.log_id, header.segment);
        Ok(())
    }

    fn mark_clean(&self) -> Result<(), LogError> {
        // The next segment may be there, and what is marked would not be the end: the next start looks.
        if self.rolling {
            return Ok(());
        }
        let dir = &self.shared.dir;
        failpoint::hit("log.before_clean");
        Marker {
            log_id: self.shared.log_id,
            segment: self.tail.segment,
            len: self.tail.at,
            next_group: self.tail.next_group,
        }
        .write(dir)
        .map_err(|e| files::io_error(&dir.join(files::CLEAN), e))?;
        failpoint::hit("log.after_clean");
        Ok(())
    }
}

impl Drop for Appender {
    /// However the thread ends, nobody waits for it any longer.
    fn drop(&mut self) {
        self.queue.reject_all();
        let _ = self.lock.unlock();
    }
}

fn is_disk_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// `EMFILE` and `ENFILE`, which have no kind of their own.
fn is_out_of_files(e: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(e.raw_os_error(), Some(EMFILE | ENFILE))
}

#[cfg(not(feature = "failpoints"))]
fn write_group(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)
}

#[cfg(feature = "failpoints")]
fn write_group(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    file.write_all_at(first, at)?;
    failpoint::hit("log.mid_write");
    file.write_all_at(second, at + first.len() as u64)
}

/// Creates a segment file with its header, durably, and opens it for writing.
pub fn create_segment(dir: &std::path::Path, header: &SegmentHeader) -> io::Result<File> {
    let path = files::segment_path(dir, header.segment);
    files::write_durably(&path, &[&header.encode()])?;
    File::options().read(true).write(true).open(path)
}
