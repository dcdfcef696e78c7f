//! Password hashes as they are stored: our own Argon2id, and the families that other systems leave behind.
//!
//! [`StoredHash::parse`] bounds every cost, so that a hostile hash is refused when it is imported and never met at a
//! log-in. [`StoredHash::verify`] compares in constant time. Text forms:
//!
//! | family | form |
//! |---|---|
//! | Argon2 (PHC) | `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`, also `argon2i`, `argon2d`; Django's `argon2$argon2id$…` |
//! | bcrypt | `$2a$`, `$2b$` or `$2y$`, cost, 22 + 31 characters; `{CRYPT}` may stand before it |
//! | scrypt (PHC) | `$scrypt$ln=16,r=8,p=1$salt$hash` |
//! | Firebase scrypt | `$firebase-scrypt$ln=14,r=8$salt$separator$signer-key$hash`, each in base64; `ln` is `mem_cost`, `r` is `rounds` |
//! | PBKDF2 (PHC) | `$pbkdf2-sha1$i=1300000$salt$hash`, also `sha256`, `sha512`; passlib's `$pbkdf2-sha256$29000$salt$hash` |
//! | Django | `pbkdf2_sha256$iterations$salt$hash`, also `pbkdf2_sha1` |
//! | ASP.NET Identity | the base64 of its version 2 or version 3 record |
//! | plain digest | `$md5$hash`, also `sha1`, `sha256`, `sha512` |
//! | salted digest | `$md5$s=salt$hash` for H(salt ‖ password), `$md5$s=salt,at=suffix$hash` for H(password ‖ salt) |
//! | HMAC | `$hmac-md5$k=key$hash`, also `sha1`, `sha256`, `sha512`: HMAC(key, password) |
//! | LDAP | `{MD5}`, `{SMD5}`, `{SHA}`, `{SSHA}`, `{SHA256}`, `{SSHA256}`, `{SHA512}`, `{SSHA512}` |
//! | crypt(3) | `$1$` (MD5), `$5$` (SHA-256), `$6$` (SHA-512) |
//! | phpass | `$P$` and `$H$` (WordPress, phpBB) |
//!
//! Salts, keys and hashes of the digest forms are base64 (padding optional); a hash may also be hexadecimal.
//! Fast digests ([`StoredHash::is_weak`]) rest as imported until their owner's next log-in; wrapping them at import as
//! Argon2id of the digest is left for later.

mod argon2;
mod bcrypt;
mod crypt;
mod digest;
mod pbkdf2;
mod phpass;
mod scrypt;
mod text;

pub use self::argon2::Argon2Hash;
pub(crate) use self::argon2::argon2id;
pub(super) use self::argon2::write_phc;

use ::argon2::Block;
use subtle::ConstantTimeEq;

/// No imported hash may need more memory than this, in KiB (256 MiB).
pub const MAX_MEMORY_KIB: u32 = 256 * 1024;

/// No stored hash is longer than this, in bytes.
pub const MAX_TEXT: usize = 2048;

/// Why a text was not accepted as a password hash. Never carries the hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashFormatError {
    /// No known family starts like this.
    #[error("not a known form of password hash")]
    Unrecognised,
    /// The family is known, and this variant of it is not verified here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A part of the text cannot be read.
    #[error("{family}: {part} is malformed")]
    Malformed {
        family: &'static str,
        part: &'static str,
    },
    /// A parameter would cost too much, or so little that it cannot be genuine.
    #[error("{family}: {parameter} is out of bounds ({allowed})")]
    OutOfBounds {
        family: &'static str,
        parameter: &'static str,
        allowed: &'static str,
    },
}

/// A parsed password hash with all parameters within bounds. Has no `Debug`: it is personal data.
pub enum StoredHash {
    Argon2(Argon2Hash),
    Bcrypt(bcrypt::Bcrypt),
    Scrypt(scrypt::Scrypt),
    FirebaseScrypt(scrypt::FirebaseScrypt),
    Pbkdf2(pbkdf2::Pbkdf2),
    Digest(digest::Digest),
    Crypt(crypt::Crypt),
    Phpass(phpass::Phpass),
}

