//! Making, reading, changing and deleting streams, and who may.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::parties::*;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_finds_everything_from_the_issuer() {
    let server = Server::start().await;
    let path = "/.well-known/ssf-configuration";
    let found = server.get(path).send().await.expect(200);
    assert_eq!(found.headers["content-type"], "application/json");
    assert_eq!(
        found.body,
        json!({
            "spec_version": "1_0", "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/ssf/jwks.json"),
            "delivery_methods_supported": [PUSH, POLL],
            "configuration_endpoint": format!("{ISSUER}/ssf/streams"),
            "status_endpoint": format!("{ISSUER}/ssf/status"),
            "verification_endpoint": format!("{ISSUER}/ssf/verification"),
            "authorization_schemes": [{"spec_urn": "urn:ietf:rfc:6749"}], "default_subjects": "ALL",
            "critical_subject_members": ["user", "session"],
        })
    );
    server
        .get(&format!("{path}/tenant"))
        .send()
        .await
        .problem(404, "route-not-found");
    server.stop().await;
    let server = Server::start_with(|c| c.issuer = "https://id.example.com/realms/one".to_owned()).await;
    let found = server.get(&format!("{path}/realms/one")).send().await.expect(200);
    assert_eq!(found.body["issuer"], "https://id.example.com/realms/one");
    assert_eq!(
        found.body["status_endpoint"],
        "https://id.example.com/realms/one/ssf/status"
    );
    for other in [path.to_owned(), format!("{path}/realms"), format!("{path}/two")] {
        server.get(&other).send().await.problem(404, "route-not-found");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_made_read_changed_replaced_and_deleted() {
    let server = Server::start().await;
    let key = key(&server, &["ssf.manage"]).await;
    let read = async |query: &str| {
        let path = format!("{STREAMS}{query}");
        server.get(&path).auth(&key).send().await
    };
    assert_eq!(read("").await.expect(200).body, json!([]));
    let mut requested = uris(&["caep/session-revoked"]);
    requested.push("https://example.com/a-type-of-another-transmitter".to_owned());
    let body = json!({
        "delivery": {"method": PUSH, "endpoint_url": "https://receiver.example.com/events",
            "authorization_header": "Bearer hush"},
        "events_requested": requested, "description": "for the gateway", "format": "email",
    });
    let made = server
        .post(STREAMS)
        .auth(&key)
        .json(&body)
        .send()
        .await
        .expect(201);
    let id = made.text("stream_id").to_owned();
    let mut known = json!({
        "stream_id": id, "iss": ISSUER, "aud": made.body["aud"], "description": "for the gateway",
        "events_supported": made.body["events_supported"], "events_requested": requested,
        "events_delivered": uris(&["caep/session-revoked"]), "min_verification_interval": 10,
        "delivery": {"method": PUSH, "endpoint_url": "https://receiver.example.com/events"},
    });
    known["events_requested"]
        .as_array_mut()
        .unwrap()
        .sort_by_key(Value::to_string);
    assert_eq!(made.body, known);
    assert_eq!(made.body["events_supported"].as_array().unwrap().len(), 6);
    let query = format!("?stream_id={id}");
    assert_eq!(read(&query).await.expect(200).body, known);
    assert_eq!(read("").await.expect(200).body, json!([known]));
    // The header stands in the log, but not in the clear.
    let shown = read("").await.body.to_string();
    assert!(
        !shown.contains("hush") && !shown.contains("authorization"),
        "{shown}"
    );

    let change =
        async |method: Method, body: Value| server.call(method, STREAMS).auth(&key).json(&body).send().await;
    let patched = change(
        Method::PATCH,
        json!({"stream_id": id, "events_requested": uris(&ALL), "iss": ISSUER, "aud": [known["aud"]],
            "events_delivered": known["events_delivered"]}),
    )
    .await
    .expect(200);
    assert_eq!(patched.body["events_delivered"].as_array().unwrap().len(), 6);
    assert_eq!(
        (&patched.body["description"], &patched.body["delivery"]),
        (&known["description"], &known["delivery"])
    );
    let replaced = change(
        Method::PUT,
        json!({"stream_id": id, "delivery": {"method": POLL}}),
    )
    .await
    .expect(200);
    assert_eq!(
        replaced.body,
        json!({
            "stream_id": id, "iss": ISSUER, "aud": known["aud"], "events_supported": known["events_supported"],
            "events_requested": [], "events_delivered": [], "min_verification_interval": 10,
            "delivery": {"method": POLL, "endpoint_url": format!("{ISSUER}/ssf/poll/{id}")},
        })
    );
    for body in [
        json!({"stream_id": id, "iss": "https://other.example.com"}),
        json!({"stream_id": id, "aud": "somebody else"}),
        json!({"stream_id": id, "events_supported": []}),
        json!({"stream_id": id, "events_delivered": uris(&ALL)}),
        json!({"stream_id": id, "min_verification_interval": 1}),
    ] {
        let member = body
            .as_object()
            .unwrap()
            .keys()
            .find(|k| *k != "stream_id")
            .unwrap();
        let refused = change(Method::PATCH, body.clone()).await;
        let refused = refused.problem(400, "invalid-stream");
        assert_eq!(refused.body["errors"][0]["field"], json!(member));
    }
    let delete = async |query: &str| {
        let path = format!("{STREAMS}{query}");
        server.delete(&path).auth(&key).send().await
    };
    delete("").await.problem(400, "invalid-stream");
    delete(&query).await.expect(204);
    delete(&query).await.problem(404, "stream-not-found");
    read(&query).await.problem(404, "stream-not-found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_named() {
    let server = Server::start().await;
    let key = key(&server, &["ssf.manage"]).await;
    let push = |url: &str| json!({"delivery": {"method": PUSH, "endpoint_url": url}});
    let header = |text: &str| json!({"delivery": {"method": PUSH, "endpoint_url": "https://example.com/", "authorization_header": text}});
    for (body, member) in [
        (
            json!({"delivery": {"method": "urn:ietf:rfc:0"}}),
            "delivery.method",
        ),
        (json!({"delivery": {}}), "delivery.method"),
        (json!({"delivery": "push"}), "delivery"),
        (json!({"delivery": {"method": PUSH}}), "delivery.endpoint_url"),
        (
            json!({"delivery": {"method": POLL, "endpoint_url": "https://example.com/"}}),
            "delivery.endpoint_url",
        ),
        (
            json!({"delivery": {"method": POLL, "authorization_header": "x"}}),
            "delivery.authorization_header",
        ),
        (header(""), "delivery.authorization_header"),
        (header("Bearer a\r\nx: y"), "delivery.authorization_header"),
        (header(&"x".repeat(5000)), "delivery.authorization_header"),
        (json!({"events_requested": "all"}), "events_requested"),
        (json!({"events_requested": [1]}), "events_requested[0]"),
        (json!({"events_requested": [""]}), "events_requested"),
        (json!({"description": "a\u{0}b"}), "description"),
        (json!({"stream_id": "x"}), "stream_id"),
        (json!({"iss": ISSUER}), "iss"),
        // Where nothing may be posted.
        (push("http://example.com/"), "delivery.endpoint_url"),
        (push("https://127.0.0.1/"), "delivery.endpoint_url"),
        (push("https://0x7f.1/"), "delivery.endpoint_url"),
        (push("https://[::ffff:10.0.0.1]/"), "delivery.endpoint_url"),
        (push("https://169.254.169.254/latest"), "delivery.endpoint_url"),
        (push("https://user:secret@example.com/"), "delivery.endpoint_url"),
        (push("example.com"), "delivery.endpoint_url"),
    ] {
        let refused = server.post(STREAMS).auth(&key).json(&body).send().await;
        let refused = refused.problem(400, "invalid-stream");
        assert_eq!(refused.body["errors"][0]["field"], member, "{body}");
        assert!(!refused.body.to_string().contains("secret"), "{}", refused.body);
    }
    let broken = server.post(STREAMS).auth(&key).raw("{").send().await;
    broken.problem(400, "malformed-json");
    let stream = server
        .post(STREAMS)
        .auth(&key)
        .json(&json!({}))
        .send()
        .await
        .expect(201);
    assert_eq!(
        stream.body["delivery"]["method"], POLL,
        "where nothing is said of it"
    );
    let id = stream.text("stream_id").to_owned();
    for (path, method, body, member) in [
        (STREAMS, Method::PATCH, json!({}), "stream_id"),
        (STREAMS, Method::PUT, json!({"stream_id": id}), "delivery"),
        (
            STATUS,
            Method::POST,
            json!({"stream_id": id, "status": "off"}),
            "status",
        ),
        (STATUS, Method::POST, json!({"stream_id": id}), "status"),
        (STATUS, Method::GET, json!({}), "stream_id"),
        (VERIFICATION, Method::POST, json!({}), "stream_id"),
        (
            VERIFICATION,
            Method::POST,
            json!({"stream_id": id, "state": "x".repeat(2000)}),
            "state",
        ),
    ] {
        let refused = server.call(method, path).auth(&key).json(&body).send().await;
        let refused = refused.problem(400, "invalid-stream");
        assert_eq!(refused.body["errors"][0]["field"], member, "{path} {body}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_its_receivers_and_the_administrators() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-purged"]).await;
    let other = key(&server, &["ssf.manage"]).await;
    let reader = key(&server, &["ssf.read"]).await;
    let stranger = key(&server, &["users:read"]).await;
    let (_, user) = person(&server, "ada").await;
    let one = format!("{STREAMS}?stream_id={}", party.id());
    let status = format!("{STATUS}?stream_id={}", party.id());
    let poll = format!("/ssf/poll/{}", party.id());
    let paused = json!({"stream_id": party.id(), "status": "paused"});
    let at_once = json!({"returnImmediately": true});
    for (token, code, slug) in [
        (&other, 404, "stream-not-found"),
        (&reader, 404, "stream-not-found"),
        (&stranger, 403, "missing-scope"),
        (&user, 403, "not-permitted"),
    ] {
        server.get(&one).auth(token).send().await.problem(code, slug);
        server.get(&status).auth(token).send().await.problem(code, slug);
        let polled = server.post(&poll).auth(token).json(&at_once).send().await;
        polled.problem(code, slug);
    }
    for call in [
        server.get(&one),
        server.post(STREAMS).json(&json!({})),
        server.post(&poll).json(&at_once),
    ] {
        call.send().await.problem(401, "missing-token");
    }
    let refused = server.post(STREAMS).auth(&reader).json(&json!({})).send().await;
    refused.problem(403, "missing-scope");
    let refused = server.post(STATUS).auth(&other).json(&paused).send().await;
    refused.problem(404, "stream-not-found");
    assert_eq!(
        server.get(STREAMS).auth(&other).send().await.expect(200).body,
        json!([])
    );
    // An administrator sees all; what they change, the receiver hears of.
    let all = server.get(STREAMS).admin().send().await.expect(200);
    assert_eq!(all.body, json!([party.stream]));
    let body = json!({"stream_id": party.id(), "status": "paused", "reason": "maintenance"});
    let paused = server.post(STATUS).admin().json(&body).send().await.expect(200);
    assert_eq!(paused.body, body);
    let (sets, _) = party.polled(&server, json!({"returnImmediately": true})).await;
    assert_eq!(
        event(&sets[0]),
        (
            "ssf/stream-updated".to_owned(),
            json!({"status": "paused", "reason": "maintenance"})
        )
    );
    assert_eq!(sets[0]["sub_id"], json!({"format": "opaque", "id": party.id()}));
    let ack = json!({"returnImmediately": true, "ack": [sets[0]["jti"]]});
    assert!(party.polled(&server, ack).await.0.is_empty());
    // What the receiver asks for itself needs no telling.
    party.set_status(&server, "enabled").await;
    assert!(party.drain(&server).await.is_empty());
    // A key that is revoked gives access to nothing.
    let keys = server.get("/v1/api-keys").admin().send().await.expect(200);
    let id = party.stream["aud"].as_str().unwrap();
    assert!(keys.body.to_string().contains(id), "aud is the key's id");
    let path = format!("/v1/api-keys/{id}");
    server.delete(&path).admin().send().await.expect(200);
    party.poll(&server, at_once).await.problem(401, "invalid-token");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_a_stream_for_a_key_that_may_only_read() {
    let server = Server::start().await;
    let reader = key(&server, &["ssf.read"]).await;
    let stranger = key(&server, &["users:read"]).await;
    let keys = server.get("/v1/api-keys").admin().send().await.expect(200);
    let id = |scope: &str| {
        let all = keys.body["api_keys"].as_array().unwrap();
        let key = all.iter().find(|key| key["scopes"] == json!([scope])).unwrap();
        key["key_id"].as_str().unwrap().to_owned()
    };
    let body = |aud: &str| json!({"aud": aud, "delivery": {"method": POLL}, "events_requested": uris(&["risc/account-disabled"])});
    for (token, aud) in [
        (None, "somebody".to_owned()),
        (None, uuid::Uuid::nil().to_string()),
        (None, id("users:read")),
        (Some(key(&server, &["ssf.manage"]).await), id("ssf.read")),
        (Some(key(&server, &["ssf.manage"]).await), id("users:read")),
    ] {
        let call = server.post(STREAMS).json(&body(&aud));
        let call = match &token {
            Some(token) => call.auth(token),
            None => call.admin(),
        };
        let refused = call.send().await.problem(400, "invalid-stream");
        // Whoever is no operator is told one thing, whatever the key.
        assert_eq!(refused.body["errors"].as_array().unwrap().len(), 1, "{aud}");
        assert_eq!(refused.body["errors"][0]["field"], "aud", "{aud}");
    }
    let made = server.post(STREAMS).admin().json(&body(&id("ssf.read")));
    let made = made.send().await.expect(201);
    let party = Party {
        key: reader,
        stream: made.body,
    };
    assert_eq!(party.stream["aud"], id("ssf.read"));
    let seen = server.get(STREAMS).auth(&party.key).send().await.expect(200);
    assert_eq!(seen.body, json!([party.stream]));
    let (user, _) = person(&server, "ada").await;
    set_account(&server, &user, "disabled").await;
    assert_eq!(kinds(&party.drain(&server).await), ["risc/account-disabled"]);
    // It reads, and no more.
    let paused = json!({"stream_id": party.id(), "status": "paused"});
    let refused = server.post(STATUS).auth(&party.key).json(&paused).send().await;
    refused.problem(403, "missing-scope");
    let one = format!("{STREAMS}?stream_id={}", party.id());
    let refused = server.delete(&one).auth(&party.key).send().await;
    refused.problem(403, "missing-scope");
    let hidden = server.get(&one).auth(&stranger).send().await;
    hidden.problem(403, "missing-scope");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_makes_no_second_stream() {
    let server = Server::start().await;
    let key = key(&server, &["ssf.manage"]).await;
    let create = async || {
        let call = server.post(STREAMS).auth(&key).with("idempotency-key", "once");
        call.json(&json!({})).send().await.expect(201).body
    };
    let first = create().await;
    assert_eq!(create().await, first);
    let all = server.get(STREAMS).auth(&key).send().await.expect(200);
    assert_eq!(all.body, json!([first]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_published_before_it_signs() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &[]).await;
    let path = "/ssf/keys";
    let refused = server.post(path).auth(&party.key).json(&json!({})).send().await;
    refused.problem(403, "missing-scope");
    let kids = async || -> Vec<Option<String>> {
        let set = jwks(&server).await;
        set.keys.iter().map(|k| k.common.key_id.clone()).collect()
    };
    let first = kids().await;
    assert_eq!(first.len(), 1);
    let replace = async || {
        server
            .post(path)
            .admin()
            .json(&json!({}))
            .send()
            .await
            .expect(200)
            .body
    };
    let made = replace().await;
    let new = made["kid"].as_str().map(str::to_owned);
    assert_eq!(kids().await, [new, first[0].clone()], "newest first");
    assert_eq!(replace().await, made, "it waits");
    party.verify(&server, "s").await.expect(204);
    let answer = party
        .poll(&server, json!({"returnImmediately": true}))
        .await
        .expect(200);
    let (_, token) = answer.body["sets"].as_object().unwrap().iter().next().unwrap();
    let header = jsonwebtoken::decode_header(token.as_str().unwrap()).unwrap();
    assert_eq!(header.kid, first[0], "not yet");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_takes_all_streams() {
    let server = Server::start().await;
    let one = key(&server, &["ssf.manage"]).await;
    let other = key(&server, &["ssf.manage"]).await;
    let create = async |key: &str| server.post(STREAMS).auth(key).json(&json!({})).send().await;
    for _ in 0..10 {
        create(&one).await.expect(201);
    }
    let refused = create(&one).await.problem(409, "too-many-streams");
    assert!(
        refused.body["detail"].as_str().unwrap().contains("10"),
        "{}",
        refused.body
    );
    create(&other).await.expect(201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_in_the_log_or_in_what_is_printed() {
    let (server, transmitting) = start(Duration::from_secs(60)).await;
    let receiver = PushReceiver::start().await;
    let party = receiver.stream(&server, &ALL).await;
    party.verify(&server, "s").await.expect(204);
    receiver.until("it works", |r| !r.taken().is_empty()).await;
    let settings = server
        .started
        .node
        .views
        .settings(&server.started.node.config.tenant);
    let shown = format!("{:?}", settings.unwrap());
    assert!(!shown.contains("hush"), "{shown}");
    let mut files = 0;
    let mut folders = vec![server.started.node.config.data_dir.join("log")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            files += 1;
            assert!(!bytes.windows(4).any(|w| w == b"hush"), "{}", path.display());
        }
    }
    assert!(files > 0);
    transmitting.abort();
    server.stop().await;
}
