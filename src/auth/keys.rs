//! Signing keys: a folder of private files, the newest of which signs, and all of which are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gatelog_events::clock::Timestamp;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::private_file::{self, PrivateFileError};

/// How tokens are signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum SigningAlgorithm {
    /// Ed25519.
    #[default]
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
}

impl SigningAlgorithm {
    /// The `alg` of JOSE.
    pub fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

/// Why the keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error("{path} is not a signing key of Gatelog", path = .0.display())]
    Malformed(PathBuf),
    #[error("a signing key could not be made")]
    Generation,
}

/// A key file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile<'a> {
    kid: &'a str,
    alg: SigningAlgorithm,
    created: Timestamp,
    /// PKCS#8 in base64; version 1 for Ed25519, as most libraries expect.
    pkcs8: &'a str,
}

enum Pair {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
}

/// One signing key.
pub struct SigningKey {
    kid: String,
    algorithm: SigningAlgorithm,
    created: Timestamp,
    pair: Pair,
    public: ParsedPublicKey,
    jwk: serde_json::Value,
    /// The encoded JOSE header of every access token that this key signs.
    header: String,
}

impl SigningKey {
    /// The key's RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// When the key was made.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    pub(super) fn header(&self) -> &str {
        &self.header
    }

    /// Signs a JWS signing input (RFC 7515); `None` only if the system gives no randomness.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Ed(pair) => pair.try_sign(message).ok().map(|s| s.as_ref().to_vec()),
            Pair::Ec(pair) => pair
                .sign(&SystemRandom::new(), message)
                .ok()
                .map(|s| s.as_ref().to_vec()),
        }
    }

    /// Whether this key made the signature, under this key's algorithm and no other.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }

    fn generate(algorithm: SigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let pkcs8 = match algorithm {
            SigningAlgorithm::EdDsa => Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()),
            SigningAlgorithm::Es256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).and_then(|pair| pair.to_pkcs8v1())
            }
        };
        let pkcs8 = pkcs8.map_err(|_| KeyError::Generation)?;
        Ok(Zeroizing::new(pkcs8.as_ref().to_vec()))
    }

    fn from_pkcs8(pkcs8: &[u8], algorithm: SigningAlgorithm, created: Timestamp) -> Option<Self> {
        let (pair, public, members) = match algorithm {
            SigningAlgorithm::EdDsa => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
                let x = pair.public_key().as_ref();
                let public = ParsedPublicKey::new(&ED25519, x).ok()?;
                let members = json!({"crv": "Ed25519", "kty": "OKP", "x": URL_SAFE_NO_PAD.encode(x)});
                (Pair::Ed(pair), public, members)
            }
            SigningAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
                let point = pair.public_key().as_ref();
                let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
                // An uncompressed point: 04, x, y.
                let (x, y) = (point.get(1..33)?, point.get(33..65)?);
                let [x, y] = [x, y].map(|n| URL_SAFE_NO_PAD.encode(n));
                (
                    Pair::Ec(pair),
                    public,
                    json!({"crv": "P-256", "kty": "EC", "x": x, "y": y}),
                )
            }
        };
        let kid = thumbprint(&members);
        let mut jwk = members;
        jwk["kid"] = json!(kid);
        jwk["alg"] = json!(algorithm.name());
        jwk["use"] = json!("sig");
        let header = format!(r#"{{"typ":"at+jwt","alg":"{}","kid":"{kid}"}}"#, algorithm.name());
        Some(Self {
            kid,
            algorithm,
            created,
            pair,
            public,
            jwk,
            header: URL_SAFE_NO_PAD.encode(header),
        })
    }
}

/// RFC 7638: SHA-256 of the required members in lexicographic order, which is the order they are written in above.
fn thumbprint(members: &serde_json::Value) -> String {
    let names = ["crv", "kty", "x", "y"];
    let canonical: Vec<String> = names
        .iter()
        .filter_map(|n| Some(format!("\"{n}\":{}", members.get(n)?)))
        .collect();
    let canonical = format!("{{{}}}", canonical.join(","));
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
}

/// The keys in use, newest first, and the folder that holds them.
pub struct KeyRing {
    folder: PathBuf,
    algorithm: SigningAlgorithm,
    keys: RwLock<Arc<[Arc<SigningKey>]>>,
}

impl KeyRing {
    /// Reads all keys of the folder, and makes one of `algorithm` if there is none of it.
    pub fn open(folder: &Path, algorithm: SigningAlgorithm, now: Timestamp) -> Result<Self, KeyError> {
        private_file::create_folder(folder)?;
        let ring = Self {
            folder: folder.to_owned(),
            algorithm,
            keys: RwLock::new(Arc::new([])),
        };
        ring.reload()?;
        if ring.newest().is_none() {
            ring.rotate(now)?;
        }
        Ok(ring)
    }

    /// Reads the folder again, such as after another node has rotated.
    pub fn reload(&self) -> Result<(), KeyError> {
        let mut keys = Vec::new();
        for path in private_file::list(&self.folder)? {
            if path.extension().is_some_and(|e| e == "key") {
                keys.push(Arc::new(read_key(&path)?));
            }
        }
        keys.sort_by(|a, b| (b.created, &b.kid).cmp(&(a.created, &a.kid)));
        *self.keys.write() = keys.into();
        Ok(())
    }

