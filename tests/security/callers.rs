//! Who may do what: other people's data, calls without a key, keys that make keys, cursors.

use reqwest::Method;
use serde_json::{Value, json};

use crate::node::{Home, Node};
use crate::support::server::{Answer, PASSWORD, notice};

const UNKNOWN: &str = "0193e0a1-7c5a-8000-8000-00000000002a";

/// Every route that is described, with its method.
async fn routes(node: &Node) -> Vec<(Method, String, bool)> {
    let document = node.get("/openapi.json").send().await.expect(200).body;
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation["security"]
                .as_array()
                .is_some_and(|s| s.contains(&json!({})));
            let method: Method = method.to_uppercase().parse().unwrap();
            routes.push((method, path.clone(), open));
        }
    }
    assert!(routes.len() > 25, "{routes:?}");
    routes
}

fn body_for(path: &str) -> Value {
    match path.rsplit('/').next().unwrap() {
        "profile" => json!({"nickname": "x"}),
        "password" => json!({"password": "nine lazy walruses sing", "current_password": PASSWORD}),
        "email" => json!({"email": "mallory@example.com"}),
        "{purpose}" if path.contains("consents") => {
            json!({"granted": true, "channel": "email", "notice": notice()})
        }
        "plan" => json!({"plan": "pro"}),
        "status" => json!({"status": "disabled"}),
        _ => json!({}),
    }
}

fn filled(path: &str, id: &str) -> String {
    path.replace("{id}", id)
        .replace("{role}", "admin")
        .replace("{purpose}", "newsletter")
        .replace("{plan}", "pro")
        .replace("{name}", "users")
}

/// What a caller can tell two answers apart by; time and the request's own id are not it.
fn visible(answer: &Answer) -> (u16, Value, Vec<String>) {
    let names = answer.headers.keys().map(|n| n.as_str().to_owned()).collect();
    (answer.status.as_u16(), answer.body.clone(), names)
}

