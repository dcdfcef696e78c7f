//! What must not be found: in output, in files, after an erasure, at a first start.

use std::os::unix::fs::PermissionsExt;

use gatelog::node::Started;
use gatelog_events::email::Email;
use reqwest::Method;
use serde_json::json;

use crate::node::{Home, contains};
use crate::support::server::{PASSWORD, notice};
use crate::support::world;

/// Every line one record, and no character that would act on a terminal.
#[track_caller]
fn assert_tidy(printed: &str) {
    for line in printed.lines() {
        let record: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(record.is_ok_and(|r| r.is_object()), "not one record: {line:?}");
    }
    let acts = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!printed.contains(acts));
}

#[tokio::test(flavor = "multi_thread")]
async fn line_38_log_injection() {
    let home = Home::new();
    let node = home.serve(&["--log-level", "trace"]).await;
    let id = node.register("ada@example.com").await;
    let hostile = [
        "a\u{2028}b\u{2029}c",
        "\u{202e}gnp.exe\u{2066}",
        "\u{1b}[2J\u{1b}[31mred",
        "\u{9b}2J",
        "x\r\n{\"level\":\"INFO\",\"message\":\"ready\"}",
        "x\n{\"level\":\"INFO\"}",
        "tab\tbell\u{7}back\u{8}nul\0",
    ];
    for text in hostile {
        for header in [
            "user-agent",
            "idempotency-key",
            "x-request-id",
            "gatelog-min-position",
            "authorization",
            "cookie",
            "host",
        ] {
            let body = r#"{"identifier":"ada@example.com","password":"wrong wrong"}"#;
            let mut request =
                b"POST /v1/logins HTTP/1.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
                    .to_vec();
            request
                .extend(format!("content-length: {}\r\n{header}: {text}\r\n\r\n{body}", body.len()).bytes());
            node.raw(&request).await;
        }
        let body = json!({"identifier": format!("{text}@example.com"), "password": text});
        node.post("/v1/logins").json(&body).send().await;
        let body = json!({"email": format!("{text}@example.com"), "password": PASSWORD, "profile": {text: text}, text: text});
        node.post("/v1/registrations").json(&body).send().await;
        let path: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
        for route in [
            format!("/v1/users/{path}"),
            format!("/v1/users?email={path}"),
            format!("/v1/projections/{path}/rebuild"),
        ] {
            node.get(&route).admin().send().await;
            node.post(&route).admin().send().await;
        }
        let grant = node.put(&format!("/v1/users/{id}/roles/{path}")).admin();
        grant.send().await.problem(422, "invalid-input");
        node.raw(format!("GET /{text} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
        node.raw(format!("{text} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
    }
    node.stop().await;
    let printed = home.printed();
    assert!(printed.lines().count() > 3);
    assert_tidy(&printed);
}

#[tokio::test(flavor = "multi_thread")]
async fn class_secrets_in_logs_and_topics() {
    const PASSWORDS: [&str; 3] = [
        "canary-pass-zebra-quilt",
        "canary-next-umbrella-fig",
        "canary-guess-lantern-oak",
    ];
    const COOKIE: &str = "canary-cookie-7f3a9";
    const EMAIL: &str = "canary.person@bird-house.example";
    const NAME: &str = "Kanarienvogelius";
    let home = Home::new();
    let node = home.serve(&["--log-level", "trace"]).await;
    let body = json!({
        "email": EMAIL, "password": PASSWORDS[0], "profile": {"given_name": NAME},
        "consents": [{"purpose": "newsletter", "channel": "email", "granted": true, "notice": notice()}],
    });
    let post = |path: &str| node.post(path).with("cookie", COOKIE);
    let registered = post("/v1/registrations")
        .with("idempotency-key", "r")
        .json(&body)
        .send()
        .await
        .expect(201);
    let id = registered.text("user_id").to_owned();
    let login = json!({"identifier": EMAIL, "password": PASSWORDS[0]});
    let tokens = post("/v1/logins")
        .with("idempotency-key", "l")
        .json(&login)
        .send()
        .await
        .expect(200);
    let renewed = node.refresh(tokens.text("refresh_token")).await.expect(200);
    node.login(EMAIL, PASSWORDS[2]).await.expect(401);
    node.login(PASSWORDS[2], EMAIL).await.expect(422);
    post("/v1/logins")
        .raw(format!(
            "{{\"identifier\":\"{EMAIL}\",\"password\":\"{}\"",
            PASSWORDS[2]
        ))
        .send()
        .await
        .expect(400);
    let odd = json!({"identifier": EMAIL, "password": {"x": PASSWORDS[2]}, NAME: 1});
    post("/v1/logins").json(&odd).send().await.expect(422);
    post("/v1/registrations").json(&body).send().await.expect(409);
    let of = |rest: &str| format!("/v1/users/{id}{rest}");
    let access = renewed.text("access_token");
    let change = json!({"password": PASSWORDS[1], "current_password": PASSWORDS[0]});
    let patch = node.call(Method::PATCH, &of("/profile")).auth(access);
    patch.json(&json!({"nickname": NAME})).send().await.expect(200);
    node.get(&format!("/v1/users?email={EMAIL}"))
        .admin()
        .send()
        .await
        .expect(200);
    node.put(&of("/password"))
        .auth(access)
        .json(&change)
        .send()
        .await
        .expect(200);
    let (_, key) = node.api_key(&["users:read"]).await;
    node.user(&id, &key).await.expect(200);
    let metrics = node.get("/metrics").send().await.expect(200).body.to_string();
    node.stop().await;
    // Once more, for what a start says and writes.
    home.serve(&["--log-level", "trace"]).await.stop().await;

    let mut secrets = PASSWORDS.to_vec();
    secrets.extend([COOKIE, key.as_str(), key.splitn(3, '_').nth(2).unwrap()]);
    for answer in [&tokens, &renewed] {
        for name in ["access_token", "refresh_token"] {
            let token = answer.text(name);
            // Whole, and the part of it that nobody could guess.
            secrets.extend([token, &token[token.len() - 40..]]);
        }
    }
    let printed = home.printed();
    for secret in secrets.iter().chain(&[EMAIL, NAME]) {
        assert!(!printed.contains(secret), "{secret} was printed");
        assert!(!metrics.contains(secret), "{secret} is in the metrics");
    }
    let files = home.files();
    assert!(files.len() > 10);
    for (path, bytes) in &files {
        for secret in &secrets {
            assert!(!contains(bytes, secret), "{secret} is in {}", path.display());
        }
        if !path.starts_with(home.data().join("views")) {
            for personal in [EMAIL, NAME] {
                assert!(!contains(bytes, personal), "{personal} is in {}", path.display());
            }
        }
    }
}

/// The stored hash of somebody's password, read with no node running.
async fn password_hash(home: &Home, email: &str) -> String {
    let config = world::config(&home.data());
    let started = tokio::task::spawn_blocking(|| Started::open(config).unwrap())
        .await
        .unwrap();
    let tenant = gatelog_events::ids::TenantId::default();
    let digest = started
        .node
        .directory
        .digest(&tenant, &Email::parse(email).unwrap());
    let row = started.node.views.login(&tenant, digest).unwrap().unwrap();
    started.close().await.unwrap();
    row.password_hash.unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn class_erasure() {
    const EMAIL: &str = "Forget.Me@Lethe-River.example";
    const NAME: &str = "Mnemosynides";
    let home = Home::new();
    let node = home.serve(&["--compaction-delay", "0s"]).await;
    let mut others = Vec::new();
    for i in 0..100 {
        let email = format!("stays{i}@example.com");
        others.push((node.register(&email).await, email));
    }
    let body =
        json!({"email": EMAIL, "password": PASSWORD, "profile": {"family_name": NAME}, "locale": "de"});
    let id = node
        .post("/v1/registrations")
        .json(&body)
        .send()
        .await
        .expect(201)
        .text("user_id")
        .to_owned();
    node.login(EMAIL, PASSWORD).await.expect(200);
    node.login(EMAIL, "a wrong password it is").await.expect(401);
    node.stop().await;
    let hash = password_hash(&home, EMAIL).await;
    let salt_and_hash: Vec<&str> = hash.rsplit('$').take(2).collect();

    let node = home.serve(&["--compaction-delay", "0s"]).await;
    node.delete(&format!("/v1/users/{id}"))
        .admin()
        .send()
        .await
        .expect(200);
    node.login(EMAIL, PASSWORD)
        .await
        .problem(401, "invalid-credentials");
    node.stop().await;
    let compacted = home.command(&["compact"]).output().unwrap();
    assert!(
        compacted.status.success(),
        "{}",
        String::from_utf8_lossy(&compacted.stderr)
    );
    for (path, bytes) in home.files() {
        let lower = EMAIL.to_lowercase();
        for needle in [
            EMAIL,
            &lower,
            "Forget.Me",
            "forget.me",
            NAME,
            salt_and_hash[0],
            salt_and_hash[1],
        ] {
            assert!(!contains(&bytes, needle), "{needle} is in {}", path.display());
        }
    }
    // Nothing of it is folded yet by a node that is killed at once.
    let node = home.serve(&[]).await;
    let (gone, email) = others.swap_remove(7);
    node.delete(&format!("/v1/users/{gone}"))
        .admin()
        .send()
        .await
        .expect(200);
    node.kill();
    let scratch = home.data().join("verify.tmp");
    std::fs::create_dir(&scratch).unwrap();
    std::fs::write(scratch.join("left"), &email).unwrap();
    let compacted = home.command(&["compact"]).output().unwrap();
    assert!(compacted.status.success());
    for (path, bytes) in home.files() {
        assert!(!contains(&bytes, &email), "{email} is in {}", path.display());
    }
    let verified = home.command(&["verify"]).output().unwrap();
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );

    let node = home.serve(&[]).await;
    let again = node.register(EMAIL).await;
    assert_ne!(again, id);
    let user = node
        .get(&format!("/v1/users/{again}"))
        .admin()
        .send()
        .await
        .expect(200);
    assert_eq!(user.body["profile"], json!({}));
    assert_eq!(user.body["locale"], json!(null));
    node.get(&format!("/v1/users/{id}"))
        .admin()
        .send()
        .await
        .problem(404, "user-not-found");
    for (id, email) in &others {
        let user = node
            .get(&format!("/v1/users/{id}"))
            .admin()
            .send()
            .await
            .expect(200);
        assert_eq!(user.text("email"), email);
    }
    node.login(&others[7].1, PASSWORD).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn class_unsafe_defaults() {
    let home = Home::new();
    // Beyond this machine only when told that something else encrypts, or that nothing should.
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = home.command(&["serve", "--listen", listen]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{listen}");
        assert!(!home.data().exists());
    }
    // A key that could be guessed is none.
    for weak in ["", "admin", "1234567"] {
        let mut command = home.command(&["serve", "--listen", "127.0.0.1:0"]);
        let refused = command.env("GATELOG_BOOTSTRAP_API_KEY", weak).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{weak:?}");
    }

    let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env_remove("GATELOG_BOOTSTRAP_API_KEY");
    let output = home.data().with_file_name("output");
    let node = crate::node::Node::spawn(command, &output).await;
    let file = home.data().join("secrets/bootstrap-api-key");
    let key = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(key.len() > 40);
    assert_eq!(home.printed().matches(&key).count(), 1, "shown once");
    node.get("/v1/api-keys").auth(&key).send().await.expect(200);
    for guess in ["admin", "bootstrap", "changeme", "glk_", "null", "undefined"] {
        node.get("/v1/api-keys")
            .auth(guess)
            .send()
            .await
            .problem(401, "invalid-token");
    }
    for folder in [home.data(), home.data().join("secrets")] {
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", folder.display());
    }
    let mut secrets = 0;
    for (path, bytes) in home.files() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        if path.starts_with(home.data().join("secrets")) {
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
            secrets += 1;
        } else {
            assert!(!contains(&bytes, &key));
        }
    }
    assert!(secrets > 3);
    // Two nodes have not one secret in common.
    let other = Home::new();
    other.serve(&[]).await.stop().await;
    for (path, bytes) in home.files() {
        let name = path.strip_prefix(home.data()).unwrap();
        if name.starts_with("secrets") && other.data().join(name).exists() {
            assert!(
                bytes != std::fs::read(other.data().join(name)).unwrap(),
                "{}",
                name.display()
            );
        }
    }
    node.stop().await;
    // A second start shows the key no more.
    let mut command = home.command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command.env_remove("GATELOG_BOOTSTRAP_API_KEY");
    let node = crate::node::Node::spawn(command, &output).await;
    node.get("/v1/api-keys").auth(&key).send().await.expect(200);
    assert_eq!(home.printed().matches(&key).count(), 1);
}
