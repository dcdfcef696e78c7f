//! RocksDB, as the read models use it: a column family per projection and version, no WAL, atomic flush.
//!
//! The log is the WAL: what a crash takes is folded again from the checkpoint that survived with it. Since all column
//! families are flushed as one, rows and checkpoints never disagree.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor,
    DBCompressionType, DBWithThreadMode, DataBlockIndexType, FlushOptions, IteratorMode, LogLevel,
    MultiThreaded, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::hot::Stamps;
use crate::keys::{KeyKind, global};

type Db = DBWithThreadMode<MultiThreaded>;

const META: &str = "default";

/// The store of read models cannot do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the read models in {place} cannot be used: {what}")]
    RocksDb { place: String, what: String },
    #[error("a row of {table} is not of its form")]
    Row { table: String },
    #[error(
        "the read models in {place} belong to another log ({bound}) than the one that is configured ({log}): another cluster, \
         other topics, or topics that were made anew. Correct the configuration, or let them be built from this log: remove \
         that folder or, with a log in Kafka, give this node a new data folder"
    )]
    OtherLog {
        place: String,
        bound: String,
        log: String,
    },
}

/// How much memory the store may use.
#[derive(Debug, Clone, Copy)]
pub struct StoreOptions {
    /// Cache of data blocks, indexes and filters, in bytes.
    pub cache_bytes: usize,
    /// All memtables together, in bytes. Also bounds what a restart folds again.
    pub memtable_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 128 << 20,
            memtable_bytes: 96 << 20,
        }
    }
}

/// All read models of one node.
pub struct Store {
    db: Db,
    place: PathBuf,
    cache: Cache,
    options: StoreOptions,
    /// Options of every point read.
    point_read: ReadOptions,
    /// Projection → the column family that serves it.
    active: RwLock<HashMap<String, Arc<str>>>,
    stamps: Stamps,
    /// Tables of which rows may be kept in memory.
    watched: RwLock<HashSet<Table>>,
}

/// A column family, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table(pub Arc<str>);

impl Table {
    /// The table of a projection's version; `build` counts the builds of the same version.
    pub fn new(projection: &str, version: u32, build: u32) -> Self {
        Self(format!("{projection}.v{version}.{build}").into())
    }

    /// Version and build.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.0.split('.').skip(1);
        let version = parts.next()?.strip_prefix('v')?.parse().ok()?;
        Some((version, parts.next()?.parse().ok()?))
    }
}

/// A change of one row: its new bytes, or none to delete it.
pub type Change = (Bytes, Option<Bytes>);

