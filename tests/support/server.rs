//! A whole node in this process, and a client that talks to it over HTTP.

use std::time::Duration;

use gatelog::config::Config;
use gatelog::http::{router, serve};
use gatelog::node::Started;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::world::config;

pub const BOOTSTRAP: &str = "bootstrap-key-of-the-tests";
pub const PASSWORD: &str = "seven purple otters juggle";

pub struct Server {
    url: String,
    client: Client,
    pub started: Started,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub fn problem(self, status: u16, slug: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(
            answer.body["type"],
            format!("urn:gatelog:problem:{slug}"),
            "{}",
            answer.body
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        answer
    }

    pub fn text(&self, field: &str) -> &str {
        self.body[field]
            .as_str()
            .unwrap_or_else(|| panic!("no {field} in {}", self.body))
    }
}

pub struct Call(pub reqwest::RequestBuilder);

impl Call {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0 = self.0.header(name, value);
        self
    }

    pub fn auth(self, token: &str) -> Self {
        let value = format!("Bearer {token}");
        self.with("authorization", &value)
    }

    pub fn admin(self) -> Self {
        self.auth(BOOTSTRAP)
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.0 = self.0.json(body);
        self
    }

    pub fn raw(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.0 = self.0.header("content-type", "application/json").body(body);
        self
    }

    pub async fn send(self) -> Answer {
        let response = self.0.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer {
            status,
            headers,
            body,
        }
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// As `start`, with other options.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.bootstrap_api_key = Some(BOOTSTRAP.to_owned().into());
        // What a hash costs is not what is tested here, and several nodes share this machine.
        config.pool.params.memory_kib = 1024;
        config.pool.max_wait = Duration::from_secs(60);
        change(&mut config);
        let header_timeout = config.header_timeout;
        let started = tokio::task::spawn_blocking(move || Started::open(config).unwrap())
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let served = tokio::spawn(serve(
            listener,
            router(started.node.clone()),
            header_timeout,
            shutdown,
        ));
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            url,
            client,
            started,
            stop,
            served,
            _dir: dir,
        }
    }

    pub async fn stop(self) {
        let Self {
            client,
            started,
            stop,
            served,
            ..
        } = self;
        drop(client);
        stop.send(()).unwrap();
        served.await.unwrap();
        started.close().await.unwrap();
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn call(&self, method: Method, path: &str) -> Call {
        Call(self.client.request(method, format!("{}{path}", self.url)))
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

    pub async fn register(&self, email: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD});
        let answer = self
            .post("/v1/registrations")
            .json(&body)
            .send()
            .await
            .expect(201);
        answer.text("user_id").to_owned()
    }

    pub async fn login(&self, email: &str, password: &str) -> Answer {
        let body = json!({"identifier": email, "password": password});
        self.post("/v1/logins").json(&body).send().await
    }
}

pub fn notice() -> Value {
    json!({"id": "privacy", "version": "3", "language": "de"})
}
