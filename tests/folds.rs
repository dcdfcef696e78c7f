//! Folding: the same rows however the log is cut into batches and however its partitions are interleaved.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use gatelog::node::{Data, Started};
use gatelog::writer::Command;
use gatelog_events::commit::Subject;
use gatelog_events::domain::plan::ChangePlan;
use gatelog_events::domain::session::{Client, EndReason, FailureReason, LoginMethod};
use gatelog_events::domain::{session, user};
use gatelog_events::email::Email;
use gatelog_events::ids::{Partition, Position, SessionId, Stream, TenantId, UserId};
use gatelog_events::log::Entry;
use gatelog_events::log::fence::{Progress, Verdict};
use gatelog_events::seal::{KeySource, KeySourceError, KeyStatus, SubjectKey};
use gatelog_projections::catch_up::{CatchUpError, catch_up};
use gatelog_projections::folder::{Folder, Member, Touched};
use gatelog_projections::keys::{KeyKind, global};
use gatelog_projections::store::{Store, StoreOptions, Table};
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use support::world::{World, config};

/// One random thing that may happen to one of a few users.
#[derive(Debug, Clone)]
enum Deed {
    Register(u8),
    Consent(u8, bool),
    Plan(u8, bool),
    Password(u8, bool),
    Move(u8, u8),
    Login(u8),
    Fail(u8),
    LogOut(u8),
    Disable(u8, bool),
    Erase(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let who = 0..6u8;
    prop_oneof![
        4 => who.clone().prop_map(Deed::Register),
        3 => (who.clone(), any::<bool>()).prop_map(|(u, g)| Deed::Consent(u, g)),
        2 => (who.clone(), any::<bool>()).prop_map(|(u, p)| Deed::Plan(u, p)),
        2 => (who.clone(), any::<bool>()).prop_map(|(u, r)| Deed::Password(u, r)),
        2 => (who.clone(), 0..6u8).prop_map(|(u, a)| Deed::Move(u, a)),
        3 => who.clone().prop_map(Deed::Login),
        2 => who.clone().prop_map(Deed::Fail),
        1 => who.clone().prop_map(Deed::LogOut),
        1 => (who.clone(), any::<bool>()).prop_map(|(u, d)| Deed::Disable(u, d)),
        1 => who.prop_map(Deed::Erase),
    ]
}

/// What the driver remembers of who is who.
#[derive(Default)]
struct People {
    users: std::collections::HashMap<u8, UserId>,
    sessions: std::collections::HashMap<u8, SessionId>,
}

fn address(n: u8) -> String {
    format!("person{n}@example.com")
}

async fn act(world: &World, people: &mut People, deed: &Deed, n: u64) {
    let known = |u: &u8| people.users.get(u).copied();
    let user_command = |id: UserId, c: user::Command| world.submit(Subject::User(id), Command::User(c));
    let session_command = |id: UserId, c| world.submit(Subject::User(id), Command::Session(c));
    match deed {
        Deed::Register(u) => {
            if let Ok(id) = world.register(&address(*u)).await {
                people.users.insert(*u, id);
            }
        }
        Deed::Consent(u, granted) => {
            if let Some(id) = known(u) {
                let _ = world.consent(id, *granted).await;
            }
        }
        Deed::Plan(u, pro) => {
            if let Some(id) = known(u) {
                let wish = ChangePlan {
                    to: if *pro { "pro" } else { "free" }.to_owned(),
                    intent: None,
                    effective_at: None,
                    source: "test".to_owned(),
                    reason: None,
                };
                let _ = user_command(id, user::Command::ChangePlan(wish)).await;
            }
        }
        Deed::Password(u, rehashed) => {
            if let Some(id) = known(u) {
                let reason = if *rehashed {
                    user::PasswordReason::Rehashed
                } else {
                    user::PasswordReason::Changed
                };
                let hash = format!("hash-{n}");
                let _ = user_command(
                    id,
                    user::Command::SetPassword {
                        hash,
                        reason,
                        instead_of: None,
                    },
                )
                .await;
            }
        }
        Deed::Move(u, to) => {
            if let Some(id) = known(u) {
                let email = Email::parse(&address(*to)).unwrap();
                let claimed = world
                    .submit(Subject::User(id), Command::Claim(email.clone()))
                    .await;
                if claimed.is_ok() {
                    let _ = user_command(id, user::Command::ChangeEmail { email }).await;
                }
            }
        }
        Deed::Login(u) => {
            if let Some(id) = known(u) {
                let state = world.node.views.user(&world.tenant, id).unwrap();
                let session_id = SessionId::new(state.created_at, id.shard(), n.to_be_bytes());
                let login = session::Command::Login {
                    session_id,
                    method: LoginMethod::Password,
                    client: Client::default(),
                    credential_version: state.credential_version,
                };
                if session_command(id, login).await.is_ok() {
                    people.sessions.insert(*u, session_id);
                }
            }
        }
        Deed::Fail(u) => {
            if let Some(id) = known(u) {
                let fail = session::Command::FailLogin {
                    reason: FailureReason::WrongPassword,
                    method: LoginMethod::Password,
                    client: Client::default(),
                };
                let _ = session_command(id, fail).await;
            }
        }
        Deed::LogOut(u) => {
            if let (Some(id), Some(session_id)) = (known(u), people.sessions.get(u)) {
                let end = session::Command::End {
                    session_id: *session_id,
                    reason: EndReason::LoggedOut,
                };
                let _ = session_command(id, end).await;
            }
        }
        Deed::Disable(u, disabled) => {
            if let Some(id) = known(u) {
                let command = if *disabled {
                    user::Command::Disable { reason: None }
                } else {
                    user::Command::Enable { reason: None }
                };
                let _ = user_command(id, command).await;
            }
        }
        Deed::Erase(u) => {
            if let Some(id) = known(u) {
                world.erase(id).await.unwrap();
                people.users.remove(u);
            }
        }
    }
}

type Rows = Vec<(String, bytes::Bytes, bytes::Bytes)>;

/// Fresh tables of all read models in an empty folder.
fn fresh(dir: &Path, data: &Data) -> (Arc<Store>, Folder) {
    let options = StoreOptions {
        cache_bytes: 1 << 20,
        memtable_bytes: 8 << 20,
    };
    let store = Store::open(dir, options).unwrap();
    let members = data
        .projections
        .iter()
        .map(|p| Member::open(&store, p.clone(), Table::new(p.name(), p.version(), 0), 8).unwrap())
        .collect();
    (store.clone(), Folder::new(store, members))
}

/// Folds entries into fresh tables, with a write after every `batch` of them, and gives all rows.
fn fold(data: &Data, entries: &[Entry], batch: usize) -> Rows {
    fold_with(data, data.keys.as_ref(), entries, batch)
}

fn fold_with(data: &Data, keys: &dyn KeySource, entries: &[Entry], batch: usize) -> Rows {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut folder) = fresh(dir.path(), data);
    for chunk in entries.chunks(batch) {
        let mut touched = Touched::new();
        for entry in chunk {
            folder.fold_entry(entry, keys);
            touched.insert((entry.position.stream, entry.position.partition));
        }
        folder.write(&touched).unwrap();
    }
    rows(&store, &folder)
}

