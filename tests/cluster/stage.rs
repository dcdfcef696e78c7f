//! Two nodes on a broker of their own, with wires that can be cut, and one of them that can be kept behind.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures::future::join_all;
use gatelog_events::clock;
use serde_json::{Value, json};

use super::wire::{End, Wire};
use crate::broker::Broker;
use crate::support::process::{BOOTSTRAP, consent};
use crate::{Cluster, PASSWORD};

pub const NODES: usize = 2;
/// Registered before anything happens: at least one person in most of the six partitions.
pub const PEOPLE: usize = 12;
/// A session's length where its end is waited for, and where no busy machine shall end it.
pub const EXPIRES: &str = "4s";
pub const LASTS: &str = "10s";
/// How long a node tries to have a write done.
pub const FORWARDED: &str = "4s";
/// What a write may take while the log cannot be reached: as long as that, and long enough for a machine that is busy with
/// other tests.
pub const ANSWERED: Duration = Duration::from_secs(20);

pub const EVENTS: &str = "/v1/feeds/crm/events";
pub const NEW_PASSWORD: &str = "nine crimson walruses hum";

/// Two nodes on a broker, with a wire from each to the broker and a wire from the other node to each.
pub struct Stage {
    pub broker: Broker,
    pub cluster: Cluster,
    pub to_kafka: Vec<Wire>,
    pub to_node: Vec<Wire>,
    pub people: Vec<String>,
    /// While there is such a file, node 0 folds nothing of what node 1 writes.
    pub behind: PathBuf,
}

/// What a page of a feed says.
pub struct Page {
    pub emails: Vec<String>,
    pub withdrawn: usize,
    pub next: String,
}

/// Hears what comes until the node ends it.
pub async fn ends(mut events: reqwest::Response) {
    while events.chunk().await.unwrap().is_some() {}
}

/// The other address of somebody.
pub fn moved(n: usize) -> String {
    format!("moved.{n}@example.com")
}

impl Stage {
    /// `None`: there is no Kafka here, which was said. Who is silent for as long as `session` is replaced.
    pub async fn set(prefix: &str, session: &str) -> Option<Self> {
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
    pub async fn try_consents(&self, n: usize, granted: bool, key: &str) -> usize {
        let path = |user: &String| format!("/v1/users/{user}/consents/newsletter");
        let tries = self.people.iter().map(|user| {
            let body = consent(granted);
            async move { self.try_once(n, "PUT", &path(user), body, key).await }
        });
        join_all(tries).await.iter().filter(|s| **s == 200).count()
    }

    /// One try; the status.
    pub async fn try_once(&self, n: usize, method: &str, path: &str, body: Value, key: &str) -> u16 {
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
    pub async fn consents(&self, n: usize, granted: bool, key: &str) {
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
    pub async fn read_all_the_time(&self, n: usize, token: &str, over: &AtomicBool) {
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
    pub async fn log_in(&self, n: usize, email: &str) -> String {
        let login = json!({"identifier": email, "password": PASSWORD});
        let (status, tokens, _) = self
            .cluster
            .ask(n, "POST", "/v1/logins", Some(&login), email)
            .await;
        assert_eq!(status, 200, "{tokens}");
        tokens["access_token"].as_str().unwrap().to_owned()
    }

    /// Registered and logged in by node 1: their address, the path to themselves, and their access token.
    pub async fn somebody_new(&self, round: usize) -> (String, String, String) {
        let email = format!("new.{round}@example.com");
        let (status, body, _) = self.cluster.register(1, &email).await;
        assert_eq!(status, 201, "{body}");
        let path = format!("/v1/users/{}", body["user_id"].as_str().unwrap());
        let token = self.log_in(1, &email).await;
        (email, path, token)
    }

    /// As `somebody_new`, of whom a node that is behind has not heard.
    pub async fn somebody_unknown_to(&self, n: usize) -> (String, String, String) {
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
    pub async fn once(&self, n: usize, path: &str, body: Value) -> Option<Value> {
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
    pub async fn guess(&self, n: usize, email: &str, password: &str) -> u16 {
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
    pub async fn guess_at_last(&self, n: usize, email: &str, password: &str) -> u16 {
        let begun = clock::monotonic();
        loop {
            let status = self.guess(n, email, password).await;
            if status != 503 || begun.elapsed() > crate::PATIENCE {
                return status;
            }
        }
    }

    /// A page of the feed `crm`; none where the node does not know it yet.
    pub async fn page(&self, n: usize, query: &str) -> Option<Page> {
        self.page_since(n, query, None).await
    }

    /// The same of a node that has read up to a position.
    pub async fn page_since(&self, n: usize, query: &str, position: Option<&str>) -> Option<Page> {
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
    pub async fn follow(&self, n: usize) -> reqwest::Response {
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
    pub async fn written_by_the_other(&self) -> Vec<usize> {
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
    pub async fn register_more(&mut self) {
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
    pub async fn consent(&self, n: usize, user: &str) -> Value {
        let path = format!("/v1/users/{user}");
        let (status, body) = self.cluster.node(n).call("GET", &path, None).await.unwrap();
        assert_eq!(status, 200, "{body}");
        body["consents"].clone()
    }

    pub async fn read(&self, n: usize, path: &str, bearer: &str) -> u16 {
        let node = self.cluster.node(n);
        let call = node.client.get(format!("{}{path}", node.url)).bearer_auth(bearer);
        call.send().await.unwrap().status().as_u16()
    }
}
