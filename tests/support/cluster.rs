//! Several nodes on one log, as processes of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gatelog_events::clock;
use serde_json::{Value, json};

use super::ports::free_address;
use super::process::{BOOTSTRAP, Process, gatelog};

pub const PASSWORD: &str = "seven purple otters juggle";
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Nodes that share secrets, topics and nothing else.
pub struct Cluster {
    dir: tempfile::TempDir,
    pub environment: Vec<(String, String)>,
    /// What holds for one node only.
    pub own: Vec<Vec<(String, String)>>,
    pub addresses: Vec<String>,
    pub nodes: Vec<Option<Process>>,
}

impl Cluster {
    pub async fn start(bootstrap: &str, prefix: &str, nodes: usize) -> Self {
        Self::start_with(bootstrap, prefix, nodes, &[]).await
    }

    /// As `start`, with more of the environment.
    pub async fn start_with(bootstrap: &str, prefix: &str, nodes: usize, more: &[(&str, &str)]) -> Self {
        let mut cluster = Self::plan(bootstrap, prefix, nodes, more);
        cluster.start_all().await;
        cluster
    }

    /// Nodes that are yet to be started.
    pub fn plan(bootstrap: &str, prefix: &str, nodes: usize, more: &[(&str, &str)]) -> Self {
        let environment = [
            ("GATELOG_ISSUER", "http://login.example.com"),
            ("GATELOG_LOG", "kafka"),
            ("GATELOG_KAFKA_BOOTSTRAP", bootstrap),
            ("GATELOG_KAFKA_TOPIC_PREFIX", prefix),
            ("GATELOG_KAFKA_REPLICATION", "1"),
            ("GATELOG_PARTITIONS", "6"),
            ("GATELOG_KAFKA_SESSION_TIMEOUT", "6s"),
            ("GATELOG_KAFKA_DELIVERY_TIMEOUT", "3s"),
            // What is read after it was written is there at last, however busy the machine.
            ("GATELOG_MIN_POSITION_WAIT", "25s"),
            (
                "GATELOG_CLUSTER_SECRET",
                "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            ),
        ];
        Self {
            dir: tempfile::tempdir().unwrap(),
            environment: environment
                .iter()
                .chain(more)
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            own: vec![Vec::new(); nodes],
            addresses: (0..nodes).map(|_| free_address()).collect(),
            nodes: (0..nodes).map(|_| None).collect(),
        }
    }

    pub async fn start_all(&mut self) {
        for n in 0..self.nodes.len() {
            self.start_node(n).await;
        }
    }

    pub fn folder(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("node-{n}"))
    }

    pub async fn start_node(&mut self, n: usize) {
        let node = self.try_start_node(n, &[]).await;
        self.nodes[n] = Some(node.expect("a node must start"));
    }

    /// Starts a node with more of the environment; `None` if it ended before it was ready.
    pub async fn try_start_node(&self, n: usize, more: &[(&str, &str)]) -> Option<Process> {
        let folder = self.folder(n);
        if n > 0 && !folder.exists() {
            share_secrets(&self.folder(0), &folder);
        }
        let url = format!("http://{}", self.addresses[n]);
        let mut environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .chain(&self.own[n])
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        if self.own[n].iter().all(|(k, _)| k != "GATELOG_NODE_ADVERTISE") {
            environment.push(("GATELOG_NODE_ADVERTISE", &url));
        }
        environment.extend(more);
        Process::start_with(&folder, &self.addresses[n], &environment).await
    }

    pub fn node(&self, n: usize) -> &Process {
        self.nodes[n].as_ref().unwrap()
    }

    /// Asks a node, again while it says that it cannot at present.
    pub async fn ask(
        &self,
        n: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
        key: &str,
    ) -> (u16, Value, String) {
        let begun = clock::monotonic();
        loop {
            let node = self.node(n);
            let mut call = node
                .client
                .request(method.parse().unwrap(), format!("{}{path}", node.url))
                .bearer_auth(BOOTSTRAP)
                .header("idempotency-key", key.replace(' ', "-"));
            if let Some(body) = body {
                call = call.json(body);
            }
            let answer = call.send().await.unwrap();
            let status = answer.status().as_u16();
            let position = answer
                .headers()
                .get("gatelog-position")
                .map_or(String::new(), |p| p.to_str().unwrap().to_owned());
            let body = answer.json().await.unwrap_or(Value::Null);
            if status != 503 || begun.elapsed() > PATIENCE {
                return (status, body, position);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a node knows of a user, once it knows what stands at `position`.
    pub async fn read(&self, n: usize, user: &str, position: &str) -> (u16, Value) {
        let node = self.node(n);
        let answer = node
            .client
            .get(format!("{}/v1/users/{user}", node.url))
            .bearer_auth(BOOTSTRAP)
            .header("gatelog-min-position", position)
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn register(&self, n: usize, email: &str) -> (u16, Value, String) {
        let body = json!({"email": email, "password": PASSWORD});
        self.ask(
            n,
            "POST",
            "/v1/registrations",
            Some(&body),
            &format!("register {email}"),
        )
        .await
    }

    /// Waits until every node writes some partitions, and all of them are somebody's.
    pub async fn until_shared_out(&self) {
        let begun = clock::monotonic();
        loop {
            let mut owned: Vec<usize> = Vec::new();
            for node in self.nodes.iter().flatten() {
                let metrics = node.client.get(format!("{}/metrics", node.url)).send().await;
                let text = metrics.unwrap().text().await.unwrap();
                let own = text
                    .lines()
                    .find_map(|l| l.strip_prefix("gatelog_owned_partitions "));
                owned.push(own.map_or(0, |n| n.parse().unwrap()));
            }
            if owned.iter().sum::<usize>() == 6 && !owned.contains(&0) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{owned:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What each node that runs has said, for who has to find out why a test failed.
    pub fn words(&self) -> String {
        let nodes = self.nodes.iter().enumerate();
        let words = nodes.filter_map(|(n, node)| Some(format!("node {n} said:\n{}", node.as_ref()?.said())));
        words.collect()
    }

    /// Stops all nodes; each one's views are as the log says, and all nodes' views are the same.
    pub fn verify(mut self) {
        for node in &mut self.nodes {
            if let Some(node) = node.take() {
                assert!(node.stop().success());
            }
        }
        let mut views: Vec<Value> = Vec::new();
        for n in 0..self.addresses.len() {
            let folder = self.folder(n);
            let output = gatelog(&["verify", "--json", "--data-dir", folder.to_str().unwrap()])
                .envs(self.environment.iter().map(|(k, v)| (k, v)))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
            assert_eq!(report["clean"], true, "node {n}: {report}");
            views.push(report["views"].clone());
        }
        assert!(views.windows(2).all(|w| w[0] == w[1]), "{views:?}");
        assert!(
            views[0]
                .as_array()
                .unwrap()
                .iter()
                .any(|v| v["name"] == "users" && v["rows"] != 0)
        );
    }
}

pub fn share_secrets(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", from.join("secrets").to_str().unwrap(), to.to_str().unwrap()])
        .status();
    assert!(copied.unwrap().success());
}
