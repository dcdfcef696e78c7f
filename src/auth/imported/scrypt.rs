//! scrypt (RFC 7914) as PHC strings, and the variant that Firebase Authentication exports.

use aes::cipher::{KeyIvInit, StreamCipher};
use scrypt::Params;
use zeroize::Zeroizing;

use super::{HashFormatError, MAX_MEMORY_KIB, same, text};

/// An scrypt hash.
pub struct Scrypt {
    params: Params,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Scrypt {
    pub(super) fn parse(rest: &str) -> Result<Self, HashFormatError> {
        const FAMILY: &str = "scrypt";
        let [params, salt, hash] = text::pieces(FAMILY, rest)?;
        let [ln, r, p] = text::parameters(FAMILY, params, ["ln", "r", "p"])?;
        let params = bounded(FAMILY, ln, r, p)?;
        let salt = text::base64(FAMILY, "the salt", salt)?;
        let hash = text::base64(FAMILY, "the hash", hash)?;
        if !(16..=64).contains(&hash.len()) {
            return Err(HashFormatError::OutOfBounds {
                family: FAMILY,
                parameter: "the hash's length",
                allowed: "16 to 64 bytes",
            });
        }
        Ok(Self { params, salt, hash })
    }

    pub(super) fn memory_kib(&self) -> u32 {
        memory_kib(&self.params)
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut out = [0u8; 64];
        let out = &mut out[..self.hash.len()];
        scrypt::scrypt(password, &self.salt, &self.params, out).is_ok() && same(out, &self.hash)
    }
}

/// Firebase's variant: scrypt gives an AES-256 key, and the project's signer key encrypted under it is the hash
/// (<https://firebaseopensource.com/projects/firebase/scrypt/>).
pub struct FirebaseScrypt {
    params: Params,
    /// The user's salt followed by the project's salt separator.
    salt: Vec<u8>,
    signer_key: Zeroizing<Vec<u8>>,
    hash: Vec<u8>,
}

impl FirebaseScrypt {
    pub(super) fn parse(rest: &str) -> Result<Self, HashFormatError> {
        const FAMILY: &str = "Firebase scrypt";
        let [params, salt, separator, signer_key, hash] = text::pieces(FAMILY, rest)?;
        let [ln, r] = text::parameters(FAMILY, params, ["ln", "r"])?;
        let params = bounded(FAMILY, ln, r, Some("1"))?;
        let mut salt = text::base64(FAMILY, "the salt", salt)?;
        salt.extend(text::base64(FAMILY, "the salt separator", separator)?);
        let signer_key = Zeroizing::new(text::base64(FAMILY, "the signer key", signer_key)?);
        let hash = text::base64(FAMILY, "the hash", hash)?;
        if hash.len() != signer_key.len() || hash.len() < 16 {
            return Err(HashFormatError::OutOfBounds {
                family: FAMILY,
                parameter: "the hash's length",
                allowed: "that of the signer key, at least 16 bytes",
            });
        }
        Ok(Self {
            params,
            salt,
            signer_key,
            hash,
        })
    }

    pub(super) fn memory_kib(&self) -> u32 {
        memory_kib(&self.params)
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let mut derived = Zeroizing::new([0u8; 64]);
        if scrypt::scrypt(password, &self.salt, &self.params, derived.as_mut()).is_err() {
            return false;
        }
        let Ok(mut cipher) = ctr::Ctr128BE::<aes::Aes256>::new_from_slices(&derived[..32], &[0u8; 16]) else {
            return false;
        };
        let mut out = self.signer_key.clone();
        cipher.apply_keystream(&mut out);
        same(&out, &self.hash)
    }
}

fn memory_kib(params: &Params) -> u32 {
    u32::try_from(params.n().saturating_mul(u64::from(params.r())) / 8).unwrap_or(u32::MAX)
}

fn bounded(
    family: &'static str,
    ln: Option<&str>,
    r: Option<&str>,
    p: Option<&str>,
) -> Result<Params, HashFormatError> {
    let ln = text::number(family, "ln", ln, 1..=21, "1 to 21")?;
    let r = text::number(family, "r", r, 1..=64, "1 to 64")?;
    let p = text::number(family, "p", p, 1..=16, "1 to 16")?;
    let out_of_bounds = |parameter, allowed| HashFormatError::OutOfBounds {
        family,
        parameter,
        allowed,
    };
    let params = Params::new(ln as u8, r, p).map_err(|_| out_of_bounds("ln", "1 to 21"))?;
    if memory_kib(&params) > MAX_MEMORY_KIB {
        return Err(out_of_bounds("128 × N × r", "at most 256 MiB"));
    }
    if memory_kib(&params).saturating_mul(p) > 2 * MAX_MEMORY_KIB {
        return Err(out_of_bounds("128 × N × r × p", "at most 512 MiB"));
    }
    Ok(params)
}
