//! Signs webhook deliveries by Standard Webhooks 1.0.0, symmetric scheme `v1` (<https://www.standardwebhooks.com>).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use gatelog_events::clock::Timestamp;

const PREFIX: &str = "whsec_";
/// Base64 of [`Secret::MAX`] bytes, and what that may decode to at most.
const MAX_BASE64: usize = 88;
const MAX_DECODED: usize = 66;
const MAX_ID: usize = 128;

/// The key that one endpoint's deliveries are signed with: 24 to 64 bytes (the specification's "Signature scheme").
/// Wiped when dropped; not shown unless [`Secret::reveal`] is called.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

/// The bytes or the text are not a webhook secret. Says nothing of their content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// Too few or too many bytes.
    #[error("secret: it has {0} bytes; use 24 to 64 random bytes")]
    Length(usize),
    /// Not `whsec_` and base64, or longer than 64 bytes can be.
    #[error("secret: it must be `whsec_` followed by 24 to 64 bytes in base64; copy it as it was shown")]
    Form,
}

impl Secret {
    /// Fewest bytes that a secret may have.
    pub const MIN: usize = 24;
    /// Most bytes that a secret may have.
    pub const MAX: usize = 64;

    /// Takes the bytes, and wipes them if it refuses them.
    ///
    /// # Errors
    /// [`InvalidSecret::Length`] unless there are 24 to 64.
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidSecret> {
        let secret = Self(bytes);
        match secret.0.len() {
            Self::MIN..=Self::MAX => Ok(secret),
            length => Err(InvalidSecret::Length(length)),
        }
    }

    /// The bytes; for sealing them into storage only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as the receiver needs it: `whsec_` and padded base64. For the one answer that shows it.
    pub fn reveal(&self) -> Zeroizing<String> {
        // With all its room from the start: growing would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + MAX_BASE64));
        text.push_str(PREFIX);
        STANDARD.encode_string(&self.0, &mut text);
        text
    }
}

impl FromStr for Secret {
    type Err = InvalidSecret;
    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret::Form)?;
        if encoded.len() > MAX_BASE64 {
            return Err(InvalidSecret::Form);
        }
        let mut bytes = Zeroizing::new([0; MAX_DECODED]);
        let length = STANDARD
            .decode_slice(encoded, &mut bytes[..])
            .map_err(|_| InvalidSecret::Form)?;
        Self::new(bytes[..length].to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The id of a message, the same at each attempt: 1 to 128 letters, digits, `_` and `-`. Receivers recognise repeats
/// by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(String);

/// The text cannot be a message id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("webhook-id: use 1 to 128 ASCII letters, digits, `_` or `-`")]
pub struct InvalidMessageId;

impl FromStr for MessageId {
    type Err = InvalidMessageId;
    fn from_str(text: &str) -> Result<Self, InvalidMessageId> {
        // Above all no full stop: it separates the parts of what is signed.
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if (1..=MAX_ID).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidMessageId)
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Signs the deliveries to one endpoint with all its present secrets.
#[derive(Clone)]
pub struct Signer {
    /// Newest first; never empty.
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// `older` are the secrets that receivers may still have during a rotation, the newest of them first.
    pub fn new(newest: &Secret, older: &[Secret]) -> Self {
        let keys = std::iter::once(newest)
            .chain(older)
            .map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose()))
            .collect();
        Self { keys }
    }

    /// Signs one attempt that is made at `now`. To be done anew at each attempt, with the same id: receivers refuse
    /// what is signed more than 5 minutes ago.
    pub fn sign(&self, id: &MessageId, now: Timestamp, body: &[u8]) -> Signed {
        let timestamp = now.seconds().to_string();
        let signatures: Vec<_> = self
            .keys
            .iter()
            .map(|key| signature(key, id, &timestamp, body))
            .collect();
        Signed {
            id: id.clone(),
            timestamp,
            signature: signatures.join(" "),
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", self.keys.len())
    }
}

fn signature(key: &hmac::Key, id: &MessageId, timestamp: &str, body: &[u8]) -> String {
    let mut mac = hmac::Context::with_key(key);
    for part in [id.0.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", STANDARD.encode(mac.sign()))
}

/// The headers of one signed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    id: MessageId,
    timestamp: String,
    signature: String,
}

impl Signed {
    /// Names and values: the id, the Unix time in seconds, and the signatures separated by spaces, newest first.
    pub fn headers(&self) -> [(&'static str, &str); 3] {
        [
            ("webhook-id", &self.id.0),
            ("webhook-timestamp", &self.timestamp),
            ("webhook-signature", &self.signature),
        ]
    }
}

#[cfg(test)]
mod tests;
