//! Saying in the log what came of a lane.

use std::time::Duration;

use gatelog_events::commit::Subject;
use gatelog_events::domain::Actor;
use gatelog_events::domain::feed::Command;
use gatelog_events::ids::{Partition, Position, Stream};
use gatelog_events::log::LogError;
use gatelog_projections::applied::Behind;
use gatelog_projections::{users, webhooks};
use uuid::Uuid;

use crate::node::Node;
use crate::writer::{self, Request, WriteError};

/// How long it is waited for what was said.
const AT_MOST: Duration = Duration::from_secs(5);

/// Says it in the lane's partition.
pub(in crate::feeds) async fn say(
    node: &Node,
    partition: Partition,
    command: Command,
) -> Result<(), WriteError> {
    let command = writer::Command::Feed(command);
    let said = request(node, Subject::Nobody, Some(partition), command);
    node.router.submit(said).await.map(|_| ())
}

/// A command of the node's own.
pub(in crate::feeds) fn request(
    node: &Node,
    subject: Subject,
    partition: Option<Partition>,
    command: writer::Command,
) -> Request {
    Request {
        tenant: node.config.tenant.clone(),
        subject,
        partition,
        command,
        actor: Actor::System,
        correlation_id: Uuid::nil(),
        idempotency: None,
        time: None,
        after: None,
    }
}

/// Waits until what lanes said in a partition is known here. Whoever begins before might begin anew what another lane, of
/// this node or of another, was in the middle of.
pub(super) async fn heard(node: &Node, partition: Partition) -> Result<(), Unheard> {
    let stream = Stream::Activity;
    let Some(offset) = node.log.end(stream, partition).await?.checked_sub(1) else {
        return Ok(());
    };
    let last = Position {
        stream,
        partition,
        offset,
    };
    Ok(node.views.wait_for(webhooks::NAME, last, AT_MOST).await?)
}

/// What lanes said is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Behind(#[from] Behind),
}

/// Whether this node knows of a partition what stood there some seconds ago at the most. One that stood still, or was cut off,
/// may not be its owner any more: others have told what was withdrawn meanwhile.
pub(super) fn is_abreast(node: &Node, partition: Partition) -> bool {
    if node.backend.embedded().is_some() {
        return true;
    }
    let (stream, views) = (Stream::Identity, &node.views);
    let heard = node
        .log
        .heard_end(stream, partition)
        .filter(|heard| heard.is_current);
    let known = views.next(users::NAME, stream, partition);
    heard.is_some_and(|heard| known.is_some_and(|known| known >= heard.end))
}
