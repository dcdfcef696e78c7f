//! The node's secrets: made at the first start, kept in `<data>/secrets/`, or handed in by the environment.

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::private_file::{self, PrivateFileError};
use super::{NoRandomness, random};

/// 256 secret bits, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes; never to be logged or copied around.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A MAC that tells it from others, and gives nothing of it away.
    fn fingerprint(&self, name: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.expose());
        let mac = hmac::sign(&key, format!("gatelog fingerprint v1: {name}").as_bytes());
        hex::encode(&mac.as_ref()[..16])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// All secrets of a node. Nodes of one installation share them.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Wraps the subject keys. Whoever loses it loses all personal data.
    pub master_key: Secret,
    /// Turns identifiers into the digests they are looked up by; changing it needs a rebuild of the views.
    pub identifier_pepper: Secret,
    /// Turns identifiers into shards. Can never change.
    pub routing_secret: Secret,
    /// Refresh tokens derive from it; changing it ends all sessions at their next refresh.
    pub refresh_secret: Secret,
    /// Commit ids derive from it and the `Idempotency-Key`.
    pub idempotency_secret: Secret,
}

/// Why the secrets could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// Made anew it would silently orphan what depends on it.
    #[error(
        "{path} is missing, and what this store holds depends on it; restore it from your backup or set {variable}",
        path = .path.display()
    )]
    Missing { path: PathBuf, variable: String },
    #[error("{place} does not hold 32 bytes in hexadecimal or base64")]
    Malformed { place: String },
    #[error("set either {0} or {0}_FILE, not both")]
    Ambiguous(String),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

/// File name and environment variable of each secret, in the order of the fields of [`Secrets`].
const NAMES: [(&str, &str); 5] = [
    ("master-key", "GATELOG_MASTER_KEY"),
    ("identifier-pepper", "GATELOG_IDENTIFIER_PEPPER"),
    ("routing-secret", "GATELOG_ROUTING_SECRET"),
    ("refresh-secret", "GATELOG_REFRESH_SECRET"),
    ("idempotency-secret", "GATELOG_IDEMPOTENCY_SECRET"),
];

impl Secrets {
    /// Reads the secrets, making those that nobody handed in if `folder` (`<data>/secrets`) does not exist yet and they may be
    /// made.
    ///
    /// `env` reads the environment. A variable such as `GATELOG_MASTER_KEY` (64 hexadecimal digits, or base64) or
    /// `GATELOG_MASTER_KEY_FILE` (the path of a private file with the same) takes the place of the file.
    pub fn open(
        folder: &Path,
        may_make: bool,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SecretsError> {
        let mut found = Vec::with_capacity(NAMES.len());
        for (_, variable) in NAMES {
            found.push(from_environment(variable, &env)?);
        }
        if may_make && !folder.exists() {
            make(folder, &found)?;
        }
        let mut all = Vec::with_capacity(NAMES.len());
        for ((file, variable), given) in NAMES.into_iter().zip(found) {
            all.push(match given {
                Some(secret) => secret,
                None => from_folder(&folder.join(file), variable)?,
            });
        }
        let mut all = all.into_iter();
        let mut next = || {
            all.next().ok_or_else(|| SecretsError::Malformed {
                place: folder.display().to_string(),
            })
        };
        Ok(Self {
            master_key: next()?,
            identifier_pepper: next()?,
            routing_secret: next()?,
            refresh_secret: next()?,
            idempotency_secret: next()?,
        })
    }
}

/// What may be told of the secrets that all nodes of a store must have in common, and which can never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprints {
    master_key: String,
    identifier_pepper: String,
    routing_secret: String,
}

impl Secrets {
    /// What tells these secrets from others.
    pub fn fingerprints(&self) -> Fingerprints {
        Fingerprints {
            master_key: self.master_key.fingerprint("master-key"),
            identifier_pepper: self.identifier_pepper.fingerprint("identifier-pepper"),
            routing_secret: self.routing_secret.fingerprint("routing-secret"),
        }
    }

    /// What tells those of these secrets from others that may change, if they do so on all nodes.
    pub fn replaceable(&self) -> String {
        self.refresh_secret.fingerprint("refresh-secret")
            + &self.idempotency_secret.fingerprint("idempotency-secret")
    }
}