impl Store {
    /// Opens or creates the store in `dir`.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| rocks(dir, &e))?;
        Self::open_with(dir, options, false)
    }

    /// Opens what was flushed, while another process may go on writing.
    pub fn open_read_only(dir: &Path, options: StoreOptions) -> Result<Arc<Self>, StoreError> {
        Self::open_with(dir, options, true)
    }

    fn open_with(dir: &Path, options: StoreOptions, read_only: bool) -> Result<Arc<Self>, StoreError> {
        // Without locks, unlike an LRU cache; 0 lets it find the usual size of its entries by itself.
        let cache = Cache::new_hyper_clock_cache(options.cache_bytes, 0);
        let db_options = db_options(options);
        let names = Db::list_cf(&db_options, dir).unwrap_or_else(|_| vec![META.to_owned()]);
        let families = names
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(name, cf_options(&cache)));
        let db = if read_only {
            Db::open_cf_descriptors_read_only(&db_options, dir, families, false)
        } else {
            Db::open_cf_descriptors(&db_options, dir, families)
        }
        .map_err(|e| rocks(dir, &e))?;
        let store = Self {
            db,
            place: dir.to_owned(),
            cache,
            options,
            point_read: ReadOptions::default(),
            active: RwLock::default(),
            stamps: Stamps::default(),
            watched: RwLock::default(),
        };
        store.load_active()?;
        Ok(Arc::new(store))
    }

    fn load_active(&self) -> Result<(), StoreError> {
        let meta = Table(META.into());
        let prefix = global(KeyKind::Active).done();
        let mut active = self.active.write();
        for (key, value) in self.scan(&meta, &prefix, &prefix, usize::MAX)? {
            let name = String::from_utf8_lossy(&key[prefix.len()..])
                .trim_end_matches('\0')
                .to_owned();
            active.insert(name, String::from_utf8_lossy(&value).into());
        }
        Ok(())
    }

    pub fn options(&self) -> StoreOptions {
        self.options
    }

    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Binds the store to a log for ever; another log is an error.
    pub fn bind(&self, log_id: &str) -> Result<(), StoreError> {
        let meta = Table(META.into());
        match self.get(&meta, b"log_id")? {
            Some(id) if id == log_id.as_bytes() => Ok(()),
            Some(id) => Err(StoreError::OtherLog {
                place: self.place.display().to_string(),
                bound: String::from_utf8_lossy(&id).into_owned(),
                log: log_id.to_owned(),
            }),
            None => self.write([(&meta, &[("log_id".into(), Some(log_id.to_owned().into()))][..])]),
        }
    }

    /// The table that serves a projection, if any does.
    pub fn active(&self, projection: &str) -> Option<Table> {
        self.active.read().get(projection).cloned().map(Table)
    }

    /// Lets `table` serve a projection from now on. Takes effect for readers at once.
    pub fn activate(&self, projection: &str, table: &Table) -> Result<(), StoreError> {
        let meta = Table(META.into());
        let key = global(KeyKind::Active).text(projection).done();
        let value = Bytes::copy_from_slice(table.0.as_bytes());
        self.write([(&meta, &[(key, Some(value))][..])])?;
        self.active.write().insert(projection.to_owned(), table.0.clone());
        self.flush()
    }

    /// All tables of a projection.
    pub fn tables(&self, projection: &str) -> Vec<Table> {
        Db::list_cf(&db_options(self.options), &self.place)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| name.split('.').next() == Some(projection))
            .map(|name| Table(name.into()))
            .collect()
    }

    /// From now on rows of this table may be [kept in memory](crate::hot).
    pub fn watch(&self, table: &Table) {
        self.watched.write().insert(table.clone());
    }

    pub(crate) fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    pub fn create(&self, table: &Table) -> Result<(), StoreError> {
        if self.db.cf_handle(&table.0).is_some() {
            return Ok(());
        }
        self.db
            .create_cf(&*table.0, &cf_options(&self.cache))
            .map_err(|e| rocks(&self.place, &e))
    }

    /// Drops a table and its rows.
    pub fn drop_table(&self, table: &Table) -> Result<(), StoreError> {
        if self.db.cf_handle(&table.0).is_none() {
            return Ok(());
        }
        self.watched.write().remove(table);
        self.db.drop_cf(&table.0).map_err(|e| rocks(&self.place, &e))
    }

    fn cf(&self, table: &Table) -> Result<Arc<BoundColumnFamily<'_>>, StoreError> {
        self.db.cf_handle(&table.0).ok_or_else(|| StoreError::RocksDb {
            place: self.place.display().to_string(),
            what: format!("there is no table {}", table.0),
        })
    }

    /// One row's bytes.
    pub fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.read(table, key, |value| Ok(Bytes::copy_from_slice(value)))
    }

    /// What `f` makes of one row's bytes, which are not copied.
    pub fn read<T>(
        &self,
        table: &Table,
        key: &[u8],
        f: impl FnOnce(&[u8]) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let cf = self.cf(table)?;
        let value = self
            .db
            .get_pinned_cf_opt(&cf, key, &self.point_read)
            .map_err(|e| rocks(&self.place, &e))?;
        value.map(|v| f(&v)).transpose()
    }

    /// Up to `limit` rows whose keys begin with `prefix`, from `from` on, in order of key.
    pub fn scan(
        &self,
        table: &Table,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut rows = Vec::new();
        self.each(table, prefix, from, |key, value| {
            if rows.len() < limit {
                rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            }
            rows.len() < limit
        })?;
        Ok(rows)
    }

    /// Up to `limit` rows whose keys begin with `prefix`, in descending order of key: those below the key `before`, which
    /// begins with `prefix`, too, or the last ones. What it costs does not depend on how many rows there are.
    pub fn scan_back(
        &self,
        table: &Table,
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let cf = self.cf(table)?;
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(prefix);
        if let Some(upper) = before.map(<[u8]>::to_vec).or_else(|| successor(prefix)) {
            read.set_iterate_upper_bound(upper);
        }
        let mut rows = Vec::new();
        // The end is the last key below the upper bound.
        for row in self.db.iterator_cf_opt(&cf, read, IteratorMode::End).take(limit) {
            let (key, value) = row.map_err(|e| rocks(&self.place, &e))?;
            rows.push((Bytes::from(key), Bytes::from(value)));
        }
        Ok(rows)
    }

    /// Hands each row whose key begins with `prefix` to `f`, from `from` on, until `f` says false.
    pub fn each(
        &self,
        table: &Table,
        prefix: &[u8],
        from: &[u8],
        mut f: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let cf = self.cf(table)?;
        let mut read = ReadOptions::default();
        if let Some(upper) = successor(prefix) {
            read.set_iterate_upper_bound(upper);
        }
        let mode = IteratorMode::From(from, rocksdb::Direction::Forward);
        for row in self.db.iterator_cf_opt(&cf, read, mode) {
            let (key, value) = row.map_err(|e| rocks(&self.place, &e))?;
            if !f(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    /// Writes changes of several tables as one.
    pub fn write<'t>(
        &self,
        changes: impl IntoIterator<Item = (&'t Table, &'t [Change])>,
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let watched = self.watched.read();
        let mut writing = Vec::new();
        for (table, rows) in changes {
            let cf = self.cf(table)?;
            if watched.contains(table) {
                writing.extend(rows.iter().map(|(key, _)| self.stamps.writing(key)));
            }
            for (key, value) in rows {
                match value {
                    Some(value) => batch.put_cf(&cf, key, value),
                    None => batch.delete_cf(&cf, key),
                }
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(batch, &options)
            .map_err(|e| rocks(&self.place, &e))
    }

    /// Makes everything written so far durable, all tables as one.
    pub fn flush(&self) -> Result<(), StoreError> {
        let names = self.loaded();
        let handles: Vec<_> = names.iter().filter_map(|n| self.db.cf_handle(n)).collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let refs: Vec<_> = handles.iter().collect();
        self.db
            .flush_cfs_opt(&refs, &options)
            .map_err(|e| rocks(&self.place, &e))
    }

    /// Rewrites the files so that no deleted or overwritten row is left in them.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.flush()?;
        let mut options = rocksdb::CompactOptions::default();
        options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
        for name in self.loaded() {
            if let Some(cf) = self.db.cf_handle(&name) {
                self.db
                    .compact_range_cf_opt(&cf, None::<&[u8]>, None::<&[u8]>, &options);
            }
        }
        Ok(())
    }

    fn loaded(&self) -> Vec<String> {
        Db::list_cf(&db_options(self.options), &self.place)
            .unwrap_or_default()
            .into_iter()
            .filter(|n| self.db.cf_handle(n).is_some())
            .collect()
    }

    /// A number that RocksDB keeps about itself, such as `rocksdb.estimate-num-keys`, for one table.
    pub fn property(&self, table: &Table, name: &str) -> Option<u64> {
        let cf = self.cf(table).ok()?;
        self.db.property_int_value_cf(&cf, name).ok().flatten()
    }
}

/// The first key after all that begin with `prefix`; none if there is no end.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.last_mut() {
        if *last < 0xff {
            *last += 1;
            return Some(next);
        }
        next.pop();
    }
    None
}

