//! The program `gatelog serve` as a process of its own, and a client that talks to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::server::{Answer, BOOTSTRAP, Call, PASSWORD};

/// The least that the program takes, so that many nodes fit on one machine.
const CHEAP_HASHES: [&str; 4] = ["--argon2-memory", "7MiB", "--argon2-iterations", "5"];

/// A folder for one test: the node's data, and what the node printed.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Everything that all runs so far printed.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output()).unwrap()).into_owned()
    }

    fn output(&self) -> PathBuf {
        self.0.path().join("output")
    }

    /// `gatelog COMMAND …`, with nothing of this process's environment but the path.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatelog"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("GATELOG_DATA_DIR", self.data())
            .env("GATELOG_BOOTSTRAP_API_KEY", BOOTSTRAP)
            .current_dir(self.0.path())
            .args(args);
        command
    }

    /// A node on this data. Attempts from one network are free, for all tests come from one.
    pub async fn serve(&self, args: &[&str]) -> Node {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
        if !args.contains(&"--hash-max-wait") {
            command.args(["--hash-max-wait", "1m"]);
        }
        if !args.contains(&"--network-free-attempts") {
            command.args(["--network-free-attempts", "1000000"]);
        }
        command.args(CHEAP_HASHES).args(args);
        Node::spawn(command, &self.output()).await
    }

    /// All files below the data folder, with their bytes.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(&self.data())
    }

    /// The files of the log. Two equal answers mean that nothing was written between.
    pub fn log(&self) -> Vec<(PathBuf, Vec<u8>)> {
        files(&self.data().join("log"))
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

pub fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
}

/// A running node. Dropping it kills it, as a crash would.
pub struct Node {
    child: Child,
    client: Client,
    pub address: String,
}

impl Node {
    pub async fn spawn(mut command: Command, output: &Path) -> Self {
        let file = File::options().create(true).append(true).open(output).unwrap();
        let begin = file.metadata().unwrap().len() as usize;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let address = loop {
            let bytes = std::fs::read(output).unwrap();
            let text = String::from_utf8_lossy(&bytes[begin..]).into_owned();
            let ready = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == "ready");
            if let Some(ready) = ready {
                break ready["address"].as_str().unwrap().to_owned();
            }
            assert!(child.try_wait().unwrap().is_none(), "the node ended:\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            child,
            client,
            address,
        }
    }

    /// SIGKILL.
    pub fn kill(self) {
        drop(self);
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        while self.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn call(&self, method: Method, path: &str) -> Call {
        Call(
            self.client
                .request(method, format!("http://{}{path}", self.address)),
        )
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    pub async fn try_register(&self, email: &str) -> Answer {
        let body = json!({"email": email, "password": PASSWORD});
        self.post("/v1/registrations").json(&body).send().await
    }

    pub async fn register(&self, email: &str) -> String {
        self.try_register(email)
            .await
            .expect(201)
            .text("user_id")
            .to_owned()
    }

    pub async fn login(&self, email: &str, password: &str) -> Answer {
        let body = json!({"identifier": email, "password": password});
        self.post("/v1/logins").json(&body).send().await
    }

    pub async fn refresh(&self, token: &str) -> Answer {
        let body = json!({"refresh_token": token});
        self.post("/v1/sessions/refresh").json(&body).send().await
    }

    pub async fn user(&self, id: &str, token: &str) -> Answer {
        self.get(&format!("/v1/users/{id}")).auth(token).send().await
    }

    pub async fn set_status(&self, id: &str, status: &str) {
        let call = self.put(&format!("/v1/users/{id}/status")).admin();
        call.json(&json!({"status": status})).send().await.expect(200);
    }

    /// A key with these scopes: its id and its text.
    pub async fn api_key(&self, scopes: &[&str]) -> (String, String) {
        let call = self.post("/v1/api-keys").admin();
        let made = call
            .json(&json!({"name": "k", "scopes": scopes}))
            .send()
            .await
            .expect(201);
        (made.text("key_id").to_owned(), made.text("api_key").to_owned())
    }

    /// Sends bytes as they are, and reads the whole answer.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
