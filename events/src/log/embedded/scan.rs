//! Going through the whole log once, in the order in which it was written: for rebuilds, checks and copies.

use std::sync::Arc;
use std::time::Duration;

use super::segment::{self, Groups, Placed, Tally};
use super::state::{Segment, Shared};
use super::{files, index};
use crate::clock;
use crate::ids::{Offset, Position};
use crate::log::{Entry, LogError};

/// What a scrub went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Segment files.
    pub segments: u64,
    /// Records, all intact.
    pub records: u64,
    /// Bytes of the segment files.
    pub bytes: u64,
}

/// The segments as they are now, with their durable lengths.
fn snapshot(shared: &Shared) -> Vec<(Segment, u64)> {
    let state = shared.state.read();
    state
        .segments
        .iter()
        .enumerate()
        .map(|(i, s)| (s.clone(), state.len_of(i)))
        .collect()
}

fn groups(shared: &Shared, segment: &Segment, end: u64) -> Result<Groups, LogError> {
    let (file, header) = segment::open(&shared.dir, segment.header.segment)?;
    if header != segment.header {
        let path = files::segment_path(&shared.dir, header.segment);
        return Err(files::damaged(
            &path,
            0,
            "the header has changed since the log was opened",
        ));
    }
    Ok(Groups::new(&shared.dir, Arc::new(file), &header, end))
}

/// Iterator over the records of all partitions, in the order in which they were written. Blocks.
pub struct Records {
    shared: Arc<Shared>,
    /// Segments to come.
    segments: std::vec::IntoIter<(Segment, u64)>,
    current: Option<Groups>,
    ready: std::vec::IntoIter<Placed>,
    /// Per slot: records below are left out.
    from: Vec<Offset>,
    failed: bool,
}

impl Records {
    /// From the given positions on, up to the present end; partitions that are not named are read from 0.
    pub fn new(shared: Arc<Shared>, positions: &[Position]) -> Result<Self, LogError> {
        let mut from = vec![0; shared.slots.count()];
        for p in positions {
            let slot = shared.slots.of(p.stream, p.partition).ok_or_else(|| {
                files::mismatch(
                    &shared.dir,
                    format!("it has {} partitions, none for {p}", shared.slots.partitions),
                )
            })?;
            from[slot] = p.offset;
        }
        let mut segments = snapshot(&shared);
        // Segments that end below all that is asked for are passed over.
        let first = (0..from.len())
            .map(|slot| shared.state.read().segment_of(slot, from[slot]))
            .min();
        segments.drain(..first.unwrap_or(0).min(segments.len()));
        Ok(Self {
            shared,
            segments: segments.into_iter(),
            current: None,
            ready: Vec::new().into_iter(),
            from,
            failed: false,
        })
    }

    fn advance(&mut self) -> Result<Option<Entry>, LogError> {
        loop {
            for placed in self.ready.by_ref() {
                if placed.entry.position.offset >= self.from[placed.slot] {
                    return Ok(Some(placed.entry));
                }
            }
            if let Some(groups) = &mut self.current {
                let mut group = Vec::new();
                if groups.next(&mut group).map_err(|b| b.at(groups.path()))? {
                    self.ready = group.into_iter();
                    continue;
                }
            }
            let Some((segment, end)) = self.segments.next() else {
                return Ok(None);
            };
            self.current = Some(groups(&self.shared, &segment, end)?);
        }
    }
}

impl Iterator for Records {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}

/// Checks one segment in full, against the one after it too. `Err` names the place.
fn check(shared: &Shared, (segment, end): &(Segment, u64), after: Option<&Segment>) -> Result<u64, LogError> {
    let mut groups = groups(shared, segment, *end)?;
    let mut records = 0;
    groups.finish(|_| records += 1).map_err(|b| b.at(groups.path()))?;
    let (at, next_group, Tally { ends, .. }) = groups.reached();
    if let Some(after) = after {
        if after.header.first_group != next_group || after.header.starts != *ends {
            return Err(files::damaged(
                groups.path(),
                at,
                "the next segment does not go on where this one ends",
            ));
        }
        index::is_intact(&shared.dir, segment.header.segment, shared.slots.count())?;
    }
    Ok(records)
}

/// Checks every byte of the log up to the present end.
pub fn scrub(shared: &Shared) -> Result<Scrubbed, LogError> {
    let segments = snapshot(shared);
    let mut done = Scrubbed::default();
    for (i, segment) in segments.iter().enumerate() {
        done.records += check(shared, segment, segments.get(i + 1).map(|(s, _)| s))?;
        done.bytes += segment.1;
        done.segments += 1;
    }
    Ok(done)
}

/// Length in bytes of each group, in the order of writing.
pub fn group_lengths(shared: &Shared) -> Result<Vec<u64>, LogError> {
    let mut lengths = Vec::new();
    for (segment, end) in snapshot(shared) {
        let mut groups = groups(shared, &segment, end)?;
        let mut placed = Vec::new();
        let mut before = groups.reached().0;
        while groups.next(&mut placed).map_err(|b| b.at(groups.path()))? {
            let at = groups.reached().0;
            lengths.push(at - before);
            before = at;
            placed.clear();
        }
    }
    Ok(lengths)
}

/// Checks sealed segments, the newest first, as long as the time lasts.
pub fn check_newest(shared: &Shared, time: Duration) -> Result<(), LogError> {
    let begun = clock::monotonic();
    let segments = snapshot(shared);
    for i in (0..segments.len().saturating_sub(1)).rev() {
        if clock::monotonic().duration_since(begun) >= time {
            tracing::debug!(segments_left = i + 1, "the rest of the log is checked by scrub");
            break;
        }
        check(shared, &segments[i], segments.get(i + 1).map(|(s, _)| s))?;
    }
    Ok(())
}
