//! Two writers on one log, each with read models of its own: what one may write, what the other must know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatelog::views::Views;
use gatelog::writer::{self, Claims, Command, Options, Outcome, Owned, Parts, Request, Running, WriteError};
use gatelog_events::clock;
use gatelog_events::codec;
use gatelog_events::commit::Subject;
use gatelog_events::directory::Directory;
use gatelog_events::domain::session;
use gatelog_events::domain::user::{self, Origin, Register};
use gatelog_events::domain::{Actor, Rejection, plan::ChangePlan, tenant};
use gatelog_events::email::Email;
use gatelog_events::ids::{Partition, TenantId, UserId};
use gatelog_events::log::embedded::{EmbeddedLog, EmbeddedOptions};
use gatelog_events::log::fence::{Fence, Verdict};
use gatelog_events::log::simulated::{Drive, SimulatedLog, SimulatedOptions};
use gatelog_events::log::{Entry, EventLog};
use gatelog_events::seal::{MasterKey, SubjectKey};
use gatelog_projections::projection::Projection;
use gatelog_projections::store::{Store, StoreOptions};
use gatelog_projections::subject_keys::{CacheOptions, NewKey, SubjectKeys};
use gatelog_projections::verify::verify;
use gatelog_projections::{identifiers, statistics, timeline, users};
use uuid::Uuid;

#[path = "two_writers/sick.rs"]
mod sick;

/// The random part of ids.
static NEXT: AtomicU64 = AtomicU64::new(1);

const PARTITIONS: u16 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// What all nodes share: the log, the keys, the secrets.
struct Shared {
    log: Arc<dyn EventLog>,
    keys: Arc<SubjectKeys>,
    directory: Arc<Directory>,
}

impl Shared {
    fn embedded(dir: &Path) -> Self {
        let options = EmbeddedOptions {
            partitions: PARTITIONS,
            ..EmbeddedOptions::default()
        };
        Self::over(EmbeddedLog::open(dir.join("log"), options).unwrap(), dir)
    }

    fn over(log: Arc<dyn EventLog>, dir: &Path) -> Self {
        Self {
            log,
            keys: Arc::new(
                SubjectKeys::open(
                    &dir.join("keys"),
                    MasterKey::new([7; 32]),
                    CacheOptions::default(),
                )
                .unwrap(),
            ),
            directory: Arc::new(Directory::new(&[1; 32], &[2; 32])),
        }
    }

    fn projections(&self) -> Vec<Arc<dyn Projection>> {
        gatelog_projections::all::all(&self.directory)
    }
}

/// One node's part of it.
struct Member {
    parts: Arc<Parts>,
    running: Running,
    tenant: TenantId,
}

fn owned(partitions: impl IntoIterator<Item = u16>) -> Owned {
    partitions.into_iter().map(Partition).collect()
}

impl Member {
    fn start(shared: &Shared, log: &Arc<dyn EventLog>, dir: &Path, owned: Owned) -> Self {
        let store = Store::open(dir, StoreOptions::default()).unwrap();
        let parts = Arc::new(Parts {
            taken: tokio::sync::watch::channel(None).0,
            log: log.clone(),
            store: store.clone(),
            keys: shared.keys.clone(),
            directory: shared.directory.clone(),
            views: Arc::new(Views::new(store)),
            max_record_bytes: 1 << 20,
            erasures: tokio::sync::watch::channel(0).0,
            undestroyed: Default::default(),
            claims: Claims::alone(),
        });
        let options = Options {
            queue: 4096,
            policy: session::Policy::default(),
        };
        let running = writer::start(parts.clone(), shared.projections(), options, owned).unwrap();
        Self {
            parts,
            running,
            tenant: TenantId::default(),
        }
    }

    async fn submit(&self, subject: Subject, command: Command) -> Result<Outcome, WriteError> {
        self.attempt(Uuid::nil(), subject, command).await
    }

    async fn attempt(
        &self,
        correlation_id: Uuid,
        subject: Subject,
        command: Command,
    ) -> Result<Outcome, WriteError> {
        let request = Request {
            tenant: self.tenant.clone(),
            subject,
            partition: None,
            command,
            actor: Actor::System,
            correlation_id,
            idempotency: None,
            time: None,
            after: None,
        };
        self.running.writer.submit(request).await
    }

    async fn seed(&self) -> Result<Outcome, WriteError> {
        self.submit(Subject::Tenant, Command::Tenant(tenant::Command::Seed))
            .await
    }

