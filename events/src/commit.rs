//! The commit: everything that one command made true, appended as one record.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::domain::user::UserEvent;
use crate::domain::{Actor, Event};
use crate::ids::{CommitId, EventId, TenantId, UserId};

/// Whom an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    User(UserId),
    /// The tenant itself: its settings.
    Tenant,
    /// Nobody that we know, such as a login with an unknown address.
    Nobody,
}

impl Subject {
    pub fn user(self) -> Option<UserId> {
        match self {
            Subject::User(u) => Some(u),
            Subject::Tenant | Subject::Nobody => None,
        }
    }
}

/// An event with its place among its aggregate's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub id: EventId,
    /// Gapless number within the aggregate, from 1. 0 where there is no aggregate.
    pub sequence: u64,
    /// When it happened; for imports that is before it was recorded.
    pub time: Timestamp,
    pub event: Event,
}

/// All events of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub id: CommitId,
    pub tenant: TenantId,
    pub subject: Subject,
    pub actor: Actor,
    /// Of the request that asked for it.
    pub correlation_id: uuid::Uuid,
    /// The event that led to it, where one did.
    pub causation_id: Option<EventId>,
    pub recorded_at: Timestamp,
    /// Set if the commit's id derives from an `Idempotency-Key`: a tag of the request, under the subject's key where
    /// there is one, so that it says nothing after an erasure.
    pub request_tag: Option<[u8; 16]>,
    pub events: Vec<Recorded>,
    /// Whether the subject's key was destroyed, so that the personal parts are gone. Never stored.
    pub erased: bool,
}

impl Commit {
    /// The aggregate's version after this commit.
    pub fn version(&self) -> u64 {
        self.events.last().map_or(0, |e| e.sequence)
    }

    /// The user whom it erases, if it erases one.
    pub fn erases(&self) -> Option<UserId> {
        let is_erasure = |event: &Event| matches!(event, Event::User(UserEvent::Erased(_)));
        let erases = self.events.iter().any(|e| is_erasure(&e.event));
        erases.then(|| self.subject.user()).flatten()
    }
}
