//! bcrypt as `$2a$`, `$2b$` and `$2y$`, which differ only in bugs of old implementations.

use std::str::FromStr;

use bcrypt::HashParts;
use zeroize::Zeroize;

use super::{HashFormatError, same, text};

const FAMILY: &str = "bcrypt";

/// A bcrypt hash.
pub struct Bcrypt {
    cost: u32,
    salt: [u8; 16],
    hash: Vec<u8>,
}

impl Bcrypt {
    pub(super) fn parse(rest: &str) -> Result<Self, HashFormatError> {
        let malformed = || HashFormatError::Malformed {
            family: FAMILY,
            part: "the salt or the hash",
        };
        let [cost, digest] = text::pieces(FAMILY, rest)?;
        let cost = text::number(FAMILY, "the cost", Some(cost), 4..=15, "4 to 15")?;
        // The library reads the salt; the hash is compared as text, for its last character carries unused bits.
        let parts = HashParts::from_str(&format!("$2b${cost:02}${digest}")).map_err(|_| malformed())?;
        let hash = digest.get(22..).ok_or_else(malformed)?;
        Ok(Self {
            cost,
            salt: parts.get_salt_raw(),
            hash: hash.as_bytes().to_vec(),
        })
    }

    /// Like every source system, bcrypt looks at the first 72 bytes only; the next log-in replaces the hash by one that sees all.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut key = [0u8; 72];
        let used = password.len().min(72);
        key[..used].copy_from_slice(&password[..used]);
        let computed = bcrypt::bcrypt(self.cost, self.salt, &key[..(used + 1).min(72)]);
        key.zeroize();
        let mut encoded = [0u8; 31];
        base64::Engine::encode_slice(&ENCODING, &computed[..23], &mut encoded)
            .is_ok_and(|_| same(&encoded, &self.hash))
    }
}

const ENCODING: base64::engine::GeneralPurpose =
    base64::engine::GeneralPurpose::new(&base64::alphabet::BCRYPT, base64::engine::general_purpose::NO_PAD);
