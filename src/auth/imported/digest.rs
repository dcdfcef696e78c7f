//! One application of MD5, SHA-1, SHA-256 or SHA-512: plain, salted, as an HMAC, or in LDAP's notation. All weak.

use hmac::{Hmac, KeyInit, Mac};

use super::{HashFormatError, same, text};

#[derive(Clone, Copy)]
enum Function {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

enum Mode {
    /// H(before ‖ password ‖ after)
    Salted { before: Vec<u8>, after: Vec<u8> },
    /// HMAC(key, password), RFC 2104
    Hmac { key: Vec<u8> },
}

/// A digest of the password.
pub struct Digest {
    function: Function,
    mode: Mode,
    hash: Vec<u8>,
}

const FAMILY: &str = "digest";

impl Digest {
    pub(super) fn parse(id: &str, rest: &str) -> Result<Self, HashFormatError> {
        let (name, keyed) = match id.strip_prefix("hmac-") {
            Some(name) => (name, true),
            None => (id, false),
        };
        let function = Function::by_name(name).ok_or(HashFormatError::Unrecognised)?;
        let (mode, hash) = if keyed {
            let [params, hash] = text::pieces(FAMILY, rest)?;
            let [key] = text::parameters(FAMILY, params, ["k"])?;
            let key = text::base64(FAMILY, "the key", key.unwrap_or_default())?;
            (Mode::Hmac { key }, hash)
        } else if let Some((params, hash)) = rest.split_once('$') {
            (parse_salt(params)?, hash)
        } else {
            (Mode::UNSALTED, rest)
        };
        let hash = parse_hash(function, hash)?;
        Ok(Self { function, mode, hash })
    }

    /// `{SSHA}` and its kin (RFC 2307 and OpenLDAP): the hash, followed by the salt.
    pub(super) fn parse_ldap(text: &str) -> Result<Self, HashFormatError> {
        let (scheme, encoded) = text
            .strip_prefix('{')
            .and_then(|t| t.split_once('}'))
            .ok_or(HashFormatError::Unrecognised)?;
        let (function, salted) = match scheme.to_ascii_uppercase().as_str() {
            "MD5" => (Function::Md5, false),
            "SMD5" => (Function::Md5, true),
            "SHA" => (Function::Sha1, false),
            "SSHA" => (Function::Sha1, true),
            "SHA256" => (Function::Sha256, false),
            "SSHA256" => (Function::Sha256, true),
            "SHA512" => (Function::Sha512, false),
            "SSHA512" => (Function::Sha512, true),
            _ => return Err(HashFormatError::Unsupported("this LDAP scheme")),
        };
        let malformed = HashFormatError::Malformed {
            family: "LDAP",
            part: "the hash",
        };
        let mut hash = text::base64("LDAP", "the hash", encoded)?;
        if hash.len() < function.output() {
            return Err(malformed);
        }
        let after = hash.split_off(function.output());
        if salted == after.is_empty() {
            return Err(malformed);
        }
        let mode = Mode::Salted {
            before: Vec::new(),
            after,
        };
        Ok(Self { function, mode, hash })
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let computed = match self.function {
            Function::Md5 => self.mode.apply::<md5::Md5>(password),
            Function::Sha1 => self.mode.apply::<sha1::Sha1>(password),
            Function::Sha256 => self.mode.apply::<sha2::Sha256>(password),
            Function::Sha512 => self.mode.apply::<sha2::Sha512>(password),
        };
        computed.is_some_and(|c| same(&c, &self.hash))
    }
}

impl Mode {
    const UNSALTED: Mode = Mode::Salted {
        before: Vec::new(),
        after: Vec::new(),
    };

    fn apply<D: hmac::EagerHash + md5::Digest>(&self, password: &[u8]) -> Option<Vec<u8>> {
        match self {
            Mode::Salted { before, after } => {
                let digest = D::new()
                    .chain_update(before)
                    .chain_update(password)
                    .chain_update(after);
                Some(digest.finalize().to_vec())
            }
            Mode::Hmac { key } => {
                let mut mac = <Hmac<D> as KeyInit>::new_from_slice(key).ok()?;
                mac.update(password);
                Some(mac.finalize().into_bytes().to_vec())
            }
        }
    }
}

impl Function {
    fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "md5" => Self::Md5,
            "sha1" => Self::Sha1,
            "sha256" => Self::Sha256,
            "sha512" => Self::Sha512,
            _ => return None,
        })
    }

    /// Bytes of output.
    fn output(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

fn parse_salt(params: &str) -> Result<Mode, HashFormatError> {
    let [salt, at] = text::parameters(FAMILY, params, ["s", "at"])?;
    let salt = text::base64(FAMILY, "the salt", salt.unwrap_or_default())?;
    match at {
        None | Some("prefix") => Ok(Mode::Salted {
            before: salt,
            after: Vec::new(),
        }),
        Some("suffix") => Ok(Mode::Salted {
            before: Vec::new(),
            after: salt,
        }),
        Some(_) => Err(HashFormatError::Malformed {
            family: FAMILY,
            part: "the salt's place",
        }),
    }
}

/// Hexadecimal or base64; the length tells which.
fn parse_hash(function: Function, text: &str) -> Result<Vec<u8>, HashFormatError> {
    let malformed = HashFormatError::Malformed {
        family: FAMILY,
        part: "the hash",
    };
    let bytes = if text.len() == 2 * function.output() {
        hex::decode(text).map_err(|_| malformed.clone())?
    } else {
        text::base64(FAMILY, "the hash", text)?
    };
    if bytes.len() == function.output() {
        Ok(bytes)
    } else {
        Err(malformed)
    }
}
