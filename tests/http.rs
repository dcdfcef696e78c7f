//! The HTTP API of a whole node: the way of a user, their sessions and address, and what operators see.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use support::server::{PASSWORD, Server, notice};

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

    let timeline = server
        .get(&of("/timeline"))
        .auth(&token)
        .with("gatelog-min-position", upgraded.text("position"))
        .send()
        .await
        .expect(200);
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
    let (mut paged, mut query) = (Vec::new(), "limit=1".to_owned());
    loop {
        let path = format!("/v1/users/{id}/sessions?{query}");
        let page = server.get(&path).auth(token).send().await.expect(200);
        paged.extend(page.body["sessions"].as_array().unwrap().clone());
        let Some(next) = page.body["next"].as_str() else {
            break;
        };
        query = format!("limit=1&after={next}");
    }
    assert_eq!(&paged, listed);
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
async fn operators_see_what_they_need() {
    let server = Server::start().await;
    server.register("ada@example.com").await;
    server.get("/healthz").send().await.expect(200);
    let mut ready = server.get("/readyz").send().await;
    for _ in 0..3000 {
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
