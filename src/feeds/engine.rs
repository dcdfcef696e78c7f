//! From the log's changes and the users as they are now to the records that a consumer may see.
//!
//! A batch tells withdrawals first: all there are between where the consumer was told last and the present end, whatever
//! else waits. Then it goes on with the snapshot, or with what happened. An event of somebody who may not be seen now
//! makes no record; one of somebody who may be seen makes a record with the granted fields as they are now.

mod batch;
mod ends;
mod node;

use std::collections::BTreeSet;
use std::time::Duration;

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::feed::{self, Definition, Field};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::User;
use gatelog_events::ids::{Offset, Partition, Stream, TenantId, UserId};
use gatelog_projections::changes::{Cause, Change, Happened, REGISTERED, Withdrawal};
use gatelog_projections::store::StoreError;
use serde_json::{Map, Value};

use self::batch::Filling;
pub use self::batch::{Batch, Item};
use self::ends::{End, is_behind, is_known};
use super::cursor::{Cursor, Lane, Snapshot};
use super::gate;
use super::keys::{FeedKeys, Scope};
use super::links::Links;
use super::record::{Data, Record, SNAPSHOT, WITHDRAWN};
use crate::views::Views;

/// Rows that one batch looks at, at the most, so that a consumer who may see little is answered soon.
const MAX_SCANNED: usize = 4096;
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

