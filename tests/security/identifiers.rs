//! Addresses: what is no address, what is the same one, and who gets it.

use std::sync::Arc;

use serde_json::json;

use crate::node::Home;
use crate::support::server::PASSWORD;

#[tokio::test(flavor = "multi_thread")]
async fn line_01_a_second_at_sign_that_appears_only_after_normalization() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("victim@ours.test").await;
    let before = home.log();
    for email in [
        "victim@ours.test\u{ff20}evil.test",
        "victim@ours.test\u{fe6b}evil.test",
        "victim\u{ff20}ours.test@evil.test",
        "victim\u{fe6b}ours.test@evil.test",
        "victim\u{ff20}ours.test",
    ] {
        node.try_register(email).await.problem(422, "invalid-input");
        node.login(email, PASSWORD).await.problem(422, "invalid-input");
        let change = node.put(&format!("/v1/users/{id}/email")).admin();
        change
            .json(&json!({"email": email}))
            .send()
            .await
            .problem(422, "invalid-input");
    }
    assert!(before == home.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn line_02_one_address_in_many_spellings_has_one_owner() {
    let home = Home::new();
    let node = home.serve(&["--account-free-attempts", "100"]).await;
    for variants in [
        &[
            "Straße@Bücher.example",
            "STRASSE@BÜCHER.EXAMPLE",
            "straße@xn--bcher-kva.example",
            "strasse@bücher.example.",
        ][..],
        &[
            "José@x.test",
            "Jose\u{301}@x.test",
            "JOSÉ@X.TEST",
            " josé@x.test. ",
        ],
        &[
            "ada@example.com",
            "ADA@EXAMPLE.COM",
            "ada@example.com.",
            "ada@ｅｘａｍｐｌｅ.com",
        ],
    ] {
        let id = node.register(variants[0]).await;
        let before = home.log();
        for variant in variants {
            node.try_register(variant).await.problem(409, "address-taken");
        }
        assert!(before == home.log());
        for variant in variants {
            let answer = node.login(variant, PASSWORD).await.expect(200);
            assert_eq!(answer.text("user_id"), id, "{variant}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn class_uniqueness_race() {
    let home = Home::new();
    let node = Arc::new(home.serve(&[]).await);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..200 {
        let node = node.clone();
        let email = if i % 2 == 0 {
            "grace@example.com"
        } else {
            "GRACE@EXAMPLE.COM."
        };
        tasks.spawn(async move { node.try_register(email).await });
    }
    let answers = tasks.join_all().await;
    let won: Vec<_> = answers.iter().filter(|a| a.status == 201).collect();
    assert_eq!(won.len(), 1);
    for lost in answers.iter().filter(|a| a.status != 201) {
        // On a busy machine some are shed; they are told to come again, and would then be told 409.
        let shed = lost.status == 503 && lost.headers.contains_key("retry-after");
        assert!(lost.status == 409 || shed, "{} {}", lost.status, lost.body);
    }
    let winner = won[0].text("user_id").to_owned();
    Arc::into_inner(node).unwrap().kill();
    let node = home.serve(&[]).await;
    let answer = node.login("grace@example.com", PASSWORD).await.expect(200);
    assert_eq!(answer.text("user_id"), winner);
}

#[tokio::test(flavor = "multi_thread")]
async fn class_recycled_identifiers() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let mut ids = std::collections::HashSet::new();
    let mut old = Vec::new();
    for _ in 0..5 {
        let id = node.register("phoenix@example.com").await;
        let tokens = node.login("phoenix@example.com", PASSWORD).await.expect(200);
        old.push((id.clone(), tokens));
        node.delete(&format!("/v1/users/{id}"))
            .admin()
            .send()
            .await
            .expect(200);
        assert!(ids.insert(id));
    }
    node.kill();
    let node = home.serve(&[]).await;
    let id = node.register("phoenix@example.com").await;
    assert!(ids.insert(id.clone()));
    for (gone, tokens) in &old {
        for owner in [gone, &id] {
            node.user(owner, tokens.text("access_token"))
                .await
                .problem(401, "invalid-token");
        }
        node.refresh(tokens.text("refresh_token"))
            .await
            .problem(401, "session-ended");
        node.get(&format!("/v1/users/{gone}"))
            .admin()
            .send()
            .await
            .problem(404, "user-not-found");
        node.set_consent_fails(gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn class_name_spaces_crossed() {
    let home = Home::new();
    let node = home.serve(&[]).await;
    let id = node.register("ada@example.com").await;
    // An id, a bare name or a number is no e-mail address, so none of them logs anybody in.
    for identifier in [id.as_str(), "ada", "+41791234567", &format!("urn:uuid:{id}")] {
        node.login(identifier, PASSWORD)
            .await
            .problem(422, "invalid-input");
    }
    // Nor is an address an id.
    node.get("/v1/users/ada@example.com")
        .admin()
        .send()
        .await
        .problem(404, "user-not-found");
}

impl crate::node::Node {
    async fn set_consent_fails(&self, id: &str) {
        let body = json!({"granted": true, "channel": "email", "notice": crate::support::server::notice()});
        let call = self.put(&format!("/v1/users/{id}/consents/newsletter")).admin();
        call.json(&body).send().await.problem(404, "user-not-found");
    }
}
