//! Going through a segment file from its start: groups, and the records in them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::files;
use super::format::{
    self, BadHeader, GROUP_HEADER, GROUP_MAGIC, GroupSeal, SEGMENT_PREFIX, SegmentHeader, Slots,
};
use crate::ids::Offset;
use crate::log::{Entry, LogError};

/// How much is read from a file at once.
const CHUNK: usize = 1 << 20;

/// Reads and checks the header of a segment file. The open file comes with it.
pub fn open(dir: &Path, number: u64) -> Result<(File, SegmentHeader), LogError> {
    let path = files::segment_path(dir, number);
    let io = |e| files::io_error(&path, e);
    let file = File::open(&path).map_err(io)?;
    let refuse = |bad| match bad {
        BadHeader::Damaged(what) => files::damaged(&path, 0, what),
        BadHeader::Foreign(what) => files::mismatch(&path, what),
    };
    let mut prefix = [0; SEGMENT_PREFIX];
    let got = files::read_full(&file, 0, &mut prefix).map_err(io)?;
    let len = SegmentHeader::expected_len(&prefix[..got]).map_err(refuse)?;
    if len as u64 > file.metadata().map_err(io)?.len() {
        return Err(files::damaged(&path, 0, "the header is cut off"));
    }
    let mut bytes = vec![0; len];
    let got = files::read_full(&file, 0, &mut bytes).map_err(io)?;
    let header = SegmentHeader::decode(&bytes[..got]).map_err(refuse)?;
    if header.segment != number {
        return Err(files::damaged(
            &path,
            0,
            format!("it is segment {} under another name", header.segment),
        ));
    }
    Ok((file, header))
}

/// Why going through a segment ended before its end.
#[derive(Debug)]
pub enum Broken {
    Io(io::Error),
    /// The bytes from `at` on are not what an appender would have written there.
    Bad {
        at: u64,
        what: &'static str,
    },
}

impl Broken {
    pub fn at(self, path: &Path) -> LogError {
        match self {
            Broken::Io(e) => files::io_error(path, e),
            Broken::Bad { at, what } => files::damaged(path, at, what),
        }
    }
}

/// The next offset of each slot: tells whether records follow one another without gap or repetition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    pub slots: Slots,
    pub ends: Vec<Offset>,
}

impl Tally {
    /// Counts a record. Answers its slot.
    fn count(&mut self, entry: &Entry) -> Result<usize, &'static str> {
        let p = entry.position;
        let slot = self
            .slots
            .of(p.stream, p.partition)
            .ok_or("a record is of a partition the log does not have")?;
        if p.offset != self.ends[slot] {
            return Err("a record's offset does not follow the one before");
        }
        self.ends[slot] += 1;
        Ok(slot)
    }
}

/// One record with its slot and its place in the file.
#[derive(Debug)]
pub struct Placed {
    pub slot: usize,
    pub at: u64,
    pub entry: Entry,
}

/// Reads the groups of a segment one after the other, checking everything.
#[derive(Debug)]
pub struct Groups {
    file: Arc<File>,
    path: PathBuf,
    seal: GroupSeal,
    /// Place of the next group.
    at: u64,
    /// Where to stop.
    end: u64,
    /// Number of the next group.
    number: u64,
    tally: Tally,
    /// What was read already, from `at` on.
    read: BytesMut,
}

impl Groups {
    /// From the first group after the header up to the byte `end` of the file.
    pub fn new(dir: &Path, file: Arc<File>, header: &SegmentHeader, end: u64) -> Self {
        Self {
            file,
            path: files::segment_path(dir, header.segment),
            seal: GroupSeal::new(header.log_id, header.segment),
            at: header.len() as u64,
            end,
            number: header.first_group,
            tally: Tally {
                slots: Slots {
                    partitions: header.partitions,
                },
                ends: header.starts.clone(),
            },
            read: BytesMut::new(),
        }
    }

