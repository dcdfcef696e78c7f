//! The least that a durable log costs: write a group's bytes at the end of a file, `fdatasync`, and again.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::BenchError;
use super::measure::{Took, Watch};

/// Appends `groups` groups of `bytes` bytes each to a new file in `dir`, each made durable before the next. Counts
/// what `records_per_group` says. Blocks.
pub fn append_raw(dir: &Path, groups: u64, bytes: u64, records_per_group: f64) -> Result<Took, BenchError> {
    let path = dir.join("raw.log");
    let failed = || BenchError::io(path.display());
    // Such as a log's values: neither zeros, which a disk may make little of, nor costly to make.
    let group: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    let mut file = File::create(&path).map_err(failed())?;
    file.sync_all().map_err(failed())?;
    let watch = Watch::start();
    for _ in 0..groups {
        file.write_all(&group).map_err(failed())?;
        file.sync_data().map_err(failed())?;
    }
    let took = watch.stop(groups as f64 * records_per_group);
    drop(file);
    std::fs::remove_file(&path).map_err(failed())?;
    Ok(took)
}
