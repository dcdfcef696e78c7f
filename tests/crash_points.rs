//! The process ends at each write point of log, views and keys: what was acknowledged is there, once, and the views
//! are the fold of the log.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use gatelog_events::clock;
use serde_json::json;
use support::process::{Process, consent, gatelog};

const PASSWORD: &str = "correct horse battery staple";

/// Points that only rolling a segment passes; `events/tests/log_crash.rs` ends the process there.
const WHEN_ROLLING: [&str; 3] = ["log.before_roll", "log.after_index", "log.after_segment"];

/// Points outside the log.
const REST: [&str; 7] = [
    "views.before_write",
    "views.after_write",
    "keys.before_write",
    "keys.after_write",
    "writer.before_answer",
    "erasure.before_key",
    "erasure.after_key",
];

/// What the client knows of a user, by address: the consent last acknowledged, and the one last asked for.
#[derive(Debug, Default, Clone)]
struct Known {
    id: String,
    acknowledged: Option<bool>,
    asked: Option<bool>,
    erased: bool,
    erasure_asked: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_wherever_the_process_ends() {
    let log = gatelog_events::log::embedded::FAILPOINTS;
    let points = log.iter().chain(&REST).filter(|p| !WHEN_ROLLING.contains(p));
    let mut cases = Vec::new();
    for point in points {
        // The load erases two users.
        let later = if point.starts_with("erasure.") { 2 } else { 4 };
        for nth in [1, later] {
            cases.push(format!("{point}:{nth}"));
        }
    }
    // What happens once per start cannot happen a fourth time.
    let once = [
        "log.before_clean",
        "log.after_clean",
        "log.tail_cut",
        "log.clean_removed",
    ];
    cases.retain(|c| !(c.ends_with(":4") && once.iter().any(|o| c.starts_with(o))));
    for some in cases.chunks(3) {
        let mut tasks = tokio::task::JoinSet::new();
        for case in some {
            tasks.spawn(crash_and_check(case.clone()));
        }
        tasks.join_all().await;
    }
}

/// A fault in the decider's thread: no other part of the node can do its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_writer_breaks_ends_so_that_it_can_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = BTreeMap::new();
    let mut broken = Process::start(dir.path(), Some("writer.before_decision:10:panic"))
        .await
        .unwrap();
    let begun = clock::monotonic();
    let mut n = 0;
    let status = loop {
        n += 1;
        let body = json!({"email": format!("a{n}@example.com"), "password": PASSWORD});
        match broken.call("POST", "/v1/registrations", Some(body)).await {
            Some((201, _)) | None => {}
            Some((status, answer)) => assert_eq!(status, 503, "{answer}"),
        }
        if let Some(status) = broken.ended() {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", broken.said());
    };
    assert_eq!(status.code(), Some(1), "{}", broken.said());
    assert!(broken.said().contains("the writer broke"), "{}", broken.said());
    drop(broken);
    let process = Process::start(dir.path(), None).await.expect("it starts again");
    assert!(!load(&process, &mut known, "b").await);
    check(&process, &known, "broken").await;
    assert!(process.stop().success());
    verify(dir.path(), "broken");
}

/// A fault in a thread that the decider can begin anew: who was waiting asks again.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_applier_breaks_takes_over_anew() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), Some("writer.before_answer:10:panic"))
        .await
        .unwrap();
    let begun = clock::monotonic();
    let mut refused = 0;
    for n in 0..20 {
        let body = json!({"email": format!("a{n}@example.com"), "password": PASSWORD});
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = process
                .call("POST", "/v1/registrations", Some(body.clone()))
                .await;
            match answer {
                Some((201, _)) => break,
                // Without an idempotency key it is not known who has the address.
                Some((409, _)) if tries > 1 => break,
                Some((503, _)) => refused += 1,
                other => panic!("{other:?}: {}", process.said()),
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{}", process.said());
        }
    }
    assert!(refused > 0, "it never broke");
    assert!(process.stop().success());
    verify(dir.path(), "applier");
}