    /// The place after the last good group, its successor's number and the offsets that follow.
    pub fn reached(&self) -> (u64, u64, &Tally) {
        (self.at, self.number, &self.tally)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was read ahead, so that bytes written meanwhile are seen, up to `end`.
    pub fn refresh(&mut self, end: u64) {
        self.read.clear();
        self.end = end;
    }

    /// The records of the next group, into `group`; `false` at the end. After an error the place stays where it was.
    pub fn next(&mut self, group: &mut Vec<Placed>) -> Result<bool, Broken> {
        group.clear();
        if self.at >= self.end {
            return Ok(false);
        }
        let at = self.at;
        let bad = |what| Broken::Bad { at, what };
        if !self.fill(GROUP_HEADER)? {
            return Err(bad("a group is cut off"));
        }
        let header = self
            .seal
            .decode(&self.read)
            .ok_or_else(|| bad("this is not the start of a group"))?;
        if header.number != self.number {
            return Err(bad("a group is missing before this one"));
        }
        let len = GROUP_HEADER + header.bytes as usize;
        if !self.fill(len)? {
            return Err(bad("a group is cut off"));
        }
        let bytes = self.read.split_to(len).freeze();
        let mut tally = self.tally.clone();
        match records(&bytes, header.records, at, &mut tally, group) {
            Ok(()) => {
                self.tally = tally;
                self.at += len as u64;
                self.number += 1;
                Ok(true)
            }
            Err((place, what)) => {
                self.read.clear();
                group.clear();
                Err(Broken::Bad { at: place, what })
            }
        }
    }

    /// Goes on to the end, calling `each` for every record.
    pub fn finish(&mut self, mut each: impl FnMut(&Placed)) -> Result<(), Broken> {
        let mut group = Vec::new();
        while self.next(&mut group)? {
            group.iter().for_each(&mut each);
        }
        Ok(())
    }

    /// Sees to it that `n` bytes from `at` on are in memory. `false` if the file ends before.
    fn fill(&mut self, n: usize) -> Result<bool, Broken> {
        let have = self.read.len();
        if have >= n {
            return Ok(true);
        }
        let left = (self.end - self.at) as usize;
        if left < n {
            return Ok(false);
        }
        self.read.resize(left.min(n.max(CHUNK)), 0);
        let got = files::read_full(&self.file, self.at + have as u64, &mut self.read[have..])
            .map_err(Broken::Io)?;
        self.read.truncate(have + got);
        Ok(self.read.len() >= n)
    }
}

/// Reads the records of one whole group that begins at `at` in the file. `Err` holds place and reason.
fn records(
    group: &Bytes,
    count: u32,
    at: u64,
    tally: &mut Tally,
    out: &mut Vec<Placed>,
) -> Result<(), (u64, &'static str)> {
    let mut from = GROUP_HEADER;
    while from < group.len() {
        let place = at + from as u64;
        let entry = format::get_record(group, from).map_err(|what| (place, what))?;
        let slot = tally.count(&entry).map_err(|what| (place, what))?;
        from += format::RECORD_HEADER + entry.record.value.len();
        out.push(Placed {
            slot,
            at: place,
            entry,
        });
    }
    if out.len() != count as usize {
        return Err((at, "a group has another number of records than it says"));
    }
    Ok(())
}

/// The place of the first whole, intact group at `from` or after it, wherever it begins.
pub fn find_group(file: &File, log_id: Uuid, segment: u64, from: u64, end: u64) -> io::Result<Option<u64>> {
    let seal = GroupSeal::new(log_id, segment);
    let mut window = vec![0; CHUNK];
    let mut at = from;
    while at + (GROUP_HEADER as u64) <= end {
        let got = files::read_full(file, at, &mut window)?;
        let places = window[..got].windows(GROUP_MAGIC.len()).enumerate();
        for (i, _) in places.filter(|(_, w)| **w == GROUP_MAGIC) {
            if is_group(file, &seal, at + i as u64, end)? {
                return Ok(Some(at + i as u64));
            }
        }
        if got < window.len() {
            break;
        }
        at += (got - GROUP_MAGIC.len() + 1) as u64;
    }
    Ok(None)
}

fn is_group(file: &File, seal: &GroupSeal, at: u64, end: u64) -> io::Result<bool> {
    let mut header = [0; GROUP_HEADER];
    let got = files::read_full(file, at, &mut header)?;
    let Some(group) = seal.decode(&header[..got]) else {
        return Ok(false);
    };
    if at + (GROUP_HEADER as u64) + u64::from(group.bytes) > end {
        return Ok(false);
    }
    let mut bytes = vec![0; group.bytes as usize];
    let got = files::read_full(file, at + GROUP_HEADER as u64, &mut bytes)?;
    bytes.truncate(got);
    let bytes = Bytes::from(bytes);
    let (mut from, mut count) = (0, 0u32);
    while from < bytes.len() {
        let Ok(entry) = format::get_record(&bytes, from) else {
            return Ok(false);
        };
        from += format::RECORD_HEADER + entry.record.value.len();
        count += 1;
    }
    Ok(count == group.records && from == group.bytes as usize)
}