#[tokio::test(flavor = "multi_thread")]
async fn line_09_other_peoples_ids() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    node.register("ada@example.com").await;
    let bob = node.register("bob@example.com").await;
    let bobs = node.login("bob@example.com", PASSWORD).await.expect(200);
    let adas = node.login("ada@example.com", PASSWORD).await.expect(200);
    let (token, session) = (adas.text("access_token"), bobs.text("session_id"));
    let (key, _) = node.api_key(&["users:read"]).await;
    let before = home.log();
    let mut tried = 0;
    for (method, path, _) in routes(&node).await {
        // Settings belong to nobody but the operator; the id of a notice is a name that the caller chooses.
        if !path.contains("{id}") || path.starts_with("/v1/settings") {
            continue;
        }
        let theirs = match path.as_str() {
            p if p.starts_with("/v1/users") => &bob,
            p if p.starts_with("/v1/sessions") => session,
            p if p.starts_with("/v1/api-keys") => key.as_str(),
            _ => panic!("whose is {path}?"),
        };
        let ask = async |id: &str| {
            let call = node.call(method.clone(), &filled(&path, id)).auth(token);
            visible(&call.json(&body_for(&path)).send().await)
        };
        let (foreign, unknown) = (ask(theirs).await, ask(UNKNOWN).await);
        assert_eq!(foreign, unknown, "{method} {path}");
        assert!([403, 404].contains(&foreign.0), "{method} {path}: {foreign:?}");
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
    // In the query, and in a body that the path does not agree with.
    let end = node
        .delete(&format!("/v1/sessions/{session}?user_id={bob}"))
        .auth(token);
    end.send().await.problem(400, "invalid-query");
    let find = node.get("/v1/users?email=bob@example.com").auth(token);
    let find = find.send().await;
    assert!(
        find.status == 403 || find.body["users"] == json!([]),
        "{}",
        find.body
    );
    let patch = node.call(
        Method::PATCH,
        &format!("/v1/users/{}/profile", adas.text("user_id")),
    );
    let patch = patch.auth(token).json(&json!({"user_id": bob, "nickname": "x"}));
    patch.send().await.problem(422, "invalid-input");
    assert!(before == home.log());
    node.user(&bob, bobs.text("access_token")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn line_12_calls_without_a_key_are_refused_before_anything_else() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    let before = home.log();
    let mut tried = 0;
    for (method, path, open) in routes(&node).await {
        if open {
            continue;
        }
        // Neither a body nor a query nor a header that is wrong, nor an id that is, comes before the question who calls.
        for id in [id.as_str(), UNKNOWN, "nonsense", "%ff"] {
            let path = filled(&path, id);
            for query in ["", "?tenant=other", "?limit=x"] {
                let call = node.call(method.clone(), &format!("{path}{query}"));
                let call = call.with("x-tenant", "other").with("accept-version", "0");
                let call = call.with("gatelog-min-position", "x").raw("{");
                call.send().await.problem(401, "missing-token");
            }
            let call = node.call(method.clone(), &path).auth("wrong").raw("{");
            call.send().await.problem(401, "invalid-token");
            // Another way to write the path is another path, never the same one without the question.
            for odd in [
                format!("{path}/"),
                format!("/{path}"),
                path.replace("/v1/", "/v1//"),
                path.replace("/v1/", "/V1/"),
            ] {
                let request = format!(
                    "{method} {odd} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                );
                let answer = node.raw(request.as_bytes()).await;
                let status = answer.split(' ').nth(1).unwrap_or_default();
                assert!(["401", "404", "400"].contains(&status), "{odd}: {answer}");
            }
        }
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
    assert!(before == home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn class_scope_escalation() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    let (_, key) = node.api_key(&["api-keys:write", "users:read"]).await;
    let (_, reader) = node.api_key(&["users:read"]).await;
    let token = node.login("ada@example.com", PASSWORD).await.expect(200);
    let before = home.log();
    let create = |by: &str, scopes: Value| {
        let call = node.post("/v1/api-keys").auth(by);
        call.json(&json!({"name": "k", "scopes": scopes}))
    };
    for scopes in [
        json!(["*"]),
        json!(["users:write"]),
        json!(["users:read", "users:erase"]),
    ] {
        create(&key, scopes).send().await.problem(403, "scope-not-held");
    }
    for scopes in [
        json!([]),
        json!(["users:*"]),
        json!(["USERS:READ"]),
        json!([" *"]),
        json!(["users:read users:write"]),
    ] {
        create(&key, scopes).send().await.problem(422, "invalid-input");
    }
    create(&reader, json!(["users:read"]))
        .send()
        .await
        .problem(403, "missing-scope");
    let user = create(token.text("access_token"), json!(["users:read"]));
    user.send().await.problem(403, "not-permitted");
    // A refresh cannot ask for more.
    let more = json!({"refresh_token": token.text("refresh_token"), "scope": "users:write"});
    node.post("/v1/sessions/refresh")
        .json(&more)
        .send()
        .await
        .problem(422, "invalid-input");
    for (method, path) in [
        (Method::DELETE, format!("/v1/users/{id}")),
        (Method::PUT, format!("/v1/users/{id}/roles/admin")),
    ] {
        node.call(method, &path)
            .auth(&key)
            .send()
            .await
            .problem(403, "missing-scope");
    }
    assert!(before == home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn line_37_cursors_that_were_edited_or_belong_elsewhere() {
    let home = Home::new();
    let patient = ["--account-free-attempts", "100", "--min-position-wait", "1m"];
    let node = home.serve(&patient).await;
    let mut users = Vec::new();
    for email in ["ada@example.com", "bob@example.com"] {
        let id = node.register(email).await;
        for _ in 0..3 {
            node.login(email, PASSWORD).await.expect(200);
        }
        let mut position = String::new();
        for granted in [true, false, true] {
            let body = json!({"granted": granted, "channel": "email", "notice": notice()});
            let put = node.put(&format!("/v1/users/{id}/consents/newsletter")).admin();
            let answer = put.json(&body).send().await.expect(200);
            position = answer.text("position").to_owned();
        }
        // These may be behind the answer; there must be more than one page of each.
        for list in ["timeline", "consents"] {
            let read = node.get(&format!("/v1/users/{id}/{list}")).admin();
            read.with("gatelog-min-position", &position)
                .send()
                .await
                .expect(200);
        }
        users.push(id);
    }
    let lists = ["timeline", "sessions", "consents"];
    let page = async |user: &str, list: &str, query: &str| {
        let path = format!("/v1/users/{user}/{list}?limit=1{query}");
        node.get(&path).admin().send().await
    };
    let mut cursors = Vec::new();
    for user in &users {
        for list in lists {
            let next = page(user, list, "").await.expect(200).text("next").to_owned();
            page(user, list, &format!("&after={next}")).await.expect(200);
            cursors.push((user, list, next));
        }
    }
    for (owner, of, cursor) in &cursors {
        for user in &users {
            for list in lists {
                if (*owner, *of) != (user, list) {
                    let answer = page(user, list, &format!("&after={cursor}")).await;
                    answer.problem(400, "invalid-cursor");
                }
            }
        }
        for i in 0..cursor.len() {
            let mut edited = cursor.clone().into_bytes();
            edited[i] = if edited[i] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            let answer = page(owner, of, &format!("&after={edited}")).await;
            answer.problem(400, "invalid-cursor");
        }
        for edited in [
            &cursor[1..],
            &cursor[..cursor.len() - 1],
            &format!("{cursor}="),
            &format!("{cursor}A"),
            "",
        ] {
            let answer = page(owner, of, &format!("&after={edited}")).await;
            answer.problem(400, "invalid-cursor");
        }
    }
}
