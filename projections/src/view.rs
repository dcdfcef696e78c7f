//! What a fold or a query sees of a table: typed rows, and over them what is not yet written.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use quick_cache::DefaultHashBuilder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::{Change, Store, StoreError, Table};

/// First byte of each row; another one is another form.
const FORM: u8 = 1;

/// A row as it is stored.
pub fn encode_row<T: Serialize>(row: &T, table: &Table) -> Result<Bytes, StoreError> {
    encode_in(&mut Vec::with_capacity(256), row, table)
}

/// As [`encode_row`], with a scratch buffer.
fn encode_in<T: Serialize>(scratch: &mut Vec<u8>, row: &T, table: &Table) -> Result<Bytes, StoreError> {
    scratch.clear();
    scratch.push(FORM);
    // A copy of the right length: it waits in an overlay, perhaps among very many.
    *scratch = postcard::to_extend(row, std::mem::take(scratch)).map_err(|_| bad_row(table))?;
    Ok(Bytes::copy_from_slice(scratch))
}

/// Reads a row's bytes.
pub fn decode_row<'r, T: Deserialize<'r>>(bytes: &'r [u8], table: &Table) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&FORM, rest)) => postcard::from_bytes(rest).map_err(|_| bad_row(table)),
        _ => Err(bad_row(table)),
    }
}

fn bad_row(table: &Table) -> StoreError {
    StoreError::Row {
        table: table.0.to_string(),
    }
}

/// Changes that are not in the store yet, by key. Reads look here first.
#[derive(Debug, Default)]
pub struct Overlay {
    rows: HashMap<Bytes, Pending, DefaultHashBuilder>,
    /// Changes in their order since the last [`take_changes`](Self::take_changes), once somebody wants to know.
    journal: Option<Vec<Change>>,
    /// Where rows are encoded.
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Pending {
    value: Option<Bytes>,
    /// Number of changes of this key that are on their way.
    open: u32,
}

impl Overlay {
    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        if let Some(journal) = &mut self.journal {
            journal.push((key.clone(), value.clone()));
        }
        let pending = self.rows.entry(key).or_insert(Pending { value: None, open: 0 });
        pending.value = value;
        pending.open += 1;
    }

    /// From now on changes are kept in their order too, for [`take_changes`](Self::take_changes). Folds that only
    /// [`drain`](Self::drain) do without: a counter may change thousands of times between two writes.
    pub fn keep_order(&mut self) {
        self.journal.get_or_insert_default();
    }

    /// The changes since the last call, in order. They stay visible until [`settle`](Self::settle).
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Forgets changes that the store has now.
    pub fn settle<'k>(&mut self, keys: impl IntoIterator<Item = &'k Bytes>) {
        for key in keys {
            if let Some(pending) = self.rows.get_mut(key) {
                pending.open -= 1;
                if pending.open == 0 {
                    self.rows.remove(key);
                }
            }
        }
    }

    /// The last state of each changed row, in order of key, as RocksDB takes it fastest; the overlay is empty afterwards.
    pub fn drain(&mut self) -> Vec<Change> {
        self.journal = None;
        // With room for the checkpoint that joins them: they are many to be moved.
        let mut changes = Vec::with_capacity(self.rows.len() + 1);
        changes.extend(self.rows.drain().map(|(key, p)| (key, p.value)));
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn clear(&mut self) {
        self.rows.clear();
        self.journal = None;
    }
}

/// A table to read from, with or without changes on their way.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub store: &'a Store,
    pub table: &'a Table,
    pub overlay: Option<&'a Overlay>,
}

