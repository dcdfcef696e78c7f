//! From identifiers to digests and shards. Only views hold digests; the log never does.

use std::fmt;

use aws_lc_rs::hmac;

use crate::email::Email;
use crate::ids::{Shard, TenantId};

/// HMAC-SHA-256 of an identifier under the pepper, cut to 128 bits: the key under which views look it up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Digest(pub [u8; 16]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// Computes digests and shards under two secrets: the *pepper* may change, by a rebuild of the views; the *routing
/// secret* never, since partitions follow from it.
#[derive(Clone)]
pub struct Directory {
    pepper: hmac::Key,
    routing: hmac::Key,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Directory(…)")
    }
}

impl Directory {
    pub fn new(pepper: &[u8; 32], routing: &[u8; 32]) -> Self {
        Self {
            pepper: hmac::Key::new(hmac::HMAC_SHA256, pepper),
            routing: hmac::Key::new(hmac::HMAC_SHA256, routing),
        }
    }

    /// The digest of a tenant's e-mail address.
    pub fn digest(&self, tenant: &TenantId, email: &Email) -> Digest {
        let mut out = [0; 16];
        out.copy_from_slice(&mac(&self.pepper, &[tenant.as_str(), "email", email.key()]).as_ref()[..16]);
        Digest(out)
    }

    /// The shard of a tenant's e-mail address.
    pub fn shard(&self, tenant: &TenantId, email: &Email) -> Shard {
        self.route(&[tenant.as_str(), "email", email.key()])
    }

    /// The shard of a tenant's own settings.
    pub fn tenant_shard(&self, tenant: &TenantId) -> Shard {
        self.route(&[tenant.as_str(), "settings"])
    }

    fn route(&self, parts: &[&str]) -> Shard {
        let tag = mac(&self.routing, parts);
        Shard(u16::from_be_bytes([tag.as_ref()[0], tag.as_ref()[1]]))
    }
}

fn mac(key: &hmac::Key, parts: &[&str]) -> hmac::Tag {
    let mut ctx = hmac::Context::with_key(key);
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        ctx.update(&(part.len() as u32).to_be_bytes());
        ctx.update(part.as_bytes());
    }
    ctx.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_depend_on_pepper_tenant_and_key_only() {
        let d = Directory::new(&[1; 32], &[2; 32]);
        let other_pepper = Directory::new(&[3; 32], &[2; 32]);
        let (t, u) = (TenantId::default(), TenantId::new("other").unwrap());
        let (a, b) = (
            Email::parse("Ada@X.test").unwrap(),
            Email::parse("ada@x.test").unwrap(),
        );
        assert_eq!(d.digest(&t, &a), d.digest(&t, &b));
        assert_ne!(d.digest(&t, &a), d.digest(&u, &a));
        assert_ne!(d.digest(&t, &a), other_pepper.digest(&t, &a));
        assert_eq!(d.shard(&t, &a), other_pepper.shard(&t, &b));
    }
}
