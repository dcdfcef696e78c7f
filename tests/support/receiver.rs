//! Whoever takes what is posted to a webhook: it checks signatures, keeps what it took, and answers as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

/// One delivery that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub id: String,
    pub event: Value,
}

#[derive(Default)]
struct Inner {
    secrets: Vec<String>,
    taken: Vec<Taken>,
    /// Deliveries whose signature did not check.
    forged: usize,
    attempts: usize,
    /// Answers for records of a subject, or for all under "".
    answers: BTreeMap<String, u16>,
    delay: Duration,
    /// Requests at this moment, and the most there ever were.
    now: usize,
    most: usize,
}

#[derive(Clone, Default)]
pub struct Receiver {
    inner: Arc<Mutex<Inner>>,
    pub url: String,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks", listener.local_addr().unwrap());
        let receiver = Self {
            url,
            ..Self::default()
        };
        let router = Router::new()
            .route("/hooks", post(take))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    /// Believes what is signed with any of these.
    pub fn trust(&self, secrets: &[&str]) {
        self.inner.lock().secrets = secrets.iter().map(|s| (*s).to_owned()).collect();
    }

    /// Answers so from now on; `subject` may be empty for everyone's.
    pub fn answer(&self, subject: &str, status: u16) {
        self.inner.lock().answers.insert(subject.to_owned(), status);
    }

    pub fn answer_well(&self) {
        self.inner.lock().answers.clear();
    }

    pub fn delay(&self, delay: Duration) {
        self.inner.lock().delay = delay;
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.inner.lock().taken.clone()
    }

    /// What was taken, each once: a delivery may come twice.
    pub fn distinct(&self) -> Vec<Taken> {
        let mut seen = BTreeSet::new();
        let mut all = self.taken();
        all.retain(|taken| seen.insert(taken.id.clone()));
        all
    }

    pub fn forget(&self) {
        self.inner.lock().taken.clear();
    }

    pub fn attempts(&self) -> usize {
        self.inner.lock().attempts
    }

    pub fn forged(&self) -> usize {
        self.inner.lock().forged
    }

    /// The most requests there were at a time.
    pub fn most(&self) -> usize {
        self.inner.lock().most
    }

    /// What the receiver may know now, by subject.
    pub fn state(&self) -> BTreeMap<String, Value> {
        let mut state = BTreeMap::new();
        for taken in self.taken() {
            let subject = taken.event["subject"].as_str().unwrap().to_owned();
            match taken.event["data"].get("fields") {
                Some(fields) => state.insert(subject, fields.clone()),
                None => state.remove(&subject),
            };
        }
        state
    }

    pub fn emails(&self) -> Vec<String> {
        let state = self.state();
        let mut all: Vec<_> = state
            .values()
            .filter_map(|f| Some(f["email"].as_str()?.to_owned()))
            .collect();
        all.sort_unstable();
        all
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        self.until_or(what, so, String::new).await;
    }

    /// The same; `more` is what else there is to say if it does not become so.
    pub async fn until_or(&self, what: &str, so: impl Fn(&Self) -> bool, more: impl Fn() -> String) {
        // As long as a cluster may take for anything else.
        for _ in 0..3000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:#?}\n{}", self.taken(), more());
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let event: Value = serde_json::from_slice(&body).unwrap();
    let subject = event["subject"].as_str().unwrap().to_owned();
    let (delay, answer) = {
        let mut inner = receiver.inner.lock();
        inner.attempts += 1;
        inner.now += 1;
        inner.most = inner.most.max(inner.now);
        let answer = inner.answers.get(&subject).or(inner.answers.get("")).copied();
        (inner.delay, answer.unwrap_or(204))
    };
    tokio::time::sleep(delay).await;
    let mut inner = receiver.inner.lock();
    inner.now -= 1;
    if !inner
        .secrets
        .iter()
        .any(|secret| is_signed(secret, &headers, &body))
    {
        inner.forged += 1;
        return StatusCode::UNAUTHORIZED;
    }
    if answer < 300 {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        inner.taken.push(Taken { id, event });
    }
    StatusCode::from_u16(answer).unwrap()
}

/// By the specification (Standard Webhooks 1.0.0), with nothing of the sender's code.
fn is_signed(secret: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let (id, time) = (&headers["webhook-id"], &headers["webhook-timestamp"]);
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", body].concat();
    let expected = format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)));
    let given = headers["webhook-signature"].to_str().unwrap();
    given.split(' ').any(|signature| signature == expected)
}