impl View<'_> {
    /// One row.
    pub fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        match self.overlay.and_then(|o| o.rows.get(key)) {
            Some(pending) => pending
                .value
                .as_deref()
                .map(|v| decode_row(v, self.table))
                .transpose(),
            None => self.store.read(self.table, key, |v| decode_row(v, self.table)),
        }
    }

    pub fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        match self.overlay.and_then(|o| o.rows.get(key)) {
            Some(pending) => Ok(pending.value.is_some()),
            None => Ok(self.store.read(self.table, key, |_| Ok(()))?.is_some()),
        }
    }

    /// Rows whose keys begin with `prefix`, in order of key.
    pub fn scan<T: DeserializeOwned>(&self, prefix: &[u8]) -> Result<Vec<(Bytes, T)>, StoreError> {
        self.page(prefix, prefix, usize::MAX)
    }

    /// Up to `limit` rows whose keys begin with `prefix`, from `from` on, in order of key.
    pub fn page<T: DeserializeOwned>(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, T)>, StoreError> {
        let mut rows = Vec::new();
        for (key, value) in self.raw_page(prefix, from, limit)? {
            rows.push((key, decode_row(&value, self.table)?));
        }
        Ok(rows)
    }

    /// Up to `limit` rows below `prefix` in order of key, by the rest of their keys: those behind the rest `after`.
    pub fn page_after<T: DeserializeOwned>(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, T)>, StoreError> {
        let mut from = prefix.to_vec();
        if let Some(after) = after {
            from.extend_from_slice(after);
            // No key comes between one and the same with a zero behind it.
            from.push(0);
        }
        let rows = self.page(prefix, &from, limit)?.into_iter();
        Ok(rows.map(|(key, row)| (key.slice(prefix.len()..), row)).collect())
    }

    /// Up to `limit` rows below `prefix` in descending order of key, by the rest of their keys: those before the rest
    /// `before`, or the last ones. What it costs does not depend on how many rows are stored.
    pub fn page_before<T: DeserializeOwned>(
        &self,
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, T)>, StoreError> {
        let before = before.map(|rest| [prefix, rest].concat());
        let mut rows = Vec::new();
        for (key, value) in self.raw_page_before(prefix, before.as_deref(), limit)? {
            rows.push((key.slice(prefix.len()..), decode_row(&value, self.table)?));
        }
        Ok(rows)
    }

    /// As [`page`](Self::page), the rows as they are stored.
    pub(crate) fn raw_page(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let changed = self.changed(|key| key.starts_with(prefix) && key >= from);
        // Deleted rows make room for others, so the stored page must be longer by as many.
        let room = limit.saturating_add(changed.len());
        let stored = self.store.scan(self.table, prefix, from, room)?;
        if changed.is_empty() {
            return Ok(stored);
        }
        Ok(merged(stored, changed).into_iter().take(limit).collect())
    }

    fn raw_page_before(
        &self,
        prefix: &[u8],
        before: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let below = |key: &[u8]| before.is_none_or(|before| key < before);
        let changed = self.changed(|key| key.starts_with(prefix) && below(key));
        // Deleted rows make room for others here, too.
        let room = limit.saturating_add(changed.len());
        let stored = self.store.scan_back(self.table, prefix, before, room)?;
        if changed.is_empty() {
            return Ok(stored);
        }
        Ok(merged(stored, changed).into_iter().rev().take(limit).collect())
    }

    /// What is on its way to the rows whose keys `concerns` names, in no order.
    fn changed(&self, concerns: impl Fn(&[u8]) -> bool) -> Vec<(&Bytes, Option<&Bytes>)> {
        let rows = self.overlay.iter().flat_map(|o| o.rows.iter());
        rows.filter(|(key, _)| concerns(key))
            .map(|(key, pending)| (key, pending.value.as_ref()))
            .collect()
    }
}

/// Stored rows as they are with what is on its way, in order of key.
fn merged(stored: Vec<(Bytes, Bytes)>, changed: Vec<(&Bytes, Option<&Bytes>)>) -> BTreeMap<Bytes, Bytes> {
    let mut rows: BTreeMap<_, _> = stored.into_iter().collect();
    for (key, value) in changed {
        match value {
            Some(value) => rows.insert(key.clone(), value.clone()),
            None => rows.remove(key),
        };
    }
    rows
}

/// A table that a fold reads and changes.
pub struct FoldView<'a> {
    store: &'a Store,
    table: &'a Table,
    overlay: &'a mut Overlay,
}

impl<'a> FoldView<'a> {
    pub fn new(store: &'a Store, table: &'a Table, overlay: &'a mut Overlay) -> Self {
        Self {
            store,
            table,
            overlay,
        }
    }

    /// The same rows, to read.
    pub fn view(&self) -> View<'_> {
        View {
            store: self.store,
            table: self.table,
            overlay: Some(self.overlay),
        }
    }

    pub fn get<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.view().get(key)
    }

    pub fn put<T: Serialize>(&mut self, key: Bytes, row: &T) -> Result<(), StoreError> {
        let value = encode_in(&mut self.overlay.scratch, row, self.table)?;
        self.overlay.change(key, Some(value));
        Ok(())
    }

    pub fn delete(&mut self, key: Bytes) {
        self.overlay.change(key, None);
    }

    /// Deletes all rows whose keys begin with `prefix`.
    pub fn delete_all(&mut self, prefix: &[u8]) -> Result<(), StoreError> {
        for (key, _) in self.view().raw_page(prefix, prefix, usize::MAX)? {
            self.delete(key);
        }
        Ok(())
    }
}

