//! `timeline`: all that happened to a user, newest first. Facts only; nothing personal.

use std::borrow::Cow;

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{ConsentChange, ConsentEvent};
use gatelog_events::domain::session::SessionEvent;
use gatelog_events::domain::user::UserEvent;
use gatelog_events::domain::{Actor, Event};
use gatelog_events::ids::{EventId, Offset, Partition, Position, Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyBuilder, KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Timeline;

pub const NAME: &str = "timeline";

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: EventId,
    pub event_type: Cow<'static, str>,
    pub time: Timestamp,
    pub stream: u8,
    pub partition: Partition,
    pub offset: Offset,
    pub sequence: u64,
    pub actor: Actor,
    /// What the event says in the clear, by name.
    pub details: Vec<(Cow<'static, str>, String)>,
}

impl Entry {
    pub fn position(&self) -> Position {
        Position {
            stream: Stream::from_code(self.stream).unwrap_or(Stream::Identity),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

impl Projection for Timeline {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity, Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let Some(user) = at.commit.subject.user() else {
            return Ok(());
        };
        let tenant = &at.commit.tenant;
        for e in &at.commit.events {
            if matches!(e.event, Event::User(UserEvent::Erased(_))) {
                rows.delete_all(&of(tenant, user).done())?;
                continue;
            }
            if at.commit.erased {
                continue;
            }
            let entry = Entry {
                id: e.id,
                event_type: e.event.type_name().into(),
                time: e.time,
                stream: at.position.stream.code(),
                partition: at.position.partition,
                offset: at.position.offset,
                sequence: e.sequence,
                actor: at.commit.actor.clone(),
                details: details(&e.event),
            };
            // Keys are in ascending order, and the newest shall come first.
            let row = of(tenant, user)
                .u64(u64::MAX - e.time.millis().max(0) as u64)
                .fixed(&[u8::MAX - at.position.stream.code()])
                .u64(u64::MAX - at.position.offset)
                .u64(u64::MAX - e.sequence)
                .done();
            rows.put(row, &entry)?;
        }
        Ok(())
    }
}

fn of(tenant: &TenantId, user: UserId) -> KeyBuilder {
    key(KeyKind::Timeline, tenant).fixed(user.as_bytes())
}

fn details(event: &Event) -> Vec<(Cow<'static, str>, String)> {
    let mut out: Vec<(&'static str, String)> = Vec::new();
    match event {
        Event::User(e) => match e {
            UserEvent::Registered(r) => {
                out.push(("origin", text(&r.origin)));
                out.extend(r.locale.clone().map(|l| ("locale", l)));
            }
            UserEvent::PasswordSet(p) => out.push(("reason", text(&p.reason))),
            UserEvent::EmailVerified(v) => out.push(("method", text(&v.method))),
            UserEvent::ProfileChanged(p) => out.extend(p.locale.clone().map(|l| ("locale", l))),
            UserEvent::RoleGranted(r) | UserEvent::RoleRevoked(r) => out.push(("role", r.role.clone())),
            UserEvent::Disabled(s) | UserEvent::Enabled(s) | UserEvent::Erased(s) => {
                out.extend(s.reason.clone().map(|r| ("reason", r)));
            }
            UserEvent::EmailChanged(_) => {}
        },
        Event::Consent(ConsentEvent::Granted(c) | ConsentEvent::Withdrawn(c)) => consent(c, &mut out),
        Event::Plan(p) => {
            let c = p.change();
            out.extend(c.from.clone().map(|f| ("from", f)));
            out.push(("to", c.to.clone()));
            out.push(("effective_at", c.effective_at.to_string()));
            out.push(("source", c.source.clone()));
            out.extend(c.reason.clone().map(|r| ("reason", r)));
        }
        Event::Session(s) => session(s, &mut out),
        Event::Identifier(_) | Event::Tenant(_) | Event::Feed(_) => {}
    }
    out.into_iter().map(|(k, v)| (k.into(), v)).collect()
}

fn consent(c: &ConsentChange, out: &mut Vec<(&'static str, String)>) {
    out.push(("purpose", c.purpose.clone()));
    out.push(("channel", c.channel.clone()));
    out.push((
        "notice",
        format!("{} {} ({})", c.notice.id, c.notice.version, c.notice.language),
    ));
    out.push(("lawful_basis", text(&c.lawful_basis)));
    out.push(("method", text(&c.method)));
}

fn session(event: &SessionEvent, out: &mut Vec<(&'static str, String)>) {
    match event {
        SessionEvent::LoginSucceeded(l) => {
            out.push(("method", l.method.name().to_owned()));
            out.push(("session_id", l.session_id.to_string()));
        }
        SessionEvent::LoginFailed(l) => {
            out.push(("method", l.method.name().to_owned()));
            out.push(("reason", l.reason.name().to_owned()));
        }
        SessionEvent::Locked(l) => out.push(("until", l.until.to_string())),
        SessionEvent::Unlocked(u) => out.extend(u.reason.clone().map(|r| ("reason", r))),
        SessionEvent::Started(s) => out.push(("session_id", s.session_id.to_string())),
        SessionEvent::Refreshed(r) | SessionEvent::Reused(r) => {
            out.push(("session_id", r.session_id.to_string()));
        }
        SessionEvent::Ended(e) => {
            out.push(("session_id", e.session_id.to_string()));
            out.push(("reason", text(&e.reason)));
        }
    }
}

/// The name on the wire of a value of a closed list.
fn text<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        _ => String::new(),
    }
}

/// A page of a user's timeline, newest first; `after` is the cursor of the last entry seen.
pub fn page(
    view: View<'_>,
    tenant: &TenantId,
    user: UserId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Entry)>, StoreError> {
    view.page_after(&of(tenant, user).done(), after, limit)
}
