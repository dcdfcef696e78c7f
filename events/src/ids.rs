//! Identities: tenants, users, sessions, events, commits, and where in the log something stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;

/// What went wrong when a text should have been an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is not valid: {expected}")]
pub struct InvalidId {
    /// Which identity was read.
    pub what: &'static str,
    /// The form that was expected.
    pub expected: &'static str,
}

/// A tenant's name: 1 to 63 lower-case letters, digits and hyphens, as in a DNS label (RFC 1035).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct TenantId(std::sync::Arc<str>);

impl TenantId {
    /// The tenant used until tenants are added.
    pub const DEFAULT: &'static str = "default";

    pub fn new(name: &str) -> Result<Self, InvalidId> {
        let ok = (1..=63).contains(&name.len())
            && !name.starts_with('-')
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok {
            Ok(Self(name.into()))
        } else {
            Err(InvalidId {
                what: "tenant",
                expected: "1 to 63 lower-case letters, digits or hyphens",
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        Self::new(&s).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Sixteen bits that say which partition something belongs to: `partition = shard mod N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shard(pub u16);

impl Shard {
    /// The partition of this shard among `partitions` partitions.
    pub fn partition(self, partitions: u16) -> Partition {
        Partition(self.0 % partitions.max(1))
    }
}

/// Number of a partition of a stream.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Partition(pub u16);

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Builds a UUIDv8 (RFC 9562, section 5.8): 48 bits of milliseconds, random bits, and the shard in the last 16 bits.
fn sharded_uuid(at: Timestamp, shard: Shard, random: [u8; 8]) -> Uuid {
    let mut bytes = [0u8; 16];
    bytes[..6].copy_from_slice(&at.millis().to_be_bytes()[2..]);
    bytes[6..14].copy_from_slice(&random);
    bytes[14..].copy_from_slice(&shard.0.to_be_bytes());
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn parse_hyphenated(what: &'static str, s: &str) -> Result<Uuid, InvalidId> {
    let expected = "a UUID of 36 characters, such as 0193e0a1-7c5a-8000-8000-00000000002a";
    match Uuid::try_parse(s) {
        Ok(u) if s.len() == 36 => Ok(u),
        _ => Err(InvalidId { what, expected }),
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                parse_hyphenated($what, s).map(Self)
            }
        }
    };
}

macro_rules! sharded_id {
    ($name:ident) => {
        impl $name {
            /// A new identity in `shard`. The caller hands in time and randomness.
            pub fn new(at: Timestamp, shard: Shard, random: [u8; 8]) -> Self {
                Self(sharded_uuid(at, shard, random))
            }

            /// When it was made, in whole milliseconds.
            pub fn time(&self) -> Timestamp {
                let b = self.0.as_bytes();
                Timestamp::from_millis(i64::from_be_bytes([
                    0, 0, b[0], b[1], b[2], b[3], b[4], b[5],
                ]))
            }

            /// The shard that the identity carries in its last 16 bits.
            pub fn shard(&self) -> Shard {
                let b = self.0.as_bytes();
                Shard(u16::from_be_bytes([b[14], b[15]]))
            }
        }
    };
}

uuid_id!(
    /// A user, and as the subject of data: the data subject. A UUIDv8 that carries its shard.
    UserId,
    "user id"
);
sharded_id!(UserId);
uuid_id!(
    /// A session. A UUIDv8 in its user's shard.
    SessionId,
    "session id"
);
sharded_id!(SessionId);
uuid_id!(
    /// An event (UUIDv7). Together with its source it is unique for ever.
    EventId,
    "event id"
);
uuid_id!(
    /// A commit. Random, or derived from an `Idempotency-Key`.
    CommitId,
    "commit id"
);
uuid_id!(
    /// An API key, without its secret.
    ApiKeyId,
    "API key id"
);

/// A named log. Each has the same number of partitions and the same partitioning.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Who can log in and what we know; kept for ever.
    Identity,
    /// Logins, sessions, lock-outs; kept by time.
    Activity,
}

impl Stream {
    pub const ALL: [Stream; 2] = [Stream::Identity, Stream::Activity];

    /// The frozen byte that stands for the stream in stored bytes. Retired codes are never used again.
    pub const fn code(self) -> u8 {
        match self {
            Stream::Identity => 1,
            Stream::Activity => 2,
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.code() == code)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Stream::Identity => "identity",
            Stream::Activity => "activity",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Place of a record in a partition. Ascending, not necessarily gapless (Kafka).
pub type Offset = u64;

/// Where a record stands in the log. Written `stream:partition:offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub stream: Stream,
    pub partition: Partition,
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.stream, self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let bad = || InvalidId {
            what: "position",
            expected: "stream:partition:offset, such as identity:3:1024",
        };
        let mut parts = s.split(':');
        let (Some(stream), Some(partition), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        Ok(Self {
            stream: Stream::ALL
                .into_iter()
                .find(|s| s.name() == stream)
                .ok_or_else(bad)?,
            partition: Partition(partition.parse().map_err(|_| bad())?),
            offset: offset.parse().map_err(|_| bad())?,
        })
    }
}

impl Serialize for Position {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_carries_its_time_and_its_shard() {
        for (millis, shard, random) in [
            (0, 0, [0; 8]),
            (1_795_000_000_123, 42, [255; 8]),
            ((1 << 48) - 1, 65_535, [7; 8]),
        ] {
            let id = SessionId::new(Timestamp::from_millis(millis), Shard(shard), random);
            assert_eq!((id.time().millis(), id.shard()), (millis, Shard(shard)));
        }
    }
}
