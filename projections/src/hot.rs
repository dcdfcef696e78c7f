//! Rows that are read again and again, kept in memory as what they say, while nobody writes them.
//!
//! A kept row carries the *stamp* that its key had before it was read. Whoever writes changes the stamp, so that what
//! was read before a write is never given after it, whatever the order in which threads come by.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::DefaultHashBuilder;
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;

use crate::store::{StoreError, Table};
use crate::view::View;

/// Keys share slots; a write of one makes the others of its slot be read anew, which costs time only.
const SLOTS: usize = 1 << 16;
/// A slot holds the number of writes under way in its low bits, and the number of those that ended above.
const UNDER_WAY: u64 = (1 << 32) - 1;
const ENDED: u64 = 1 << 32;

/// A stamp for each key.
pub(crate) struct Stamps {
    slots: Box<[AtomicU64]>,
    hasher: DefaultHashBuilder,
}

impl Default for Stamps {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Stamps {
    fn slot(&self, key: &[u8]) -> &AtomicU64 {
        let n = self.hasher.hash_one(key) as usize % SLOTS;
        &self.slots[n]
    }

    /// The key's stamp; none while it may be being written.
    fn now(&self, key: &[u8]) -> Option<u64> {
        let stamp = self.slot(key).load(Ordering::Acquire);
        (stamp & UNDER_WAY == 0).then_some(stamp)
    }

    /// Marks a key as being written until the guard is dropped.
    pub(crate) fn writing(&self, key: &[u8]) -> Writing<'_> {
        let slot = self.slot(key);
        slot.fetch_add(1, Ordering::AcqRel);
        Writing(slot)
    }
}

/// See [`Stamps::writing`].
pub(crate) struct Writing<'a>(&'a AtomicU64);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(ENDED - 1, Ordering::AcqRel);
    }
}

/// A row as it was read; none where there was no row.
struct Kept<T> {
    stamp: u64,
    table: Table,
    row: Option<Arc<T>>,
}

/// The rows of one kind that were read last. Their table must be [watched](crate::store::Store::watch).
pub struct Hot<T> {
    rows: Cache<Bytes, Arc<Kept<T>>>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> Hot<T> {
    /// Keeps at most so many rows.
    pub fn new(rows: usize) -> Self {
        Self {
            rows: Cache::new(rows),
        }
    }

    /// Takes a row out of memory. It would not be given again once it was written; this is for what must not stay.
    pub fn forget(&self, key: &[u8]) {
        self.rows.remove(key);
    }

    /// As [`forget`](Self::forget), all rows whose keys begin with `prefix`. Looks at every row that is kept.
    pub fn forget_all(&self, prefix: &[u8]) {
        self.rows.retain(|key, _| !key.starts_with(prefix));
    }

    /// What is kept of a row with this stamp.
    fn kept(&self, view: View<'_>, key: &Bytes, stamp: u64) -> Option<Arc<Kept<T>>> {
        let kept = self.rows.get(key)?;
        (kept.stamp == stamp && kept.table == *view.table).then_some(kept)
    }

    /// As [`get`](Self::get), but nothing is kept that was not: for who comes by all rows once, and must not drive out what
    /// others read again and again.
    pub fn glance(&self, view: View<'_>, key: &Bytes) -> Result<Option<Arc<T>>, StoreError> {
        let stamp = view.store.stamps().now(key);
        match stamp.and_then(|stamp| self.kept(view, key, stamp)) {
            Some(kept) => Ok(kept.row.clone()),
            None => Ok(view.get(key)?.map(Arc::new)),
        }
    }

    /// One row, as [`View::get`] gives it.
    pub fn get(&self, view: View<'_>, key: &Bytes) -> Result<Option<Arc<T>>, StoreError> {
        let read = || view.get(key).map(|row| row.map(Arc::new));
        let Some(stamp) = view.store.stamps().now(key) else {
            return read();
        };
        if let Some(kept) = self.kept(view, key, stamp) {
            return Ok(kept.row.clone());
        }
        let row = read()?;
        let kept = Kept {
            stamp,
            table: view.table.clone(),
            row: row.clone(),
        };
        self.rows.insert(key.clone(), Arc::new(kept));
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::store::{Change, Store, StoreOptions};
    use crate::view::encode_row;

    fn put(store: &Store, table: &Table, key: &str, row: u64) {
        let change: Change = (
            Bytes::copy_from_slice(key.as_bytes()),
            Some(encode_row(&row, table).unwrap()),
        );
        store.write([(table, &[change][..])]).unwrap();
    }

    fn opened(dir: &std::path::Path, names: &[&str]) -> (Arc<Store>, Vec<Table>) {
        let store = Store::open(dir, StoreOptions::default()).unwrap();
        let tables: Vec<_> = names.iter().map(|n| Table::new(n, 1, 0)).collect();
        for table in &tables {
            store.create(table).unwrap();
            store.watch(table);
        }
        (store, tables)
    }

    fn read(store: &Store, table: &Table, hot: &Hot<u64>, key: &'static str) -> Option<u64> {
        let view = View {
            store,
            table,
            overlay: None,
        };
        hot.get(view, &key.into()).unwrap().map(|row| *row)
    }

    #[test]
    fn what_is_written_is_read_and_tables_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, tables) = opened(dir.path(), &["a", "b"]);
        let hot = Hot::new(10);
        assert_eq!(read(&store, &tables[0], &hot, "k"), None);
        put(&store, &tables[0], "k", 1);
        assert_eq!(read(&store, &tables[0], &hot, "k"), Some(1));
        assert_eq!(read(&store, &tables[1], &hot, "k"), None, "another table");
        assert_eq!(read(&store, &tables[0], &hot, "k"), Some(1));
        put(&store, &tables[0], "k", 2);
        assert_eq!(read(&store, &tables[0], &hot, "k"), Some(2));
        store.write([(&tables[0], &[("k".into(), None)][..])]).unwrap();
        assert_eq!(read(&store, &tables[0], &hot, "k"), None);
    }

    #[test]
    fn while_a_key_is_written_nothing_is_kept() {
        let stamps = Stamps::default();
        let before = stamps.now(b"k").unwrap();
        let first = stamps.writing(b"k");
        let second = stamps.writing(b"k");
        assert_eq!(stamps.now(b"k"), None);
        drop(first);
        assert_eq!(stamps.now(b"k"), None);
        drop(second);
        assert_ne!(stamps.now(b"k"), Some(before));
        assert!(stamps.now(b"k").is_some());
    }

    /// One thread counts up; no reader ever sees less than was written before it began, or than it saw before.
    #[test]
    fn no_reader_goes_back_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let (store, tables) = opened(dir.path(), &["a"]);
        let table = &tables[0];
        put(&store, table, "k", 0);
        let (hot, written, done) = (Hot::new(10), AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    let mut last = 0;
                    while !done.load(Ordering::Acquire) {
                        let least = written.load(Ordering::Acquire).max(last);
                        last = read(&store, table, &hot, "k").unwrap();
                        assert!(last >= least, "{last} after {least}");
                    }
                });
            }
            for n in 1..20_000 {
                put(&store, table, "k", n);
                written.store(n, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
    }
}
