//! Beginning again at a time: what counts is when something was recorded, not when it is said to have happened.

use std::path::Path;
use std::time::Duration;

use gatelog_events::clock::{self, Timestamp};
use serde_json::{Value, json};

use super::webhooks::HOOK;
use crate::support::process::{Process, gatelog};
use crate::support::receiver::Receiver;
use crate::support::server::PASSWORD;

/// One partition, so that what was imported stands between what was not.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("GATELOG_PARTITIONS", "1"),
    ("GATELOG_WEBHOOK_NETWORKS", "127.0.0.0/8"),
    ("GATELOG_WEBHOOK_PLAIN_HTTP", "true"),
];

async fn start(dir: &Path) -> Process {
    let node = Process::start_with(dir, "127.0.0.1:0", &ENVIRONMENT).await;
    node.expect("the node starts")
}

async fn call(node: &Process, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = node.call(method, path, Some(body)).await.unwrap();
    assert!(matches!(status, 200 | 201), "{method} {path}: {status} {answer}");
    answer
}

fn newsletter() -> Value {
    let notice = json!({"id": "privacy", "version": "1", "language": "en"});
    json!([{"purpose": "newsletter", "channel": "email", "granted": true, "notice": notice}])
}

async fn register(node: &Process, name: &str) {
    let email = format!("{name}@example.com");
    let body = json!({"email": email, "password": PASSWORD, "consents": newsletter()});
    call(node, "POST", "/v1/registrations", body).await;
}

/// Imports people who came at a time that is long past.
fn import(dir: &Path, names: &[String]) {
    let rows = names.iter().map(|name| {
        let email = format!("{name}@example.com");
        json!({"email": email, "created_at": "2015-01-02T03:04:05Z", "consents": newsletter()}).to_string()
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rows.collect::<Vec<_>>().join("\n")).unwrap();
    let (dir, file) = (dir.to_str().unwrap(), file.path().to_str().unwrap());
    let imported = gatelog(&["import", file, "--json", "--data-dir", dir])
        .envs(ENVIRONMENT)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&imported.stderr).into_owned();
    assert!(imported.status.success(), "{said}");
}

/// A time between what was recorded before and what comes next.
async fn between() -> Timestamp {
    let pause = Duration::from_millis(20);
    tokio::time::sleep(pause).await;
    let now = clock::now();
    tokio::time::sleep(pause).await;
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_from_a_time_has_what_was_imported_since_and_not_what_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path()).await;
    let definition = json!({"purpose": "newsletter", "fields": ["email"], "events": ["user.registered"]});
    call(&node, "PUT", "/v1/feeds/marketing", definition).await;
    register(&node, "before").await;
    let before_import = between().await;
    assert!(node.stop().success());
    let imported: Vec<_> = (0..20).map(|i| format!("imported{i:02}")).collect();
    import(dir.path(), &imported);
    let after_import = between().await;
    let node = start(dir.path()).await;
    register(&node, "later").await;

    let receiver = Receiver::start().await;
    let hook = call(&node, "PUT", HOOK, json!({"url": receiver.url})).await;
    receiver.trust(&[hook["secret"].as_str().unwrap()]);
    let emails = |some: &[&[String]]| -> Vec<String> {
        let mut all: Vec<_> = some.concat().iter().map(|n| format!("{n}@example.com")).collect();
        all.sort_unstable();
        all
    };
    let (before, later) = (["before".to_owned()], ["later".to_owned()]);
    let everyone = emails(&[&before, &imported, &later]);
    receiver.until("everyone", |r| r.emails() == everyone).await;
    for (from, expected) in [
        (json!("2001-01-01T00:00:00Z"), everyone.clone()),
        // After the time at which the imported are said to have come, and before that was recorded.
        (json!("2020-01-01T00:00:00Z"), everyone.clone()),
        (json!(before_import), emails(&[&imported, &later])),
        (json!(after_import), emails(&[&later])),
    ] {
        // What is still on its way may come before it begins anew.
        tokio::time::sleep(Duration::from_millis(500)).await;
        receiver.forget();
        call(&node, "POST", &format!("{HOOK}/replay"), json!({"from": from})).await;
        receiver
            .until(&from.to_string(), |r| r.emails().len() >= expected.len())
            .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(receiver.emails(), expected, "{from}");
    }
    assert!(node.stop().success());
}
