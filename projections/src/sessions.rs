//! `sessions`: a user's activity and sessions. State of the writer, and what refreshes and session lists read.

use std::sync::Arc;

use bytes::Bytes;
use gatelog_events::domain::Event;
use gatelog_events::domain::session::{Activity, Client, Session, SessionEvent, Started};
use gatelog_events::ids::{SessionId, Stream, TenantId, UserId};

use crate::gone;
use crate::hot::Hot;
use crate::keys::{KeyBuilder, KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Sessions;

pub const NAME: &str = "sessions";

impl Projection for Sessions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
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
        match at.position.stream {
            Stream::Identity => {
                if at.commit.erases().is_some() {
                    rows.delete_all(&sessions_of(tenant, user).done())?;
                    rows.delete(activity_key(tenant, user));
                    gone::note(rows, tenant, user)?;
                }
                Ok(())
            }
            // Whether the identity stream's erasure comes before or after: nothing of the erased is kept.
            Stream::Activity if at.commit.erased => Ok(()),
            Stream::Activity => apply_activity(rows, tenant, user, at),
        }
    }
}

fn apply_activity(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    user: UserId,
    at: Located<'_>,
) -> Result<(), StoreError> {
    let activity_row = activity_key(tenant, user);
    let mut activity: Activity = match rows.get(&activity_row)? {
        Some(activity) => activity,
        None if gone::is_noted(rows, tenant, user)? => return Ok(()),
        None => Activity::default(),
    };
    let mut client: Option<&Client> = None;
    for e in &at.commit.events {
        let Event::Session(event) = &e.event else { continue };
        activity.evolve(event, e.time, e.sequence);
        match event {
            SessionEvent::LoginSucceeded(l) => client = l.personal.get(),
            SessionEvent::Started(s) => start(rows, tenant, user, s, client, e.time)?,
            SessionEvent::Refreshed(r) | SessionEvent::Reused(r) => {
                evolve(rows, tenant, user, r.session_id, event, e.time)?;
            }
            SessionEvent::Ended(x) => evolve(rows, tenant, user, x.session_id, event, e.time)?,
            SessionEvent::LoginFailed(_) | SessionEvent::Locked(_) | SessionEvent::Unlocked(_) => {}
        }
    }
    rows.put(activity_row, &activity)
}

fn start(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    user: UserId,
    started: &Started,
    client: Option<&Client>,
    time: gatelog_events::clock::Timestamp,
) -> Result<(), StoreError> {
    let session = Session::start(started, client, time);
    rows.put(session_key(tenant, user, session.id), &session)
}

fn evolve(
    rows: &mut FoldView<'_>,
    tenant: &TenantId,
    user: UserId,
    id: SessionId,
    event: &SessionEvent,
    time: gatelog_events::clock::Timestamp,
) -> Result<(), StoreError> {
    let at = session_key(tenant, user, id);
    // The activity stream may be cut by time: a session that began before the cut is not known any more.
    if let Some(mut session) = rows.get::<Session>(&at)? {
        session.evolve(event, time);
        rows.put(at, &session)?;
    }
    Ok(())
}

fn activity_key(tenant: &TenantId, user: UserId) -> Bytes {
    key(KeyKind::Activity, tenant).fixed(user.as_bytes()).done()
}

fn sessions_of(tenant: &TenantId, user: UserId) -> KeyBuilder {
    key(KeyKind::Session, tenant).fixed(user.as_bytes())
}

fn session_key(tenant: &TenantId, user: UserId, session: SessionId) -> Bytes {
    sessions_of(tenant, user).fixed(session.as_bytes()).done()
}

/// What the user's activity so far comes to.
pub fn activity(view: View<'_>, tenant: &TenantId, user: UserId) -> Result<Activity, StoreError> {
    Ok(view.get(&activity_key(tenant, user))?.unwrap_or_default())
}

/// As [`activity`], from memory where it can be.
pub fn activity_hot(
    view: View<'_>,
    hot: &Hot<Activity>,
    tenant: &TenantId,
    user: UserId,
) -> Result<Arc<Activity>, StoreError> {
    Ok(hot.get(view, &activity_key(tenant, user))?.unwrap_or_default())
}

/// As [`get`], from memory where it can be.
pub fn get_hot(
    view: View<'_>,
    hot: &Hot<Session>,
    tenant: &TenantId,
    user: UserId,
    session: SessionId,
) -> Result<Option<Arc<Session>>, StoreError> {
    hot.get(view, &session_key(tenant, user, session))
}

/// Takes a user's activity and sessions out of memory.
pub fn forget(activities: &Hot<Activity>, sessions: &Hot<Session>, tenant: &TenantId, user: UserId) {
    activities.forget(&activity_key(tenant, user));
    sessions.forget_all(&sessions_of(tenant, user).done());
}

/// One session of a user.
pub fn get(
    view: View<'_>,
    tenant: &TenantId,
    user: UserId,
    session: SessionId,
) -> Result<Option<Session>, StoreError> {
    view.get(&session_key(tenant, user, session))
}

/// A page of a user's sessions, ended and expired ones too, newest first; `after` is the cursor of the last one seen.
///
/// A session's id begins with the time at which it was made, so the order of keys is that of age. Nothing but an erasure
/// removes sessions, and a user may have very many: no more of them are read than are asked for.
pub fn page(
    view: View<'_>,
    tenant: &TenantId,
    user: UserId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Session)>, StoreError> {
    view.page_before(&sessions_of(tenant, user).done(), after, limit)
}

#[cfg(test)]
mod tests {
    use gatelog_events::clock::Timestamp;
    use gatelog_events::domain::session::{EndReason, Ended};
    use gatelog_events::ids::Shard;
    use uuid::Uuid;

