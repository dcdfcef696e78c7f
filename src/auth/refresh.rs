//! Refresh tokens: derived from session and generation, never stored.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::ids::{SessionId, TenantId, UserId};
use uuid::Uuid;

use super::secrets::Secret;

const PREFIX: &str = "grt_";
const ID: usize = 16;
const CLAIMS: usize = 2 * ID + 4;
const LEN: usize = CLAIMS + 32;

/// What a refresh token says: whose session, and which token of the session's family it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshClaims {
    pub user: UserId,
    pub session: SessionId,
    pub generation: u32,
}

/// Makes and checks refresh tokens: `grt_` and the base64url form of user id and session id (16 bytes each), generation
/// (32 bits, big-endian) and HMAC-SHA-256 over `"refresh" ‖ tenant ‖ 0 ‖ user id ‖ session id ‖ generation`.
///
/// Whether the generation is the session's present one is the session's business (reuse ends it).
pub struct RefreshTokens {
    key: hmac::Key,
}

impl RefreshTokens {
    /// Tokens under the node's refresh secret.
    pub fn new(secret: &Secret) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
        }
    }

    /// The token of a session's generation; the same for the same arguments.
    pub fn issue(&self, tenant: &TenantId, claims: RefreshClaims) -> String {
        let mut bytes = [0u8; LEN];
        bytes[..ID].copy_from_slice(claims.user.as_bytes());
        bytes[ID..2 * ID].copy_from_slice(claims.session.as_bytes());
        bytes[2 * ID..CLAIMS].copy_from_slice(&claims.generation.to_be_bytes());
        let tag = hmac::sign(&self.key, &message(tenant, &bytes[..CLAIMS]));
        bytes[CLAIMS..].copy_from_slice(tag.as_ref());
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// What a genuine token of this tenant says. Only the exact text that was issued is accepted:
    /// no padding, no stray bits, no other case, no white space. The MAC is compared in constant time.
    pub fn parse_and_check(&self, tenant: &TenantId, token: &str) -> Option<RefreshClaims> {
        let encoded = token.strip_prefix(PREFIX)?;
        // `decode_slice` wants room for an estimate that may exceed the true length.
        let mut bytes = [0u8; LEN + 2];
        if encoded.len() != (LEN * 4).div_ceil(3) {
            return None;
        }
        let n = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
        let (claims, tag) = bytes.get(..n)?.split_at_checked(CLAIMS)?;
        hmac::verify(&self.key, &message(tenant, claims), tag).ok()?;
        let (user, rest) = claims.split_at(ID);
        let (session, generation) = rest.split_at(ID);
        Some(RefreshClaims {
            user: UserId(Uuid::from_slice(user).ok()?),
            session: SessionId(Uuid::from_slice(session).ok()?),
            generation: u32::from_be_bytes(generation.try_into().ok()?),
        })
    }
}

fn message(tenant: &TenantId, claims: &[u8]) -> Vec<u8> {
    [b"refresh", tenant.as_str().as_bytes(), &[0], claims].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> RefreshTokens {
        RefreshTokens::new(&Secret::new([42; 32]))
    }

    fn claims(user: u128, session: u128, generation: u32) -> RefreshClaims {
        RefreshClaims {
            user: UserId(Uuid::from_u128(user)),
            session: SessionId(Uuid::from_u128(session)),
            generation,
        }
    }

    #[test]
    fn bound_to_tenant_and_secret() {
        let tenant = TenantId::default();
        let claims = claims(5, 7, 3);
        let token = tokens().issue(&tenant, claims);
        assert_eq!(tokens().parse_and_check(&tenant, &token), Some(claims));
        let other = TenantId::new("other").unwrap();
        assert_eq!(tokens().parse_and_check(&other, &token), None);
        let elsewhere = RefreshTokens::new(&Secret::new([43; 32]));
        assert_eq!(elsewhere.parse_and_check(&tenant, &token), None);
    }

    proptest! {
        /// Threat 22: no prefix, suffix, padded, case-flipped or otherwise altered form passes.
        #[test]
        fn only_the_exact_text_passes(
            user: u128, session: u128, generation: u32, at in 0usize..95, with in "[ -~]", cut in 0usize..95
        ) {
            let tenant = TenantId::default();
            let claims = claims(user, session, generation);
            let token = tokens().issue(&tenant, claims);
            let check = |t: &str| tokens().parse_and_check(&tenant, t);
            prop_assert_eq!(check(&token), Some(claims));
            prop_assert_eq!(token.len(), 95);
            let swap = |c: &str| format!("{}{}{}", &token[..at], c, &token[at + 1..]);
            if swap(&with) != token {
                prop_assert_eq!(check(&swap(&with)), None);
            }
            let c = token.as_bytes()[at] as char;
            let flipped = if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            if flipped != c {
                prop_assert_eq!(check(&swap(&flipped.to_string())), None);
            }
            prop_assert_eq!(check(&token[..cut]), None);
            prop_assert_eq!(check(&token[cut + 1..]), None);
            for altered in [format!("{token}="), format!("{token}=="), format!("{token}A"), format!(" {token}"), format!("{token}\n")] {
                prop_assert_eq!(check(&altered), None);
            }
        }

        #[test]
        fn never_panics(text in ".{0,100}") {
            prop_assert_eq!(tokens().parse_and_check(&TenantId::default(), &text), None);
            let prefixed = format!("grt_{text}");
            prop_assert_eq!(tokens().parse_and_check(&TenantId::default(), &prefixed), None);
        }
    }
}
