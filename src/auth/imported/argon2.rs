//! Argon2 (RFC 9106) as PHC strings; our own hashes are of this form.

use argon2::{Algorithm, Argon2, Block, Params, Version};

use super::{HashFormatError, MAX_MEMORY_KIB, same, text};

const FAMILY: &str = "Argon2";

/// No more than this many KiB may be passed over in one hash: memory × iterations (1 GiB).
const MAX_WORK_KIB: u64 = 1024 * 1024;

/// An Argon2 hash with its parameters.
pub struct Argon2Hash {
    algorithm: Algorithm,
    version: Version,
    params: Params,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Argon2Hash {
    pub(super) fn parse(id: &str, rest: &str) -> Result<Self, HashFormatError> {
        let algorithm = Algorithm::new(id).map_err(|_| HashFormatError::Unrecognised)?;
        // Version 0x10 predates the `v=` part and is meant where that is missing.
        let (version, rest) = match rest.strip_prefix("v=").and_then(|r| r.split_once('$')) {
            Some(("19", rest)) => (Version::V0x13, rest),
            Some(("16", rest)) => (Version::V0x10, rest),
            Some(_) => return Err(HashFormatError::Unsupported("this version of Argon2")),
            None => (Version::V0x10, rest),
        };
        let [params, salt, hash] = text::pieces(FAMILY, rest)?;
        let salt = text::base64(FAMILY, "the salt", salt)?;
        let hash = text::base64(FAMILY, "the hash", hash)?;
        if !(8..=64).contains(&salt.len()) {
            return Err(out_of_bounds("the salt's length", "8 to 64 bytes"));
        }
        if !(16..=64).contains(&hash.len()) {
            return Err(out_of_bounds("the hash's length", "16 to 64 bytes"));
        }
        let params = parse_params(params, hash.len())?;
        Ok(Self {
            algorithm,
            version,
            params,
            salt,
            hash,
        })
    }

    /// Whether this is Argon2id of the present version with exactly these parameters.
    pub(crate) fn has_params(&self, memory_kib: u32, iterations: u32, lanes: u32) -> bool {
        self.algorithm == Algorithm::Argon2id
            && self.version == Version::V0x13
            && (self.params.m_cost(), self.params.t_cost(), self.params.p_cost())
                == (memory_kib, iterations, lanes)
            && self.hash.len() == Params::DEFAULT_OUTPUT_LEN
    }

    pub(super) fn memory_kib(&self) -> u32 {
        self.params.m_cost()
    }

    pub(super) fn verify(&self, password: &[u8], memory: &mut [Block]) -> bool {
        let argon2 = Argon2::new(self.algorithm, self.version, self.params.clone());
        let mut out = [0u8; 64];
        let out = &mut out[..self.hash.len()];
        let computed = if memory.len() >= self.params.block_count() {
            argon2.hash_password_into_with_memory(password, &self.salt, out, memory)
        } else {
            argon2.hash_password_into(password, &self.salt, out)
        };
        computed.is_ok() && same(out, &self.hash)
    }
}

/// Argon2id of the present version, ready to hash.
pub fn argon2id(params: Params) -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Writes the PHC string of an Argon2id hash.
pub fn write_phc(params: &Params, salt: &[u8], hash: &[u8]) -> String {
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        params.m_cost(),
        params.t_cost(),
        params.p_cost(),
        text::to_base64(salt),
        text::to_base64(hash)
    )
}

fn parse_params(params: &str, output: usize) -> Result<Params, HashFormatError> {
    if params.contains("keyid=") || params.contains("data=") {
        return Err(HashFormatError::Unsupported(
            "Argon2 with a key id or associated data",
        ));
    }
    let [m, t, p] = text::parameters(FAMILY, params, ["m", "t", "p"])?;
    let m = text::number(FAMILY, "m", m, 8..=MAX_MEMORY_KIB, "8 KiB to 256 MiB")?;
    let t = text::number(FAMILY, "t", t, 1..=64, "1 to 64")?;
    let p = text::number(FAMILY, "p", p, 1..=16, "1 to 16")?;
    if u64::from(m) * u64::from(t) > MAX_WORK_KIB {
        return Err(out_of_bounds("m × t", "at most 1 GiB"));
    }
    Params::new(m, t, p, Some(output)).map_err(|_| out_of_bounds("m", "at least 8 × p"))
}

fn out_of_bounds(parameter: &'static str, allowed: &'static str) -> HashFormatError {
    HashFormatError::OutOfBounds {
        family: FAMILY,
        parameter,
        allowed,
    }
}
