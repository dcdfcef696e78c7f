//! The index of a sealed segment: where each partition's records stand, so that reads need not go through the file.
//!
//! ```text
//! magic 8 · version u16 · 0 u16 · slots u32 · segment u64 · log id 16 · segment's length u64 · next group u64
//! · per slot: number of records u32, CRC of their places u32 · CRC u32
//! then per slot, in order, the place of each record in the segment file, u32 each, ascending
//! ```
//!
//! The offset of a slot's first record stands in the segment's header. An index can be made from its segment again:
//! a missing or damaged one is rebuilt at the next start.

use std::fs::File;
use std::path::Path;

use uuid::Uuid;

use super::files;
use super::format::{Fields, INDEX_MAGIC, VERSION, seal, unseal};
use crate::log::LogError;

const FIXED: usize = 56;

/// What an index says without its places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub segment: u64,
    pub log_id: Uuid,
    /// Length of the segment file in bytes.
    pub len: u64,
    /// Number of the group after the segment's last.
    pub next_group: u64,
    /// Per slot: number of records, and CRC of their places.
    counts: Vec<(u32, u32)>,
}

impl Summary {
    pub fn count(&self, slot: usize) -> u32 {
        self.counts[slot].0
    }

    fn header_len(slots: usize) -> usize {
        FIXED + 8 * slots + 4
    }

    fn encode(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(Self::header_len(self.counts.len()));
        b.extend_from_slice(&INDEX_MAGIC);
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(&[0; 2]);
        b.extend_from_slice(&(self.counts.len() as u32).to_le_bytes());
        b.extend_from_slice(&self.segment.to_le_bytes());
        b.extend_from_slice(self.log_id.as_bytes());
        b.extend_from_slice(&self.len.to_le_bytes());
        b.extend_from_slice(&self.next_group.to_le_bytes());
        for (count, crc) in &self.counts {
            b.extend_from_slice(&count.to_le_bytes());
            b.extend_from_slice(&crc.to_le_bytes());
        }
        seal(b)
    }

    fn decode(bytes: &[u8], slots: usize) -> Option<Self> {
        let mut f = Fields(unseal(bytes)?);
        let known = f.array()? == INDEX_MAGIC && f.u16()? == VERSION && f.u16().is_some();
        if !known || f.u32()? as usize != slots {
            return None;
        }
        let mut summary = Self {
            segment: f.u64()?,
            log_id: Uuid::from_bytes(f.array()?),
            len: f.u64()?,
            next_group: f.u64()?,
            counts: Vec::with_capacity(slots),
        };
        for _ in 0..slots {
            summary.counts.push((f.u32()?, f.u32()?));
        }
        Some(summary)
    }
}

fn places_bytes(places: &[u32]) -> Vec<u8> {
    places.iter().flat_map(|p| p.to_le_bytes()).collect()
}

/// Writes the index of a segment durably. `places` holds, per slot, where its records begin.
pub fn write(
    dir: &Path,
    (segment, log_id): (u64, Uuid),
    (len, next_group): (u64, u64),
    places: &[Vec<u32>],
) -> std::io::Result<()> {
    let sections: Vec<Vec<u8>> = places.iter().map(|p| places_bytes(p)).collect();
    let counts = sections
        .iter()
        .map(|s| ((s.len() / 4) as u32, crc32fast::hash(s)))
        .collect();
    let header = Summary {
        segment,
        log_id,
        len,
        next_group,
        counts,
    }
    .encode();
    let mut parts: Vec<&[u8]> = vec![&header];
    parts.extend(sections.iter().map(Vec::as_slice));
    files::write_durably(&files::index_path(dir, segment), &parts)
}

/// Opens an index and checks its header and size, not its places.
pub fn open(dir: &Path, segment: u64, slots: usize) -> Result<(File, Summary), LogError> {
    let path = files::index_path(dir, segment);
    let io = |e| files::io_error(&path, e);
    let file = File::open(&path).map_err(io)?;
    let mut header = vec![0; Summary::header_len(slots)];
    let got = files::read_full(&file, 0, &mut header).map_err(io)?;
    let summary = Summary::decode(&header[..got], slots)
        .filter(|s| s.segment == segment)
        .ok_or_else(|| files::damaged(&path, 0, "the header is not right"))?;
    let places: u64 = summary.counts.iter().map(|(n, _)| 4 * u64::from(*n)).sum();
    let len = file.metadata().map_err(io)?.len();
    if len != header.len() as u64 + places {
        return Err(files::damaged(
            &path,
            len,
            "the index has another length than it says",
        ));
    }
    Ok((file, summary))
}

/// The places of one slot's records.
pub fn places(dir: &Path, segment: u64, slots: usize, slot: usize) -> Result<Vec<u32>, LogError> {
    let path = files::index_path(dir, segment);
    let (file, summary) = open(dir, segment, slots)?;
    let before: u64 = summary.counts[..slot]
        .iter()
        .map(|(n, _)| 4 * u64::from(*n))
        .sum();
    let at = Summary::header_len(slots) as u64 + before;
    let (count, crc) = summary.counts[slot];
    let mut bytes = vec![0; 4 * count as usize];
    let got = files::read_full(&file, at, &mut bytes).map_err(|e| files::io_error(&path, e))?;
    if crc32fast::hash(&bytes[..got]) != crc {
        return Err(files::damaged(
            &path,
            at,
            "the places of a partition are not right; the next start rebuilds them",
        ));
    }
    let (whole, _) = bytes.as_chunks::<4>();
    Ok(whole.iter().map(|p| u32::from_le_bytes(*p)).collect())
}

/// Whether all of an index is intact.
pub fn is_intact(dir: &Path, segment: u64, slots: usize) -> Result<(), LogError> {
    (0..slots).try_for_each(|slot| places(dir, segment, slots, slot).map(drop))
}