    use super::*;
    use crate::store::{Store, StoreOptions, Table};
    use crate::view::Overlay;

    const USER: UserId = UserId(Uuid::from_u128(7));
    /// Whose rows stand right before and right behind those of [`USER`].
    const NEIGHBOURS: [UserId; 2] = [UserId(Uuid::from_u128(6)), UserId(Uuid::from_u128(8))];

    /// The `n`th session of a user. Two at a time are of the same millisecond.
    fn id(n: u8) -> SessionId {
        SessionId::new(Timestamp::from_millis(i64::from(n / 2)), Shard(3), [n; 8])
    }

    fn key_of(n: u8) -> Bytes {
        session_key(&TenantId::default(), USER, id(n))
    }

    fn begin(rows: &mut FoldView<'_>, user: UserId, n: u8) {
        let started = Started {
            session_id: id(n),
            credential_version: 1,
            expires_at: Timestamp::from_millis(9),
        };
        start(rows, &TenantId::default(), user, &started, None, Timestamp::EPOCH).unwrap();
    }

    /// Lets `test` read a store in which the user and the neighbours have seven sessions each, begun in no order.
    fn with_seven(test: impl FnOnce(&Store, &Table)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new(NAME, 3, 0);
        store.create(&table).unwrap();
        let mut overlay = Overlay::default();
        let mut rows = FoldView::new(&store, &table, &mut overlay);
        for n in [3, 7, 1, 2, 6, 5, 4] {
            begin(&mut rows, USER, n);
            for neighbour in NEIGHBOURS {
                begin(&mut rows, neighbour, n);
            }
        }
        store.write([(&table, &overlay.drain()[..])]).unwrap();
        test(&store, &table);
    }

    fn view<'a>(store: &'a Store, table: &'a Table) -> View<'a> {
        View {
            store,
            table,
            overlay: None,
        }
    }

    /// A page of the user's sessions, by their ids, and the cursor of the last one.
    fn read(view: View<'_>, after: Option<&[u8]>, limit: usize) -> (Vec<SessionId>, Option<Bytes>) {
        let rows = page(view, &TenantId::default(), USER, after, limit).unwrap();
        let last = rows.last().map(|(key, _)| key.clone());
        (rows.into_iter().map(|(_, session)| session.id).collect(), last)
    }

    fn newest_first(from: u8, to: u8) -> Vec<SessionId> {
        (to..=from).rev().map(id).collect()
    }

    #[test]
    fn pages_have_each_session_once_newest_first() {
        with_seven(|store, table| {
            let cases: [(usize, &[usize]); 6] = [
                (1, &[1, 1, 1, 1, 1, 1, 1]),
                (2, &[2, 2, 2, 1]),
                (3, &[3, 3, 1]),
                (6, &[6, 1]),
                (7, &[7]),
                (200, &[7]),
            ];
            for (limit, lengths) in cases {
                let (mut found, mut pages) = (Vec::new(), Vec::new());
                let mut after: Option<Bytes> = None;
                loop {
                    let (ids, last) = read(view(store, table), after.as_deref(), limit);
                    if ids.is_empty() {
                        break;
                    }
                    pages.push(ids.len());
                    found.extend(ids);
                    after = last;
                }
                assert_eq!(pages, lengths, "{limit}");
                assert_eq!(found, newest_first(7, 1), "{limit}");
            }
        });
    }

    #[test]
    fn a_session_that_begins_between_two_pages_moves_none() {
        with_seven(|store, table| {
            let (ids, after) = read(view(store, table), None, 3);
            assert_eq!(ids, newest_first(7, 5));
            let mut overlay = Overlay::default();
            begin(&mut FoldView::new(store, table, &mut overlay), USER, 8);
            store.write([(table, &overlay.drain()[..])]).unwrap();
            assert_eq!(
                read(view(store, table), after.as_deref(), 9).0,
                newest_first(4, 1)
            );
            assert_eq!(read(view(store, table), None, 3).0, newest_first(8, 6));
        });
    }

    #[test]
    fn ended_sessions_are_listed_and_an_erasure_leaves_those_of_others() {
        with_seven(|store, table| {
            let tenant = TenantId::default();
            let mut overlay = Overlay::default();
            let mut rows = FoldView::new(store, table, &mut overlay);
            let ended = SessionEvent::Ended(Ended {
                session_id: id(7),
                reason: EndReason::LoggedOut,
            });
            evolve(&mut rows, &tenant, USER, id(7), &ended, Timestamp::EPOCH).unwrap();
            assert_eq!(read(rows.view(), None, 9).0, newest_first(7, 1));
            rows.delete_all(&sessions_of(&tenant, USER).done()).unwrap();
            assert!(read(rows.view(), None, 9).0.is_empty());
            for neighbour in NEIGHBOURS {
                let left = page(rows.view(), &tenant, neighbour, None, 9).unwrap();
                assert_eq!(left.len(), 7);
            }
        });
    }

    #[test]
    fn a_page_looks_at_no_row_behind_it() {
        with_seven(|store, table| {
            // A row that cannot be read fails whoever looks at it.
            let broken = [(key_of(4), Some(Bytes::from_static(b"?")))];
            store.write([(table, &broken[..])]).unwrap();
            let cases = [
                (None, 1, true),
                (None, 3, true),
                (None, 4, false),
                (Some(id(5)), 1, false),
                (Some(id(4)), 3, true),
            ];
            for (after, limit, readable) in cases {
                let after = after.as_ref().map(|id| &id.as_bytes()[..]);
                let found = page(view(store, table), &TenantId::default(), USER, after, limit);
                assert_eq!(found.is_ok(), readable, "{after:?} {limit}");
            }
        });
    }
}
