//! How far this node can deliver, and whether that is as far as a consumer has come.

use gatelog_events::ids::Offset;

use crate::feeds::cursor::{Cursor, Lane};

/// Up to where a partition can be delivered.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub identity: Offset,
    pub activity: Offset,
}

/// Whether this node has folded all that a consumer of this cursor was told from, by this node or another.
pub fn is_known(lane: &Lane, end: End) -> bool {
    let snapshot = lane.snapshot.map_or(0, |snapshot| snapshot.end);
    lane.withdrawals.max(snapshot) <= end.identity
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
