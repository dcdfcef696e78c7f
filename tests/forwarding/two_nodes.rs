//! Two nodes, each of which owns half of the partitions: either takes every command, and shows what it wrote.

use std::sync::Arc;
use std::time::Duration;

use gatelog::writer::{Command, WriteError};
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::domain::session::{self, Client, FailureReason, LoginMethod};
use gatelog_events::domain::{Rejection, user};
use gatelog_events::email::Email;
use gatelog_events::ids::Partition;

use super::pair::{Member, Shared, consent, keyed, owned, purpose, request, seed};

const LONG: Duration = Duration::from_secs(10);

async fn two(shared: &Shared, dir: &std::path::Path) -> [Member; 2] {
    let a = Member::start(shared, &dir.join("a"), owned(0..4), LONG).await;
    let b = Member::start(shared, &dir.join("b"), owned(4..8), LONG).await;
    a.router.submit(seed()).await.unwrap();
    [a, b]
}

fn stop(nodes: [Member; 2]) {
    for node in nodes {
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_before_the_first_settings() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let node = Member::start(&shared, &dir.path().join("a"), owned(0..8), LONG).await;
    let (register, _) = shared.newcomer("ada@example.com");
    for early in [purpose("early"), register.clone()] {
        let refused = node.router.submit(early).await.unwrap_err();
        assert!(matches!(refused, WriteError::Unavailable { .. }), "{refused}");
    }
    // They are written all the same, and with them all that a new store has.
    node.router.submit(seed()).await.unwrap();
    node.router.submit(purpose("early")).await.unwrap();
    node.router.submit(register).await.unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_takes_it_shows_at_once_whoever_wrote_it() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let nodes = two(&shared, dir.path()).await;
    for n in 0..200 {
        let node = &nodes[n % 2];
        let (register, partition) = shared.newcomer(&format!("user.{n}@example.com"));
        let outcome = node.router.submit(register.clone()).await.unwrap();
        assert_eq!(outcome.answer.partition, partition);
        assert_eq!(outcome.answer.user, register.subject.user());
        assert!(node.user_exists(&register), "{n} in {partition}");
    }
    // A new purpose may be used at once, though the user's owner may not have read of it yet.
    for n in 0..100 {
        let node = &nodes[n % 2];
        let name = format!("purpose-{n}");
        node.router.submit(purpose(&name)).await.unwrap();
        let address = shared.address_in(if n % 4 < 2 { 0..4 } else { 4..8 });
        let (register, _) = shared.newcomer(&address);
        node.router.submit(register.clone()).await.unwrap();
        node.router
            .submit(consent(register.subject, &name))
            .await
            .unwrap();
        let user = node
            .views
            .user(&register.tenant, register.subject.user().unwrap());
        assert!(user.unwrap().consents.contains_key(&name));
    }
    stop(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_what_it_would_have_been_on_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let nodes = two(&shared, dir.path()).await;
    for (n, partitions) in [(0, 4..8), (1, 0..4)] {
        let [there, here] = [&nodes[n], &nodes[1 - n]];
        let address = shared.address_in(partitions);
        let (first, _) = shared.newcomer(&address);
        let first = keyed(first, b"register");
        let outcome = there.router.submit(first.clone()).await.unwrap();
        assert!(!outcome.replayed);
        // The owner and the other node give the same answer again.
        for node in [there, here] {
            let again = node.router.submit(first.clone()).await.unwrap();
            assert!(again.replayed);
            assert_eq!(again.answer, outcome.answer);
        }
        let mut other = first.clone();
        other.idempotency.as_mut().unwrap().request = b"something else"[..].into();
        let reused = there.router.submit(other).await;
        assert!(matches!(reused, Err(WriteError::KeyReused)), "{reused:?}");
        let (second, _) = shared.newcomer(&address.to_uppercase());
        let taken = there.router.submit(second).await;
        let expected = Rejection::User(user::Rejection::AddressTaken);
        assert!(matches!(taken, Err(WriteError::Rejected(r)) if r == expected));
        let unknown = there
            .router
            .submit(consent(first.subject, "no such purpose"))
            .await;
        assert!(matches!(
            unknown,
            Err(WriteError::Rejected(Rejection::Consent(_)))
        ));
        // Nothing changes: an answer with a position, and no record.
        let records = shared.records().await;
        let enable = Command::User(user::Command::Enable { reason: None });
        there.router.submit(request(first.subject, enable)).await.unwrap();
        assert_eq!(shared.records().await, records);
        // Of nobody, with the partition of what was tried.
        let fail = session::Command::FailLogin {
            reason: FailureReason::UnknownIdentifier,
            method: LoginMethod::Password,
            client: Client::default(),
        };
        let mut fail = request(Subject::Nobody, Command::Session(fail));
        fail.partition = Some(Partition(if n == 0 { 6 } else { 2 }));
        let outcome = there.router.submit(fail.clone()).await.unwrap();
        assert_eq!(Some(outcome.answer.partition), fail.partition);
    }
    stop(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_another_partition_is_claimed_there_and_attached_here() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let nodes = two(&shared, dir.path()).await;
    for n in 0..60 {
        let node = &nodes[n % 2];
        let (old, new) = if n % 4 < 2 { (0..4, 4..8) } else { (4..8, 0..4) };
        let (register, _) = shared.newcomer(&shared.address_in(old));
        node.router.submit(register.clone()).await.unwrap();
        let email = Email::parse(&shared.address_in(new)).unwrap();
        let claim = request(register.subject, Command::Claim(email.clone()));
        let claimed = node.router.submit(claim).await.unwrap();
        let change = Command::User(user::Command::ChangeEmail { email: email.clone() });
        let mut change = request(register.subject, change);
        change.after = Some(claimed.answer.position());
        node.router.submit(change).await.unwrap();
        let user = node
            .views
            .user(&register.tenant, register.subject.user().unwrap());
        assert_eq!(user.unwrap().email.as_ref(), Some(&email));
    }
    stop(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_and_no_command_fails() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Arc::new(Shared::new(dir.path()));
    let nodes = Arc::new(two(&shared, dir.path()).await);
    let mut loads = Vec::new();
    for worker in 0..4 {
        let (shared, nodes) = (shared.clone(), nodes.clone());
        loads.push(tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            for n in 0..150 {
                let node = &nodes[(n + worker) % 2];
                let (register, _) = shared.newcomer(&format!("user.{worker}.{n}@example.com"));
                let register = keyed(register, b"register");
                let begun = clock::monotonic();
                let outcome = node.router.submit(register.clone()).await;
                slowest = slowest.max(begun.elapsed());
                match outcome {
                    Ok(_) => assert!(node.user_exists(&register)),
                    // The writer stepped down with it in flight, as it may without any other node, and may again: a
                    // client with a key sends it until it is taken.
                    Err(WriteError::Unavailable { .. }) => loop {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        match node.router.submit(register.clone()).await {
                            Ok(_) => break,
                            Err(WriteError::Unavailable { .. }) if begun.elapsed() < 6 * LONG => {}
                            Err(e) => panic!("{e}"),
                        }
                    },
                    Err(e) => panic!("{e}"),
                }
            }
            slowest
        }));
    }
    for round in 0..8u16 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let split = (round * 3) % 9;
        nodes[0].running.writer.own(owned(0..split));
        nodes[1].running.writer.own(owned(split..8));
    }
    for load in loads {
        let slowest = load.await.unwrap();
        assert!(slowest < LONG, "{slowest:?}");
    }
    stop(Arc::into_inner(nodes).unwrap());
}
