//! The HTTP API of a whole node: what is refused, and how.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::server::{BOOTSTRAP, PASSWORD, Server, notice};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

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
    // It is waited for a position that is never reached.
    let server = Server::start_with(|c| c.min_position_wait = Duration::from_millis(500)).await;
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

/// A node that lets nobody try again while a busy machine gets to the next attempt.
async fn slowing() -> Server {
    Server::start_with(|c| c.account_limits.base = Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_alike_for_known_and_unknown() {
    let server = slowing().await;
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
async fn an_operator_lifts_a_lock() {
    let server = slowing().await;
    let id = server.register("ada@example.com").await;
    for _ in 0..6 {
        server.login("ada@example.com", "a wrong password it is").await;
    }
    server.login("ada@example.com", PASSWORD).await.expect(429);
    let path = format!("/v1/users/{id}/lock");
    server.delete(&path).send().await.expect(401);
    server.delete(&path).admin().send().await.expect(200);
    server.login("ada@example.com", PASSWORD).await.expect(200);
    server.stop().await;
}

/// Each operation of the OpenAPI document: its method, its path with `filled` for each parameter, and what is said of it.
async fn operations(server: &Server, filled: &str) -> Vec<(Method, String, Value)> {
    let document = server.get("/openapi.json").send().await.expect(200).body;
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let parts = path.split('/');
        let parts = parts.map(|part| if part.starts_with('{') { filled } else { part });
        let path = parts.collect::<Vec<_>>().join("/");
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            found.push((method, path.clone(), operation.clone()));
        }
    }
    found
}

/// A header that is not valid is refused wherever it is taken, before anything is done.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_the_headers_that_are_taken() {
    // These refuse a key that is not valid, and have no use for one that is.
    const NEED_NO_KEY: [&str; 3] = ["/v1/unsubscribe/", "/v1/preferences/", "/dead-letters/redrive"];
    let server = Server::start().await;
    let id = server.register("ada@example.com").await;
    let mut taken = Vec::new();
    for (method, path, operation) in operations(&server, &id).await {
        for header in ["Gatelog-Min-Position", "Idempotency-Key"] {
            let call = server.call(method.clone(), &path).admin();
            let answer = call.with(header, "not valid").send().await;
            let is_refused = answer.status == 400 && answer.body["errors"][0]["field"] == header;
            let mut parameters = operation["parameters"].as_array().into_iter().flatten();
            let is_named = parameters.any(|p| p["name"] == header);
            let needs_none =
                header == "Idempotency-Key" && NEED_NO_KEY.iter().any(|part| path.contains(part));
            assert_eq!(
                is_refused,
                is_named || needs_none && method == Method::POST,
                "{method} {path} {header}: {}",
                answer.body
            );
            taken.extend(is_named.then_some(header));
        }
    }
    for header in ["Gatelog-Min-Position", "Idempotency-Key"] {
        let times = taken.iter().filter(|h| **h == header).count();
        assert!(times > 20, "{header}: {times}");
    }
    server
        .get(&format!("/v1/users/{id}"))
        .admin()
        .send()
        .await
        .expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_text_is_a_problem_everywhere() {
    let server = Server::start().await;
    let mut calls = vec![(
        Method::GET,
        "/.well-known/ssf-configuration/%FF".to_owned(),
        Value::Null,
    )];
    calls.extend(operations(&server, "%FF").await);
    calls.retain(|(_, path, _)| path.contains("%FF"));
    assert!(calls.len() > 30, "{}", calls.len());
    for (method, path, _) in calls {
        let answer = server.call(method.clone(), &path).admin().send().await;
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
        assert_eq!(
            answer.headers["content-type"], "application/problem+json",
            "{method} {path}: {}",
            answer.body
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_no_request_comes_is_closed() {
    let limit = Duration::from_millis(300);
    let server = Server::start_with(|c| c.header_timeout = limit).await;
    let address = server.url().trim_start_matches("http://").to_owned();
    let request = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (what, sent) in [
        ("nothing", ""),
        ("half a head", "GET /healthz HTTP/1.1\r\nhost: loc"),
        ("a whole request, and then nothing", request),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let closed = stream.read_to_string(&mut answer);
        let closed = tokio::time::timeout(Duration::from_secs(20), closed).await;
        closed.unwrap_or_else(|_| panic!("{what}: still open")).unwrap();
        assert_eq!(
            answer.starts_with("HTTP/1.1 200"),
            sent == request,
            "{what}: {answer}"
        );
    }
    // Whoever goes on asking keeps the connection for longer than that.
    let mut stream = BufReader::new(TcpStream::connect(&address).await.unwrap());
    let begun = gatelog_events::clock::monotonic();
    while begun.elapsed() < 3 * limit {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        while !line.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "closed: {line}");
        }
        let length = line.split("content-length: ").nth(1).unwrap();
        let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_not_for_the_taking() {
    let server = Server::start().await;
    let with_plan =
        |plan: &str| json!({"email": format!("{plan}@example.com"), "password": PASSWORD, "plan": plan});
    let refused = server
        .post("/v1/registrations")
        .json(&with_plan("enterprise"))
        .send()
        .await
        .problem(422, "invalid-input");
    assert_eq!(refused.body["errors"][0]["field"], "plan");
    let free = server.post("/v1/registrations").json(&with_plan("free"));
    free.send().await.expect(201);
    let call = server.post("/v1/registrations").admin();
    call.json(&with_plan("enterprise")).send().await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_tokens_fits_into_them() {
    let server = Server::start().await;
    let many = |n: usize, length: usize| -> Vec<String> {
        (0..n)
            .map(|i| format!("{i:03}{}", "e".repeat(length - 3)))
            .collect()
    };
    let define = async |entitlements: Vec<String>| {
        let plan = json!({"rank": 0, "entitlements": entitlements});
        let call = server.put("/v1/settings/plans/free").admin().json(&plan);
        call.send().await
    };
    define(many(100, 64)).await.problem(422, "invalid-input");
    define(many(31, 64)).await.expect(200);
    let id = server.register("ada@example.com").await;
    let grant = async |role: &str| {
        let call = server.put(&format!("/v1/users/{id}/roles/{role}")).admin();
        call.send().await
    };
    for role in many(31, 64) {
        grant(&role).await.expect(200);
    }
    let refused = grant(&"r".repeat(64)).await.problem(422, "invalid-input");
    assert_eq!(refused.body["errors"][0]["field"], "role");
    // One that is there already is there already.
    grant(&many(31, 64)[0]).await.expect(200);
    server.login("ada@example.com", PASSWORD).await.expect(200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_of_the_right_kind() {
    let server = Server::start().await;
    let id = server.register("ada@example.com").await;
    // An erasure whose answer was lost.
    let erase = async || {
        let call = server.delete(&format!("/v1/users/{id}")).admin();
        let answer = call.with("idempotency-key", "erase-1").send().await.expect(200);
        answer.text("position").to_owned()
    };
    assert_eq!(erase().await, erase().await);
    let other = server.register("other@example.com").await;
    let nobody = uuid::Uuid::from_u128(42);
    let unlock = server.delete(&format!("/v1/users/{nobody}/lock")).admin();
    unlock.send().await.problem(404, "user-not-found");
    // What is no key and no token is told so, and not waited with.
    let call = server.get(&format!("/v1/users/{other}")).auth("nonsense");
    let far = call.with("gatelog-min-position", "identity:0:18446744073709551615");
    far.send().await.problem(401, "invalid-token");
    let scopes = json!({"name": "k", "scopes": ["feeds:read:News letter"]});
    let call = server.post("/v1/api-keys").admin().json(&scopes);
    call.send().await.problem(422, "invalid-input");
    server.stop().await;
}
