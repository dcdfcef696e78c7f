//! Signing keys: a folder of private files, one of which signs, and all of which are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gatelog_events::clock::{self, Timestamp};
use parking_lot::{Mutex, RwLock};
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
    /// A folder that is away for a moment must not end all tokens.
    #[error("{place} holds no signing key any more", place = .0.display())]
    Gone(PathBuf),
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

/// How long after it was made a key signs, where there is another: by then all nodes have read it, and whoever had asked one of
/// them for its key set just before has asked again.
pub const PUBLISHED: Duration = Duration::from_secs(420);

/// Between two looks into the folder for the key of a token that none here has signed.
const LOOK: Duration = Duration::from_secs(1);

/// The keys in use, newest first, and the folder that holds them.
pub struct KeyRing {
    folder: PathBuf,
    algorithm: SigningAlgorithm,
    keys: RwLock<Arc<[Arc<SigningKey>]>>,
    /// When the folder was read last.
    looked: Mutex<Instant>,
}

impl KeyRing {
    /// Reads all keys of the folder, and makes one of `algorithm` if there is none of it.
    pub fn open(folder: &Path, algorithm: SigningAlgorithm, now: Timestamp) -> Result<Self, KeyError> {
        private_file::create_folder(folder)?;
        let ring = Self::read(folder, algorithm)?;
        if !ring.has_own() {
            // Of nodes that start at once on a common folder one makes the key, and the others find it.
            let _alone = private_file::lock(folder)?;
            ring.reload()?;
            if !ring.has_own() {
                ring.rotate(now)?;
            }
        }
        Ok(ring)
    }

    /// Reads all keys of the folder.
    pub fn read(folder: &Path, algorithm: SigningAlgorithm) -> Result<Self, KeyError> {
        let ring = Self {
            folder: folder.to_owned(),
            algorithm,
            keys: RwLock::new(Arc::new([])),
            looked: Mutex::new(clock::monotonic()),
        };
        ring.reload()?;
        Ok(ring)
    }

    /// Reads the folder again, such as after `gatelog keys rotate-signing`, or after another node has made the first key.
    pub fn reload(&self) -> Result<(), KeyError> {
        *self.looked.lock() = clock::monotonic();
        let mut keys = Vec::new();
        for path in private_file::list(&self.folder)? {
            if path.extension().is_some_and(|e| e == "key") {
                keys.push(Arc::new(read_key(&path)?));
            }
        }
        keys.sort_by(|a, b| (b.created, &b.kid).cmp(&(a.created, &a.kid)));
        let mut known = self.keys.write();
        if keys.is_empty() && !known.is_empty() {
            return Err(KeyError::Gone(self.folder.clone()));
        }
        *known = keys.into();
        Ok(())
    }

    /// Makes a new key, which signs once it was [`PUBLISHED`]. Older ones stay published, so what they signed stays valid.
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

    /// Whether there is a key of the configured algorithm.
    pub fn has_own(&self) -> bool {
        self.find(|k| k.algorithm == self.algorithm).is_some()
    }

    /// The key that signs: the newest of the configured algorithm that was published for long enough; until one was, the newest
    /// of another algorithm, or else the oldest of all, which others know best.
    pub fn signs(&self, now: Timestamp) -> Option<Arc<SigningKey>> {
        self.find(|k| self.may_sign(k, now))
            .or_else(|| self.find(|k| is_published(k, now)))
            .or_else(|| self.keys.read().last().cloned())
    }

    fn may_sign(&self, key: &SigningKey, now: Timestamp) -> bool {
        key.algorithm == self.algorithm && is_published(key, now)
    }

