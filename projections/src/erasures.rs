//! Destroyed keys on Kafka's disks: which may still be there, and what it takes that they leave.
//!
//! Kafka compacts a segment only once it is closed, and closes one that is older than `max.compaction.lag.ms` (its age)
//! only when the next record comes. So after the last erasure of a partition one record is needed, no earlier than that
//! age after it. Whether one came is known from what was read of the topic: it needs neither memory nor agreement.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use gatelog_events::clock::Timestamp;
use gatelog_events::ids::{Offset, Partition};
use gatelog_events::log::LogError;
use gatelog_events::log::kafka::{KeyRecord, SubjectKeyTopic};

/// First byte of a key's row: a wrapped key follows, or nothing.
pub(crate) const PRESENT: u8 = 1;
pub(crate) const DESTROYED: u8 = 0;

/// How far a partition of the topic was read, and what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reached {
    /// Offset of the next record to read.
    pub next: Offset,
    /// When the newest erasure was taken, by the brokers' clock. 0: there was none.
    pub erased: Timestamp,
    /// When the newest record was taken.
    pub newest: Timestamp,
}

impl Reached {
    pub fn read(row: &[u8]) -> Option<Self> {
        let row: &[u8; 24] = row.try_into().ok()?;
        let number = |at: usize| Some(u64::from_be_bytes(row[at..at + 8].try_into().ok()?));
        let time = |at| Some(Timestamp::from_millis(i64::try_from(number(at)?).ok()?));
        Some(Self {
            next: number(0)?,
            erased: time(8)?,
            newest: time(16)?,
        })
    }

    pub fn row(&self) -> [u8; 24] {
        let mut row = [0; 24];
        let parts = [self.next, stamp(self.erased), stamp(self.newest)];
        for (place, part) in row.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_be_bytes());
        }
        row
    }

    /// Takes notice of a record.
    pub fn pass(&mut self, record: &KeyRecord) {
        self.next = record.offset + 1;
        self.newest = self.newest.max(record.at);
        if !record.is_mark() && is_destroyed(record) {
            self.erased = self.erased.max(record.at);
        }
    }

    /// Whether Kafka waits for a record before it can compact the newest erasure's segment.
    pub fn waits(&self, segment_age: Duration, now: Timestamp) -> bool {
        let closes = self.erased.plus(segment_age);
        self.erased > Timestamp::EPOCH && self.newest <= closes && now > closes
    }
}

fn stamp(at: Timestamp) -> u64 {
    u64::try_from(at.millis()).unwrap_or(0)
}

/// A tombstone of Kafka's own is an erasure too, should somebody have written one.
pub(crate) fn is_destroyed(record: &KeyRecord) -> bool {
    record.value.as_deref().is_none_or(|value| value == [DESTROYED])
}

/// A partition's erasures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erasures {
    pub partition: Partition,
    /// Keys that are destroyed.
    pub erased: u64,
    /// Of these, the ones whose former bytes Kafka still gives out.
    pub pending: u64,
    /// When the first of the pending was erased, by the brokers' clock.
    pub oldest: Option<Timestamp>,
}

impl Erasures {
    fn waits_since(&mut self, at: Timestamp) {
        self.pending += 1;
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
    }
}

/// Reads a whole partition of the topic. Holds its keys in memory meanwhile. Blocks.
pub fn erasures(topic: &SubjectKeyTopic, partition: Partition) -> Result<Erasures, LogError> {
    let mut found = Erasures {
        partition,
        erased: 0,
        pending: 0,
        oldest: None,
    };
    let (mut present, mut destroyed) = (HashMap::new(), HashSet::new());
    for record in topic.read_partition(partition, 0)? {
        let record = record?;
        if record.is_mark() {
            continue;
        }
        if !is_destroyed(&record) {
            present.insert(record.key, record.at);
            continue;
        }
        if present.remove(&record.key).is_some() {
            found.waits_since(record.at);
        }
        if destroyed.insert(record.key) {
            found.erased += 1;
        }
    }
    // What was written over its tombstone, as from a backup, is as much there.
    for (_, at) in present.iter().filter(|(key, _)| destroyed.contains(*key)) {
        found.waits_since(*at);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const AGE: Duration = Duration::from_millis(100);

    fn record(offset: Offset, at: i64, key: &[u8], value: Option<&[u8]>) -> KeyRecord {
        KeyRecord {
            partition: Partition(0),
            offset,
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
            at: Timestamp::from_millis(at),
        }
    }

    #[test]
    fn one_record_is_needed_once_the_segment_is_old_enough() {
        let (key, erased) = (
            record(0, 900, b"anna", Some(&[PRESENT, 7])),
            record(1, 1000, b"anna", Some(&[DESTROYED])),
        );
        let mark = |at| record(2, at, b"\0now", Some(b""));
        type Case<'a> = (&'a [KeyRecord], i64, bool);
        let cases: [Case<'_>; 8] = [
            (&[], 5000, false),
            (std::slice::from_ref(&key), 5000, false),
            (&[key.clone(), erased.clone()], 1100, false),
            (&[key.clone(), erased.clone()], 1101, true),
            // Too early to close the segment, and just late enough.
            (&[key.clone(), erased.clone(), mark(1100)], 5000, true),
            (&[key.clone(), erased.clone(), mark(1101)], 5000, false),
            (&[key.clone(), mark(2000)], 5000, false),
            // Kafka's own tombstone.
            (&[key.clone(), record(1, 1000, b"anna", None)], 2000, true),
        ];
        for (records, now, waits) in cases {
            let mut reached = Reached::default();
            records.iter().for_each(|r| reached.pass(r));
            assert_eq!(
                reached.waits(AGE, Timestamp::from_millis(now)),
                waits,
                "{records:?} {now}"
            );
            assert_eq!(Reached::read(&reached.row()), Some(reached));
        }
        assert_eq!(Reached::read(&7u64.to_be_bytes()), None);
    }
}
