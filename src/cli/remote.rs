//! Talking to a running node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Failure;
use crate::config::options::read_key;

/// Where the node is.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// URL of the running node; the key comes from GATELOG_API_KEY, GATELOG_BOOTSTRAP_API_KEY, or the data folder
    #[arg(long, env = "GATELOG_URL", value_name = "URL")]
    pub url: Option<String>,
}

const DEFAULT_URL: &str = "http://localhost:8080";

/// Which node a command asks, and how it prints what it hears.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct Node {
    #[command(flatten)]
    remote: Args,
    /// The data folder, for the key that was made at first start [default: ./data]
    #[arg(long, env = "GATELOG_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Node {
    pub fn connect(&self) -> Result<Remote, Failure> {
        let url = self.remote.url.as_deref().unwrap_or(DEFAULT_URL);
        Remote::new(url, self.data_dir.as_deref())
    }
}

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It may, once it can be reached and has caught up: nothing is wrong with the request.
    #[error("{0}")]
    Away(String),
    #[error("{0}")]
    Refused(String),
}

/// A node, and the key to use there.
pub struct Remote {
    client: reqwest::Client,
    url: String,
    key: SecretString,
}

impl Remote {
    /// `data_dir` is where a key that was made at first start may lie.
    pub fn new(url: &str, data_dir: Option<&Path>) -> Result<Self, Failure> {
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Failure::Other(chain(&e)))?;
        Ok(Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
            key: key(data_dir)?,
        })
    }

    /// Sends a request; the JSON of a good answer, or the problem that was told.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CallError> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(away)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(away)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let told = format!("the node answered {status}: {} {}", text("title"), text("detail"));
        Err(match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                CallError::Away(told)
            }
            _ => CallError::Refused(told),
        })
    }
}

fn away(e: reqwest::Error) -> CallError {
    CallError::Away(format!("{}. Is the node running there?", chain(&e)))
}

/// An error with its causes.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn key(data_dir: Option<&Path>) -> Result<SecretString, Failure> {
    let from_environment = ["GATELOG_API_KEY", "GATELOG_BOOTSTRAP_API_KEY"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok())
        .filter(|key| !key.trim().is_empty());
    if let Some(key) = from_environment {
        return Ok(SecretString::from(key.trim()));
    }
    let file = match std::env::var("GATELOG_BOOTSTRAP_API_KEY_FILE") {
        Ok(path) => PathBuf::from(path),
        Err(_) => crate::cli::serve::bootstrap_key_file(data_dir.unwrap_or(Path::new("./data"))),
    };
    if !file.exists() {
        return Err(Failure::Usage(format!(
            "no API key: set GATELOG_API_KEY, or name the data folder with --data-dir ({} is not there)",
            file.display()
        )));
    }
    Ok(read_key(&file)?)
}
