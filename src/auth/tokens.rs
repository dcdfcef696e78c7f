//! Access tokens: JWTs as RFC 9068 has them, made and verified here only.
//!
//! A key signs tokens under one fixed JOSE header, and a token is accepted only if its header is, byte for byte, that of
//! a key in the ring. So there is nothing in a header to be misled by: `none`, HS256, foreign or missing `typ`, unknown
//! `kid`, `jwk`, `jku`, `x5u`, `crit` and duplicates all fail the same comparison, and each key is used with its own
//! algorithm only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::clock::Timestamp;
use gatelog_events::ids::{SessionId, TenantId, UserId};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use super::keys::KeyRing;
use super::random;

/// No token is longer; longer ones are refused before anything of them is read.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How far another node's clock may be ahead: `iat` and `nbf` may lie this much in the future. `exp` has no leeway.
pub const LEEWAY: Duration = Duration::from_secs(60);

const CACHED_TOKENS: u64 = 100_000;

/// What all tokens of an installation have in common.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// `iss`: the installation's URL, compared exactly.
    pub issuer: String,
    /// `aud`: the API that the tokens are for.
    pub audience: String,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
}

/// For whom a token is issued, and what it may do.
#[derive(Debug, Clone)]
pub struct Grant {
    pub user: UserId,
    pub session: SessionId,
    pub tenant: TenantId,
    pub client_id: String,
    pub scope: BTreeSet<String>,
    pub roles: BTreeSet<String>,
    pub entitlements: BTreeSet<String>,
}

/// The claims of a verified token (RFC 9068, section 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    pub iss: String,
    /// Seconds since 1970. From here on the token is dead.
    pub exp: i64,
    pub aud: String,
    pub sub: UserId,
    pub client_id: String,
    pub iat: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nbf: Option<i64>,
    pub jti: String,
    pub sid: SessionId,
    pub tenant: TenantId,
    /// Scopes, separated by spaces (RFC 8693).
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub scope: String,
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub roles: BTreeSet<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub entitlements: BTreeSet<String>,
}

/// Why no token was issued, or why one was not accepted. Callers show all refusals alike (401).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than 8 KiB")]
    TooLong,
    #[error("not a signed token of this installation")]
    Malformed,
    #[error("the signature is not valid")]
    Signature,
    #[error("the claims are not those of an access token")]
    Claims,
    #[error("issued by or for somebody else")]
    Foreign,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("no token could be signed")]
    Signing,
    /// Of this user's roles and entitlements.
    #[error("a token would be longer than 8 KiB; take roles or entitlements away")]
    Oversize,
}

/// Issues and verifies access tokens. What was verified is remembered, for a signature costs more than a read does.
pub struct Tokens {
    config: TokenConfig,
    keys: Arc<KeyRing>,
    verified: Cache<[u8; 32], Arc<AccessClaims>>,
}

impl Tokens {
    /// Tokens signed by one of `keys`.
    pub fn new(config: TokenConfig, keys: Arc<KeyRing>) -> Self {
        // Time-to-live frees memory; whether a token is still valid is asked anew each time.
        let verified = Cache::builder()
            .max_capacity(CACHED_TOKENS)
            .time_to_live(config.lifetime)
            .build();
        Self {
            config,
            keys,
            verified,
        }
    }

    /// The keys that sign them.
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Signs a token for `grant`. Fails only where no key or no randomness is to be had.
    pub fn issue(&self, grant: &Grant, now: Timestamp) -> Result<String, TokenError> {
        let claims = AccessClaims {
            iss: self.config.issuer.clone(),
            exp: now.plus(self.config.lifetime).seconds(),
            aud: self.config.audience.clone(),
            sub: grant.user,
            client_id: grant.client_id.clone(),
            iat: now.seconds(),
            nbf: None,
            jti: URL_SAFE_NO_PAD.encode(random::<16>().map_err(|_| TokenError::Signing)?),
            sid: grant.session,
            tenant: grant.tenant.clone(),
            scope: Vec::from_iter(grant.scope.iter().map(String::as_str)).join(" "),
            roles: grant.roles.clone(),
            entitlements: grant.entitlements.clone(),
        };
        let key = self.keys.signs(now).ok_or(TokenError::Signing)?;
        let payload = serde_json::to_vec(&claims).map_err(|_| TokenError::Signing)?;
        let mut token = String::with_capacity(key.header().len() + payload.len() * 4 / 3 + 100);
        token.push_str(key.header());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = key.sign(token.as_bytes()).ok_or(TokenError::Signing)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Oversize);
        }
        Ok(token)
    }

    /// The claims of a token that this installation issued and that is valid at `now`.
    ///
    /// Whether its session still lives is for the caller to ask.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Arc<AccessClaims>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        // Before the cache, so that a key that was removed takes its tokens with it.
        let key = self.keys.by_header(header).ok_or(TokenError::Malformed)?;
        let mut id = [0u8; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(claims) = self.verified.get(&id) {
            return self.check(&claims, now).map(|()| claims);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| TokenError::Malformed)?;
        if !key.verifies(signed.as_bytes(), &signature) {
            return Err(TokenError::Signature);
        }
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| TokenError::Malformed)?;
        // Deriving `Deserialize` refuses a claim that occurs twice.
        let claims: AccessClaims = serde_json::from_slice(&payload).map_err(|_| TokenError::Claims)?;
        self.check(&claims, now)?;
        let claims = Arc::new(claims);
        self.verified.insert(id, Arc::clone(&claims));
        Ok(claims)
    }

    /// The keys that verify these tokens, as a JWK set (RFC 7517).
    pub fn jwks(&self) -> serde_json::Value {
        self.keys.jwks()
    }

    /// Whether claims that were [verified](Self::verify) are valid at `now`.
    pub fn check(&self, claims: &AccessClaims, now: Timestamp) -> Result<(), TokenError> {
        let latest_start = now.plus(LEEWAY).seconds();
        if claims.iss != self.config.issuer || claims.aud != self.config.audience {
            Err(TokenError::Foreign)
        } else if claims.exp <= now.seconds() {
            Err(TokenError::Expired)
        } else if claims.iat > latest_start || claims.nbf.is_some_and(|nbf| nbf > latest_start) {
            Err(TokenError::NotYetValid)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
