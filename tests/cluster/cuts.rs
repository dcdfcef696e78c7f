//! Cuts of the network, brokers that stand still, and a node that is behind. The long versions are in `make demo-kafka`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures::future::join_all;
use gatelog_events::clock;
use serde_json::{Value, json};

use super::wire::{End, State, Wire};
use crate::broker::Broker;
use crate::support::process::{BOOTSTRAP, consent};
use crate::{Cluster, PASSWORD};

const NODES: usize = 2;
/// Registered before anything happens: at least one person in most of the six partitions.
const PEOPLE: usize = 12;
/// A session's length where its end is waited for, and where no busy machine shall end it.
const EXPIRES: &str = "4s";
const LASTS: &str = "10s";
/// How long a node tries to have a write done.
const FORWARDED: &str = "4s";
/// What a write may take while the log cannot be reached: as long as that, and long enough for a machine that is busy with
/// other tests.
const ANSWERED: Duration = Duration::from_secs(20);

const EVENTS: &str = "/v1/feeds/crm/events";
const NEW_PASSWORD: &str = "nine crimson walruses hum";

/// Two nodes on a broker, with a wire from each to the broker and a wire from the other node to each.
struct Stage {
    broker: Broker,
    cluster: Cluster,
    to_kafka: Vec<Wire>,
    to_node: Vec<Wire>,
    people: Vec<String>,
    /// While there is such a file, node 0 folds nothing of what node 1 writes.
    behind: PathBuf,
}

/// What a page of a feed says.
struct Page {
    emails: Vec<String>,
    withdrawn: usize,
    next: String,
}

/// Hears what comes until the node ends it.
async fn ends(mut events: reqwest::Response) {
    while events.chunk().await.unwrap().is_some() {}
}

/// The other address of somebody.
fn moved(n: usize) -> String {
    format!("moved.{n}@example.com")
}

impl Stage {
    /// `None`: there is no Kafka here, which was said. Who is silent for as long as `session` is replaced.
    async fn set(prefix: &str, session: &str) -> Option<Self> {
        let ends = join_all((0..NODES).map(|_| End::new())).await;
        let ports: Vec<_> = ends.iter().map(|end| end.address().port()).collect();
        let listeners: Vec<_> = (0..NODES).map(|n| format!("NODE{n}={}", ports[n])).collect();
        let broker = Broker::start(&["--listener", &listeners[0], "--listener", &listeners[1]])?;
        let mut cluster = Cluster::plan(&broker.bootstrap(), prefix, NODES, &[]);
        let (mut to_kafka, mut to_node) = (Vec::new(), Vec::new());
        for (n, end) in ends.into_iter().enumerate() {
            let port = &broker.facts()["brokers"][0]["listeners"][format!("NODE{n}")]["port"];
            to_kafka.push(end.to(format!("127.0.0.1:{port}").parse().unwrap()));
            let door = End::new().await;
            let own = [
                ("GATELOG_KAFKA_BOOTSTRAP", format!("127.0.0.1:{}", ports[n])),
                ("GATELOG_NODE_ADVERTISE", format!("http://{}", door.address())),
                ("GATELOG_FORWARD_TIMEOUT", FORWARDED.to_owned()),
                ("GATELOG_KAFKA_SESSION_TIMEOUT", session.to_owned()),
            ];
            cluster.own[n] = own.map(|(k, v)| (k.to_owned(), v)).to_vec();
            to_node.push(door.to(cluster.addresses[n].parse().unwrap()));
        }
        let behind = cluster.folder(0).with_extension("behind");
        cluster.own[0].push(("GATELOG_BEHIND_FILE".to_owned(), behind.display().to_string()));
        cluster.start_all().await;
        let mut people = Vec::new();
        for i in 0..PEOPLE {
            let (status, body, _) = cluster.register(i % NODES, &format!("p{i}@example.com")).await;
            assert_eq!(status, 201, "{body}");
            people.push(body["user_id"].as_str().unwrap().to_owned());
        }
        Some(Self {
            broker,
            cluster,
            to_kafka,
            to_node,
            people,
            behind,
        })
    }

