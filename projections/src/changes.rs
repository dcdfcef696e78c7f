//! `changes`: what feeds follow. Everything that happened to users, in the log's order, and apart from it what ended
//! somebody's consent or account, so that it can be told before anything else. Facts only; nothing personal.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::ConsentEvent;
use gatelog_events::domain::user::UserEvent;
use gatelog_events::domain::{Event, feed};
use gatelog_events::ids::{EventId, Offset, Partition, Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};

use crate::details::{self, Details};
use crate::keys::{KeyBuilder, KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View, decode_row};

/// The projection.
#[derive(Debug, Default)]
pub struct Changes;

pub const NAME: &str = "changes";

/// What one commit changed for one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub user: UserId,
    pub events: Vec<Happened>,
}

/// One event of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    pub id: EventId,
    /// As feeds name it, such as `plan.upgraded`.
    pub kind: Cow<'static, str>,
    pub time: Timestamp,
    pub sequence: u64,
    /// The purpose, where it is about a consent.
    pub purpose: Option<String>,
    /// What else feeds may tell of it.
    pub details: Details,
}

/// A change as it lies in its row, of which nothing is copied.
#[derive(Deserialize)]
struct StoredChange<'r> {
    user: UserId,
    #[serde(borrow)]
    events: Vec<StoredEvent<'r>>,
}

/// The fields of [`Happened`], in their order; the second is the kind.
type StoredEvent<'r> = (
    EventId,
    &'r str,
    Timestamp,
    u64,
    Option<&'r str>,
    Vec<(&'r str, &'r str)>,
);

/// The kind of the event with which somebody is there.
pub const REGISTERED: &str = "user.registered";

/// What ended somebody's consent or account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    pub user: UserId,
    pub id: EventId,
    pub time: Timestamp,
    pub sequence: u64,
    pub cause: Cause,
    /// The purposes whose feeds have to hear of it: those to which there was a consent until then, and for an erasure all to
    /// which there ever was one. Whoever rests on another one never knew of this user.
    pub purposes: BTreeSet<String>,
}

/// Why somebody must not be told of any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A consent was withdrawn.
    Consent,
    Disabled,
    Erased,
}

impl Projection for Changes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        // 2: an erasure concerns whoever ever knew of the user. 3: with details.
        3
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity, Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let Some(user) = at.commit.subject.user() else {
            return Ok(());
        };
        let tenant = &at.commit.tenant;
        let position = at.position;
        let mut events = Vec::with_capacity(at.commit.events.len());
        let mut consents = Consents::of(tenant, user);
        // Two withdrawals of one commit share its offset, so their number tells them apart.
        let mut withdrawals = 0;
        for e in &at.commit.events {
            if let Some((cause, purposes)) = consents.after(rows, &e.event)? {
                let row = withdrawals_of(tenant, position.partition)
                    .u64(position.offset)
                    .u16(withdrawals)
                    .done();
                withdrawals += 1;
                let withdrawal = Withdrawal {
                    user,
                    id: e.id,
                    time: e.time,
                    sequence: e.sequence,
                    cause,
                    purposes,
                };
                rows.put(row, &withdrawal)?;
            }
            if let Event::Identifier(_) | Event::Tenant(_) | Event::Feed(_) = e.event {
                continue;
            }
            events.push(Happened {
                id: e.id,
                kind: feed::kind(e.event.type_name()).into(),
                time: e.time,
                sequence: e.sequence,
                purpose: purpose(&e.event).map(str::to_owned),
                details: details::for_feeds(&e.event),
            });
        }
        if events.is_empty() {
            return Ok(());
        }
        let row = changes_of(tenant, position.stream, position.partition)
            .u64(position.offset)
            .done();
        rows.put(row, &Change { user, events })
    }
}

fn purpose(event: &Event) -> Option<&str> {
    match event {
        Event::Consent(ConsentEvent::Granted(c) | ConsentEvent::Withdrawn(c)) => Some(&c.purpose),
        _ => None,
    }
}

/// The purposes to which a user has consented, as the events so far say.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Purposes {
    granted: BTreeSet<String>,
    /// Granted now or once. Whoever was told of the user by one may still have what was to be forgotten.
    ever: BTreeSet<String>,
}

/// The row of a user's [`Purposes`].
struct Consents(Bytes);

impl Consents {
    fn of(tenant: &TenantId, user: UserId) -> Self {
        Self(key(KeyKind::Granted, tenant).fixed(user.as_bytes()).done())
    }

    /// Folds an event. What it withdrew, if it withdrew anything.
    fn after(
        &mut self,
        rows: &mut FoldView<'_>,
        event: &Event,
    ) -> Result<Option<(Cause, BTreeSet<String>)>, StoreError> {
        let known = |rows: &FoldView<'_>| Ok::<Purposes, StoreError>(rows.get(&self.0)?.unwrap_or_default());
        match event {
            Event::Consent(ConsentEvent::Granted(c)) => {
                let mut purposes = known(rows)?;
                purposes.granted.insert(c.purpose.clone());
                purposes.ever.insert(c.purpose.clone());
                rows.put(self.0.clone(), &purposes)?;
                Ok(None)
            }
            Event::Consent(ConsentEvent::Withdrawn(c)) => {
                let mut purposes = known(rows)?;
                let Some(purpose) = purposes.granted.take(&c.purpose) else {
                    return Ok(None);
                };
                rows.put(self.0.clone(), &purposes)?;
                Ok(Some((Cause::Consent, BTreeSet::from([purpose]))))
            }
            Event::User(UserEvent::Disabled(_)) => Ok(Some((Cause::Disabled, known(rows)?.granted))),
            Event::User(UserEvent::Erased(_)) => {
                let purposes = known(rows)?;
                rows.delete(self.0.clone());
                Ok(Some((Cause::Erased, purposes.ever)))
            }
            _ => Ok(None),
        }
    }
}

