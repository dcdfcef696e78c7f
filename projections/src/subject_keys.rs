//! Wrapped subject keys of one node, in a RocksDB of their own, with a WAL: they are not in the log. In a cluster the
//! nodes share them by a topic, and this is a copy.
//!
//! They lie in a directory apart from log and views, so that a backup of those does not hold them. A destroyed key
//! leaves a tombstone for ever; [`compact`](SubjectKeys::compact) takes its last bytes off the disk.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::erasures::{DESTROYED, PRESENT, Reached, is_destroyed};
use crate::key_topic::{self, KeyRow, KeyTopic};
use gatelog_events::clock::Timestamp;
use gatelog_events::ids::{Partition, TenantId, UserId};
use gatelog_events::log::kafka::{KeyRecord, SubjectKeyTopic};
use gatelog_events::seal::{KeySource, KeySourceError, KeyStatus, MasterKey, SubjectKey};
use moka::sync::Cache;
use rocksdb::{DB, LogLevel, Options, WriteBatch, WriteOptions};

/// How many opened keys are kept in memory, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct CacheOptions {
    pub keys: u64,
    pub time: Duration,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            keys: 100_000,
            time: Duration::from_secs(300),
        }
    }
}

/// The store.
pub struct SubjectKeys {
    db: Arc<DB>,
    place: PathBuf,
    master: MasterKey,
    /// Where the nodes of a cluster share their keys; the store is a copy then.
    topic: Option<KeyTopic>,
    /// By user alone, since ids are unique among all tenants; a hit counts only if the tenant is right.
    cache: Cache<UserId, (TenantId, SubjectKey)>,
    /// Counts what was destroyed, so that nobody keeps in memory what was read before.
    destroyed: Arc<AtomicU64>,
}

/// What takes into the store what the topic says.
struct LocalCopy {
    db: Arc<DB>,
    place: PathBuf,
    opened: Cache<UserId, (TenantId, SubjectKey)>,
    destroyed: Arc<AtomicU64>,
    topic: SubjectKeyTopic,
}

impl LocalCopy {
    fn keep(&self, records: &[KeyRecord]) -> Result<(), KeySourceError> {
        let mut batch = WriteBatch::default();
        let mut reached = BTreeMap::new();
        let mut destroyed = HashSet::new();
        for record in records {
            if let Entry::Vacant(unknown) = reached.entry(record.partition) {
                unknown.insert(reached_in(&self.db, &self.place, record.partition)?);
            }
            if let Some(reached) = reached.get_mut(&record.partition) {
                reached.pass(record);
            }
            if record.is_mark() {
                continue;
            }
            if is_destroyed(record) {
                batch.put(&record.key, [DESTROYED]);
                destroyed.insert(&record.key);
            } else if destroyed.contains(&record.key) || self.is_destroyed(&record.key)? {
                self.destroy_again(record);
            } else {
                batch.put(&record.key, record.value.as_deref().unwrap_or(&[DESTROYED]));
            }
        }
        for (partition, reached) in reached {
            batch.put(reached_row(partition), reached.row());
        }
        // What a crash takes is read again from the topic.
        self.db.write(batch).map_err(|e| failed(&self.place, &e))?;
        // Not before, or whoever asks meanwhile would bring it in again.
        self.destroyed.fetch_add(destroyed.len() as u64, Ordering::AcqRel);
        for subject in destroyed.into_iter().filter_map(|key| subject_of(key)) {
            self.opened.invalidate(&subject);
        }
        Ok(())
    }

    fn is_destroyed(&self, key: &[u8]) -> Result<bool, KeySourceError> {
        let row = self.db.get_pinned(key).map_err(|e| failed(&self.place, &e))?;
        Ok(row.as_deref() == Some(&[DESTROYED]))
    }

    /// Somebody wrote an old key over its tombstone. Ids never come back, so it must not count; and once Kafka has compacted
    /// the tombstone away, those who read the topic anew would not know.
    fn destroy_again(&self, record: &KeyRecord) {
        tracing::error!(
            partition = %record.partition,
            offset = record.offset,
            "the topic of subject keys holds a key after it was destroyed, as from a backup; it is destroyed again"
        );
        // Queued by the call. Each node writes one, and the last one that is left suffices.
        drop(self.topic.put(record.partition, &record.key, &[DESTROYED]));
    }
}

/// A new key to be stored.
pub struct NewKey {
    pub tenant: TenantId,
    pub subject: UserId,
    pub key: SubjectKey,
    /// 96 fresh random bits, for wrapping.
    pub nonce: [u8; 12],
}

