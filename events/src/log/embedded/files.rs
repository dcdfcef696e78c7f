//! Names and durable handling of the log's files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::LogError;

pub const LOCK: &str = "lock";
pub const CLEAN: &str = "clean";
const SEGMENT: &str = "log";
const INDEX: &str = "index";
const TEMPORARY: &str = "tmp";

pub fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.{SEGMENT}"))
}

pub fn index_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.{INDEX}"))
}

/// An I/O error with its place.
pub fn io_error(place: &Path, source: io::Error) -> LogError {
    LogError::Io {
        place: place.display().to_string(),
        source: Arc::new(source),
    }
}

/// Damage at a byte of a file.
pub fn damaged(path: &Path, at: u64, what: impl Into<String>) -> LogError {
    LogError::Damaged {
        place: format!("{}, byte {at}", path.display()),
        what: what.into(),
    }
}

pub fn mismatch(place: &Path, what: impl Into<String>) -> LogError {
    LogError::Mismatch {
        place: place.display().to_string(),
        what: what.into(),
    }
}

/// What stands in the log's directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// Numbers of the segments, ascending.
    pub segments: Vec<u64>,
    /// Numbers of the sealed indexes, ascending.
    pub indexes: Vec<u64>,
    /// What a crash left half made.
    pub temporary: Vec<PathBuf>,
}

pub fn list(dir: &Path) -> Result<Listing, LogError> {
    let mut found = Listing::default();
    for entry in fs::read_dir(dir).map_err(|e| io_error(dir, e))? {
        let path = entry.map_err(|e| io_error(dir, e))?.path();
        let number = path
            .file_stem()
            .and_then(|s| s.to_str())
            .and_then(|s| s.parse().ok());
        match (number, path.extension().and_then(|e| e.to_str())) {
            (Some(n), Some(SEGMENT)) => found.segments.push(n),
            (Some(n), Some(INDEX)) => found.indexes.push(n),
            (_, Some(TEMPORARY)) => found.temporary.push(path),
            _ => {}
        }
    }
    found.segments.sort_unstable();
    found.indexes.sort_unstable();
    Ok(found)
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Puts a whole file in place so that it is there in full or not at all, whatever happens.
pub fn write_durably(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = path.with_added_extension(TEMPORARY);
    let mut file = File::create(&temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file for good; it need not be there.
pub fn remove_durably(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.and_then(|()| path.parent().map_or(Ok(()), sync_dir)),
    }
}

/// Reads at `at` until `buf` is full or the file ends; says how much was read.
pub fn read_full(file: &File, mut at: u64, mut buf: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    while !buf.is_empty() {
        match file.read_at(buf, at) {
            Ok(0) => break,
            Ok(n) => {
                total += n;
                at += n as u64;
                buf = &mut buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(total)
}
