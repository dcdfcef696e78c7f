//! `users`: what is known of a user now. Also the writer's own state of the user aggregate.

use std::sync::Arc;

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::user::{User, UserEvent};
use gatelog_events::ids::{Stream, TenantId, UserId};

use crate::hot::Hot;
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

/// As [`get`], from memory where it can be.
pub fn get_hot(
    view: View<'_>,
    hot: &Hot<User>,
    tenant: &TenantId,
    user: UserId,
) -> Result<Arc<User>, StoreError> {
    Ok(hot.get(view, &user_key(tenant, user))?.unwrap_or_default())
}

/// As [`get_hot`], for who comes by all users.
pub fn glance(
    view: View<'_>,
    hot: &Hot<User>,
    tenant: &TenantId,
    user: UserId,
) -> Result<Arc<User>, StoreError> {
    Ok(hot.glance(view, &user_key(tenant, user))?.unwrap_or_default())
}

/// Takes a user out of memory.
pub fn forget(hot: &Hot<User>, tenant: &TenantId, user: UserId) {
    hot.forget(&user_key(tenant, user));
}

/// Up to `limit` users in order of their ids, erased ones too, after `after`.
pub fn page(
    view: View<'_>,
    tenant: &TenantId,
    after: Option<UserId>,
    limit: usize,
) -> Result<Vec<(UserId, User)>, StoreError> {
    let prefix = key(KeyKind::User, tenant).done();
    let mut from = prefix.to_vec();
    if let Some(after) = after {
        from.extend_from_slice(after.as_bytes());
        from.push(0);
    }
    let rows = view.page::<User>(&prefix, &from, limit)?;
    Ok(rows
        .into_iter()
        .filter_map(|(row, user)| Some((tenant_and_user(&row)?.1, user)))
        .collect())
}

/// Everyone who was ever erased, of all tenants.
pub fn erased(view: View<'_>) -> Result<Vec<(TenantId, UserId)>, StoreError> {
    let prefix = KeyKind::Erased.bytes();
    let rows = view.scan::<Timestamp>(&prefix)?;
    Ok(rows.iter().filter_map(|(row, _)| tenant_and_user(row)).collect())
}

fn tenant_and_user(row: &[u8]) -> Option<(TenantId, UserId)> {
    let (length, rest) = row.get(2..)?.split_first()?;
    let (name, id) = rest.split_at_checked(usize::from(*length))?;
    let tenant = TenantId::new(std::str::from_utf8(name).ok()?).ok()?;
    Some((tenant, UserId(uuid::Uuid::from_bytes(id.try_into().ok()?))))
}