impl SubjectKeys {
    /// Opens or creates the store.
    pub fn open(dir: &Path, master: MasterKey, cache: CacheOptions) -> Result<Self, KeySourceError> {
        std::fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
        let db = DB::open(&options(), dir).map_err(|e| failed(dir, &e))?;
        Ok(Self::new(db, dir, master, cache))
    }

    /// Opens this node's copy of keys that are shared by a topic of so many partitions, and follows the topic.
    /// `patience` bounds how long a reader waits for a key that it misses. The copy is bound to the log `log_id`.
    pub fn open_shared(
        dir: &Path,
        master: MasterKey,
        cache: CacheOptions,
        (topic, partitions): (SubjectKeyTopic, u16),
        (log_id, patience): (&str, Duration),
    ) -> Result<Self, KeySourceError> {
        let mut keys = Self::open(dir, master, cache)?;
        keys.bind(log_id)?;
        let mut from = Vec::with_capacity(usize::from(partitions));
        for partition in (0..partitions).map(Partition) {
            from.push(keys.reached(partition)?.next);
        }
        let copy = LocalCopy {
            db: keys.db.clone(),
            place: keys.place.clone(),
            opened: keys.cache.clone(),
            destroyed: keys.destroyed.clone(),
            topic: topic.clone(),
        };
        let keep = move |records: &[KeyRecord]| copy.keep(records);
        keys.topic = Some(KeyTopic::follow(topic, from, patience, Box::new(keep))?);
        Ok(keys)
    }

    /// A copy belongs to one log, and keys that are nowhere else must not become a copy.
    fn bind(&self, log_id: &str) -> Result<(), KeySourceError> {
        let found = self.db.get(BOUND).map_err(|e| failed(&self.place, &e))?;
        match found {
            Some(id) if id == log_id.as_bytes() => Ok(()),
            None if self.db.iterator(rocksdb::IteratorMode::Start).next().is_none() => {
                self.db.put(BOUND, log_id).map_err(|e| failed(&self.place, &e))
            }
            _ => Err(KeySourceError::Unavailable(format!(
                "the keys in {} belong to another log than {log_id}; give this node a data folder of its own",
                self.place.display()
            ))),
        }
    }

    fn reached(&self, partition: Partition) -> Result<Reached, KeySourceError> {
        reached_in(&self.db, &self.place, partition)
    }

    /// Whether Kafka waits for a record of this partition before it can compact the newest erasure away: its segments
    /// are closed by the first record that comes when they are so old.
    pub fn waits_for_a_record(
        &self,
        partition: Partition,
        segment_age: Duration,
        now: Timestamp,
    ) -> Result<bool, KeySourceError> {
        Ok(self.reached(partition)?.waits(segment_age, now))
    }

    /// Opens the store as it is, while another process may go on writing.
    pub fn open_read_only(dir: &Path, master: MasterKey) -> Result<Self, KeySourceError> {
        let db = DB::open_for_read_only(&options(), dir, false).map_err(|e| failed(dir, &e))?;
        Ok(Self::new(db, dir, master, CacheOptions::default()))
    }

    fn new(db: DB, dir: &Path, master: MasterKey, cache: CacheOptions) -> Self {
        Self {
            db: Arc::new(db),
            place: dir.to_owned(),
            master,
            topic: None,
            cache: Cache::builder()
                .max_capacity(cache.keys)
                .time_to_live(cache.time)
                .build(),
            destroyed: Arc::default(),
        }
    }

    /// Stores new keys durably, with one sync for all. A key that is there already, or was destroyed, is an error:
    /// user ids never come back.
    pub fn put(&self, keys: &[NewKey]) -> Result<(), KeySourceError> {
        let mut rows = Vec::with_capacity(keys.len());
        for new in keys {
            let wrapped = self
                .master
                .wrap(&new.tenant, new.subject, &new.key, new.nonce)
                .map_err(|e| failed(&self.place, &e))?;
            let mut value = Vec::with_capacity(1 + wrapped.len());
            value.push(PRESENT);
            value.extend_from_slice(&wrapped);
            rows.push((new.subject, (row(&new.tenant, new.subject), value)));
        }
        self.write(&rows)?;
        for new in keys {
            self.cache
                .insert(new.subject, (new.tenant.clone(), new.key.clone()));
        }
        Ok(())
    }

    /// Destroys a key: durable when this returns, and gone from memory.
    pub fn destroy(&self, tenant: &TenantId, subject: UserId) -> Result<(), KeySourceError> {
        self.write(&[(subject, (row(tenant, subject), vec![DESTROYED]))])?;
        self.destroyed.fetch_add(1, Ordering::AcqRel);
        self.cache.invalidate(&subject);
        Ok(())
    }

