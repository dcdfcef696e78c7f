//! Links by which somebody withdraws a consent without logging in: one-click unsubscribe (RFC 8058). A link names a user and a
//! purpose, encrypted, so that it says nothing to whoever sees it, and cannot be made by anybody else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::ids::{TenantId, UserId};
use uuid::Uuid;

use crate::auth::secrets::Secret;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 512;
const ID: usize = 16;

/// Makes and reads tokens of links. Its keys derive from the routing secret, which never changes: a link in a mail is good
/// for as long as the mail.
pub struct Unsubscribe {
    encryption: LessSafeKey,
    nonces: hmac::Key,
}

/// The keys could not be made.
#[derive(Debug, thiserror::Error)]
#[error("links for unsubscribing cannot be made")]
pub struct NoLinks;

impl Unsubscribe {
    pub fn new(routing_secret: &Secret) -> Result<Self, NoLinks> {
        let routing = hmac::Key::new(hmac::HMAC_SHA256, routing_secret.expose());
        let derived = |label: &[u8]| hmac::sign(&routing, label);
        let key = UnboundKey::new(&AES_256_GCM, derived(b"gatelog unsubscribe v1: key").as_ref());
        Ok(Self {
            encryption: LessSafeKey::new(key.map_err(|_| NoLinks)?),
            nonces: hmac::Key::new(
                hmac::HMAC_SHA256,
                derived(b"gatelog unsubscribe v1: nonces").as_ref(),
            ),
        })
    }

    /// The token of a user and a purpose; always the same one. The nonce is a MAC of what is encrypted, so that it is never
    /// used for anything else (the construction of SIV, RFC 5297).
    pub fn token(&self, tenant: &TenantId, user: UserId, purpose: &str) -> Option<String> {
        let mut sealed = [&user.as_bytes()[..], purpose.as_bytes()].concat();
        let mut context = hmac::Context::with_key(&self.nonces);
        context.update(&(tenant.as_str().len() as u64).to_be_bytes());
        context.update(tenant.as_str().as_bytes());
        context.update(&sealed);
        let nonce: [u8; NONCE_LEN] = context.sign().as_ref()[..NONCE_LEN].try_into().ok()?;
        let aad = Aad::from(tenant.as_str().as_bytes());
        let done =
            self.encryption
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        done.ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// Whose consent to which purpose a token withdraws; nothing if it is none of ours.
    pub fn open(&self, tenant: &TenantId, token: &str) -> Option<(UserId, String)> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(tenant.as_str().as_bytes());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let clear = self.encryption.open_in_place(nonce, aad, &mut sealed).ok()?;
        let (user, purpose) = clear.split_first_chunk::<ID>()?;
        let purpose = std::str::from_utf8(purpose).ok()?;
        Some((UserId(Uuid::from_bytes(*user)), purpose.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_nothing_and_cannot_be_altered() {
        let links = Unsubscribe::new(&Secret::new([1; 32])).unwrap();
        let others = Unsubscribe::new(&Secret::new([2; 32])).unwrap();
        let (tenant, user) = (TenantId::default(), UserId(Uuid::from_u128(7)));
        let token = links.token(&tenant, user, "newsletter").unwrap();
        assert_eq!(links.token(&tenant, user, "newsletter"), Some(token.clone()));
        assert_eq!(links.open(&tenant, &token), Some((user, "newsletter".to_owned())));
        assert_eq!(others.open(&tenant, &token), None);
        assert_eq!(links.open(&TenantId::new("other").unwrap(), &token), None);
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!bytes.windows(4).any(|w| w == b"news"));
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            assert_eq!(links.open(&tenant, &URL_SAFE_NO_PAD.encode(altered)), None, "{i}");
        }
        for token in ["", "A", "!", &"A".repeat(1000)] {
            assert_eq!(links.open(&tenant, token), None);
        }
    }
}
