//! Clients that ask any node, and note each call and what came of it.

use std::time::{Duration, Instant};

use gatelog_events::clock;
use serde_json::{Value, json};

use super::history::{Call, DONE, REFUSED};
use crate::support::process::BOOTSTRAP;

/// Longest time until somebody who asks again and again has an answer. Nodes are away for ten seconds and more.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of sending a request.
pub enum Sent {
    /// It did not leave.
    Not,
    /// It may have been carried out.
    Perhaps,
    Answered(Answer),
}

pub struct Answer {
    pub status: u16,
    pub body: Value,
    /// Where what was written stands; empty if nothing was.
    pub position: String,
}

/// What a client wants.
pub struct Wish {
    pub method: &'static str,
    pub path: String,
    pub body: Value,
    /// Who has one asks again until it is told.
    pub key: Option<String>,
    /// The node that is asked first.
    pub first: usize,
    /// How long it waits for an answer.
    pub patience: Duration,
    /// What one call is noted as; claiming and attaching are two calls in one.
    pub notes: Vec<Call>,
}

/// What a client was told in the end.
pub enum Told {
    Done(Answer),
    Refused,
    /// It gave up after a call of which nothing is known.
    Nothing,
}

pub struct Clients {
    http: reqwest::Client,
    addresses: Vec<String>,
    begun: Instant,
}

impl Clients {
    pub fn new(addresses: Vec<String>) -> Self {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .pool_max_idle_per_host(256)
            .build()
            .unwrap();
        Self {
            http,
            addresses,
            begun: clock::monotonic(),
        }
    }

    pub fn nodes(&self) -> usize {
        self.addresses.len()
    }

    /// Nanoseconds since the test began.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    async fn send(&self, node: usize, wish: &Wish, min_position: &str) -> Sent {
        let url = format!("http://{}{}", self.addresses[node % self.nodes()], wish.path);
        let mut call = self
            .http
            .request(wish.method.parse().unwrap(), url)
            .timeout(wish.patience);
        // Visitors exchange tokens; all else is asked with a key, so that no throttle counts.
        if !wish.path.starts_with("/v1/sessions/") && wish.path != "/v1/logins" {
            call = call.bearer_auth(BOOTSTRAP);
        }
        if let Some(key) = &wish.key {
            call = call.header("idempotency-key", key);
        }
        if !min_position.is_empty() {
            call = call.header("gatelog-min-position", min_position);
        }
        if !wish.body.is_null() {
            call = call.json(&wish.body);
        }
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(e) if e.is_connect() => return Sent::Not,
            Err(_) => return Sent::Perhaps,
        };
        let status = answer.status().as_u16();
        let position = answer
            .headers()
            .get("gatelog-position")
            .map_or(String::new(), |p| p.to_str().unwrap().to_owned());
        match answer.json().await {
            Ok(body) if status != 503 => Sent::Answered(Answer {
                status,
                body,
                position,
            }),
            _ => Sent::Perhaps,
        }
    }

    /// Asks one node after the other until one tells, and notes each call.
    pub async fn ask(&self, wish: Wish, calls: &mut Vec<Call>) -> Result<Told, String> {
        let begun = clock::monotonic();
        for node in wish.first.. {
            let begin = self.now();
            let sent = self.send(node, &wish, "").await;
            let end = self.now();
            let mut note = |answer: &str| {
                // Of two calls in one, the second comes after the first.
                let called = |(nth, call): (usize, &Call)| Call {
                    begin: begin + nth as u64,
                    end: (!answer.is_empty()).then_some(end),
                    answer: answer.to_owned(),
                    node: node % self.nodes(),
                    ..call.clone()
                };
                // Who is refused does not come to the second.
                let noted = if answer == REFUSED { 1 } else { wish.notes.len() };
                calls.extend(wish.notes[..noted].iter().enumerate().map(called));
            };
            match sent {
                Sent::Not => {}
                Sent::Perhaps => {
                    note("");
                    if wish.key.is_none() {
                        return Ok(Told::Nothing);
                    }
                }
                Sent::Answered(answer) => {
                    let kind = answer.body["type"].as_str().unwrap_or_default();
                    match (answer.status, kind) {
                        (200 | 201, _) => {
                            note(DONE);
                            return Ok(Told::Done(answer));
                        }
                        (409, "urn:gatelog:problem:address-taken")
                        | (401, "urn:gatelog:problem:session-ended") => {
                            note(REFUSED);
                            return Ok(Told::Refused);
                        }
                        (status, _) => {
                            return Err(format!("{} {}: {status} {}", wish.method, wish.path, answer.body));
                        }
                    }
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!(
                    "{} {}: no answer for {PATIENCE:?}",
                    wish.method, wish.path
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        unreachable!("there is always a next node")
    }

    /// Asks until it is done, and notes nothing: for what no race is about.
    pub async fn do_it(
        &self,
        method: &'static str,
        path: &str,
        body: Value,
        key: &str,
    ) -> Result<Answer, String> {
        let wish = Wish {
            method,
            path: path.to_owned(),
            body,
            key: Some(key.to_owned()),
            first: 0,
            patience: Duration::from_secs(12),
            notes: vec![],
        };
        match self.ask(wish, &mut vec![]).await? {
            Told::Done(answer) => Ok(answer),
            Told::Refused | Told::Nothing => Err(format!("{method} {path} was refused")),
        }
    }

    /// What one node shows, from `min_position` on; none if it cannot at present.
    pub async fn read(&self, node: usize, path: &str, min_position: &str) -> Option<Answer> {
        let wish = Wish {
            method: "GET",
            path: path.to_owned(),
            body: Value::Null,
            key: None,
            first: node,
            patience: Duration::from_secs(6),
            notes: vec![],
        };
        match self.send(node, &wish, min_position).await {
            // 412: it is not that far yet.
            Sent::Answered(answer) if answer.status != 412 => Some(answer),
            _ => None,
        }
    }

    /// Reads from one node until it shows what `enough` looks for, which it must at last.
    pub async fn await_shown<T>(
        &self,
        node: usize,
        path: &str,
        min_position: &str,
        enough: impl Fn(&Answer) -> Option<T>,
    ) -> Result<T, String> {
        let begun = clock::monotonic();
        loop {
            if let Some(answer) = self.read(node, path, min_position).await
                && let Some(shown) = enough(&answer)
            {
                return Ok(shown);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("node {node} never shows it: GET {path}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A user who is known on every node.
    pub async fn register(&self, name: &str) -> Result<String, String> {
        let email = format!("{name}@example.com");
        let body = json!({"email": email, "password": crate::support::cluster::PASSWORD});
        let answer = self.do_it("POST", "/v1/registrations", body, name).await?;
        let user = answer.body["user_id"].as_str().unwrap().to_owned();
        for node in 0..self.nodes() {
            let path = format!("/v1/users/{user}");
            self.await_shown(node, &path, &answer.position, |a| (a.status == 200).then_some(()))
                .await?;
        }
        Ok(user)
    }
}

/// A text as part of a query.
pub fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