impl Fingerprints {
    /// The names of those secrets that are not the same.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("master-key", self.master_key != other.master_key),
            (
                "identifier-pepper",
                self.identifier_pepper != other.identifier_pepper,
            ),
            ("routing-secret", self.routing_secret != other.routing_secret),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// Writes a random secret for each that was not handed in. The folder appears whole, so a crash leaves no half of it.
fn make(folder: &Path, found: &[Option<Secret>]) -> Result<(), SecretsError> {
    let temporary = folder.with_extension("new");
    private_file::create_folder(&temporary)?;
    for ((file, _), given) in NAMES.into_iter().zip(found) {
        if given.is_none() {
            let secret = Zeroizing::new(random::<32>()?);
            let text = Zeroizing::new(hex::encode(*secret) + "\n");
            private_file::create(&temporary.join(file), text.as_bytes())?;
        }
    }
    Ok(private_file::rename(&temporary, folder)?)
}

fn from_environment(
    variable: &str,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, SecretsError> {
    let file_variable = format!("{variable}_FILE");
    match (env(variable), env(&file_variable)) {
        (Some(_), Some(_)) => Err(SecretsError::Ambiguous(variable.to_owned())),
        (Some(text), None) => parse(variable, Zeroizing::new(text).as_bytes()).map(Some),
        (None, Some(path)) => {
            let bytes = private_file::read(Path::new(&path))?;
            parse(&path, &bytes).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn from_folder(path: &Path, variable: &str) -> Result<Secret, SecretsError> {
    if !path.exists() {
        return Err(SecretsError::Missing {
            path: path.to_owned(),
            variable: variable.to_owned(),
        });
    }
    parse(&path.display().to_string(), &private_file::read(path)?)
}

fn parse(place: &str, text: &[u8]) -> Result<Secret, SecretsError> {
    let text = text.trim_ascii();
    let mut bytes = [0u8; 32];
    let ok = if text.len() == 64 {
        hex::decode_to_slice(text, &mut bytes).is_ok()
    } else {
        let decoded = Zeroizing::new(STANDARD.decode(text).unwrap_or_default());
        decoded.len() == 32 && {
            bytes.copy_from_slice(&decoded);
            true
        }
    };
    if ok {
        Ok(Secret(bytes))
    } else {
        Err(SecretsError::Malformed {
            place: place.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn made_once_private_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data/secrets");
        let first = Secrets::open(&folder, true, none).unwrap();
        let second = Secrets::open(&folder, true, none).unwrap();
        assert_eq!(first.master_key.expose(), second.master_key.expose());
        assert_eq!(
            first.idempotency_secret.expose(),
            second.idempotency_secret.expose()
        );
        assert_ne!(first.master_key.expose(), first.identifier_pepper.expose());
        assert_eq!(mode(&folder), 0o700);
        for (file, _) in NAMES {
            assert_eq!(mode(&folder.join(file)), 0o600);
        }
    }

    #[test]
    fn environment_takes_precedence() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("secrets");
        let file = dir.path().join("pepper");
        fs::write(&file, STANDARD.encode([7u8; 32]) + "\n").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let env = |name: &str| match name {
            "GATELOG_MASTER_KEY" => Some("09".repeat(32)),
            "GATELOG_IDENTIFIER_PEPPER_FILE" => Some(file.display().to_string()),
            _ => None,
        };
        let secrets = Secrets::open(&folder, true, env).unwrap();
        assert_eq!(secrets.master_key.expose(), &[9; 32]);
        assert_eq!(secrets.identifier_pepper.expose(), &[7; 32]);
        assert!(!folder.join("master-key").exists());
        // Without the variable the master key is missing, and is not made anew.
        assert!(matches!(
            Secrets::open(&folder, true, none),
            Err(SecretsError::Missing { .. })
        ));
    }

    #[test]
    fn fingerprints_tell_which_secret_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let one = Secrets::open(&dir.path().join("one"), true, none).unwrap();
        let other = Secrets {
            routing_secret: Secret::new([3; 32]),
            refresh_secret: Secret::new([4; 32]),
            ..one.clone()
        };
        let told = one.fingerprints();
        assert_eq!(told.differences(&other.fingerprints()), ["routing-secret"]);
        assert!(told.differences(&one.clone().fingerprints()).is_empty());
        let text = serde_json::to_string(&told).unwrap();
        assert!(!text.contains(&hex::encode(one.master_key.expose())));
    }

    #[test]
    fn refusals_are_clear_and_tell_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("secrets");
        Secrets::open(&folder, true, none).unwrap();
        let path = folder.join("master-key");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let message = Secrets::open(&folder, true, none).unwrap_err().to_string();
        assert!(
            message.contains("chmod 600") && message.contains("0640"),
            "{message}"
        );

        let short = |name: &str| (name == "GATELOG_MASTER_KEY").then(|| "hunter2".to_owned());
        let message = Secrets::open(&folder, true, short).unwrap_err().to_string();
        assert_eq!(
            message,
            "GATELOG_MASTER_KEY does not hold 32 bytes in hexadecimal or base64"
        );

        let both = |name: &str| name.starts_with("GATELOG_MASTER_KEY").then(|| "x".to_owned());
        assert!(matches!(
            Secrets::open(&folder, true, both),
            Err(SecretsError::Ambiguous(_))
        ));
        assert_eq!(format!("{:?}", Secret::new([1; 32])), "Secret");
    }
}
