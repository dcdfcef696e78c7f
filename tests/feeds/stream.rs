//! The same feed as server-sent events.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures::StreamExt;
use gatelog::http::router;
use serde_json::Value;
use tower::Service;

use super::consumer::*;
use crate::support::server::Server;

/// Reads server-sent events (WHATWG HTML, 9.2) and feeds a consumer.
pub struct Listener {
    response: reqwest::Response,
    text: String,
}

impl Listener {
    pub async fn open(server: &Server, consumer: &Consumer) -> Self {
        Self::open_from(server, consumer, "snapshot").await
    }

    pub async fn open_from(server: &Server, consumer: &Consumer, from: &str) -> Self {
        let path = format!("/v1/feeds/{}/events?from={from}", consumer.feed);
        let mut call = server
            .get(&path)
            .auth(&consumer.key)
            .with("accept", "text/event-stream");
        if let Some(cursor) = &consumer.cursor {
            call = call.with("last-event-id", cursor);
        }
        let response = call.0.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// Takes what comes until the consumer is content.
    pub async fn until(&mut self, consumer: &mut Consumer, content: impl Fn(&Consumer) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !content(consumer) {
                let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
                while let Some((event, rest)) = self.text.split_once("\n\n") {
                    hear(consumer, event);
                    self.text = rest.to_owned();
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{:?}", consumer.records));
    }
}

fn hear(consumer: &mut Consumer, event: &str) {
    for line in event.lines() {
        if let Some(data) = line.strip_prefix("data: ") {
            consumer.take(&serde_json::from_str::<Value>(data).unwrap());
        } else if let Some(id) = line.strip_prefix("id: ") {
            consumer.cursor = Some(id.to_owned());
        }
    }
}

/// Events that leave one by one, each when it is asked for: no network takes any before.
struct OneByOne(BodyDataStream);

impl OneByOne {
    async fn open(server: &Server, consumer: &Consumer) -> Self {
        let request = Request::get(format!("/v1/feeds/{}/events", consumer.feed))
            .header("authorization", format!("Bearer {}", consumer.key))
            .header("accept", "text/event-stream")
            .body(Body::empty())
            .unwrap();
        let response = router(server.started.node.clone()).call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self(response.into_body().into_data_stream())
    }

    /// The next event; `false`: there is none any more.
    async fn next(&mut self, consumer: &mut Consumer) -> bool {
        let waited = tokio::time::timeout(Duration::from_secs(20), self.0.next()).await;
        let Some(event) = waited.expect("an event, or the end") else {
            return false;
        };
        hear(consumer, std::str::from_utf8(&event.unwrap()).unwrap());
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_and_resumes_where_it_was_cut() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (ada, _) = register(&server, "ada", true).await;
    let (bob, _) = register(&server, "bob", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    let mut listener = Listener::open(&server, &consumer).await;
    listener
        .until(&mut consumer, |c| c.subjects.len() == 2 && c.cursor.is_some())
        .await;
    upgrade(&server, &ada, "pro").await;
    listener
        .until(&mut consumer, |c| c.kinds().contains(&"plan.upgraded"))
        .await;
    drop(listener);
    consent(&server, &bob, "newsletter", false).await;
    register(&server, "eve", true).await;
    let mut listener = Listener::open(&server, &consumer).await;
    listener
        .until(&mut consumer, |c| {
            c.emails() == ["ada@example.com", "eve@example.com"]
        })
        .await;
    drop(listener);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_hears_nothing_more() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    register(&server, "ada", true).await;
    let mut listener = Listener::open(&server, &consumer).await;
    listener.until(&mut consumer, |c| c.subjects.len() == 1).await;
    let keys = server.get("/v1/api-keys").admin().send().await.expect(200);
    let id = keys.body["api_keys"][0]["key_id"].as_str().unwrap();
    server
        .delete(&format!("/v1/api-keys/{id}"))
        .admin()
        .send()
        .await
        .expect(200);
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        while listener.response.chunk().await.unwrap().is_some() {}
    });
    ended.await.expect("the stream ends");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_a_batch_is_on_its_way_is_not_told_of() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (mut people, mut seen) = (Vec::new(), Vec::new());
    for name in ["ada", "bob", "eve", "joe"] {
        let (id, at) = register(&server, name, true).await;
        people.push((format!("{name}@example.com"), id));
        seen.push(at);
    }
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.sees(&server, &seen).await;
    let mut events = OneByOne::open(&server, &consumer).await;
    assert!(events.next(&mut consumer).await);
    let first = consumer.emails()[0].to_owned();
    people.retain(|(email, _)| *email != first);
    consent(&server, &people[0].1, "newsletter", false).await;
    status(&server, &people[1].1, "disabled").await;
    erase(&server, &people[2].1).await;
    while consumer.records.len() < 4 {
        assert!(events.next(&mut consumer).await, "{:?}", consumer.records);
    }
    let mut kinds = consumer.kinds();
    kinds.sort_unstable();
    assert_eq!(kinds[1..], ["subject.withdrawn"; 3], "{kinds:?}");
    assert_eq!(consumer.emails(), [first.as_str()]);
    // Past those who were left out as well.
    let told = consumer.records.len();
    drop(events);
    consumer.catch_up(&server, "", &seen[0]).await;
    assert!(
        consumer.kinds()[told..].iter().all(|k| *k == "subject.withdrawn"),
        "{:?}",
        consumer.kinds()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_ends_with_the_key_that_it_was_asked_for_by() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (_, one) = register(&server, "ada", true).await;
    let (_, two) = register(&server, "bob", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.sees(&server, &[one, two]).await;
    let mut events = OneByOne::open(&server, &consumer).await;
    assert!(events.next(&mut consumer).await);
    let keys = server.get("/v1/api-keys").admin().send().await.expect(200);
    let id = keys.body["api_keys"][0]["key_id"].as_str().unwrap();
    let path = format!("/v1/api-keys/{id}");
    server.delete(&path).admin().send().await.expect(200);
    assert!(!events.next(&mut consumer).await, "{:?}", consumer.records);
    assert_eq!((consumer.subjects.len(), consumer.cursor), (1, None));
    drop(events);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_before_anything_happens_misses_nothing() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.ask(&server, "from=now", &at).await.expect(200);
    let mut listener = Listener::open_from(&server, &consumer, "now").await;
    listener.until(&mut consumer, |c| c.cursor.is_some()).await;
    drop(listener);
    consent(&server, &ada, "newsletter", false).await;
    let mut listener = Listener::open_from(&server, &consumer, "now").await;
    listener.until(&mut consumer, |c| !c.records.is_empty()).await;
    assert_eq!(consumer.kinds(), ["subject.withdrawn"]);
    drop(listener);
    server.stop().await;
}
