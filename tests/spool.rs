//! Logins while Kafka is away, under the policies `refuse` and `spool`: real brokers, nodes as processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[allow(dead_code)]
#[path = "../events/tests/log_kafka/broker.rs"]
mod broker;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use gatelog_events::clock;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use support::cluster::{Cluster, PASSWORD, PATIENCE};

use broker::Broker;

const SPOOL: (&str, &str) = ("GATELOG_LOGIN_WHEN_LOG_AWAY", "spool");
const AGENT: &str = "An-Agent-Of-The-Spool";

type Answer = (u16, HeaderMap, Value);

/// Asks once, as a visitor.
async fn post(cluster: &Cluster, n: usize, path: &str, body: &Value, key: Option<&str>) -> Answer {
    let node = cluster.node(n);
    let call = node
        .client
        .post(format!("{}{path}", node.url))
        .header("user-agent", AGENT);
    let call = match key {
        Some(key) => call.header("idempotency-key", key),
        None => call,
    };
    let answer = call.json(body).send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.json().await.unwrap())
}

async fn login(cluster: &Cluster, n: usize, email: &str, password: &str) -> Answer {
    let body = json!({"identifier": email, "password": password});
    post(cluster, n, "/v1/logins", &body, None).await
}

/// Logs in while the log is away: answered, and not yet in the log.
async fn spooled(cluster: &Cluster, n: usize, email: &str) -> Value {
    let (status, headers, tokens) = login(cluster, n, email, PASSWORD).await;
    assert_eq!(status, 200, "{tokens}");
    assert!(
        tokens.get("position").is_none() && !headers.contains_key("gatelog-position"),
        "{tokens}"
    );
    tokens
}