    /// A new user's id and partition, with the key stored.
    fn newcomer(&self, address: &str) -> (UserId, Partition, Register) {
        let email = Email::parse(address).unwrap();
        let shard = self.parts.directory.shard(&self.tenant, &email);
        let subject = UserId::new(
            clock::now(),
            shard,
            NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes(),
        );
        let key = NewKey {
            tenant: self.tenant.clone(),
            subject,
            key: SubjectKey::new([9; 32]),
            nonce: [3; 12],
        };
        self.parts.keys.put(&[key]).unwrap();
        let register = Register {
            email,
            email_verified: false,
            password_hash: None,
            origin: Origin::Api,
            locale: None,
            profile: Default::default(),
            plan: None,
            consents: vec![],
            roles: Default::default(),
            disabled: false,
        };
        (subject, shard.partition(PARTITIONS), register)
    }

    async fn register(
        &self,
        (subject, _, register): (UserId, Partition, Register),
    ) -> Result<Outcome, WriteError> {
        self.submit(
            Subject::User(subject),
            Command::User(user::Command::Register(register)),
        )
        .await
    }

    async fn knows(&self, outcome: &Outcome) {
        for view in [users::NAME, identifiers::NAME, timeline::NAME, statistics::NAME] {
            let position = outcome.answer.position();
            self.parts.views.wait_for(view, position, PATIENCE).await.unwrap();
        }
    }

    fn stop(self) -> Arc<Store> {
        let store = self.parts.store.clone();
        std::thread::spawn(|| self.running.stop()).join().unwrap();
        store
    }
}

/// The requests of which something counts in the log.
fn written(shared: &Shared) -> HashSet<Uuid> {
    let mut fences: HashMap<_, Fence> = HashMap::new();
    let mut written = HashSet::new();
    for entry in shared.log.read_to_end(&[]).unwrap() {
        let Entry { position: at, record } = entry.unwrap();
        let fence = fences.entry((at.stream, at.partition)).or_default();
        if fence.admit(at.offset, &record.header) == Verdict::Commit {
            let commit = codec::decode(record.header.commit_id, &record.value).unwrap();
            written.insert(commit.correlation_id);
        }
    }
    written
}

