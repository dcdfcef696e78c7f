//! From decided events to a record on its way: numbered, sealed, encoded, folded into the state ahead of the log.

use std::sync::Arc;

use gatelog_events::clock::{self, Timestamp};
use gatelog_events::codec;
use gatelog_events::commit::{Commit, Recorded};
use gatelog_events::domain::user::UserEvent;
use gatelog_events::domain::{Event, user};
use gatelog_events::ids::{CommitId, EventId, Partition, Position, Stream};
use gatelog_events::log::{Record, RecordHeader, RecordKind};
use gatelog_events::seal::SubjectKey;
use gatelog_projections::projection::Located;
use uuid::Uuid;

use super::applier::{Append, Pending, Step, TableChanges};
use super::decide::{commit_key, internal, rejected, stopped};
use super::decider::Decider;
use super::unwritten::{Decided, Said};
use super::{Reply, Request, WriteError};

impl Decider {
    pub(super) fn commit(
        &mut self,
        request: &Request,
        version: Option<u64>,
        events: Vec<Event>,
        now: Timestamp,
    ) -> Result<Commit, WriteError> {
        let key = match request.subject.user() {
            // Without a key the user was erased, or never was.
            Some(user) => Some(
                self.subject_key(&request.tenant, user)?
                    .ok_or_else(|| rejected(user::Rejection::NotFound))?,
            ),
            None => None,
        };
        let mut recorded = Vec::with_capacity(events.len());
        for (i, event) in events.into_iter().enumerate() {
            recorded.push(Recorded {
                id: EventId(self.time_ordered_id(now)?),
                sequence: version.map_or(0, |v| v + 1 + i as u64),
                time: request.time.unwrap_or(now),
                event,
            });
        }
        let id = match commit_key(request) {
            Some(id) => id,
            None => CommitId(self.time_ordered_id(now)?),
        };
        let erases = |e: &Recorded| matches!(e.event, Event::User(UserEvent::Erased(_)));
        // The key is gone when the same is asked again, and what an erasure says gives nobody away.
        let tag_key = key.as_ref().filter(|_| !recorded.iter().any(erases));
        Ok(Commit {
            id,
            tenant: request.tenant.clone(),
            subject: request.subject,
            actor: request.actor.clone(),
            correlation_id: request.correlation_id,
            causation_id: None,
            recorded_at: now,
            request_tag: request
                .idempotency
                .as_ref()
                .map(|i| request_tag(tag_key, &i.request)),
            events: recorded,
            erased: false,
        })
    }

    /// A UUIDv7 (RFC 9562, section 5.7).
    fn time_ordered_id(&mut self, now: Timestamp) -> Result<Uuid, WriteError> {
        let random = self.random.take::<10>().map_err(internal)?;
        Ok(uuid::Builder::from_unix_timestamp_millis(now.millis().max(0) as u64, &random).into_uuid())
    }

    pub(super) fn append(
        &mut self,
        commit: Commit,
        stream: Stream,
        partition: Partition,
        reply: Reply,
    ) -> bool {
        match self.try_append(commit, stream, partition) {
            Ok((commit, append, changes)) => self.send(Step::Append(Box::new(Append {
                stream,
                partition,
                commit,
                append,
                changes,
                reply,
                begun: clock::monotonic(),
            }))),
            Err(e) => {
                let goes_on = self.send(Step::Answer(Decided {
                    said: Said::Known(Err(e)),
                    reply,
                }));
                goes_on && !self.is_torn
            }
        }
    }

    fn try_append(
        &mut self,
        commit: Commit,
        stream: Stream,
        partition: Partition,
    ) -> Result<(Arc<Commit>, Pending, Vec<TableChanges>), WriteError> {
        let value = self.sealed_bytes(&commit)?;
        let limit = self.parts.max_record_bytes;
        if value.len() > limit {
            return Err(WriteError::TooLarge {
                size: value.len(),
                limit,
            });
        }
        let lane = self
            .lanes
            .get_mut(&(stream, partition))
            .ok_or_else(|| stopped(stream, partition))?;
        let header = RecordHeader {
            kind: RecordKind::Commit,
            commit_id: commit.id,
            epoch: lane.fence.epoch.unwrap_or_default(),
            seq: lane.fence.next_seq,
            aggregate_version: commit.version(),
        };
        let position = Position {
            stream,
            partition,
            offset: 0,
        };
        let folded = self.state.fold_decided(Located {
            position,
            commit: &commit,
        });
        // Half of it may be there.
        self.is_torn |= folded.is_err();
        folded?;
        lane.fence.next_seq += 1;
        let changes = self.state.take_changes();
        let record = Record {
            header,
            value: value.into(),
        };
        let append = Pending {
            header,
            answer: self.parts.log.append(stream, partition, record),
        };
        self.in_flight.insert(commit.id);
        Ok((Arc::new(commit), append, changes))
    }

    fn sealed_bytes(&mut self, commit: &Commit) -> Result<Vec<u8>, WriteError> {
        let Some(user) = commit.subject.user() else {
            return codec::encode(commit).map_err(internal);
        };
        let key = self
            .subject_key(&commit.tenant, user)?
            .ok_or_else(|| rejected(user::Rejection::NotFound))?;
        let mut sealed = commit.clone();
        let random = &mut self.random;
        let mut failed = None;
        codec::seal(&mut sealed, &key, || {
            random.take().unwrap_or_else(|e| {
                failed = Some(e);
                [0; 12]
            })
        })
        .map_err(internal)?;
        match failed {
            Some(e) => Err(internal(e)),
            None => codec::encode(&sealed).map_err(internal),
        }
    }
}

/// A tag of what was asked. Under the subject's key, so that nobody can test a guess after an erasure.
pub(super) fn request_tag(key: Option<&SubjectKey>, request: &[u8]) -> [u8; 16] {
    match key {
        Some(key) => key.tag(request),
        None => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, request);
            let mut tag = [0; 16];
            tag.copy_from_slice(&digest.as_ref()[..16]);
            tag
        }
    }
}
