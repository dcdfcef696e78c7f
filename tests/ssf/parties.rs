//! Receivers, who check SETs with a published library and nothing of the transmitter's code, and people to hear of.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use gatelog::config::Config;
use gatelog::feeds::signals::push::Transmitter;
use gatelog::feeds::webhook::WebhookConfig;
use gatelog_events::ids::{Partition, Stream};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::server::{Answer, PASSWORD, Server, notice};

pub const STREAMS: &str = "/ssf/streams";
pub const STATUS: &str = "/ssf/status";
pub const VERIFICATION: &str = "/ssf/verification";
pub const PUSH: &str = "urn:ietf:rfc:8935";
pub const POLL: &str = "urn:ietf:rfc:8936";
pub const ISSUER: &str = "http://localhost:8080";

const BASE: &str = "https://schemas.openid.net/secevent/";

pub fn uri(short: &str) -> String {
    let (family, name) = short.split_once('/').unwrap();
    format!("{BASE}{family}/event-type/{name}")
}

/// All types that can be asked for.
pub const ALL: [&str; 6] = [
    "caep/session-revoked",
    "caep/credential-change",
    "risc/account-disabled",
    "risc/account-enabled",
    "risc/account-purged",
    "risc/identifier-changed",
];

pub fn uris(short: &[&str]) -> Vec<String> {
    short.iter().map(|s| uri(s)).collect()
}

/// A node that posts to this machine, and gives a SET up after `lifetime`.
pub async fn start(lifetime: Duration) -> (Server, tokio::task::JoinHandle<()>) {
    start_with(lifetime, |_| {}).await
}

/// As `start`, with other options.
pub async fn start_with(
    lifetime: Duration,
    change: impl FnOnce(&mut Config),
) -> (Server, tokio::task::JoinHandle<()>) {
    let server = Server::start_with(|config| {
        let here = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhooks = WebhookConfig::new(true, here, lifetime);
        config.webhooks.breaker.pause = Duration::from_millis(300);
        change(config);
    })
    .await;
    let transmitting = transmit(&server);
    (server, transmitting)
}

pub fn transmit(server: &Server) -> tokio::task::JoinHandle<()> {
    tokio::spawn(Transmitter::new(server.started.node.clone(), None).run())
}

