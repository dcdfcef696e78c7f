//! Sessions end when they should, and stay ended.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use serde_json::{Value, json};

use crate::node::{Home, Node};
use crate::support::server::{Answer, PASSWORD};

async fn timeline(node: &Node, id: &str) -> Vec<Value> {
    let answer = node
        .get(&format!("/v1/users/{id}/timeline?limit=200"))
        .admin()
        .send()
        .await;
    answer.expect(200).body["events"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn line_21_one_refresh_token_fifty_times_at_once() {
    let home = Home::new();
    let node = Arc::new(home.serve(&[]).await);
    let id = node.register("ada@example.com").await;
    let first = node.login("ada@example.com", PASSWORD).await.expect(200);
    let bystander = node.login("ada@example.com", PASSWORD).await.expect(200);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (node, token) = (node.clone(), first.text("refresh_token").to_owned());
        tasks.spawn(async move { node.refresh(&token).await });
    }
    let answers = tasks.join_all().await;
    let won: Vec<_> = answers.iter().filter(|a| a.status == 200).collect();
    assert!(won.len() <= 1, "{} succeeded", won.len());
    for lost in answers.iter().filter(|a| a.status != 200) {
        assert_eq!(
            (lost.status.as_u16(), &lost.body["type"]),
            (401, &json!("urn:gatelog:problem:session-ended"))
        );
    }
    // The family is dead: the winner's tokens too.
    for tokens in won.into_iter().chain([&first]) {
        node.refresh(tokens.text("refresh_token"))
            .await
            .problem(401, "session-ended");
        node.user(&id, tokens.text("access_token"))
            .await
            .problem(401, "invalid-token");
    }
    // The timeline may be behind the answers.
    let begun = clock::monotonic();
    loop {
        let events = timeline(&node, &id).await;
        let reused = |e: &Value| e["type"] == "com.gatelog.session.reused.v1";
        if events.iter().any(reused) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{events:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Another session of the same user is not concerned.
    node.refresh(bystander.text("refresh_token")).await.expect(200);
}

struct Victim {
    email: &'static str,
    id: String,
    access: String,
    refresh: String,
    /// What that was given for, under a key.
    exchanged: String,
    password: &'static str,
}

/// Exchanges a refresh token under a key.
async fn exchange(node: &Node, key: &str, token: &str) -> Answer {
    let call = node.post("/v1/sessions/refresh").with("idempotency-key", key);
    call.json(&json!({"refresh_token": token})).send().await
}

impl Victim {
    async fn is_out(&self, node: &Node) {
        node.login(self.email, PASSWORD)
            .await
            .problem(401, "invalid-credentials");
        node.refresh(&self.refresh).await.problem(401, "session-ended");
        // The same request again is answered with tokens made anew, but not to who is out. Of the erased nothing is known.
        let again = exchange(node, self.email, &self.exchanged).await;
        assert!([401, 422].contains(&again.status.as_u16()), "{}", again.body);
        let of = |rest: &str| format!("/v1/users/{}{rest}", self.id);
        for path in [of(""), of("/timeline"), of("/consents"), of("/sessions")] {
            let answer = node.get(&path).auth(&self.access).send().await;
            answer.problem(401, "invalid-token");
        }
        let put = node.put(&of("/email")).auth(&self.access);
        put.json(&json!({"email": "back@example.com"}))
            .send()
            .await
            .problem(401, "invalid-token");
        node.delete(&of(""))
            .auth(&self.access)
            .send()
            .await
            .problem(401, "invalid-token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn line_24_disabled_erased_or_with_a_new_password() {
    let home = Home::new();
    let node = home.serve(&["--account-free-attempts", "100"]).await;
    let mut victims = Vec::new();
    for email in [
        "disabled@example.com",
        "erased@example.com",
        "changed@example.com",
        "reset@example.com",
    ] {
        let id = node.register(email).await;
        let tokens = node.login(email, PASSWORD).await.expect(200);
        let exchanged = tokens.text("refresh_token").to_owned();
        let tokens = exchange(&node, email, &exchanged).await.expect(200);
        let (access, refresh) = (
            tokens.text("access_token").to_owned(),
            tokens.text("refresh_token").to_owned(),
        );
        let again = exchange(&node, email, &exchanged).await.expect(200);
        assert_eq!(again.text("refresh_token"), refresh);
        // Known to be good, so that a cache remembers it.
        node.user(&id, &access).await.expect(200);
        victims.push(Victim {
            email,
            id,
            access,
            refresh,
            exchanged,
            password: "nine lazy walruses sing",
        });
    }
    node.set_status(&victims[0].id, "disabled").await;
    node.delete(&format!("/v1/users/{}", victims[1].id))
        .admin()
        .send()
        .await
        .expect(200);
    let change = |v: &Victim| node.put(&format!("/v1/users/{}/password", v.id));
    let body = json!({"password": victims[2].password, "current_password": PASSWORD});
    change(&victims[2])
        .auth(&victims[2].access)
        .json(&body)
        .send()
        .await
        .expect(200);
    let body = json!({"password": victims[3].password});
    change(&victims[3]).admin().json(&body).send().await.expect(200);
    for victim in &victims {
        victim.is_out(&node).await;
    }
    node.kill();
    let node = home.serve(&["--account-free-attempts", "100"]).await;
    for victim in &victims {
        victim.is_out(&node).await;
    }
    for victim in &victims[2..] {
        node.login(victim.email, victim.password).await.expect(200);
    }
    // Enabled again, the user may log in; what they held before stays dead.
    node.set_status(&victims[0].id, "active").await;
    node.refresh(&victims[0].refresh)
        .await
        .problem(401, "session-ended");
    node.login(victims[0].email, PASSWORD).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn class_stale_read_model_after_restart() {
    let home = Home::new();
    let mut node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    for round in 0..3 {
        let tokens = node.login("ada@example.com", PASSWORD).await.expect(200);
        let (access, refresh) = (tokens.text("access_token"), tokens.text("refresh_token"));
        let end = node.delete(&format!("/v1/sessions/{}", tokens.text("session_id")));
        end.auth(access).send().await.expect(200);
        let (key_id, key) = node.api_key(&["users:read"]).await;
        node.user(&id, &key).await.expect(200);
        node.delete(&format!("/v1/api-keys/{key_id}"))
            .admin()
            .send()
            .await
            .expect(200);
        // At once after the answer: nothing may depend on what had not been written out yet.
        node.kill();
        node = home.serve(&[]).await;
        node.user(&id, access).await.problem(401, "invalid-token");
        node.refresh(refresh).await.problem(401, "session-ended");
        node.user(&id, &key).await.problem(401, "invalid-token");
        let sessions = node
            .get(&format!("/v1/users/{id}/sessions"))
            .admin()
            .send()
            .await
            .expect(200);
        let sessions = sessions.body["sessions"].as_array().unwrap();
        assert_eq!(sessions.len(), round + 1);
        assert!(
            sessions
                .iter()
                .all(|s| s["active"] == false && s["end_reason"] == "logged_out")
        );
    }
}
