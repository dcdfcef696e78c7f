//! How nodes prove to each other that they belong to one cluster.
//!
//! They share a secret. From it come two keys, one for requests and one for answers, each under a label of its own, so
//! that neither can stand for the other. A request carries
//!
//! ```text
//! Authorization: Gatelog-Node v=1, to=<run of the node that is meant>, at=<ms since 1970>, nonce=<128 random bits>, mac=<…>
//! ```
//!
//! and the MAC (HMAC-SHA-256) covers method, path, all of these and the SHA-256 of the body. The receiver takes it if it is
//! the node that is meant, if the clocks differ by no more than 30 seconds, and if it has not seen the nonce before. The
//! answer carries a MAC over the request's nonce and MAC, the status and the SHA-256 of the body: nobody in between can
//! invent an acknowledgement.
//!
//! Why nothing can be replayed, whatever the clocks do: a nonce is remembered for longer than its time stamp is taken, and
//! no stamp is taken that is as old as what was forgotten; and who was started anew, and has forgotten all, is another run,
//! for which the MAC is not good.
//!
//! This proves who sends; it hides nothing. Where others can listen between nodes, let them talk HTTPS.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gatelog_events::clock::Timestamp;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::owners::NodeId;
use super::wire::Refused;
use crate::auth::{NoRandomness, random};

/// Authentication scheme of requests.
pub const SCHEME: &str = "Gatelog-Node";

/// The header that authenticates an answer.
pub const ANSWER: &str = "gatelog-node-answer";

/// How far sender's and receiver's clocks may differ.
pub const TOLERANCE: Duration = Duration::from_secs(30);

/// Shortest secret, in bytes.
const MIN_SECRET: usize = 32;

/// Nonces that are remembered for each of two periods: 35,000 forwarded commands a second. Beyond it the node refuses.
const NONCES: usize = 1 << 21;

/// What all nodes of a cluster know: at least 256 secret bits. Not shown by `Debug`, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret(Arc<Zeroizing<Vec<u8>>>);

/// A text is not a secret of a cluster. The text itself is never part of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected at least 32 bytes in hexadecimal or base64, the same for all nodes; `openssl rand -hex 32` makes them"
)]
pub struct InvalidClusterSecret;

impl ClusterSecret {
    /// Reads 32 bytes or more, in hexadecimal or base64.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidClusterSecret> {
        let text = text.trim_ascii();
        let bytes = hex::decode(text).or_else(|_| STANDARD.decode(text));
        let bytes = Zeroizing::new(bytes.map_err(|_| InvalidClusterSecret)?);
        if bytes.len() < MIN_SECRET {
            return Err(InvalidClusterSecret);
        }
        Ok(Self(Arc::new(bytes)))
    }

    fn key(&self, label: &str) -> hmac::Key {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let derived = hmac::sign(&secret, label.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}

/// The keys that come from the secret.
#[derive(Clone)]
pub struct ClusterKeys {
    request: hmac::Key,
    answer: hmac::Key,
}

/// What a sender keeps to check the answer.
pub struct Sent {
    nonce: [u8; 16],
    mac: hmac::Tag,
}

/// A request whose sender knows the secret. Its answer can be signed.
pub struct Ticket {
    nonce: [u8; 16],
    mac: Vec<u8>,
}

/// The request does not prove that a node of this cluster sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotANode {
    #[error("there is no Gatelog-Node authorization")]
    Missing,
    #[error("the Gatelog-Node authorization is malformed, or of another version")]
    Malformed,
    #[error("the request was not made, or not like this, by a node that knows the cluster's secret")]
    Forged,
}

impl ClusterKeys {
    pub fn new(secret: &ClusterSecret) -> Self {
        Self {
            request: secret.key("gatelog cluster v1: request"),
            answer: secret.key("gatelog cluster v1: answer"),
        }
    }