    fn write(&self, rows: &[(UserId, KeyRow)]) -> Result<(), KeySourceError> {
        if let Some(topic) = &self.topic {
            topic.write(rows)?;
        }
        let mut batch = WriteBatch::default();
        for (_, (key, value)) in rows {
            batch.put(key, value);
        }
        let mut options = WriteOptions::default();
        options.set_sync(self.topic.is_none());
        gatelog_events::failpoint::hit("keys.before_write");
        self.db
            .write_opt(batch, &options)
            .map_err(|e| failed(&self.place, &e))?;
        gatelog_events::failpoint::hit("keys.after_write");
        Ok(())
    }

    /// Writes all rows to the topic, wrapped as they are, and says how many. Writing them again is harmless. Blocks.
    pub fn copy_to(&self, topic: &SubjectKeyTopic, partitions: u16) -> Result<u64, KeySourceError> {
        const AT_ONCE: usize = 1024;
        let mut rows = Vec::with_capacity(AT_ONCE);
        let mut copied = 0;
        let mut all = self.db.iterator(rocksdb::IteratorMode::Start);
        loop {
            let next = all.next().transpose().map_err(|e| failed(&self.place, &e))?;
            let is_last = next.is_none();
            if let Some((key, value)) = next
                && let Some(subject) = subject_of(&key)
            {
                rows.push((subject, (key.into_vec(), value.into_vec())));
            }
            if rows.len() >= AT_ONCE || is_last {
                key_topic::write(topic, partitions, &rows)?;
                copied += rows.len() as u64;
                rows.clear();
            }
            if is_last {
                return Ok(copied);
            }
        }
    }

    /// Waits until this copy has all that the topic holds, if it is one. Blocks.
    pub fn catch_up(&self) -> Result<(), KeySourceError> {
        self.topic.as_ref().map_or(Ok(()), KeyTopic::wait_until_read)
    }

    /// Rewrites the files so that no byte of a destroyed key is left on disk.
    pub fn compact(&self) -> Result<(), KeySourceError> {
        self.db.flush().map_err(|e| failed(&self.place, &e))?;
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        self.db.compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        Ok(())
    }

    /// Whether the key is in memory, so that asking for it waits for nothing.
    pub fn is_at_hand(&self, subject: UserId) -> bool {
        self.cache.contains_key(&subject)
    }

    fn load(&self, tenant: &TenantId, subject: UserId) -> Result<KeyStatus, KeySourceError> {
        let value = self
            .db
            .get_pinned(row(tenant, subject))
            .map_err(|e| failed(&self.place, &e))?;
        match value.as_deref().and_then(<[u8]>::split_first) {
            None => Ok(KeyStatus::Missing),
            Some((&DESTROYED, _)) => Ok(KeyStatus::Destroyed),
            Some((_, wrapped)) => unwrapped(&self.master, tenant, subject, wrapped),
        }
    }
}

/// The key of a row that has one.
pub(crate) fn unwrapped(
    master: &MasterKey,
    tenant: &TenantId,
    subject: UserId,
    wrapped: &[u8],
) -> Result<KeyStatus, KeySourceError> {
    let key = master.unwrap(tenant, subject, wrapped);
    key.map(KeyStatus::Present).map_err(|_| {
        KeySourceError::Unreadable(format!(
            "the key of {subject} was wrapped under another master key than the one that is configured"
        ))
    })
}

impl KeySource for SubjectKeys {
    fn key(&self, tenant: &TenantId, subject: UserId) -> Result<KeyStatus, KeySourceError> {
        if let Some((owner, key)) = self.cache.get(&subject)
            && owner == *tenant
        {
            return Ok(KeyStatus::Present(key));
        }
        let destroyed = self.destroyed.load(Ordering::Acquire);
        let mut status = self.load(tenant, subject)?;
        if let (KeyStatus::Missing, Some(topic)) = (&status, &self.topic) {
            topic.wait_until_present(subject)?;
            status = self.load(tenant, subject)?;
        }
        if let KeyStatus::Present(key) = &status {
            self.cache.insert(subject, (tenant.clone(), key.clone()));
            if self.destroyed.load(Ordering::Acquire) != destroyed {
                self.cache.invalidate(&subject);
            }
        }
        Ok(status)
    }
}

pub(crate) fn row(tenant: &TenantId, subject: UserId) -> Vec<u8> {
    let name = tenant.as_str().as_bytes();
    let mut row = Vec::with_capacity(17 + name.len());
    row.push(name.len() as u8);
    row.extend_from_slice(name);
    row.extend_from_slice(subject.as_bytes());
    row
}

