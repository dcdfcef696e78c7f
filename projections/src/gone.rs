//! Whom a read model has purged. What is folded later is of before, as another stream or partition may be behind: nothing of
//! it may be kept, also where its key could still be read when it was decoded.

use bytes::Bytes;
use gatelog_events::ids::{TenantId, UserId};

use crate::keys::{KeyKind, key};
use crate::store::StoreError;
use crate::view::FoldView;

/// Takes note that all rows of a user were purged.
pub(crate) fn note(rows: &mut FoldView<'_>, tenant: &TenantId, user: UserId) -> Result<(), StoreError> {
    rows.put(gone_key(tenant, user), &())
}

/// Whether they were.
pub(crate) fn is_noted(rows: &FoldView<'_>, tenant: &TenantId, user: UserId) -> Result<bool, StoreError> {
    Ok(rows.get::<()>(&gone_key(tenant, user))?.is_some())
}

fn gone_key(tenant: &TenantId, user: UserId) -> Bytes {
    key(KeyKind::Erased, tenant).fixed(user.as_bytes()).done()
}