impl StoredHash {
    /// Reads any of the forms in the module's table.
    pub fn parse(text: &str) -> Result<Self, HashFormatError> {
        if text.len() > MAX_TEXT {
            return Err(HashFormatError::OutOfBounds {
                family: "password hash",
                parameter: "length",
                allowed: "at most 2048 bytes",
            });
        }
        let text = text.strip_prefix("{CRYPT}").unwrap_or(text);
        let text = text
            .strip_prefix("argon2$")
            .map_or(text, |_| &text["argon2".len()..]);
        if let Some(rest) = text.strip_prefix('$') {
            let (id, rest) = rest.split_once('$').ok_or(HashFormatError::Unrecognised)?;
            return Self::parse_crypt_form(id, rest);
        }
        if text.starts_with('{') {
            return digest::Digest::parse_ldap(text).map(Self::Digest);
        }
        if text.starts_with("pbkdf2_") {
            return pbkdf2::Pbkdf2::parse_django(text).map(Self::Pbkdf2);
        }
        pbkdf2::Pbkdf2::parse_aspnet(text).map(Self::Pbkdf2)
    }

    fn parse_crypt_form(id: &str, rest: &str) -> Result<Self, HashFormatError> {
        match id {
            "argon2id" | "argon2i" | "argon2d" => Argon2Hash::parse(id, rest).map(Self::Argon2),
            "2a" | "2b" | "2y" => bcrypt::Bcrypt::parse(rest).map(Self::Bcrypt),
            "2" | "2x" => Err(HashFormatError::Unsupported(
                "bcrypt with the flaws of $2$ or $2x$",
            )),
            "scrypt" => scrypt::Scrypt::parse(rest).map(Self::Scrypt),
            "firebase-scrypt" => scrypt::FirebaseScrypt::parse(rest).map(Self::FirebaseScrypt),
            "1" | "5" | "6" => crypt::Crypt::parse(id, rest).map(Self::Crypt),
            "7" | "y" | "gy" => Err(HashFormatError::Unsupported("yescrypt and crypt's scrypt")),
            "P" | "H" => phpass::Phpass::parse(rest).map(Self::Phpass),
            _ if id.starts_with("pbkdf2") => pbkdf2::Pbkdf2::parse_phc(id, rest).map(Self::Pbkdf2),
            _ => digest::Digest::parse(id, rest).map(Self::Digest),
        }
    }

    /// Whether this is the hash of `password`; the hashes are compared in constant time.
    ///
    /// The bytes are taken as given: a source system hashed what was typed, so no normalisation belongs here.
    pub fn verify(&self, password: &[u8]) -> bool {
        self.verify_with_memory(password, &mut [])
    }

    /// Like [`verify`](Self::verify), with Argon2 working in `memory` if that is large enough.
    pub fn verify_with_memory(&self, password: &[u8], memory: &mut [Block]) -> bool {
        match self {
            Self::Argon2(h) => h.verify(password, memory),
            Self::Bcrypt(h) => h.verify(password),
            Self::Scrypt(h) => h.verify(password),
            Self::FirebaseScrypt(h) => h.verify(password),
            Self::Pbkdf2(h) => h.verify(password),
            Self::Digest(h) => h.verify(password),
            Self::Crypt(h) => h.verify(password),
            Self::Phpass(h) => h.verify(password),
        }
    }

    /// Whether the hash is so fast to compute that whoever steals it soon knows most passwords.
    pub fn is_weak(&self) -> bool {
        match self {
            Self::Digest(_) => true,
            Self::Crypt(h) => h.is_weak(),
            _ => false,
        }
    }

    /// Working memory of one verification in KiB; 0 where it does not matter.
    pub fn memory_kib(&self) -> u32 {
        match self {
            Self::Argon2(h) => h.memory_kib(),
            Self::Scrypt(h) => h.memory_kib(),
            Self::FirebaseScrypt(h) => h.memory_kib(),
            _ => 0,
        }
    }

    /// The family's name, for metrics and import reports.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Argon2(_) => "argon2",
            Self::Bcrypt(_) => "bcrypt",
            Self::Scrypt(_) => "scrypt",
            Self::FirebaseScrypt(_) => "firebase-scrypt",
            Self::Pbkdf2(_) => "pbkdf2",
            Self::Digest(_) => "digest",
            Self::Crypt(_) => "crypt",
            Self::Phpass(_) => "phpass",
        }
    }
}

/// Equality whose duration depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests;
