//! Shared Signals of many nodes: each tells what happened in all partitions, and what a node told that dies another knows.

use std::collections::BTreeMap;
use std::time::Duration;

use gatelog_events::clock;
use jsonwebtoken::jwk::JwkSet;
use serde_json::{Value, json};

use crate::broker;
use crate::parties::{POLL, PUSH, PushReceiver, STREAMS, checked, event, kinds, uris};
use crate::support::cluster::{Cluster, PATIENCE};
use crate::support::process::BOOTSTRAP;

const EVENTS: [&str; 2] = ["risc/account-disabled", "risc/account-enabled"];

async fn stream(cluster: &Cluster, delivery: Value) -> Value {
    let body = json!({"delivery": delivery, "events_requested": uris(&EVENTS)});
    let key = delivery["method"].as_str().unwrap().replace(':', "-");
    let (status, made, _) = cluster.ask(0, "POST", STREAMS, Some(&body), &key).await;
    assert_eq!(status, 201, "{made}");
    made
}

/// Somebody who polls, acknowledges by the next poll, and keeps what it took, each once.
struct Poller {
    jwks: JwkSet,
    stream: Value,
    ack: Vec<String>,
    taken: Vec<Value>,
}

impl Poller {
    /// Asks a node once; whether it told anything.
    async fn poll(&mut self, cluster: &Cluster, n: usize) -> bool {
        let node = cluster.node(n);
        let url = format!(
            "{}/ssf/poll/{}",
            node.url,
            self.stream["stream_id"].as_str().unwrap()
        );
        let body = json!({"returnImmediately": true, "maxEvents": 7, "ack": self.ack});
        let call = node.client.post(url).bearer_auth(BOOTSTRAP).json(&body);
        let answer = call.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        // While a partition has no owner, what it told cannot be acknowledged. It is tried again.
        if status == 503 {
            return true;
        }
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        let mut sets: Vec<_> = answer["sets"].as_object().unwrap().iter().collect();
        // The test's own map has lost the order.
        sets.sort_by_key(|(jti, _)| text.find(jti.as_str()));
        self.ack = sets.iter().map(|(jti, _)| (*jti).clone()).collect();
        for (jti, token) in &sets {
            if self.taken.iter().all(|claims| claims["jti"] != **jti) {
                self.taken
                    .push(checked(token.as_str().unwrap(), &self.jwks, &self.stream));
            }
        }
        !sets.is_empty()
    }

