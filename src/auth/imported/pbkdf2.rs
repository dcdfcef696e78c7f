//! PBKDF2 (RFC 8018) in PHC, passlib's, Django's and ASP.NET Identity's forms.

use super::{HashFormatError, same, text};

const FAMILY: &str = "PBKDF2";
const MAX_ITERATIONS: u32 = 5_000_000;
const ALLOWED_ITERATIONS: &str = "1 to 5,000,000";

#[derive(Clone, Copy)]
enum Prf {
    Sha1,
    Sha256,
    Sha512,
}

/// A PBKDF2 hash.
pub struct Pbkdf2 {
    prf: Prf,
    iterations: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Pbkdf2 {
    pub(super) fn parse_phc(id: &str, rest: &str) -> Result<Self, HashFormatError> {
        let prf = match id {
            "pbkdf2" | "pbkdf2-sha1" => Prf::Sha1,
            "pbkdf2-sha256" => Prf::Sha256,
            "pbkdf2-sha512" => Prf::Sha512,
            _ => return Err(HashFormatError::Unsupported("PBKDF2 with this hash function")),
        };
        let [params, salt, hash] = text::pieces(FAMILY, rest)?;
        let iterations = if params.contains('=') {
            // `l`, the output's length, is what the hash shows anyway.
            let [i, _l] = text::parameters(FAMILY, params, ["i", "l"])?;
            i
        } else {
            Some(params)
        };
        // passlib writes `.` where base64 has `+`.
        let salt = text::base64(FAMILY, "the salt", &salt.replace('.', "+"))?;
        let hash = text::base64(FAMILY, "the hash", &hash.replace('.', "+"))?;
        Self::bounded(prf, iterations, salt, hash)
    }

    pub(super) fn parse_django(text: &str) -> Result<Self, HashFormatError> {
        let [id, iterations, salt, hash] = text::pieces(FAMILY, text)?;
        let prf = match id {
            "pbkdf2_sha1" => Prf::Sha1,
            "pbkdf2_sha256" => Prf::Sha256,
            _ => return Err(HashFormatError::Unsupported("PBKDF2 with this hash function")),
        };
        let hash = text::base64(FAMILY, "the hash", hash)?;
        Self::bounded(prf, Some(iterations), salt.as_bytes().to_vec(), hash)
    }

    /// ASP.NET Identity: version 2 is 00, 16 bytes of salt, 32 of hash (SHA-1, 1000 iterations); version 3 is 01, then
    /// hash function, iterations and salt length as big-endian 32-bit numbers, salt, hash.
    pub(super) fn parse_aspnet(text: &str) -> Result<Self, HashFormatError> {
        let record = text::base64(FAMILY, "", text).map_err(|_| HashFormatError::Unrecognised)?;
        let word = |at: usize| {
            let bytes = record.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        let malformed = || HashFormatError::Malformed {
            family: "ASP.NET Identity",
            part: "the record",
        };
        match record.first() {
            Some(0) if record.len() == 49 => Ok(Self {
                prf: Prf::Sha1,
                iterations: 1000,
                salt: record[1..17].to_vec(),
                hash: record[17..].to_vec(),
            }),
            Some(1) => {
                let prf = match word(1) {
                    Some(0) => Prf::Sha1,
                    Some(1) => Prf::Sha256,
                    Some(2) => Prf::Sha512,
                    _ => return Err(malformed()),
                };
                let iterations = word(5).ok_or_else(malformed)?.to_string();
                let salt_len = word(9).ok_or_else(malformed)? as usize;
                let (salt, hash) = record
                    .get(13..)
                    .and_then(|rest| rest.split_at_checked(salt_len))
                    .ok_or_else(malformed)?;
                Self::bounded(prf, Some(&iterations), salt.to_vec(), hash.to_vec())
            }
            _ => Err(HashFormatError::Unrecognised),
        }
    }

    fn bounded(
        prf: Prf,
        iterations: Option<&str>,
        salt: Vec<u8>,
        hash: Vec<u8>,
    ) -> Result<Self, HashFormatError> {
        let iterations = text::number(
            FAMILY,
            "the number of iterations",
            iterations,
            1..=MAX_ITERATIONS,
            ALLOWED_ITERATIONS,
        )?;
        let block = match prf {
            Prf::Sha1 => 20,
            Prf::Sha256 => 32,
            Prf::Sha512 => 64,
        };
        if hash.len() < 16 {
            return Err(HashFormatError::OutOfBounds {
                family: FAMILY,
                parameter: "the hash's length",
                allowed: "16 to 512 bytes",
            });
        }
        // Each further block of output costs all iterations again.
        if u64::from(iterations) * hash.len().div_ceil(block) as u64 > 2 * u64::from(MAX_ITERATIONS) {
            return Err(HashFormatError::OutOfBounds {
                family: FAMILY,
                parameter: "iterations × blocks of output",
                allowed: "at most 10,000,000",
            });
        }
        Ok(Self {
            prf,
            iterations,
            salt,
            hash,
        })
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut out = vec![0u8; self.hash.len()];
        let hash = match self.prf {
            Prf::Sha1 => pbkdf2::pbkdf2_hmac::<sha1::Sha1>,
            Prf::Sha256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>,
            Prf::Sha512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>,
        };
        hash(password, &self.salt, self.iterations, &mut out);
        same(&out, &self.hash)
    }
}
