//! phpass' portable hashes: `$P$` (WordPress) and `$H$` (phpBB), iterated MD5.

use md5::{Digest, Md5};

use super::{HashFormatError, same, text};

const FAMILY: &str = "phpass";

/// A phpass hash.
pub struct Phpass {
    rounds: u32,
    salt: [u8; 8],
    hash: Vec<u8>,
}

impl Phpass {
    pub(super) fn parse(rest: &str) -> Result<Self, HashFormatError> {
        let malformed = HashFormatError::Malformed {
            family: FAMILY,
            part: "the salt or the hash",
        };
        if rest.len() != 31 || !text::is_crypt64(rest) {
            return Err(malformed);
        }
        let bytes = rest.as_bytes();
        let log2 = text::crypt64_value(bytes[0]).unwrap_or_default();
        if !(7..=20).contains(&log2) {
            return Err(HashFormatError::OutOfBounds {
                family: FAMILY,
                parameter: "the number of rounds",
                allowed: "2^7 to 2^20",
            });
        }
        Ok(Self {
            rounds: 1 << log2,
            salt: bytes[1..9].try_into().map_err(|_| malformed)?,
            hash: bytes[9..].to_vec(),
        })
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut digest = Md5::new()
            .chain_update(self.salt)
            .chain_update(password)
            .finalize();
        for _ in 0..self.rounds {
            digest = Md5::new().chain_update(digest).chain_update(password).finalize();
        }
        let mut encoded = Vec::with_capacity(22);
        for group in digest.chunks(3) {
            let value = group.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b));
            text::push_crypt64(&mut encoded, value, group.len() + 1);
        }
        same(&encoded, &self.hash)
    }
}
