//! From the log's changes and the users as they are now to the records that a consumer may see.
//!
//! A batch tells withdrawals first: all there are between where the consumer was told last and the present end, whatever
//! else waits. Then it goes on with the snapshot, or with what happened. An event of somebody who may not be seen now
//! makes no record; one of somebody who may be seen makes a record with the granted fields as they are now.

use gatelog_events::domain::feed::{Definition, HandedOver};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::User;
use gatelog_events::ids::{Offset, Partition, Stream, TenantId, UserId};
use gatelog_projections::changes::{self, Cause, Change, Happened, Withdrawal};
use gatelog_projections::store::StoreError;
use gatelog_projections::users;

use super::cursor::{Cursor, Lane, Snapshot};
use super::gate;
use super::keys::{FeedKeys, Scope};
use super::record::{Data, Reason, Record, SNAPSHOT, WITHDRAWN};
use crate::views::Views;

/// Rows that one batch looks at, at the most, so that a consumer who may see little is answered soon.
const MAX_SCANNED: usize = 4096;
/// Rows of one partition before it is another's turn.
const CHUNK: usize = 64;
/// Withdrawals that are read at once: more than one commit can hold.
const WITHDRAWALS: usize = gatelog_events::codec::MAX_EVENTS + 1;

/// The reader of one version of a feed.
#[derive(Clone, Copy)]
pub struct Engine<'a> {
    pub views: &'a Views,
    pub keys: &'a FeedKeys,
    pub tenant: &'a TenantId,
    pub settings: &'a Settings,
    pub partitions: u16,
    pub feed: &'a str,
    pub definition: &'a Definition,
}

/// Where a new consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the present state of everyone, and then with what happens.
    Snapshot,
    /// With everything that the log holds.
    Beginning,
    /// With what happens from now on.
    Now,
}

/// What is handed over at once.
#[derive(Debug)]
pub struct Batch {
    pub records: Vec<Record>,
    /// Where to go on.
    pub cursor: Cursor,
    /// The withdrawals among the records.
    pub withdrawals: Vec<(Partition, HandedOver)>,
    /// Whether there was more to look at when the batch was made.
    pub more: bool,
    scanned: usize,
    limit: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records.len() >= self.limit || self.scanned >= MAX_SCANNED
    }

    /// Rows that may still be read at once.
    fn room(&self) -> usize {
        let records = self.limit.saturating_sub(self.records.len());
        records.min(MAX_SCANNED.saturating_sub(self.scanned)).min(CHUNK)
    }
}

/// Up to where a partition can be delivered.
#[derive(Debug, Clone, Copy)]
struct End {
    identity: Offset,
    activity: Offset,
}

