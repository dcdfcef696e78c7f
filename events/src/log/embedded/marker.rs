//! The mark of a clean end: where the log ended when it was closed.
//!
//! While it is there, everything up to that end was acknowledged, so that a shorter or broken end is damage and not
//! the torn tail of a crash.
//!
//! ```text
//! magic 8 · version u16 · log id 16 · segment u64 · its length u64 · next group u64 · CRC u32
//! ```

use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::files;
use super::format::{CLEAN_MAGIC, Fields, VERSION, seal, unseal};
use crate::log::LogError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    pub log_id: Uuid,
    pub segment: u64,
    pub len: u64,
    pub next_group: u64,
}

impl Marker {
    fn encode(self) -> Vec<u8> {
        let mut b = Vec::from(CLEAN_MAGIC);
        b.extend_from_slice(&VERSION.to_le_bytes());
        b.extend_from_slice(self.log_id.as_bytes());
        b.extend_from_slice(&self.segment.to_le_bytes());
        b.extend_from_slice(&self.len.to_le_bytes());
        b.extend_from_slice(&self.next_group.to_le_bytes());
        seal(b)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut f = Fields(unseal(bytes)?);
        if f.array()? != CLEAN_MAGIC || f.u16()? != VERSION {
            return None;
        }
        Some(Self {
            log_id: Uuid::from_bytes(f.array()?),
            segment: f.u64()?,
            len: f.u64()?,
            next_group: f.u64()?,
        })
    }

    pub fn write(self, dir: &Path) -> io::Result<()> {
        files::write_durably(&dir.join(files::CLEAN), &[&self.encode()])
    }

    /// The marker, if the log was closed cleanly.
    pub fn read(dir: &Path) -> Result<Option<Self>, LogError> {
        let path = dir.join(files::CLEAN);
        match fs::read(&path) {
            Ok(bytes) => match Self::decode(&bytes) {
                Some(marker) => Ok(Some(marker)),
                None => Err(files::damaged(&path, 0, "the mark of the clean end is not right")),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(files::io_error(&path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_comes_back_and_notices_every_flipped_bit() {
        let marker = Marker {
            log_id: Uuid::from_u128(3),
            segment: 4,
            len: 5,
            next_group: 6,
        };
        let bytes = marker.encode();
        assert_eq!(Marker::decode(&bytes), Some(marker));
        for i in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[i / 8] ^= 1 << (i % 8);
            assert_eq!(Marker::decode(&bad), None, "bit {i}");
        }
    }
}