    /// The key whose tokens have exactly this encoded JOSE header. One that another node made is looked for in the folder.
    pub(super) fn by_header(&self, header: &str) -> Option<Arc<SigningKey>> {
        let is_it = |k: &SigningKey| k.header == header;
        self.find(is_it).or_else(|| {
            if self.looked.lock().elapsed() < LOOK {
                return None;
            }
            if let Err(e) = self.reload() {
                tracing::error!(error = %e, "the keys that sign tokens cannot be read again");
            }
            self.find(is_it)
        })
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

fn is_published(key: &SigningKey, now: Timestamp) -> bool {
    now.since(key.created) >= PUBLISHED
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
    fn keys_are_kept_rotated_and_taken_away() {
        for algorithm in [SigningAlgorithm::EdDsa, SigningAlgorithm::Es256] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("keys");
            let ring = KeyRing::open(&folder, algorithm, T0).unwrap();
            let first = ring.signs(T0).unwrap();
            let again = KeyRing::open(&folder, algorithm, T0.plus(HOUR)).unwrap();
            assert_eq!(again.signs(T0.plus(HOUR)).unwrap().kid(), first.kid());
            let second = ring.rotate(T0.plus(HOUR)).unwrap();
            again.reload().unwrap();
            for ring in [&ring, &again] {
                let early = ring.signs(T0.plus(HOUR)).unwrap();
                assert_eq!(early.kid(), first.kid(), "nobody has heard of the new one");
                let late = ring.signs(T0.plus(HOUR + PUBLISHED)).unwrap();
                assert_eq!(late.kid(), second.kid());
            }
            assert_eq!(again.jwks(), ring.jwks());
            assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
            for key in ring.jwks()["keys"].as_array().unwrap() {
                assert!(key.get("d").is_none(), "no private part is published");
            }
            fs::remove_file(ring.path_of(&first)).unwrap();
            ring.reload().unwrap();
            assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 1);
            assert_eq!(ring.signs(T0.plus(HOUR)).unwrap().kid(), second.kid());
            fs::remove_file(ring.path_of(&second)).unwrap();
            assert!(
                matches!(ring.reload(), Err(KeyError::Gone(_))),
                "a folder that is away"
            );
            assert_eq!(ring.signs(T0.plus(HOUR)).unwrap().kid(), second.kid());
        }
    }

    #[test]
    fn changing_the_algorithm_adds_a_key() {
        let dir = tempfile::tempdir().unwrap();
        KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0).unwrap();
        let ring = KeyRing::open(dir.path(), SigningAlgorithm::Es256, T0.plus(HOUR)).unwrap();
        let signs = |hours| ring.signs(T0.plus(HOUR * hours)).unwrap().algorithm;
        assert_eq!(signs(1), SigningAlgorithm::EdDsa, "the other is not known yet");
        assert_eq!(signs(2), SigningAlgorithm::Es256);
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn of_nodes_that_start_at_once_on_a_common_folder_one_makes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let all_there = std::sync::Barrier::new(8);
        let jwks = || {
            all_there.wait();
            KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0)
                .unwrap()
                .jwks()
        };
        let sets: Vec<_> = std::thread::scope(|scope| {
            let nodes: Vec<_> = (0..8).map(|_| scope.spawn(jwks)).collect();
            nodes.into_iter().map(|node| node.join().unwrap()).collect()
        });
        assert_eq!(sets[0]["keys"].as_array().unwrap().len(), 1);
        assert!(sets.iter().all(|set| *set == sets[0]));
    }

    #[test]
    fn nodes_that_made_a_first_key_each_sign_with_the_same_one() {
        let dir = tempfile::tempdir().unwrap();
        let one = KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0).unwrap();
        let other = KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0).unwrap();
        other.rotate(T0.plus(Duration::from_millis(3))).unwrap();
        one.reload().unwrap();
        let by = |ring: &KeyRing| ring.signs(T0.plus(LOOK)).unwrap().kid().to_owned();
        assert_eq!(by(&one), by(&other));
    }

    #[test]
    fn exposed_or_altered_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(dir.path(), SigningAlgorithm::EdDsa, T0).unwrap();
        let path = ring.path_of(&ring.signs(T0).unwrap());
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