impl Engine<'_> {
    /// The cursor of a new consumer of this version, with so many lanes.
    pub fn begin(&self, version: u32, lanes: u16, start: Start) -> Cursor {
        let lane = |end: End| match start {
            Start::Beginning => Lane {
                withdrawals: end.identity,
                since: end.identity,
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
                    since: end.identity,
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

    /// What comes after a cursor, as it is now: at most `limit` records and those of one more commit. Reads the store;
    /// blocks.
    pub fn records(&self, cursor: Cursor, limit: usize) -> Result<Batch<(Item, Record)>, StoreError> {
        let make = |item: Item| Ok(self.record(&item)?.map(|record| (item, record)));
        let ends = self.ends(cursor.lanes.len(), false);
        self.fill(cursor, limit, &ends, &make)
    }

    /// The same for who asks for each [`record`](Self::record) when it leaves. What nobody may see now is among it.
    pub fn items(&self, cursor: Cursor, limit: usize) -> Result<Batch<Item>, StoreError> {
        let ends = self.ends(cursor.lanes.len(), false);
        self.fill(cursor, limit, &ends, &|item| Ok(Some(item)))
    }

    /// As [`items`](Self::items), without what nobody may see now, and with nothing of the partitions `aside`.
    pub fn visible(
        &self,
        cursor: Cursor,
        limit: usize,
        aside: &BTreeSet<Partition>,
    ) -> Result<Batch<Item>, StoreError> {
        let ends = self.ends_but(cursor.lanes.len(), aside);
        let make = |item: Item| Ok(self.is_visible(&item)?.then_some(item));
        self.fill(cursor, limit, &ends, &make)
    }

    fn fill<T>(
        &self,
        cursor: Cursor,
        limit: usize,
        ends: &[End],
        make: &dyn Fn(Item) -> Result<Option<T>, StoreError>,
    ) -> Result<Batch<T>, StoreError> {
        let mut batch = Filling {
            told: Vec::new(),
            scanned: 0,
            limit,
            cursor: self.retained(cursor, ends)?,
            make,
        };
        self.tell_withdrawals(&mut batch, ends)?;
        self.follow(&mut batch, ends)?;
        Ok(Batch {
            more: is_behind(&batch.cursor, ends),
            told: batch.told,
            cursor: batch.cursor,
        })
    }

    /// The cursor, where what comes after it is still told. What is older than that is passed over, and everyone's state is
    /// told in its place.
    fn retained(&self, mut cursor: Cursor, ends: &[End]) -> Result<Cursor, StoreError> {
        let Some(retention) = self.definition.retention_seconds else {
            return Ok(cursor);
        };
        let oldest = clock::now().minus(Duration::from_secs(retention));
        for (n, (lane, end)) in cursor.lanes.iter_mut().zip(ends).enumerate() {
            let partition = self.partition(n);
            let at = |stream, from, end| -> Result<Offset, StoreError> {
                let rows = self.views.changes(self.tenant, stream, partition, from, 1)?;
                match rows.first() {
                    Some((_, change)) if is_before(change, oldest) => {
                        self.first_since(stream, partition, (from, end), oldest)
                    }
                    _ => Ok(from),
                }
            };
            let identity = at(Stream::Identity, lane.identity, end.identity)?;
            let activity = at(Stream::Activity, lane.activity, end.activity)?;
            if (identity, activity) != (lane.identity, lane.activity) {
                // One that is under way goes on, and no more is passed over than it tells of: begun anew each time, it might
                // never end.
                let under_way = lane.snapshot.filter(|s| s.next > 0);
                let snapshot = under_way.unwrap_or(Snapshot {
                    next: 0,
                    end: end.identity,
                });
                lane.snapshot = Some(snapshot);
                (lane.identity, lane.activity) = (identity.min(snapshot.end), activity);
            }
        }
        Ok(cursor)
    }

    /// Only the withdrawals after a cursor, for a consumer who can take nothing else now; `more` is whether there are more of
    /// them.
    pub fn withdrawals(&self, cursor: Cursor) -> Result<Batch<Item>, StoreError> {
        let ends = self.ends(cursor.lanes.len(), false);
        let mut batch = Filling {
            told: Vec::new(),
            scanned: 0,
            limit: MAX_SCANNED,
            cursor,
            make: &|item| Ok(Some(item)),
        };
        self.tell_withdrawals(&mut batch, &ends)?;
        let lanes = batch.cursor.lanes.iter().zip(&ends);
        Ok(Batch {
            more: lanes
                .into_iter()
                .any(|(lane, end)| lane.withdrawals < end.identity),
            told: batch.told,
            cursor: batch.cursor,
        })
    }

    /// The cursor, of one lane, of a consumer who wants what was recorded since a time.
    pub fn since(&self, version: u32, time: Timestamp) -> Result<Cursor, StoreError> {
        let mut cursor = self.begin(version, 1, Start::Now);
        for lane in &mut cursor.lanes {
            lane.identity = self.first_since(Stream::Identity, self.first, (0, lane.identity), time)?;
            lane.activity = self.first_since(Stream::Activity, self.first, (0, lane.activity), time)?;
        }
        Ok(cursor)
    }

    /// The first offset of a range at which something happened since a time; its end if nothing did.
    fn first_since(
        &self,
        stream: Stream,
        partition: Partition,
        (mut low, mut high): (Offset, Offset),
        time: Timestamp,
    ) -> Result<Offset, StoreError> {
        while low < high {
            let middle = low + (high - low) / 2;
            let rows = self.views.changes(self.tenant, stream, partition, middle, 1)?;
            match rows.first() {
                Some((offset, change)) if is_before(change, time) => low = offset + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Whether there is anything to look at after a cursor.
    pub fn has_more(&self, cursor: &Cursor) -> bool {
        is_behind(cursor, &self.ends(cursor.lanes.len(), false))
    }

    /// Whether a withdrawal is not true any more, or an erasure, which is told by itself, came after it. Where it is told
    /// late, out of its order, it would undo what was told since.
    pub fn is_over(&self, item: &Item) -> Result<bool, StoreError> {
        let Item::Withdrawn { withdrawal, .. } = item else {
            return Ok(false);
        };
        if withdrawal.cause == Cause::Erased {
            return Ok(false);
        }
        let user = self.views.user(self.tenant, withdrawal.user)?;
        Ok(gate::is_open(self.definition, &user) || !user.exists())
    }

    /// Whether an item says anything now.
    fn is_visible(&self, item: &Item) -> Result<bool, StoreError> {
        if let Item::Withdrawn { .. } = item {
            return Ok(true);
        }
        let user = self.views.glance_at_user(self.tenant, item.user())?;
        Ok(gate::is_open(self.definition, &user))
    }

    /// What an item says now; nothing if its subject may not be seen. A withdrawal is told in any case.
    pub fn record(&self, item: &Item) -> Result<Option<Record>, StoreError> {
        if let Item::Withdrawn { withdrawal, .. } = item {
            return Ok(Some(self.withdrawn(withdrawal)));
        }
        let user = self.views.glance_at_user(self.tenant, item.user())?;
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

    fn partition(&self, lane: usize) -> Partition {
        Partition(
            self.first
                .0
                .saturating_add(u16::try_from(lane).unwrap_or(u16::MAX)),
        )
    }

    fn tell_withdrawals<T>(&self, batch: &mut Filling<'_, T>, ends: &[End]) -> Result<(), StoreError> {
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
    fn tell_some<T>(&self, batch: &mut Filling<'_, T>, lane: usize, end: End) -> Result<(), StoreError> {
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
            // Who never knew of the user is told nothing.
            if concerns(&withdrawal, self.definition.purpose.as_deref()) {
                batch.add(Item::Withdrawn {
                    partition,
                    offset,
                    withdrawal,
                })?;
            }
        }
        batch.cursor.lanes[lane].withdrawals = next;
        Ok(())
    }

    fn withdrawn(&self, withdrawal: &Withdrawal) -> Record {
        Record {
            id: self.keys.record(self.scope(), withdrawal.id),
            kind: WITHDRAWN.into(),
            subject: self.keys.subject(self.scope(), withdrawal.user),
            time: Some(withdrawal.time),
            sequence: withdrawal.sequence,
            granted: false,
            data: Data::Withdrawn {
                reason: withdrawal.cause.into(),
            },
        }
    }

    /// Turns from partition to partition until the batch is full or nothing is left.
    fn follow<T>(&self, batch: &mut Filling<'_, T>, ends: &[End]) -> Result<(), StoreError> {
        loop {
            let mut found = false;
            for _ in 0..ends.len() {
                if batch.is_full() {
                    return Ok(());
                }
                let lane = usize::from(batch.cursor.turn) % ends.len();
                batch.cursor.turn = u16::try_from((lane + 1) % ends.len()).unwrap_or(0);
                // A node that knows less than was told must not say what has been withdrawn since.
                if !is_known(&batch.cursor.lanes[lane], ends[lane]) {
                    continue;
                }
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
    fn go_on_with_snapshot<T>(&self, batch: &mut Filling<'_, T>, lane: usize) -> Result<bool, StoreError> {
        let Some(Snapshot { next, end }) = batch.cursor.lanes[lane].snapshot else {
            return Ok(false);
        };
        let limit = batch.room();
        let rows = self
            .views
            .registrations(self.tenant, self.partition(lane), next, limit)?;
        batch.scanned += rows.len();
        let last = rows
            .last()
            .map(|(offset, _)| *offset)
            .filter(|_| rows.len() == limit);
        let rows = rows.into_iter().take_while(|(offset, _)| *offset < end);
        for user in rows.filter_map(|(_, registered)| registered) {
            batch.add(Item::State { user })?;
        }
        let next = last.map(|offset| offset + 1).filter(|next| *next < end);
        batch.cursor.lanes[lane].snapshot = next.map(|next| Snapshot { next, end });
        Ok(true)
    }

    /// Some changes of one partition; whether there were any.
    fn follow_one<T>(
        &self,
        batch: &mut Filling<'_, T>,
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
            for item in self.wanted(change, (stream, offset)) {
                batch.add(item)?;
            }
            next = next.max(offset + 1);
        }
        let at = &mut batch.cursor.lanes[lane];
        match stream {
            Stream::Identity => at.identity = next,
            Stream::Activity => at.activity = next,
        }
        Ok(true)
    }

    /// What of a change the feed names; else, as a state, what may have brought somebody into sight.
    fn wanted(&self, change: Change, (stream, offset): (Stream, Offset)) -> Vec<Item> {
        let Change { user, events } = change;
        let named = |e: &Happened| self.definition.events.contains(&*e.kind) && !self.closes(e);
        let item = |event, as_state| Item::Happened {
            user,
            stream,
            offset,
            event,
            as_state,
        };
        if events.iter().any(named) {
            let wanted = events.into_iter().filter(named);
            return wanted.map(|event| item(event, false)).collect();
        }
        let opening = events.into_iter().find(|e| self.opens(e));
        opening.map(|event| item(event, true)).into_iter().collect()
    }

    fn state(&self, id: UserId, user: &User) -> Record {
        // A version of the feed with other fields says something else of the same state.
        let fields: Vec<_> = self.definition.fields.iter().map(|f| f.name()).collect();
        let fields = fields.join(",");
        Record {
            id: self.keys.snapshot(self.scope(), id, user.version, &fields),
            kind: SNAPSHOT.into(),
            subject: self.keys.subject(self.scope(), id),
            time: None,
            sequence: user.version,
            granted: false,
            data: Data::State {
                details: Map::new(),
                fields: self.fields(id, user),
            },
        }
    }

    fn happened(&self, id: UserId, user: &User, event: &Happened, as_state: bool) -> Record {
        // A dead letter may be of a version that named more.
        let as_state = as_state || !self.definition.events.contains(&*event.kind);
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
            granted: self.grants(event),
            data: Data::State {
                details: if as_state {
                    Map::new()
                } else {
                    gate::details(event)
                },
                fields: self.fields(id, user),
            },
        }
    }

    fn fields(&self, id: UserId, user: &User) -> Map<String, Value> {
        let link = |field| {
            let (kind, token) = match field {
                Field::UnsubscribeUrl => {
                    let purpose = self.definition.purpose.as_deref()?;
                    let links = &self.links.unsubscribe;
                    ("unsubscribe", links.token(self.scope(), id, purpose)?)
                }
                Field::PreferencesUrl => {
                    let (links, email) = (&self.links.preferences, user.email.as_ref()?);
                    (
                        "preferences",
                        links.token(self.scope(), id, email, clock::now().day())?,
                    )
                }
                _ => return None,
            };
            Some(format!("{}/v1/{kind}/{token}", self.issuer.trim_end_matches('/')))
        };
        gate::fields(self.definition, user, self.settings, link)
    }

    /// Whether a subject may have come into sight with an event.
    fn opens(&self, e: &Happened) -> bool {
        match &*e.kind {
            "user.enabled" => true,
            REGISTERED => self.definition.purpose.is_none(),
            _ => self.grants(e),
        }
    }

    /// Whether it gave the consent that gates the feed.
    fn grants(&self, e: &Happened) -> bool {
        e.kind == "consent.granted" && e.purpose.is_some() && e.purpose == self.definition.purpose
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

/// Whether it was recorded before a time. What an import wrote happened long before; the id of an event, a UUIDv7 (RFC 9562
/// section 5.7), has the time at which it was written.
fn is_before(change: &Change, time: Timestamp) -> bool {
    let recorded = |e: &Happened| Timestamp::from_millis((e.id.0.as_u128() >> 80) as i64);
    change.events.iter().all(|e| recorded(e) < time)
}

fn follows_activity(definition: &Definition) -> bool {
    definition.events.iter().any(|kind| feed::is_activity(kind))
}
