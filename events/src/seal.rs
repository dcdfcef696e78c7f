//! Keys of data subjects and what they seal.
//!
//! AES-256-GCM (NIST SP 800-38D). A sealed text is base64url of: one version byte, a 96-bit nonce, ciphertext and tag.
//! The associated data binds it to the event it stands in, so that it cannot be moved to another.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ids::{EventId, TenantId, UserId};

const VERSION: u8 = 1;
const NONCE: usize = 12;

/// Why something could not be sealed or opened. Never holds the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the sealed text is not of a known form")]
    Form,
    #[error("the sealed text does not belong to this key and event, or was changed")]
    Forged,
    #[error("the personal part is not of its type")]
    Content,
}

/// What a sealed text belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    pub event: EventId,
    /// With or without its version, which is not bound: old events are read as their latest version.
    pub event_type: &'a str,
    pub subject: UserId,
}

impl Binding<'_> {
    fn aad(&self) -> Vec<u8> {
        let name = match self.event_type.rsplit_once(".v") {
            Some((name, version)) if version.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => self.event_type,
        };
        let mut aad = Vec::with_capacity(32 + name.len());
        aad.extend_from_slice(self.event.as_bytes());
        aad.extend_from_slice(self.subject.as_bytes());
        aad.extend_from_slice(name.as_bytes());
        aad
    }
}

fn gcm(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| SealError::Form)
}

fn encrypt(key: &[u8; 32], plain: &[u8], aad: &[u8], nonce: [u8; NONCE]) -> Result<Vec<u8>, SealError> {
    let mut out = Vec::with_capacity(1 + NONCE + plain.len() + 16);
    out.push(VERSION);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = gcm(key)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut out[1 + NONCE..],
        )
        .map_err(|_| SealError::Form)?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

fn decrypt(key: &[u8; 32], sealed: Vec<u8>, aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    // Opened where it is, and wiped with all its capacity.
    let mut sealed = Zeroizing::new(sealed);
    if sealed.len() < 1 + NONCE + 16 || sealed[0] != VERSION {
        return Err(SealError::Form);
    }
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(&sealed[1..=NONCE]);
    let plain = gcm(key)?
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut sealed[1 + NONCE..],
        )
        .map_err(|_| SealError::Forged)?
        .len();
    sealed.drain(..1 + NONCE);
    sealed.truncate(plain);
    Ok(sealed)
}

/// The key of one data subject: 256 random bits. Destroying it is the erasure.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SubjectKey([u8; 32]);

impl SubjectKey {
    /// From 256 random bits.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    pub(crate) fn seal(
        &self,
        plain: &[u8],
        bound: &Binding<'_>,
        nonce: [u8; NONCE],
    ) -> Result<String, SealError> {
        Ok(URL_SAFE_NO_PAD.encode(encrypt(&self.0, plain, &bound.aad(), nonce)?))
    }

    pub(crate) fn open(&self, sealed: &str, bound: &Binding<'_>) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SealError::Form)?;
        decrypt(&self.0, sealed, &bound.aad())
    }

    /// A tag of `data` that nobody can compute any more once the key is destroyed.
    pub fn tag(&self, data: &[u8]) -> [u8; 16] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut out = [0; 16];
        out.copy_from_slice(&hmac::sign(&key, data).as_ref()[..16]);
        out
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubjectKey(…)")
    }
}

/// The key that wraps subject keys at rest.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    fn aad(tenant: &TenantId, subject: UserId) -> Vec<u8> {
        let mut aad = subject.as_bytes().to_vec();
        aad.extend_from_slice(tenant.as_str().as_bytes());
        aad
    }

    /// Wraps a subject key for storage.
    pub fn wrap(
        &self,
        tenant: &TenantId,
        subject: UserId,
        key: &SubjectKey,
        nonce: [u8; NONCE],
    ) -> Result<Vec<u8>, SealError> {
        encrypt(&self.0, &key.0, &Self::aad(tenant, subject), nonce)
    }

    /// The subject key in a wrapped one.
    pub fn unwrap(
        &self,
        tenant: &TenantId,
        subject: UserId,
        wrapped: &[u8],
    ) -> Result<SubjectKey, SealError> {
        let plain = decrypt(&self.0, wrapped.to_vec(), &Self::aad(tenant, subject))?;
        let key: [u8; 32] = plain.as_slice().try_into().map_err(|_| SealError::Form)?;
        Ok(SubjectKey(key))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// What is known of a subject's key.
#[derive(Debug, Clone)]
pub enum KeyStatus {
    Present(SubjectKey),
    /// There is a tombstone: the subject was erased.
    Destroyed,
    /// Neither key nor tombstone. For a subject that the log names this is damage, never an erasure.
    Missing,
}

/// Where readers of the log get subject keys.
pub trait KeySource: Send + Sync {
    fn key(&self, tenant: &TenantId, subject: UserId) -> Result<KeyStatus, KeySourceError>;
}

/// The key store cannot answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeySourceError {
    /// It may later.
    #[error("the store of subject keys cannot be read: {0}")]
    Unavailable(String),
    /// It has the key, and can make nothing of it: it is damaged, or wrapped under another master key.
    #[error("the store of subject keys cannot be read: {0}")]
    Unreadable(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn bound(event: u128, event_type: &str, subject: u128) -> Binding<'_> {
        Binding {
            event: EventId(Uuid::from_u128(event)),
            event_type,
            subject: UserId(Uuid::from_u128(subject)),
        }
    }

    #[test]
    fn a_sealed_text_opens_only_where_it_belongs() {
        let key = SubjectKey::new([7; 32]);
        let sealed = key.seal(b"ada@example.com", &bound(1, "t", 2), [9; 12]).unwrap();
        assert_eq!(
            key.open(&sealed, &bound(1, "t", 2)).unwrap().as_slice(),
            b"ada@example.com"
        );
        for (other, key) in [
            (bound(3, "t", 2), key.clone()),
            (bound(1, "u", 2), key.clone()),
            (bound(1, "t", 4), key.clone()),
            (bound(1, "t", 2), SubjectKey::new([8; 32])),
        ] {
            assert_eq!(key.open(&sealed, &other).unwrap_err(), SealError::Forged);
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let key = SubjectKey::new([7; 32]);
        let sealed = key.seal(b"x", &bound(1, "t", 2), [9; 12]).unwrap();
        let raw = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        for i in 0..raw.len() {
            let mut changed = raw.clone();
            changed[i] ^= 1;
            assert!(
                key.open(&URL_SAFE_NO_PAD.encode(changed), &bound(1, "t", 2))
                    .is_err()
            );
        }
        for cut in 0..sealed.len() {
            assert!(key.open(&sealed[..cut], &bound(1, "t", 2)).is_err());
        }
    }

    #[test]
    fn a_wrapped_key_belongs_to_one_subject_of_one_tenant() {
        let master = MasterKey::new([1; 32]);
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let (u, v) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        let key = SubjectKey::new([5; 32]);
        let wrapped = master.wrap(&a, u, &key, [3; 12]).unwrap();
        assert!(master.unwrap(&a, u, &wrapped).unwrap() == key);
        assert!(master.unwrap(&b, u, &wrapped).is_err());
        assert!(master.unwrap(&a, v, &wrapped).is_err());
        assert!(MasterKey::new([2; 32]).unwrap(&a, u, &wrapped).is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        assert!(!format!("{:?}{:?}", SubjectKey::new([7; 32]), MasterKey::new([7; 32])).contains('7'));
    }
}