/// Both stores say what the log says, and so the same.
fn both_are_as_the_log(shared: &Shared, dir: &Path, stores: [Arc<Store>; 2]) {
    for (n, store) in stores.into_iter().enumerate() {
        let scratch = dir.join(format!("fresh-{n}"));
        let projections = shared.projections();
        let report = verify(
            &store,
            shared.log.as_ref(),
            shared.keys.as_ref(),
            &projections,
            &scratch,
            || {},
        )
        .unwrap();
        assert!(report.is_clean(), "node {n}: {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_writes_its_own_partitions_and_knows_what_the_other_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::embedded(dir.path());
    let a = Member::start(&shared, &shared.log, &dir.path().join("a"), owned(0..4));
    let b = Member::start(&shared, &shared.log, &dir.path().join("b"), owned(4..8));
    let seeded = match a.seed().await {
        Err(WriteError::NotOwner { .. }) => b.seed().await.unwrap(),
        other => other.unwrap(),
    };
    a.knows(&seeded).await;
    b.knows(&seeded).await;
    for n in 0..200 {
        let newcomer = a.newcomer(&format!("user.{n}@example.com"));
        let (id, partition) = (newcomer.0, newcomer.1);
        let (owner, other) = if partition.0 < 4 { (&a, &b) } else { (&b, &a) };
        let refused = other.register(newcomer.clone()).await;
        assert!(
            matches!(refused, Err(WriteError::NotOwner { partition: p, .. }) if p == partition),
            "{refused:?}"
        );
        let outcome = owner.register(newcomer).await.unwrap();
        other.knows(&outcome).await;
        assert!(other.parts.views.user(&other.tenant, id).unwrap().exists());
    }
    both_are_as_the_log(&shared, dir.path(), [a.stop(), b.stop()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_while_commands_come() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::embedded(dir.path());
    let logs = [shared.log.clone(), shared.log.clone()];
    move_partitions(shared, logs, dir.path(), 400).await;
}

/// The same on a log that loses acknowledgements, takes records twice and skips offsets.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_while_the_log_fails() {
    let seeds = std::env::var("GATELOG_WRITER_SEEDS").map_or(6, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let dir = tempfile::tempdir().unwrap();
        let log = SimulatedLog::new(SimulatedOptions {
            seed,
            partitions: PARTITIONS,
            lost_acknowledgement: 2,
            duplicate: 2,
            gap: 3,
            ..SimulatedOptions::default()
        });
        let shared = Shared::over(log.producer(Drive::Appends), dir.path());
        let logs = [
            log.producer(Drive::Appends) as Arc<dyn EventLog>,
            log.producer(Drive::Appends),
        ];
        move_partitions(shared, logs, dir.path(), 60).await;
    }
}

async fn move_partitions(shared: Shared, logs: [Arc<dyn EventLog>; 2], dir: &Path, users: usize) {
    let a = Arc::new(Member::start(&shared, &logs[0], &dir.join("a"), owned([])));
    let b = Arc::new(Member::start(&shared, &logs[1], &dir.join("b"), owned([])));
    a.running.writer.own(owned(0..8));
    let seeded = loop {
        if let Ok(outcome) = a.seed().await {
            break outcome;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    a.knows(&seeded).await;
    let load = {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move {
            let (mut acknowledged, mut denied) = (Vec::new(), Vec::new());
            for n in 0..users {
                let newcomer = a.newcomer(&format!("user.{n}@example.com"));
                for member in [&a, &b].into_iter().cycle().take(4000) {
                    match member.register(newcomer.clone()).await {
                        Ok(outcome) => {
                            acknowledged.push((newcomer.0, outcome));
                            break;
                        }
                        Err(WriteError::NotOwner { .. } | WriteError::Unavailable { .. }) => {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                        // It was written when the answer said that nobody knows.
                        Err(WriteError::Rejected(Rejection::User(
                            user::Rejection::AddressTaken | user::Rejection::AlreadyExists,
                        ))) => break,
                        Err(e) => panic!("{e}"),
                    }
                }
                if acknowledged.last().is_none_or(|(id, _)| *id != newcomer.0) {
                    continue;
                }
                // Who is told that another is the owner tries again there, so it must be true that nothing was written.
                for member in [&a, &b].into_iter().cycle().take(4000) {
                    let attempt = Uuid::from_u128(NEXT.fetch_add(1, Ordering::Relaxed).into());
                    let mistyped = Command::Session(session::Command::FailLogin {
                        reason: session::FailureReason::WrongPassword,
                        method: session::LoginMethod::Password,
                        client: session::Client::default(),
                    });
                    match member.attempt(attempt, Subject::User(newcomer.0), mistyped).await {
                        Ok(_) => break,
                        Err(WriteError::NotOwner { .. }) => denied.push(attempt),
                        Err(WriteError::Unavailable { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            (acknowledged, denied)
        })
    };
    for round in 0..6u16 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let split = (round * 3) % 9;
        // Sometimes both believe that a partition is theirs, as after a pause.
        let overlap = u16::from(round % 2 == 1).min(8 - split);
        a.running.writer.own(owned(0..split + overlap));
        b.running.writer.own(owned(split..8));
    }
    a.running.writer.own(owned(0..4));
    b.running.writer.own(owned(4..8));
    let (acknowledged, denied) = load.await.unwrap();
    let written = written(&shared);
    let twice: Vec<_> = denied
        .iter()
        .filter(|attempt| written.contains(attempt))
        .collect();
    assert!(
        twice.is_empty(),
        "said to be another's, and written: {twice:?} of {}",
        denied.len()
    );
    assert!(acknowledged.len() > users * 3 / 4, "{}", acknowledged.len());
    for member in [&a, &b] {
        for (id, outcome) in &acknowledged {
            member.knows(outcome).await;
            assert!(member.parts.views.user(&member.tenant, *id).unwrap().exists());
        }
    }
    let plan = ChangePlan {
        to: "pro".to_owned(),
        intent: None,
        effective_at: None,
        source: "api".to_owned(),
        reason: None,
    };
    let (id, _) = &acknowledged[0];
    let changed = loop {
        let command = || Command::User(user::Command::ChangePlan(plan.clone()));
        if let Ok(outcome) = a.submit(Subject::User(*id), command()).await {
            break outcome;
        }
        if let Ok(outcome) = b.submit(Subject::User(*id), command()).await {
            break outcome;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    a.knows(&changed).await;
    b.knows(&changed).await;
    let (a, b) = (Arc::into_inner(a).unwrap(), Arc::into_inner(b).unwrap());
    both_are_as_the_log(&shared, dir, [a.stop(), b.stop()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_that_could_not_be_written_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::embedded(dir.path());
    let node = Member::start(&shared, &shared.log, &dir.path().join("a"), owned(0..PARTITIONS));
    node.seed().await.unwrap();
    let first = node.register(node.newcomer("first@example.com")).await.unwrap();
    node.knows(&first).await;
    // Nobody waits for this one, so that whoever writes hears of nothing.
    let table = node.parts.store.active(timeline::NAME).unwrap();
    node.parts.store.drop_table(&table).unwrap();
    let mut last = None;
    for n in 0..8 {
        // A node that begins anew takes nothing for a moment.
        let outcome = node
            .register(node.newcomer(&format!("user{n}@example.com")))
            .await;
        last = outcome.ok().or(last);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.knows(&last.unwrap()).await;
    node.stop();
}
