//! Verifying: fold the whole log again, beside, and name every row that differs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use futures::future::try_join_all;
use gatelog_events::ids::{Offset, Partition, Stream};
use gatelog_events::log::EventLog;
use gatelog_events::seal::KeySource;

use crate::catch_up::{CatchUpError, catch_up};
use crate::folder::{Folder, Member};
use crate::keys::{KeyKind, global};
use crate::projection::Projection;
use crate::store::{Store, StoreError, StoreOptions, Table};
use crate::view::describe_key;

/// Rows compared between two looks at both tables.
const PAGE: usize = 4096;

/// Differences that are kept: where all differ, what matters is how many.
pub const LISTED: usize = 1000;

/// How a row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The log says so, the view does not have it.
    Missing,
    /// The view has it, the log does not say so.
    Extra,
    /// Both have it, with other content.
    Changed,
}

/// One row that differs. Never its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub projection: &'static str,
    pub difference: Difference,
    /// Kind of the row, and its key in hex.
    pub row: String,
}

/// What a verification came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Records of the log that were folded again.
    pub records: u64,
    /// Rows that were compared, by projection.
    pub rows: Vec<(&'static str, u64)>,
    /// Read models that were not compared: retention has cut off some of what they were folded from.
    pub not_compared: Vec<&'static str>,
    /// How many rows differ, of which [`LISTED`] are in the list.
    pub differences: u64,
    pub findings: Vec<Finding>,
    /// Positions at which a fold stopped, with the reason.
    pub stopped: Vec<String>,
}

impl Report {
    /// Whether nothing differs of what was compared, and no fold stopped.
    pub fn is_clean(&self) -> bool {
        self.differences == 0 && self.stopped.is_empty()
    }
}

/// Folds the log again into a store in `scratch`, and compares with the tables that serve.
///
/// Nobody may append meanwhile. The views are first brought up to the log's end, so that both sides know the same.
/// `seen` is called for each record folded again.
///
/// Where retention has cut the activity stream, the views hold what was folded before, and the log cannot say
/// it again: only read models of identity are compared then.
pub fn verify(
    store: &Arc<Store>,
    log: &dyn EventLog,
    keys: &dyn KeySource,
    projections: &[Arc<dyn Projection>],
    scratch: &Path,
    mut seen: impl FnMut(),
) -> Result<Report, CatchUpError> {
    let mut served = open(store, projections, log.partitions(), |p| {
        crate::rebuild::table_for(store, p)
    })?;
    catch_up(&mut served, log, keys, |_, _| {})?;
    let fresh_store = Store::open(scratch, StoreOptions::default())?;
    let mut fresh = open(&fresh_store, projections, log.partitions(), |p| {
        Ok(Table::new(p.name(), p.version(), 0))
    })?;
    let places: Vec<_> = (0..log.partitions()).map(Partition).collect();
    // Before the fold: what somebody writes meanwhile must not look as if it had been cut off.
    let ends = block_on(try_join_all(places.iter().map(|p| log.end(Stream::Activity, *p))))?;
    let mut firsts = HashMap::new();
    let records = catch_up(&mut fresh, log, keys, |entry, _| {
        if entry.position.stream == Stream::Activity {
            firsts
                .entry(entry.position.partition)
                .or_insert(entry.position.offset);
        }
        seen();
    })?;
    let cut = is_cut(places.into_iter().zip(ends), &firsts);
    let mut report = Report {
        records,
        ..Report::default()
    };
    for (old, new) in served.members().iter().zip(fresh.members()) {
        let name = old.projection.name();
        for stopped in old
            .mark
            .applied
            .stopped()
            .iter()
            .chain(&new.mark.applied.stopped())
        {
            report
                .stopped
                .push(format!("{name} at {}: {}", stopped.position, stopped.reason));
        }
        if cut && old.mark.follows(Stream::Activity) {
            report.not_compared.push(name);
            continue;
        }
        let rows = compare(
            name,
            (store, &old.mark.table),
            (&fresh_store, &new.mark.table),
            |finding| {
                report.differences += 1;
                if report.findings.len() < LISTED {
                    report.findings.push(finding);
                }
            },
        )?;
        report.rows.push((name, rows));
    }
    Ok(report)
}

