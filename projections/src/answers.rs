//! `answers`: what was answered to requests with an `Idempotency-Key`, so that a retry gets the same answer.

use bytes::Bytes;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::{Commit, Subject};
use gatelog_events::domain::Event;
use gatelog_events::domain::session::SessionEvent;
use gatelog_events::ids::{CommitId, Partition, Position, SessionId, Stream, TenantId, UserId};
use serde::{Deserialize, Serialize};

use crate::keys::{KeyKind, key};
use crate::projection::{Located, Projection};
use crate::store::StoreError;
use crate::view::{FoldView, View};

/// Days for which an answer is kept after the one on which it was given.
pub const DAYS_KEPT: i32 = 2;

/// The projection.
#[derive(Debug, Default)]
pub struct Answers;

pub const NAME: &str = "answers";

/// What is needed to give an answer again. Nothing secret: tokens are derived anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub stream: u8,
    pub partition: Partition,
    pub offset: u64,
    pub user: Option<UserId>,
    pub session: Option<SessionId>,
    /// Of the refresh token given out, if one was.
    pub generation: u32,
    pub time: Timestamp,
    /// Tag of the request, to notice another request under the same key.
    pub tag: [u8; 16],
}

impl Answer {
    /// The answer to the request that led to `commit`.
    pub fn to(commit: &Commit, position: Position) -> Self {
        let (mut session, mut generation) = (None, 0);
        for e in &commit.events {
            match &e.event {
                Event::Session(SessionEvent::Started(s)) => session = Some(s.session_id),
                Event::Session(SessionEvent::Refreshed(r)) => {
                    session = Some(r.session_id);
                    generation = r.generation;
                }
                _ => {}
            }
        }
        Self {
            stream: position.stream.code(),
            partition: position.partition,
            offset: position.offset,
            user: commit.subject.user(),
            session,
            generation,
            time: commit.recorded_at,
            tag: commit.request_tag.unwrap_or_default(),
        }
    }

    pub fn position(&self) -> Position {
        Position {
            stream: Stream::from_code(self.stream).unwrap_or(Stream::Identity),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

impl Projection for Answers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        1
    }

    fn streams(&self) -> &'static [Stream] {
        &[Stream::Identity, Stream::Activity]
    }

    fn apply(&self, rows: &mut FoldView<'_>, at: Located<'_>) -> Result<(), StoreError> {
        let commit = at.commit;
        if commit.request_tag.is_none() || matches!(commit.subject, Subject::Nobody) {
            return Ok(());
        }
        let day = commit.recorded_at.day();
        let place = Place {
            tenant: &commit.tenant,
            stream: at.position.stream,
            partition: at.position.partition,
        };
        forget_old(rows, place, day)?;
        rows.put(place.answer(day, commit.id), &Answer::to(commit, at.position))
    }
}

/// Deletes what is too old, on the first answer of a new day.
fn forget_old(rows: &mut FoldView<'_>, place: Place<'_>, day: i32) -> Result<(), StoreError> {
    let newest = place.newest_day();
    let before: Option<i32> = rows.get(&newest)?;
    if before.is_some_and(|d| d >= day) {
        return Ok(());
    }
    rows.put(newest, &day)?;
    let Some(before) = before else { return Ok(()) };
    for old in before - DAYS_KEPT..day - DAYS_KEPT {
        rows.delete_all(&place.day(old).done())?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Place<'a> {
    tenant: &'a TenantId,
    stream: Stream,
    partition: Partition,
}

impl Place<'_> {
    fn start(&self) -> crate::keys::KeyBuilder {
        key(KeyKind::Answer, self.tenant)
            .fixed(&[self.stream.code()])
            .u16(self.partition.0)
    }

    fn newest_day(&self) -> Bytes {
        self.start().fixed(b"d").done()
    }

    fn day(&self, day: i32) -> crate::keys::KeyBuilder {
        self.start().fixed(b"k").u32(day.max(0) as u32)
    }

    fn answer(&self, day: i32, commit: CommitId) -> Bytes {
        self.day(day).fixed(commit.as_bytes()).done()
    }
}

/// The answer that was given to the request of this commit id, if it is still kept.
pub fn get(
    view: View<'_>,
    tenant: &TenantId,
    stream: Stream,
    partition: Partition,
    commit: CommitId,
    now: Timestamp,
) -> Result<Option<Answer>, StoreError> {
    let place = Place {
        tenant,
        stream,
        partition,
    };
    for day in (now.day() - DAYS_KEPT..=now.day() + 1).rev() {
        if let Some(answer) = view.get(&place.answer(day, commit))? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}
