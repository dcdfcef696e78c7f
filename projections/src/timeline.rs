//! `timeline`: all that happened to a user, newest first. Facts only; nothing personal.

use std::borrow::Cow;

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Recorded;
use gatelog_events::domain::{Actor, Event};
use gatelog_events::ids::{EventId, Offset, Partition, Position, Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};

use crate::details::{self, Details};
use crate::gone;
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
    pub details: Details,
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
        2
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity, Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let Some(user) = at.commit.subject.user() else {
            return Ok(());
        };
        let tenant = &at.commit.tenant;
        if at.commit.erases().is_some() {
            rows.delete_all(&of(tenant, user).done())?;
            return gone::note(rows, tenant, user);
        }
        // In the user's own identity partition nothing comes after.
        let elsewhere = |e: &Recorded| matches!(e.event, Event::Identifier(_) | Event::Session(_));
        if at.commit.erased || at.commit.events.iter().any(elsewhere) && gone::is_noted(rows, tenant, user)? {
            return Ok(());
        }
        for e in &at.commit.events {
            let entry = Entry {
                id: e.id,
                event_type: e.event.type_name().into(),
                time: e.time,
                stream: at.position.stream.code(),
                partition: at.position.partition,
                offset: at.position.offset,
                sequence: e.sequence,
                actor: at.commit.actor.clone(),
                details: details::of(&e.event),
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