    /// The value of `Authorization` for a request, and what is needed to check its answer.
    pub fn sign(
        &self,
        to: NodeId,
        method: &str,
        path: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(String, Sent), NoRandomness> {
        let nonce = random::<16>()?;
        let at = now.millis();
        let mac = hmac::sign(&self.request, &request_text(to, method, path, at, &nonce, body));
        let value = format!(
            "{SCHEME} v=1, to={to}, at={at}, nonce={}, mac={}",
            hex::encode(nonce),
            hex::encode(mac.as_ref())
        );
        Ok((value, Sent { nonce, mac }))
    }

    /// Whether an answer comes from the node that was asked, as it was sent.
    pub fn is_answer(&self, sent: &Sent, status: u16, header: Option<&str>, body: &[u8]) -> bool {
        let mac = header.and_then(|h| hex::decode(h).ok()).unwrap_or_default();
        let text = answer_text(&sent.nonce, sent.mac.as_ref(), status, body);
        hmac::verify(&self.answer, &text, &mac).is_ok()
    }

    /// The value of [`ANSWER`].
    fn sign_answer(&self, ticket: &Ticket, status: u16, body: &[u8]) -> String {
        let text = answer_text(&ticket.nonce, &ticket.mac, status, body);
        hex::encode(hmac::sign(&self.answer, &text).as_ref())
    }
}

/// Each part with its length before it, so that no two requests have one text.
fn text(parts: &[&[u8]]) -> Vec<u8> {
    let mut text = Vec::with_capacity(192);
    for part in parts {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    }
    text
}

fn request_text(to: NodeId, method: &str, path: &str, at: i64, nonce: &[u8; 16], body: &[u8]) -> Vec<u8> {
    let body = digest::digest(&digest::SHA256, body);
    text(&[
        to.0.as_bytes(),
        method.as_bytes(),
        path.as_bytes(),
        &at.to_be_bytes(),
        nonce,
        body.as_ref(),
    ])
}

fn answer_text(nonce: &[u8; 16], mac: &[u8], status: u16, body: &[u8]) -> Vec<u8> {
    let body = digest::digest(&digest::SHA256, body);
    text(&[nonce, mac, &status.to_be_bytes(), body.as_ref()])
}

/// What stands in the header.
struct Presented {
    to: NodeId,
    at: i64,
    nonce: [u8; 16],
    mac: Vec<u8>,
}

impl Presented {
    fn read(header: &str) -> Option<Self> {
        let mut parts = header.strip_prefix(SCHEME)?.strip_prefix(' ')?.split(", ");
        let mut value = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        if value("v")? != "1" {
            return None;
        }
        let to = NodeId(value("to")?.parse().ok()?);
        let at = value("at")?.parse().ok()?;
        let mut nonce = [0; 16];
        hex::decode_to_slice(value("nonce")?, &mut nonce).ok()?;
        let mac = hex::decode(value("mac")?).ok()?;
        parts.next().is_none().then_some(Self { to, at, nonce, mac })
    }
}

/// What was seen in a period: nonces, and the latest of their time stamps.
#[derive(Default)]
struct Seen {
    nonces: HashSet<[u8; 16]>,
    latest: i64,
}

/// Nonces that were seen, in two periods of which the older is forgotten whole: cheap, and bounded.
#[derive(Default)]
struct Nonces {
    begun: Timestamp,
    current: Seen,
    previous: Seen,
    /// The latest time stamp of what was forgotten.
    forgotten: i64,
}

impl Nonces {
    /// Takes a request's time stamp and nonce, once.
    fn take(&mut self, at: i64, nonce: [u8; 16], now: Timestamp, limit: usize) -> Result<(), Refused> {
        self.turn(now);
        // Only where this node's clock was set is there a stamp near it that is older than what was forgotten.
        if now.millis().abs_diff(at) > TOLERANCE.as_millis() as u64 || at <= self.forgotten {
            return Err(Refused::Stale);
        }
        if self.previous.nonces.contains(&nonce) || self.current.nonces.contains(&nonce) {
            return Err(Refused::Replayed);
        }
        if self.current.nonces.len() >= limit {
            return Err(Refused::Busy);
        }
        self.current.nonces.insert(nonce);
        self.current.latest = self.current.latest.max(at);
        Ok(())
    }

    /// Turns to the next period when it is time. A stamp is taken until twice the tolerance after its nonce was first seen,
    /// so one whole period outlives it. A clock that was set back makes the period longer.
    fn turn(&mut self, now: Timestamp) {
        self.begun = self.begun.min(now);
        if now.since(self.begun) > 2 * TOLERANCE {
            let before = std::mem::replace(&mut self.previous, std::mem::take(&mut self.current));
            self.forgotten = self.forgotten.max(before.latest);
            self.begun = now;
        }
    }
}

/// Lets in what nodes of the cluster send to this one, each request once.
pub struct Gate {
    me: NodeId,
    keys: ClusterKeys,
    nonces: Mutex<Nonces>,
    limit: usize,
}

impl Gate {
    /// A gate of the node's present run.
    pub fn new(me: NodeId, secret: &ClusterSecret) -> Self {
        Self {
            me,
            keys: ClusterKeys::new(secret),
            nonces: Mutex::default(),
            limit: NONCES,
        }
    }

    /// Whether a node of this cluster sent this (else nothing may be answered that only nodes should know), and if so,
    /// whether it may be carried out.
    pub fn check(
        &self,
        method: &str,
        path: &str,
        authorization: Option<&str>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<(Ticket, Result<(), Refused>), NotANode> {
        let header = authorization.ok_or(NotANode::Missing)?;
        let Presented { to, at, nonce, mac } = Presented::read(header).ok_or(NotANode::Malformed)?;
        let text = request_text(to, method, path, at, &nonce, body);
        // In constant time.
        hmac::verify(&self.keys.request, &text, &mac).map_err(|_| NotANode::Forged)?;
        let verdict = if to == self.me {
            self.nonces.lock().take(at, nonce, now, self.limit)
        } else {
            Err(Refused::NotAddressed)
        };
        Ok((Ticket { nonce, mac }, verdict))
    }

    /// The value of the header [`ANSWER`] for an answer to a request that was let in.
    pub fn sign(&self, ticket: &Ticket, status: u16, body: &[u8]) -> String {
        self.keys.sign_answer(ticket, status, body)
    }

    /// Who this node is in this run.
    pub fn me(&self) -> NodeId {
        self.me
    }
}

#[cfg(test)]
mod tests;
