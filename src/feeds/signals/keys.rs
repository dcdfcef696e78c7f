//! The keys that sign what is told (RS256, as CAEP's interoperability profile demands), and what streams keep secret.
//!
//! Both stand in the log, encrypted under a key that derives from the routing secret, which all nodes share: so every node
//! signs with the same key, also one that is added later, and none of it is in the log in the clear.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::signals::{SignalKeyMade, Signals};
use gatelog_events::ids::TenantId;
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::auth::secrets::Secret;
use crate::feeds::seal::Seal;

/// `typ` of RFC 8417, section 2.3.
const TYPE: &str = "secevent+jwt";

/// A key could not be made, or nothing encrypted.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a key that signs security events could not be made")]
pub struct NoSignalKeys;

/// Makes and opens keys, and encrypts what receivers entrust.
pub struct SignalKeys {
    seal: Seal,
    /// Keys that were opened, by `kid`.
    opened: Mutex<HashMap<String, Arc<Signer>>>,
}

impl SignalKeys {
    pub fn new(routing_secret: &Secret) -> Result<Self, NoSignalKeys> {
        Ok(Self {
            seal: Seal::new(routing_secret, "gatelog signals v1").map_err(|_| NoSignalKeys)?,
            opened: Mutex::default(),
        })
    }

    /// Encrypts the header that a stream's receiver wants to see.
    pub fn wrap_authorization(
        &self,
        tenant: &TenantId,
        stream_id: Uuid,
        header: &str,
    ) -> Result<String, NoSignalKeys> {
        let stream = stream_id.simple().to_string();
        let place = [tenant.as_str(), "authorization", &stream];
        self.seal.seal(&place, header.as_bytes()).ok_or(NoSignalKeys)
    }

    /// Opens it again; none if it is not what was encrypted for this stream.
    pub fn authorization(
        &self,
        tenant: &TenantId,
        stream_id: Uuid,
        wrapped: &str,
    ) -> Option<Zeroizing<String>> {
        let stream = stream_id.simple().to_string();
        let clear = self
            .seal
            .open(&[tenant.as_str(), "authorization", &stream], wrapped)?;
        std::str::from_utf8(&clear)
            .ok()
            .map(|text| Zeroizing::new(text.to_owned()))
    }

    /// A new key. Takes a good part of a second.
    pub fn make(&self, tenant: &TenantId) -> Result<SignalKeyMade, NoSignalKeys> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| NoSignalKeys)?;
        let (modulus, exponent) = public_parts(pair.public_key().as_ref()).ok_or(NoSignalKeys)?;
        let [modulus, exponent] = [modulus, exponent].map(|n| URL_SAFE_NO_PAD.encode(n));
        let kid = thumbprint(&modulus, &exponent);
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| NoSignalKeys)?;
        let place = [tenant.as_str(), "signing", &kid];
        let wrapped = self.seal.seal(&place, pkcs8.as_ref()).ok_or(NoSignalKeys)?;
        Ok(SignalKeyMade {
            kid,
            modulus,
            exponent,
            wrapped,
        })
    }

    /// The key that signs now.
    pub fn signer(&self, tenant: &TenantId, signals: &Signals, now: Timestamp) -> Option<Arc<Signer>> {
        let SignalKeyMade { kid, wrapped, .. } = &signals.signing(now)?.made;
        let mut opened = self.opened.lock();
        if let Some(signer) = opened.get(kid) {
            return Some(signer.clone());
        }
        let place = [tenant.as_str(), "signing", kid];
        let pkcs8 = self.seal.open(&place, wrapped)?;
        let pair = RsaKeyPair::from_pkcs8(&pkcs8).ok()?;
        let header = json!({"typ": TYPE, "alg": "RS256", "kid": kid});
        let signer = Arc::new(Signer {
            header: URL_SAFE_NO_PAD.encode(header.to_string()),
            pair,
        });
        opened.insert(kid.clone(), signer.clone());
        Some(signer)
    }
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017, appendix A.1.1), without leading zeros.
fn public_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = element(der, 0x30)?;
    let (modulus, rest) = element(sequence, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    let unsigned = |n: &'_ [u8]| n.iter().position(|b| *b != 0);
    Some((&modulus[unsigned(modulus)?..], &exponent[unsigned(exponent)?..]))
}

