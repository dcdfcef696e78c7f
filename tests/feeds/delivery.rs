//! What leaves, and what does not.

use std::time::Duration;

use gatelog::feeds::cursor::{Cursor, Lane};
use gatelog::feeds::keys::Scope;
use gatelog_events::ids::{Partition, Stream};
use serde_json::json;

use super::consumer::*;
use crate::support::server::{PASSWORD, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_then_what_happens_with_the_granted_fields_only() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (ada, one) = register(&server, "ada", true).await;
    let (bob, two) = register(&server, "bob", false).await;
    let (_, last) = register(&server, "eve", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.sees(&server, &[one, two]).await;
    consumer.catch_up(&server, "limit=1", &last).await;
    assert_eq!(consumer.kinds(), ["subject.snapshot", "subject.snapshot"]);
    assert_eq!(consumer.emails(), ["ada@example.com", "eve@example.com"]);
    let fields = json!({"email": "ada@example.com", "given_name": "ada", "locale": "de", "plan": "free"});
    assert!(
        consumer.subjects.values().any(|f| *f == fields),
        "{:?}",
        consumer.subjects
    );

    // Bob comes into sight, Ada's change is told, and what the feed does not name is not.
    let seen = upgrade(&server, &ada, "pro").await;
    rename(&server, &bob, "robert").await;
    let last = consent(&server, &bob, "newsletter", true).await;
    consumer.sees(&server, &[seen]).await;
    consumer.catch_up(&server, "", &last).await;
    let at = rename(&server, &ada, "augusta").await;
    consumer.catch_up(&server, "", &at).await;
    let mut kinds = consumer.kinds().split_off(2);
    let newest = kinds.pop();
    kinds.sort_unstable();
    // Bob's earlier change of name is read when he may be seen already; it tells of him as he is now.
    assert_eq!(
        kinds,
        ["plan.upgraded", "subject.snapshot", "user.profile_changed"]
    );
    assert_eq!(newest, Some("user.profile_changed"));
    assert_eq!(
        consumer.emails(),
        ["ada@example.com", "bob@example.com", "eve@example.com"]
    );
    let ada_now = json!({"email": "ada@example.com", "given_name": "augusta", "locale": "de", "plan": "pro"});
    assert!(consumer.subjects.values().any(|f| *f == ada_now));
    let text = format!("{:?}", consumer.records);
    for hidden in ["Secretname", &ada, &bob, "argon2"] {
        assert!(!text.contains(hidden), "{hidden}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_withdraws_is_disabled_or_erased_is_told_first_and_never_again() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let (mut people, mut seen) = (Vec::new(), Vec::new());
    for name in ["ada", "bob", "eve", "joe"] {
        let (id, at) = register(&server, name, true).await;
        people.push(id);
        seen.push(at);
    }
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.sees(&server, &seen).await;
    consumer.catch_up(&server, "", &seen[3]).await;
    assert_eq!(consumer.subjects.len(), 4);

    // A backlog, and behind it three who leave.
    for _ in 0..3 {
        for id in &people {
            upgrade(&server, id, "pro").await;
            rename(&server, id, "x").await;
            rename(&server, id, "y").await;
        }
    }
    let left = consent(&server, &people[0], "newsletter", false).await;
    let seen = [left, status(&server, &people[1], "disabled").await];
    let at = erase(&server, &people[2]).await;
    consumer.sees(&server, &seen).await;
    let before = consumer.records.len();
    consumer.page(&server, "limit=3", &at).await;
    let mut reasons: Vec<_> = consumer.records[before..]
        .iter()
        .map(|r| r["data"]["reason"].as_str().unwrap().to_owned())
        .collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["consent_withdrawn", "disabled", "erased"],
        "before the backlog"
    );
    assert_eq!(consumer.emails(), ["joe@example.com"]);
    consumer.catch_up(&server, "", &at).await;
    assert_eq!(consumer.emails(), ["joe@example.com"]);
    let told: Vec<_> = consumer.records[before + 3..]
        .iter()
        .map(|r| r["subject"].clone())
        .collect();
    assert!(told.iter().all(|s| *s == told[0]), "of nobody but joe: {told:?}");

    // A withdrawal of something else changes nothing; who comes back is seen again.
    consent(&server, &people[3], "product_updates", false).await;
    let seen = status(&server, &people[1], "active").await;
    consumer.sees(&server, &[seen]).await;
    let at = consent(&server, &people[0], "newsletter", true).await;
    consumer.catch_up(&server, "", &at).await;
    let at = upgrade(&server, &people[1], "enterprise").await;
    consumer.catch_up(&server, "", &at).await;
    assert_eq!(
        consumer.emails(),
        ["ada@example.com", "bob@example.com", "joe@example.com"]
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_from_the_beginning_shows_nobody_who_left() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let mut seen = Vec::new();
    for i in 0..40 {
        let (id, at) = register(&server, &format!("p{i}"), true).await;
        seen.push(match i % 4 {
            0 => consent(&server, &id, "newsletter", false).await,
            1 => erase(&server, &id).await,
            2 => upgrade(&server, &id, "pro").await,
            _ => at,
        });
    }
    for from in ["beginning", "snapshot"] {
        let mut consumer = Consumer::of(&server, "marketing").await;
        consumer.sees(&server, &seen).await;
        consumer
            .catch_up(&server, &format!("from={from}&limit=7"), &seen[0])
            .await;
        let mut expected: Vec<_> = (0..40)
            .filter(|i| i % 4 > 1)
            .map(|i| format!("p{i}@example.com"))
            .collect();
        expected.sort_unstable();
        assert_eq!(consumer.emails(), expected, "{from}");
        assert!(!consumer.kinds().contains(&"subject.withdrawn"), "{from}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_feeds_cannot_be_joined_and_a_feed_without_personal_fields_needs_no_purpose() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let counts = json!({"fields": ["plan", "created_at"], "events": ["user.registered", "login.succeeded"]});
    define(&server, "counts", &counts).await;
    let (_, at) = register(&server, "ada", true).await;
    server
        .login("ada@example.com", crate::support::server::PASSWORD)
        .await
        .expect(200);
    let (mut marketing, mut counting) = (
        Consumer::of(&server, "marketing").await,
        Consumer::of(&server, "counts").await,
    );
    marketing.catch_up(&server, "", &at).await;
    counting.catch_up(&server, "from=beginning", &at).await;
    let login = |c: &Consumer| c.kinds().contains(&"login.succeeded");
    for _ in 0..100 {
        if login(&counting) {
            break;
        }
        counting.catch_up(&server, "wait=1", &at).await;
    }
    assert_eq!(counting.kinds(), ["user.registered", "login.succeeded"]);
    let ids = |c: &Consumer| {
        let all = c
            .records
            .iter()
            .flat_map(|r| [r["id"].clone(), r["subject"].clone()]);
        all.collect::<Vec<_>>()
    };
    assert!(ids(&marketing).iter().all(|id| !ids(&counting).contains(id)));
    assert_eq!(counting.records[0]["data"]["fields"]["plan"], "free");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_after_the_retention_is_told_the_present_in_place_of_the_past() {
    let server = Server::start().await;
    let definition = json!({
        "purpose": "newsletter", "fields": ["email", "plan"], "events": ["plan.upgraded"], "retention_seconds": 15,
    });
    define(&server, "marketing", &definition).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    upgrade(&server, &ada, "pro").await;
    let (bob, _) = register(&server, "bob", true).await;
    let upgraded = upgrade(&server, &bob, "pro").await;
    // The retention itself is what is waited for. It is long enough for what comes now to be read while it is young.
    tokio::time::sleep(Duration::from_millis(15_200)).await;
    let (eve, _) = register(&server, "eve", true).await;
    let at = upgrade(&server, &eve, "pro").await;
    consumer.sees(&server, &[upgraded]).await;
    consumer.records.clear();
    consumer.catch_up(&server, "", &at).await;
    assert_eq!(
        consumer.emails(),
        ["ada@example.com", "bob@example.com", "eve@example.com"]
    );
    assert!(consumer.subjects.values().all(|fields| fields["plan"] == "pro"));
    let upgrades = consumer
        .kinds()
        .iter()
        .filter(|kind| **kind == "plan.upgraded")
        .count();
    assert_eq!(upgrades, 1, "only what is young enough: {:?}", consumer.kinds());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_says_what_it_is_about_and_a_state_does_not() {
    let server = Server::start().await;
    let definition = json!({
        "purpose": "newsletter", "fields": ["plan"],
        "events": ["plan.upgraded", "consent.granted", "login.succeeded", "user.profile_changed"],
    });
    define(&server, "sales", &definition).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "sales").await;
    consumer.catch_up(&server, "", &at).await;
    upgrade(&server, &ada, "pro").await;
    consent(&server, &ada, "product_updates", true).await;
    let renamed = rename(&server, &ada, "augusta").await;
    let login = server.login("ada@example.com", PASSWORD).await.expect(200);
    consumer.sees(&server, &[renamed]).await;
    consumer.catch_up(&server, "", login.text("position")).await;

    let schema = server
        .get("/v1/feeds/sales/versions/1/schema")
        .admin()
        .send()
        .await
        .expect(200);
    let known = &schema.body["oneOf"][0]["properties"]["details"]["properties"];
    let mut told: Vec<_> = consumer.kinds().into_iter().zip(&consumer.records).collect();
    told.sort_by_key(|(kind, _)| *kind);
    let told: Vec<_> = told
        .into_iter()
        .map(|(kind, record)| {
            let mut details = record["data"]["details"].clone();
            if let Some(details) = details.as_object_mut() {
                assert!(
                    details.keys().all(|name| known.get(name).is_some()),
                    "{details:?}"
                );
                // When it was written.
                assert_eq!(details.remove("effective_at").is_some(), kind == "plan.upgraded");
            }
            (kind, details)
        })
        .collect();
    let expected = [
        (
            "consent.granted",
            json!({"purpose": "product_updates", "channel": "email", "method": "recorded"}),
        ),
        ("login.succeeded", json!({"method": "password"})),
        ("plan.upgraded", json!({"from": "free", "to": "pro"})),
        ("subject.snapshot", json!(null)),
        ("user.profile_changed", json!(null)),
    ];
    assert_eq!(told, expected);
    server.stop().await;
}

/// The consumer's cursor, with another place in the first partition.
fn moved(server: &Server, consumer: &Consumer, to: impl Fn(&mut Lane)) -> String {
    let node = &server.started.node;
    let scope = Scope {
        tenant: &node.config.tenant,
        feed: &consumer.feed,
    };
    let text = consumer.cursor.as_ref().unwrap();
    let mut cursor = Cursor::open(text, &node.cursors, scope, node.log.partitions()).unwrap();
    to(&mut cursor.lanes[0]);
    cursor.seal(&node.cursors, scope).unwrap()
}

/// As where the log was restored from a backup: what is written at these places anew would never be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beyond_the_end_of_the_log_is_none() {
    let server = Server::start().await;
    define_marketing(&server).await;
    let logins = json!({"fields": ["plan"], "events": ["login.succeeded"]});
    define(&server, "logins", &logins).await;
    let (_, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    let mut other = Consumer::of(&server, "logins").await;
    other.catch_up(&server, "", &at).await;
    let end = async |stream| server.started.node.log.end(stream, Partition(0)).await.unwrap();
    let (identity, activity) = (end(Stream::Identity).await, end(Stream::Activity).await);

    let at_the_end = moved(&server, &consumer, |lane| lane.withdrawals = identity);
    let page = consumer.ask(&server, &format!("after={at_the_end}"), &at).await;
    page.expect(200);
    let beyond = moved(&server, &consumer, |lane| lane.withdrawals = identity + 1);
    let page = consumer.ask(&server, &format!("after={beyond}"), &at).await;
    let page = page.problem(400, "invalid-cursor");
    assert_eq!(page.body["errors"][0]["field"], "after");
    assert!(page.text("detail").contains("begin anew"), "{}", page.body);
    let stream = server.get("/v1/feeds/marketing/events").auth(&consumer.key);
    let stream = stream
        .with("accept", "text/event-stream")
        .with("last-event-id", &beyond);
    let refused = stream.send().await.problem(400, "invalid-cursor");
    assert_eq!(refused.body["errors"][0]["field"], "Last-Event-ID");
    let acknowledged = server
        .post("/v1/feeds/marketing/acknowledgements")
        .auth(&consumer.key)
        .json(&json!({"cursor": beyond}));
    let refused = acknowledged.send().await.problem(400, "invalid-cursor");
    assert_eq!(refused.body["errors"][0]["field"], "cursor");

    // Where activity ends is the business of those who follow it.
    for (consumer, status) in [(&consumer, 200), (&other, 400)] {
        let beyond = moved(&server, consumer, |lane| lane.activity = activity + 1);
        let page = consumer.ask(&server, &format!("after={beyond}"), &at).await;
        page.expect(status);
    }
    server.stop().await;
}
