//! Which node owns which partition, as the claims in the log say.
//!
//! This is knowledge for forwarding only. It may be behind the log, and then a command goes to a node that refuses it: who
//! may write is decided by the log's order alone.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::Place;
use crate::auth::{NoRandomness, random};
use crate::writer::{ClaimBook, Claims};

/// One run of a node: drawn anew at each start, so that what was sent to an earlier run is not taken by a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Uuid);

impl NodeId {
    /// A new one.
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(uuid::Builder::from_random_bytes(random()?).into_uuid()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The URL of a node, without path: `http://gatelog-1:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct NodeUrl(Arc<str>);

/// A text is not the URL of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a URL of a node without path, such as http://gatelog-1.internal:8080")]
pub struct InvalidNodeUrl;

impl FromStr for NodeUrl {
    type Err = InvalidNodeUrl;
    fn from_str(text: &str) -> Result<Self, InvalidNodeUrl> {
        let text = text.trim();
        let url = reqwest::Url::parse(text).map_err(|_| InvalidNodeUrl)?;
        let bare = matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|h| !h.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && !text.ends_with('/')
            && url.query().is_none()
            && url.fragment().is_none();
        if bare {
            Ok(Self(text.into()))
        } else {
            Err(InvalidNodeUrl)
        }
    }
}

impl<'de> Deserialize<'de> for NodeUrl {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub id: NodeId,
    pub url: NodeUrl,
    /// What tells its secrets from others, as [`ClaimNote::secrets`].
    pub secrets: Option<String>,
}

/// The value of a claim: who claims, and where they are reached. JSON; fields that are not known are ignored. The value
/// is empty where nobody else can reach the owner, as on the embedded log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimNote {
    pub node: NodeId,
    pub url: NodeUrl,
    /// What tells the node's secrets from others that all nodes must have in common, and that may be replaced:
    /// [`Secrets::replaceable`](crate::auth::secrets::Secrets::replaceable).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
}

impl ClaimNote {
    /// As it stands in the log.
    pub fn to_bytes(&self) -> Bytes {
        // Two strings: this cannot fail, and an empty value would say that nobody can reach this node.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    fn read(value: &[u8]) -> Option<NodeAddress> {
        if value.is_empty() {
            return None;
        }
        match serde_json::from_slice::<ClaimNote>(value) {
            Ok(note) => Some(NodeAddress {
                id: note.node,
                url: note.url,
                secrets: note.secrets,
            }),
            Err(e) => {
                tracing::warn!(error = %e, "a claim does not say who owns the partition");
                None
            }
        }
    }
}

struct Owner {
    epoch: Offset,
    address: Option<NodeAddress>,
}

/// What is known of owners. Shared by whoever reads the log and whoever forwards.
pub struct Owners {
    of: RwLock<HashMap<Place, Owner>>,
    /// Grows with each claim that changes something.
    changes: watch::Sender<u64>,
}

impl Default for Owners {
    fn default() -> Self {
        Self {
            of: RwLock::default(),
            changes: watch::channel(0).0,
        }
    }
}

impl Owners {
    /// What this node's writer puts into its claims, and tells of those it reads.
    pub fn claims(self: &Arc<Self>, note: Option<&ClaimNote>) -> Claims {
        Claims {
            note: note.map(ClaimNote::to_bytes).unwrap_or_default(),
            book: self.clone(),
        }
    }

    /// The newest owner, if it can be reached.
    pub fn owner(&self, stream: Stream, partition: Partition) -> Option<NodeAddress> {
        self.of
            .read()
            .get(&(stream, partition))
            .and_then(|owner| owner.address.clone())
    }

    /// Whether the newest claim of any partition is this node's.
    pub fn owns_any(&self, node: NodeId) -> bool {
        let of = self.of.read();
        of.values()
            .filter_map(|owner| owner.address.as_ref())
            .any(|address| address.id == node)
    }

    /// The other nodes that own anything, as far as is known, but for the owner of a place. Always in the same order.
    pub fn others(&self, me: NodeId, (stream, partition): Place) -> Vec<NodeAddress> {
        let owner = self.owner(stream, partition);
        let of = self.of.read();
        let mut others: Vec<_> = of.values().filter_map(|owner| owner.address.clone()).collect();
        others.retain(|node| node.id != me && Some(node) != owner.as_ref());
        others.sort_by_key(|node| node.id.0);
        others.dedup();
        others
    }

    /// Tells of every change of what is known.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl ClaimBook for Owners {
    /// A claim's offset is the epoch, and the newest epoch counts, in whatever order claims are read.
    fn learn(&self, at: Position, value: &[u8]) {
        {
            let (place, epoch) = ((at.stream, at.partition), at.offset);
            let mut of = self.of.write();
            if of.get(&place).is_some_and(|known| known.epoch >= epoch) {
                return;
            }
            let address = ClaimNote::read(value);
            of.insert(place, Owner { epoch, address });
        }
        self.changes.send_modify(|n| *n += 1);
    }

    fn epoch(&self, stream: Stream, partition: Partition) -> Option<Offset> {
        self.of.read().get(&(stream, partition)).map(|owner| owner.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(3);

    fn note(n: u128) -> ClaimNote {
        ClaimNote {
            node: NodeId(Uuid::from_u128(n)),
            url: format!("http://node-{n}:8080").parse().unwrap(),
            secrets: None,
        }
    }

    fn claim(offset: Offset) -> Position {
        Position {
            stream: Stream::Identity,
            partition: P,
            offset,
        }
    }

    fn owner(owners: &Owners) -> Option<u128> {
        owners.owner(Stream::Identity, P).map(|a| a.id.0.as_u128())
    }

    #[test]
    fn the_newest_epoch_wins_in_whatever_order_claims_are_read() {
        let owners = Owners::default();
        assert_eq!(owner(&owners), None);
        let changes = owners.changes();
        for (epoch, value, expected) in [
            (5, note(1).to_bytes(), Some(1)),
            (4, note(2).to_bytes(), Some(1)),
            (5, note(2).to_bytes(), Some(1)),
            (9, note(2).to_bytes(), Some(2)),
            // Its owner cannot be reached: the one before must not be asked.
            (12, Bytes::new(), None),
            (13, Bytes::from_static(b"{\"node\":7}"), None),
            (20, note(3).to_bytes(), Some(3)),
        ] {
            owners.learn(claim(epoch), &value);
            assert_eq!(owner(&owners), expected, "{epoch}");
        }
        assert_eq!(owners.epoch(Stream::Identity, P), Some(20));
        assert_eq!(*changes.borrow(), 5, "only what changes something is told");
        assert_eq!(owners.owner(Stream::Activity, P), None);
        assert_eq!(owners.owner(Stream::Identity, Partition(4)), None);
    }

    #[test]
    fn the_writer_tells_of_claims() {
        let owners = Arc::new(Owners::default());
        let claims = owners.claims(Some(&note(1)));
        assert_eq!(ClaimNote::read(&claims.note).unwrap().id.0.as_u128(), 1);
        claims.book.learn(claim(8), &note(2).to_bytes());
        assert_eq!(owner(&owners), Some(2));
        assert!(owners.claims(None).note.is_empty());
    }

    #[test]
    fn the_note_is_frozen() {
        let text = r#"{"node":"00000000-0000-0000-0000-000000000001","url":"http://node-1:8080"}"#;
        assert_eq!(note(1).to_bytes(), text.as_bytes());
        let with_secrets = ClaimNote {
            secrets: Some("0a".to_owned()),
            ..note(1)
        };
        let longer = text.replace('}', r#","secrets":"0a"}"#);
        assert_eq!(with_secrets.to_bytes(), longer.as_bytes());
        let newer =
            r#"{"node":"00000000-0000-0000-0000-000000000001","url":"http://node-1:8080","zone":"a"}"#;
        assert_eq!(ClaimNote::read(newer.as_bytes()).unwrap().url, note(1).url);
    }

    #[test]
    fn urls_of_nodes() {
        for text in [
            "http://gatelog-1:8080",
            "https://10.0.0.1",
            "http://[::1]:80",
            " http://a ",
        ] {
            assert!(text.parse::<NodeUrl>().is_ok(), "{text}");
        }
        for text in [
            "",
            "gatelog-1:8080",
            "ftp://a",
            "http://",
            "http://a/",
            "http://a/x",
            "http://a?x",
            "http://a#x",
            "http://user:secret@a",
            "http://a b",
        ] {
            assert_eq!(text.parse::<NodeUrl>(), Err(InvalidNodeUrl), "{text}");
        }
    }
}
