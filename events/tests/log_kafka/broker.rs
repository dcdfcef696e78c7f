//! Brokers for the tests: one that all share, and some of their own for tests that break them.

// Some tests have brokers, some have nodes, and some have both.
#[allow(clippy::duplicate_mod)]
#[path = "signals.rs"]
mod signals;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gatelog_events::log::kafka::{KafkaConfig, KafkaLog};
use tempfile::TempDir;

/// What `scripts/kafka` answers where Java or Maven is missing.
const NOT_HERE: i32 = 3;

pub fn script() -> PathBuf {
    let named = std::env::var_os("GATELOG_KAFKA_SCRIPT").map(PathBuf::from);
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    named.unwrap_or_else(|| {
        let places = ["scripts/kafka", "../scripts/kafka"].map(|place| package.join(place));
        places.into_iter().find(|place| place.exists()).unwrap()
    })
}

fn run(args: &[&str]) -> Output {
    let script = script();
    let ran = Command::new(&script).args(args).stdin(Stdio::null()).output();
    ran.unwrap_or_else(|e| panic!("{}: {e}", script.display()))
}

/// Says that a test is left out, and fails where it must not be.
fn leave_out(why: &str) {
    assert!(
        std::env::var_os("GATELOG_REQUIRE_KAFKA").is_none_or(|v| v != "1"),
        "GATELOG_REQUIRE_KAFKA=1, but there is no Kafka: {why}"
    );
    // Not by eprintln!, which the harness swallows where a test passes.
    let _ = writeln!(std::io::stderr(), "LEFT OUT, as there is no Kafka: {why}");
}

/// A broker of a test's own.
pub struct Broker {
    dir: TempDir,
    facts: serde_json::Value,
}

impl Broker {
    /// `None`: Kafka cannot be started on this machine, which was said.
    pub fn start(options: &[&str]) -> Option<Self> {
        Self::start_some(1, options)
    }

    /// One broker or three.
    pub fn start_some(brokers: usize, options: &[&str]) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("kafka");
        let pid = std::process::id().to_string();
        let brokers = brokers.to_string();
        let mut args = vec![
            "start",
            "--brokers",
            &brokers,
            "--until",
            &pid,
            "--dir",
            path.to_str().unwrap(),
        ];
        args.extend(options);
        let answer = run(&args);
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        if answer.status.code() == Some(NOT_HERE) {
            leave_out(said.trim());
            return None;
        }
        assert!(answer.status.success(), "scripts/kafka {args:?}: {said}");
        let facts = serde_json::from_slice(&answer.stdout).unwrap();
        Some(Self { dir, facts })
    }

    pub fn bootstrap(&self) -> String {
        self.facts["bootstrap"].as_str().unwrap().to_owned()
    }

    pub fn facts(&self) -> &serde_json::Value {
        &self.facts
    }

    fn order(&self, verb: &str, more: &[&str]) {
        let path = self.dir.path().join("kafka");
        let mut args = vec![verb, "--dir", path.to_str().unwrap()];
        args.extend(more);
        let answer = run(&args);
        assert!(
            answer.status.success(),
            "scripts/kafka {args:?}: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
    }

    /// Kills one, counted from 1.
    pub fn kill(&self, broker: usize) {
        self.order("kill", &["--broker", &broker.to_string()]);
    }

    pub fn restart(&self) {
        self.order("restart", &[]);
    }

    /// Stops (`STOP`) or continues (`CONT`) the broker's process.
    pub fn signal(&self, signal: &str) {
        let pid = self.facts["brokers"][0]["pid"].as_u64().unwrap();
        signals::send(signal, u32::try_from(pid).unwrap());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let path = self.dir.path().join("kafka");
        run(&["stop", "--dir", path.to_str().unwrap(), "--remove"]);
    }
}

/// The broker that all tests share: that of `KAFKA_BOOTSTRAP`, or one that ends with this process.
pub fn shared() -> Option<String> {
    static SHARED: OnceLock<Option<(String, Option<Broker>)>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| match std::env::var("KAFKA_BOOTSTRAP") {
        Ok(servers) if !servers.is_empty() => Some((servers, None)),
        _ => Broker::start(&[]).map(|broker| (broker.bootstrap(), Some(broker))),
    });
    if shared.is_none() {
        leave_out("this test needs a broker");
    }
    shared.as_ref().map(|(servers, _)| servers.clone())
}

/// A log of its own on a broker: two partitions, one copy.
pub fn config(bootstrap_servers: String) -> KafkaConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = gatelog_events::clock::now().millis();
    KafkaConfig {
        bootstrap_servers,
        topic_prefix: format!("test-{}-{time}-{number}.", std::process::id()),
        partitions: 2,
        replication_factor: 1,
        min_insync_replicas: 1,
        connect_timeout: Duration::from_secs(30),
        ..Default::default()
    }
}

/// An open log of its own on the shared broker.
pub async fn log() -> Option<(KafkaConfig, std::sync::Arc<KafkaLog>)> {
    let config = config(shared()?);
    let log = KafkaLog::open(config.clone()).await.unwrap();
    Some((config, log))
}
