//! How far this node can deliver, and whether that is as far as a consumer has come.

use std::collections::BTreeSet;

use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_projections::{changes, users};

use super::{Engine, follows_activity};
use crate::feeds::cursor::{Cursor, Lane};

/// Up to where a partition can be delivered.
#[derive(Debug, Clone, Copy, Default)]
pub struct End {
    pub identity: Offset,
    pub activity: Offset,
}

impl Engine<'_> {
    /// What is folded of every partition. Users must be folded first: a record shows them as they are after its event.
    pub(super) fn ends(&self, lanes: usize, whole: bool) -> Vec<End> {
        let next = |projection, stream, p| self.views.next(projection, stream, p).unwrap_or(0);
        // A feed that names nothing of the activity stream does not follow it.
        let activity = whole || follows_activity(self.definition);
        (0..lanes)
            .map(|lane| {
                let p = self.partition(lane);
                let changes = next(changes::NAME, Stream::Identity, p);
                End {
                    identity: changes.min(next(users::NAME, Stream::Identity, p)),
                    activity: if activity {
                        next(changes::NAME, Stream::Activity, p)
                    } else {
                        0
                    },
                }
            })
            .collect()
    }

    /// The same as if nothing were folded of the partitions `aside`, so that nothing is told of them.
    pub(super) fn ends_but(&self, lanes: usize, aside: &BTreeSet<Partition>) -> Vec<End> {
        let mut ends = self.ends(lanes, false);
        for (lane, end) in ends.iter_mut().enumerate() {
            if aside.contains(&self.partition(lane)) {
                *end = End::default();
            }
        }
        ends
    }

    /// Up to where a consumer was told of those partitions of which this node has folded less: it is behind another node,
    /// or the log has lost its end since.
    pub fn unfolded(&self, cursor: &Cursor) -> Vec<Position> {
        let ends = self.ends(cursor.lanes.len(), false);
        let has_activity = follows_activity(self.definition);
        let mut found = Vec::new();
        for (n, (lane, end)) in cursor.lanes.iter().zip(ends).enumerate() {
            let mut add = |stream, offset| {
                let partition = self.partition(n);
                found.push(Position {
                    stream,
                    partition,
                    offset,
                });
            };
            if !is_known(lane, end) {
                add(Stream::Identity, told(lane));
            }
            if has_activity && lane.activity > end.activity {
                add(Stream::Activity, lane.activity);
            }
        }
        found
    }
}

/// Up to where a consumer was told of a partition's identity stream, or will be by the snapshot that is under way.
fn told(lane: &Lane) -> Offset {
    let snapshot = lane.snapshot.map_or(0, |snapshot| snapshot.end);
    lane.withdrawals.max(snapshot)
}

/// Whether this node has folded all that a consumer of this cursor was told from, by this node or another.
pub fn is_known(lane: &Lane, end: End) -> bool {
    told(lane) <= end.identity
}

/// Whether this node has anything to look at after a cursor.
pub fn is_behind(cursor: &Cursor, ends: &[End]) -> bool {
    let behind = |(lane, end): (&Lane, &End)| {
        let more = lane.snapshot.is_some()
            || lane.identity < end.identity
            || lane.withdrawals < end.identity
            || lane.activity < end.activity;
        more && is_known(lane, *end)
    };
    cursor.lanes.iter().zip(ends).any(behind)
}
