//! Owners that are away, stand still, know nothing, or are not what they seem.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router as Http;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use gatelog::cluster::{ClaimNote, NodeId};
use gatelog::writer::WriteError;
use gatelog_events::clock;
use gatelog_events::ids::{CommitId, Partition, Stream};
use gatelog_events::log::{EventLog, Record, RecordHeader, RecordKind};
use gatelog_projections::{sessions, users};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::pair::{Member, Shared, keyed, owned, seed};
use crate::support::ports::free_address;

/// Where it is waited for that the time is up; nothing that must be done is asked of such a node.
const SHORT: Duration = Duration::from_millis(1500);
/// The same where what is sent meanwhile is counted, which must arrive however busy the machine.
const COUNTED: Duration = Duration::from_secs(5);
const PATIENT: Duration = Duration::from_secs(20);

fn note(url: &str) -> Vec<u8> {
    let note = ClaimNote {
        node: NodeId::random().unwrap(),
        url: url.parse().unwrap(),
        secrets: None,
    };
    note.to_bytes().to_vec()
}

/// A server that is no node, and the number of requests it got.
async fn pretender<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> (String, Arc<AtomicUsize>)
where
    F: Future<Output = Response> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let handler = move |headers: HeaderMap| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert!(
            headers["authorization"]
                .to_str()
                .unwrap()
                .starts_with("Gatelog-Node ")
        );
        let answer = answer.clone();
        async move { answer().await }
    };
    let http = Http::new()
        .route("/internal/v1/commands", post(handler.clone()))
        .route("/elsewhere", post(handler.clone()).get(handler));
    tokio::spawn(async move { axum::serve(listener, http).await.unwrap() });
    (url, count)
}

