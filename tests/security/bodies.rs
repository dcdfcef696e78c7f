//! Bodies and paths that say more, less or something else than they should.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use reqwest::Method;
use serde_json::{Value, json};

use crate::node::Home;
use crate::support::server::{PASSWORD, notice};

#[tokio::test(flavor = "multi_thread")]
async fn line_08_mass_assignment() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    let tokens = node.login("ada@example.com", PASSWORD).await.expect(200);
    let of = |rest: &str| format!("/v1/users/{id}{rest}");
    let before = home.log();
    let smuggled = [
        ("email_verified", json!(true)),
        ("roles", json!(["admin"])),
        ("status", json!("active")),
        ("tenant", json!("other")),
        ("id", json!("0193e0a1-7c5a-8000-8000-00000000002a")),
        ("user_id", json!("0193e0a1-7c5a-8000-8000-00000000002a")),
        ("created_at", json!("2020-01-01T00:00:00Z")),
        ("password_hash", json!("$argon2id$")),
        ("__proto__", json!({"roles": ["admin"]})),
    ];
    let registration = json!({"email": "new@example.com", "password": PASSWORD});
    let consent = json!({"granted": true, "channel": "email", "notice": notice()});
    let mut bodies = vec![
        (Method::POST, "/v1/registrations".to_owned(), registration),
        (Method::PATCH, of("/profile"), json!({"nickname": "a"})),
        (Method::PUT, of("/consents/newsletter"), consent),
        (
            Method::PUT,
            of("/password"),
            json!({"password": "nine lazy walruses", "current_password": PASSWORD}),
        ),
        (Method::PUT, of("/email"), json!({"email": "other@example.com"})),
        (
            Method::POST,
            "/v1/logins".to_owned(),
            json!({"identifier": "ada@example.com", "password": PASSWORD}),
        ),
        (
            Method::POST,
            "/v1/sessions/refresh".to_owned(),
            json!({"refresh_token": tokens.text("refresh_token")}),
        ),
    ];
    for (method, path, body) in &mut bodies {
        for (field, value) in &smuggled {
            let mut body = body.clone();
            body[*field] = value.clone();
            let mut call = node.call(method.clone(), path).json(&body);
            if path.starts_with("/v1/users") {
                call = call.auth(tokens.text("access_token"));
            }
            let refused = call.send().await.problem(422, "invalid-input");
            assert_eq!(
                refused.body["errors"][0]["field"], *field,
                "{path} {}",
                refused.body
            );
        }
    }
    // A level below, too.
    for (field, value) in &smuggled {
        let profile = json!({"given_name": "Ada", *field: value});
        let body = json!({"email": "new@example.com", "password": PASSWORD, "profile": profile});
        let call = node.post("/v1/registrations").json(&body);
        call.send().await.problem(422, "invalid-input");
    }
    assert!(before == home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn line_10_ids_that_climb_out_of_their_place() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    let before = home.log();
    for bad in [
        "../x",
        "..%2fx",
        "%2e%2e",
        "%2e%2e%2fusers",
        "..",
        "",
        "%00",
        "%0d%0a",
        "*",
        "%25",
        "null",
        "0",
        "{id}",
        "%ff",
        "..%5cx",
        ";",
        "..;",
    ] {
        for (method, rest) in [
            ("GET", ""),
            ("GET", "/consents"),
            ("GET", "/timeline"),
            ("DELETE", ""),
            ("PUT", "/plan"),
        ] {
            // Sent as it stands: a client's library would tidy the path up.
            let body = if method == "PUT" { r#"{"plan":"pro"}"# } else { "" };
            let request = format!(
                "{method} /v1/users/{bad}{rest} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
                 content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                crate::support::server::BOOTSTRAP,
                body.len()
            );
            let answer = node.raw(request.as_bytes()).await;
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(
                ["400", "404", "405"].contains(&status),
                "{method} {bad:?}{rest}: {answer}"
            );
        }
    }
    for written in [
        id.to_uppercase(),
        id.replace('-', ""),
        format!("{{{id}}}"),
        format!("urn:uuid:{id}"),
    ] {
        let answer = node.get(&format!("/v1/users/{written}")).admin().send().await;
        // Another spelling of an id is either that id or none; never somebody else.
        assert!(answer.status == 404 || answer.body["user_id"] == id, "{written}");
    }
    assert!(before == home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn class_empty_or_missing_step() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    node.register("ada@example.com").await;
    let before = home.log();
    for path in ["/v1/registrations", "/v1/logins", "/v1/sessions/refresh"] {
        for body in ["", "{}", "null", "[]", "\"\"", "0"] {
            let answer = node.post(path).raw(body).send().await;
            assert!(
                [400, 422].contains(&answer.status.as_u16()),
                "{path} {body}: {}",
                answer.body
            );
        }
    }
    for body in [
        json!({"identifier": "ada@example.com", "password": null}),
        json!({"identifier": "ada@example.com"}),
        json!({"identifier": ["ada@example.com"], "password": PASSWORD}),
        json!({"identifier": {"$ne": null}, "password": {"$ne": null}}),
    ] {
        node.post("/v1/logins")
            .json(&body)
            .send()
            .await
            .problem(422, "invalid-input");
    }
    let answer = node.refresh("").await;
    answer.problem(401, "session-ended");
    assert!(before == home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn line_39_denial_by_size() {
    let home = Home::new();
    let node = Arc::new(
        home.serve(&["--hash-max-wait", "50ms", "--hash-threads", "1"])
            .await,
    );
    node.register("ada@example.com").await;
    let before = home.log();
    let with_password =
        |n: usize| json!({"identifier": "ada@example.com", "password": "x".repeat(n)}).to_string();
    let deep = |open: &str| {
        format!(
            "{{\"email\":\"n@example.com\",\"password\":\"p\",\"profile\":{}",
            open.repeat(10_000)
        )
    };
    let many = |n: usize| {
        let keys: Value = (0..n)
            .map(|i| (i.to_string(), json!(1)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        keys.to_string()
    };
    for (path, body, statuses) in [
        ("/v1/logins", with_password(1 << 20), &[413][..]),
        ("/v1/logins", with_password(60_000), &[422]),
        (
            "/v1/registrations",
            with_password(60_000).replace("identifier", "email"),
            &[422],
        ),
        ("/v1/registrations", deep("["), &[400, 422]),
        ("/v1/registrations", deep("{\"a\":"), &[400, 422]),
        ("/v1/registrations", "[".repeat(10_000), &[400, 422]),
        ("/v1/registrations", many(100_000), &[413]),
        ("/v1/registrations", many(5_000), &[422]),
        ("/v1/registrations", " ".repeat(8 << 20), &[413]),
        (
            "/v1/registrations",
            format!("{{\"plan\":{}}}", "9".repeat(60_000)),
            &[400, 422],
        ),
        (
            "/v1/registrations",
            format!("{{\"plan\":1e{}}}", "9".repeat(60_000)),
            &[400, 422],
        ),
    ] {
        let begun = clock::monotonic();
        let answer = node.post(path).raw(body).send().await;
        assert!(
            statuses.contains(&answer.status.as_u16()),
            "{path}: {}",
            answer.body
        );
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert!(before == home.log());

    let mut flood = tokio::task::JoinSet::new();
    for i in 0..100 {
        let node = node.clone();
        flood.spawn(async move { node.login(&format!("u{i}@example.com"), "a wrong password").await });
    }
    let mut waits = Vec::new();
    while !flood.is_empty() && waits.len() < 50 {
        let begun = clock::monotonic();
        node.get("/healthz").send().await.expect(200);
        waits.push(begun.elapsed());
        while flood
            .try_join_next()
            .is_some_and(|answer| shed_or_refused(&answer.unwrap()))
        {}
    }
    while let Some(answer) = flood.join_next().await {
        shed_or_refused(&answer.unwrap());
    }
    waits.sort();
    assert!(waits[waits.len() / 2] < Duration::from_secs(5), "{waits:?}");
    node.login("ada@example.com", PASSWORD).await.expect(200);
}

fn shed_or_refused(answer: &crate::support::server::Answer) -> bool {
    match answer.status.as_u16() {
        401 => {}
        503 => assert!(answer.headers.contains_key("retry-after")),
        other => panic!("{other} {}", answer.body),
    }
    true
}
