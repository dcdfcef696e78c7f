//! The least that a durable log costs: write a group's bytes at the end of a file, `fdatasync`, and again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::BenchError;
use super::measure::{Took, Watch};

/// A file that grows at its end, as a log does.
pub struct RawLog {
    file: File,
    path: PathBuf,
}

impl RawLog {
    /// A new file in `dir`.
    pub fn create(dir: &Path) -> Result<Self, BenchError> {
        let path = dir.join("raw.log");
        let file = File::create(&path).map_err(BenchError::io(path.display()))?;
        file.sync_all().map_err(BenchError::io(path.display()))?;
        Ok(Self { file, path })
    }

    /// Appends `groups` groups of `bytes` bytes each, every one made durable before the next. What it took counts
    /// `amount` of whatever the groups hold. Blocks.
    pub fn append(&self, groups: u64, bytes: u64, amount: f64) -> Result<Took, BenchError> {
        // Neither zeros, of which a disk may make little, nor costly to make.
        let group: Vec<u8> = (0..bytes)
            .map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8)
            .collect();
        let failed = |e| BenchError::io(self.path.display())(e);
        let watch = Watch::start();
        for _ in 0..groups {
            (&self.file).write_all(&group).map_err(failed)?;
            self.file.sync_data().map_err(failed)?;
        }
        Ok(watch.stop(amount))
    }
}