fn changes_of(tenant: &TenantId, stream: Stream, partition: Partition) -> KeyBuilder {
    key(KeyKind::Change, tenant)
        .fixed(&[stream.code()])
        .u16(partition.0)
}

fn withdrawals_of(tenant: &TenantId, partition: Partition) -> KeyBuilder {
    key(KeyKind::Withdrawal, tenant).u16(partition.0)
}

/// Changes of one partition from `from` on, each with its offset, in order.
pub fn changes(
    view: View<'_>,
    tenant: &TenantId,
    stream: Stream,
    partition: Partition,
    from: Offset,
    limit: usize,
) -> Result<Vec<(Offset, Change)>, StoreError> {
    let prefix = changes_of(tenant, stream, partition).done();
    let start = changes_of(tenant, stream, partition).u64(from).done();
    rows(view, &prefix, &start, limit)
}

/// Withdrawals of one partition from `from` on, each with its offset, in order.
pub fn withdrawals(
    view: View<'_>,
    tenant: &TenantId,
    partition: Partition,
    from: Offset,
    limit: usize,
) -> Result<Vec<(Offset, Withdrawal)>, StoreError> {
    let prefix = withdrawals_of(tenant, partition).done();
    let start = withdrawals_of(tenant, partition).u64(from).done();
    rows(view, &prefix, &start, limit)
}

/// Changes of one partition of the identity stream from `from` on, in order: the offset of each, and who registered with it if
/// somebody did. For who comes by all of them: it costs less than [`changes`].
pub fn registrations(
    view: View<'_>,
    tenant: &TenantId,
    partition: Partition,
    from: Offset,
    limit: usize,
) -> Result<Vec<(Offset, Option<UserId>)>, StoreError> {
    let prefix = changes_of(tenant, Stream::Identity, partition).done();
    let start = changes_of(tenant, Stream::Identity, partition).u64(from).done();
    let mut all = Vec::new();
    for (key, row) in view.raw_page(&prefix, &start, limit)? {
        let change: StoredChange<'_> = decode_row(&row, view.table)?;
        let registered = change.events.iter().any(|e| e.1 == REGISTERED);
        if let Some(offset) = offset_in(&prefix, &key) {
            all.push((offset, registered.then_some(change.user)));
        }
    }
    Ok(all)
}

fn offset_in(prefix: &[u8], key: &[u8]) -> Option<Offset> {
    let bytes = key.get(prefix.len()..prefix.len() + 8)?;
    Some(Offset::from_be_bytes(bytes.try_into().ok()?))
}

fn rows<T: serde::de::DeserializeOwned>(
    view: View<'_>,
    prefix: &Bytes,
    start: &Bytes,
    limit: usize,
) -> Result<Vec<(Offset, T)>, StoreError> {
    let rows = view.page::<T>(prefix, start, limit)?;
    Ok(rows
        .into_iter()
        .filter_map(|(key, row)| Some((offset_in(prefix, &key)?, row)))
        .collect())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::{Store, StoreOptions, Table};
    use crate::view::encode_row;

    fn happened(kind: &'static str, purpose: Option<&str>) -> Happened {
        Happened {
            id: EventId(Uuid::from_u128(7)),
            kind: kind.into(),
            time: Timestamp::EPOCH,
            sequence: 300,
            purpose: purpose.map(str::to_owned),
            details: vec![("channel".into(), "email".to_owned())],
        }
    }

    #[test]
    fn who_registered_is_seen_in_rows_as_they_are_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new(NAME, 1, 0);
        store.create(&table).unwrap();
        let (tenant, partition) = (TenantId::default(), Partition(2));
        let granted = || happened("consent.granted", Some("newsletter"));
        let rows = [
            (4, vec![granted()]),
            (9, vec![granted(), happened(REGISTERED, None)]),
            (70_000, vec![]),
        ];
        for (offset, events) in &rows {
            let user = UserId(Uuid::from_u128(u128::from(*offset)));
            let events = events.clone();
            let row = encode_row(&Change { user, events }, &table).unwrap();
            let key = changes_of(&tenant, Stream::Identity, partition).u64(*offset);
            store.write([(&table, &[(key.done(), Some(row))][..])]).unwrap();
        }
        let view = View {
            store: &store,
            table: &table,
            overlay: None,
        };
        let all = registrations(view, &tenant, partition, 0, 9).unwrap();
        assert_eq!(
            all,
            [(4, None), (9, Some(UserId(Uuid::from_u128(9)))), (70_000, None)]
        );
        assert_eq!(registrations(view, &tenant, partition, 9, 1).unwrap(), all[1..2]);
    }
}