/// The content of the element of DER with which `bytes` begins, and what comes after it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = digits
                .iter()
                .try_fold(0usize, |n, b| n.checked_mul(256)?.checked_add(usize::from(*b)))?;
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

/// RFC 7638: the members in this order, without spaces.
fn thumbprint(modulus: &str, exponent: &str) -> String {
    let members = format!(r#"{{"e":"{exponent}","kty":"RSA","n":"{modulus}"}}"#);
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()))
}

/// All public keys as a JWK set (RFC 7517), newest first.
pub fn jwks(signals: &Signals) -> Value {
    let keys: Vec<_> = signals
        .keys
        .iter()
        .rev()
        .map(|key| &key.made)
        .map(|key| {
            json!({
                "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.kid, "n": key.modulus, "e": key.exponent,
            })
        })
        .collect();
    json!({ "keys": keys })
}

/// A key that signs.
pub struct Signer {
    /// The encoded JOSE header.
    header: String,
    pair: RsaKeyPair,
}

impl Signer {
    /// The SET of these claims (RFC 8417), signed; the same bytes each time.
    pub fn sign(&self, claims: &Value) -> Result<String, NoSignalKeys> {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        let mut token = format!("{}.{payload}", self.header);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                token.as_bytes(),
                &mut signature,
            )
            .map_err(|_| NoSignalKeys)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::domain::signals::SignalKey;

    #[test]
    fn what_is_wrapped_opens_for_its_stream_only() {
        let keys = SignalKeys::new(&Secret::new([1; 32])).unwrap();
        let others = SignalKeys::new(&Secret::new([2; 32])).unwrap();
        let (tenant, id) = (TenantId::default(), Uuid::from_u128(7));
        let wrapped = keys.wrap_authorization(&tenant, id, "Bearer hush").unwrap();
        assert!(!wrapped.contains("hush"));
        let open = |keys: &SignalKeys, id, text: &str| {
            keys.authorization(&tenant, id, text)
                .map(|t| t.as_str().to_owned())
        };
        assert_eq!(open(&keys, id, &wrapped).as_deref(), Some("Bearer hush"));
        assert_eq!(open(&others, id, &wrapped), None);
        assert_eq!(open(&keys, Uuid::from_u128(8), &wrapped), None);
        for text in ["", "A", "!", "AAAA"] {
            assert_eq!(open(&keys, id, text), None);
        }
        let mut altered = URL_SAFE_NO_PAD.decode(&wrapped).unwrap();
        altered[20] ^= 1;
        assert_eq!(open(&keys, id, &URL_SAFE_NO_PAD.encode(altered)), None);
    }

    #[test]
    fn a_key_is_the_same_on_every_node_that_has_the_secret() {
        let keys = SignalKeys::new(&Secret::new([1; 32])).unwrap();
        let again = SignalKeys::new(&Secret::new([1; 32])).unwrap();
        let others = SignalKeys::new(&Secret::new([2; 32])).unwrap();
        let tenant = TenantId::default();
        let made = keys.make(&tenant).unwrap();
        assert_eq!(
            (made.exponent.as_str(), made.modulus.len()),
            ("AQAB", 342),
            "2048 bits"
        );
        let noon = Timestamp::from_millis(1_795_000_000_000);
        let signals = Signals {
            keys: vec![SignalKey {
                made,
                signs_from: noon,
            }],
            ..Signals::default()
        };
        let claims = json!({"iss": "https://id.example.com"});
        let [one, two] = [&keys, &again].map(|k| {
            let signer = k.signer(&tenant, &signals, noon).unwrap();
            signer.sign(&claims).unwrap()
        });
        assert_eq!(one, two);
        assert!(others.signer(&tenant, &signals, noon).is_none());
        assert!(keys.signer(&tenant, &Signals::default(), noon).is_none());
        let set = jwks(&signals);
        assert_eq!(set["keys"][0]["kid"], json!(signals.keys[0].made.kid));
        assert!(set["keys"][0].get("d").is_none());
    }
}
