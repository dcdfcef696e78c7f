//! A log of which some partitions take nothing and do not tell their end, as Kafka's do that have too few copies in sync and a
//! new leader.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;

use futures::FutureExt;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, StreamExt};
use gatelog_events::domain::session::{Client, LoginMethod};
use gatelog_events::ids::{Offset, Position, SessionId, Stream};
use gatelog_events::log::{AppendError, EntryIter, Heard, LogError, Record};
use gatelog_projections::catch_up::check_ends;
use parking_lot::Mutex;

use super::*;

struct Sick {
    log: Arc<dyn EventLog>,
    places: Mutex<BTreeSet<(Stream, Partition)>>,
    /// How often a sick place was asked for its end.
    asked: AtomicUsize,
    /// What they say of their end.
    says: LogError,
    /// Whether nobody has noticed.
    looks_well: bool,
}

impl Sick {
    fn new(log: &Arc<dyn EventLog>, places: impl IntoIterator<Item = (Stream, Partition)>) -> Arc<Self> {
        Arc::new(Self {
            log: log.clone(),
            places: Mutex::new(places.into_iter().collect()),
            asked: AtomicUsize::new(0),
            says: LogError::Unreachable {
                place: "a partition".into(),
                what: "its leader is new".into(),
            },
            looks_well: false,
        })
    }

    fn is_sick(&self, stream: Stream, partition: Partition) -> bool {
        self.places.lock().contains(&(stream, partition))
    }
}

impl EventLog for Sick {
    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn append(
        &self,
        stream: Stream,
        partition: Partition,
        record: Record,
    ) -> BoxFuture<'static, Result<Position, AppendError>> {
        match self.is_sick(stream, partition) {
            true => future::ready(Err(AppendError::Unknown("too few copies".into()))).boxed(),
            false => self.log.append(stream, partition, record),
        }
    }

    fn read(
        &self,
        stream: Stream,
        partition: Partition,
        from: Offset,
    ) -> BoxStream<'static, Result<Entry, LogError>> {
        match self.is_sick(stream, partition) {
            true => stream::pending().boxed(),
            false => self.log.read(stream, partition, from),
        }
    }

    fn read_to_end(&self, from: &[Position]) -> Result<EntryIter, LogError> {
        self.log.read_to_end(from)
    }

    fn end(&self, stream: Stream, partition: Partition) -> BoxFuture<'static, Result<Offset, LogError>> {
        if !self.is_sick(stream, partition) {
            return self.log.end(stream, partition);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        future::ready(Err(self.says.clone())).boxed()
    }

    fn is_writable(&self, stream: Stream, partition: Partition) -> bool {
        self.looks_well || !self.is_sick(stream, partition)
    }

    fn heard_end(&self, stream: Stream, partition: Partition) -> Option<Heard> {
        match self.is_sick(stream, partition) {
            true => None,
            false => self.log.heard_end(stream, partition),
        }
    }
}

fn login(user: UserId, session_id: SessionId) -> (Subject, Command) {
    let login = session::Command::Login {
        session_id,
        method: LoginMethod::Password,
        client: Client::default(),
        credential_version: 0,
    };
    (Subject::User(user), Command::Session(login))
}

fn refresh(user: UserId, session_id: SessionId) -> (Subject, Command) {
    let refresh = session::Command::Refresh {
        session_id,
        generation: 0,
    };
    (Subject::User(user), Command::Session(refresh))
}

/// Who was disabled where it cannot be read at present is not let in by what is known from before.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_on_identity_that_could_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::embedded(dir.path());
    let all = || owned(0..PARTITIONS);
    let first = Member::start(&shared, &shared.log, &dir.path().join("first"), all());
    first.seed().await.unwrap();
    let newcomer = first.newcomer("ada@example.com");
    let (ada, partition) = (newcomer.0, newcomer.1);
    first.register(newcomer).await.unwrap();
    let session = SessionId::new(clock::now(), ada.shard(), [7; 8]);
    let (subject, command) = login(ada, session);
    first.submit(subject, command).await.unwrap();
    // Another node has read so far, and not what comes.
    let other = Member::start(&shared, &shared.log, &dir.path().join("other"), owned([]));
    drop(other.stop());
    let disable = Command::User(user::Command::Disable { reason: None });
    first.submit(Subject::User(ada), disable).await.unwrap();
    drop(first.stop());

    let sick = Sick::new(&shared.log, [(Stream::Identity, partition)]);
    let log: Arc<dyn EventLog> = sick.clone();
    let other = Member::start(&shared, &log, &dir.path().join("other"), all());
    let (subject, command) = refresh(ada, session);
    let refused = other.submit(subject, command.clone()).await;
    assert!(
        matches!(refused, Err(WriteError::Unavailable { .. })),
        "{refused:?}"
    );
    assert_eq!(
        sick.asked.load(Ordering::Relaxed),
        0,
        "who said nothing a moment ago"
    );
    // Others are not held up.
    let bob = (0..)
        .map(|n| other.newcomer(&format!("bob.{n}@example.com")))
        .find(|newcomer| newcomer.1 != partition);
    let bob = bob.unwrap();
    other.register(bob).await.unwrap();

    sick.places.lock().clear();
    let begun = clock::monotonic();
    let refused = loop {
        match other.submit(subject, command.clone()).await {
            Err(WriteError::Unavailable { .. } | WriteError::NotOwner { .. }) => {}
            decided => break decided,
        }
        assert!(begun.elapsed() < PATIENCE, "it is not claimed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        matches!(refused, Err(WriteError::Rejected(Rejection::Session(_)))),
        "{refused:?}"
    );
    drop(other.stop());
}

/// Claims in the place of lost records would hide that they were lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_says_that_it_lost_records_is_not_claimed() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::embedded(dir.path());
    let first = Member::start(
        &shared,
        &shared.log,
        &dir.path().join("first"),
        owned(0..PARTITIONS),
    );
    first.seed().await.unwrap();
    let store = first.stop();
    let place = (Stream::Identity, Partition(3));
    let says = LogError::Damaged {
        place: "a partition".into(),
        what: "it has lost records".into(),
    };
    let log = Sick {
        log: shared.log.clone(),
        places: Mutex::new(BTreeSet::from([place])),
        asked: AtomicUsize::new(0),
        says: says.clone(),
        looks_well: true,
    };
    let found = check_ends(&store, &shared.projections(), &log);
    assert_eq!(found.unwrap_err().to_string(), says.to_string());
}
