//! Shared Signals: whoever relies on users' sessions and credentials hears when they end or change (OpenID Shared Signals
//! Framework 1.0 with the events of CAEP 1.0 and RISC 1.0).
//!
//! ```text
//!  signals (in the log's order) ──▶ reader ──▶ token (a SET, RFC 8417) ──▶ push (RFC 8935)
//!                                     │ how far each stream has come        poll (RFC 8936)
//!                                     └─▶ told, per partition, in the log
//! ```
//!
//! What is told is decided when it leaves: of somebody who was erased since nothing leaves but who it was, and that the
//! account is gone.

pub mod keys;
pub mod offers;
pub mod push;
pub mod reader;
pub mod token;
pub mod types;

use std::time::Duration;

use gatelog_events::commit::Subject;
use gatelog_events::domain::feed::Command;
use gatelog_events::domain::signals::{Begins, SignalStream};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::LogError;
use gatelog_projections::signals;
use uuid::Uuid;

use crate::feeds::push::say::request;
use crate::node::Node;
use crate::writer::{self, WriteError};

/// As what feed the dead letters of streams are kept; no feed can have this name.
pub const FEED: &str = "/signals";

/// How much time must pass between two verifications of a stream (SSF 1.0, section 8.1.1).
pub const MIN_VERIFICATION_INTERVAL: Duration = Duration::from_secs(10);

/// How long it is waited until what was said can be read here.
const SEEN: Duration = Duration::from_secs(5);

/// The partition in which is said what concerns a stream itself.
pub fn home(stream_id: Uuid, partitions: u16) -> Partition {
    let [.., a, b] = *stream_id.as_bytes();
    Partition(u16::from_be_bytes([a, b]) % partitions.max(1))
}

/// Where a stream begins that is to tell what happens from now on. The log is asked: what is not folded yet happened before.
pub async fn from_now(node: &Node) -> Result<Begins, LogError> {
    let of = |stream| {
        let places: Vec<_> = (0..node.log.partitions())
            .map(|p| (stream, Partition(p)))
            .collect();
        node.log.ends(&places)
    };
    let (identity, activity) = futures::try_join!(of(Stream::Identity), of(Stream::Activity))?;
    Ok(Begins { identity, activity })
}

/// Whether anything is still sent to a stream's receiver: not once its API key is revoked.
pub fn is_trusted(settings: &Settings, stream: &SignalStream) -> bool {
    stream.receiver.is_none_or(|id| {
        let key = settings.api_keys.get(&id);
        key.is_some_and(|key| key.revoked_at.is_none())
    })
}

/// Says it in a partition, and waits until it is seen here, so that nothing is told twice for want of knowing.
pub async fn say_and_see(node: &Node, partition: Partition, command: Command) -> Result<(), WriteError> {
    let command = writer::Command::Feed(command);
    let said = request(node, Subject::Nobody, Some(partition), command);
    let outcome = node.router.submit(said).await?;
    // Whoever is slow to fold hears it once more; that is allowed.
    let _ = node
        .views
        .wait_for(signals::NAME, outcome.answer.position(), SEEN)
        .await;
    Ok(())
}
