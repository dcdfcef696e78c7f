//! crypt(3): MD5 (`$1$`), SHA-256 (`$5$`) and SHA-512 (`$6$`), as glibc and libxcrypt verify them.

use md5::{Digest, Md5};

use super::{HashFormatError, same, text};

const FAMILY: &str = "crypt";

enum Method {
    Md5,
    Sha256(sha_crypt::Params),
    Sha512(sha_crypt::Params),
}

/// A crypt(3) hash.
pub struct Crypt {
    method: Method,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Crypt {
    pub(super) fn parse(id: &str, rest: &str) -> Result<Self, HashFormatError> {
        let malformed = |part| HashFormatError::Malformed { family: FAMILY, part };
        let (rounds, rest) = match rest.strip_prefix("rounds=") {
            Some(r) if id != "1" => {
                let (n, rest) = r.split_once('$').ok_or_else(|| malformed("the rounds"))?;
                let n = text::number(FAMILY, "the rounds", Some(n), 0..=1_000_000, "at most 1,000,000")?;
                // glibc lifts anything lower to its minimum.
                (n.max(sha_crypt::Params::ROUNDS_MIN), rest)
            }
            _ => (sha_crypt::Params::RECOMMENDED_ROUNDS, rest),
        };
        let params = sha_crypt::Params::new(rounds).map_err(|_| malformed("the rounds"))?;
        let (method, salt_len, hash_len) = match id {
            "1" => (Method::Md5, 8, 22),
            "5" => (Method::Sha256(params), 16, 43),
            _ => (Method::Sha512(params), 16, 86),
        };
        let [salt, hash] = text::pieces(FAMILY, rest)?;
        if hash.len() != hash_len || !text::is_crypt64(hash) {
            return Err(malformed("the hash"));
        }
        let salt = salt.as_bytes();
        Ok(Self {
            method,
            salt: salt[..salt.len().min(salt_len)].to_vec(),
            hash: hash.as_bytes().to_vec(),
        })
    }

    pub(super) fn is_weak(&self) -> bool {
        matches!(self.method, Method::Md5)
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        let encoded = match self.method {
            Method::Md5 => encode_md5(&md5_crypt(password, &self.salt)),
            Method::Sha256(p) => encode_sha256(&sha_crypt::sha256_crypt(password, &self.salt, p)),
            Method::Sha512(p) => encode_sha512(&sha_crypt::sha512_crypt(password, &self.salt, p)),
        };
        same(&encoded, &self.hash)
    }
}

/// Poul-Henning Kamp's MD5-crypt, step for step as in FreeBSD's crypt-md5.c.
fn md5_crypt(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner = Md5::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize();
    let mut ctx = Md5::new()
        .chain_update(password)
        .chain_update(b"$1$")
        .chain_update(salt);
    for chunk in password.chunks(16) {
        ctx.update(&inner[..chunk.len()]);
    }
    let mut n = password.len();
    while n > 0 {
        if n & 1 == 1 {
            ctx.update([0]);
        } else {
            ctx.update(&password[..1]);
        }
        n >>= 1;
    }
    let mut digest: [u8; 16] = ctx.finalize().into();
    for i in 0..1000 {
        let mut ctx = Md5::new();
        ctx.update(if i & 1 == 1 { password } else { &digest });
        if i % 3 != 0 {
            ctx.update(salt);
        }
        if i % 7 != 0 {
            ctx.update(password);
        }
        ctx.update(if i & 1 == 1 { &digest } else { password });
        digest = ctx.finalize().into();
    }
    digest
}

/// Three bytes of the digest, in crypt's order, as four characters.
fn push_group(out: &mut Vec<u8>, [a, b, c]: [u8; 3]) {
    text::push_crypt64(out, u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c), 4);
}

fn encode_md5(d: &[u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(22);
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        push_group(&mut out, [d[a], d[b], d[c]]);
    }
    text::push_crypt64(&mut out, u32::from(d[11]), 2);
    out
}

fn encode_sha256(d: &[u8; 32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(43);
    let (mut a, mut b, mut c) = (0, 10, 20);
    for _ in 0..10 {
        push_group(&mut out, [d[a], d[b], d[c]]);
        (a, b, c) = (c + 1, a + 1, b + 1);
    }
    text::push_crypt64(&mut out, u32::from(d[31]) << 8 | u32::from(d[30]), 3);
    out
}

fn encode_sha512(d: &[u8; 64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(86);
    let (mut a, mut b, mut c) = (0, 21, 42);
    for _ in 0..21 {
        push_group(&mut out, [d[a], d[b], d[c]]);
        (a, b, c) = (b + 1, c + 1, a + 1);
    }
    text::push_crypt64(&mut out, u32::from(d[63]), 2);
    out
}
