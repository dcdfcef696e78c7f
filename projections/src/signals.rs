//! `signals`: what streams of security events tell (OpenID Shared Signals), in the log's order; what each stream has told
//! already; and what its receiver asked of it.
//!
//! Facts only. The addresses of a change of address stand apart, under the user, and go with an erasure.

use std::collections::BTreeSet;

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::feed::FeedEvent;
use gatelog_events::domain::session::{EndReason, SessionEvent};
use gatelog_events::domain::signals::{SignalRef, SignalsTold};
use gatelog_events::domain::user::{PasswordReason, UserEvent};
use gatelog_events::domain::{Actor, Event};
use gatelog_events::email::Email;
use gatelog_events::ids::{CommitId, EventId, Offset, Partition, SessionId, Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::keys::{KeyBuilder, KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Signals;

pub const NAME: &str = "signals";

/// Rows that are read at once of what is beyond.
const PAGE: usize = 256;

/// Verification events of one stream that may wait; of more, the newest are kept.
pub const MAX_VERIFICATIONS: usize = 32;

/// Something that concerns whoever relies on a user's sessions and credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    pub user: UserId,
    /// The event that it follows from. One event may have several signals.
    pub event: EventId,
    pub commit: CommitId,
    pub time: Timestamp,
    pub by: Initiator,
    pub what: What,
}

/// Who made it happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initiator {
    User,
    Admin,
    Policy,
    System,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// One session ended.
    SessionEnded(SessionId, EndReason),
    /// All sessions that the user had.
    AllSessionsEnded(AllEnded),
    /// The first password.
    PasswordCreated,
    /// Another password, chosen by the user or set by somebody else.
    PasswordChanged,
    AccountDisabled,
    AccountEnabled,
    AccountPurged,
    AddressChanged,
}

/// Why all sessions of a user ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllEnded {
    PasswordChanged,
    AccountDisabled,
    AccountErased,
}

/// The addresses of a change.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub previous: Email,
    pub email: Email,
}

/// Up to where a stream has told everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Told {
    pub generation: u64,
    pub identity: Offset,
    pub activity: Offset,
}

/// A verification event that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub time: Timestamp,
    pub state: Option<String>,
}

