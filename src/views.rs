//! Reading: each read model's present table, and waiting for a position.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gatelog_events::clock;
use gatelog_events::directory::Digest;
use gatelog_events::domain::feed::HandedOver;
use gatelog_events::domain::session::{Activity, Session};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::User;
use gatelog_events::domain::webhook::Progress;
use gatelog_events::ids::{Offset, Partition, Position, SessionId, Stream, TenantId, UserId};
use gatelog_projections::applied::{Applied, Behind};
use gatelog_projections::hot::Hot;
use gatelog_projections::logins::LoginRow;
use gatelog_projections::store::{Store, StoreError, Table};
use gatelog_projections::view::View;
use gatelog_projections::{
    changes, consents, handovers, identifiers, logins, sessions, settings, signals, statistics, timeline,
    users, webhooks,
};
use parking_lot::RwLock;
use tokio::sync::Notify;
use uuid::Uuid;

/// All read models of this node, for those who ask.
pub struct Views {
    store: Arc<Store>,
    /// Replaced when a new build takes over. Few, so that comparing is quicker than hashing.
    served: RwLock<Vec<Served>>,
    /// Told when a projection's table or its progress is replaced.
    replaced: Notify,
    settings: Hot<Settings>,
    users: Hot<User>,
    activities: Hot<Activity>,
    sessions: Hot<Session>,
}

struct Served {
    projection: &'static str,
    table: Table,
    applied: Arc<Applied>,
}

/// Users, activities and sessions that are kept in memory, each; some 20 MiB.
const HOT_ROWS: usize = 16_384;

/// Tenants whose settings are kept in memory.
const HOT_TENANTS: usize = 1024;

/// A page of a list, with the key of its last entry.
pub type Page<T> = Vec<(bytes::Bytes, T)>;

