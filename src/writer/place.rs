//! Where a command belongs: pure, so that every node comes to the same place.

use gatelog_events::commit::Subject;
use gatelog_events::directory::Directory;
use gatelog_events::ids::{Partition, Stream};

use super::{Command, Request, WriteError};

/// Stream and partition in which a command's aggregate lives, of a log with `n` partitions.
pub(crate) fn place(
    request: &Request,
    directory: &Directory,
    n: u16,
) -> Result<(Stream, Partition), WriteError> {
    let stream = match &request.command {
        Command::Session(_) | Command::Feed(_) => Stream::Activity,
        Command::User(_) | Command::Claim(_) | Command::Tenant(_) => Stream::Identity,
    };
    let partition = match (&request.command, request.subject) {
        (Command::Claim(email), _) => directory.shard(&request.tenant, email).partition(n),
        (_, Subject::User(user)) => user.shard().partition(n),
        (_, Subject::Tenant) => directory.tenant_shard(&request.tenant).partition(n),
        (_, Subject::Nobody) => request
            .partition
            .ok_or_else(|| WriteError::Internal("a command about nobody names no partition".into()))?,
    };
    Ok((stream, partition))
}
