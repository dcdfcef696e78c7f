//! From the log's changes and the users as they are now to the records that a consumer may see.
//!
//! A batch tells withdrawals first: all there are between where the consumer was told last and the present end, whatever
//! else waits. Then it goes on with the snapshot, or with what happened. An event of somebody who may not be seen now
//! makes no record; one of somebody who may be seen makes a record with the granted fields as they are now.

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::feed::{self, Definition, Field, HandedOver};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::User;
use gatelog_events::ids::{Offset, Partition, Stream, TenantId, UserId};
use gatelog_projections::changes::{self, Cause, Change, Happened, Withdrawal};
use gatelog_projections::store::StoreError;
use gatelog_projections::users;

use super::cursor::{Cursor, Lane, Snapshot};
use super::gate;
use super::keys::{FeedKeys, Scope};
use super::links::Links;
use super::record::{Data, Record, SNAPSHOT, WITHDRAWN};
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
    pub links: &'a Links,
    /// The URL of this installation.
    pub issuer: &'a str,
    pub tenant: &'a TenantId,
    pub settings: &'a Settings,
    pub feed: &'a str,
    pub definition: &'a Definition,
    /// The partition of the first lane of cursors; the others follow.
    pub first: Partition,
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
pub struct Batch {
    /// What is to be told, and the record as it is now.
    pub told: Vec<(Item, Record)>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether there was more to look at when the batch was made.
    pub more: bool,
    scanned: usize,
    limit: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.told.len() >= self.limit || self.scanned >= MAX_SCANNED
    }

    /// Rows that may still be read at once.
    fn room(&self) -> usize {
        let records = self.limit.saturating_sub(self.told.len());
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
    /// The cursor of a new consumer of this version, with so many lanes.
    pub fn begin(&self, version: u32, lanes: u16, start: Start) -> Cursor {
        let lane = |end: End| match start {
            Start::Beginning => Lane {
                withdrawals: end.identity,
                ..Lane::default()
            },
            Start::Snapshot | Start::Now => {
                let snapshot = Snapshot {
                    next: 0,
                    end: end.identity,
                };
                Lane {
                    snapshot: (start == Start::Snapshot).then_some(snapshot),
                    identity: end.identity,
                    activity: end.activity,
                    withdrawals: end.identity,
                }
            }
        };
        Cursor {
            version,
            turn: 0,
            lanes: self
                .ends(usize::from(lanes), true)
                .into_iter()
                .map(lane)
                .collect(),
        }
    }

    /// The cursor of a consumer of another version who moves to this one: with everyone's state anew.
    pub fn moved(&self, mut cursor: Cursor, version: u32, before: &Definition) -> Cursor {
        cursor.version = version;
        let ends = self.ends(cursor.lanes.len(), true);
        for (lane, end) in cursor.lanes.iter_mut().zip(ends) {
            lane.snapshot = Some(Snapshot {
                next: 0,
                end: lane.identity,
            });
            if !follows_activity(before) {
                lane.activity = end.activity;
            }
        }
        cursor
    }

    /// What comes after a cursor: at most `limit` records and those of one more commit. Reads the store; blocks.
    pub fn batch(&self, cursor: Cursor, limit: usize) -> Result<Batch, StoreError> {
        let ends = self.ends(cursor.lanes.len(), false);
        let mut batch = Batch {
            told: Vec::new(),
            more: false,
            scanned: 0,
            limit,
            cursor,
        };
        self.tell_withdrawals(&mut batch, &ends)?;
        self.follow(&mut batch, &ends)?;
        batch.more = is_behind(&batch.cursor, &ends);
        Ok(batch)
    }

    /// Only the withdrawals after a cursor, for a consumer who can take nothing else now.
    pub fn withdrawals(&self, cursor: Cursor) -> Result<Batch, StoreError> {
        let ends = self.ends(cursor.lanes.len(), false);
        let mut batch = Batch {
            told: Vec::new(),
            more: false,
            scanned: 0,
            limit: MAX_SCANNED,
            cursor,
        };
        self.tell_withdrawals(&mut batch, &ends)?;
        Ok(batch)
    }

    /// The cursor, of one lane, of a consumer who wants what happened since a time. Times in the log only grow, but for
    /// those of imports, which may be older: so it may begin somewhat early.
    pub fn since(&self, version: u32, time: Timestamp) -> Result<Cursor, StoreError> {
        let mut cursor = self.begin(version, 1, Start::Now);
        for lane in &mut cursor.lanes {
            lane.identity = self.first_since(Stream::Identity, lane.identity, time)?;
            lane.activity = self.first_since(Stream::Activity, lane.activity, time)?;
        }
        Ok(cursor)
    }

    fn first_since(&self, stream: Stream, end: Offset, time: Timestamp) -> Result<Offset, StoreError> {
        let (mut low, mut high) = (0, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let rows = self.views.changes(self.tenant, stream, self.first, middle, 1)?;
            match rows.first() {
                Some((offset, change)) if change.events.iter().all(|e| e.time < time) => low = offset + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Whether there is anything to look at after a cursor.
    pub fn has_more(&self, cursor: &Cursor) -> bool {
        is_behind(cursor, &self.ends(cursor.lanes.len(), false))
    }

    /// What an item says now; nothing if its subject may not be seen. A withdrawal is told in any case.
    pub fn record(&self, item: &Item) -> Result<Option<Record>, StoreError> {
        if let Item::Withdrawn { withdrawal, .. } = item {
            return Ok(self.withdrawn(withdrawal));
        }
        let user = self.views.user(self.tenant, item.user())?;
        if !gate::is_open(self.definition, &user) {
            return Ok(None);
        }
        Ok(match item {
            Item::Withdrawn { .. } => None,
            Item::State { user: id } => Some(self.state(*id, &user)),
            Item::Happened {
                user: id,
                event,
                as_state,
                ..
            } => Some(self.happened(*id, &user, event, *as_state)),
        })
    }

    /// What is folded of every partition. Users must be folded first: a record shows them as they are after its event.
    fn ends(&self, lanes: usize, whole: bool) -> Vec<End> {
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

    fn partition(&self, lane: usize) -> Partition {
        Partition(
            self.first
                .0
                .saturating_add(u16::try_from(lane).unwrap_or(u16::MAX)),
        )
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
        let partition = self.partition(lane);
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
                let item = Item::Withdrawn {
                    partition,
                    offset,
                    withdrawal,
                };
                batch.told.push((item, record));
            }
        }
        batch.cursor.lanes[lane].withdrawals = next;
        Ok(())
    }

    /// What the consumer must be told of a withdrawal; nothing if it never knew of the user.
    fn withdrawn(&self, withdrawal: &Withdrawal) -> Option<Record> {
        if !concerns(withdrawal, self.definition.purpose.as_deref()) {
            return None;
        }
        Some(Record {
            id: self.keys.record(self.scope(), withdrawal.id),
            kind: WITHDRAWN.into(),
            subject: self.keys.subject(self.scope(), withdrawal.user),
            time: Some(withdrawal.time),
            sequence: withdrawal.sequence,
            data: Data::Withdrawn {
                reason: withdrawal.cause.into(),
            },
        })
    }

    /// Turns from partition to partition until the batch is full or nothing is left.
    fn follow(&self, batch: &mut Batch, ends: &[End]) -> Result<(), StoreError> {
        loop {
            let mut found = false;
            for _ in 0..ends.len() {
                if batch.is_full() {
                    return Ok(());
                }
                let lane = usize::from(batch.cursor.turn) % ends.len();
                batch.cursor.turn = u16::try_from((lane + 1) % ends.len()).unwrap_or(0);
                if batch.cursor.lanes[lane].snapshot.is_some() {
                    found |= self.go_on_with_snapshot(batch, lane)?;
                    continue;
                }
                for stream in [Stream::Identity, Stream::Activity] {
                    found |= self.follow_one(batch, stream, lane, ends[lane])?;
                }
            }
            if !found {
                return Ok(());
            }
        }
    }

    /// The state of some who registered in this partition. Whether there may be more.
    fn go_on_with_snapshot(&self, batch: &mut Batch, lane: usize) -> Result<bool, StoreError> {
        let Some(Snapshot { next, end }) = batch.cursor.lanes[lane].snapshot else {
            return Ok(false);
        };
        let limit = batch.room();
        let rows = self
            .views
            .changes(self.tenant, Stream::Identity, self.partition(lane), next, limit)?;
        batch.scanned += rows.len();
        let last = rows
            .last()
            .map(|(offset, _)| *offset)
            .filter(|_| rows.len() == limit);
        for (_, change) in rows.into_iter().take_while(|(offset, _)| *offset < end) {
            if change.events.iter().any(|e| e.kind == REGISTERED) {
                let item = Item::State { user: change.user };
                if let Some(record) = self.record(&item)? {
                    batch.told.push((item, record));
                }
            }
        }
        let next = last.map(|offset| offset + 1).filter(|next| *next < end);
        batch.cursor.lanes[lane].snapshot = next.map(|next| Snapshot { next, end });
        Ok(true)
    }

    /// Some changes of one partition; whether there were any.
    fn follow_one(
        &self,
        batch: &mut Batch,
        stream: Stream,
        lane: usize,
        end: End,
    ) -> Result<bool, StoreError> {
        let at = batch.cursor.lanes[lane];
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
            .changes(self.tenant, stream, self.partition(lane), from, limit)?;
        let mut next = if rows.len() < limit { end } else { from };
        for (offset, change) in rows {
            if offset >= end {
                next = end;
                break;
            }
            batch.scanned += 1;
            self.tell(change, (stream, offset), &mut batch.told)?;
            next = next.max(offset + 1);
        }
        let at = &mut batch.cursor.lanes[lane];
        match stream {
            Stream::Identity => at.identity = next,
            Stream::Activity => at.activity = next,
        }
        Ok(true)
    }

    fn tell(
        &self,
        change: Change,
        (stream, offset): (Stream, Offset),
        told: &mut Vec<(Item, Record)>,
    ) -> Result<(), StoreError> {
        let named = |e: &Happened| self.definition.events.contains(&*e.kind) && !self.closes(e);
        let any_named = change.events.iter().any(named);
        let wanted: Vec<_> = if any_named {
            change.events.into_iter().filter(named).collect()
        } else {
            change
                .events
                .into_iter()
                .find(|e| self.opens(e))
                .into_iter()
                .collect()
        };
        if wanted.is_empty() {
            return Ok(());
        }
        let user = self.views.user(self.tenant, change.user)?;
        if gate::is_open(self.definition, &user) {
            told.extend(wanted.into_iter().map(|event| {
                let record = self.happened(change.user, &user, &event, !any_named);
                let item = Item::Happened {
                    user: change.user,
                    stream,
                    offset,
                    event,
                    as_state: !any_named,
                };
                (item, record)
            }));
        }
        Ok(())
    }

    fn state(&self, id: UserId, user: &User) -> Record {
        Record {
            id: self.keys.snapshot(self.scope(), id, user.version),
            kind: SNAPSHOT.into(),
            subject: self.keys.subject(self.scope(), id),
            time: None,
            sequence: user.version,
            data: self.fields(id, user),
        }
    }

    fn happened(&self, id: UserId, user: &User, event: &Happened, as_state: bool) -> Record {
        Record {
            id: self.keys.record(self.scope(), event.id),
            kind: if as_state {
                SNAPSHOT.into()
            } else {
                event.kind.clone()
            },
            subject: self.keys.subject(self.scope(), id),
            time: Some(event.time),
            sequence: event.sequence,
            data: self.fields(id, user),
        }
    }

    fn fields(&self, id: UserId, user: &User) -> Data {
        let link = |field| {
            let (kind, token) = match field {
                Field::UnsubscribeUrl => {
                    let purpose = self.definition.purpose.as_deref()?;
                    let links = &self.links.unsubscribe;
                    ("unsubscribe", links.token(self.tenant, id, purpose)?)
                }
                Field::PreferencesUrl => {
                    let (links, email) = (&self.links.preferences, user.email.as_ref()?);
                    (
                        "preferences",
                        links.token(self.tenant, id, email, clock::now().day())?,
                    )
                }
                _ => return None,
            };
            Some(format!("{}/v1/{kind}/{token}", self.issuer.trim_end_matches('/')))
        };
        Data::State {
            fields: gate::fields(self.definition, user, self.settings, link),
        }
    }

    /// Whether a subject may have come into sight with an event.
    fn opens(&self, e: &Happened) -> bool {
        match &*e.kind {
            "user.enabled" => true,
            REGISTERED => self.definition.purpose.is_none(),
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

/// Whether a withdrawal concerns a feed that rests on this purpose. One that rests on none knows everybody.
pub fn concerns(withdrawal: &Withdrawal, purpose: Option<&str>) -> bool {
    match purpose {
        Some(purpose) => withdrawal.purposes.contains(purpose),
        None => withdrawal.cause != Cause::Consent,
    }
}

const REGISTERED: &str = "user.registered";

fn is_behind(cursor: &Cursor, ends: &[End]) -> bool {
    let behind = |(lane, end): (&Lane, &End)| {
        lane.snapshot.is_some()
            || lane.identity < end.identity
            || lane.withdrawals < end.identity
            || lane.activity < end.activity
    };
    cursor.lanes.iter().zip(ends).any(behind)
}

fn follows_activity(definition: &Definition) -> bool {
    definition.events.iter().any(|kind| feed::is_activity(kind))
}
