//! Recording what was spooled, once the log is back: in order, and each login once however often it is tried.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::domain::{Rejection, session, user};
use gatelog_events::seal::{KeySource, KeyStatus};
use gatelog_projections::subject_keys::SubjectKeys;
use metrics::counter;

use super::entry::Entry;
use super::{Spool, SpoolError, SpooledLogin};
use crate::backend::Backend;
use crate::cluster::Router;
use crate::writer::WriteError;

/// Logins that are sent at once.
const WINDOW: usize = 64;

/// Between two looks whether the log is back.
const LOOK: Duration = Duration::from_millis(250);

/// Between two attempts while something cannot be written; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What draining needs of its node.
pub struct Drain {
    pub spool: Arc<Spool>,
    pub router: Router,
    pub keys: Arc<SubjectKeys>,
    pub backend: Backend,
}

/// What became of an entry.
enum Fate {
    /// The log has its session.
    Recorded,
    /// There will be no session, and why.
    Rejected(&'static str),
}

/// Why an entry must be sent again.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error("{0}")]
    Keys(#[from] gatelog_events::seal::KeySourceError),
    #[error("a task ended early")]
    Task,
}

impl Drain {
    /// Drains whenever there is something to drain. Never ends.
    pub async fn run(&self) {
        let mut count = self.spool.count();
        let mut pause = PAUSE;
        loop {
            if count.wait_for(|waiting| *waiting > 0).await.is_err() {
                return std::future::pending().await;
            }
            if !self.backend.is_reachable() {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            match self.window().await {
                Ok(()) => pause = PAUSE,
                Err(obstacle) => {
                    tracing::warn!(%obstacle, "spooled logins are not recorded yet");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Sends the first entries, of as many users, and takes off the front what is settled.
    async fn window(&self) -> Result<(), Obstacle> {
        let entries = self.spool.front(WINDOW)?;
        let fates = futures::future::join_all(entries.into_iter().map(|entry| self.settle(entry))).await;
        let mut settled = 0;
        let mut obstacle = None;
        for fate in fates {
            match fate {
                Ok(fate) => {
                    count(&fate);
                    settled += 1;
                }
                // What comes after it is sent again too, which changes nothing.
                Err(e) => {
                    obstacle = Some(e);
                    break;
                }
            }
        }
        if settled > 0 {
            self.spool.drained(settled).await;
            if self.spool.is_empty() {
                tracing::info!("all spooled logins are recorded");
            }
        }
        obstacle.map_or(Ok(()), Err)
    }

    async fn settle(&self, entry: Entry) -> Result<Fate, Obstacle> {
        let (keys, tenant, user) = (self.keys.clone(), entry.tenant().clone(), entry.user());
        // A key that is missed here is read from its topic.
        let status = tokio::task::spawn_blocking(move || keys.key(&tenant, user)).await;
        let key = match status.map_err(|_| Obstacle::Task)?? {
            KeyStatus::Present(key) => key,
            KeyStatus::Destroyed => return Ok(Fate::Rejected("user_erased")),
            KeyStatus::Missing => {
                let what =
                    format!("the key of {user} is missing, and no tombstone says that it was destroyed");
                return Err(SpoolError::Entry(what).into());
            }
        };
        self.record(entry.open(&key)?).await
    }

    async fn record(&self, login: SpooledLogin) -> Result<Fate, Obstacle> {
        let session = login.session_id;
        let mut request = login.into_request();
        match self.router.submit(request.clone()).await {
            // The same request was sent again with its key and had another session, whose tokens went out too.
            Ok(outcome) if outcome.replayed && outcome.answer.session != Some(session) => {}
            Err(WriteError::KeyReused) => {}
            result => return fate(result.map(|_| ())),
        }
        request.idempotency = None;
        fate(self.router.submit(request).await.map(|_| ()))
    }
}

fn fate(result: Result<(), WriteError>) -> Result<Fate, Obstacle> {
    match result {
        Ok(()) => Ok(Fate::Recorded),
        Err(WriteError::Rejected(rejection)) => Ok(Fate::Rejected(reason(&rejection))),
        Err(WriteError::TooLarge { .. }) => Ok(Fate::Rejected("too_large")),
        Err(e) => Err(e.into()),
    }
}

fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::User(user::Rejection::NotFound) => "user_erased",
        Rejection::Session(session::Rejection::NotAllowed) => "not_allowed",
        Rejection::Session(session::Rejection::CredentialChanged) => "password_changed",
        _ => "other",
    }
}

fn count(fate: &Fate) {
    match fate {
        Fate::Recorded => counter!("gatelog_spool_drained_total").increment(1),
        Fate::Rejected(reason) => {
            tracing::warn!(reason, "a spooled login becomes no session");
            counter!("gatelog_spool_rejected_total", "reason" => *reason).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::ids::{Partition, Stream};

    #[test]
    fn what_the_writer_says_decides_whether_an_entry_is_sent_again() {
        let unavailable = || WriteError::Unavailable {
            reason: String::new(),
        };
        let not_owner = WriteError::NotOwner {
            stream: Stream::Activity,
            partition: Partition(1),
        };
        let overloaded = WriteError::Overloaded { retry_after: PAUSE };
        for again in [
            unavailable(),
            not_owner,
            overloaded,
            WriteError::Internal(String::new()),
        ] {
            assert!(fate(Err(again)).is_err());
        }
        for (rejection, expected) in [
            (Rejection::User(user::Rejection::NotFound), "user_erased"),
            (Rejection::Session(session::Rejection::NotAllowed), "not_allowed"),
            (
                Rejection::Session(session::Rejection::CredentialChanged),
                "password_changed",
            ),
        ] {
            let fate = fate(Err(WriteError::Rejected(rejection)));
            assert!(matches!(fate, Ok(Fate::Rejected(reason)) if reason == expected));
        }
        assert!(matches!(fate(Ok(())), Ok(Fate::Recorded)));
    }
}