    /// Makes a new key, which signs from now on. Older ones stay published, so what they signed stays valid.
    pub fn rotate(&self, now: Timestamp) -> Result<Arc<SigningKey>, KeyError> {
        let pkcs8 = SigningKey::generate(self.algorithm)?;
        let key = SigningKey::from_pkcs8(&pkcs8, self.algorithm, now).ok_or(KeyError::Generation)?;
        let encoded = Zeroizing::new(STANDARD.encode(&*pkcs8));
        let file = KeyFile {
            kid: &key.kid,
            alg: self.algorithm,
            created: now,
            pkcs8: &encoded,
        };
        let text = serde_json::to_vec(&file).map_err(|_| KeyError::Generation)?;
        private_file::create(&self.path_of(&key), &Zeroizing::new(text))?;
        let key = Arc::new(key);
        let mut keys = self.keys.write();
        let newest_first = std::iter::once(&key).chain(keys.iter()).cloned();
        *keys = newest_first.collect();
        Ok(key)
    }

    /// Removes keys that were replaced at least `keep` ago; `keep` must be longer than any token lives.
    pub fn prune(&self, now: Timestamp, keep: Duration) -> Result<(), KeyError> {
        let mut keys = self.keys.write();
        let mut kept: Vec<Arc<SigningKey>> = Vec::new();
        for key in keys.iter() {
            let signs = !kept.iter().any(|k| k.algorithm == self.algorithm);
            let replaced = kept.last().map(|k| k.created);
            if signs || replaced.is_none_or(|at| now.since(at) < keep) {
                kept.push(Arc::clone(key));
            } else {
                private_file::remove(&self.path_of(key))?;
            }
        }
        *keys = kept.into();
        Ok(())
    }

    /// The key that signs: the newest of the configured algorithm.
    pub fn newest(&self) -> Option<Arc<SigningKey>> {
        self.find(|k| k.algorithm == self.algorithm)
    }

    /// The key whose tokens have exactly this encoded JOSE header.
    pub(super) fn by_header(&self, header: &str) -> Option<Arc<SigningKey>> {
        self.find(|k| k.header == header)
    }

    /// All public keys as a JWK set (RFC 7517), newest first.
    pub fn jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = self.keys.read().iter().map(|k| k.jwk.clone()).collect();
        json!({ "keys": keys })
    }

    fn find(&self, wanted: impl Fn(&SigningKey) -> bool) -> Option<Arc<SigningKey>> {
        self.keys.read().iter().find(|k| wanted(k)).cloned()
    }

    fn path_of(&self, key: &SigningKey) -> PathBuf {
        self.folder.join(format!("{}.key", key.kid))
    }
}

fn read_key(path: &Path) -> Result<SigningKey, KeyError> {
    let malformed = || KeyError::Malformed(path.to_owned());
    let text = private_file::read(path)?;
    let file: KeyFile<'_> = serde_json::from_slice(&text).map_err(|_| malformed())?;
    let pkcs8 = Zeroizing::new(STANDARD.decode(file.pkcs8).map_err(|_| malformed())?);
    SigningKey::from_pkcs8(&pkcs8, file.alg, file.created)
        .filter(|key| key.kid == file.kid)
        .ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    const T0: Timestamp = Timestamp::from_millis(1_795_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn thumbprint_of_rfc_8037() {
        let members =
            json!({"crv": "Ed25519", "kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!(
            thumbprint(&members),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    #[test]
    fn keys_are_kept_rotated_and_pruned() {
        for algorithm in [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("keys");
            let ring = KeyRing::open(&folder, algorithm, T0).unwrap();
            let first = ring.newest().unwrap();
            let again = KeyRing::open(&folder, algorithm, T0.plus(HOUR)).unwrap();
            assert_eq!(again.newest().unwrap().kid(), first.kid());
            let second = ring.rotate(T0.plus(HOUR)).unwrap();
            assert_eq!(ring.newest().unwrap().kid(), second.kid());
            again.reload().unwrap();
            assert_eq!(again.newest().unwrap().kid(), second.kid());
            assert_eq!(again.jwks(), ring.jwks());
            assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
            for key in ring.jwks()["keys"].as_array().unwrap() {
                assert!(key.get("d").is_none(), "no private part is published");
            }
            ring.prune(T0.plus(HOUR), HOUR).unwrap();
            assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
            ring.prune(T0.plus(HOUR * 2), HOUR).unwrap();
            assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 1);
            assert_eq!(KeyRing::open(&folder, algorithm, T0).unwrap().jwks(), ring.jwks());
        }
    }

    #[test]
    fn changing_the_algorithm_adds_a_key() {
        let dir = tempfile::tempdir().unwrap();
        KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0).unwrap();
        let ring = KeyRing::open(dir.path(), SigningAlgorithm::Es256, T0.plus(HOUR)).unwrap();
        assert_eq!(ring.newest().unwrap().algorithm, SigningAlgorithm::Es256);
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
        ring.prune(T0.plus(HOUR * 9), HOUR).unwrap();
        assert_eq!(ring.newest().unwrap().algorithm, SigningAlgorithm::Es256);
    }

    #[test]
    fn exposed_or_altered_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0).unwrap();
        let path = ring.path_of(&ring.newest().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let open = || KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0);
        assert!(matches!(
            open(),
            Err(KeyError::File(PrivateFileError::Exposed { .. }))
        ));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"kid\":\"", "\"kid\":\"x")).unwrap();
        assert!(matches!(open(), Err(KeyError::Malformed(_))));
    }
}
