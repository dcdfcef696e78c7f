//! The least that a durable log costs: write a group's bytes at the end of a file, `fdatasync`, and again.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use gatelog_events::log::embedded::EmbeddedLog;

use super::BenchError;
use super::measure::{Took, Watch};
use crate::backend::Backend;

/// The log of a benchmark's node, which measures its groups.
pub fn embedded(backend: &Backend) -> Result<&EmbeddedLog, BenchError> {
    backend
        .embedded()
        .map(|log| log.as_ref())
        .ok_or_else(|| BenchError::Ended("only the embedded log has groups".to_owned()))
}

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

    /// Appends groups of these lengths, every one made durable before the next. What it took counts `amount` of
    /// whatever the groups hold. Blocks.
    pub fn append(&self, lengths: &[u64], amount: f64) -> Result<Took, BenchError> {
        let longest = lengths.iter().copied().max().unwrap_or_default();
        // Neither zeros, of which a disk may make little, nor costly to make.
        let bytes: Vec<u8> = (0..longest)
            .map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8)
            .collect();
        let failed = |e| BenchError::io(self.path.display())(e);
        let watch = Watch::start();
        for length in lengths {
            (&self.file)
                .write_all(&bytes[..*length as usize])
                .map_err(failed)?;
            self.file.sync_data().map_err(failed)?;
        }
        Ok(watch.stop(amount))
    }
}