/// A node that owns nothing, believes that somebody at `url` owns everything, and can take `forward` for a command on its
/// way.
async fn believer(shared: &Shared, dir: &std::path::Path, url: &str, forward: Duration) -> Member {
    let node = Member::start(shared, &dir.join("a"), owned(0..8), forward).await;
    node.running.writer.submit(seed()).await.unwrap();
    node.running.writer.own(owned([]));
    node.believe(u64::MAX, &note(url));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_is_away_writes_nothing_until_another_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let url = format!("http://{}", free_address());
    let node = believer(&shared, dir.path(), &url, SHORT).await;
    let records = shared.records().await;
    let (register, _) = shared.newcomer("ada@example.com");
    let begun = clock::monotonic();
    let refused = node.router.submit(register).await;
    assert!(matches!(refused, Err(WriteError::NotOwner { .. })), "{refused:?}");
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < 10 * SHORT);
    assert_eq!(shared.records().await, records);
    node.stop();

    // One that is patient enough for a busy machine, so that it still waits when it becomes the owner.
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let node = believer(&shared, dir.path(), &url, Duration::from_secs(20)).await;
    let (register, _) = shared.newcomer("ada@example.com");
    let (writer, router) = (node.running.writer.clone(), node.router.clone());
    let waiting = tokio::spawn(async move { router.submit(register).await });
    tokio::time::sleep(SHORT / 5).await;
    writer.own(owned(0..8));
    waiting.await.unwrap().unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_signed_says_nothing_and_only_what_has_a_key_is_sent_again() {
    let done = || {
        let body = [
            b"\x01".as_slice(),
            br#"{"failed":{"rejected":{"user":"address_taken"}}}"#,
        ]
        .concat();
        async move { (StatusCode::OK, body).into_response() }
    };
    let forged = || async {
        let header = ("gatelog-node-answer", "00".repeat(32));
        (StatusCode::OK, [header], b"\x01\"refused\"".to_vec()).into_response()
    };
    let refused = || async { StatusCode::UNAUTHORIZED.into_response() };
    let elsewhere =
        || async { (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response() };
    let endless = || async { (StatusCode::OK, vec![b'x'; 1 << 20]).into_response() };
    let servers = [
        pretender(done).await,
        pretender(forged).await,
        pretender(refused).await,
        pretender(elsewhere).await,
        pretender(endless).await,
    ];
    for (url, count) in servers {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::new(dir.path());
        let node = believer(&shared, dir.path(), &url, COUNTED).await;
        let records = shared.records().await;
        let (register, _) = shared.newcomer("ada@example.com");
        let unknown = node.router.submit(register.clone()).await;
        assert!(
            matches!(unknown, Err(WriteError::Unavailable { .. })),
            "{unknown:?}"
        );
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let unknown = node.router.submit(keyed(register, b"x")).await;
        assert!(
            matches!(unknown, Err(WriteError::Unavailable { .. })),
            "{unknown:?}"
        );
        assert_eq!(count.load(Ordering::SeqCst), 3);
        assert_eq!(shared.records().await, records);
        node.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_stands_still_is_given_up_in_time() {
    let (url, count) = pretender(std::future::pending).await;
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let node = believer(&shared, dir.path(), &url, COUNTED).await;
    let (register, _) = shared.newcomer("ada@example.com");
    let begun = clock::monotonic();
    let unknown = node.router.submit(register.clone()).await;
    assert!(
        matches!(unknown, Err(WriteError::Unavailable { .. })),
        "{unknown:?}"
    );
    assert!(begun.elapsed() >= COUNTED && begun.elapsed() < 10 * COUNTED);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    node.stop();

    // Where another takes over meanwhile, what has a key goes there.
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let patient = Duration::from_secs(20);
    let b = Member::start(&shared, &dir.path().join("b"), owned(0..8), patient).await;
    b.router.submit(seed()).await.unwrap();
    let a = Member::start(&shared, &dir.path().join("a"), owned([]), patient).await;
    // Newer than the claims so far, older than the next.
    a.believe(1, &note(&url));
    let (register, _) = shared.newcomer("grace@example.com");
    let (router, begun) = (a.router.clone(), clock::monotonic());
    let waiting = tokio::spawn(async move { router.submit(keyed(register, b"x")).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    while !waiting.is_finished() && begun.elapsed() < patient {
        b.running.writer.own(owned([]));
        b.running.writer.own(owned(0..8));
        // Long enough for the command to be written before it is taken over again.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    waiting.await.unwrap().unwrap();
    assert!(begun.elapsed() < patient, "{:?}", begun.elapsed());
    a.stop();
    b.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_count_at_the_end_of_a_partition_is_passed_by_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let node = Member::start(&shared, &dir.path().join("a"), owned(0..8), PATIENT).await;
    node.router.submit(seed()).await.unwrap();
    node.router
        .submit(shared.newcomer("ada@example.com").0)
        .await
        .unwrap();
    let mut ends = Vec::new();
    for (stream, projection) in [
        (Stream::Identity, users::NAME),
        (Stream::Activity, sessions::NAME),
    ] {
        let header = RecordHeader {
            kind: RecordKind::Commit,
            commit_id: CommitId(Uuid::from_u128(1)),
            epoch: 0,
            seq: 1000,
            aggregate_version: 1,
        };
        let value = b"of somebody who was replaced"[..].into();
        let stray = shared.log.append(stream, Partition(3), Record { header, value });
        ends.push((projection, stray.await.unwrap()));
    }
    for (projection, position) in ends {
        let patience = Duration::from_secs(20);
        node.views.wait_for(projection, position, patience).await.unwrap();
    }
    // It goes on from there.
    let newcomer = shared.newcomer(&shared.address_in(3..4)).0;
    node.router.submit(newcomer).await.unwrap();
    node.stop();
}

/// Whoever made it does not write, and the owner has nothing to write: else it would notice by its own append.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_made_in_error_does_not_stand_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let node = Member::start(&shared, &dir.path().join("a"), owned(0..8), PATIENT).await;
    node.router.submit(seed()).await.unwrap();
    let header = RecordHeader {
        kind: RecordKind::Claim,
        commit_id: CommitId(Uuid::from_u128(1)),
        epoch: 0,
        seq: 0,
        aggregate_version: 0,
    };
    let value = b"of somebody who was slow"[..].into();
    let claim = shared
        .log
        .append(Stream::Identity, Partition(3), Record { header, value });
    let position = claim.await.unwrap();
    let patience = Duration::from_secs(120);
    let passed = node.views.wait_for(users::NAME, position, patience).await;
    passed.unwrap();
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_hear_of_a_later_claim_is_shown_it_by_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let patient = Duration::from_secs(20);
    let a = Member::start(&shared, &dir.path().join("a"), owned(0..7), patient).await;
    let b = Member::start(&shared, &dir.path().join("b"), owned([7]), patient).await;
    a.router.submit(seed()).await.unwrap();
    let newcomer = || keyed(shared.newcomer(&shared.address_in(3..4)).0, b"register");
    b.running.writer.own(owned([3, 7]));
    b.router.submit(newcomer()).await.unwrap();
    // A claims it once more, before it hears that it is given to B.
    let claims = shared.records().await;
    a.running.writer.own(owned(0..3));
    a.running.writer.own(owned(0..4));
    let begun = clock::monotonic();
    while shared.records().await == claims {
        assert!(begun.elapsed() < patient, "nothing is claimed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.running.writer.own(owned(0..3));
    a.router.submit(newcomer()).await.unwrap();
    b.router.submit(newcomer()).await.unwrap();
    a.stop();
    b.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_take_each_other_for_the_owner_do_not_send_in_circles() {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(dir.path());
    let a = Member::start(&shared, &dir.path().join("a"), owned(0..8), SHORT).await;
    let b = Member::start(&shared, &dir.path().join("b"), owned([]), SHORT).await;
    a.running.writer.submit(seed()).await.unwrap();
    let register = keyed(shared.newcomer("ada@example.com").0, b"register");
    let begun = clock::monotonic();
    while let Err(e) = b.router.submit(register.clone()).await {
        assert!(begun.elapsed() < PATIENT, "{e}");
    }
    // By its claims B knows A; now nobody owns anything, and both ask the other.
    a.running.writer.own(owned([]));
    let records = shared.records().await;
    let (other, _) = shared.newcomer("grace@example.com");
    let refused = b.router.submit(other).await;
    assert!(matches!(refused, Err(WriteError::NotOwner { .. })), "{refused:?}");
    assert_eq!(shared.records().await, records);
    a.stop();
    b.stop();
}
