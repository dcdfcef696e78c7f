//! From a batch of lines to requests for the writer, with the keys of the new users stored.

use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::domain::Actor;
use gatelog_events::domain::user::Command as UserCommand;
use gatelog_events::ids::UserId;
use gatelog_events::seal::SubjectKey;
use gatelog_projections::subject_keys::NewKey;
use uuid::Uuid;

use super::row::{Checked, Problem, check};
use super::source::{Batch, MAX_LINE};
use crate::auth::random;
use crate::cli::Failure;
use crate::node::Node;
use crate::writer::{Command, Request};

/// A user's timeline is looked at this far for how the account came to be.
const TIMELINE: usize = 10_000;

/// What is to be done with a row.
pub enum Row {
    New(Box<Request>),
    /// An earlier run imported it.
    Present,
    /// A blank line.
    Empty,
    Wrong(Problem),
}

/// A batch, ready for the writer.
pub struct Prepared {
    /// With the numbers of their lines.
    pub rows: Vec<(u64, Row)>,
    /// Offset in the file of what follows.
    pub end: u64,
}

/// Checks a batch and stores the keys of its new users, with one sync for all.
pub fn prepare(node: &Node, batch: Batch) -> Result<Prepared, Failure> {
    let mut keys = Vec::with_capacity(batch.lines.len());
    let mut rows = Vec::with_capacity(batch.lines.len());
    for (number, line) in (batch.first_line..).zip(batch.lines) {
        let row = match line {
            None => Row::Wrong(Problem::new(
                "",
                format!("the line is longer than {MAX_LINE} bytes"),
            )),
            Some(line) if line.trim_ascii().is_empty() => Row::Empty,
            Some(line) => match check(&line, clock::now()) {
                Err(found) => Row::Wrong(found),
                Ok(checked) => decide(node, checked, &mut keys)?,
            },
        };
        rows.push((number, row));
    }
    if !keys.is_empty() {
        node.keys.put(&keys).map_err(Failure::other)?;
    }
    Ok(Prepared { rows, end: batch.end })
}

fn decide(node: &Node, row: Checked, keys: &mut Vec<NewKey>) -> Result<Row, Failure> {
    let tenant = &node.config.tenant;
    let digest = node.directory.digest(tenant, &row.email);
    if let Some(login) = node.views.login(tenant, digest).map_err(Failure::other)? {
        return if was_imported(node, login.user)? {
            Ok(Row::Present)
        } else {
            Ok(Row::Wrong(Problem::new(
                "email",
                "the address belongs to another account",
            )))
        };
    }
    let shard = node.directory.shard(tenant, &row.email);
    let subject = UserId::new(clock::now(), shard, random().map_err(Failure::other)?);
    keys.push(NewKey {
        tenant: tenant.clone(),
        subject,
        key: SubjectKey::new(random().map_err(Failure::other)?),
        nonce: random().map_err(Failure::other)?,
    });
    Ok(Row::New(Box::new(Request {
        tenant: tenant.clone(),
        subject: Subject::User(subject),
        partition: None,
        command: Command::User(UserCommand::Register(row.register)),
        actor: Actor::System,
        correlation_id: Uuid::from_bytes(random().map_err(Failure::other)?),
        idempotency: None,
        time: row.created_at,
        after: None,
    })))
}

/// Whether a user came by an import, and not by registering here.
fn was_imported(node: &Node, user: UserId) -> Result<bool, Failure> {
    let page = node
        .views
        .timeline(&node.config.tenant, user, None, TIMELINE)
        .map_err(Failure::other)?;
    let origin = ("origin".into(), "import".to_owned());
    Ok(page.iter().any(|(_, entry)| entry.details.contains(&origin)))
}
