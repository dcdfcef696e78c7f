//! Recording what was spooled, once the log is back: each user's in order, and each login once however often
//! it is tried.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::domain::{Rejection, session, user};
use gatelog_events::ids::{Partition, UserId};
use gatelog_events::seal::{KeySource, KeyStatus};
use gatelog_projections::subject_keys::SubjectKeys;
use metrics::counter;

use super::waiting::{Place, Window};
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

impl Obstacle {
    /// Whether the others of the partition meet it too, most likely, and each after a long wait.
    fn is_of_partition(&self) -> bool {
        matches!(
            self,
            Obstacle::Write(
                WriteError::Unavailable { .. } | WriteError::NotOwner { .. } | WriteError::Overloaded { .. }
            )
        )
    }
}

/// Whose entries are passed over in one look at what waits.
struct Blocked {
    users: HashSet<UserId>,
    partitions: HashSet<Partition>,
    /// How many partitions there are.
    n: u16,
}

impl Blocked {
    fn nobody(n: u16) -> Self {
        Self {
            users: HashSet::new(),
            partitions: HashSet::new(),
            n,
        }
    }

    /// An entry of this user met an obstacle, so that none that follows may be sent before it.
    fn add(&mut self, user: UserId, obstacle: &Obstacle) {
        self.users.insert(user);
        if obstacle.is_of_partition() {
            self.partitions.insert(user.shard().partition(self.n));
        }
    }

    fn holds(&self, user: UserId) -> bool {
        self.users.contains(&user) || self.partitions.contains(&user.shard().partition(self.n))
    }
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
            let (settled, obstacle) = self.look().await;
            if settled > 0 && self.spool.is_empty() {
                tracing::info!("all spooled logins are recorded");
            }
            if settled > 0 || obstacle.is_none() {
                pause = PAUSE;
            }
            if let Some(obstacle) = obstacle {
                let waiting = self.spool.len();
                tracing::warn!(%obstacle, waiting, "spooled logins are not recorded yet");
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
    }

    /// Sends all that waits now, window after window, but for whom an obstacle blocks. How many entries were
    /// settled, and the first obstacle.
    async fn look(&self) -> (usize, Option<Obstacle>) {
        let mut blocked = Blocked::nobody(self.backend.log().partitions());
        let (mut settled, mut first) = (0, None);
        // What is kept meanwhile waits for the next look, or what is blocked would wait for ever.
        let until = self.spool.end();
        let mut from = Some(0);
        while let Some(at) = from
            && self.backend.is_reachable()
        {
            let Window { places, next } = self.spool.window(at..until, WINDOW, |user| blocked.holds(user));
            let sent = places.iter().copied().map(|place| self.settle(place));
            let fates = futures::future::join_all(sent).await;
            let mut done = Vec::with_capacity(fates.len());
            for (place, fate) in places.iter().zip(fates) {
                match fate {
                    Ok(fate) => {
                        count(&fate);
                        done.push(place.at);
                    }
                    Err(obstacle) => {
                        blocked.add(place.user, &obstacle);
                        first.get_or_insert(obstacle);
                    }
                }
            }
            if !done.is_empty() {
                settled += done.len();
                self.spool.drained(done).await;
            }
            from = next;
        }
        (settled, first)
    }

    async fn settle(&self, place: Place) -> Result<Fate, Obstacle> {
        let entry = self.spool.read(place)?;
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
    use gatelog_events::clock::Timestamp;
    use gatelog_events::ids::{Shard, Stream};

    use super::*;

    #[test]
    fn an_obstacle_blocks_its_user_and_that_of_a_partition_blocks_the_partition() {
        let user = |shard: u16, n: u8| UserId::new(Timestamp::EPOCH, Shard(shard), [n; 8]);
        let unavailable = WriteError::Unavailable {
            reason: String::new(),
        };
        let mut blocked = Blocked::nobody(4);
        blocked.add(user(1, 1), &Obstacle::Write(unavailable));
        for (obstacle, n) in [
            (Obstacle::Task, 1),
            (WriteError::Internal(String::new()).into(), 2),
            (SpoolError::Broken.into(), 3),
        ] {
            blocked.add(user(2, n), &obstacle);
        }
        for (of, expected) in [
            (user(1, 1), true),
            (user(5, 9), true),
            (user(2, 1), true),
            (user(2, 2), true),
            (user(2, 3), true),
            (user(2, 9), false),
            (user(3, 1), false),
        ] {
            assert_eq!(blocked.holds(of), expected, "{of}");
        }
    }

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
