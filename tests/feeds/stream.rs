//! The same feed as server-sent events.

use std::time::Duration;

use serde_json::Value;

use super::consumer::*;
use crate::support::server::Server;

/// Reads server-sent events (WHATWG HTML, 9.2) and feeds a consumer.
pub struct Listener {
    response: reqwest::Response,
    text: String,
}

impl Listener {
    pub async fn open(server: &Server, consumer: &Consumer) -> Self {
        let path = format!("/v1/feeds/{}/events", consumer.feed);
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
                    for line in event.lines() {
                        if let Some(data) = line.strip_prefix("data: ") {
                            consumer.take(&serde_json::from_str::<Value>(data).unwrap());
                        } else if let Some(id) = line.strip_prefix("id: ") {
                            consumer.cursor = Some(id.to_owned());
                        }
                    }
                    self.text = rest.to_owned();
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{:?}", consumer.records));
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