/// A short name for a row, for messages: the kind and the rest in hex. Never a row's content.
pub fn describe_key(key: &[u8]) -> Cow<'static, str> {
    let (kind, rest) = key.split_at(key.len().min(2));
    let hex: String = rest.iter().map(|b| format!("{b:02x}")).collect();
    format!("{} {hex}", String::from_utf8_lossy(kind)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreOptions;

    #[test]
    fn a_fold_reads_what_it_wrote_over_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let row = |n: u32| Some(encode_row(&n, &table).unwrap());
        let stored = [
            ("a1".into(), row(1)),
            ("a2".into(), row(2)),
            ("b1".into(), row(9)),
        ];
        store.write([(&table, &stored[..])]).unwrap();
        let mut overlay = Overlay::default();
        let mut fold = FoldView::new(&store, &table, &mut overlay);
        fold.delete("a1".into());
        fold.put("a3".into(), &3u32).unwrap();
        fold.put("a2".into(), &22u32).unwrap();
        let rows: Vec<(Bytes, u32)> = fold.view().scan(b"a").unwrap();
        assert_eq!(rows, [("a2".into(), 22), ("a3".into(), 3)]);
        let page: Vec<(Bytes, u32)> = fold.view().page(b"a", b"a", 1).unwrap();
        assert_eq!(page, [("a2".into(), 22)]);
        assert_eq!(fold.get::<u32>(b"a1").unwrap(), None);
        fold.delete_all(b"a").unwrap();
        assert!(fold.view().scan::<u32>(b"a").unwrap().is_empty());
        assert_eq!(fold.get::<u32>(b"b1").unwrap(), Some(9));
    }

    #[test]
    fn pages_backwards_have_what_is_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let stored = ["a9", "b1", "b2", "b3", "b5", "c1"].map(|key| {
            let row = encode_row(&0u32, &table).unwrap();
            (Bytes::from_static(key.as_bytes()), Some(row))
        });
        store.write([(&table, &stored[..])]).unwrap();
        let mut overlay = Overlay::default();
        let mut fold = FoldView::new(&store, &table, &mut overlay);
        for key in ["b5", "b2", "c1"] {
            fold.delete(key.into());
        }
        for (key, row) in [("b3", 33u32), ("b4", 4), ("a8", 8), ("c2", 2)] {
            fold.put(key.into(), &row).unwrap();
        }
        type Case<'a> = (Option<&'a [u8]>, usize, &'a [(&'a str, u32)]);
        let cases: [Case<'_>; 6] = [
            (None, 9, &[("4", 4), ("3", 33), ("1", 0)]),
            (None, 1, &[("4", 4)]),
            (None, 2, &[("4", 4), ("3", 33)]),
            (Some(b"4"), 1, &[("3", 33)]),
            (Some(b"3"), 1, &[("1", 0)]),
            (Some(b"1"), 9, &[]),
        ];
        for (before, limit, expected) in cases {
            let page: Vec<(Bytes, u32)> = fold.view().page_before(b"b", before, limit).unwrap();
            let mut found = Vec::new();
            for (key, row) in &page {
                found.push((std::str::from_utf8(key).unwrap(), *row));
            }
            assert_eq!(found, expected, "{before:?} {limit}");
        }
    }

    #[test]
    fn a_change_stays_visible_until_the_last_one_of_its_key_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let table = Table::new("t", 1, 0);
        store.create(&table).unwrap();
        let mut overlay = Overlay::default();
        overlay.keep_order();
        FoldView::new(&store, &table, &mut overlay)
            .put("k".into(), &1u32)
            .unwrap();
        let first = overlay.take_changes();
        FoldView::new(&store, &table, &mut overlay)
            .put("k".into(), &2u32)
            .unwrap();
        let second = overlay.take_changes();
        overlay.settle(first.iter().map(|(k, _)| k));
        let read = |o: &Overlay| {
            View {
                store: &store,
                table: &table,
                overlay: Some(o),
            }
            .get::<u32>(b"k")
            .unwrap()
        };
        assert_eq!(read(&overlay), Some(2));
        overlay.settle(second.iter().map(|(k, _)| k));
        assert_eq!(read(&overlay), None);
    }
}
