//! Links by which somebody acts without logging in: the link is the capability. What it stands for is sealed, so that it says
//! nothing to whoever sees it, and cannot be made by anybody else.

pub mod preferences;
pub mod unsubscribe;

use gatelog_events::ids::TenantId;
use zeroize::Zeroizing;

use self::preferences::Preferences;
use self::unsubscribe::Unsubscribe;
use super::seal::{NoSeal, Seal};
use crate::auth::secrets::Secret;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 512;

/// The kinds of links. A token of one kind is none of another: each has keys of its own.
pub struct Links {
    pub unsubscribe: Unsubscribe,
    pub preferences: Preferences,
}

impl Links {
    /// The keys derive from the routing secret, which never changes: what is in a mail is good for as long as the mail, or as
    /// long as the link itself says.
    pub fn new(routing_secret: &Secret) -> Result<Self, NoSeal> {
        Ok(Self {
            unsubscribe: Unsubscribe::new(routing_secret)?,
            preferences: Preferences::new(routing_secret)?,
        })
    }
}

/// The token for some bytes of a tenant; always the same one.
fn token(seal: &Seal, tenant: &TenantId, clear: &[u8]) -> Option<String> {
    seal.seal(&[tenant.as_str()], clear)
}

/// The bytes of a token; nothing if it is none of ours, of another tenant, or of another kind.
fn open(seal: &Seal, tenant: &TenantId, token: &str) -> Option<Zeroizing<Vec<u8>>> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    seal.open(&[tenant.as_str()], token)
}

/// Tampering that every kind of token must withstand.
#[cfg(test)]
fn altered(token: &str) -> Vec<String> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let flipped = (0..bytes.len()).map(|i| {
        let mut altered = bytes.clone();
        altered[i] ^= 1;
        URL_SAFE_NO_PAD.encode(altered)
    });
    let cut = (0..token.len()).map(|n| token[..n].to_owned());
    let long = "A".repeat(1000);
    let other = ["", "A", "!", &long, &format!("{token}A"), &format!("{token}=")].map(str::to_owned);
    flipped.chain(cut).chain(other).collect()
}