/// Whether some partition begins behind offset 0: so says its first record, or its end where none is left.
fn is_cut(mut ends: impl Iterator<Item = (Partition, Offset)>, firsts: &HashMap<Partition, Offset>) -> bool {
    ends.any(|(partition, end)| firsts.get(&partition).copied().unwrap_or(end) > 0)
}

fn open(
    store: &Arc<Store>,
    projections: &[Arc<dyn Projection>],
    partitions: u16,
    table: impl Fn(&dyn Projection) -> Result<Table, StoreError>,
) -> Result<Folder, StoreError> {
    let members = projections
        .iter()
        .map(|p| Member::open(store, p.clone(), table(p.as_ref())?, partitions))
        .collect::<Result<_, _>>()?;
    Ok(Folder::new(store.clone(), members))
}

type Side<'a> = (&'a Store, &'a Table);

/// Walks both tables in order of key.
fn compare(
    projection: &'static str,
    view: Side<'_>,
    log: Side<'_>,
    mut found: impl FnMut(Finding),
) -> Result<u64, StoreError> {
    let (mut a, mut b) = (Rows::new(view), Rows::new(log));
    let (mut x, mut y) = (a.next()?, b.next()?);
    let mut rows = 0;
    loop {
        let (difference, key) = match (&x, &y) {
            (None, None) => return Ok(rows),
            (Some((k, _)), None) => (Some(Difference::Extra), k.clone()),
            (None, Some((k, _))) => (Some(Difference::Missing), k.clone()),
            (Some((k, _)), Some((l, _))) if k < l => (Some(Difference::Extra), k.clone()),
            (Some((k, _)), Some((l, _))) if k > l => (Some(Difference::Missing), l.clone()),
            (Some((k, v)), Some((_, w))) => ((v != w).then_some(Difference::Changed), k.clone()),
        };
        rows += 1;
        if let Some(difference) = difference {
            found(Finding {
                projection,
                difference,
                row: describe_key(&key).into_owned(),
            });
        }
        if difference != Some(Difference::Missing) {
            x = a.next()?;
        }
        if difference != Some(Difference::Extra) {
            y = b.next()?;
        }
    }
}

/// All rows of a table but its checkpoint, in pages.
struct Rows<'a> {
    side: Side<'a>,
    page: std::vec::IntoIter<(bytes::Bytes, bytes::Bytes)>,
    from: Option<Vec<u8>>,
}

impl<'a> Rows<'a> {
    fn new(side: Side<'a>) -> Self {
        Self {
            side,
            page: Vec::new().into_iter(),
            from: Some(Vec::new()),
        }
    }

    fn next(&mut self) -> Result<Option<(bytes::Bytes, bytes::Bytes)>, StoreError> {
        loop {
            for row in self.page.by_ref() {
                if row.0 != global(KeyKind::Checkpoint).done() {
                    return Ok(Some(row));
                }
            }
            let Some(from) = self.from.take() else {
                return Ok(None);
            };
            let page = self.side.0.scan(self.side.1, &[], &from, PAGE)?;
            if page.len() == PAGE
                && let Some((last, _)) = page.last()
            {
                let mut after = last.to_vec();
                after.push(0);
                self.from = Some(after);
            }
            self.page = page.into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_was_cut_where_a_partition_begins_behind_its_first_offset() {
        type Case<'a> = (&'static str, &'a [Offset], &'a [(u16, Offset)], bool);
        let cases: [Case<'_>; 5] = [
            ("nothing was ever written", &[0, 0], &[], false),
            ("all is there", &[7, 3], &[(0, 0), (1, 0)], false),
            ("one partition is empty", &[7, 0], &[(0, 0)], false),
            ("one begins later", &[7, 3], &[(0, 0), (1, 2)], true),
            ("all of one is gone", &[7, 3], &[(0, 0)], true),
        ];
        for (name, ends, firsts, expected) in cases {
            let ends = (0..2).map(Partition).zip(ends.iter().copied());
            let firsts: HashMap<_, _> = firsts.iter().map(|(p, first)| (Partition(*p), *first)).collect();
            assert_eq!(is_cut(ends, &firsts), expected, "{name}");
        }
    }
}
