//! API keys: `glk_`, the key's id and a secret of 256 random bits, of which only a hash is kept.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::ids::ApiKeyId;
use secrecy::SecretString;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{NoRandomness, random};

/// The scope to follow one feed: this, and the feed's name.
pub const ONE_FEED: &str = "feeds:read:";

const PREFIX: &str = "glk_";
const ID_LEN: usize = 32;
const SECRET_LEN: usize = 43;

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What an API key may do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Scope { $($(#[$doc])* $name,)+ }

        impl Scope {
            /// All scopes.
            pub const ALL: &'static [Scope] = &[$(Scope::$name,)+];

            /// Its name, as in requests.
            pub const fn name(self) -> &'static str {
                match self { $(Scope::$name => $text,)+ }
            }
        }
    };
}

scopes! {
    /// Read users, their consents and sessions.
    UsersRead = "users:read",
    /// Change profile, address, password, roles and status.
    UsersWrite = "users:write",
    /// Erase users.
    UsersErase = "users:erase",
    /// Grant and withdraw consents.
    ConsentsWrite = "consents:write",
    /// Change plans.
    PlansWrite = "plans:write",
    /// Read timelines.
    TimelineRead = "timeline:read",
    /// Read statistics.
    StatisticsRead = "statistics:read",
    /// Define plans, purposes and notices; see and rebuild projections.
    SettingsWrite = "settings:write",
    /// List, create and revoke API keys.
    ApiKeysWrite = "api-keys:write",
    /// End sessions.
    SessionsWrite = "sessions:write",
    /// Register users without the limits that visitors have.
    RegistrationsWrite = "registrations:write",
    /// Follow all feeds; `feeds:read:` and a name is for one.
    FeedsRead = "feeds:read",
    /// Define and retire feeds.
    FeedsWrite = "feeds:write",
    /// See who was told of which withdrawal when.
    FeedsAudit = "feeds:audit",
    /// Make, change and delete streams of security events of one's own, and read them. Spelled as CAEP's interoperability
    /// profile has it.
    SsfManage = "ssf.manage",
    /// Read streams of security events of one's own.
    SsfRead = "ssf.read",
    /// Everything, also what is added later.
    All = "*",
}

impl Scope {
    /// The scope of this name. That for one feed is part of that for all.
    pub fn parse(name: &str) -> Option<Scope> {
        if name.strip_prefix(ONE_FEED).is_some_and(|feed| !feed.is_empty()) {
            return Some(Scope::FeedsRead);
        }
        Self::ALL.iter().copied().find(|s| s.name() == name)
    }
}

/// A new key: its id, its text to be shown once, and what is kept of it.
pub struct NewApiKey {
    pub id: ApiKeyId,
    /// The key itself.
    pub text: SecretString,
    /// SHA-256 of its secret, in hex.
    pub secret_sha256: String,
}

impl NewApiKey {
    /// A random key.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self::from_bytes(random()?, &random()?))
    }

    /// The key of these bytes: its id, and its secret.
    pub fn from_bytes(id: [u8; 16], secret: &[u8; 32]) -> Self {
        let id = uuid::Builder::from_custom_bytes(id).into_uuid();
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let hash = digest::digest(&digest::SHA256, secret.as_bytes());
        Self {
            id: ApiKeyId(id),
            text: format!("{PREFIX}{}_{secret}", id.as_simple()).into(),
            secret_sha256: hex::encode(hash),
        }
    }
}

/// A key as it was presented: its id, and the hash of its secret.
pub struct Presented {
    pub id: ApiKeyId,
    hash: digest::Digest,
}

impl Presented {
    /// Reads a key's text; none if it has not the form of one.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let (id, secret) = rest.split_at_checked(ID_LEN)?;
        let secret = secret.strip_prefix('_')?;
        let canonical = id
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !canonical || secret.len() != SECRET_LEN {
            return None;
        }
        Some(Self {
            id: ApiKeyId(Uuid::try_parse(id).ok()?),
            hash: digest::digest(&digest::SHA256, secret.as_bytes()),
        })
    }

    /// Whether its secret has this hash (hex). Takes the same time for each hash of the right length.
    pub fn matches(&self, secret_sha256: &str) -> bool {
        let mut stored = [0u8; 32];
        hex::decode_to_slice(secret_sha256, &mut stored).is_ok()
            && bool::from(stored.ct_eq(self.hash.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_key_is_recognised_and_only_in_its_exact_form() {
        let key = NewApiKey::generate().unwrap();
        let text = key.text.expose_secret();
        let presented = Presented::parse(text).unwrap();
        assert_eq!(presented.id, key.id);
        assert!(presented.matches(&key.secret_sha256));
        assert!(!presented.matches(&NewApiKey::generate().unwrap().secret_sha256));
        assert!(!presented.matches(""));
        for other in [
            text.to_uppercase(),
            text.replacen("glk_", "glk", 1),
            format!("{text}A"),
            format!(" {text}"),
            text[..text.len() - 1].to_owned(),
            "glk_".to_owned(),
            "glk_ä".repeat(20),
        ] {
            assert!(Presented::parse(&other).is_none(), "{other}");
        }
    }

    #[test]
    fn scopes_have_distinct_names() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.name()), Some(*scope));
        }
        assert_eq!(Scope::parse("users"), None);
    }
}
