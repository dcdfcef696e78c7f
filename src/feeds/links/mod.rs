//! Links by which somebody acts without logging in: the link is the capability. What it stands for is encrypted, so that it
//! says nothing to whoever sees it, and cannot be made by anybody else.

pub mod preferences;
pub mod unsubscribe;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::ids::TenantId;

use self::preferences::Preferences;
use self::unsubscribe::Unsubscribe;
use crate::auth::secrets::Secret;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 512;

/// The kinds of links. A token of one kind is none of another: each has keys of its own.
pub struct Links {
    pub unsubscribe: Unsubscribe,
    pub preferences: Preferences,
}

/// The keys could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the keys of links cannot be made")]
pub struct NoLinks;

impl Links {
    /// The keys derive from the routing secret, which never changes: what is in a mail is good for as long as the mail, or as
    /// long as the link itself says.
    pub fn new(routing_secret: &Secret) -> Result<Self, NoLinks> {
        Ok(Self {
            unsubscribe: Unsubscribe::new(routing_secret)?,
            preferences: Preferences::new(routing_secret)?,
        })
    }
}

/// Makes and reads the tokens of one kind of link.
struct Sealer {
    encryption: LessSafeKey,
    nonces: hmac::Key,
}

impl Sealer {
    /// `kind` separates the keys of one kind of link from those of all others.
    fn new(routing_secret: &Secret, kind: &str) -> Result<Self, NoLinks> {
        let key = derived(routing_secret, &format!("{kind}: key"));
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).map_err(|_| NoLinks)?;
        let nonces = derived(routing_secret, &format!("{kind}: nonces"));
        Ok(Self {
            encryption: LessSafeKey::new(key),
            nonces: hmac::Key::new(hmac::HMAC_SHA256, nonces.as_ref()),
        })
    }

    /// The token for some bytes of a tenant; always the same one. The nonce is a MAC of what is encrypted, so that it is never
    /// used for anything else (the construction of SIV, RFC 5297).
    fn seal(&self, tenant: &TenantId, clear: &[u8]) -> Option<String> {
        let mut context = hmac::Context::with_key(&self.nonces);
        context.update(&(tenant.as_str().len() as u64).to_be_bytes());
        context.update(tenant.as_str().as_bytes());
        context.update(clear);
        let nonce: [u8; NONCE_LEN] = context.sign().as_ref()[..NONCE_LEN].try_into().ok()?;
        let aad = Aad::from(tenant.as_str().as_bytes());
        let mut sealed = clear.to_vec();
        let done =
            self.encryption
                .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
        done.ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// The bytes of a token; nothing if it is none of ours, of another tenant, or of another kind.
    fn open(&self, tenant: &TenantId, token: &str) -> Option<Vec<u8>> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let aad = Aad::from(tenant.as_str().as_bytes());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let clear = self.encryption.open_in_place(nonce, aad, &mut sealed).ok()?;
        Some(clear.to_vec())
    }
}

fn derived(routing_secret: &Secret, label: &str) -> hmac::Tag {
    let routing = hmac::Key::new(hmac::HMAC_SHA256, routing_secret.expose());
    hmac::sign(&routing, format!("gatelog {label}").as_bytes())
}

/// Tampering that every kind of token must withstand.
#[cfg(test)]
fn altered(token: &str) -> Vec<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let flipped = (0..bytes.len()).map(|i| {
        let mut altered = bytes.clone();
        altered[i] ^= 1;
        URL_SAFE_NO_PAD.encode(altered)
    });
    let cut = (0..token.len()).map(|n| token[..n].to_owned());
    let other = [
        "",
        "A",
        "!",
        &"A".repeat(1000),
        &format!("{token}A"),
        &format!("{token}="),
    ];
    flipped.chain(cut).chain(other.map(str::to_owned)).collect()
}
