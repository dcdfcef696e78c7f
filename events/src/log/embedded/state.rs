//! What appender and readers share: which segments there are, and where the records of the last one stand.

use std::path::PathBuf;

use parking_lot::RwLock;
use tokio::sync::watch;
use uuid::Uuid;

use super::format::{SegmentHeader, Slots};
use crate::ids::Offset;

/// One segment file.
#[derive(Debug, Clone)]
pub struct Segment {
    pub header: SegmentHeader,
    /// Length in bytes once it is sealed; 0 for the last one, whose length is [`State::len`].
    pub len: u64,
}

impl Segment {
    pub fn new(header: &SegmentHeader) -> Self {
        Self {
            header: header.clone(),
            len: 0,
        }
    }
}

/// The durable part of the log.
#[derive(Debug)]
pub struct State {
    /// All segments, the last one being appended to. Never empty.
    pub segments: Vec<Segment>,
    /// Per slot: places of its records in the last segment.
    pub places: Vec<Vec<u32>>,
    /// Durable length of the last segment in bytes.
    pub len: u64,
}

impl State {
    /// Index of the segment that holds the slot's record of this offset, or would.
    pub fn segment_of(&self, slot: usize, offset: Offset) -> usize {
        self.segments
            .partition_point(|s| s.header.starts[slot] <= offset)
            .saturating_sub(1)
    }

    /// Durable length of a segment in bytes.
    pub fn len_of(&self, index: usize) -> u64 {
        match self.segments.get(index) {
            Some(s) if index + 1 < self.segments.len() => s.len,
            _ => self.len,
        }
    }
}

/// An open log.
#[derive(Debug)]
pub struct Shared {
    pub dir: PathBuf,
    pub log_id: Uuid,
    pub slots: Slots,
    pub state: RwLock<State>,
    /// Per slot: the offset after its last durable record. Closed when the log ends.
    pub ends: Vec<watch::Receiver<Offset>>,
}