    /// One try to give everybody's consent by a node; how many were taken. Who is refused is told when to come again.
    async fn try_consents(&self, n: usize, granted: bool, key: &str) -> usize {
        let path = |user: &String| format!("/v1/users/{user}/consents/newsletter");
        let tries = self.people.iter().map(|user| {
            let body = consent(granted);
            async move { self.try_once(n, "PUT", &path(user), body, key).await }
        });
        join_all(tries).await.iter().filter(|s| **s == 200).count()
    }

    /// One try; the status.
    async fn try_once(&self, n: usize, method: &str, path: &str, body: Value, key: &str) -> u16 {
        let node = self.cluster.node(n);
        let begun = clock::monotonic();
        let answer = node
            .client
            .request(method.parse().unwrap(), format!("{}{path}", node.url))
            .bearer_auth(BOOTSTRAP)
            .header("idempotency-key", key)
            .json(&body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        assert!([200, 201, 503].contains(&status), "{method} {path}: {status}");
        assert_eq!(status == 503, answer.headers().contains_key("retry-after"));
        assert!(
            begun.elapsed() < ANSWERED,
            "{method} {path}: {:?}",
            begun.elapsed()
        );
        status
    }

    /// Until everybody's consent is taken by a node, with the same key each time.
    async fn consents(&self, n: usize, granted: bool, key: &str) {
        let begun = clock::monotonic();
        while self.try_consents(n, granted, key).await < self.people.len() {
            assert!(
                begun.elapsed() < crate::PATIENCE,
                "node {n} does not write again:\n{}",
                self.cluster.words()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a node answers without its log, again and again until `over`.
    async fn read_all_the_time(&self, n: usize, token: &str, over: &AtomicBool) {
        let own = format!("/v1/users/{}", self.people[0]);
        let mut rounds = 0;
        while !over.load(Relaxed) || rounds == 0 {
            for (path, bearer) in [
                (own.as_str(), BOOTSTRAP),
                (own.as_str(), token),
                ("/.well-known/jwks.json", BOOTSTRAP),
            ] {
                assert_eq!(self.read(n, path, bearer).await, 200, "{path} on node {n}");
            }
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// An access token, from a node.
    async fn log_in(&self, n: usize, email: &str) -> String {
        let login = json!({"identifier": email, "password": PASSWORD});
        let (status, tokens, _) = self
            .cluster
            .ask(n, "POST", "/v1/logins", Some(&login), email)
            .await;
        assert_eq!(status, 200, "{tokens}");
        tokens["access_token"].as_str().unwrap().to_owned()
    }

    /// Registered and logged in by node 1: their address, the path to themselves, and their access token.
    async fn somebody_new(&self, round: usize) -> (String, String, String) {
        let email = format!("new.{round}@example.com");
        let (status, body, _) = self.cluster.register(1, &email).await;
        assert_eq!(status, 201, "{body}");
        let path = format!("/v1/users/{}", body["user_id"].as_str().unwrap());
        let token = self.log_in(1, &email).await;
        (email, path, token)
    }

    /// As `somebody_new`, of whom a node that is behind has not heard.
    async fn somebody_unknown_to(&self, n: usize) -> (String, String, String) {
        let begun = clock::monotonic();
        for round in 0.. {
            assert!(begun.elapsed() < crate::PATIENCE, "node {n} is not behind");
            // Where that node is the one to write, it refuses what rests on more than it has folded.
            let email = format!("unknown.{round}@example.com");
            let somebody = json!({"email": email, "password": PASSWORD});
            let Some(body) = self.once(1, "/v1/registrations", somebody).await else {
                continue;
            };
            let path = format!("/v1/users/{}", body["user_id"].as_str().unwrap());
            let login = json!({"identifier": email, "password": PASSWORD});
            if self.read(n, &path, BOOTSTRAP).await == 404
                && let Some(tokens) = self.once(1, "/v1/logins", login).await
            {
                let token = tokens["access_token"].as_str().unwrap().to_owned();
                return (email, path, token);
            }
        }
        unreachable!("it ends before")
    }

    /// What is made by one try, if it is not refused for now.
    async fn once(&self, n: usize, path: &str, body: Value) -> Option<Value> {
        let node = self.cluster.node(n);
        let call = node.client.post(format!("{}{path}", node.url)).json(&body);
        let answer = call.send().await.unwrap();
        match answer.status().as_u16() {
            503 => None,
            200 | 201 => Some(answer.json().await.unwrap()),
            status => panic!("{path}: {status}"),
        }
    }

    /// What somebody is answered who tries a password; refused for now is told when to come again.
    async fn guess(&self, n: usize, email: &str, password: &str) -> u16 {
        let node = self.cluster.node(n);
        let call = node.client.post(format!("{}/v1/logins", node.url));
        let login = json!({"identifier": email, "password": password});
        let answer = call.json(&login).send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(
            [429, 503].contains(&status),
            answer.headers().contains_key("retry-after")
        );
        status
    }

    /// As `guess`, until it is decided.
    async fn guess_at_last(&self, n: usize, email: &str, password: &str) -> u16 {
        let begun = clock::monotonic();
        loop {
            let status = self.guess(n, email, password).await;
            if status != 503 || begun.elapsed() > crate::PATIENCE {
                return status;
            }
        }
    }

    /// A page of the feed `crm`; none where the node does not know it yet.
    async fn page(&self, n: usize, query: &str) -> Option<Page> {
        self.page_since(n, query, None).await
    }

    /// The same of a node that has read up to a position.
    async fn page_since(&self, n: usize, query: &str, position: Option<&str>) -> Option<Page> {
        let node = self.cluster.node(n);
        let url = format!("{}/v1/feeds/crm/events?{query}", node.url);
        let mut call = node.client.get(url).bearer_auth(BOOTSTRAP);
        if let Some(position) = position {
            call = call.header("gatelog-min-position", position);
        }
        let answer = call.send().await.unwrap();
        let found = answer.status().as_u16() == 200;
        let body: Value = answer.json().await.unwrap();
        let data: Vec<_> = body["events"].as_array()?.iter().map(|e| &e["data"]).collect();
        let emails = data.iter().filter_map(|d| d["fields"]["email"].as_str());
        found.then(|| Page {
            emails: emails.map(str::to_owned).collect(),
            withdrawn: data.iter().filter(|d| d["reason"].is_string()).count(),
            next: body["next"].as_str().unwrap().to_owned(),
        })
    }

    /// Server-sent events of the feed `crm`, once the node knows it.
    async fn follow(&self, n: usize) -> reqwest::Response {
        let node = self.cluster.node(n);
        let begun = clock::monotonic();
        loop {
            let call = node.client.get(format!("{}{EVENTS}", node.url));
            let call = call.bearer_auth(BOOTSTRAP).header("accept", "text/event-stream");
            let answer = call.timeout(crate::PATIENCE).send().await.unwrap();
            if answer.status().as_u16() == 200 {
                return answer;
            }
            assert!(begun.elapsed() < crate::PATIENCE, "{}", answer.status());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Who of the people are in partitions that node 1 writes.
    async fn written_by_the_other(&self) -> Vec<usize> {
        std::fs::write(&self.behind, "").unwrap();
        let mut theirs = Vec::new();
        for (n, id) in self.people.iter().enumerate() {
            let path = format!("/v1/users/{id}/consents/product_updates");
            self.try_once(1, "PUT", &path, consent(true), "whose").await;
            if self.consent(0, id).await != self.consent(1, id).await {
                theirs.push(n);
            }
        }
        std::fs::remove_file(&self.behind).unwrap();
        let begun = clock::monotonic();
        for n in &theirs {
            let id = &self.people[*n];
            while self.consent(0, id).await != self.consent(1, id).await {
                assert!(begun.elapsed() < crate::PATIENCE, "node 0 stays behind");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        theirs
    }

    /// As many people again.
    async fn register_more(&mut self) {
        for i in PEOPLE..2 * PEOPLE {
            let (status, body, _) = self
                .cluster
                .register(i % NODES, &format!("p{i}@example.com"))
                .await;
            assert_eq!(status, 201, "{body}");
            self.people.push(body["user_id"].as_str().unwrap().to_owned());
        }
    }

    /// What a node knows of somebody's consents. Not by their ledger: a write's answer does not wait for it.
    async fn consent(&self, n: usize, user: &str) -> Value {
        let path = format!("/v1/users/{user}");
        let (status, body) = self.cluster.node(n).call("GET", &path, None).await.unwrap();
        assert_eq!(status, 200, "{body}");
        body["consents"].clone()
    }

    async fn read(&self, n: usize, path: &str, bearer: &str) -> u16 {
        let node = self.cluster.node(n);
        let call = node.client.get(format!("{}{path}", node.url)).bearer_auth(bearer);
        call.send().await.unwrap().status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_kafka_is_replaced_and_comes_back() {
    let Some(stage) = Stage::set("cut-off.", EXPIRES).await else {
        return;
    };
    let token = stage.log_in(0, "p0@example.com").await;
    let feed = json!({"fields": ["plan"], "events": []});
    let defined = stage.cluster.ask(0, "PUT", "/v1/feeds/crm", Some(&feed), "crm");
    assert_eq!(defined.await.0, 200);
    for (round, state) in [State::Silent, State::Torn].into_iter().enumerate() {
        let over = AtomicBool::new(false);
        let follower = stage.follow(0).await;
        stage.to_kafka[0].set(state);
        let others = async {
            // It may still take what it hands on, but whatever it owned is soon the other's.
            stage.try_consents(0, true, &format!("cut-off-{round}")).await;
            stage.consents(1, true, &format!("taken-over-{round}")).await;
            over.store(true, Relaxed);
            stage.somebody_new(round).await
        };
        let (email, path, their_token) = tokio::join!(others, stage.read_all_the_time(0, &token, &over)).0;
        // It does not know them, and does not say that there is nobody either.
        let login = json!({"identifier": email, "password": PASSWORD});
        let key = format!("login-{round}");
        assert_eq!(
            stage.try_once(0, "POST", "/v1/logins", login.clone(), &key).await,
            503
        );
        assert_eq!(stage.read(0, &path, &their_token).await, 503);
        // Nor does it tell of anybody: they may have withdrawn by the other node.
        ends(follower).await;
        assert_eq!(stage.read(0, EVENTS, BOOTSTRAP).await, 503);
        assert_eq!(stage.cluster.ask(1, "GET", EVENTS, None, "events").await.0, 200);
        stage.to_kafka[0].set(State::Whole);
        stage.consents(0, false, &format!("back-{round}")).await;
        let (status, body, _) = stage
            .cluster
            .ask(0, "POST", "/v1/logins", Some(&login), &key)
            .await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(stage.read(0, &path, &their_token).await, 200);
        assert_eq!(stage.cluster.ask(0, "GET", EVENTS, None, "events").await.0, 200);
        stage.consents(1, true, &format!("both-{round}")).await;
    }
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_does_not_say_that_there_is_nobody() {
    let Some(mut stage) = Stage::set("behind.", LASTS).await else {
        return;
    };
    // Each node writes its part, and both know what the other's is.
    stage.cluster.until_shared_out().await;
    stage.register_more().await;
    stage.consents(0, false, "both-write").await;
    // By addresses of which many are in another partition than their owner.
    for (n, id) in stage.people.iter().enumerate() {
        let (path, key) = (format!("/v1/users/{id}/email"), format!("move-{n}"));
        let address = json!({"email": moved(n)});
        let (status, body, _) = stage.cluster.ask(0, "PUT", &path, Some(&address), &key).await;
        assert_eq!(status, 200, "{body}");
        stage.log_in(0, &moved(n)).await;
    }
    std::fs::write(&stage.behind, "").unwrap();
    stage.try_consents(1, true, "unread").await;
    let (email, path, token) = stage.somebody_unknown_to(0).await;
    for password in [PASSWORD, NEW_PASSWORD] {
        assert_eq!(stage.guess(0, &email, password).await, 503);
    }
    assert_eq!(stage.read(0, &path, &token).await, 503);

    let mut behind = Vec::new();
    for (n, id) in stage.people.iter().enumerate() {
        if stage.consent(0, id).await != stage.consent(1, id).await {
            behind.push((moved(n), format!("/v1/users/{id}/password")));
        }
    }
    assert!(behind.len() > 1, "the other node writes for some");
    // Whom it knows may come in, and whoever gives another password is not told whether it is wrong.
    let (known, _) = &behind[1];
    assert_eq!(stage.guess_at_last(0, known, PASSWORD).await, 200);
    assert_eq!(stage.guess(0, known, "another password").await, 503);
    // Neither is it told of a former one that it was right.
    let (changed, password) = &behind[0];
    let new = json!({"password": NEW_PASSWORD});
    let (status, body, _) = stage.cluster.ask(1, "PUT", password, Some(&new), "new").await;
    assert_eq!(status, 200, "{body}");
    for password in [NEW_PASSWORD, PASSWORD, "another password"] {
        assert_eq!(stage.guess(0, changed, password).await, 503, "{password}");
    }
    // These count: of eight more at once, two or three are looked at.
    let guesses = (0..8).map(|_| stage.guess(0, changed, "another password"));
    let refused = join_all(guesses).await;
    let slowed = refused.iter().filter(|status| **status == 429).count();
    assert!(slowed > 3 && !refused.contains(&401), "{refused:?}");

    std::fs::remove_file(&stage.behind).unwrap();
    let begun = clock::monotonic();
    while stage.read(0, &path, &token).await != 200 {
        assert!(begun.elapsed() < crate::PATIENCE, "node 0 stays behind");
    }
    stage.log_in(0, &email).await;
    assert_eq!(stage.guess_at_last(0, known, "another password").await, 401);
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_tells_a_feed_nothing_of_who_has_withdrawn() {
    let Some(mut stage) = Stage::set("behind-feed.", LASTS).await else {
        return;
    };
    stage.cluster.until_shared_out().await;
    stage.register_more().await;
    let people = stage.people.len();
    stage.consents(0, true, "granted").await;
    let feed = json!({"purpose": "newsletter", "fields": ["email"], "events": []});
    let defined = stage
        .cluster
        .ask(0, "PUT", "/v1/feeds/crm", Some(&feed), "crm")
        .await;
    assert_eq!(defined.0, 200, "{}", defined.1);
    // Both nodes have read all of this, so of one node's cursor the other knows what it is about.
    for n in 0..NODES {
        let begun = clock::monotonic();
        while stage.page(n, "limit=100").await.map(|page| page.emails.len()) != Some(people) {
            assert!(begun.elapsed() < crate::PATIENCE, "{}", stage.cluster.words());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let theirs = stage.written_by_the_other().await;
    assert!(!theirs.is_empty(), "the other node writes for some");
    let first = stage.page(1, "limit=1").await.unwrap();
    std::fs::write(&stage.behind, "").unwrap();
    let mut gone = Vec::new();
    for n in theirs {
        let path = format!("/v1/users/{}/consents/newsletter", stage.people[n]);
        let withdrawal = consent(false);
        let withdrawn = stage.cluster.ask(1, "PUT", &path, Some(&withdrawal), "withdrawn");
        let (status, _, position) = withdrawn.await;
        assert_eq!(status, 200);
        // What is told next is told of what this node has read by then.
        let read = stage.page_since(1, "from=now", Some(&position)).await;
        assert!(read.is_some(), "{}", stage.cluster.words());
        gone.push(format!("p{n}@example.com"));
    }
    let told = stage
        .page(1, &format!("limit={}&after={}", gone.len(), first.next))
        .await;
    let told = told.unwrap();
    assert_eq!((told.withdrawn, told.emails.len()), (gone.len(), 0));

    let is_gone = |email: &String| gone.contains(email);
    let rest = stage
        .page(0, &format!("limit=100&after={}", told.next))
        .await
        .unwrap();
    assert!(!rest.emails.iter().any(is_gone), "{:?}", rest.emails);
    std::fs::remove_file(&stage.behind).unwrap();
    let (mut next, mut stay) = (rest.next, rest.emails.len() + first.emails.len());
    let begun = clock::monotonic();
    let expected = people - gone.len() + first.emails.iter().filter(|e| is_gone(e)).count();
    while stay < expected {
        assert!(begun.elapsed() < crate::PATIENCE, "{stay} of {expected}");
        let page = stage.page(0, &format!("limit=100&after={next}")).await.unwrap();
        assert!(!page.emails.iter().any(is_gone), "{:?}", page.emails);
        stay += page.emails.len();
        next = page.next;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_cut_off_from_each_other_refuse_and_recover() {
    let Some(stage) = Stage::set("cut-apart.", LASTS).await else {
        return;
    };
    for (round, state) in [State::Silent, State::Torn].into_iter().enumerate() {
        stage.to_node[0].set(state);
        let (there, back) = (format!("there-{round}"), format!("back-{round}"));
        // Node 0 can reach whom it does not own.
        let (by_other, ()) = tokio::join!(
            stage.try_consents(1, true, &there),
            stage.consents(0, false, &back),
        );
        assert!(
            by_other < PEOPLE,
            "some of it is written by node 0, which cannot be reached"
        );
        stage.to_node[0].set(State::Whole);
        stage.consents(1, true, &there).await;
    }
    stage.cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_brokers_stand_still_writes_are_refused_in_time_and_reads_go_on() {
    let Some(stage) = Stage::set("still.", LASTS).await else {
        return;
    };
    let token = stage.log_in(0, "p0@example.com").await;
    let over = AtomicBool::new(false);
    stage.broker.signal("STOP");
    let writes = async {
        let login = json!({"identifier": "p1@example.com", "password": PASSWORD});
        let somebody = json!({"email": "new@example.com", "password": PASSWORD});
        let asked = tokio::join!(
            stage.try_consents(0, true, "consent"),
            stage.try_consents(1, true, "consent"),
            stage.try_once(0, "POST", "/v1/logins", login, "a-login"),
            stage.try_once(1, "POST", "/v1/registrations", somebody, "new"),
        );
        assert_eq!(asked, (0, 0, 503, 503));
        assert_eq!(
            stage.try_consents(0, false, "later").await,
            0,
            "it is refused again"
        );
        over.store(true, Relaxed);
    };
    tokio::join!(
        writes,
        stage.read_all_the_time(0, &token, &over),
        stage.read_all_the_time(1, &token, &over)
    );
    stage.broker.signal("CONT");
    // One key each, so whatever became of the first tries, it is done once.
    stage.consents(0, true, "consent").await;
    stage.consents(1, true, "consent").await;
    let somebody = json!({"email": "new@example.com", "password": PASSWORD});
    let (status, body, _) = stage
        .cluster
        .ask(1, "POST", "/v1/registrations", Some(&somebody), "new")
        .await;
    assert_eq!(status, 201, "{body}");
    stage.cluster.verify();
}
