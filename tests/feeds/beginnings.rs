//! Where a webhook begins of which nothing is known.

use std::time::Duration;

use gatelog::feeds::push::Pushes;
use gatelog::feeds::webhook::WebhookConfig;
use serde_json::Value;

use super::consumer::*;
use super::webhooks::set;
use crate::support::receiver::Receiver;
use crate::support::server::Server;

/// Whom a receiver was told to forget.
fn withdrawn(receiver: &Receiver) -> Vec<Value> {
    let taken = receiver.distinct().into_iter();
    taken
        .filter(|t| t.event["type"] == "com.gatelog.feed.subject.withdrawn.v1")
        .map(|t| t.event["subject"].clone())
        .collect()
}

/// As it is on a node that was added after the activity stream was cut, which said how far lanes had come: the webhook is
/// there, and its receiver may know people.
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_of_which_nothing_is_known_owes_who_has_withdrawn_since_it_was_set() {
    let server = Server::start_with(|config| {
        let here = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhooks = WebhookConfig::new(true, here, Duration::from_secs(60));
    })
    .await;
    define_marketing(&server).await;
    let (mut people, mut seen) = (Vec::new(), Vec::new());
    for name in ["ada", "bob", "eve"] {
        let (id, at) = register(&server, name, true).await;
        people.push(id);
        seen.push(at);
    }
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.sees(&server, &seen).await;
    consumer.catch_up(&server, "", &seen[0]).await;
    let mut known = consumer.subjects.iter();
    let ada = known.find(|(_, fields)| fields["email"] == "ada@example.com");
    let ada = ada.unwrap().0.clone();

    // Of him a receiver that comes afterwards knows nothing.
    let before = consent(&server, &people[1], "newsletter", false).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    let since = consent(&server, &people[0], "newsletter", false).await;
    consumer.sees(&server, &[before, since]).await;
    let pushing = tokio::spawn(Pushes::new(server.started.node.clone(), None).run());
    receiver
        .until("who is there, and who withdrew", |r| {
            r.emails() == ["eve@example.com"] && !withdrawn(r).is_empty()
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(withdrawn(&receiver), [ada]);
    pushing.abort();
    server.stop().await;
}
