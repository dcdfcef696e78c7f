//! The frozen form of a command on its way to the node that writes it, and of what that node answers.
//!
//! The first byte is the number of the form; JSON follows. In a rolling upgrade nodes of two versions talk to each other:
//!
//! - a field that a node does not know is ignored, so only what may be ignored is added to a form;
//! - a command that a node does not know is refused by name, before anything is written;
//! - anything else that changes takes a new number, and a node sends the old one until all nodes know the new.
//!
//! The forms hold personal data and hashes of passwords, but no password: none of them has `Debug`.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::{Actor, Rejection};
use gatelog_events::ids::{CommitId, Partition, Position, SessionId, Stream, TenantId, UserId};
use gatelog_projections::answers::Answer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::writer::{Command, Idempotency, Outcome, Request, WriteError};

/// The number of the form that is written.
const FORM: u8 = 1;

/// Why a node did not carry a command out that came from a node of its cluster. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    #[error("it does not know this form; upgrade it")]
    UnknownForm,
    #[error("it does not know this command, or does not understand it; upgrade it")]
    UnknownCommand,
    #[error("it cannot read the command")]
    Malformed,
    /// Another run of a node is meant; the sender's knowledge of owners is out of date.
    #[error("it is not the node that is meant")]
    NotAddressed,
    #[error("its clock and the sender's differ by more than 30 s; synchronize them")]
    Stale,
    #[error("it has seen this very request before")]
    Replayed,
    #[error("it has too many requests to remember")]
    Busy,
}

/// Why an answer could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the answer is of a form that this node does not know")]
    Form,
    #[error("the answer is malformed, or of a newer version")]
    Malformed,
}

/// A command that came from another node.
pub struct Received {
    pub request: Request,
    /// What the sender had seen of the tenant's settings: the decision must not be behind it.
    pub seen: Option<Position>,
}

/// What the other node says.
#[derive(Debug)]
pub enum Reply {
    Done(Outcome),
    Failed(WriteError),
    Refused(Refused),
}

#[derive(Serialize)]
struct CommandOut<'a> {
    tenant: &'a TenantId,
    subject: Subject,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<Partition>,
    command: &'a Command,
    actor: &'a Actor,
    correlation_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency: Option<IdempotencyForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<Position>,
}

#[derive(Deserialize)]
struct CommandIn<'a> {
    tenant: TenantId,
    subject: Subject,
    #[serde(default)]
    partition: Option<Partition>,
    /// Read on its own, so that a command that is not known is told from what is malformed.
    #[serde(borrow)]
    command: &'a RawValue,
    actor: Actor,
    correlation_id: Uuid,
    #[serde(default)]
    idempotency: Option<IdempotencyForm>,
    #[serde(default)]
    time: Option<Timestamp>,
    #[serde(default)]
    after: Option<Position>,
    #[serde(default)]
    seen: Option<Position>,
}

