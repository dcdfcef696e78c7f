//! The stored bytes of the embedded log. Frozen: a change of anything here is a new [`VERSION`].
//!
//! All numbers are little-endian. CRC is CRC-32 (IEEE, as in zlib).
//!
//! ```text
//! segment file   header | group | group | …
//! header         magic 8 · version u16 · partitions u16 · streams u16 · 0 u16 · segment u64 · log id 16 · first group u64
//!                · per stream: code u8, then for each partition the offset of its next record u64 · CRC u32
//! group          magic 4 · bytes of its records u32 · number of records u32 · group number u64
//!                · CRC u32 (over log id, segment and this header) | record | record | …
//! record         CRC u32 (over all that follows) · value length u32 · stream u8 · kind u8 · partition u16 · offset u64
//!                · epoch u64 · seq u64 · aggregate version u64 · commit id 16 · value
//! ```
//!
//! All magics hold bytes that occur in no UTF-8 text, so that no JSON value can look like a group.

use bytes::Bytes;
use uuid::Uuid;

use crate::ids::{CommitId, Offset, Partition, Position, Stream};
use crate::log::{Entry, Record, RecordHeader, RecordKind};

/// Version of the stored form.
pub const VERSION: u16 = 1;
pub const SEGMENT_MAGIC: [u8; 8] = *b"\xff\xfeGLSEG\n";
pub const INDEX_MAGIC: [u8; 8] = *b"\xff\xfeGLIDX\n";
pub const CLEAN_MAGIC: [u8; 8] = *b"\xff\xfeGLEND\n";
pub const GROUP_MAGIC: [u8; 4] = *b"\xff\xfeGG";
/// Bytes of a group's header.
pub const GROUP_HEADER: usize = 24;
/// Bytes of a record without its value.
pub const RECORD_HEADER: usize = 60;
/// Bytes at a segment's start from which its header's length follows.
pub const SEGMENT_PREFIX: usize = 48;

/// The (stream, partition) pairs of a log, numbered: all partitions of the first stream, then of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    pub partitions: u16,
}

impl Slots {
    pub fn count(self) -> usize {
        Stream::ALL.len() * usize::from(self.partitions)
    }

    /// The slot's number; `None` if the log has no such partition.
    pub fn of(self, stream: Stream, partition: Partition) -> Option<usize> {
        let stream = Stream::ALL.iter().position(|s| *s == stream)?;
        (partition.0 < self.partitions)
            .then(|| stream * usize::from(self.partitions) + usize::from(partition.0))
    }
}

/// Takes fields off the front of stored bytes.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Adds the CRC of all bytes so far.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The bytes before the CRC at the end, if it is right.
pub fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    (crc32fast::hash(body) == u32::from_le_bytes(*crc)).then_some(body)
}

/// The header of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// How many streams the header knows: those of the program that wrote it.
    pub streams: u16,
    pub partitions: u16,
    pub segment: u64,
    pub log_id: Uuid,
    /// Number of the first group that this segment holds or will hold.
    pub first_group: u64,
    /// Per slot: offset of the first record that this segment holds or will hold.
    pub starts: Vec<Offset>,
}

/// Why a segment's header was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// The bytes are not a segment's header.
    Damaged(&'static str),
    /// Written by another version of the program.
    Foreign(String),
}

/// How many streams this program knows.
pub const STREAMS: u16 = Stream::ALL.len() as u16;

impl SegmentHeader {
    /// Length of a header with these numbers of streams and partitions.
    fn len_of(streams: u16, partitions: u16) -> usize {
        SEGMENT_PREFIX + usize::from(streams) * (1 + 8 * usize::from(partitions)) + 4
    }

    pub fn len(&self) -> usize {
        Self::len_of(self.streams, self.partitions)
    }