fn rocks(place: &Path, e: &dyn std::fmt::Display) -> StoreError {
    StoreError::RocksDb {
        place: place.display().to_string(),
        what: e.to_string(),
    }
}

fn db_options(options: StoreOptions) -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    o.set_atomic_flush(true);
    o.set_db_write_buffer_size(options.memtable_bytes);
    o.set_max_background_jobs(2);
    o.set_max_open_files(512);
    o.set_keep_log_file_num(2);
    o.set_max_log_file_size(1 << 20);
    o.set_log_level(LogLevel::Warn);
    o.set_max_manifest_file_size(8 << 20);
    o.set_stats_dump_period_sec(0);
    o.set_skip_stats_update_on_db_open(true);
    o
}

fn cf_options(cache: &Cache) -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(cache);
    block.set_bloom_filter(10.0, false);
    block.set_format_version(6);
    // One filter of a large file is half a megabyte: as one block it evicts, and is evicted by, all else in its shard
    // of the cache. In pieces of a page, only what is asked is loaded.
    block.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    block.set_partition_filters(true);
    block.set_metadata_block_size(4096);
    block.set_pin_top_level_index_and_filter(true);
    block.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    block.set_data_block_hash_ratio(0.75);
    block.set_cache_index_and_filter_blocks(true);
    block.set_cache_index_and_filter_blocks_with_high_priority(true);
    block.set_pin_l0_filter_and_index_blocks_in_cache(true);
    block.set_optimize_filters_for_memory(true);
    let mut o = Options::default();
    o.set_block_based_table_factory(&block);
    o.set_write_buffer_size(32 << 20);
    o.set_memtable_prefix_bloom_ratio(0.05);
    o.set_memtable_whole_key_filtering(true);
    o.set_level_compaction_dynamic_level_bytes(true);
    o.set_compression_type(DBCompressionType::Lz4);
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_a_successor() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(&[1, 255]), Some(vec![2]));
        assert_eq!(successor(&[255, 255]), None);
    }

    #[test]
    fn rows_are_read_from_the_last_one_backwards() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let keys: [&[u8]; 7] = [b"a9", b"b", b"b1", b"b2", b"b3", b"c", &[255, 255, 1]];
        let rows = keys.map(|key| (Bytes::copy_from_slice(key), Some(Bytes::from_static(b"v"))));
        store.write([(&table, &rows[..])]).unwrap();
        type Case<'a> = (&'a [u8], Option<&'a [u8]>, usize, &'a [&'a [u8]]);
        let cases: [Case<'_>; 8] = [
            (b"b", None, 9, &[b"b3", b"b2", b"b1", b"b"]),
            (b"b", None, 2, &[b"b3", b"b2"]),
            (b"b", Some(b"b2"), 9, &[b"b1", b"b"]),
            (b"b", Some(b"b2"), 1, &[b"b1"]),
            // Whether or not there is a row with that key.
            (b"b", Some(b"b22"), 1, &[b"b2"]),
            (b"b", Some(b"b"), 9, &[]),
            (b"b", None, 0, &[]),
            // No key comes after all that begin so.
            (&[255, 255], None, 9, &[&[255, 255, 1]]),
        ];
        for flushed in [false, true] {
            if flushed {
                store.flush().unwrap();
            }
            for (prefix, before, limit, expected) in cases {
                let found = store.scan_back(&table, prefix, before, limit).unwrap();
                let found: Vec<_> = found.iter().map(|(key, _)| &key[..]).collect();
                assert_eq!(found, expected, "{prefix:?} {before:?} {limit}");
            }
        }
    }

    #[test]
    fn tables_are_created_served_and_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let table = Table::new("users", 2, 7);
        assert_eq!(table.version(), Some((2, 7)));
        {
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            store.create(&table).unwrap();
            store.bind("log-1").unwrap();
            store
                .write([(&table, &[("k".into(), Some("v".into()))][..])])
                .unwrap();
            store.activate("users", &table).unwrap();
        }
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        assert_eq!(store.active("users"), Some(table.clone()));
        assert_eq!(store.get(&table, b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert!(matches!(store.bind("log-2"), Err(StoreError::OtherLog { .. })));
        store.drop_table(&table).unwrap();
        assert!(store.tables("users").is_empty());
    }

    #[test]
    fn without_a_flush_rows_of_all_tables_vanish_together() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (Table::new("a", 1, 0), Table::new("b", 1, 0));
        {
            let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
            store.create(&a).unwrap();
            store.create(&b).unwrap();
            let row: [Change; 1] = [("k".into(), Some("1".into()))];
            store.write([(&a, &row[..]), (&b, &row[..])]).unwrap();
            store.flush().unwrap();
            let row: [Change; 1] = [("k".into(), Some("2".into()))];
            store.write([(&a, &row[..]), (&b, &row[..])]).unwrap();
            // What a crash leaves is what a reader from outside sees now.
            let crashed = Store::open_read_only(dir.path(), StoreOptions::default()).unwrap();
            for t in [&a, &b] {
                assert_eq!(crashed.get(t, b"k").unwrap().as_deref(), Some(&b"1"[..]));
            }
        }
    }
}
