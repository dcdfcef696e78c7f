//! The writer: the only one who appends to the log.
//!
//! ```text
//!  submit ─▶ queue ─▶ decider ── append ──▶ log (one fsync for all that came meanwhile)
//!                       │ decides and folds     │ acknowledges in order
//!                       ▼                       ▼
//!                    overlay of what        applier: one RocksDB write for all that was acknowledged,
//!                    is in flight           then destroys keys of the erased, then answers; hands on to the tail
//! ```
//!
//! Each arrow is a bounded queue. A decision never waits for the disk; an answer always does.

mod applier;
mod claims;
mod compose;
mod decide;
mod decider;
mod follower;
mod office;
mod place;
pub(crate) mod random;
pub mod rebuild;
mod strays;
mod swap;
mod tail;
mod takeover;
mod unwritten;

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock::Timestamp;
use gatelog_events::commit::{Commit, Subject};
use gatelog_events::domain::{Actor, Rejection, feed, session, tenant, user};
use gatelog_events::email::Email;
use gatelog_events::ids::{CommitId, Partition, Position, Stream, TenantId};
use gatelog_projections::answers::Answer;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

pub use claims::{ClaimBook, Claims};
pub use office::{Running, start};
pub(crate) use place::place;
pub use takeover::{Options, Owned, Parts, TakeoverError, undestroyed};

/// What is asked of an aggregate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    User(user::Command),
    /// Reserves an address for the user in the address's own partition, so that it can be attached.
    Claim(Email),
    Session(session::Command),
    Tenant(tenant::Command),
    /// About nobody: what was handed over by a feed, said in the partition of what was withdrawn.
    Feed(feed::Command),
}

/// A key that makes a retry harmless.
#[derive(Clone)]
pub struct Idempotency {
    /// Derived from caller, operation and the caller's key.
    pub commit_id: CommitId,
    /// A digest of what was asked, to notice another request under the same key. Only a tag of it is kept.
    pub request: Arc<[u8]>,
}

/// One command with its circumstances.
#[derive(Clone)]
pub struct Request {
    pub tenant: TenantId,
    /// Whose aggregate it is. A new user's key must be stored before.
    pub subject: Subject,
    /// Partition of the identifier that was tried; only where the subject is nobody.
    pub partition: Option<Partition>,
    pub command: Command,
    pub actor: Actor,
    pub correlation_id: Uuid,
    pub idempotency: Option<Idempotency>,
    /// When it happened, if that is not now: for imports.
    pub time: Option<Timestamp>,
    /// What the decision must have seen, in another partition.
    pub after: Option<Position>,
}

/// What became of a command.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Position, subject and time; the same for each retry.
    pub answer: Answer,
    /// What was appended. None where nothing changed, or where an earlier answer is given again.
    pub commit: Option<Arc<Commit>>,
    /// Whether this is the answer to an earlier request with the same idempotency key.
    pub replayed: bool,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("this idempotency key was used for another request")]
    KeyReused,
    #[error("too much is waiting to be written")]
    Overloaded { retry_after: Duration },
    /// Nothing is known to be written; the same request, with its idempotency key, may be sent again.
    #[error("the log cannot be written at present: {reason}")]
    Unavailable { reason: String },
    /// This node does not write the partition, or not any more; nothing was written.
    #[error("another node owns {stream}:{partition}")]
    NotOwner { stream: Stream, partition: Partition },
    #[error("the request makes a record of {size} bytes; the log takes at most {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("internal: {0}")]
    Internal(String),
}

type Reply = oneshot::Sender<Result<Outcome, WriteError>>;

struct Submission {
    request: Request,
    reply: Reply,
}

/// Where commands are handed in.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<takeover::Message>,
    /// Not in the queue: nobody shall wait behind commands to hear what is ours.
    owned: watch::Sender<Owned>,
}

impl Writer {
    /// Hands a command in and waits until it is durable and applied, or refused. A full queue answers at once.
    pub async fn submit(&self, request: Request) -> Result<Outcome, WriteError> {
        let (reply, answer) = oneshot::channel();
        let message = takeover::Message::Command(Box::new(Submission { request, reply }));
        match self.queue.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(WriteError::Overloaded {
                    retry_after: Duration::from_secs(1),
                });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(shut_down()),
        }
        answer.await.unwrap_or_else(|_| Err(shut_down()))
    }

    /// Like [`submit`](Self::submit), but waits for room in the queue: for imports, which may take their time.
    pub async fn submit_patiently(&self, request: Request) -> Result<Outcome, WriteError> {
        self.hand_in(request).await?.await
    }

    /// Waits for room in the queue, and then answers what will be answered. What one caller hands in is decided in that
    /// order.
    pub async fn hand_in(
        &self,
        request: Request,
    ) -> Result<impl Future<Output = Result<Outcome, WriteError>> + Send + 'static, WriteError> {
        let (reply, answer) = oneshot::channel();
        let message = takeover::Message::Command(Box::new(Submission { request, reply }));
        self.queue.send(message).await.map_err(|_| shut_down())?;
        Ok(async move { answer.await.unwrap_or_else(|_| Err(shut_down())) })
    }

    /// Says which partitions this node shall write from now on.
    pub fn own(&self, partitions: Owned) {
        self.owned.send_if_modified(|owned| {
            let changes = *owned != partitions;
            *owned = partitions;
            changes
        });
    }

    /// Waits until nobody decides any more: the thread has ended, by a fault if it was not told to.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Commands that may still be handed in before the queue is full.
    pub fn room(&self) -> usize {
        self.queue.capacity()
    }
}

fn shut_down() -> WriteError {
    WriteError::Unavailable {
        reason: "the node is shutting down".to_owned(),
    }
}