fn verify(dir: &Path, case: &str) {
    let args = ["verify", "--data-dir", dir.to_str().unwrap()];
    let verify = gatelog(&args).output().unwrap();
    let said = String::from_utf8_lossy(&verify.stdout);
    assert!(verify.status.success(), "{case}: {said}");
}

async fn crash_and_check(case: String) {
    let dir = tempfile::tempdir().unwrap();
    let mut known = BTreeMap::new();
    prepare(dir.path(), &case, &mut known).await;
    let died = match Process::start(dir.path(), Some(&case)).await {
        None => true,
        Some(process) => {
            let died = load(&process, &mut known, "b").await;
            // Points of a clean end are passed now.
            died || !process.stop().success()
        }
    };
    assert!(died, "{case}: the point was never passed");

    let process = Process::start(dir.path(), None).await.expect("it starts again");
    check(&process, &known, &case).await;
    load(&process, &mut known, "c").await;
    check(&process, &known, &case).await;
    assert!(process.stop().success(), "{case}");
    verify(dir.path(), &case);
}

/// A directory that has a history: a clean end for most, a torn group where one is to be cut off.
async fn prepare(dir: &Path, case: &str, known: &mut BTreeMap<String, Known>) {
    let process = Process::start(dir, None).await.unwrap();
    load(&process, known, "a").await;
    assert!(process.stop().success());
    if case.starts_with("log.tail_cut") {
        // On a busy machine the claims of the start alone may be that many groups: then they are what is torn.
        if let Some(torn) = Process::start(dir, Some("log.mid_write:3")).await {
            assert!(load(&torn, known, "t").await);
        }
    }
}

/// Registers, grants, withdraws and erases; true if the process was gone before the end.
async fn load(process: &Process, known: &mut BTreeMap<String, Known>, round: &str) -> bool {
    for n in 0..6 {
        let email = format!("{round}{n}@example.com");
        let body = json!({"email": email, "password": PASSWORD});
        match process.call("POST", "/v1/registrations", Some(body)).await {
            Some((201, answer)) => {
                let id = answer["user_id"].as_str().unwrap().to_owned();
                known.insert(
                    email.clone(),
                    Known {
                        id,
                        ..Known::default()
                    },
                );
            }
            Some(other) => panic!("round {round}: {other:?}"),
            None => return true,
        }
        for granted in [true, false, n % 2 == 0] {
            let user = known.get_mut(&email).unwrap();
            user.asked = Some(granted);
            let path = format!("/v1/users/{}/consents/newsletter", user.id);
            match process.call("PUT", &path, Some(consent(granted))).await {
                Some((200, _)) => user.acknowledged = Some(granted),
                Some(other) => panic!("round {round}: {other:?}"),
                None => return true,
            }
        }
        if n % 3 == 2 {
            let user = known.get_mut(&email).unwrap();
            user.erasure_asked = true;
            match process
                .call("DELETE", &format!("/v1/users/{}", user.id), None)
                .await
            {
                Some((status, _)) if status < 300 => user.erased = true,
                Some(other) => panic!("round {round}: {other:?}"),
                None => return true,
            }
        }
    }
    false
}

async fn check(process: &Process, known: &BTreeMap<String, Known>, case: &str) {
    for (email, user) in known {
        let (status, body) = process
            .call("GET", &format!("/v1/users/{}", user.id), None)
            .await
            .unwrap();
        if user.erased {
            assert_eq!(status, 404, "{case}: {email} was erased");
            continue;
        }
        if user.erasure_asked && status == 404 {
            continue;
        }
        assert_eq!(status, 200, "{case}: {email} {body}");
        assert_eq!(body["email"], *email, "{case}");
        let granted = body["consents"]["newsletter"]["granted"].as_bool();
        assert!(
            granted == user.acknowledged || granted == user.asked,
            "{case}: {email} has {granted:?}, acknowledged was {:?}",
            user.acknowledged
        );
    }
}