#[derive(Serialize, Deserialize)]
struct IdempotencyForm {
    commit_id: CommitId,
    /// base64url.
    request: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReplyForm {
    Done(DoneForm),
    Failed(FailureForm),
    Refused(Refused),
}

#[derive(Serialize, Deserialize)]
struct DoneForm {
    position: Position,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    generation: u32,
    time: Timestamp,
    /// base64url.
    tag: String,
    replayed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FailureForm {
    Rejected(Rejection),
    KeyReused,
    Overloaded { retry_after_ms: u64 },
    Unavailable { reason: String },
    NotOwner { stream: Stream, partition: Partition },
    TooLarge { size: u64, limit: u64 },
    Internal { what: String },
}

fn framed<T: Serialize>(form: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(1024);
    bytes.push(FORM);
    serde_json::to_writer(&mut bytes, form)?;
    Ok(bytes)
}

/// A command as it travels.
pub fn encode_command(request: &Request, seen: Option<Position>) -> Result<Vec<u8>, serde_json::Error> {
    framed(&CommandOut {
        tenant: &request.tenant,
        subject: request.subject,
        partition: request.partition,
        command: &request.command,
        actor: &request.actor,
        correlation_id: request.correlation_id,
        idempotency: request.idempotency.as_ref().map(|i| IdempotencyForm {
            commit_id: i.commit_id,
            request: URL_SAFE_NO_PAD.encode(&i.request),
        }),
        time: request.time,
        after: request.after,
        seen,
    })
}

/// Reads a command that came from another node.
pub fn decode_command(bytes: &[u8]) -> Result<Received, Refused> {
    let Some((&FORM, json)) = bytes.split_first() else {
        return Err(Refused::UnknownForm);
    };
    let form: CommandIn<'_> = serde_json::from_slice(json).map_err(|_| Refused::Malformed)?;
    let command = serde_json::from_str(form.command.get()).map_err(|_| Refused::UnknownCommand)?;
    let idempotency = match form.idempotency {
        None => None,
        Some(i) => Some(Idempotency {
            commit_id: i.commit_id,
            request: Arc::from(
                URL_SAFE_NO_PAD
                    .decode(i.request)
                    .map_err(|_| Refused::Malformed)?,
            ),
        }),
    };
    Ok(Received {
        request: Request {
            tenant: form.tenant,
            subject: form.subject,
            partition: form.partition,
            command,
            actor: form.actor,
            correlation_id: form.correlation_id,
            idempotency,
            time: form.time,
            after: form.after,
        },
        seen: form.seen,
    })
}

/// What became of a command, as it travels back. The commit itself stays where it was written.
pub fn encode_result(result: &Result<Outcome, WriteError>) -> Result<Vec<u8>, serde_json::Error> {
    framed(&match result {
        Ok(outcome) => ReplyForm::Done(outcome.into()),
        Err(e) => ReplyForm::Failed(e.clone().into()),
    })
}

/// A refusal, as it travels back.
pub fn encode_refusal(refused: Refused) -> Result<Vec<u8>, serde_json::Error> {
    framed(&ReplyForm::Refused(refused))
}

/// Reads what the other node answers.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, Unreadable> {
    let Some((&FORM, json)) = bytes.split_first() else {
        return Err(Unreadable::Form);
    };
    match serde_json::from_slice(json).map_err(|_| Unreadable::Malformed)? {
        ReplyForm::Done(done) => done.outcome().map(Reply::Done),
        ReplyForm::Failed(failure) => Ok(Reply::Failed(failure.into())),
        ReplyForm::Refused(refused) => Ok(Reply::Refused(refused)),
    }
}

impl From<&Outcome> for DoneForm {
    fn from(outcome: &Outcome) -> Self {
        let answer = &outcome.answer;
        Self {
            position: answer.position(),
            user: answer.user,
            session: answer.session,
            generation: answer.generation,
            time: answer.time,
            tag: URL_SAFE_NO_PAD.encode(answer.tag),
            replayed: outcome.replayed,
        }
    }
}

impl DoneForm {
    fn outcome(self) -> Result<Outcome, Unreadable> {
        let mut tag = [0; 16];
        match URL_SAFE_NO_PAD.decode_slice(&self.tag, &mut tag) {
            Ok(16) => {}
            _ => return Err(Unreadable::Malformed),
        }
        Ok(Outcome {
            answer: Answer {
                stream: self.position.stream.code(),
                partition: self.position.partition,
                offset: self.position.offset,
                user: self.user,
                session: self.session,
                generation: self.generation,
                time: self.time,
                tag,
            },
            commit: None,
            replayed: self.replayed,
        })
    }
}

impl From<WriteError> for FailureForm {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Rejected(rejection) => Self::Rejected(rejection),
            WriteError::KeyReused => Self::KeyReused,
            WriteError::Overloaded { retry_after } => Self::Overloaded {
                retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
            },
            WriteError::Unavailable { reason } => Self::Unavailable { reason },
            WriteError::NotOwner { stream, partition } => Self::NotOwner { stream, partition },
            WriteError::TooLarge { size, limit } => Self::TooLarge {
                size: size as u64,
                limit: limit as u64,
            },
            WriteError::Internal(what) => Self::Internal { what },
        }
    }
}

impl From<FailureForm> for WriteError {
    fn from(form: FailureForm) -> Self {
        let size = |n| usize::try_from(n).unwrap_or(usize::MAX);
        match form {
            FailureForm::Rejected(rejection) => Self::Rejected(rejection),
            FailureForm::KeyReused => Self::KeyReused,
            FailureForm::Overloaded { retry_after_ms } => Self::Overloaded {
                retry_after: Duration::from_millis(retry_after_ms),
            },
            FailureForm::Unavailable { reason } => Self::Unavailable { reason },
            FailureForm::NotOwner { stream, partition } => Self::NotOwner { stream, partition },
            FailureForm::TooLarge { size: of, limit } => Self::TooLarge {
                size: size(of),
                limit: size(limit),
            },
            FailureForm::Internal { what } => Self::Internal(what),
        }
    }
}

#[cfg(test)]
mod tests;