    /// The bytes of a header that this program writes anew.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(self.len());
        b.extend_from_slice(&SEGMENT_MAGIC);
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(&self.partitions.to_le_bytes());
        b.extend_from_slice(&STREAMS.to_le_bytes());
        b.extend_from_slice(&[0; 2]);
        b.extend_from_slice(&self.segment.to_le_bytes());
        b.extend_from_slice(self.log_id.as_bytes());
        b.extend_from_slice(&self.first_group.to_le_bytes());
        for (stream, starts) in Stream::ALL
            .iter()
            .zip(self.starts.chunks(usize::from(self.partitions)))
        {
            b.push(stream.code());
            for start in starts {
                b.extend_from_slice(&start.to_le_bytes());
            }
        }
        seal(b)
    }

    /// How many bytes the header has, told from its first [`SEGMENT_PREFIX`] bytes.
    pub fn expected_len(prefix: &[u8]) -> Result<usize, BadHeader> {
        let mut f = Fields(prefix);
        if f.array() != Some(SEGMENT_MAGIC) {
            return Err(BadHeader::Damaged("this is not the start of a segment"));
        }
        match (f.u16(), f.u16(), f.u16()) {
            (Some(VERSION), Some(partitions), Some(streams)) => Ok(Self::len_of(streams, partitions)),
            (Some(other), Some(_), Some(_)) => Err(BadHeader::Foreign(format!(
                "its form has version {other}, this program knows {VERSION}; use a newer program"
            ))),
            _ => Err(BadHeader::Damaged("the header is cut off")),
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        const CUT: BadHeader = BadHeader::Damaged("the header is cut off");
        Self::expected_len(bytes)?;
        let mut f = Fields(unseal(bytes).ok_or(BadHeader::Damaged("the header's checksum is wrong"))?);
        f.array::<10>().ok_or(CUT)?;
        let partitions = f.u16().ok_or(CUT)?;
        let streams = f.u16().ok_or(CUT)?;
        f.u16().ok_or(CUT)?;
        let slots = Slots { partitions };
        let mut header = Self {
            streams,
            partitions,
            segment: f.u64().ok_or(CUT)?,
            log_id: Uuid::from_bytes(f.array().ok_or(CUT)?),
            first_group: f.u64().ok_or(CUT)?,
            // A stream that is younger than this segment begins at 0.
            starts: vec![0; slots.count()],
        };
        for _ in 0..streams {
            let code = f.u8().ok_or(CUT)?;
            let stream = Stream::from_code(code).ok_or_else(|| {
                BadHeader::Foreign(format!(
                    "it has a stream of code {code}, which this program does not know"
                ))
            })?;
            for partition in 0..partitions {
                let start = f.u64().ok_or(CUT)?;
                if let Some(slot) = slots.of(stream, Partition(partition)) {
                    header.starts[slot] = start;
                }
            }
        }
        Ok(header)
    }
}

/// Computes the CRC of group headers; it covers log and segment, so that no group of another file is ever taken.
#[derive(Debug, Clone)]
pub struct GroupSeal(crc32fast::Hasher);

/// The header of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    pub bytes: u32,
    pub records: u32,
    pub number: u64,
}

impl GroupSeal {
    pub fn new(log_id: Uuid, segment: u64) -> Self {
        let mut h = crc32fast::Hasher::new();
        h.update(log_id.as_bytes());
        h.update(&segment.to_le_bytes());
        Self(h)
    }

    fn crc(&self, header: &[u8]) -> u32 {
        let mut h = self.0.clone();
        h.update(header);
        h.finalize()
    }

