//! The embedded log: the contract, its files after a crash, and damage of every kind.

mod damage;
mod files_and_locks;
mod properties;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::*;
use crate::log::conformance::{Subject, record, take};

const ID: Stream = Stream::Identity;
const P0: Partition = Partition(0);

fn small() -> EmbeddedOptions {
    EmbeddedOptions {
        partitions: 2,
        segment_bytes: 1000,
        ..Default::default()
    }
}

fn two() -> EmbeddedOptions {
    EmbeddedOptions {
        partitions: 2,
        ..Default::default()
    }
}

struct Lab {
    dir: TempDir,
    options: EmbeddedOptions,
    log: Option<Arc<EmbeddedLog>>,
}

impl Lab {
    fn new(options: EmbeddedOptions) -> Self {
        let dir = TempDir::new().unwrap();
        let log = Some(EmbeddedLog::open(dir.path(), options.clone()).unwrap());
        Self { dir, options, log }
    }
}

impl Subject for Lab {
    fn log(&self) -> Arc<dyn EventLog> {
        self.log.clone().unwrap()
    }
    fn reopen(&mut self) -> BoxFuture<'_, ()> {
        async {
            self.log.take().unwrap().close().await.unwrap();
            self.log = Some(EmbeddedLog::open(self.dir.path(), self.options.clone()).unwrap());
        }
        .boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, ()> {
        async { self.log.as_ref().unwrap().close().await.unwrap() }.boxed()
    }
    fn max_record_bytes(&self) -> usize {
        self.options.max_record_bytes
    }
}

mod contract {
    use super::*;
    crate::conformance!(Lab::new(EmbeddedOptions::default()));
}

mod contract_with_many_segments {
    use super::*;
    crate::conformance!(Lab::new(EmbeddedOptions {
        segment_bytes: 100_000,
        ..Default::default()
    }));
}

/// Copies a log's directory, without the mark of the clean end if the copy shall look like after a crash.
fn copy(from: &Path, crashed: bool) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if !(crashed && path.ends_with(files::CLEAN)) {
            std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

/// Writes `n` records, each in a group of its own, and closes.
async fn written(options: EmbeddedOptions, n: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    for i in 0..n {
        log.append(ID, P0, record(i, format!("value {i}"))).await.unwrap();
    }
    log.close().await.unwrap();
    dir
}

fn all(log: &EmbeddedLog) -> Vec<Entry> {
    log.read_all(&[]).unwrap().map(Result::unwrap).collect()
}

fn numbers(log: &EmbeddedLog) -> Vec<u64> {
    all(log)
        .iter()
        .map(|e| e.record.header.aggregate_version / 3)
        .collect()
}

/// Places of all groups in a segment file, and its end.
fn group_places(segment: &Path) -> Vec<usize> {
    let bytes = std::fs::read(segment).unwrap();
    let mut places: Vec<_> = bytes
        .windows(4)
        .enumerate()
        .filter(|(_, w)| **w == format::GROUP_MAGIC)
        .map(|(i, _)| i)
        .collect();
    places.push(bytes.len());
    places
}

fn first_segment(dir: &Path) -> PathBuf {
    files::segment_path(dir, 1)
}

fn open(dir: &Path, options: EmbeddedOptions) -> Result<Arc<EmbeddedLog>, LogError> {
    EmbeddedLog::open(dir, options)
}

/// The place of the damage that opening finds.
fn damage(dir: &Path, options: EmbeddedOptions) -> String {
    match open(dir, options) {
        Err(LogError::Damaged { place, .. }) => place,
        Err(other) => panic!("another error: {other}"),
        Ok(log) => panic!("opened, with the records {:?}", numbers(&log)),
    }
}
