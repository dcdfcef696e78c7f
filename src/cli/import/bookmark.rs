//! How far an import has come, so that a second run goes on at once. Only for speed: what was imported twice is noticed
//! by its address.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Bytes at the start, and before the offset, that tell one file from another.
const SAMPLE: u64 = 64 << 10;

/// The store that an import goes into, as far as it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The identity of its log.
    pub log: Uuid,
    /// Records in the identity stream: they only grow, unless an older copy was put in the log's place.
    pub records: u64,
}

impl Store {
    /// Whether all that this store held is in another.
    fn is_in(&self, other: &Store) -> bool {
        self.log == other.log && self.records <= other.records
    }
}

/// What is kept in `<data>/import/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bookmark {
    /// Everything before is settled.
    pub offset: u64,
    /// Number of the line there, from 1.
    pub line: u64,
    /// Into which what stands before was imported.
    store: Store,
    /// SHA-256 of the file's start and of what stands before the offset.
    fingerprint: String,
}

impl Bookmark {
    /// A bookmark in `file`, which must be at least `offset` bytes long.
    pub fn new(file: &mut File, offset: u64, line: u64, store: Store) -> io::Result<Self> {
        Ok(Self {
            offset,
            line,
            store,
            fingerprint: fingerprint(file, offset)?,
        })
    }

    /// The bookmark of this file, if there is one that fits it and the store.
    pub fn load(path: &Path, file: &mut File, store: &Store) -> Option<Self> {
        let found: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let fits = found.store.is_in(store) && fingerprint(file, found.offset).ok()? == found.fingerprint;
        fits.then_some(found)
    }

    /// Writes it whole.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(&temporary, path)
    }
}

/// Where the bookmark of a file lies.
pub fn path(data_dir: &Path, file: &Path) -> PathBuf {
    let whole = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let name = digest::digest(&digest::SHA256, whole.as_os_str().as_encoded_bytes());
    data_dir
        .join("import")
        .join(format!("{}.json", hex::encode(&name.as_ref()[..16])))
}

fn fingerprint(file: &mut File, offset: u64) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut sample = vec![0; SAMPLE.min(offset) as usize];
    for from in [0, offset.saturating_sub(SAMPLE)] {
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut sample)?;
        context.update(&sample);
    }
    Ok(hex::encode(context.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: Store = Store {
        log: Uuid::from_u128(1),
        records: 10,
    };

    fn load(mark: &Path, file: &Path, store: Store) -> Option<Bookmark> {
        Bookmark::load(mark, &mut File::open(file).unwrap(), &store)
    }

    #[test]
    fn a_bookmark_fits_the_file_that_it_was_made_in_even_if_that_grew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mark) = (dir.path().join("users"), dir.path().join("import/mark.json"));
        std::fs::write(&path, "first\nsecond\n").unwrap();
        let bookmark = Bookmark::new(&mut File::open(&path).unwrap(), 6, 2, STORE).unwrap();
        bookmark.save(&mark).unwrap();
        std::fs::write(&path, "first\nsecond\nthird\n").unwrap();
        assert_eq!(load(&mark, &path, STORE), Some(bookmark));
        std::fs::write(&path, "fir5t\nsecond\n").unwrap();
        assert_eq!(load(&mark, &path, STORE), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(load(&mark, &path, STORE), None);
    }

    #[test]
    fn a_bookmark_fits_the_store_that_it_was_made_for_unless_an_older_copy_is_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mark) = (dir.path().join("users"), dir.path().join("import/mark.json"));
        std::fs::write(&path, "first\nsecond\n").unwrap();
        let bookmark = Bookmark::new(&mut File::open(&path).unwrap(), 6, 2, STORE).unwrap();
        bookmark.save(&mark).unwrap();
        for (log, records, fits) in [(1, 10, true), (1, 11, true), (1, 9, false), (2, 10, false)] {
            let log = Uuid::from_u128(log);
            let found = load(&mark, &path, Store { log, records });
            assert_eq!(found.is_some(), fits, "{log} {records}");
        }
        // One of a version that did not know its store.
        std::fs::write(&mark, r#"{"offset":0,"line":1,"fingerprint":""}"#).unwrap();
        assert_eq!(load(&mark, &path, STORE), None);
    }
}
