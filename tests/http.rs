//! The HTTP API of a whole node in this process: the way of a user, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use gatelog::http::{router, serve};
use gatelog::node::Started;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use support::world::config;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const BOOTSTRAP: &str = "bootstrap-key-of-the-tests";
const PASSWORD: &str = "seven purple otters juggle";

struct Server {
    url: String,
    client: Client,
    started: Started,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    fn problem(self, status: u16, slug: &str) -> Self {
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

    fn text(&self, field: &str) -> &str {
        self.body[field]
            .as_str()
            .unwrap_or_else(|| panic!("no {field} in {}", self.body))
    }
}

struct Call(reqwest::RequestBuilder);

impl Call {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.0 = self.0.header(name, value);
        self
    }

    fn auth(self, token: &str) -> Self {
        let value = format!("Bearer {token}");
        self.with("authorization", &value)
    }

    fn admin(self) -> Self {
        self.auth(BOOTSTRAP)
    }

    fn json(mut self, body: &Value) -> Self {
        self.0 = self.0.json(body);
        self
    }

    fn raw(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.0 = self.0.header("content-type", "application/json").body(body);
        self
    }

    async fn send(self) -> Answer {
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
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.bootstrap_api_key = Some(BOOTSTRAP.to_owned().into());
        // What a hash costs is not what is tested here, and several nodes share this machine.
        config.pool.params.memory_kib = 1024;
        config.pool.max_wait = Duration::from_secs(60);
        let started = tokio::task::spawn_blocking(move || Started::open(config).unwrap())
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let served = tokio::spawn(serve(listener, router(started.node.clone()), shutdown));
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

    async fn stop(self) {
        let Self {
            client,
            started,
            stop,
            served,
            ..
        } = self;
        drop(client);
        stop.send(()).unwrap();
        served.await.unwrap().unwrap();
        started.close().await.unwrap();
    }

    fn call(&self, method: Method, path: &str) -> Call {
        Call(self.client.request(method, format!("{}{path}", self.url)))
    }

    fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    async fn register(&self, email: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD});
        let answer = self
            .post("/v1/registrations")
            .json(&body)
            .send()
            .await
            .expect(201);
        answer.text("user_id").to_owned()
    }

    async fn login(&self, email: &str, password: &str) -> Answer {
        let body = json!({"identifier": email, "password": password});
        self.post("/v1/logins").json(&body).send().await
    }
}

