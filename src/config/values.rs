//! Values of options as people write them: `15m`, `64MiB`, `10.0.0.1,10.0.0.2`, `eddsa`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use gatelog_events::log::kafka::SaslMechanism;
use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::auth::keys::SigningAlgorithm;
use crate::auth::policy::Policy;
use crate::cluster::owners::{InvalidNodeUrl, NodeUrl};
use crate::feeds::webhook::network::IpNetwork;

/// A text that is not a value of its option. The text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(&'static str);

/// A length of time, written as whole numbers with units from `ms` to `d`, such as `15m` or `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl Span {
    /// A number of whole seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

/// Splits off the number at the start of `text`.
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl FromStr for Span {
    type Err = Expected;
    fn from_str(text: &str) -> Result<Self, Expected> {
        let bad = || Expected("a length of time with its unit (ms, s, m, h or d), such as 15m or 1h30m");
        let mut total = 0u64;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let (n, after) = number(rest).ok_or_else(bad)?;
            let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let (_, ms) = UNITS.into_iter().find(|(u, _)| *u == unit).ok_or_else(bad)?;
            total = n
                .checked_mul(ms)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(bad)?;
            rest = after;
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        if ms == 0 {
            return f.write_str("0s");
        }
        let largest = UNITS.into_iter().rev().find(|(_, unit)| ms.is_multiple_of(*unit));
        let (unit, size) = largest.unwrap_or(UNITS[0]);
        write!(f, "{}{unit}", ms / size)
    }
}

/// A number of bytes, plain or with `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

const SIZES: [(&str, usize); 4] = [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl FromStr for Size {
    type Err = Expected;
    fn from_str(text: &str) -> Result<Self, Expected> {
        let bad = || Expected("a number of bytes, such as 65536, 64KiB, 128MiB or 1GiB");
        let (n, unit) = number(text.trim()).ok_or_else(bad)?;
        let (_, bytes) = SIZES
            .into_iter()
            .find(|(u, _)| *u == unit.trim_start())
            .ok_or_else(bad)?;
        usize::try_from(n)
            .ok()
            .and_then(|n| n.checked_mul(bytes))
            .map(Self)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, size): &(&str, usize)| self.0 > 0 && self.0.is_multiple_of(*size);
        let (unit, size) = SIZES.into_iter().rev().find(fits).unwrap_or(SIZES[0]);
        write!(f, "{}{unit}", self.0 / size)
    }
}

/// IP addresses, separated by commas; in the file an array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Addresses(pub Vec<IpAddr>);

impl FromStr for Addresses {
    type Err = Expected;
    fn from_str(text: &str) -> Result<Self, Expected> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.parse())
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|_| Expected("IP addresses separated by commas, such as 10.0.0.1,10.0.0.2"))
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Vec::<String>::deserialize(d)?
            .join(",")
            .parse()
            .map_err(D::Error::custom)
    }
}

/// Networks, separated by commas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<IpNetwork>);

impl FromStr for Networks {
    type Err = Expected;
    fn from_str(text: &str) -> Result<Self, Expected> {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.parse())
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|_| {
                Expected("networks in CIDR notation separated by commas, such as 10.0.0.0/8,fd00::/8")
            })
    }
}

impl Serialize for Networks {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for Networks {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Vec::<String>::deserialize(d)?
            .join(",")
            .parse()
            .map_err(D::Error::custom)
    }
}

/// The URL of this node for others; empty where there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertise(pub Option<NodeUrl>);

impl FromStr for Advertise {
    type Err = Expected;
    fn from_str(text: &str) -> Result<Self, Expected> {
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        text.parse().map(|url| Self(Some(url))).map_err(|InvalidNodeUrl| {
            Expected("a URL of this node without path, such as http://gatelog-1.internal:8080")
        })
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |url| url.fmt(f))
    }
}

impl<'de> Deserialize<'de> for Advertise {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// A secret, which is never shown.
#[derive(Debug, Clone)]
pub struct Hidden(pub SecretString);

impl FromStr for Hidden {
    type Err = Expected;
    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        if text.len() >= 8 && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(SecretString::from(text)))
        } else {
            Err(Expected(
                "at least 8 characters of ASCII without spaces; 32 random ones are better",
            ))
        }
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        zeroize::Zeroizing::new(String::deserialize(d)?)
            .parse()
            .map_err(D::Error::custom)
    }
}

macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )+};
}
as_text!(Span, Size, Advertise);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(usize),
            Text(String),
        }
        match Written::deserialize(d)? {
            Written::Number(n) => Ok(Self(n)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// How access tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signing {
    /// Ed25519.
    #[value(name = "eddsa")]
    EdDsa,
    /// ECDSA on P-256, for clients that cannot do Ed25519.
    #[value(name = "es256")]
    Es256,
}

impl From<Signing> for SigningAlgorithm {
    fn from(signing: Signing) -> Self {
        match signing {
            Signing::EdDsa => SigningAlgorithm::EdDsa,
            Signing::Es256 => SigningAlgorithm::Es256,
        }
    }
}

/// Where the event log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// In the data folder, for one node.
    Embedded,
    /// In Apache Kafka, for any number of nodes.
    Kafka,
}

/// What becomes of logins while the log cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogAway {
    /// They are answered with 503
    Refuse,
    /// They are kept in a local file, answered, and recorded when the log is back
    Spool,
}

/// How connections to Kafka are protected: its `security.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaSecurity {
    /// Neither encrypted nor authenticated
    Plaintext,
    /// TLS
    Ssl,
    /// A user, but no encryption
    #[value(name = "sasl_plaintext")]
    SaslPlaintext,
    /// TLS and a user
    #[value(name = "sasl_ssl")]
    SaslSsl,
}

/// How a node proves to Kafka who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaMechanism {
    /// The password crosses the connection
    Plain,
    #[value(name = "scram-sha-256")]
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[value(name = "scram-sha-512")]
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl From<KafkaMechanism> for SaslMechanism {
    fn from(mechanism: KafkaMechanism) -> Self {
        match mechanism {
            KafkaMechanism::Plain => SaslMechanism::Plain,
            KafkaMechanism::ScramSha256 => SaslMechanism::ScramSha256,
            KafkaMechanism::ScramSha512 => SaslMechanism::ScramSha512,
        }
    }
}

/// What a new password must fulfil.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum PasswordPolicy {
    /// At least 15 characters (NIST SP 800-63B-4, where the password is the only factor).
    #[value(name = "nist-4")]
    #[serde(rename = "nist-4")]
    Nist4,
    /// At least 8 characters (OWASP ASVS 5.0, level 1).
    #[value(name = "asvs-l1")]
    #[serde(rename = "asvs-l1")]
    AsvsL1,
}

impl From<PasswordPolicy> for Policy {
    fn from(policy: PasswordPolicy) -> Self {
        match policy {
            PasswordPolicy::Nist4 => Policy::NIST_4,
            PasswordPolicy::AsvsL1 => Policy::ASVS_L1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, ms) in [
            ("15m", 900_000),
            ("30d", 30 * 86_400_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("0s", 0),
            (" 5s ", 5_000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_millis(), ms, "{text}");
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span, "{text}");
        }
        for text in [
            "",
            "15",
            "m",
            "15 minutes",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "1h30",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("128 MiB", 128 << 20),
            ("1GiB", 1 << 30),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string().parse::<Size>().unwrap(), size, "{text}");
        }
        for text in ["", "KiB", "1KB", "1.5MiB", "-1", "99999999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!("".parse(), Ok(Addresses::default()));
        let two: Addresses = "10.0.0.1, ::1".parse().unwrap();
        assert_eq!(
            two.0,
            ["10.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
        assert!("proxy.internal".parse::<Addresses>().is_err());
    }

    #[test]
    fn a_secret_is_not_repeated() {
        for text in ["short", "with a space in it", "ümlautümlaut"] {
            let error = text.parse::<Hidden>().unwrap_err().to_string();
            assert!(!error.contains(text), "{error}");
        }
        assert!(!format!("{:?}", "0123456789abcdef".parse::<Hidden>().unwrap()).contains("0123"));
    }
}