/// Logs in while the log is there, until it is in the log at once: a busy machine may take the log to be
/// away. All that was answered, of which nothing waits any more.
async fn recorded(cluster: &Cluster, n: usize, email: &str) -> Vec<Value> {
    let (mut all, begun) = (Vec::new(), clock::monotonic());
    loop {
        let (status, _, tokens) = login(cluster, n, email, PASSWORD).await;
        assert_eq!(status, 200, "{tokens}");
        let in_the_log = tokens["position"].is_string();
        all.push(tokens);
        if in_the_log {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", told(cluster).await);
        // Seldom enough that all of them fit on one page of the timeline.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until_drained(cluster, n).await;
    all
}

async fn refresh(cluster: &Cluster, n: usize, tokens: &Value) -> Answer {
    let body = json!({"refresh_token": tokens["refresh_token"]});
    post(cluster, n, "/v1/sessions/refresh", &body, None).await
}

async fn get(cluster: &Cluster, n: usize, path: &str) -> Value {
    cluster.node(n).call("GET", path, None).await.unwrap().1
}

async fn waiting(cluster: &Cluster, n: usize) -> u64 {
    get(cluster, n, "/readyz").await["spooled_logins"]
        .as_u64()
        .unwrap()
}

async fn until_drained(cluster: &Cluster, n: usize) {
    let begun = clock::monotonic();
    while waiting(cluster, n).await > 0 {
        if begun.elapsed() >= PATIENCE {
            panic!("node {n} does not drain: {}", told(cluster).await);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The value of one line of the metrics.
async fn metric(cluster: &Cluster, n: usize, name: &str) -> Option<f64> {
    let node = cluster.node(n);
    let text = node
        .client
        .get(format!("{}/metrics", node.url))
        .send()
        .await
        .unwrap();
    let text = text.text().await.unwrap();
    let line = text
        .lines()
        .find(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

/// The sessions of which the log knows that they started: each time that it says so.
async fn started(cluster: &Cluster, n: usize, user: &str) -> Vec<String> {
    let timeline = get(cluster, n, &format!("/v1/users/{user}/timeline?limit=200")).await;
    let events = timeline["events"]
        .as_array()
        .unwrap_or_else(|| panic!("{timeline}"));
    let of = |e: &&Value| e["type"] == "com.gatelog.session.started.v1";
    let session = |e: &Value| e["details"]["session_id"].as_str().unwrap().to_owned();
    events.iter().filter(of).map(session).collect()
}

/// A node that has just been asked may be behind another; the sessions are there in the end.
async fn until_started(cluster: &Cluster, n: usize, user: &str, sessions: &[&Value]) {
    let expected: BTreeSet<&str> = sessions
        .iter()
        .map(|t| t["session_id"].as_str().unwrap())
        .collect();
    let begun = clock::monotonic();
    loop {
        let found = started(cluster, n, user).await;
        let distinct: BTreeSet<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found.len(), distinct.len(), "a session started twice: {found:?}");
        if distinct == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How the nodes are and what they said, for who has to find out why a test failed.
async fn told(cluster: &Cluster) -> String {
    let mut told = cluster.words();
    for n in 0..cluster.nodes.len() {
        told += &format!("\nnode {n} is {}", get(cluster, n, "/readyz").await);
    }
    told
}

async fn register(cluster: &Cluster, n: usize, email: &str) -> String {
    let (status, body, position) = cluster.register(n, email).await;
    assert_eq!(status, 201, "{body}");
    let user = body["user_id"].as_str().unwrap().to_owned();
    for other in 0..cluster.nodes.len() {
        let (status, body) = cluster.read(other, &user, &position).await;
        assert_eq!(
            status,
            200,
            "{body}, read from node {other}: {}",
            told(cluster).await
        );
    }
    user
}

fn file(cluster: &Cluster, n: usize) -> PathBuf {
    cluster.folder(n).join("spool").join("logins")
}

fn is_refused(answer: &Answer) -> bool {
    answer.0 == 503 && answer.1.contains_key("retry-after")
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_is_away_logins_are_spooled_or_refused_and_each_is_recorded_once() {
    let Some(broker) = Broker::start(&[]) else { return };
    let mut cluster = Cluster::start_with(&broker.bootstrap(), "spool.", 2, &[SPOOL]).await;
    let refusing = Cluster::start(&broker.bootstrap(), "refuse.", 1).await;
    register(&refusing, 0, "ada@example.com").await;
    let mut users = Vec::new();
    for i in 0..6 {
        users.push(register(&cluster, i % 2, &format!("u{i}@example.com")).await);
    }
    // By somebody else than those whose logins wait below, and are counted.
    let early = register(&cluster, 0, "early@example.com").await;
    let before = recorded(&cluster, 0, "early@example.com").await;

    broker.kill(1);
    // At once, before anybody knows that the log is away; and when they do.
    let at_once = (0..6).map(|i| {
        let cluster = &cluster;
        async move { spooled(cluster, i % 2, &format!("u{i}@example.com")).await }
    });
    let mut sessions: Vec<Vec<Value>> = futures::future::join_all(at_once)
        .await
        .into_iter()
        .map(|tokens| vec![tokens])
        .collect();
    for (i, of_user) in sessions.iter_mut().enumerate() {
        of_user.push(spooled(&cluster, i % 2, &format!("u{i}@example.com")).await);
    }
    let refused = login(&refusing, 0, "ada@example.com", PASSWORD).await;
    assert!(is_refused(&refused), "{refused:?}");

    // Whoever is wrong stays out, and is slowed down.
    assert_eq!(login(&cluster, 0, "nobody@example.com", PASSWORD).await.0, 401);
    let mut answers = Vec::new();
    for _ in 0..7 {
        answers.push(login(&cluster, 1, "u5@example.com", "not the password").await.0);
    }
    assert_eq!(answers[0], 401);
    assert!(answers.contains(&429), "{answers:?}");
    assert!(
        metric(&cluster, 1, "gatelog_login_failures_unrecorded_total")
            .await
            .unwrap()
            >= 5.0
    );

    // The tokens give access; what goes on in the log alone waits for it.
    let tokens = &sessions[2][0];
    let node = cluster.node(1);
    let own = format!("{}/v1/users/{}", node.url, users[2]);
    let read = node
        .client
        .get(own)
        .bearer_auth(tokens["access_token"].as_str().unwrap());
    assert_eq!(read.send().await.unwrap().status(), 200);
    for n in 0..2 {
        let answer = refresh(&cluster, n, tokens).await;
        assert!(is_refused(&answer), "{answer:?}");
    }
    // A retry gets the same session.
    let body = json!({"identifier": "u4@example.com", "password": PASSWORD});
    let first = post(&cluster, 0, "/v1/logins", &body, Some("the-same")).await.2;
    let again = post(&cluster, 0, "/v1/logins", &body, Some("the-same")).await.2;
    assert_eq!(
        (&first["session_id"], &first["refresh_token"]),
        (&again["session_id"], &again["refresh_token"])
    );
    let other = json!({"identifier": "u2@example.com", "password": PASSWORD});
    assert_eq!(
        post(&cluster, 0, "/v1/logins", &other, Some("the-same")).await.0,
        422
    );
    sessions[4].push(first);

    assert_eq!((waiting(&cluster, 0).await, waiting(&cluster, 1).await), (7, 6));
    assert_eq!(metric(&cluster, 1, "gatelog_spool_entries").await, Some(6.0));
    assert!(metric(&cluster, 1, "gatelog_spool_bytes").await.unwrap() > 600.0);
    let kept = std::fs::read(file(&cluster, 0)).unwrap();
    assert_eq!(
        file(&cluster, 0).metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    let text = String::from_utf8_lossy(&kept);
    for personal in [AGENT, "127.0.0.1", "@example.com", PASSWORD] {
        assert!(!text.contains(personal), "{personal} stands in the spool");
    }

    // A node does not start without Kafka, and its spool is as it was.
    cluster.nodes[0].take().unwrap().kill();
    assert!(cluster.try_start_node(0, &[]).await.is_none());
    assert_eq!(std::fs::read(file(&cluster, 0)).unwrap(), kept);

    // Nobody is refused while the writer takes over: until what is kept is recorded, more is kept.
    broker.restart();
    let mut kept_on_return = 0;
    while waiting(&cluster, 1).await > 0 {
        let (status, _, tokens) = login(&cluster, 1, "u3@example.com", PASSWORD).await;
        if waiting(&cluster, 1).await > 0 || status == 200 {
            assert_eq!(status, 200, "{tokens}");
            kept_on_return += u32::from(tokens.get("position").is_none());
            sessions[3].push(tokens);
        }
        // Seldom enough that all of them fit on one page of the timeline.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    cluster.start_node(0).await;
    for n in 0..2 {
        until_drained(&cluster, n).await;
    }
    users.push(early);
    sessions.push(before);
    for (i, user) in users.iter().enumerate() {
        for n in 0..2 {
            until_started(&cluster, n, user, &sessions[i].iter().collect::<Vec<_>>()).await;
        }
    }
    let drained = metric(&cluster, 1, "gatelog_spool_drained_total").await;
    assert_eq!(drained, Some(f64::from(6 + kept_on_return)));
    assert!(
        std::fs::metadata(file(&cluster, 0)).unwrap().len() < 100,
        "it is emptied"
    );
    // Each goes on, by the other node.
    for (i, tokens) in sessions
        .iter()
        .enumerate()
        .flat_map(|(i, of)| of.iter().map(move |t| (i, t)))
    {
        let body = json!({"refresh_token": tokens["refresh_token"]});
        let key = tokens["session_id"].as_str().unwrap();
        let (status, body, _) = cluster
            .ask((i + 1) % 2, "POST", "/v1/sessions/refresh", Some(&body), key)
            .await;
        assert_eq!(status, 200, "{body}");
    }
    recorded(&cluster, 0, "u1@example.com").await;
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_come_in_any_more_gets_no_session_and_a_crash_while_draining_doubles_none() {
    let Some(broker) = Broker::start(&[]) else { return };
    let more = [SPOOL, ("GATELOG_LOCK_AFTER", "3"), ("GATELOG_LOCK_BASE", "10m")];
    let mut cluster = Cluster::start_with(&broker.bootstrap(), "gone.", 2, &more).await;
    let mut users = Vec::new();
    for name in ["erased", "disabled", "changed", "locked", "fine"] {
        users.push(register(&cluster, 0, &format!("{name}@example.com")).await);
    }
    broker.kill(1);
    let mut tokens = Vec::new();
    for name in ["erased", "disabled", "changed", "locked", "fine"] {
        tokens.push(spooled(&cluster, 0, &format!("{name}@example.com")).await);
    }
    cluster.nodes[0].take().unwrap().kill();
    let back_at = clock::now().to_string();
    broker.restart();

    // Meanwhile another node goes on.
    let of = |i: usize, rest: &str| format!("/v1/users/{}{rest}", users[i]);
    let disabled = json!({"status": "disabled"});
    let password = json!({"password": "nine yellow herons whistle"});
    for (method, path, body) in [
        ("DELETE", of(0, ""), None),
        ("PUT", of(1, "/status"), Some(&disabled)),
        ("PUT", of(2, "/password"), Some(&password)),
    ] {
        let (status, body, _) = cluster.ask(1, method, &path, body, &path.replace('/', "-")).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    // The log locks an account against guessing; who was in before stays in.
    let mut last = 0;
    let begun = clock::monotonic();
    while get(&cluster, 1, &of(3, "/timeline?limit=100")).await["events"]
        .as_array()
        .unwrap()
        .iter()
        .all(|e| e["type"] != "com.gatelog.login.locked.v1")
    {
        assert!(begun.elapsed() < PATIENCE, "no lock after {last}");
        last = login(&cluster, 1, "locked@example.com", "not the password")
            .await
            .0;
    }
    // A session that waits on a node that is down: not "ended", on any node that cannot know better.
    let answer = refresh(&cluster, 1, &tokens[4]).await;
    assert!(is_refused(&answer), "{answer:?}");
    let answer = refresh(&cluster, 1, &tokens[1]).await;
    assert_eq!(answer.0, 401, "{answer:?}");

    let full = std::fs::read(file(&cluster, 0)).unwrap();
    let failpoint = [("GATELOG_FAILPOINT", "spool.before_removal")];
    if let Some(crashing) = cluster.try_start_node(0, &failpoint).await {
        assert!(!crashing.wait().success());
    }
    assert_eq!(
        std::fs::read(file(&cluster, 0)).unwrap(),
        full,
        "all is sent again"
    );
    cluster.start_node(0).await;
    until_drained(&cluster, 0).await;

    assert_eq!(
        metric(&cluster, 0, "gatelog_spool_drained_total").await,
        Some(2.0)
    );
    for (label, expected) in [
        ("user_erased", 1.0),
        ("not_allowed", 1.0),
        ("password_changed", 1.0),
    ] {
        let name = format!("gatelog_spool_rejected_total{{reason=\"{label}\"}}");
        assert_eq!(metric(&cluster, 0, &name).await, Some(expected), "{name}");
    }
    for n in 0..2 {
        assert_eq!(
            cluster.node(n).call("GET", &of(0, ""), None).await.unwrap().0,
            404
        );
        for i in [1, 2] {
            until_started(&cluster, n, &users[i], &[]).await;
            let sessions = get(&cluster, n, &of(i, "/sessions")).await;
            assert_eq!(sessions["sessions"], json!([]), "{sessions}");
        }
        for i in [3, 4] {
            until_started(&cluster, n, &users[i], &[&tokens[i]]).await;
            let sessions = get(&cluster, n, &of(i, "/sessions")).await;
            let session = &sessions["sessions"][0];
            assert!(
                session["started_at"].as_str().unwrap() < back_at.as_str(),
                "{session}"
            );
            assert_eq!(
                (&session["ip"], &session["user_agent"]),
                (&json!("127.0.0.1"), &json!(AGENT))
            );
            let user = get(&cluster, n, &of(i, "")).await;
            assert_eq!(user["last_login_at"], session["started_at"]);
        }
    }
    let body = json!({"refresh_token": tokens[4]["refresh_token"]});
    let (status, body, _) = cluster
        .ask(1, "POST", "/v1/sessions/refresh", Some(&body), "fine")
        .await;
    assert_eq!(status, 200, "{body}");
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_which_the_broker_says_nothing_is_recorded_once() {
    let Some(broker) = Broker::start(&[]) else { return };
    let more = [SPOOL, ("GATELOG_SPOOL_MAX_BYTES", "4KiB")];
    let cluster = Cluster::start_with(&broker.bootstrap(), "unknown.", 2, &more).await;
    let mut users = Vec::new();
    for i in 0..4 {
        users.push(register(&cluster, 0, &format!("u{i}@example.com")).await);
    }
    // It stands still, and takes what was sent to it when it goes on.
    broker.signal("STOP");
    let at_once = (0..4).map(|i| {
        let cluster = &cluster;
        async move { spooled(cluster, i % 2, &format!("u{i}@example.com")).await }
    });
    let mut sessions: Vec<Vec<Value>> = futures::future::join_all(at_once)
        .await
        .into_iter()
        .map(|tokens| vec![tokens])
        .collect();
    // What does not fit into the spool is refused.
    let mut refused = 0;
    for _ in 0..20 {
        let answer = login(&cluster, 0, "u0@example.com", PASSWORD).await;
        match answer.0 {
            200 => sessions[0].push(answer.2),
            _ => {
                assert!(is_refused(&answer), "{answer:?}");
                refused += 1;
            }
        }
    }
    assert!(
        refused > 0 && sessions[0].len() > 2,
        "{refused}, {}",
        sessions[0].len()
    );
    assert_eq!(
        metric(&cluster, 0, "gatelog_spool_refused_total").await,
        Some(f64::from(refused))
    );
    broker.signal("CONT");
    for n in 0..2 {
        until_drained(&cluster, n).await;
    }
    for (i, user) in users.iter().enumerate() {
        for n in 0..2 {
            let found = started(&cluster, n, user).await;
            let distinct: BTreeSet<&String> = found.iter().collect();
            assert_eq!(found.len(), distinct.len(), "a session started twice: {found:?}");
        }
        // The one of a login that was refused may be in the log as well: what became of its first try was not known.
        let begun = clock::monotonic();
        let answered = |t: &&Value| t["session_id"].as_str().unwrap().to_owned();
        loop {
            let found = started(&cluster, 1, user).await;
            if sessions[i].iter().all(|t| found.contains(&answered(&t))) {
                break;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{user}: {found:?} without some of {:?}; {}",
                sessions[i].iter().map(|t| &t["session_id"]).collect::<Vec<_>>(),
                told(&cluster).await
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    cluster.verify();
}
