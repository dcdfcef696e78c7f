//! What is to be told at once.

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