    pub fn encode(&self, group: GroupHeader) -> [u8; GROUP_HEADER] {
        let mut b = [0; GROUP_HEADER];
        b[..4].copy_from_slice(&GROUP_MAGIC);
        b[4..8].copy_from_slice(&group.bytes.to_le_bytes());
        b[8..12].copy_from_slice(&group.records.to_le_bytes());
        b[12..20].copy_from_slice(&group.number.to_le_bytes());
        let crc = self.crc(&b[..20]);
        b[20..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// The header, if its magic and CRC are right.
    pub fn decode(&self, bytes: &[u8]) -> Option<GroupHeader> {
        let bytes = bytes.get(..GROUP_HEADER)?;
        let mut f = Fields(bytes);
        if f.array()? != GROUP_MAGIC {
            return None;
        }
        let group = GroupHeader {
            bytes: f.u32()?,
            records: f.u32()?,
            number: f.u64()?,
        };
        (f.u32()? == self.crc(&bytes[..20])).then_some(group)
    }
}

const fn kind_code(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Claim => 1,
        RecordKind::Commit => 2,
    }
}

/// Appends the stored form of a record to `buf`. The value is shorter than 4 GiB: the log's limit sees to it.
pub fn put_record(buf: &mut Vec<u8>, position: Position, record: &Record) {
    let at = buf.len();
    let h = &record.header;
    buf.extend_from_slice(&[0; 4]);
    buf.extend_from_slice(&(record.value.len() as u32).to_le_bytes());
    buf.extend_from_slice(&[position.stream.code(), kind_code(h.kind)]);
    buf.extend_from_slice(&position.partition.0.to_le_bytes());
    buf.extend_from_slice(&position.offset.to_le_bytes());
    buf.extend_from_slice(&h.epoch.to_le_bytes());
    buf.extend_from_slice(&h.seq.to_le_bytes());
    buf.extend_from_slice(&h.aggregate_version.to_le_bytes());
    buf.extend_from_slice(h.commit_id.as_bytes());
    buf.extend_from_slice(&record.value);
    let crc = crc32fast::hash(&buf[at + 4..]);
    buf[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Length of the record that begins at the front of `bytes`, by its own (unchecked) word.
pub fn record_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?);
    Some(RECORD_HEADER + len as usize)
}

/// Reads the record that begins at `at` in `bytes`; its value shares their memory. `Err` says what is wrong.
pub fn get_record(bytes: &Bytes, at: usize) -> Result<Entry, &'static str> {
    const CUT: &str = "a record is cut off";
    let rest = bytes.get(at..).ok_or(CUT)?;
    let len = record_len(rest).ok_or(CUT)?;
    let stored = rest.get(..len).ok_or(CUT)?;
    let mut f = Fields(stored);
    if f.u32().ok_or(CUT)? != crc32fast::hash(&stored[4..]) {
        return Err("a record's checksum is wrong");
    }
    f.u32().ok_or(CUT)?;
    let stream = Stream::from_code(f.u8().ok_or(CUT)?).ok_or("a record is of an unknown stream")?;
    let kind = match f.u8().ok_or(CUT)? {
        1 => RecordKind::Claim,
        2 => RecordKind::Commit,
        _ => return Err("a record is of an unknown kind"),
    };
    let partition = Partition(f.u16().ok_or(CUT)?);
    let offset = f.u64().ok_or(CUT)?;
    let (epoch, seq) = (f.u64().ok_or(CUT)?, f.u64().ok_or(CUT)?);
    let aggregate_version = f.u64().ok_or(CUT)?;
    let commit_id = CommitId(Uuid::from_bytes(f.array().ok_or(CUT)?));
    Ok(Entry {
        position: Position {
            stream,
            partition,
            offset,
        },
        record: Record {
            header: RecordHeader {
                kind,
                commit_id,
                epoch,
                seq,
                aggregate_version,
            },
            value: bytes.slice(at + RECORD_HEADER..at + len),
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            streams: STREAMS,
            partitions: 3,
            segment: 7,
            log_id: Uuid::from_u128(9),
            first_group: 11,
            starts: vec![1, 2, 3, 4, 5, 6],
        }
    }

    #[test]
    fn segment_headers_come_back_and_notice_every_flipped_bit() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), header().len());
        assert_eq!(
            SegmentHeader::expected_len(&bytes[..SEGMENT_PREFIX]),
            Ok(bytes.len())
        );
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        for i in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {i}");
        }
    }

    #[test]
    fn a_header_from_before_a_stream_was_added_is_read() {
        let bytes = header().encode();
        let one_stream = SEGMENT_PREFIX + 1 + 3 * 8;
        let mut old = bytes[..one_stream].to_vec();
        old[12] = 1;
        let old = seal(old);
        assert_eq!(SegmentHeader::expected_len(&old), Ok(old.len()));
        let read = SegmentHeader::decode(&old).unwrap();
        assert_eq!(
            (read.starts.as_slice(), read.len()),
            ([1, 2, 3, 0, 0, 0].as_slice(), old.len())
        );
    }

    #[test]
    fn a_group_header_is_bound_to_log_and_segment() {
        let group = GroupHeader {
            bytes: 5,
            records: 1,
            number: 3,
        };
        let seal = GroupSeal::new(Uuid::from_u128(1), 1);
        let bytes = seal.encode(group);
        assert_eq!(seal.decode(&bytes), Some(group));
        assert_eq!(GroupSeal::new(Uuid::from_u128(1), 2).decode(&bytes), None);
        assert_eq!(GroupSeal::new(Uuid::from_u128(2), 1).decode(&bytes), None);
    }

    #[test]
    fn the_stored_form_is_frozen() {
        let mut b = Vec::new();
        put_record(&mut b, position(1), &record(b"v".to_vec(), 2));
        let golden = concat!(
            "624ed54d",
            "01000000",
            "02",
            "02",
            "0500",
            "0100000000000000",
            "0200000000000000",
            "0300000000000000",
            "0400000000000000",
            "0000000000000000000000000000002a",
            "76"
        );
        assert_eq!(hex::encode(&b), golden);
    }

    fn position(offset: Offset) -> Position {
        Position {
            stream: Stream::Activity,
            partition: Partition(5),
            offset,
        }
    }

    fn record(value: Vec<u8>, epoch: u64) -> Record {
        Record {
            header: RecordHeader {
                kind: RecordKind::Commit,
                commit_id: CommitId(Uuid::from_u128(42)),
                epoch,
                seq: 3,
                aggregate_version: 4,
            },
            value: value.into(),
        }
    }

    proptest! {
        #[test]
        fn records_come_back(value in prop::collection::vec(any::<u8>(), 0..300), offset: u64, epoch: u64) {
            let mut b = vec![7; 13];
            put_record(&mut b, position(offset), &record(value.clone(), epoch));
            let entry = get_record(&b.into(), 13).unwrap();
            prop_assert_eq!(entry, Entry { position: position(offset), record: record(value, epoch) });
        }

        #[test]
        fn no_bytes_make_the_decoder_fail_hard(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = SegmentHeader::decode(&bytes);
            let _ = GroupSeal::new(Uuid::nil(), 0).decode(&bytes);
            let _ = get_record(&bytes.into(), 0);
        }
    }
}