/// The user of a row's key.
fn subject_of(row: &[u8]) -> Option<UserId> {
    let id = row.get(row.len().checked_sub(16)?..)?;
    Some(UserId(uuid::Uuid::from_slice(id).ok()?))
}

/// Which log this is a copy of. No tenant's name is empty, so that no key's row begins like this.
const BOUND: [u8; 1] = [0];

/// How far a partition of the topic was read; the beginning where nothing is known.
fn reached_in(db: &DB, place: &Path, partition: Partition) -> Result<Reached, KeySourceError> {
    let row = db.get(reached_row(partition)).map_err(|e| failed(place, &e))?;
    Ok(row.and_then(|row| Reached::read(&row)).unwrap_or_default())
}

/// Where that stands.
fn reached_row(partition: Partition) -> [u8; 3] {
    let [a, b] = partition.0.to_be_bytes();
    [0, a, b]
}

fn failed(place: &Path, e: &dyn std::fmt::Display) -> KeySourceError {
    KeySourceError::Unavailable(format!("{}: {e}", place.display()))
}

fn options() -> Options {
    let mut block = rocksdb::BlockBasedOptions::default();
    block.set_bloom_filter(10.0, false);
    block.set_format_version(6);
    let mut o = Options::default();
    o.create_if_missing(true);
    o.set_block_based_table_factory(&block);
    o.set_write_buffer_size(16 << 20);
    o.set_max_background_jobs(2);
    o.set_max_open_files(64);
    o.set_keep_log_file_num(2);
    o.set_log_level(LogLevel::Warn);
    o.set_stats_dump_period_sec(0);
    o.set_skip_stats_update_on_db_open(true);
    // Wrapped keys are random: there is nothing to compress.
    o.set_compression_type(rocksdb::DBCompressionType::None);
    o
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn user(n: u128) -> UserId {
        UserId(Uuid::from_u128(n))
    }

    fn open(dir: &Path, master: u8) -> SubjectKeys {
        SubjectKeys::open(dir, MasterKey::new([master; 32]), CacheOptions::default()).unwrap()
    }

    fn new_key(subject: UserId, key: u8) -> NewKey {
        NewKey {
            tenant: TenantId::default(),
            subject,
            key: SubjectKey::new([key; 32]),
            nonce: [4; 12],
        }
    }

    #[test]
    fn a_key_is_there_until_it_is_destroyed_and_then_never_again() {
        let dir = tempfile::tempdir().unwrap();
        let tenant = TenantId::default();
        {
            let keys = open(dir.path(), 1);
            keys.put(&[new_key(user(1), 11), new_key(user(2), 22)]).unwrap();
            keys.destroy(&tenant, user(1)).unwrap();
            assert!(matches!(
                keys.key(&tenant, user(1)).unwrap(),
                KeyStatus::Destroyed
            ));
        }
        let keys = open(dir.path(), 1);
        keys.compact().unwrap();
        assert!(matches!(
            keys.key(&tenant, user(1)).unwrap(),
            KeyStatus::Destroyed
        ));
        assert!(
            matches!(keys.key(&tenant, user(2)).unwrap(), KeyStatus::Present(k) if k == SubjectKey::new([22; 32]))
        );
        assert!(matches!(keys.key(&tenant, user(3)).unwrap(), KeyStatus::Missing));
    }

    #[test]
    fn another_master_key_is_an_error_and_no_erasure() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 1).put(&[new_key(user(1), 11)]).unwrap();
        let error = open(dir.path(), 2)
            .key(&TenantId::default(), user(1))
            .unwrap_err();
        assert!(error.to_string().contains("another master key"), "{error}");
    }

    #[test]
    fn compaction_takes_the_last_bytes_of_a_destroyed_key_off_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let keys = open(dir.path(), 1);
        keys.put(&[new_key(user(1), 11)]).unwrap();
        let wrapped = MasterKey::new([1; 32])
            .wrap(&TenantId::default(), user(1), &SubjectKey::new([11; 32]), [4; 12])
            .unwrap();
        let on_disk = || {
            std::fs::read_dir(dir.path()).unwrap().any(|f| {
                let bytes = std::fs::read(f.unwrap().path()).unwrap();
                bytes.windows(wrapped.len()).any(|w| w == wrapped)
            })
        };
        assert!(on_disk());
        keys.destroy(&TenantId::default(), user(1)).unwrap();
        keys.compact().unwrap();
        assert!(!on_disk());
    }
}
