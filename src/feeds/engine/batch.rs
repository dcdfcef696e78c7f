//! What is to be told at once.

use std::collections::BTreeMap;

use gatelog_events::domain::feed::HandedOver;
use gatelog_events::ids::{Offset, Partition, Stream, UserId};
use gatelog_projections::changes::{Happened, Withdrawal};
use gatelog_projections::store::StoreError;

use super::MAX_SCANNED;
use crate::feeds::cursor::Cursor;

/// Rows of one partition before it is another's turn.
const CHUNK: usize = 64;

/// What is to be told, as the log has it: what the record says is decided when it leaves.
#[derive(Debug, Clone)]
pub enum Item {
    Withdrawn {
        partition: Partition,
        offset: Offset,
        withdrawal: Withdrawal,
    },
    /// The state of somebody, without an event that was asked for.
    State { user: UserId },
    Happened {
        user: UserId,
        stream: Stream,
        offset: Offset,
        event: Happened,
        /// Told as a state: it brought somebody into sight, but is of no kind that the feed names.
        as_state: bool,
    },
}

impl Item {
    /// Whom it is about.
    pub fn user(&self) -> UserId {
        match self {
            Item::Withdrawn { withdrawal, .. } => withdrawal.user,
            Item::State { user } | Item::Happened { user, .. } => *user,
        }
    }

    /// The partition, of so many, in which all that happens to them stands.
    pub fn partition(&self, partitions: u16) -> Partition {
        self.user().shard().partition(partitions)
    }

    /// The withdrawal, if it is one, and its partition.
    pub fn handed_over(&self) -> Option<(Partition, HandedOver)> {
        match self {
            Item::Withdrawn {
                partition,
                offset,
                withdrawal,
            } => {
                let event_id = withdrawal.id;
                let handed = HandedOver {
                    event_id,
                    offset: *offset,
                };
                Some((*partition, handed))
            }
            _ => None,
        }
    }
}

/// What is handed over at once.
#[derive(Debug)]
pub struct Batch<T> {
    /// What is to be told.
    pub told: Vec<T>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether there was more to look at when the batch was made.
    pub more: bool,
}

impl Batch<Item> {
    /// Leaves what is of some partitions to a later batch. `before` is where this one began, with a lane per partition.
    pub fn leave<T>(&mut self, partitions: &BTreeMap<Partition, T>, before: &Cursor) {
        let all = u16::try_from(before.lanes.len()).unwrap_or(u16::MAX);
        self.told
            .retain(|item| !partitions.contains_key(&item.partition(all)));
        for partition in partitions.keys() {
            let lane = usize::from(partition.0);
            if let (Some(now), Some(then)) = (self.cursor.lanes.get_mut(lane), before.lanes.get(lane)) {
                *now = *then;
            }
        }
    }
}

/// A batch on the way.
pub(super) struct Filling<'m, T> {
    pub told: Vec<T>,
    pub cursor: Cursor,
    pub scanned: usize,
    pub limit: usize,
    /// What an item is told as; nothing if it is not told.
    pub make: &'m dyn Fn(Item) -> Result<Option<T>, StoreError>,
}

impl<T> Filling<'_, T> {
    pub fn add(&mut self, item: Item) -> Result<(), StoreError> {
        self.told.extend((self.make)(item)?);
        Ok(())
    }

    pub fn is_full(&self) -> bool {
        self.told.len() >= self.limit || self.scanned >= MAX_SCANNED
    }

    /// Rows that may still be read at once.
    pub fn room(&self) -> usize {
        let records = self.limit.saturating_sub(self.told.len());
        records.min(MAX_SCANNED.saturating_sub(self.scanned)).min(CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use gatelog_events::clock::Timestamp;
    use gatelog_events::ids::{EventId, Shard};
    use gatelog_projections::changes::Cause;
    use uuid::Uuid;

    use super::*;
    use crate::feeds::cursor::Lane;

    fn user(shard: u16) -> UserId {
        UserId::new(Timestamp::EPOCH, Shard(shard), [7; 8])
    }

    fn withdrawn(shard: u16) -> Item {
        Item::Withdrawn {
            partition: Shard(shard).partition(3),
            offset: 5,
            withdrawal: Withdrawal {
                user: user(shard),
                id: EventId(Uuid::nil()),
                cause: Cause::Erased,
                time: Timestamp::EPOCH,
                sequence: 1,
                purposes: Default::default(),
            },
        }
    }

    /// A cursor whose lanes are all at one offset.
    fn cursor(at: Offset) -> Cursor {
        let lane = Lane {
            snapshot: None,
            identity: at,
            activity: at,
            withdrawals: at,
            since: 0,
        };
        Cursor {
            version: 1,
            turn: 2,
            lanes: vec![lane; 3],
        }
    }

    #[test]
    fn what_is_left_to_a_later_batch_is_all_of_its_partition_and_nothing_else() {
        let mut batch = Batch {
            told: vec![
                withdrawn(4),
                withdrawn(3),
                Item::State { user: user(1) },
                Item::State { user: user(2) },
            ],
            cursor: cursor(9),
            more: false,
        };
        batch.leave(&BTreeMap::from([(Partition(1), ())]), &cursor(5));
        let left: Vec<_> = batch.told.iter().map(|item| item.partition(3)).collect();
        assert_eq!(left, [Partition(0), Partition(2)]);
        let places: Vec<_> = batch.cursor.lanes.iter().map(|lane| lane.withdrawals).collect();
        assert_eq!(places, [9, 5, 9]);
        assert_eq!(batch.cursor.lanes[1], cursor(5).lanes[1]);
    }
}
