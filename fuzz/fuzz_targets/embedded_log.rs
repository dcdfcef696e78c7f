//! Any bytes as a segment file: opening, reading, checking and repairing a log never panics, what is read is in order,
//! and a log that was repaired reads the same again.
//!
//! Checksums would keep a fuzzer out of all but the first lines, so an input may ask for them to be made right, and may
//! be a list of edits to an intact segment instead of the segment itself.

#![no_main]

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::LazyLock;

use bytes::Bytes;
use futures::executor::block_on;
use gatelog_events::ids::{CommitId, Offset, Partition, Stream};
use gatelog_events::log::embedded::{EmbeddedLog, EmbeddedOptions};
use gatelog_events::log::{Entry, EventLog, LogError, Record, RecordHeader, RecordKind};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

// Places in the stored form, which is frozen (events/src/log/embedded/format.rs).
const SEGMENT_NUMBER: Range<usize> = 16..24;
const LOG_ID: Range<usize> = 24..40;
const GROUP_HEADER: usize = 24;
const RECORD_HEADER: usize = 60;

/// Bits of an input's first byte.
const EDITS_AN_INTACT_SEGMENT: u8 = 1;
const MENDS_CHECKSUMS: u8 = 2;
const OPENS_FOR_APPENDING: u8 = 4;

/// Where the log lies: in the folder that scripts/fuzz makes, if it runs this.
static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
    let parent = std::env::var_os("FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    parent.join(format!("log-{}", std::process::id()))
});

/// A segment with a claim and some commits in two partitions, in several groups.
static INTACT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    fresh_dir();
    let log = EmbeddedLog::open(&*DIR, options()).expect("a new log can be made");
    for n in 0..6u8 {
        let kind = if n == 0 {
            RecordKind::Claim
        } else {
            RecordKind::Commit
        };
        let header = RecordHeader {
            kind,
            commit_id: CommitId(Uuid::nil()),
            epoch: 0,
            seq: n.into(),
            aggregate_version: 1,
        };
        let value = Bytes::from(vec![b'a' + n; 7 * usize::from(n)]);
        let written = log.append(
            Stream::Identity,
            Partition(u16::from(n % 2)),
            Record { header, value },
        );
        block_on(written).expect("a new log takes records");
    }
    block_on(log.close()).expect("a log can be closed");
    let mut segment = fs::read(segment_path()).expect("a log has a first segment");
    // Its random identity would make findings hard to repeat.
    segment[LOG_ID].fill(0);
    mend(&mut segment);
    segment
});

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        partitions: 2,
        ..EmbeddedOptions::default()
    }
}

fn segment_path() -> PathBuf {
    DIR.join("0000000001.log")
}

fn fresh_dir() {
    let _ = fs::remove_dir_all(&*DIR);
    fs::create_dir_all(&*DIR).expect("a folder can be made");
}

/// Applies edits of four bytes each: a place (two bytes), what to do there, and with which byte.
fn edit(segment: &mut Vec<u8>, edits: &[u8]) {
    for edit in edits.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % (segment.len() + 1);
        match edit[2] % 4 {
            0 => segment.insert(at, edit[3]),
            1 => segment.truncate(at),
            _ if at == segment.len() => segment.push(edit[3]),
            2 => segment[at] = edit[3],
            _ => drop(segment.drain(at..(at + usize::from(edit[3])).min(segment.len()))),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// Writes the CRC-32 of `parts` at `at`.
fn put_crc(bytes: &mut [u8], at: usize, parts: &[Range<usize>]) {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(&bytes[part.clone()]));
    bytes[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// Makes every checksum right that can be found by following the lengths.
fn mend(segment: &mut [u8]) -> Option<()> {
    let (partitions, streams) = (u16_at(segment, 10)?, u16_at(segment, 12)?);
    let header_end = 48 + streams * (1 + 8 * partitions) + 4;
    segment.get(..header_end)?;
    put_crc(segment, header_end - 4, &[0..header_end - 4]);
    let mut at = header_end;
    loop {
        segment.get(at..at + GROUP_HEADER)?;
        put_crc(segment, at + 20, &[LOG_ID, SEGMENT_NUMBER, at..at + 20]);
        let end = at + GROUP_HEADER + u32_at(segment, at + 4)?;
        at += GROUP_HEADER;
        while at < end {
            let record_end = at + RECORD_HEADER + u32_at(segment, at + 4)?;
            segment.get(at..record_end)?;
            put_crc(segment, at, &[at + 4..record_end]);
            at = record_end;
        }
    }
}

/// All records, which must be in order; or why not.
fn read(log: &EmbeddedLog) -> Result<Vec<Entry>, LogError> {
    let mut next: HashMap<(Stream, Partition), Offset> = HashMap::new();
    let mut entries = Vec::new();
    for entry in log.read_all(&[])? {
        let entry = entry?;
        let position = entry.position;
        let least = next.entry((position.stream, position.partition)).or_default();
        assert!(position.offset >= *least, "{position} came after a later one");
        *least = position.offset.saturating_add(1);
        entries.push(entry);
    }
    Ok(entries)
}

fn read_only() -> Result<Vec<Entry>, LogError> {
    let log = EmbeddedLog::open_read_only(&*DIR)?;
    let entries = read(&log)?;
    if let Ok(scrubbed) = log.scrub() {
        assert_eq!(scrubbed.records, entries.len() as u64);
    }
    Ok(entries)
}

fn repaired() -> Result<(), LogError> {
    let log = EmbeddedLog::open(&*DIR, options())?;
    let entries = read(&log)?;
    block_on(log.close())?;
    drop(log);
    let again = read_only().expect("a log that was repaired and closed can be read");
    assert_eq!(again, entries);
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let Some((flags, rest)) = input.split_first() else {
        return;
    };
    let mut segment = rest.to_vec();
    if flags & EDITS_AN_INTACT_SEGMENT != 0 {
        segment = INTACT.clone();
        edit(&mut segment, rest);
    }
    if flags & MENDS_CHECKSUMS != 0 {
        mend(&mut segment);
    }
    fresh_dir();
    fs::write(segment_path(), &segment).expect("a file can be written");
    let _ = if flags & OPENS_FOR_APPENDING != 0 {
        repaired()
    } else {
        read_only().map(drop)
    };
});