/// All rows, of read models of which none stands still.
fn rows(store: &Store, folder: &Folder) -> Rows {
    let mut rows = Vec::new();
    for member in folder.members() {
        assert_eq!(member.mark.applied.stopped(), []);
        for (key, value) in store.scan(&member.mark.table, &[], &[], usize::MAX).unwrap() {
            if key != global(KeyKind::Checkpoint).done() {
                rows.push((member.projection.name().to_owned(), key, value));
            }
        }
    }
    rows
}

/// Where the commits stand that count.
fn counted(entries: &[Entry]) -> Vec<Position> {
    let mut places: HashMap<(Stream, Partition), Progress> = HashMap::new();
    let mut counted = Vec::new();
    for Entry { position, record } in entries {
        let place = places.entry((position.stream, position.partition)).or_default();
        if place.pass(position.offset, &record.header) == Verdict::Commit {
            counted.push(*position);
        }
    }
    counted
}

/// Names of the rows that only one side has, or that have other content.
fn differences(a: &Rows, b: &Rows) -> Vec<String> {
    let name = |(table, key, _): &(String, bytes::Bytes, bytes::Bytes)| {
        format!("{table} {}", gatelog_projections::view::describe_key(key))
    };
    let only = |x: &Rows, y: &Rows, side: &str| -> Vec<String> {
        x.iter()
            .filter(|row| !y.contains(row))
            .map(|row| format!("{side} {}", name(row)))
            .collect()
    };
    [only(a, b, "left"), only(b, a, "right")].concat()
}

