//! `identifiers`: who holds an address, as its own partition decided. State of the writer.
//!
//! A row lists all who ever took the address and were not erased; the last one holds it. So an erasure leaves the row
//! that the others alone would have made, whenever it is folded.

use std::sync::Arc;

use bytes::Bytes;
use gatelog_events::directory::{Digest, Directory};
use gatelog_events::domain::Event;
use gatelog_events::domain::identifier::{Holding, IdentifierEvent};
use gatelog_events::domain::user::UserEvent;
use gatelog_events::ids::{Stream, TenantId, UserId};

use crate::gone;
use crate::keys::{KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug)]
pub struct Identifiers {
    pub directory: Arc<Directory>,
}

pub const NAME: &str = "identifiers";

impl Projection for Identifiers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        2
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
            let (email, claimed_until) = match &e.event {
                Event::User(UserEvent::Registered(r)) => (r.personal.get().map(|p| &p.email), None),
                Event::Identifier(IdentifierEvent::Claimed(_)) if gone::is_noted(rows, tenant, user)? => {
                    continue;
                }
                Event::Identifier(IdentifierEvent::Claimed(c)) => {
                    (c.personal.get().map(|a| &a.email), Some(c.expires_at))
                }
                Event::User(UserEvent::Erased(_)) => {
                    forget(rows, tenant, user)?;
                    gone::note(rows, tenant, user)?;
                    continue;
                }
                _ => continue,
            };
            let Some(email) = email else { continue };
            let digest = self.directory.digest(tenant, email);
            let at = holding_key(tenant, digest);
            let mut holdings: Vec<Holding> = rows.get(&at)?.unwrap_or_default();
            holdings.retain(|h| h.user != user);
            holdings.push(Holding { user, claimed_until });
            rows.put(at, &holdings)?;
            rows.put(holding_of(tenant, user).fixed(&digest.0).done(), &())?;
        }
        Ok(())
    }
}

/// Digests must not outlive the person, in whichever partition they were claimed.
fn forget(rows: &mut FoldView<'_>, tenant: &TenantId, user: UserId) -> Result<(), StoreError> {
    let prefix = holding_of(tenant, user).done();
    for (row, ()) in rows.view().scan::<()>(&prefix)? {
        if let Ok(digest) = row[prefix.len()..].try_into().map(Digest) {
            let at = holding_key(tenant, digest);
            let mut holdings: Vec<Holding> = rows.get(&at)?.unwrap_or_default();
            holdings.retain(|h| h.user != user);
            if holdings.is_empty() {
                rows.delete(at);
            } else {
                rows.put(at, &holdings)?;
            }
        }
        rows.delete(row);
    }
    Ok(())
}

fn holding_key(tenant: &TenantId, digest: Digest) -> Bytes {
    key(KeyKind::Holding, tenant).fixed(&digest.0).done()
}

fn holding_of(tenant: &TenantId, user: UserId) -> crate::keys::KeyBuilder {
    key(KeyKind::HoldingOf, tenant).fixed(user.as_bytes())
}

/// Who holds the address of this digest.
pub fn get(view: View<'_>, tenant: &TenantId, digest: Digest) -> Result<Option<Holding>, StoreError> {
    let holdings: Option<Vec<Holding>> = view.get(&holding_key(tenant, digest))?;
    Ok(holdings.and_then(|mut h| h.pop()))
}
