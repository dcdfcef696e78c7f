//! `consents`: the ledger. Every choice of every user, with its evidence, in order.

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{ConsentEvent, LawfulBasis, Method, NoticeRef};
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
pub struct Consents;

pub const NAME: &str = "consents";

/// One entry of the ledger.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub event: EventId,
    pub partition: Partition,
    pub offset: Offset,
    pub purpose: String,
    pub granted: bool,
    pub time: Timestamp,
    pub channel: String,
    pub notice: NoticeRef,
    pub lawful_basis: LawfulBasis,
    pub method: Method,
    pub actor: Actor,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub note: Option<String>,
}

impl Entry {
    pub fn position(&self) -> Position {
        Position {
            stream: Stream::Identity,
            partition: self.partition,
            offset: self.offset,
        }
    }
}

impl Projection for Consents {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let Some(user) = at.commit.subject.user() else {
            return Ok(());
        };
        let tenant = &at.commit.tenant;
        for e in &at.commit.events {
            match &e.event {
                Event::User(UserEvent::Erased(_)) => {
                    rows.delete_all(&key(KeyKind::Consent, tenant).fixed(user.as_bytes()).done())?;
                }
                Event::Consent(event) if !at.commit.erased => {
                    let entry = entry(event, e.id, e.time, at);
                    let row = ledger(tenant, user)
                        .u64(at.position.offset)
                        .u64(e.sequence)
                        .done();
                    rows.put(row, &entry)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn entry(event: &ConsentEvent, id: EventId, time: Timestamp, at: Located<'_>) -> Entry {
    let (granted, change) = match event {
        ConsentEvent::Granted(c) => (true, c),
        ConsentEvent::Withdrawn(c) => (false, c),
    };
    let evidence = change.personal.get().cloned().unwrap_or_default();
    Entry {
        event: id,
        partition: at.position.partition,
        offset: at.position.offset,
        purpose: change.purpose.clone(),
        granted,
        time,
        channel: change.channel.clone(),
        notice: change.notice.clone(),
        lawful_basis: change.lawful_basis,
        method: change.method,
        actor: at.commit.actor.clone(),
        ip: evidence.ip,
        user_agent: evidence.user_agent,
        note: evidence.note,
    }
}

fn ledger(tenant: &TenantId, user: UserId) -> KeyBuilder {
    key(KeyKind::Consent, tenant).fixed(user.as_bytes())
}

/// A page of a user's ledger, oldest first; `after` is the key of the last entry seen.
pub fn page(
    view: View<'_>,
    tenant: &TenantId,
    user: UserId,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Entry)>, StoreError> {
    view.page_after(&ledger(tenant, user).done(), after, limit)
}
