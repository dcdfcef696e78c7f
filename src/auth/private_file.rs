//! Files that only their owner may read: keys and secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a private file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    #[error("{path} can be read by others (mode {mode:04o}); make it private with: chmod 600 {path}", path = .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is longer than a secret can be", path = .0.display())]
    TooLong(PathBuf),
    #[error("{path}: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// No secret or key is longer than this, in bytes.
const MAX_LEN: u64 = 16 * 1024;

fn at(path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    move |error| PrivateFileError::Io {
        path: path.to_owned(),
        error,
    }
}

/// Reads a file that is neither readable nor writable by its group or others.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let file = File::open(path).map_err(at(path))?;
    let mode = file.metadata().map_err(at(path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // Enough room from the start, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN as usize + 1));
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(PrivateFileError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

/// Creates a file with mode 0600, durably and whole: after a crash it is complete or not there.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let temporary = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    written.map_err(at(&temporary))?;
    rename(&temporary, path)
}

/// Renames durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), PrivateFileError> {
    fs::rename(from, to).map_err(at(to))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|d| d.sync_all()).map_err(at(folder))
}

/// Waits until nobody else holds this folder, and holds it until what is returned is dropped. On a file system that cannot lock
/// folders nobody waits.
pub fn lock(folder: &Path) -> Result<File, PrivateFileError> {
    let held = File::open(folder).map_err(at(folder))?;
    if let Err(e) = held.lock() {
        tracing::debug!(folder = %folder.display(), error = %e, "the folder cannot be locked");
    }
    Ok(held)
}

/// Creates a folder (and its parents) with mode 0700.
pub fn create_folder(path: &Path) -> Result<(), PrivateFileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at(path))
}

/// The files directly in a folder; empty where there is no such folder.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, PrivateFileError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    entries.map(|e| Ok(e.map_err(at(folder))?.path())).collect()
}
