//! The follower: one thread that reads what other nodes write to the partitions that this node does not own.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::select_all;
use gatelog_events::failpoint;
use gatelog_events::ids::Position;
use gatelog_events::log::{Entry, LogError};
use gatelog_events::seal::KeySource;
use gatelog_projections::folder::Decoded;
use tokio::sync::{mpsc, oneshot};

use super::takeover::{Parts, TakeoverError, spawn};

/// Records that are read ahead of the decider.
const AHEAD: usize = 1024;
/// Between two questions whether it can go on.
const BETWEEN: Duration = Duration::from_millis(500);

type Read = Result<Decoded, LogError>;

/// Records of other nodes, as they come. Stops when it is dropped.
pub(super) struct Follower {
    records: mpsc::Receiver<Read>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Reads each of these partitions from its position on.
    pub fn start(parts: &Arc<Parts>, from: Vec<Position>) -> Result<Self, TakeoverError> {
        let (out, records) = mpsc::channel(AHEAD);
        let (stop, stopped) = oneshot::channel();
        let parts = parts.clone();
        let thread = spawn("follower", move || {
            block_on(async {
                tokio::select! {
                    () = follow(&parts, from, out) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self {
            records,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The next record; an error is the last. Nothing once it has ended.
    pub async fn next(&mut self) -> Option<Read> {
        self.records.recv().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn follow(parts: &Parts, from: Vec<Position>, out: mpsc::Sender<Read>) {
    let read = |p: &Position| parts.log.read(p.stream, p.partition, p.offset);
    let mut all = select_all(from.iter().map(read));
    while let Some(entry) = all.next().await {
        let record = match entry {
            Ok(entry) => {
                parts.claims.learn(&entry);
                Ok(read_one(&entry, parts.keys.as_ref()).await)
            }
            Err(e) => Err(e),
        };
        let failed = record.is_err();
        if out.send(record).await.is_err() || failed {
            return;
        }
    }
}

/// Where the key store cannot answer it is asked until it can: folded without its key, a record would stop the read models
/// for good.
async fn read_one(entry: &Entry, keys: &dyn KeySource) -> Decoded {
    while failpoint::stays_behind() {
        pause().await;
    }
    loop {
        let record = Decoded::read(entry, keys);
        let Some(error) = record.lacks_key() else {
            return record;
        };
        tracing::warn!(position = %entry.position, %error, "a subject's key cannot be read now; what follows in the log waits for it");
        pause().await;
    }
}

/// The thread is the follower's own; it may have to stop after a pause.
async fn pause() {
    std::thread::sleep(BETWEEN);
    tokio::task::yield_now().await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use gatelog_events::clock::Timestamp;
    use gatelog_events::codec;
    use gatelog_events::commit::{Commit, Recorded, Subject};
    use gatelog_events::domain::user::{StatusChange, UserEvent};
    use gatelog_events::domain::{Actor, Event};
    use gatelog_events::ids::{CommitId, EventId, Partition, Stream, TenantId, UserId};
    use gatelog_events::log::{Record, RecordHeader, RecordKind};
    use gatelog_events::seal::{KeySourceError, KeyStatus};
    use uuid::Uuid;

    use super::*;

    /// Cannot answer so many times.
    struct Late(AtomicUsize);

    impl KeySource for Late {
        fn key(&self, _: &TenantId, _: UserId) -> Result<KeyStatus, KeySourceError> {
            match self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
                Ok(_) => Err(KeySourceError::Unavailable("not yet".to_owned())),
                Err(_) => Ok(KeyStatus::Destroyed),
            }
        }
    }

    #[test]
    fn a_record_waits_for_its_key() {
        let event = Event::User(UserEvent::Disabled(StatusChange { reason: None }));
        let commit = Commit {
            id: CommitId(Uuid::from_u128(1)),
            tenant: TenantId::default(),
            subject: Subject::User(UserId(Uuid::from_u128(2))),
            actor: Actor::System,
            correlation_id: Uuid::from_u128(3),
            causation_id: None,
            recorded_at: Timestamp::EPOCH,
            request_tag: None,
            events: vec![Recorded {
                id: EventId(Uuid::from_u128(4)),
                sequence: 1,
                time: Timestamp::EPOCH,
                event,
            }],
            erased: false,
        };
        let header = RecordHeader {
            kind: RecordKind::Commit,
            commit_id: commit.id,
            epoch: 0,
            seq: 0,
            aggregate_version: 1,
        };
        let entry = Entry {
            position: Position {
                stream: Stream::Identity,
                partition: Partition(0),
                offset: 1,
            },
            record: Record {
                header,
                value: codec::encode(&commit).unwrap().into(),
            },
        };
        let record = block_on(read_one(&entry, &Late(AtomicUsize::new(2))));
        assert_eq!(record.commit().map(|c| c.erased), Some(true));
    }
}