    /// Asks a node until it took so many.
    async fn until(&mut self, cluster: &Cluster, n: usize, so_many: usize) {
        let begun = clock::monotonic();
        while self.taken.len() < so_many {
            assert!(begun.elapsed() < PATIENCE, "{:#?}", self.taken);
            if !self.poll(cluster, n).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert_eq!(self.taken.len(), so_many);
    }

    /// Asks a node until it knows what was acknowledged, at whichever node it was. Nothing of it comes back then.
    async fn until_nothing_is_left(&mut self, cluster: &Cluster, n: usize) {
        let begun = clock::monotonic();
        let mut empty = 0;
        while empty < 5 {
            assert!(begun.elapsed() < PATIENCE, "{:?} come again", self.ack);
            let told = self.poll(cluster, n).await;
            assert!(!told || empty == 0, "what was acknowledged came back");
            empty += usize::from(!told);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Sets the status of all people, each at one of the nodes in turn.
async fn set_all(cluster: &Cluster, nodes: &[usize], people: &[String], round: usize, status: &str) {
    for (i, user) in people.iter().enumerate() {
        let (n, path) = (nodes[i % nodes.len()], format!("/v1/users/{user}/status"));
        let key = format!("{round} {status} {i}");
        let (code, body, _) = cluster
            .ask(n, "PUT", &path, Some(&json!({"status": status})), &key)
            .await;
        assert_eq!(code, 200, "{body}");
    }
}

/// How often each node's partitions were shared out anew.
async fn rebalances(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for node in cluster.nodes.iter().flatten() {
        let metrics = node.client.get(format!("{}/metrics", node.url)).send().await;
        let text = metrics.unwrap().text().await.unwrap();
        let count = text
            .lines()
            .find_map(|l| l.strip_prefix("gatelog_rebalances_total "));
        found.push(count.unwrap_or("0").to_owned());
    }
    found
}

/// What was told of each, in the order in which it came.
fn by_user(taken: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for claims in taken {
        let user = claims["sub_id"]["sub"].as_str().unwrap().to_owned();
        told.entry(user).or_default().push(event(claims).0);
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_told_once_and_in_order_whichever_node_is_asked_and_whichever_dies() {
    let Some(bootstrap) = broker::shared() else { return };
    let environment = [
        ("GATELOG_WEBHOOK_NETWORKS", "127.0.0.0/8"),
        ("GATELOG_WEBHOOK_PLAIN_HTTP", "true"),
    ];
    let mut cluster = Cluster::start_with(&bootstrap, "signals.", 2, &environment).await;
    cluster.until_shared_out().await;
    let receiver = PushReceiver::start().await;
    let polled = stream(&cluster, json!({"method": POLL})).await;
    let pushed = stream(&cluster, json!({"method": PUSH, "endpoint_url": receiver.url})).await;
    // What a node does not know yet of the streams' key it cannot show either.
    let (status, keys, _) = cluster.ask(0, "GET", "/ssf/jwks.json", None, "jwks").await;
    assert_eq!(status, 200, "{keys}");
    let jwks: JwkSet = serde_json::from_value(keys).unwrap();
    receiver.trust(jwks.clone(), &pushed);
    let mut poller = Poller {
        jwks,
        stream: polled,
        ack: Vec::new(),
        taken: Vec::new(),
    };
    let mut people = Vec::new();
    for i in 0..12 {
        let (status, body, _) = cluster.register(i % 2, &format!("p{i}@example.com")).await;
        assert_eq!(status, 201, "{body}");
        people.push(body["user_id"].as_str().unwrap().to_owned());
    }

    let moves = rebalances(&cluster).await;
    // The second node is asked, whoever wrote.
    set_all(&cluster, &[0, 1], &people, 1, "disabled").await;
    set_all(&cluster, &[1, 0], &people, 1, "active").await;
    poller.until(&cluster, 1, 24).await;
    receiver.until("both rounds", |r| r.taken().len() == 24).await;
    // Whoever is given a partition may tell some of it again, as what was told last is not on record yet.
    if rebalances(&cluster).await == moves {
        assert_eq!(receiver.times_taken(), 24, "none twice while nothing moves");
    }
    // It dies with what it told and did not hear that it was taken.
    cluster.nodes[1].take().unwrap().kill();
    set_all(&cluster, &[0], &people, 2, "disabled").await;
    set_all(&cluster, &[0], &people, 2, "active").await;
    poller.until(&cluster, 0, 48).await;
    receiver
        .until("what came after its death", |r| r.taken().len() == 48)
        .await;
    cluster.start_node(1).await;
    set_all(&cluster, &[1, 0], &people, 3, "disabled").await;
    poller.until(&cluster, 1, 60).await;
    receiver
        .until("what came after its return", |r| r.taken().len() == 60)
        .await;
    for n in [1, 0] {
        poller.until_nothing_is_left(&cluster, n).await;
    }
    assert_eq!(poller.taken.len(), 60, "{:?}", kinds(&poller.taken));

    let [off, on] = EVENTS.map(str::to_owned);
    let expected = [&off, &on, &off, &on, &off].map(String::clone);
    let expected: BTreeMap<_, _> = people.iter().map(|p| (p.clone(), expected.to_vec())).collect();
    assert_eq!(by_user(&poller.taken), expected, "polled");
    assert_eq!(by_user(&receiver.taken()), expected, "pushed");
    cluster.verify();
}

/// As long as the log may keep that something was told, and longer than is allowed for less.
const KEPT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_so_old_that_the_log_may_have_lost_that_it_was_told_is_not_told() {
    let Some(bootstrap) = broker::shared() else { return };
    let environment = [
        "GATELOG_KAFKA_ACTIVITY_RETENTION",
        "GATELOG_SESSION_LIFETIME",
        "GATELOG_SESSION_IDLE",
    ];
    let environment = environment.map(|name| (name, "60s"));
    let cluster = Cluster::start_with(&bootstrap, "old-signals.", 1, &environment).await;
    let polled = stream(&cluster, json!({"method": POLL})).await;
    let (_, keys, _) = cluster.ask(0, "GET", "/ssf/jwks.json", None, "jwks").await;
    let mut poller = Poller {
        jwks: serde_json::from_value(keys).unwrap(),
        stream: polled,
        ack: Vec::new(),
        taken: Vec::new(),
    };
    let (status, body, _) = cluster.register(0, "ada@example.com").await;
    assert_eq!(status, 201, "{body}");
    let ada = [body["user_id"].as_str().unwrap().to_owned()];
    set_all(&cluster, &[0], &ada, 1, "disabled").await;
    poller.until(&cluster, 0, 1).await;
    poller.ack.clear();
    tokio::time::sleep(KEPT).await;
    set_all(&cluster, &[0], &ada, 2, "active").await;
    poller.taken.clear();
    poller.until(&cluster, 0, 1).await;
    assert_eq!(kinds(&poller.taken), EVENTS[1..]);
    cluster.verify();
}
