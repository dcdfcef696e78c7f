//! `users`: what is known of a user now. Also the writer's own state of the user aggregate.

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::user::{User, UserEvent};
use gatelog_events::ids::{Stream, TenantId, UserId};

use crate::keys::{KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug, Default)]
pub struct Users;

pub const NAME: &str = "users";

impl Projection for Users {
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
        let Some(id) = at.commit.subject.user() else {
            return Ok(());
        };
        let row = user_key(&at.commit.tenant, id);
        let mut user: User = rows.get(&row)?.unwrap_or_default();
        let before = user.version;
        for e in &at.commit.events {
            user.evolve(&e.event, e.time, e.sequence);
            if matches!(e.event, Event::User(UserEvent::Erased(_))) {
                let erased = key(KeyKind::Erased, &at.commit.tenant)
                    .fixed(id.as_bytes())
                    .done();
                rows.put(erased, &e.time)?;
            }
        }
        // Events of other aggregates, such as claims, are about a user without changing them.
        if user.version != before {
            rows.put(row, &user)?;
        }
        Ok(())
    }
}

fn user_key(tenant: &TenantId, user: UserId) -> Bytes {
    key(KeyKind::User, tenant).fixed(user.as_bytes()).done()
}

/// The user, erased or not; version 0 if there never was one.
pub fn get(view: View<'_>, tenant: &TenantId, user: UserId) -> Result<User, StoreError> {
    Ok(view.get(&user_key(tenant, user))?.unwrap_or_default())
}

/// Everyone who was ever erased, with the time.
pub fn erased(view: View<'_>, tenant: &TenantId) -> Result<Vec<(UserId, Timestamp)>, StoreError> {
    let prefix = key(KeyKind::Erased, tenant).done();
    Ok(view
        .scan::<Timestamp>(&prefix)?
        .into_iter()
        .filter_map(|(k, t)| user_in(&k, prefix.len()).map(|u| (u, t)))
        .collect())
}

/// The user id that stands in a key after `at` bytes.
pub(crate) fn user_in(key: &[u8], at: usize) -> Option<UserId> {
    let bytes: [u8; 16] = key.get(at..at + 16)?.try_into().ok()?;
    Some(UserId(uuid::Uuid::from_bytes(bytes)))
}