fn notice() -> Value {
    json!({"id": "privacy", "version": "3", "language": "de"})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_of_a_user() {
    let server = Server::start().await;
    let registration = json!({
        "email": "Ada@Example.com", "password": PASSWORD, "locale": "de-CH",
        "profile": {"given_name": "Ada", "family_name": "Lovelace"}, "plan": "free",
        "consents": [{"purpose": "newsletter", "channel": "email", "granted": true, "notice": notice()}],
    });
    let registered = server
        .post("/v1/registrations")
        .with("idempotency-key", "\"r1\"")
        .json(&registration)
        .send()
        .await
        .expect(201);
    let again = server
        .post("/v1/registrations")
        .with("idempotency-key", "r1")
        .json(&registration)
        .send()
        .await
        .expect(201);
    assert_eq!(registered.body, again.body);
    assert_eq!(
        registered.headers["gatelog-position"],
        registered.text("position")
    );
    let id = registered.text("user_id").to_owned();
    let of = |rest: &str| format!("/v1/users/{id}{rest}");

    let tokens = server.login("ADA@example.com", PASSWORD).await.expect(200);
    let token = tokens.text("access_token").to_owned();
    assert_eq!(
        (tokens.text("user_id"), tokens.text("token_type")),
        (id.as_str(), "Bearer")
    );

    let consent = json!({"granted": false, "channel": "email", "notice": notice()});
    let withdrawn = server
        .put(&of("/consents/newsletter"))
        .auth(&token)
        .json(&consent)
        .send()
        .await
        .expect(200);
    let plan = json!({"plan": "pro", "reason": "test"});
    let upgraded = server
        .put(&of("/plan"))
        .admin()
        .json(&plan)
        .send()
        .await
        .expect(200);
    let patch = json!({"nickname": "Countess", "family_name": null, "locale": "en"});
    server
        .call(Method::PATCH, &of("/profile"))
        .auth(&token)
        .json(&patch)
        .send()
        .await
        .expect(200);
    server.put(&of("/roles/author")).admin().send().await.expect(200);

    let user = server
        .get(&of(""))
        .auth(&token)
        .with("gatelog-min-position", upgraded.text("position"))
        .send()
        .await;
    let user = user.expect(200);
    assert_eq!(user.headers["cache-control"], "no-store");
    assert_eq!(user.body["email"], "Ada@Example.com");
    assert_eq!(user.body["locale"], "en");
    assert_eq!(
        user.body["profile"],
        json!({"given_name": "Ada", "nickname": "Countess"})
    );
    assert_eq!(user.body["plan"]["name"], "pro");
    assert_eq!(
        user.body["entitlements"],
        json!(["app", "export", "priority_support"])
    );
    assert_eq!(user.body["roles"], json!(["author"]));
    assert_eq!(user.body["consents"]["newsletter"]["granted"], false);
    assert!(user.body["last_login_at"].is_string());
    let found = server
        .get("/v1/users?email=ada%40EXAMPLE.com")
        .admin()
        .send()
        .await
        .expect(200);
    assert_eq!(found.body["users"][0]["user_id"], id);

    let ledger = server
        .get(&of("/consents?limit=1"))
        .auth(&token)
        .with("gatelog-min-position", withdrawn.text("position"))
        .send()
        .await
        .expect(200);
    assert_eq!(ledger.body["history"].as_array().unwrap().len(), 1);
    let next = ledger.text("next");
    let rest = server
        .get(&of(&format!("/consents?after={next}")))
        .auth(&token)
        .send()
        .await
        .expect(200);
    assert_eq!(rest.body["history"][0]["granted"], false);
    assert_eq!(rest.body["next"], Value::Null);
    let misused = server
        .get(&of(&format!("/timeline?after={next}")))
        .auth(&token)
        .send()
        .await;
    misused.problem(400, "invalid-cursor");

    let timeline = server.get(&of("/timeline")).auth(&token).send().await.expect(200);
    let types: Vec<_> = timeline.body["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["type"].clone())
        .collect();
    assert!(
        types.contains(&json!("com.gatelog.plan.upgraded.v1")),
        "{types:?}"
    );
    let statistics = server.get("/v1/statistics").admin().send().await.expect(200);
    assert_eq!(statistics.body["days"][0]["counters"]["registrations"], 1);

    server.delete(&of("")).auth(&token).send().await.expect(200);
    server
        .get(&of(""))
        .admin()
        .send()
        .await
        .problem(404, "user-not-found");
    server
        .get(&of(""))
        .auth(&token)
        .send()
        .await
        .problem(401, "invalid-token");
    server
        .login("ada@example.com", PASSWORD)
        .await
        .problem(401, "invalid-credentials");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_when_they_should() {
    let server = Server::start().await;
    let id = server.register("eve@example.com").await;
    let refresh = async |token: &str, key: &str| {
        let body = json!({"refresh_token": token});
        server
            .post("/v1/sessions/refresh")
            .with("idempotency-key", key)
            .json(&body)
            .send()
            .await
    };
    let first = server.login("eve@example.com", PASSWORD).await.expect(200);
    let second = refresh(first.text("refresh_token"), "a").await.expect(200);
    let again = refresh(first.text("refresh_token"), "a").await.expect(200);
    assert_eq!(second.text("refresh_token"), again.text("refresh_token"));
    assert_ne!(second.text("refresh_token"), first.text("refresh_token"));
    refresh(first.text("refresh_token"), "b")
        .await
        .problem(401, "session-ended");
    refresh(second.text("refresh_token"), "c")
        .await
        .problem(401, "session-ended");
    let me = |token: &str| server.get(&format!("/v1/users/{id}")).auth(token);
    me(second.text("access_token"))
        .send()
        .await
        .problem(401, "invalid-token");

    let tokens = server.login("eve@example.com", PASSWORD).await.expect(200);
    let (token, session) = (tokens.text("access_token"), tokens.text("session_id"));
    let list = server
        .get(&format!("/v1/users/{id}/sessions"))
        .auth(token)
        .send()
        .await
        .expect(200);
    let listed = list.body["sessions"].as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[0]["current"], &listed[0]["active"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(listed[1]["end_reason"], "refresh_token_reused");
    server
        .delete(&format!("/v1/sessions/{session}"))
        .admin()
        .send()
        .await
        .problem(400, "invalid-query");
    server
        .delete(&format!("/v1/sessions/{session}"))
        .auth(token)
        .send()
        .await
        .expect(200);
    me(token).send().await.problem(401, "invalid-token");

    let tokens = server.login("eve@example.com", PASSWORD).await.expect(200);
    let put = |body: Value| {
        server
            .put(&format!("/v1/users/{id}/password"))
            .auth(tokens.text("access_token"))
            .json(&body)
    };
    let next = "nine lazy walruses sing";
    put(json!({"password": next}))
        .send()
        .await
        .problem(422, "invalid-input");
    let wrong = json!({"password": next, "current_password": "eight lazy walruses"});
    put(wrong).send().await.problem(403, "wrong-password");
    put(json!({"password": next, "current_password": PASSWORD}))
        .send()
        .await
        .expect(200);
    me(tokens.text("access_token"))
        .send()
        .await
        .problem(401, "invalid-token");
    server
        .login("eve@example.com", PASSWORD)
        .await
        .problem(401, "invalid-credentials");
    let tokens = server.login("eve@example.com", next).await.expect(200);

    let status = |s: &str| {
        server
            .put(&format!("/v1/users/{id}/status"))
            .admin()
            .json(&json!({"status": s}))
    };
    status("disabled").send().await.expect(200);
    me(tokens.text("access_token"))
        .send()
        .await
        .problem(401, "invalid-token");
    server
        .login("eve@example.com", next)
        .await
        .problem(401, "invalid-credentials");
    status("active").send().await.expect(200);
    server.login("eve@example.com", next).await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_have_one_owner() {
    let server = Server::start().await;
    let ada = server.register("ada@example.com").await;
    let bob = server.register("bob@example.com").await;
    let body = json!({"email": "ADA@example.com", "password": PASSWORD});
    server
        .post("/v1/registrations")
        .json(&body)
        .send()
        .await
        .problem(409, "address-taken");
    let change = |id: &str, email: &str| {
        server
            .put(&format!("/v1/users/{id}/email"))
            .admin()
            .with("idempotency-key", &format!("{id}{email}"))
            .json(&json!({"email": email}))
    };
    change(&bob, "ada@example.com")
        .send()
        .await
        .problem(409, "address-taken");
    let first = change(&bob, "robert@example.org").send().await.expect(200);
    let again = change(&bob, "robert@example.org").send().await.expect(200);
    assert_eq!(first.body, again.body);
    server.login("robert@example.org", PASSWORD).await.expect(200);
    server
        .login("bob@example.com", PASSWORD)
        .await
        .problem(401, "invalid-credentials");
    change(&ada, "bob@example.com").send().await.expect(200);
    server.login("bob@example.com", PASSWORD).await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_do_what_they_may() {
    let server = Server::start().await;
    let ada = server.register("ada@example.com").await;
    let bob = server.register("bob@example.com").await;
    let token = server
        .login("ada@example.com", PASSWORD)
        .await
        .expect(200)
        .text("access_token")
        .to_owned();
    let foreign = server
        .get(&format!("/v1/users/{bob}"))
        .auth(&token)
        .send()
        .await
        .problem(404, "user-not-found");
    let unknown = "0193e0a1-7c5a-8000-8000-00000000002a";
    let unknown = server
        .get(&format!("/v1/users/{unknown}"))
        .auth(&token)
        .send()
        .await
        .problem(404, "user-not-found");
    assert_eq!(foreign.body, unknown.body);
    server
        .get("/v1/users/not-an-id")
        .auth(&token)
        .send()
        .await
        .problem(404, "user-not-found");
    server
        .get(&format!("/v1/users/{ada}"))
        .send()
        .await
        .problem(401, "missing-token");
    server
        .get(&format!("/v1/users/{ada}"))
        .auth("glk_x")
        .send()
        .await
        .problem(401, "invalid-token");
    let forged = format!("{}x", token);
    server
        .get(&format!("/v1/users/{ada}"))
        .auth(&forged)
        .send()
        .await
        .problem(401, "invalid-token");
    server
        .put(&format!("/v1/users/{ada}/plan"))
        .auth(&token)
        .json(&json!({"plan": "pro"}))
        .send()
        .await
        .problem(403, "not-permitted");

    let create = |by: &str, scopes: Value| {
        server
            .post("/v1/api-keys")
            .auth(by)
            .json(&json!({"name": "k", "scopes": scopes}))
    };
    let key = create(BOOTSTRAP, json!(["users:read", "api-keys:write"]))
        .with("idempotency-key", "k1")
        .send()
        .await
        .expect(201);
    let again = create(BOOTSTRAP, json!(["users:read", "api-keys:write"]))
        .with("idempotency-key", "k1")
        .send()
        .await
        .expect(201);
    assert_eq!(key.body, again.body);
    create(BOOTSTRAP, json!(["*"]))
        .with("idempotency-key", "k1")
        .send()
        .await
        .problem(422, "idempotency-key-reused");
    let secret = key.text("api_key");
    server
        .get(&format!("/v1/users/{bob}"))
        .auth(secret)
        .send()
        .await
        .expect(200);
    server
        .delete(&format!("/v1/users/{bob}"))
        .auth(secret)
        .send()
        .await
        .problem(403, "missing-scope");
    create(secret, json!(["users:write"]))
        .send()
        .await
        .problem(403, "scope-not-held");
    create(secret, json!(["*"]))
        .send()
        .await
        .problem(403, "scope-not-held");
    create(secret, json!(["nonsense"]))
        .send()
        .await
        .problem(422, "invalid-input");
    create(secret, json!(["users:read"])).send().await.expect(201);
    server
        .delete(&format!("/v1/api-keys/{}", key.text("key_id")))
        .admin()
        .send()
        .await
        .expect(200);
    server
        .get(&format!("/v1/users/{bob}"))
        .auth(secret)
        .send()
        .await
        .problem(401, "invalid-token");
    let listed = server.get("/v1/api-keys").admin().send().await.expect(200);
    assert!(!listed.body.to_string().contains("sha256"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_a_problem_and_writes_nothing() {
    let server = Server::start().await;
    let ends = async || {
        let mut ends = Vec::new();
        for stream in gatelog_events::ids::Stream::ALL {
            for p in 0..server.started.node.log.partitions() {
                ends.push(
                    server
                        .started
                        .node
                        .log
                        .end(stream, gatelog_events::ids::Partition(p))
                        .await
                        .unwrap(),
                );
            }
        }
        ends
    };
    let id = server.register("ada@example.com").await;
    let before = ends().await;
    let register = |body: &str| server.post("/v1/registrations").raw(body.to_owned());
    let with = |field: &str, value: Value| {
        let mut body = json!({"email": "new@example.com", "password": PASSWORD});
        body[field] = value;
        body.to_string()
    };
    register("{\"email\":")
        .send()
        .await
        .problem(400, "malformed-json");
    register(r#"{"email":"\ud800"}"#)
        .send()
        .await
        .problem(400, "malformed-json");
    register(&with("roles", json!(["admin"])))
        .send()
        .await
        .problem(422, "invalid-input");
    register(&with("email", json!(7)))
        .send()
        .await
        .problem(422, "invalid-input");
    for email in [
        "nobody",
        "a@b@c.test",
        "a\u{0}@example.com",
        "ada\u{202e}@example.com",
    ] {
        register(&with("email", json!(email)))
            .send()
            .await
            .problem(422, "invalid-input");
    }
    for name in ["a\u{0}b", "evil\u{202e}", &"x".repeat(10_000)] {
        register(&with("profile", json!({"given_name": name})))
            .send()
            .await
            .problem(422, "invalid-input");
    }
    register(&with("profile", json!({"given_name": "x".repeat(1 << 20)})))
        .send()
        .await
        .problem(413, "body-too-large");
    register(&" ".repeat(8 << 20))
        .send()
        .await
        .problem(413, "body-too-large");
    register(&with("password", json!("x7 k".repeat(2500))))
        .send()
        .await
        .problem(422, "password-not-accepted");
    register(&with("password", json!("short")))
        .send()
        .await
        .problem(422, "password-not-accepted");
    register(&with("password", json!("new@example.com1")))
        .send()
        .await
        .problem(422, "password-not-accepted");
    register(&with("plan", json!("platinum")))
        .send()
        .await
        .problem(422, "unknown-plan");
    register(&with("locale", json!("german!")))
        .send()
        .await
        .problem(422, "invalid-input");
    let consent = json!([{"purpose": "newsletter", "channel": "email", "granted": true}]);
    let refused = register(&with("consents", consent))
        .send()
        .await
        .problem(422, "invalid-input");
    assert_eq!(refused.body["errors"][0]["field"], "consents[0].notice");
    let consent = json!([{"purpose": "nonsense", "channel": "email", "granted": true, "notice": notice()}]);
    register(&with("consents", consent))
        .send()
        .await
        .problem(422, "unknown-purpose");
    let mut plain = server.post("/v1/registrations");
    plain.0 = plain.0.body("email=a");
    plain.send().await.problem(415, "unsupported-media-type");
    register(&with("email", json!("x@example.com")))
        .with("idempotency-key", "a b")
        .send()
        .await
        .problem(400, "invalid-header");
    server
        .get("/v1/nothing")
        .send()
        .await
        .problem(404, "route-not-found");
    let refused = server
        .put("/v1/registrations")
        .send()
        .await
        .problem(405, "method-not-allowed");
    assert!(refused.headers.contains_key("allow"));
    let of = |rest: &str| server.get(&format!("/v1/users/{id}{rest}")).admin();
    of("/timeline?after=AAAA")
        .send()
        .await
        .problem(400, "invalid-cursor");
    of("/timeline?limit=0").send().await.problem(400, "invalid-query");
    of("/timeline?colour=red")
        .send()
        .await
        .problem(400, "invalid-query");
    of("")
        .with("gatelog-min-position", "nowhere")
        .send()
        .await
        .problem(400, "invalid-header");
    let far = of("")
        .with("gatelog-min-position", "identity:0:99999999")
        .send()
        .await
        .problem(412, "position-not-reached");
    assert!(far.body["projection"].is_string() && far.body["next_offset"].is_u64());
    server
        .get("/v1/statistics?from=yesterday")
        .admin()
        .send()
        .await
        .problem(400, "invalid-query");
    server
        .get("/v1/users?email=nobody")
        .admin()
        .send()
        .await
        .problem(400, "invalid-query");
    assert_eq!(before, ends().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_alike_for_known_and_unknown() {
    let server = Server::start().await;
    server.register("ada@example.com").await;
    let mut answers = Vec::new();
    for email in ["ada@example.com", "nobody@example.com"] {
        let mut statuses = Vec::new();
        let mut bodies = Vec::new();
        for _ in 0..6 {
            let answer = server.login(email, "a wrong password it is").await;
            let mut names: Vec<_> = answer.headers.keys().map(|n| n.as_str().to_owned()).collect();
            names.sort();
            statuses.push(answer.status.as_u16());
            bodies.push((answer.body, names));
        }
        assert_eq!(statuses, [401, 401, 401, 401, 401, 429]);
        answers.push(bodies);
    }
    assert_eq!(answers[0], answers[1]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_they_need() {
    let server = Server::start().await;
    server.register("ada@example.com").await;
    server.get("/healthz").send().await.expect(200);
    let mut ready = server.get("/readyz").send().await;
    for _ in 0..100 {
        if ready.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        ready = server.get("/readyz").send().await;
    }
    let ready = ready.expect(200);
    assert!(
        ready.body["projections"].as_array().unwrap().len() >= 9,
        "{}",
        ready.body
    );
    let metrics = server.get("/metrics").send().await.expect(200);
    let text = metrics.body.as_str().unwrap();
    for series in [
        "gatelog_http_request_duration_seconds_bucket{method=\"POST\",route=\"/v1/registrations\",status=\"201\"",
        "gatelog_projection_lag_records{projection=\"users\"}",
        "gatelog_password_queue_jobs",
    ] {
        assert!(text.contains(series), "{series} is not in\n{text}");
    }
    assert!(!text.contains("ada"));
    let jwks = server.get("/.well-known/jwks.json").send().await.expect(200);
    assert_eq!(jwks.body["keys"].as_array().unwrap().len(), 1);
    assert_eq!(
        server.get("/openapi.json").send().await.expect(200).body["openapi"],
        "3.1.0"
    );
    let docs = server.get("/docs/").send().await.expect(200);
    assert!(
        docs.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("'self'")
    );
    assert!(!docs.body.as_str().unwrap().contains("https://"));
    assert!(server.get("/").send().await.status.is_redirection());
    let id = "0193e0a1-7c5a-4000-8000-00000000002a";
    assert_eq!(
        server
            .get("/healthz")
            .with("x-request-id", id)
            .send()
            .await
            .headers["x-request-id"],
        id
    );

    server
        .post("/v1/projections/users/rebuild")
        .admin()
        .send()
        .await
        .expect(202);
    server
        .post("/v1/projections/nonsense/rebuild")
        .admin()
        .send()
        .await
        .problem(404, "projection-not-found");
    loop {
        let list = server.get("/v1/projections").admin().send().await.expect(200);
        let users = list.body["projections"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["name"] == "users")
            .unwrap()
            .clone();
        if users["rebuild"]["status"] == "done" {
            break;
        }
        assert_eq!(users["rebuild"]["status"], "running");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}
