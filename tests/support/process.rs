//! The real binary, as its users run it.

// Some tests have brokers, some have nodes, and some have both.
#[allow(clippy::duplicate_mod)]
#[path = "../../events/tests/log_kafka/signals.rs"]
mod signals;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::sync::oneshot;

pub const BOOTSTRAP: &str = "bootstrap-key-of-the-tests";

/// `gatelog` with arguments. Argon2 is cheap here: what a hash costs is not what is tested.
pub fn gatelog(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatelog"));
    command
        .args(args)
        .env("GATELOG_BOOTSTRAP_API_KEY", BOOTSTRAP)
        .env("GATELOG_ARGON2_MEMORY", "7MiB")
        .env("GATELOG_ARGON2_ITERATIONS", "5")
        .env_remove("GATELOG_FAILPOINT");
    command
}

/// A `gatelog serve` on a port of its own.
pub struct Process {
    child: Child,
    /// What it has said on standard error so far.
    said: Arc<Mutex<String>>,
    pub url: String,
    pub client: Client,
}

impl Process {
    /// Starts and waits until it is ready; `None` if it ended before.
    pub async fn start(dir: &Path, failpoint: Option<&str>) -> Option<Self> {
        let failpoint: Vec<_> = failpoint.map(|f| ("GATELOG_FAILPOINT", f)).into_iter().collect();
        Self::start_with(dir, "127.0.0.1:0", &failpoint).await
    }

    /// As `start`, at an address and with more of the environment.
    pub async fn start_with(dir: &Path, listen: &str, environment: &[(&str, &str)]) -> Option<Self> {
        let dir = dir.to_str().unwrap();
        let mut command = gatelog(&["serve", "--listen", listen, "--data-dir", dir]);
        let mut child = command
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (found, address) = oneshot::channel();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        // Reads on after that, so that the pipe never fills.
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in log.lines().map_while(Result::ok) {
                *heard.lock() += &format!("{line}\n");
                if let Some((_, rest)) = line.split_once(" ready address=")
                    && let Some(found) = found.take()
                {
                    let _ = found.send(rest.split(' ').next().unwrap().to_owned());
                }
            }
        });
        let Ok(address) = address.await else {
            child.wait().unwrap();
            eprintln!("{}", said.lock());
            return None;
        };
        Some(Self {
            child,
            said,
            url: format!("http://{address}"),
            client: Client::builder()
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
        })
    }

    /// A call with the bootstrap key; `None` if the process was gone before it answered.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Option<(u16, Value)> {
        let url = format!("{}{path}", self.url);
        let mut call = self
            .client
            .request(method.parse().unwrap(), url)
            .bearer_auth(BOOTSTRAP);
        if let Some(body) = body {
            call = call.json(&body);
        }
        let response = call.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    pub fn said(&self) -> String {
        self.said.lock().clone()
    }

    /// The same, to be read while the node itself is lent to somebody else.
    pub fn log(&self) -> Arc<Mutex<String>> {
        self.said.clone()
    }

    /// Its status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn signal(&self, name: &str) {
        signals::send(name, self.child.id());
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A body for PUT …/consents/newsletter.
pub fn consent(granted: bool) -> Value {
    json!({"granted": granted, "channel": "email", "notice": {"id": "privacy", "version": "1", "language": "en"}})
}
