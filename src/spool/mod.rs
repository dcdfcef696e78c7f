//! Logins that cannot be recorded while the log is away: kept in a local file, and recorded when it is back.
//!
//! ```text
//!  login ── the log is away ──▶ keep: sealed, appended, fsynced ──▶ answered as a login
//!                                       │
//!                                 spool/logins
//!                                       │ the log is back
//!                                       ▼
//!                              drain ──▶ router ──▶ writer: the session, at the time of the login
//! ```
//!
//! An entry that cannot be recorded yet holds up those of its own user alone, or of its partition if that
//! takes no writes. Sending an entry twice is harmless, for a session starts once (`session::decide`): so
//! what was drained is remembered in memory alone, and the file is emptied when nothing of it waits any more.

pub mod drain;
pub mod entry;
pub mod file;
pub mod format;
pub mod waiting;

use std::path::Path;

use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::Actor;
use gatelog_events::domain::session::{self, Client, LoginMethod};
use gatelog_events::ids::{SessionId, TenantId, UserId};
use uuid::Uuid;

pub use file::Spool;

use crate::auth::private_file::PrivateFileError;
use crate::writer::{Command, Idempotency, Request};

/// What a node does with logins while the log is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Largest size of the file in bytes; beyond it logins are refused.
    pub max_bytes: u64,
}

/// A login that was answered and is not in the log yet.
#[derive(Clone)]
pub struct SpooledLogin {
    pub tenant: TenantId,
    pub user: UserId,
    pub session_id: SessionId,
    pub method: LoginMethod,
    /// Version of the credential that was checked.
    pub credential_version: u32,
    /// When the login was answered.
    pub at: Timestamp,
    /// Of the request.
    pub correlation_id: Uuid,
    pub client: Client,
    /// The caller's own key, if there was one.
    pub idempotency: Option<Idempotency>,
}

impl SpooledLogin {
    /// What a request to record a login says, if it is one.
    pub fn of(request: Request, at: Timestamp) -> Option<Self> {
        let Command::Session(session::Command::Login {
            session_id,
            method,
            client,
            credential_version,
        }) = request.command
        else {
            return None;
        };
        Some(Self {
            tenant: request.tenant,
            user: request.subject.user()?,
            session_id,
            method,
            credential_version,
            at,
            correlation_id: request.correlation_id,
            client,
            idempotency: request.idempotency,
        })
    }

    /// The request that records it, at its own time.
    pub fn into_request(self) -> Request {
        let command = session::Command::Login {
            session_id: self.session_id,
            method: self.method,
            client: self.client,
            credential_version: self.credential_version,
        };
        Request {
            tenant: self.tenant,
            subject: Subject::User(self.user),
            partition: None,
            command: Command::Session(command),
            actor: Actor::Visitor,
            correlation_id: self.correlation_id,
            idempotency: self.idempotency,
            time: Some(self.at),
            after: None,
        }
    }
}

/// Why the spool cannot be used, or a login not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error(
        "{place} is damaged at byte {at}: {what}. The {sound} logins before it are sound: to go on with these and lose \
         what follows, keep a copy and run: truncate -s {at} {place}"
    )]
    Damaged {
        place: String,
        at: u64,
        what: &'static str,
        sound: usize,
    },
    #[error("{place} is not a spool of logins that this version knows; move it away to start without it")]
    Foreign { place: String },
    #[error("{place}: {source}")]
    Io { place: String, source: std::io::Error },
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    #[error("the spool is full")]
    Full,
    #[error("too many logins wait for the spool's disk")]
    Busy,
    /// What is in the file is safe, but nothing more can be added before the node starts again.
    #[error("the spool's disk failed, and its file is left as it is")]
    Broken,
    #[error("the entry cannot be written or read: {0}")]
    Entry(String),
}

fn io(place: &Path, source: std::io::Error) -> SpoolError {
    SpoolError::Io {
        place: place.display().to_string(),
        source,
    }
}
