//! `gatelog feed watch`: a feed live in the terminal.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use parking_lot::Mutex;
use serde_json::json;

use crate::support::ports::free_address;
use crate::support::process::{Process, consent, gatelog};

const PATIENCE: Duration = Duration::from_secs(60);

/// A `gatelog feed watch marketing`, with all that it has printed.
struct Watcher {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

impl Watcher {
    fn start(url: &str, more: &[&str]) -> Self {
        let mut child = gatelog(&[&["feed", "watch", "marketing", "--url", url], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = gather(child.stdout.take().unwrap());
        let err = gather(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let until = clock::monotonic() + PATIENCE;
        while !so(self) {
            let (out, err) = (self.out.lock().clone(), self.err.lock().clone());
            assert!(clock::monotonic() < until, "{what}\n{out}\n{err}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_told(&self, part: &str) {
        self.until(part, |w| w.out.lock().contains(part)).await;
    }

    fn times(&self, part: &str) -> usize {
        self.out.lock().matches(part).count()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(from: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let all = Arc::new(Mutex::new(String::new()));
    let heard = all.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            *heard.lock() += &format!("{line}\n");
        }
    });
    all
}

async fn ok(node: &Process, method: &str, path: &str, body: serde_json::Value) -> serde_json::Value {
    let (status, answer) = node.call(method, path, Some(body)).await.unwrap();
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    answer
}

/// Somebody with a given name and the consent; the id.
async fn person(node: &Process, name: &str) -> String {
    let body = json!({
        "email": format!("{name}@example.com"), "password": "nine green herons whistle", "profile": {"given_name": name},
    });
    let user = ok(node, "POST", "/v1/registrations", body).await;
    let id = user["user_id"].as_str().unwrap().to_owned();
    ok(
        node,
        "PUT",
        &format!("/v1/users/{id}/consents/newsletter"),
        consent(true),
    )
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_feed_sees_no_more_than_asked_for_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let address = free_address();
    let start = || async { Process::start_with(dir.path(), &address, &[]).await.unwrap() };
    let node = start().await;
    let definition = json!({
        "purpose": "newsletter", "fields": ["given_name"], "events": ["user.profile_changed"],
    });
    ok(&node, "PUT", "/v1/feeds/marketing", definition).await;
    person(&node, "Ada").await;
    let redacted = Watcher::start(&node.url, &["--snapshot"]);
    let open = Watcher::start(&node.url, &["--snapshot", "--open"]);
    open.until_told("given_name=Ada").await;
    redacted.until_told("given_name=…").await;

    assert_eq!(node.stop().code(), Some(0));
    for watcher in [&redacted, &open] {
        watcher
            .until("it is said that the node is away", |w| !w.err.lock().is_empty())
            .await;
    }
    let node = start().await;
    person(&node, "Grace").await;
    open.until_told("given_name=Grace").await;
    redacted
        .until("both are told", |w| w.times("given_name=…") == 2)
        .await;
    assert_eq!(open.times("given_name=Ada"), 1, "nothing is told again");
    assert!(!redacted.out.lock().contains("Ada"));
    assert!(!redacted.out.lock().contains("Grace"));

    // What waiting does not mend ends it.
    let (status, _) = node.call("DELETE", "/v1/feeds/marketing", None).await.unwrap();
    assert!((200..300).contains(&status), "{status}");
    for mut watcher in [redacted, open] {
        let ended = watcher.child.wait().unwrap();
        assert_eq!(ended.code(), Some(1), "{}", watcher.err.lock());
        watcher
            .until("why it ended", |w| w.err.lock().contains("retired"))
            .await;
    }
}

#[test]
fn who_watches_where_no_node_runs_is_told_so() {
    let url = format!("http://{}", free_address());
    let out = gatelog(&["feed", "watch", "marketing", "--url", &url])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("Is the node running there?"), "{said}");
}