impl Engine<'_> {
    /// The cursor of a new consumer of this version.
    pub fn begin(&self, version: u32, start: Start) -> Cursor {
        let lanes = self.ends().into_iter().map(|end| match start {
            Start::Beginning => Lane {
                withdrawals: end.identity,
                ..Lane::default()
            },
            Start::Snapshot | Start::Now => Lane {
                identity: end.identity,
                activity: end.activity,
                withdrawals: end.identity,
            },
        });
        Cursor {
            version,
            snapshot: (start == Start::Snapshot).then_some(Snapshot { after: None }),
            turn: 0,
            lanes: lanes.collect(),
        }
    }

    /// What comes after a cursor: at most `limit` records and those of one more commit. Reads the store; blocks.
    pub fn batch(&self, cursor: Cursor, limit: usize) -> Result<Batch, StoreError> {
        let ends = self.ends();
        let mut batch = Batch {
            records: Vec::new(),
            withdrawals: Vec::new(),
            more: false,
            scanned: 0,
            limit: limit.max(1),
            cursor,
        };
        self.tell_withdrawals(&mut batch, &ends)?;
        self.go_on_with_snapshot(&mut batch)?;
        if batch.cursor.snapshot.is_none() {
            self.follow(&mut batch, &ends)?;
        }
        batch.more = self.is_behind(&batch.cursor, &ends);
        Ok(batch)
    }

    /// Whether there is anything to look at after a cursor.
    pub fn has_more(&self, cursor: &Cursor) -> bool {
        self.is_behind(cursor, &self.ends())
    }

    fn is_behind(&self, cursor: &Cursor, ends: &[End]) -> bool {
        let behind = |(lane, end): (&Lane, &End)| {
            lane.identity < end.identity || lane.withdrawals < end.identity || lane.activity < end.activity
        };
        cursor.snapshot.is_some() || cursor.lanes.iter().zip(ends).any(behind)
    }

    /// What is folded of every partition. Users must be folded first: a record shows them as they are after its event.
    fn ends(&self) -> Vec<End> {
        let next = |projection, stream, p| self.views.next(projection, stream, Partition(p)).unwrap_or(0);
        (0..self.partitions)
            .map(|p| End {
                identity: next(changes::NAME, Stream::Identity, p).min(next(
                    users::NAME,
                    Stream::Identity,
                    p,
                )),
                activity: next(changes::NAME, Stream::Activity, p),
            })
            .collect()
    }

    fn tell_withdrawals(&self, batch: &mut Batch, ends: &[End]) -> Result<(), StoreError> {
        for (lane, end) in ends.iter().enumerate() {
            while batch.cursor.lanes[lane].withdrawals < end.identity {
                if batch.is_full() {
                    return Ok(());
                }
                self.tell_some(batch, lane, *end)?;
            }
        }
        Ok(())
    }

    /// Some withdrawals of one partition. Those of one commit share an offset and are told together.
    fn tell_some(&self, batch: &mut Batch, lane: usize, end: End) -> Result<(), StoreError> {
        let partition = partition(lane);
        let from = batch.cursor.lanes[lane].withdrawals;
        let rows = self
            .views
            .withdrawals(self.tenant, partition, from, WITHDRAWALS)?;
        // Of the last offset there may be more than was read; it is never the only one.
        let complete = match rows.last() {
            Some((last, _)) if rows.len() == WITHDRAWALS => *last,
            _ => end.identity,
        };
        let mut next = complete.min(end.identity);
        let mut told = from;
        for (offset, withdrawal) in rows {
            if offset >= next {
                break;
            }
            if batch.is_full() && offset > told {
                next = offset;
                break;
            }
            told = offset;
            batch.scanned += 1;
            if let Some(record) = self.withdrawn(&withdrawal) {
                batch.records.push(record);
                let event_id = withdrawal.id;
                batch
                    .withdrawals
                    .push((partition, HandedOver { event_id, offset }));
            }
        }
        batch.cursor.lanes[lane].withdrawals = next;
        Ok(())
    }

    /// What the consumer must be told of a withdrawal; nothing if the feed rests on another purpose.
    fn withdrawn(&self, withdrawal: &Withdrawal) -> Option<Record> {
        let reason = match &withdrawal.cause {
            Cause::Purpose(purpose) if self.definition.purpose.as_ref() != Some(purpose) => return None,
            Cause::Purpose(_) => Reason::ConsentWithdrawn,
            Cause::Disabled => Reason::Disabled,
            Cause::Erased => Reason::Erased,
        };
        Some(Record {
            id: self.keys.record(self.scope(), withdrawal.id),
            kind: WITHDRAWN.into(),
            subject: self.keys.subject(self.scope(), withdrawal.user),
            time: Some(withdrawal.time),
            sequence: withdrawal.sequence,
            data: Data::Withdrawn { reason },
        })
    }

    fn go_on_with_snapshot(&self, batch: &mut Batch) -> Result<(), StoreError> {
        while let Some(Snapshot { after }) = batch.cursor.snapshot {
            if batch.is_full() {
                return Ok(());
            }
            let limit = batch.room();
            let rows = self.views.users(self.tenant, after, limit)?;
            batch.scanned += rows.len();
            let last = rows.last().map(|(id, _)| *id).filter(|_| rows.len() == limit);
            batch.cursor.snapshot = last.map(|id| Snapshot { after: Some(id) });
            for (id, user) in rows {
                if gate::is_open(self.definition, &user) {
                    batch.records.push(self.snapshot(id, &user));
                }
            }
        }
        Ok(())
    }

    fn snapshot(&self, id: UserId, user: &User) -> Record {
        Record {
            id: self.keys.snapshot(self.scope(), id, user.version),
            kind: SNAPSHOT.into(),
            subject: self.keys.subject(self.scope(), id),
            time: None,
            sequence: user.version,
            data: self.state(user),
        }
    }

    fn state(&self, user: &User) -> Data {
        Data::State {
            fields: gate::fields(self.definition, user, self.settings),
        }
    }

    /// Turns from partition to partition until the batch is full or nothing is left.
    fn follow(&self, batch: &mut Batch, ends: &[End]) -> Result<(), StoreError> {
        loop {
            let mut found = false;
            for _ in 0..self.partitions {
                if batch.is_full() {
                    return Ok(());
                }
                let lane = usize::from(batch.cursor.turn % self.partitions);
                batch.cursor.turn = (batch.cursor.turn + 1) % self.partitions;
                for stream in [Stream::Identity, Stream::Activity] {
                    found |= self.follow_one(batch, stream, lane, ends[lane])?;
                }
            }
            if !found {
                return Ok(());
            }
        }
    }

    /// Some changes of one partition; whether there were any.
    fn follow_one(
        &self,
        batch: &mut Batch,
        stream: Stream,
        lane: usize,
        end: End,
    ) -> Result<bool, StoreError> {
        let at = &mut batch.cursor.lanes[lane];
        let (from, end) = match stream {
            Stream::Identity => (at.identity, end.identity),
            Stream::Activity => (at.activity, end.activity),
        };
        let limit = batch.room();
        if from >= end || limit == 0 {
            return Ok(false);
        }
        let rows = self
            .views
            .changes(self.tenant, stream, partition(lane), from, limit)?;
        let read = rows.len();
        let mut next = if read < limit { end } else { from };
        for (offset, change) in rows {
            if offset >= end {
                next = end;
                break;
            }
            batch.scanned += 1;
            self.records_of(&change, &mut batch.records)?;
            next = next.max(offset + 1);
        }
        let at = &mut batch.cursor.lanes[lane];
        match stream {
            Stream::Identity => at.identity = next,
            Stream::Activity => at.activity = next,
        }
        Ok(true)
    }

    fn records_of(&self, change: &Change, records: &mut Vec<Record>) -> Result<(), StoreError> {
        let named = |e: &&Happened| self.definition.events.contains(&*e.kind) && !self.closes(e);
        let mut wanted = change.events.iter().filter(named).peekable();
        let opening = change.events.iter().find(|e| self.opens(e));
        if wanted.peek().is_none() && opening.is_none() {
            return Ok(());
        }
        let user = self.views.user(self.tenant, change.user)?;
        if !gate::is_open(self.definition, &user) {
            return Ok(());
        }
        let subject = self.keys.subject(self.scope(), change.user);
        let record = |e: &Happened, kind| Record {
            id: self.keys.record(self.scope(), e.id),
            kind,
            subject,
            time: Some(e.time),
            sequence: e.sequence,
            data: self.state(&user),
        };
        if wanted.peek().is_none() {
            records.extend(opening.map(|e| record(e, SNAPSHOT.into())));
        } else {
            records.extend(wanted.map(|e| record(e, e.kind.clone())));
        }
        Ok(())
    }

    /// Whether a subject may have come into sight with an event.
    fn opens(&self, e: &Happened) -> bool {
        match &*e.kind {
            "user.enabled" => true,
            "user.registered" => self.definition.purpose.is_none(),
            "consent.granted" => e.purpose.is_some() && e.purpose == self.definition.purpose,
            _ => false,
        }
    }

    /// Whether it is told as a withdrawal, and so not among the events.
    fn closes(&self, e: &Happened) -> bool {
        e.kind == "consent.withdrawn" && e.purpose.is_some() && e.purpose == self.definition.purpose
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            tenant: self.tenant,
            feed: self.feed,
        }
    }
}

fn partition(lane: usize) -> Partition {
    Partition(u16::try_from(lane).unwrap_or(u16::MAX))
}
