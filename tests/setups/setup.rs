//! A store in Kafka, and what its nodes are told.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use gatelog_events::clock;
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use serde_json::{Value, json};

use crate::support::process::{Process, gatelog};

pub const PASSWORD: &str = "seven purple otters juggle";
pub const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A store in Kafka, and what its nodes are told.
#[derive(Clone)]
pub struct Setup {
    pub environment: Vec<(String, String)>,
}

impl Setup {
    pub fn new(bootstrap: &str, prefix: &str) -> Self {
        let all = [
            ("GATELOG_LOG", "kafka"),
            ("GATELOG_KAFKA_BOOTSTRAP", bootstrap),
            ("GATELOG_KAFKA_TOPIC_PREFIX", prefix),
            ("GATELOG_KAFKA_REPLICATION", "1"),
            ("GATELOG_PARTITIONS", "3"),
            ("GATELOG_KAFKA_SESSION_TIMEOUT", "6s"),
            ("GATELOG_KAFKA_DELIVERY_TIMEOUT", "3s"),
        ];
        Self {
            environment: all.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec(),
        }
    }

    pub fn but(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.environment.retain(|(n, _)| n != name);
        other.environment.push((name.to_owned(), value.to_owned()));
        other
    }

    pub fn get(&self, name: &str) -> &str {
        &self.environment.iter().find(|(n, _)| n == name).unwrap().1
    }

    pub fn topic(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.get("GATELOG_KAFKA_TOPIC_PREFIX"))
    }

    pub fn pairs(&self) -> Vec<(&str, &str)> {
        self.environment
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect()
    }

    pub async fn start(&self, folder: &Path) -> Process {
        self.start_at(folder, "127.0.0.1:0").await
    }

    pub async fn start_at(&self, folder: &Path, listen: &str) -> Process {
        let node = Process::start_with(folder, listen, &self.pairs()).await;
        node.expect("a node must start")
    }

    /// A store with one user, whose node has stopped.
    pub async fn with_a_user(&self, folder: &Path) {
        let node = self.start(folder).await;
        register(&node, "ada@example.com").await;
        assert!(node.stop().success());
    }

    /// Runs a command that must end by itself.
    pub fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let mut child = gatelog(args)
            .envs(self.pairs())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut err = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut said = String::new();
            err.read_to_string(&mut said).unwrap();
            said
        });
        let begun = clock::monotonic();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        (status.code(), reader.join().unwrap())
    }

    /// `serve` must refuse with this status, in one sentence that has all of these words.
    #[track_caller]
    pub fn refuses(&self, folder: &Path, status: i32, words: &[&str]) {
        let folder = folder.to_str().unwrap();
        let ended = self.run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", folder]);
        is_told(&ended, status, words);
    }

    /// As `refuses`, of `verify`.
    #[track_caller]
    pub fn is_not_verified(&self, folder: &Path, status: i32, words: &[&str]) {
        let ended = self.run(&["verify", "--data-dir", folder.to_str().unwrap()]);
        is_told(&ended, status, words);
    }
}

#[track_caller]
pub fn is_told((code, said): &(Option<i32>, String), status: i32, words: &[&str]) {
    assert_eq!(*code, Some(status), "{said}");
    let sentences: Vec<_> = said.lines().filter(|l| l.starts_with("gatelog: ")).collect();
    assert_eq!(sentences.len(), 1, "{said}");
    for word in words {
        assert!(
            sentences[0].contains(word),
            "{word:?} is not in: {}",
            sentences[0]
        );
    }
    assert!(!said.contains(PASSWORD) && !said.contains("panicked"), "{said}");
}

pub async fn try_register(node: &Process, email: &str) -> (u16, Value) {
    let body = json!({"email": email, "password": PASSWORD});
    let answer = node.call("POST", "/v1/registrations", Some(body)).await;
    answer.unwrap_or_else(|| panic!("no answer: {}", node.said()))
}

pub async fn register(node: &Process, email: &str) -> String {
    let begun = clock::monotonic();
    loop {
        let (status, body) = try_register(node, email).await;
        if status == 201 {
            return body["user_id"].as_str().unwrap().to_owned();
        }
        assert!(status == 503 && begun.elapsed() < PATIENCE, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until this is so.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let begun = clock::monotonic();
    while !so().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap()
}

pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// A new folder with the secrets of another.
pub fn sibling(of: &Path, name: &str) -> PathBuf {
    let folder = of.with_file_name(name);
    std::fs::create_dir(&folder).unwrap();
    copy(&of.join("secrets"), &folder);
    folder
}
