//! `logins`: from the digest of an identifier to everything that a login needs, in one point read.
//!
//! A row may hold more than one user for a moment: each user's partition writes its own entry only, so that the order
//! in which partitions are folded does not matter.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use gatelog_events::directory::{Digest, Directory};
use gatelog_events::domain::Event;
use gatelog_events::domain::user::{PasswordReason, Status, UserEvent};
use gatelog_events::email::Email;
use gatelog_events::ids::{Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// The projection.
#[derive(Debug)]
pub struct Logins {
    pub directory: Arc<Directory>,
}

pub const NAME: &str = "logins";

/// What a login needs to know of a user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRow {
    pub user: UserId,
    /// PHC string or an imported form.
    pub password_hash: Option<String>,
    pub credential_version: u32,
    pub status: Status,
    pub roles: BTreeSet<String>,
}

impl fmt::Debug for LoginRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoginRow")
            .field("user", &self.user)
            .field("credential_version", &self.credential_version)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Projection for Logins {
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
        let mut entry: Option<Entry> = None;
        for e in &at.commit.events {
            let Event::User(event) = &e.event else { continue };
            if let UserEvent::Registered(r) = event {
                entry = r
                    .personal
                    .get()
                    .map(|p| Entry::new(user, self.digest(tenant, &p.email)));
                continue;
            }
            if !concerns_logins(event) {
                continue;
            }
            if entry.is_none() {
                entry = Entry::load(rows, tenant, user)?;
            }
            match (event, &mut entry) {
                (_, None) => {} // erased before this fold
                (UserEvent::Erased(_), Some(e)) => {
                    e.remove(rows, tenant)?;
                    entry = None;
                }
                (UserEvent::EmailChanged(c), Some(e)) => {
                    e.remove(rows, tenant)?;
                    match c.personal.get() {
                        Some(p) => e.digest = self.digest(tenant, &p.email),
                        None => entry = None,
                    }
                }
                (event, Some(e)) => e.evolve(event),
            }
        }
        match entry {
            Some(e) => e.store(rows, tenant),
            None => Ok(()),
        }
    }
}

impl Logins {
    fn digest(&self, tenant: &TenantId, email: &Email) -> Digest {
        self.directory.digest(tenant, email)
    }
}

fn concerns_logins(event: &UserEvent) -> bool {
    match event {
        UserEvent::Registered(_)
        | UserEvent::PasswordSet(_)
        | UserEvent::EmailChanged(_)
        | UserEvent::RoleGranted(_)
        | UserEvent::RoleRevoked(_)
        | UserEvent::Disabled(_)
        | UserEvent::Enabled(_)
        | UserEvent::Erased(_) => true,
        UserEvent::EmailVerified(_) | UserEvent::ProfileChanged(_) => false,
    }
}

/// A user's row while a commit is folded, with the digest under which it stands.
struct Entry {
    digest: Digest,
    row: LoginRow,
}

impl Entry {
    fn new(user: UserId, digest: Digest) -> Self {
        let row = LoginRow {
            user,
            password_hash: None,
            credential_version: 0,
            status: Status::Active,
            roles: BTreeSet::new(),
        };
        Self { digest, row }
    }

    fn load(rows: &FoldView<'_>, tenant: &TenantId, user: UserId) -> Result<Option<Self>, StoreError> {
        let Some(digest) = rows.get::<Digest>(&login_of_key(tenant, user))? else {
            return Ok(None);
        };
        let holders: Vec<LoginRow> = rows.get(&login_key(tenant, digest))?.unwrap_or_default();
        Ok(holders
            .into_iter()
            .find(|r| r.user == user)
            .map(|row| Self { digest, row }))
    }

    fn evolve(&mut self, event: &UserEvent) {
        match event {
            UserEvent::PasswordSet(p) => {
                self.row.password_hash = p.personal.get().map(|h| h.hash.clone());
                if p.reason != PasswordReason::Rehashed {
                    self.row.credential_version += 1;
                }
            }
            UserEvent::RoleGranted(r) => {
                self.row.roles.insert(r.role.clone());
            }
            UserEvent::RoleRevoked(r) => {
                self.row.roles.remove(&r.role);
            }
            UserEvent::Disabled(_) => {
                self.row.status = Status::Disabled;
                self.row.credential_version += 1;
            }
            UserEvent::Enabled(_) => self.row.status = Status::Active,
            _ => {}
        }
    }

    fn remove(&self, rows: &mut FoldView<'_>, tenant: &TenantId) -> Result<(), StoreError> {
        let at = login_key(tenant, self.digest);
        let mut holders: Vec<LoginRow> = rows.get(&at)?.unwrap_or_default();
        holders.retain(|r| r.user != self.row.user);
        rows.delete(login_of_key(tenant, self.row.user));
        if holders.is_empty() {
            rows.delete(at);
            Ok(())
        } else {
            rows.put(at, &holders)
        }
    }

    fn store(self, rows: &mut FoldView<'_>, tenant: &TenantId) -> Result<(), StoreError> {
        let at = login_key(tenant, self.digest);
        let mut holders: Vec<LoginRow> = rows.get(&at)?.unwrap_or_default();
        holders.retain(|r| r.user != self.row.user);
        let user = self.row.user;
        holders.push(self.row);
        holders.sort_by_key(|r| r.user);
        rows.put(at, &holders)?;
        rows.put(login_of_key(tenant, user), &self.digest)
    }
}

fn login_key(tenant: &TenantId, digest: Digest) -> Bytes {
    key(KeyKind::Login, tenant).fixed(&digest.0).done()
}

fn login_of_key(tenant: &TenantId, user: UserId) -> Bytes {
    key(KeyKind::LoginOf, tenant).fixed(user.as_bytes()).done()
}

/// Who logs in under this digest.
///
/// Two holders exist only while one partition is behind another; the one who came last is the owner then, and user
/// ids begin with the time.
pub fn get(view: View<'_>, tenant: &TenantId, digest: Digest) -> Result<Option<LoginRow>, StoreError> {
    let holders: Option<Vec<LoginRow>> = view.get(&login_key(tenant, digest))?;
    Ok(holders.and_then(|mut h| h.pop()))
}
