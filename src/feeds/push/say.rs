//! Saying in the log what came of a lane.

use gatelog_events::commit::Subject;
use gatelog_events::domain::Actor;
use gatelog_events::domain::feed::Command;
use gatelog_events::ids::Partition;
use uuid::Uuid;

use crate::node::Node;
use crate::writer::{self, Request, WriteError};

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