impl Projection for Signals {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        // 2: an erasure ends all sessions.
        2
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity, Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let tenant = &at.commit.tenant;
        let Some(user) = at.commit.subject.user() else {
            for e in &at.commit.events {
                if let Event::Feed(event) = &e.event {
                    keep(rows, tenant, at.position.partition, event, e.id, e.time)?;
                }
            }
            return Ok(());
        };
        let mut number = 0;
        for e in &at.commit.events {
            for (what, by) in signals(&e.event, &at.commit.actor) {
                let place = SignalRef {
                    stream: at.position.stream,
                    offset: at.position.offset,
                    number,
                };
                number += 1;
                let signal = Signal {
                    user,
                    event: e.id,
                    commit: at.commit.id,
                    time: e.time,
                    by,
                    what,
                };
                rows.put(signal_key(tenant, at.position.partition, place), &signal)?;
            }
            match &e.event {
                Event::User(UserEvent::EmailChanged(change)) => {
                    if let Some(new) = change.personal.get()
                        && let Some(previous) = &new.previous
                    {
                        let addresses = Addresses {
                            previous: previous.clone(),
                            email: new.email.clone(),
                        };
                        let row = addresses_of(tenant, user).fixed(e.id.as_bytes()).done();
                        rows.put(row, &addresses)?;
                    }
                }
                Event::User(UserEvent::Erased(_)) => rows.delete_all(&addresses_of(tenant, user).done())?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What follows from an event, and who made it happen.
fn signals(event: &Event, actor: &Actor) -> Vec<(What, Initiator)> {
    let by = match actor {
        Actor::Visitor | Actor::User(_) => Initiator::User,
        Actor::ApiKey(_) => Initiator::Admin,
        Actor::System => Initiator::System,
    };
    match event {
        Event::Session(SessionEvent::Ended(e)) => {
            let by = match e.reason {
                EndReason::RefreshTokenReused => Initiator::Policy,
                EndReason::LoggedOut | EndReason::Revoked => by,
            };
            vec![(What::SessionEnded(e.session_id, e.reason), by)]
        }
        Event::User(event) => match event {
            UserEvent::PasswordSet(e) => match e.reason {
                PasswordReason::Registered => vec![(What::PasswordCreated, by)],
                PasswordReason::Changed | PasswordReason::Reset => vec![
                    (What::PasswordChanged, by),
                    // Sessions are of the credential under which they began.
                    (What::AllSessionsEnded(AllEnded::PasswordChanged), by),
                ],
                // Nobody chose a password.
                PasswordReason::Imported | PasswordReason::Rehashed => vec![],
            },
            UserEvent::EmailChanged(_) => vec![(What::AddressChanged, by)],
            UserEvent::Disabled(_) => vec![
                (What::AccountDisabled, by),
                (What::AllSessionsEnded(AllEnded::AccountDisabled), by),
            ],
            UserEvent::Enabled(_) => vec![(What::AccountEnabled, by)],
            UserEvent::Erased(_) => vec![
                (What::AccountPurged, by),
                (What::AllSessionsEnded(AllEnded::AccountErased), by),
            ],
            _ => vec![],
        },
        _ => vec![],
    }
}

/// Folds what is said of streams.
fn keep(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    partition: Partition,
    event: &FeedEvent,
    id: EventId,
    time: Timestamp,
) -> Result<(), StoreError> {
    match event {
        FeedEvent::SignalsTold(told) => keep_told(rows, tenant, partition, told),
        FeedEvent::VerificationRequested(e) => {
            let row = verifications_of(tenant, e.stream_id).fixed(id.as_bytes()).done();
            let verification = Verification {
                time,
                state: e.state.clone(),
            };
            rows.put(row, &verification)?;
            // While nobody takes them, as many as anybody likes may be asked for.
            let waiting = rows
                .view()
                .scan::<Verification>(&verifications_of(tenant, e.stream_id).done())?;
            let oldest = waiting.len().saturating_sub(MAX_VERIFICATIONS);
            for (key, _) in waiting.into_iter().take(oldest) {
                rows.delete(key);
            }
            rows.put(verified_key(tenant, e.stream_id), &time)
        }
        FeedEvent::StreamNoticesTaken(e) => {
            for id in &e.verifications {
                rows.delete(verifications_of(tenant, e.stream_id).fixed(id.as_bytes()).done());
            }
            if let Some(number) = e.status {
                let row = noticed_key(tenant, e.stream_id);
                let known: u64 = rows.get(&row)?.unwrap_or_default();
                rows.put(row, &known.max(number))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Two who tell the same at once cannot undo what the other has said: positions only grow.
fn keep_told(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    partition: Partition,
    e: &SignalsTold,
) -> Result<(), StoreError> {
    let row = told_key(tenant, e.stream_id, partition);
    let known: Told = rows.get(&row)?.unwrap_or_default();
    if known.generation > e.generation {
        return Ok(());
    }
    let beyond = beyond_of(tenant, e.stream_id, partition).done();
    if known.generation < e.generation {
        rows.delete_all(&beyond)?;
    }
    let same = known.generation == e.generation;
    let told = Told {
        generation: e.generation,
        identity: e.identity.max(if same { known.identity } else { 0 }),
        activity: e.activity.max(if same { known.activity } else { 0 }),
    };
    rows.put(row, &told)?;
    let is_passed = |place: &SignalRef| match place.stream {
        Stream::Identity => place.offset < told.identity,
        Stream::Activity => place.offset < told.activity,
    };
    for place in e.beyond.iter().filter(|place| !is_passed(place)) {
        rows.put(place_in(beyond_of(tenant, e.stream_id, partition), *place), &())?;
    }
    // This is said often, and what is beyond may be much: only what is passed is read, which comes first.
    for stream in Stream::ALL {
        let first = beyond_of(tenant, e.stream_id, partition)
            .fixed(&[stream.code()])
            .done();
        let mut all_passed = true;
        while all_passed {
            let page = rows.view().page::<()>(&first, &first, PAGE)?;
            all_passed = page.len() == PAGE;
            for (key, ()) in page {
                if place_of(&key, beyond.len()).is_none_or(|place| is_passed(&place)) {
                    rows.delete(key);
                } else {
                    all_passed = false;
                    break;
                }
            }
        }
    }
    Ok(())
}

fn place_in(key: KeyBuilder, place: SignalRef) -> Bytes {
    key.fixed(&[place.stream.code()])
        .u64(place.offset)
        .u16(place.number)
        .done()
}

/// Reads what [`place_in`] wrote after `prefix` bytes.
fn place_of(key: &[u8], prefix: usize) -> Option<SignalRef> {
    let (code, rest) = key.get(prefix..)?.split_first()?;
    let (offset, number) = rest.split_first_chunk::<8>()?;
    Some(SignalRef {
        stream: Stream::from_code(*code)?,
        offset: u64::from_be_bytes(*offset),
        number: u16::from_be_bytes(number.try_into().ok()?),
    })
}

fn signals_of(tenant: &TenantId, partition: Partition) -> KeyBuilder {
    key(KeyKind::Signal, tenant).u16(partition.0)
}

fn signal_key(tenant: &TenantId, partition: Partition, place: SignalRef) -> Bytes {
    place_in(signals_of(tenant, partition), place)
}

fn addresses_of(tenant: &TenantId, user: UserId) -> KeyBuilder {
    key(KeyKind::SignalAddresses, tenant).fixed(user.as_bytes())
}

fn told_key(tenant: &TenantId, stream_id: Uuid, partition: Partition) -> Bytes {
    let of = key(KeyKind::SignalsTold, tenant).fixed(stream_id.as_bytes());
    of.u16(partition.0).done()
}

fn beyond_of(tenant: &TenantId, stream_id: Uuid, partition: Partition) -> KeyBuilder {
    let of = key(KeyKind::SignalsBeyond, tenant).fixed(stream_id.as_bytes());
    of.u16(partition.0)
}

fn verifications_of(tenant: &TenantId, stream_id: Uuid) -> KeyBuilder {
    key(KeyKind::Verification, tenant).fixed(stream_id.as_bytes())
}

fn verified_key(tenant: &TenantId, stream_id: Uuid) -> Bytes {
    key(KeyKind::VerifiedAt, tenant)
        .fixed(stream_id.as_bytes())
        .done()
}

fn noticed_key(tenant: &TenantId, stream_id: Uuid) -> Bytes {
    key(KeyKind::StreamNoticed, tenant)
        .fixed(stream_id.as_bytes())
        .done()
}

/// Signals of one partition of one of the log's streams from `from` on, in order.
pub fn signals_from(
    view: View<'_>,
    tenant: &TenantId,
    partition: Partition,
    stream: Stream,
    from: Offset,
    limit: usize,
) -> Result<Vec<(SignalRef, Signal)>, StoreError> {
    let of = || signals_of(tenant, partition).fixed(&[stream.code()]);
    let prefix = of().done();
    let rows = view.page::<Signal>(&prefix, &of().u64(from).done(), limit)?;
    let read = |(key, signal): (Bytes, Signal)| Some((place_of(&key, prefix.len() - 1)?, signal));
    Ok(rows.into_iter().filter_map(read).collect())
}

/// One signal.
pub fn signal(
    view: View<'_>,
    tenant: &TenantId,
    partition: Partition,
    place: SignalRef,
) -> Result<Option<Signal>, StoreError> {
    view.get(&signal_key(tenant, partition, place))
}

/// The addresses of a change of address; none once the user was erased, or where they were not written.
pub fn addresses(
    view: View<'_>,
    tenant: &TenantId,
    user: UserId,
    event: EventId,
) -> Result<Option<Addresses>, StoreError> {
    view.get(&addresses_of(tenant, user).fixed(event.as_bytes()).done())
}

/// How far a stream has come in a partition; none if nothing was said of it.
pub fn told(
    view: View<'_>,
    tenant: &TenantId,
    stream_id: Uuid,
    partition: Partition,
) -> Result<Option<Told>, StoreError> {
    view.get(&told_key(tenant, stream_id, partition))
}

/// What a stream has told beyond where it has told everything.
pub fn beyond(
    view: View<'_>,
    tenant: &TenantId,
    stream_id: Uuid,
    partition: Partition,
) -> Result<BTreeSet<SignalRef>, StoreError> {
    let prefix = beyond_of(tenant, stream_id, partition).done();
    let rows = view.scan::<()>(&prefix)?;
    Ok(rows
        .iter()
        .filter_map(|(key, ())| place_of(key, prefix.len()))
        .collect())
}

/// Up to `limit` verification events that are to be sent, oldest first.
pub fn verifications(
    view: View<'_>,
    tenant: &TenantId,
    stream_id: Uuid,
    limit: usize,
) -> Result<Vec<(EventId, Verification)>, StoreError> {
    let prefix = verifications_of(tenant, stream_id).done();
    let rows = view.page::<Verification>(&prefix, &prefix, limit)?;
    let read = |(key, verification): (Bytes, Verification)| {
        let id: [u8; 16] = key.get(prefix.len()..)?.try_into().ok()?;
        Some((EventId(Uuid::from_bytes(id)), verification))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// When a verification event was asked for last.
pub fn verified_at(
    view: View<'_>,
    tenant: &TenantId,
    stream_id: Uuid,
) -> Result<Option<Timestamp>, StoreError> {
    view.get(&verified_key(tenant, stream_id))
}

/// The number of the last change of status of which the receiver was told; 0 if of none.
pub fn noticed(view: View<'_>, tenant: &TenantId, stream_id: Uuid) -> Result<u64, StoreError> {
    Ok(view.get(&noticed_key(tenant, stream_id))?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreOptions, Table};
    use crate::view::Overlay;
    use gatelog_events::domain::signals::VerificationRequested;

    const STREAM: Uuid = Uuid::from_u128(0xabcd);
    const HERE: Partition = Partition(3);

    fn at(stream: Stream, offset: Offset) -> SignalRef {
        SignalRef {
            stream,
            offset,
            number: 1,
        }
    }

    fn event(generation: u64, identity: Offset, activity: Offset, beyond: &[SignalRef]) -> SignalsTold {
        SignalsTold {
            stream_id: STREAM,
            generation,
            identity,
            activity,
            beyond: beyond.to_vec(),
        }
    }

    /// Rows of nothing yet.
    fn folding(test: impl FnOnce(&mut FoldView<'_>, TenantId)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let mut overlay = Overlay::default();
        test(
            &mut FoldView::new(&store, &table, &mut overlay),
            TenantId::default(),
        );
    }

    #[test]
    fn what_is_told_only_grows_until_the_stream_begins_anew() {
        folding(only_grows);
    }

    fn only_grows(rows: &mut FoldView<'_>, tenant: TenantId) {
        use Stream::{Activity, Identity};
        let mut after = |event: SignalsTold| {
            keep_told(rows, &tenant, HERE, &event).unwrap();
            let known = told(rows.view(), &tenant, STREAM, HERE).unwrap().unwrap();
            let beyond = beyond(rows.view(), &tenant, STREAM, HERE).unwrap();
            let beyond: Vec<_> = beyond.into_iter().collect();
            (known.generation, known.identity, known.activity, beyond)
        };
        let (a, b) = (at(Identity, 12), at(Activity, 9));
        assert_eq!(after(event(1, 10, 5, &[b, a])), (1, 10, 5, vec![a, b]));
        // Two nodes that were polled at once: the second knew nothing of the first.
        let c = at(Identity, 15);
        assert_eq!(after(event(1, 10, 4, &[c])), (1, 10, 5, vec![a, c, b]));
        assert_eq!(after(event(1, 13, 4, &[a])), (1, 13, 5, vec![c, b]));
        assert_eq!(after(event(1, 10, 10, &[])), (1, 13, 10, vec![c]));
        let many: Vec<_> = (20..20 + 2 * PAGE as u64).map(|n| at(Activity, n)).collect();
        assert_eq!(after(event(1, 13, 10, &many)).3.len(), 1 + many.len());
        let last = 20 + many.len() as u64 - 1;
        assert_eq!(
            after(event(1, 13, last, &[])),
            (1, 13, last, vec![c, at(Activity, last)])
        );
        assert_eq!(after(event(1, 16, last + 1, &[])), (1, 16, last + 1, vec![]));
        // What is said of an earlier beginning counts no more.
        assert_eq!(after(event(4, 2, 2, &[])), (4, 2, 2, vec![]));
        assert_eq!(after(event(1, 99, 99, &[c])), (4, 2, 2, vec![]));
    }

    #[test]
    fn of_verifications_that_nobody_takes_the_newest_are_kept() {
        folding(the_newest_are_kept);
    }

    fn the_newest_are_kept(rows: &mut FoldView<'_>, tenant: TenantId) {
        let asked = MAX_VERIFICATIONS as u128 + 3;
        for n in 0..asked {
            let event = FeedEvent::VerificationRequested(VerificationRequested {
                stream_id: STREAM,
                state: None,
            });
            let id = EventId(Uuid::from_u128(n));
            keep(rows, &tenant, HERE, &event, id, Timestamp::EPOCH).unwrap();
        }
        let waiting = verifications(rows.view(), &tenant, STREAM, 100).unwrap();
        let waiting: Vec<_> = waiting.into_iter().map(|(id, _)| id.0.as_u128()).collect();
        assert_eq!(waiting, (3..asked).collect::<Vec<_>>());
    }
}
