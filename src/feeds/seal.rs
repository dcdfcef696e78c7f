//! Small texts that only this installation can read, and that say nothing to whoever else has them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::auth::secrets::Secret;

/// Seals for one purpose. Its keys derive from the routing secret, which never changes and which all nodes share.
pub struct Seal {
    encryption: LessSafeKey,
    nonces: hmac::Key,
}

/// The keys could not be made.
#[derive(Debug, thiserror::Error)]
#[error("keys for sealing cannot be made")]
pub struct NoSeal;

impl Seal {
    /// `label` names the purpose; what is sealed for another one is not opened.
    pub fn new(routing_secret: &Secret, label: &str) -> Result<Self, NoSeal> {
        let routing = hmac::Key::new(hmac::HMAC_SHA256, routing_secret.expose());
        let derived = |part: &str| hmac::sign(&routing, format!("{label}: {part}").as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, derived("key").as_ref()).map_err(|_| NoSeal)?;
        Ok(Self {
            encryption: LessSafeKey::new(key),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, derived("nonces").as_ref()),
        })
    }

    /// The same text for the same place and content. The nonce is a MAC of both, so that it is never used for anything else
    /// (the construction of SIV, RFC 5297).
    pub fn seal(&self, place: &[&str], clear: &[u8]) -> Option<String> {
        let mut context = hmac::Context::with_key(&self.nonces);
        for part in place {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.update(clear);
        let nonce: [u8; NONCE_LEN] = context.sign().as_ref()[..NONCE_LEN].try_into().ok()?;
        let mut sealed = clear.to_vec();
        self.encryption
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(place), &mut sealed)
            .ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// What was sealed for this place; nothing if it was not sealed here.
    pub fn open(&self, place: &[&str], text: &str) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let clear = self
            .encryption
            .open_in_place(nonce, aad(place), &mut sealed)
            .ok()?;
        Some(Zeroizing::new(clear.to_vec()))
    }
}

/// No part of a place has a NUL in it.
fn aad(place: &[&str]) -> Aad<Vec<u8>> {
    Aad::from(place.join("\0").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_only_by_the_same_for_the_same() {
        let secret = Secret::new([1; 32]);
        let seal = Seal::new(&secret, "one").unwrap();
        let place = ["default", "marketing", "crm"];
        let text = seal.seal(&place, b"a key").unwrap();
        assert_eq!(seal.seal(&place, b"a key"), Some(text.clone()));
        assert_eq!(seal.open(&place, &text).unwrap().as_slice(), b"a key");
        assert!(!text.contains("a key"));
        let others = [
            (Seal::new(&secret, "two").unwrap(), place),
            (Seal::new(&Secret::new([2; 32]), "one").unwrap(), place),
            (
                Seal::new(&secret, "one").unwrap(),
                ["default", "marketing", "erp"],
            ),
        ];
        for (seal, place) in others {
            assert_eq!(seal.open(&place, &text), None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            assert_eq!(seal.open(&place, &URL_SAFE_NO_PAD.encode(altered)), None, "{i}");
        }
        for text in ["", "A", "!"] {
            assert_eq!(seal.open(&place, text), None);
        }
    }
}
