//! The node from inside: what is acknowledged is applied, what a restart finds, what a rebuild leaves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use gatelog::node::{Data, Started};
use gatelog::writer::{Command, Idempotency, WriteError};
use gatelog_events::commit::Subject;
use gatelog_events::domain::Rejection;
use gatelog_events::domain::session::{self, Client, FailureReason, LoginMethod};
use gatelog_events::domain::user;
use gatelog_events::ids::{CommitId, Offset, Partition, Position, Stream};
use gatelog_events::log::{AppendError, Entry, EntryIter, EventLog, LogError, Record};
use gatelog_projections::projection::Projection;
use gatelog_projections::store::Table;
use gatelog_projections::verify::verify;
use support::world::{World, config};

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_user_is_there_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let started = open(dir.path()).await;
    let world = World::new(&started.node);
    let id = world.register("Ada@Example.com").await.unwrap();
    let user = world.node.views.user(&world.tenant, id).unwrap();
    assert_eq!(user.email.as_ref().unwrap().typed(), "Ada@Example.com");
    assert_eq!(user.plan.as_ref().unwrap().name, "free");
    assert!(matches!(
        world.register("ada@example.COM").await,
        Err(WriteError::Rejected(Rejection::User(
            user::Rejection::AddressTaken
        )))
    ));
    drop(world);
    started.close().await.unwrap();
    let started = open(dir.path()).await;
    let world = World::new(&started.node);
    assert!(world.node.views.user(&world.tenant, id).unwrap() == user);
    assert_eq!(world.login_of("ada@example.com").unwrap().user, id);
    drop(world);
    started.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_want_one_address_and_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let started = open(dir.path()).await;
    let world = Arc::new(World::new(&started.node));
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..100 {
        let world = world.clone();
        let address = if i % 2 == 0 {
            "GRACE@example.com"
        } else {
            "grace@EXAMPLE.com."
        };
        tasks.spawn(async move { world.register(address).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_can_be_rebuilt_while_writes_go_on_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let started = open(dir.path()).await;
    let world = Arc::new(World::new(&started.node));
    let mut users = Vec::new();
    for i in 0..50 {
        users.push(world.register(&format!("user{i}@example.com")).await.unwrap());
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let (world, users, stop) = (world.clone(), users.clone(), stop.clone());
        tokio::spawn(async move {
            let mut n = 0u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let user = users[n as usize % users.len()];
                let granted = (n as usize / users.len()).is_multiple_of(2);
                world.consent(user, granted).await.unwrap();
                let state = world.node.views.user(&world.tenant, user).unwrap();
                assert_eq!(state.consents["newsletter"].granted, granted);
                n += 1;
            }
            n
        })
    };
    for name in [
        "users",
        "identifiers",
        "sessions",
        "settings",
        "logins",
        "answers",
        "consents",
        "timeline",
        "statistics",
    ] {
        let before = started.node.views.table(name).unwrap();
        let progress = started.node.rebuilds.start(name).unwrap();
        while progress.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(progress.ended(), Some(Ok(())), "{name}");
        assert_ne!(started.node.views.table(name).unwrap(), before);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(load.await.unwrap() > 0);
    world.erase(users[7]).await.unwrap();
    drop(world);
    started.close().await.unwrap();
    verify_is_clean(dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_one_request_are_one_commit_and_another_request_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let started = open(dir.path()).await;
    let world = Arc::new(World::new(&started.node));
    let user = Subject::User(world.register("ada@example.com").await.unwrap());
    for round in 0..20u128 {
        let command = Command::User(user::Command::GrantRole {
            role: format!("role-{round}"),
        });
        let key = |request: &str| Idempotency {
            commit_id: CommitId(uuid::Uuid::from_u128(round + 1)),
            request: request.as_bytes().into(),
        };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (world, command, key) = (world.clone(), command.clone(), key("the same"));
            tasks.spawn(async move { world.submit_keyed(user, command, Some(key)).await.unwrap() });
        }
        let answers = tasks.join_all().await;
        assert_eq!(answers.iter().filter(|a| !a.replayed).count(), 1);
        assert!(answers.iter().all(|a| a.answer == answers[0].answer));
        let other = world.submit_keyed(user, command, Some(key("another"))).await;
        assert!(matches!(other, Err(WriteError::KeyReused)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_do_not_serve_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let started = open(dir.path()).await;
    let world = World::new(&started.node);
    let ada = world.register("ada@example.com").await.unwrap();
    world.consent(ada, true).await.unwrap();
    drop(world);
    started.close().await.unwrap();
    // What a rebuild left that was cut off, and what an older version folded.
    let places = ["users.v1.7", "timeline.v1.3"].map(|name| Table(name.into()));
    {
        let data = Data::open(&config(dir.path())).unwrap();
        for table in &places {
            data.store.create(table).unwrap();
            let row = ("PU".into(), Some("personal".into()));
            data.store.write([(table, &[row][..])]).unwrap();
        }
        data.store.activate("timeline", &places[1]).unwrap();
    }
    let started = open(dir.path()).await;
    for name in ["users", "timeline"] {
        let serving = started.node.views.table(name).unwrap();
        let store = started.node.views.store();
        assert_eq!(store.tables(name), [serving], "{name}");
    }
    started.close().await.unwrap();
    verify_is_clean(dir.path());
}

async fn open(dir: &std::path::Path) -> Started {
    let config = config(dir);
    tokio::task::spawn_blocking(move || Started::open(config).unwrap())
        .await
        .unwrap()
}

fn verify_is_clean(dir: &std::path::Path) {
    let data = Data::open(&config(dir)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let report = gatelog_projections::verify::verify(
        &data.store,
        data.log.as_ref(),
        data.keys.as_ref(),
        &data.projections,
        scratch.path(),
        || {},
    )
    .unwrap();
    assert!(report.is_clean(), "{report:?}");
    let empty = |name| ["answers", "sessions", "handovers", "webhooks", "signals"].contains(name);
    assert!(
        report.rows.iter().all(|(name, rows)| *rows > 0 || empty(name)),
        "{report:?}"
    );
}

/// A log of which retention has cut what stands before `begin` in each partition of activity.
struct Cut<'a> {
    log: &'a dyn EventLog,
    begin: Offset,
}

impl EventLog for Cut<'_> {
    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn append(
        &self,
        stream: Stream,
        partition: Partition,
        record: Record,
    ) -> BoxFuture<'static, Result<Position, AppendError>> {
        self.log.append(stream, partition, record)
    }

    fn read(
        &self,
        stream: Stream,
        partition: Partition,
        from: Offset,
    ) -> BoxStream<'static, Result<Entry, LogError>> {
        self.log.read(stream, partition, from)
    }

    fn read_to_end(&self, from: &[Position]) -> Result<EntryIter, LogError> {
        let begin = self.begin;
        let is_cut = move |at: Position| at.stream == Stream::Activity && at.offset < begin;
        let entries = self.log.read_to_end(from)?;
        Ok(Box::new(entries.filter(move |entry| {
            !entry.as_ref().is_ok_and(|e| is_cut(e.position))
        })))
    }

    fn end(&self, stream: Stream, partition: Partition) -> BoxFuture<'static, Result<Offset, LogError>> {
        self.log.end(stream, partition)
    }
}

/// The read models keep what was folded before it was cut, and nobody can say any more whether that is right.
#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_cut_is_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let started = open(dir.path()).await;
    let world = World::new(&started.node);
    let user = Subject::User(world.register("ada@example.com").await.unwrap());
    for _ in 0..2 {
        let fail = session::Command::FailLogin {
            reason: FailureReason::WrongPassword,
            method: LoginMethod::Password,
            client: Client::default(),
        };
        world.submit(user, Command::Session(fail)).await.unwrap();
    }
    drop(world);
    started.close().await.unwrap();
    let data = Data::open(&config(dir.path())).unwrap();
    let (with_activity, others): (Vec<_>, Vec<_>) = data
        .projections
        .iter()
        .partition(|p| p.streams().contains(&Stream::Activity));
    let names = |of: &[&Arc<dyn Projection>]| of.iter().map(|p| p.name()).collect::<Vec<_>>();
    let [with_activity, others] = [names(&with_activity), names(&others)];
    // All is there; a claim and the first of the two commits are gone; everything is.
    for begin in [0, 2, Offset::MAX] {
        let scratch = tempfile::tempdir().unwrap();
        let log = Cut {
            log: data.log.as_ref(),
            begin,
        };
        let (keys, projections) = (data.keys.as_ref(), &data.projections);
        let report = verify(&data.store, &log, keys, projections, scratch.path(), || {}).unwrap();
        assert!(report.is_clean(), "from {begin}: {report:?}");
        if begin == 0 {
            assert_eq!(report.not_compared, Vec::<&str>::new());
            assert_eq!(report.rows.len(), with_activity.len() + others.len());
        } else {
            assert_eq!(report.not_compared, with_activity, "from {begin}");
            let compared: Vec<_> = report.rows.iter().map(|(name, _)| *name).collect();
            assert_eq!(compared, others, "from {begin}");
        }
    }
}
