//! Leaving by a link, without logging in (RFC 8058).

use serde_json::json;

use super::consumer::*;
use crate::support::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn one_click_withdraws_and_following_the_link_does_not() {
    let server = Server::start().await;
    let definition = json!({"purpose": "newsletter", "fields": ["email", "unsubscribe_url"]});
    define(&server, "mailer", &definition).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "mailer").await;
    consumer.catch_up(&server, "", &at).await;
    let url = consumer.subjects.values().next().unwrap()["unsubscribe_url"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = &url[url.find("/v1/").unwrap()..];
    let mut words = url.split(|c: char| !c.is_alphanumeric());
    assert!(!url.contains(&ada) && !words.any(|word| word == "ada"), "{url}");

    let page = server.get(path).send().await.expect(200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.body.as_str().unwrap().contains("<form method=\"post\">"));
    consumer.catch_up(&server, "", &at).await;
    assert_eq!(
        consumer.emails(),
        ["ada@example.com"],
        "a link that is followed changes nothing"
    );

    let mut position = String::new();
    for _ in 0..2 {
        let call = server
            .post(path)
            .with("content-type", "application/x-www-form-urlencoded");
        let done = reqwest_body(call, "List-Unsubscribe=One-Click").await.expect(200);
        assert!(!done.headers.contains_key("set-cookie"));
        if let Some(at) = done.headers.get("gatelog-position") {
            position = at.to_str().unwrap().to_owned();
        }
    }
    let ledger = server
        .get(&format!("/v1/users/{ada}/consents"))
        .admin()
        .with("gatelog-min-position", &position)
        .send()
        .await
        .expect(200);
    let history = ledger.body["history"].as_array().unwrap();
    let withdrawn = history.last().unwrap();
    assert_eq!(
        (history.len(), &withdrawn["granted"]),
        (2, &json!(false)),
        "once: {history:?}"
    );
    assert_eq!(withdrawn["actor"], json!({"type": "user", "id": ada}));
    assert!(withdrawn["note"].as_str().unwrap().contains("8058"));
    consumer
        .catch_up(&server, "", withdrawn["position"].as_str().unwrap())
        .await;
    assert!(consumer.emails().is_empty());
    assert!(
        server
            .get(path)
            .send()
            .await
            .expect(200)
            .body
            .as_str()
            .unwrap()
            .contains("not subscribed")
    );

    server
        .get("/v1/unsubscribe/AAAA")
        .send()
        .await
        .problem(404, "link-not-valid");
    let altered = format!("{}A", &path[..path.len() - 1]);
    if altered != *path {
        server.post(&altered).send().await.problem(404, "link-not-valid");
    }
    erase(&server, &ada).await;
    server.post(path).send().await.expect(200);
    server.stop().await;
}

async fn reqwest_body(
    mut call: crate::support::server::Call,
    body: &'static str,
) -> crate::support::server::Answer {
    call.0 = call.0.body(body);
    call.send().await
}