/// Waits until what streams tell of is folded as far as the log goes.
async fn settled(server: &Server) {
    let node = &server.started.node;
    for stream in Stream::ALL {
        for partition in (0..node.log.partitions()).map(Partition) {
            let end = node.log.end(stream, partition).await.unwrap();
            while node.views.next("signals", stream, partition).unwrap() < end {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// An API key of a receiver.
pub async fn key(server: &Server, scopes: &[&str]) -> String {
    let body = json!({"name": "a receiver", "scopes": scopes});
    let key = server
        .post("/v1/api-keys")
        .admin()
        .json(&body)
        .send()
        .await
        .expect(201);
    key.text("api_key").to_owned()
}

/// What a receiver knows: its key, its stream, and who signs.
pub struct Party {
    pub key: String,
    pub stream: Value,
}

impl Party {
    pub async fn of(server: &Server, delivery: Value, events: &[&str]) -> Self {
        let key = key(server, &["ssf.manage"]).await;
        let body = json!({"delivery": delivery, "events_requested": uris(events)});
        let made = server
            .post(STREAMS)
            .auth(&key)
            .json(&body)
            .send()
            .await
            .expect(201);
        Self {
            key,
            stream: made.body,
        }
    }

    pub fn id(&self) -> &str {
        self.stream["stream_id"].as_str().unwrap()
    }

    pub async fn set_status(&self, server: &Server, status: &str) -> Answer {
        let body = json!({"stream_id": self.id(), "status": status});
        let call = server.post(STATUS).auth(&self.key).json(&body);
        call.send().await.expect(200)
    }

    pub async fn verify(&self, server: &Server, state: &str) -> Answer {
        let body = json!({"stream_id": self.id(), "state": state});
        server.post(VERIFICATION).auth(&self.key).json(&body).send().await
    }

    /// What was given up, once that is so many.
    pub async fn dead_letters(&self, server: &Server, so_many: usize) -> Vec<Value> {
        let path = format!("/ssf/dead-letters?stream_id={}", self.id());
        for _ in 0..3000 {
            let page = server.get(&path).auth(&self.key).send().await.expect(200);
            let all = page.body["dead_letters"].as_array().unwrap().clone();
            if all.len() >= so_many {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("there are not {so_many} dead letters");
    }

    /// Once everything that was written is folded.
    pub async fn poll(&self, server: &Server, body: Value) -> Answer {
        settled(server).await;
        let path = format!("/ssf/poll/{}", self.id());
        server.post(&path).auth(&self.key).json(&body).send().await
    }

    /// What a poll gives, checked and in order.
    pub async fn polled(&self, server: &Server, body: Value) -> (Vec<Value>, bool) {
        let answer = self.poll(server, body).await.expect(200);
        let jwks = jwks(server).await;
        let mut claims: Vec<_> = answer.body["sets"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(jti, token)| {
                let claims = checked(token.as_str().unwrap(), &jwks, &self.stream);
                assert_eq!(claims["jti"], json!(jti));
                claims
            })
            .collect();
        // The test's own map has lost the order.
        claims.sort_by_key(|c| c["iat"].as_i64());
        (claims, answer.body["moreAvailable"].as_bool().unwrap())
    }

    /// Polls and acknowledges until nothing is left.
    pub async fn drain(&self, server: &Server) -> Vec<Value> {
        let mut all = Vec::new();
        let mut ack: Vec<Value> = Vec::new();
        loop {
            let (sets, _) = self
                .polled(server, json!({"returnImmediately": true, "ack": ack}))
                .await;
            if sets.is_empty() {
                return all;
            }
            ack = sets.iter().map(|s| s["jti"].clone()).collect();
            all.extend(sets);
        }
    }
}

pub async fn jwks(server: &Server) -> JwkSet {
    let answer = server.get("/ssf/jwks.json").send().await.expect(200);
    serde_json::from_value(answer.body).unwrap()
}

/// The claims of a SET that a careful receiver accepts.
pub fn checked(token: &str, jwks: &JwkSet, stream: &Value) -> Value {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let header = jsonwebtoken::decode_header(token).unwrap();
    assert_eq!(header.typ.as_deref(), Some("secevent+jwt"));
    assert_eq!(header.alg, Algorithm::RS256);
    let jwk = jwks.find(header.kid.as_deref().unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    validation.set_audience(&[stream["aud"].as_str().unwrap()]);
    validation.set_issuer(&[stream["iss"].as_str().unwrap()]);
    let key = DecodingKey::from_jwk(jwk).unwrap();
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation)
        .unwrap()
        .claims;
    assert!(claims.get("sub").is_none() && claims.get("exp").is_none());
    assert_eq!(claims["events"].as_object().unwrap().len(), 1, "one event");
    assert!(claims["jti"].is_string() && claims["iat"].is_i64() && claims["sub_id"]["format"].is_string());
    claims
}

/// The short name of what a SET tells, and the event.
pub fn event(claims: &Value) -> (String, Value) {
    let (uri, event) = claims["events"].as_object().unwrap().iter().next().unwrap();
    let short = uri.strip_prefix(BASE).unwrap().replace("event-type/", "");
    (short, event.clone())
}

pub fn kinds(claims: &[Value]) -> Vec<String> {
    claims.iter().map(|c| event(c).0).collect()
}

#[derive(Default)]
struct Inner {
    jwks: Option<JwkSet>,
    stream: Value,
    taken: Vec<Value>,
    attempts: usize,
    /// Answers to the next requests, before it takes them well.
    next: VecDeque<(u16, Value)>,
    /// The answer to all requests, where there is one.
    always: Option<(u16, Value)>,
    /// Of whom it takes nothing.
    refused: Option<String>,
    authorizations: Vec<Option<String>>,
}

/// A receiver to whom SETs are pushed.
#[derive(Clone, Default)]
pub struct PushReceiver {
    inner: Arc<Mutex<Inner>>,
    pub url: String,
}

impl PushReceiver {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let receiver = Self {
            url,
            ..Self::default()
        };
        let router = Router::new()
            .route("/events", post(take))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    /// A stream that is pushed to it.
    pub async fn stream(&self, server: &Server, events: &[&str]) -> Party {
        let delivery =
            json!({"method": PUSH, "endpoint_url": self.url, "authorization_header": "Bearer hush"});
        let party = Party::of(server, delivery, events).await;
        self.trust(jwks(server).await, &party.stream);
        party
    }

    /// Believes what is signed by one of these and is for a stream.
    pub fn trust(&self, jwks: JwkSet, stream: &Value) {
        let mut inner = self.inner.lock();
        inner.jwks = Some(jwks);
        inner.stream = stream.clone();
    }

    pub fn answer_next(&self, status: u16, body: Value) {
        self.inner.lock().next.push_back((status, body));
    }

    pub fn answer(&self, status: u16, body: Value) {
        self.inner.lock().always = Some((status, body));
    }

    pub fn answer_well(&self) {
        let mut inner = self.inner.lock();
        (inner.always, inner.refused) = (None, None);
    }

    /// Takes nothing of a user.
    pub fn refuse(&self, user: &str) {
        self.inner.lock().refused = Some(user.to_owned());
    }

    /// What was taken, each once: a SET may come twice.
    pub fn taken(&self) -> Vec<Value> {
        let mut seen = HashSet::new();
        let mut all = self.inner.lock().taken.clone();
        all.retain(|claims| seen.insert(claims["jti"].clone()));
        all
    }

    /// How often something was taken, also twice.
    pub fn times_taken(&self) -> usize {
        self.inner.lock().taken.len()
    }

    pub fn kinds(&self) -> Vec<String> {
        kinds(&self.taken())
    }

    pub fn attempts(&self) -> usize {
        self.inner.lock().attempts
    }

    pub fn authorizations(&self) -> Vec<Option<String>> {
        self.inner.lock().authorizations.clone()
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        // The second pause before another attempt is up to half a minute.
        for _ in 0..3000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:#?}", self.taken());
    }
}

async fn take(
    State(receiver): State<PushReceiver>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    assert_eq!(headers["content-type"], "application/secevent+jwt");
    assert_eq!(headers["accept"], "application/json");
    let mut inner = receiver.inner.lock();
    inner.attempts += 1;
    let authorization = headers.get("authorization");
    let authorization = authorization.map(|v| v.to_str().unwrap().to_owned());
    inner.authorizations.push(authorization);
    let claims = checked(&body, inner.jwks.as_ref().unwrap(), &inner.stream);
    let mut answer = inner.next.pop_front().or(inner.always.clone());
    if inner.refused.is_some() && claims["sub_id"]["sub"].as_str() == inner.refused.as_deref() {
        answer = Some((500, Value::Null));
    }
    match answer {
        Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body.to_string()),
        None => {
            inner.taken.push(claims);
            (StatusCode::ACCEPTED, String::new())
        }
    }
}

/// A user's id, and an access token.
pub async fn person(server: &Server, name: &str) -> (String, String) {
    let body = json!({
        "email": format!("{name}@example.com"), "password": PASSWORD, "locale": "en",
        "profile": {"given_name": name},
        "consents": [{"purpose": "newsletter", "channel": "email", "granted": true, "notice": notice()}],
    });
    let made = server
        .post("/v1/registrations")
        .json(&body)
        .send()
        .await
        .expect(201);
    let login = server
        .login(&format!("{name}@example.com"), PASSWORD)
        .await
        .expect(200);
    (
        made.text("user_id").to_owned(),
        login.text("access_token").to_owned(),
    )
}

pub async fn set_account(server: &Server, user: &str, status: &str) {
    let path = format!("/v1/users/{user}/status");
    let call = server.put(&path).admin().json(&json!({"status": status}));
    call.send().await.expect(200);
}

pub async fn set_password(server: &Server, user: &str, password: &str) {
    let path = format!("/v1/users/{user}/password");
    let call = server.put(&path).admin().json(&json!({"password": password}));
    call.send().await.expect(200);
}

pub async fn set_email(server: &Server, user: &str, email: &str) {
    let path = format!("/v1/users/{user}/email");
    let call = server.put(&path).admin().json(&json!({"email": email}));
    call.send().await.expect(200);
}

pub async fn erase(server: &Server, user: &str) {
    let path = format!("/v1/users/{user}");
    server.delete(&path).admin().send().await.expect(200);
}

/// Ends the session of an access token; which one it was.
pub async fn log_out(server: &Server, user: &str, token: &str) -> String {
    let path = format!("/v1/users/{user}/sessions");
    let list = server.get(&path).auth(token).send().await.expect(200);
    let all = list.body["sessions"].as_array().unwrap().clone();
    let own = all.iter().find(|s| s["current"] == true).unwrap();
    let id = own["session_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/sessions/{id}");
    server.delete(&path).auth(token).send().await.expect(200);
    id
}