/// Another order of the same entries in which each partition keeps its own.
fn interleaved(entries: &[Entry], mut rng: TestRng) -> Vec<Entry> {
    let mut partitions: std::collections::BTreeMap<_, std::collections::VecDeque<Entry>> = Default::default();
    for entry in entries {
        let at = (entry.position.stream, entry.position.partition);
        partitions.entry(at).or_default().push_back(entry.clone());
    }
    let mut out = Vec::new();
    while !partitions.is_empty() {
        let pick = rng.random_range(0..partitions.len());
        let at = *partitions.keys().nth(pick).unwrap();
        let queue = partitions.get_mut(&at).unwrap();
        out.extend(queue.pop_front());
        if queue.is_empty() {
            partitions.remove(&at);
        }
    }
    out
}

/// Answers nothing, as where Kafka's topic of keys cannot be read.
struct Unreadable;

impl KeySource for Unreadable {
    fn key(&self, _: &TenantId, _: UserId) -> Result<KeyStatus, KeySourceError> {
        Err(KeySourceError::Unavailable("not now".to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_folded_without_its_key_and_what_follows_once_the_key_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let started = Started::open(config(dir.path())).unwrap();
    World::new(&started.node).register(&address(1)).await.unwrap();
    started.close().await.unwrap();
    let data = Data::open(&config(dir.path())).unwrap();
    let entries: Vec<Entry> = data.log.read_to_end(&[]).unwrap().map(Result::unwrap).collect();

    let scratch = tempfile::tempdir().unwrap();
    let (store, mut folder) = fresh(scratch.path(), &data);
    let failed = catch_up(&mut folder, data.log.as_ref(), &Unreadable, |_, _| {});
    let Err(CatchUpError::Key { position, .. }) = failed else {
        panic!("{failed:?}");
    };
    assert!(entries.iter().any(|entry| entry.position == position));
    drop((store, folder));
    // As whoever takes over again: from what is written.
    let (store, mut folder) = fresh(scratch.path(), &data);
    catch_up(&mut folder, data.log.as_ref(), data.keys.as_ref(), |_, _| {}).unwrap();
    let found = differences(&rows(&store, &folder), &fold(&data, &entries, usize::MAX));
    assert_eq!(found, Vec::<String>::new());
}

/// Still has a key that was destroyed, as a node that has not read so yet.
struct Behind<'a> {
    keys: &'a dyn KeySource,
    of: UserId,
    key: SubjectKey,
}

impl KeySource for Behind<'_> {
    fn key(&self, tenant: &TenantId, user: UserId) -> Result<KeyStatus, KeySourceError> {
        match user == self.of {
            true => Ok(KeyStatus::Present(self.key.clone())),
            false => self.keys.key(tenant, user),
        }
    }
}

/// On Kafka the activity stream may be folded after the erasure, with what was decoded before the key was known to be gone.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_erased_is_folded_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let started = Started::open(config(dir.path())).unwrap();
    let world = World::new(&started.node);
    let mut people = People::default();
    let deeds = [
        Deed::Register(1),
        Deed::Move(1, 2),
        Deed::Move(1, 3),
        Deed::Move(1, 4),
        Deed::Login(1),
        Deed::Fail(1),
        Deed::LogOut(1),
        Deed::Login(1),
    ];
    for (n, deed) in deeds.iter().enumerate() {
        act(&world, &mut people, deed, n as u64).await;
    }
    let ada = people.users[&1];
    let KeyStatus::Present(key) = started.node.keys.key(&world.tenant, ada).unwrap() else {
        panic!("there is no key");
    };
    world.erase(ada).await.unwrap();
    drop(world);
    started.close().await.unwrap();
    let data = Data::open(&config(dir.path())).unwrap();
    let entries: Vec<Entry> = data.log.read_to_end(&[]).unwrap().map(Result::unwrap).collect();
    let home = ada.shard().partition(8);
    let is_own = |e: &Entry| e.position.stream == Stream::Identity && e.position.partition == home;
    let (own, rest): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(is_own);
    let behind = Behind {
        keys: data.keys.as_ref(),
        of: ada,
        key,
    };
    let late = fold_with(&data, &behind, &[own, rest].concat(), 3);
    assert_eq!(
        differences(&late, &fold(&data, &entries, 3)),
        Vec::<String>::new()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn neither_batches_nor_the_order_of_partitions_change_the_rows(
        deeds in prop::collection::vec(deed(), 1..60),
        cut in 0.0..1.0f64,
        cut_off in 0..8u64,
        batch in 1..20usize,
        seed in any::<[u8; 32]>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let started = Started::open(config(dir.path())).unwrap();
        let served: Rows = runtime.block_on(async {
            let world = World::new(&started.node);
            let mut people = People::default();
            for (n, deed) in deeds.iter().enumerate() {
                act(&world, &mut people, deed, n as u64).await;
            }
            for progress in started.node.views.progress() {
                for stream in Stream::ALL {
                    for partition in (0..8).map(Partition) {
                        let end = started.node.log.end(stream, partition).await.unwrap();
                        let follows = progress.next(stream, partition) > 0;
                        if follows {
                            let last = Position { stream, partition, offset: end - 1 };
                            progress.wait_for(last, std::time::Duration::from_secs(10)).await.unwrap();
                        }
                    }
                }
            }
            let views = &started.node.views;
            let mut rows = Vec::new();
            for progress in views.progress() {
                let name = progress.projection();
                let table = views.table(name).unwrap();
                for (key, value) in views.store().scan(&table, &[], &[], usize::MAX).unwrap() {
                    if key != global(KeyKind::Checkpoint).done() {
                        rows.push((name.to_owned(), key, value));
                    }
                }
            }
            rows
        });
        runtime.block_on(started.close()).unwrap();
        let data = Data::open(&config(dir.path())).unwrap();
        let entries: Vec<Entry> = data.log.read_to_end(&[]).unwrap().map(Result::unwrap).collect();

        // The fold of all is what was served, in whatever batches and order of partitions.
        let all = fold(&data, &entries, usize::MAX);
        prop_assert_eq!(differences(&all, &served), Vec::<String>::new(), "the views differ from the fold");
        prop_assert_eq!(differences(&fold(&data, &entries, batch), &all), Vec::<String>::new(), "batches matter");
        let rng = TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &seed);
        let shuffled = fold(&data, &interleaved(&entries, rng), 7);
        prop_assert_eq!(differences(&shuffled, &all), Vec::<String>::new(), "the order of partitions matters");

        // Where retention has cut the activity stream off, no fold stands still, and all that is left counts.
        let is_left = |at: &Position| at.stream == Stream::Identity || at.offset >= cut_off;
        let left: Vec<Entry> = entries.iter().filter(|entry| is_left(&entry.position)).cloned().collect();
        fold(&data, &left, batch);
        let mut expected = counted(&entries);
        expected.retain(is_left);
        prop_assert_eq!(counted(&left), expected);

        // So is the fold of any prefix.
        let prefix = &entries[..(entries.len() as f64 * cut) as usize];
        let (cut_up, whole) = (fold(&data, prefix, batch), fold(&data, prefix, usize::MAX));
        prop_assert_eq!(differences(&cut_up, &whole), Vec::<String>::new(), "a prefix has other rows");
    }
}
