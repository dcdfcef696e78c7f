//! Reading the pieces that password hashes are written in.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::HashFormatError;

/// Standard base64, padding optional.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const CRYPT64: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Decodes base64 into at most 512 bytes, which no genuine salt, key or hash exceeds.
pub fn base64(family: &'static str, part: &'static str, text: &str) -> Result<Vec<u8>, HashFormatError> {
    match BASE64.decode(text) {
        Ok(bytes) if bytes.len() <= 512 => Ok(bytes),
        _ => Err(HashFormatError::Malformed { family, part }),
    }
}

/// Standard base64 without padding, as PHC strings have it.
pub fn to_base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Splits at `$` into exactly `N` pieces.
pub fn pieces<'a, const N: usize>(
    family: &'static str,
    text: &'a str,
) -> Result<[&'a str; N], HashFormatError> {
    let parts: Vec<&str> = text.split('$').collect();
    parts.try_into().map_err(|_| HashFormatError::Malformed {
        family,
        part: "the number of parts",
    })
}

/// Reads `a=1,b=2`: each of `names` at most once, no others.
pub fn parameters<'a, const N: usize>(
    family: &'static str,
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], HashFormatError> {
    let malformed = HashFormatError::Malformed {
        family,
        part: "the list of parameters",
    };
    let mut values = [None; N];
    for pair in text.split(',') {
        let slot = pair
            .split_once('=')
            .and_then(|(name, value)| Some((names.iter().position(|n| *n == name)?, value)));
        match slot {
            Some((i, value)) if values[i].is_none() => values[i] = Some(value),
            _ => return Err(malformed),
        }
    }
    Ok(values)
}

/// Reads a number that must be there and lie in `range`; `allowed` says so to the importer.
pub fn number(
    family: &'static str,
    parameter: &'static str,
    text: Option<&str>,
    range: std::ops::RangeInclusive<u32>,
    allowed: &'static str,
) -> Result<u32, HashFormatError> {
    let digits = text.filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    let digits = digits.ok_or(HashFormatError::Malformed {
        family,
        part: parameter,
    })?;
    match digits.parse() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(HashFormatError::OutOfBounds {
            family,
            parameter,
            allowed,
        }),
    }
}

/// Whether every character belongs to crypt's base64 alphabet.
pub fn is_crypt64(text: &str) -> bool {
    text.bytes().all(|b| CRYPT64.contains(&b))
}

/// The value of one character of crypt's base64 alphabet.
pub fn crypt64_value(c: u8) -> Option<u32> {
    CRYPT64.iter().position(|x| *x == c).map(|i| i as u32)
}

/// Writes the low `6 × n` bits of `v` in crypt's alphabet, least significant first.
pub fn push_crypt64(out: &mut Vec<u8>, mut v: u32, n: usize) {
    for _ in 0..n {
        out.push(CRYPT64[(v & 63) as usize]);
        v >>= 6;
    }
}
