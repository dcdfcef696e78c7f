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
                if gone::erases(at) {
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

/// All sessions of a user, ended ones too, oldest first.
pub fn list(view: View<'_>, tenant: &TenantId, user: UserId) -> Result<Vec<Session>, StoreError> {
    let rows = view.scan(&sessions_of(tenant, user).done())?;
    Ok(rows.into_iter().map(|(_, session)| session).collect())
}