impl Views {
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            served: RwLock::default(),
            replaced: Notify::new(),
            settings: Hot::new(HOT_TENANTS),
            users: Hot::new(HOT_ROWS),
            activities: Hot::new(HOT_ROWS),
            sessions: Hot::new(HOT_ROWS),
        }
    }

    /// Lets a table serve from now on.
    pub fn serve(&self, projection: &'static str, table: Table, applied: Arc<Applied>) {
        if [settings::NAME, users::NAME, sessions::NAME].contains(&projection) {
            self.store.watch(&table);
        }
        let now = Served {
            projection,
            table,
            applied,
        };
        let mut served = self.served.write();
        match served.iter_mut().find(|s| s.projection == projection) {
            Some(before) => *before = now,
            None => served.push(now),
        }
        drop(served);
        self.replaced.notify_waiters();
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Progress of every projection, by name.
    pub fn progress(&self) -> Vec<Arc<Applied>> {
        let mut all: Vec<_> = self.served.read().iter().map(|s| s.applied.clone()).collect();
        all.sort_by_key(|a| a.projection());
        all
    }

    /// The table that serves a projection now.
    pub fn table(&self, projection: &str) -> Option<Table> {
        let served = self.served.read();
        served
            .iter()
            .find(|s| s.projection == projection)
            .map(|s| s.table.clone())
    }

    /// Offset of the next record that a projection folds, where it serves.
    pub fn next(&self, projection: &str, stream: Stream, partition: Partition) -> Option<Offset> {
        let served = self.served.read();
        let of = served.iter().find(|s| s.projection == projection);
        of.map(|s| s.applied.next(stream, partition))
    }

    /// Waits until a projection has folded the record at `position`.
    pub async fn wait_for(
        &self,
        projection: &str,
        position: Position,
        at_most: Duration,
    ) -> Result<(), Behind> {
        let until = clock::monotonic() + at_most;
        loop {
            // Enabled before looking, so that no change in between is missed.
            let replaced = self.replaced.notified();
            tokio::pin!(replaced);
            replaced.as_mut().enable();
            let Some(applied) = self.applied(projection) else {
                return Ok(());
            };
            let left = until.saturating_duration_since(clock::monotonic());
            tokio::select! {
                waited = applied.wait_for(position, left) => return waited,
                // Another table serves now, or a new tenure counts anew.
                () = replaced => {}
            }
        }
    }

    /// How far a projection has come, where it serves.
    pub fn applied(&self, projection: &str) -> Option<Arc<Applied>> {
        let served = self.served.read();
        let of = served.iter().find(|s| s.projection == projection);
        of.map(|s| s.applied.clone())
    }

    /// Completes when a projection has folded more after the call, also before it is first polled: what is looked at in
    /// between misses nothing. Never where the projection does not serve yet.
    pub fn moved(&self, projection: &str) -> BoxFuture<'static, ()> {
        match self.applied(projection) {
            Some(applied) => applied.moved().boxed(),
            None => std::future::pending().boxed(),
        }
    }

    /// Reads a projection's table. When a rebuilt one takes over in between, the read is made there.
    fn with<T>(
        &self,
        projection: &str,
        read: impl Fn(View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let table = self.table(projection).ok_or_else(|| StoreError::Row {
                table: format!("{projection} (not built yet)"),
            })?;
            let result = read(View {
                store: &self.store,
                table: &table,
                overlay: None,
            });
            if result.is_ok() || self.table(projection).as_ref() == Some(&table) {
                return result;
            }
        }
    }

    /// A user; version 0 if there never was one.
    pub fn user(&self, tenant: &TenantId, user: UserId) -> Result<Arc<User>, StoreError> {
        self.with(users::NAME, |v| users::get_hot(v, &self.users, tenant, user))
    }

    /// The same for who comes by all users.
    pub fn glance_at_user(&self, tenant: &TenantId, user: UserId) -> Result<Arc<User>, StoreError> {
        self.with(users::NAME, |v| users::glance(v, &self.users, tenant, user))
    }

    /// All that a login under this digest needs.
    pub fn login(&self, tenant: &TenantId, digest: Digest) -> Result<Option<LoginRow>, StoreError> {
        self.with(logins::NAME, |v| logins::get(v, tenant, digest))
    }

    /// Who holds an address, as its partition decided.
    pub fn holding(
        &self,
        tenant: &TenantId,
        digest: Digest,
    ) -> Result<Option<gatelog_events::domain::identifier::Holding>, StoreError> {
        self.with(identifiers::NAME, |v| identifiers::get(v, tenant, digest))
    }

    pub fn activity(&self, tenant: &TenantId, user: UserId) -> Result<Arc<Activity>, StoreError> {
        self.with(sessions::NAME, |v| {
            sessions::activity_hot(v, &self.activities, tenant, user)
        })
    }

    pub fn session(
        &self,
        tenant: &TenantId,
        user: UserId,
        session: SessionId,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        self.with(sessions::NAME, |v| {
            sessions::get_hot(v, &self.sessions, tenant, user, session)
        })
    }

    /// Takes an erased user out of memory.
    pub fn forget(&self, tenant: &TenantId, user: UserId) {
        users::forget(&self.users, tenant, user);
        sessions::forget(&self.activities, &self.sessions, tenant, user);
    }

    pub fn sessions(
        &self,
        tenant: &TenantId,
        user: UserId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<Session>, StoreError> {
        self.with(sessions::NAME, |v| sessions::page(v, tenant, user, after, limit))
    }

    pub fn consents(
        &self,
        tenant: &TenantId,
        user: UserId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<consents::Entry>, StoreError> {
        self.with(consents::NAME, |v| consents::page(v, tenant, user, after, limit))
    }

    pub fn timeline(
        &self,
        tenant: &TenantId,
        user: UserId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page<timeline::Entry>, StoreError> {
        self.with(timeline::NAME, |v| timeline::page(v, tenant, user, after, limit))
    }

    /// Counters from day `from` to day `to` (since 1970-01-01), both included.
    pub fn statistics(
        &self,
        tenant: &TenantId,
        from: i32,
        to: i32,
    ) -> Result<Vec<statistics::Day>, StoreError> {
        self.with(statistics::NAME, |v| statistics::days(v, tenant, from, to))
    }

    /// Up to `limit` users in order of their ids, erased ones too, after `after`.
    pub fn users(
        &self,
        tenant: &TenantId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<(UserId, User)>, StoreError> {
        self.with(users::NAME, |v| users::page(v, tenant, after, limit))
    }

    /// What happened in a partition from an offset on.
    pub fn changes(
        &self,
        tenant: &TenantId,
        stream: Stream,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, changes::Change)>, StoreError> {
        self.with(changes::NAME, |v| {
            changes::changes(v, tenant, stream, partition, from, limit)
        })
    }

    /// The offsets at which something changed in a partition from one on, and who registered there.
    pub fn registrations(
        &self,
        tenant: &TenantId,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, Option<UserId>)>, StoreError> {
        self.with(changes::NAME, |v| {
            changes::registrations(v, tenant, partition, from, limit)
        })
    }

    /// What was withdrawn in a partition from an offset on.
    pub fn withdrawals(
        &self,
        tenant: &TenantId,
        partition: Partition,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<(Offset, changes::Withdrawal)>, StoreError> {
        self.with(changes::NAME, |v| {
            changes::withdrawals(v, tenant, partition, from, limit)
        })
    }

    /// When a feed's consumer was told of a withdrawal.
    pub fn handover(
        &self,
        tenant: &TenantId,
        feed: &str,
        partition: Partition,
        withdrawal: &HandedOver,
    ) -> Result<handovers::Handover, StoreError> {
        self.with(handovers::NAME, |v| {
            handovers::get(v, tenant, feed, partition, withdrawal)
        })
    }

    /// Withdrawals at these offsets that a feed's consumer was told of and has not acknowledged.
    pub fn unacknowledged(
        &self,
        tenant: &TenantId,
        feed: &str,
        partition: Partition,
        offsets: Range<Offset>,
        limit: usize,
    ) -> Result<Vec<HandedOver>, StoreError> {
        self.with(handovers::NAME, |v| {
            handovers::unacknowledged(v, tenant, feed, partition, offsets.clone(), limit)
        })
    }

    /// How far a webhook has come in a partition.
    pub fn webhook_progress(
        &self,
        hook: webhooks::Hook<'_>,
        partition: Partition,
    ) -> Result<Option<Progress>, StoreError> {
        self.with(webhooks::NAME, |v| webhooks::progress(v, hook, partition))
    }

    /// What a webhook's receiver would not take.
    pub fn dead_letters(
        &self,
        hook: webhooks::Hook<'_>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(bytes::Bytes, Partition, webhooks::Dead)>, StoreError> {
        self.with(webhooks::NAME, |v| webhooks::dead_letters(v, hook, after, limit))
    }

    /// In which of so many partitions a dead letter is.
    pub fn dead_letter_partition(
        &self,
        hook: webhooks::Hook<'_>,
        partitions: u16,
        record: Uuid,
    ) -> Result<Option<Partition>, StoreError> {
        self.with(webhooks::NAME, |v| {
            webhooks::partition_of(v, hook, partitions, record)
        })
    }

    /// Dead letters that nobody has asked to be sent again, the most urgent first.
    pub fn waiting_dead_letters(
        &self,
        hook: webhooks::Hook<'_>,
        limit: usize,
    ) -> Result<Vec<(Partition, Uuid)>, StoreError> {
        self.with(webhooks::NAME, |v| webhooks::waiting(v, hook, limit))
    }

    /// Dead letters of a partition that are to be sent again.
    pub fn redriven(
        &self,
        hook: webhooks::Hook<'_>,
        partition: Partition,
        limit: usize,
    ) -> Result<Vec<webhooks::Dead>, StoreError> {
        self.with(webhooks::NAME, |v| webhooks::redriven(v, hook, partition, limit))
    }

    /// Reads what streams of security events tell, and how far they have come.
    pub fn signals<T>(&self, read: impl Fn(View<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.with(signals::NAME, read)
    }

    /// A tenant's settings. Kept in memory: every request needs them.
    pub fn settings(&self, tenant: &TenantId) -> Result<Arc<Settings>, StoreError> {
        self.with(settings::NAME, |v| settings::get_hot(v, &self.settings, tenant))
    }
}

#[cfg(test)]
mod tests {
    use gatelog_projections::keys::{KeyKind, key};
    use gatelog_projections::store::{Change, StoreOptions};
    use gatelog_projections::view::encode_row;

    use super::*;

    /// A take-over folds what others wrote without telling anybody of each commit.
    #[test]
    fn settings_are_read_anew_whatever_wrote_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new(settings::NAME, 1, 0);
        store.create(&table).unwrap();
        let views = Views::new(store.clone());
        views.serve(
            settings::NAME,
            table.clone(),
            Arc::new(Applied::new(settings::NAME, 1)),
        );
        let tenant = TenantId::default();
        for version in 1..4 {
            let settings = Settings {
                version,
                ..Settings::default()
            };
            let row = encode_row(&settings, &table).unwrap();
            let change: Change = (key(KeyKind::Settings, &tenant).done(), Some(row));
            store.write([(&table, &[change][..])]).unwrap();
            assert_eq!(views.settings(&tenant).unwrap().version, version);
        }
    }
}
