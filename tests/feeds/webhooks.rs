//! Records that are posted: in order, signed, tried again, given up, sent again, and held back where consent is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use gatelog::config::Config;
use gatelog::feeds::push::Pushes;
use gatelog::feeds::webhook::WebhookConfig;
use gatelog_events::clock;
use gatelog_events::ids::Position;
use gatelog_projections::webhooks::Hook;
use serde_json::{Value, json};

use super::consumer::*;
use crate::support::receiver::{Receiver, Taken};
use crate::support::server::{Answer, Server};

pub const HOOK: &str = "/v1/feeds/marketing/webhooks/crm";

/// A node that posts to this machine, and gives a record up after `lifetime`.
pub async fn start(lifetime: Duration) -> (Server, tokio::task::JoinHandle<()>) {
    start_with(lifetime, |_| {}).await
}

async fn start_with(
    lifetime: Duration,
    change: impl FnOnce(&mut Config),
) -> (Server, tokio::task::JoinHandle<()>) {
    let server = Server::start_with(|config| {
        change(config);
        let here = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhooks = WebhookConfig::new(true, here, lifetime);
        config.webhooks.breaker.pause = Duration::from_millis(300);
    })
    .await;
    let pushes = Pushes::new(server.started.node.clone(), None);
    let pushing = tokio::spawn(pushes.run());
    (server, pushing)
}

pub async fn set(server: &Server, receiver: &Receiver) -> Answer {
    let answer = server
        .put(HOOK)
        .admin()
        .json(&json!({"url": receiver.url}))
        .send()
        .await
        .expect(200);
    receiver.trust(&[answer.text("secret")]);
    answer
}

pub async fn post(server: &Server, path: &str, body: &Value) -> Answer {
    server
        .post(&format!("{HOOK}/{path}"))
        .admin()
        .json(body)
        .send()
        .await
}

pub async fn dead_letters(server: &Server) -> Vec<Value> {
    let path = format!("{HOOK}/dead-letters");
    let page = server.get(&path).admin().send().await.expect(200);
    page.body["dead_letters"].as_array().unwrap().clone()
}

/// The dead letters, once they are so many.
pub async fn until_dead(server: &Server, so_many: usize) -> Vec<Value> {
    for _ in 0..3000 {
        let dead = dead_letters(server).await;
        if dead.len() == so_many {
            return dead;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not {so_many} dead letters: {:#?}", dead_letters(server).await);
}

/// Waits until all lanes have begun, so that of whoever comes now it is told what happens.
async fn until_begun(server: &Server) {
    let mut lag = Value::Null;
    for _ in 0..3000 {
        let call = server.get("/v1/feeds/marketing/status").admin();
        lag = call.send().await.expect(200).body["consumers"][0]["lag"].clone();
        if lag["partitions_begun"] == 8 && lag["snapshots_open"] == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not all lanes have begun: {lag}");
}

/// Waits until a lane has said that it is beyond what stands at `position`, and begins there again.
async fn until_said(server: &Server, position: &str) {
    let (node, at): (_, Position) = (&server.started.node, position.parse().unwrap());
    let hook = Hook {
        tenant: &node.config.tenant,
        feed: "marketing",
        webhook: "crm",
    };
    for _ in 0..3000 {
        let said = node.views.webhook_progress(hook, at.partition).unwrap();
        if said.is_some_and(|place| place.snapshot.is_none() && place.identity > at.offset) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is not said that {position} is passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_everyone_and_then_what_happens_and_withdrawals_are_on_record() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    define_marketing(&server).await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "eve"] {
        people.push(register(&server, name, name != "eve").await.0);
    }
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    receiver
        .until("the snapshot", |r| {
            r.emails() == ["ada@example.com", "bob@example.com"]
        })
        .await;
    upgrade(&server, &people[0], "pro").await;
    consent(&server, &people[1], "newsletter", false).await;
    consent(&server, &people[2], "newsletter", true).await;
    receiver
        .until("the changes", |r| {
            r.emails() == ["ada@example.com", "eve@example.com"]
        })
        .await;
    erase(&server, &people[0]).await;
    receiver
        .until("the erasure", |r| r.emails() == ["eve@example.com"])
        .await;
    assert_eq!(receiver.forged(), 0);
    let ids: Vec<_> = receiver
        .taken()
        .into_iter()
        .map(|t| (t.id.clone(), t.event["id"].clone()))
        .collect();
    assert!(
        ids.iter().all(|(webhook, event)| event == webhook),
        "one id for both"
    );
    for _ in 0..3000 {
        let report = server
            .get("/v1/feeds/marketing/withdrawals")
            .admin()
            .send()
            .await
            .expect(200);
        let lines = report.body["withdrawals"].as_array().unwrap().clone();
        if lines.len() == 2 && lines.iter().all(|l| l["acknowledged_at"].is_string()) {
            pushing.abort();
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the withdrawals are not on record");
}

/// A receiver that has taken Ada's state and fails from then on at what concerns her; her id, and her name there.
async fn ada_is_not_taken(server: &Server) -> (Receiver, String, String) {
    define_marketing(server).await;
    let receiver = Receiver::start().await;
    set(server, &receiver).await;
    let (ada, _) = register(server, "ada", true).await;
    receiver.until("ada", |r| r.emails() == ["ada@example.com"]).await;
    let subject = receiver.taken()[0].event["subject"].as_str().unwrap().to_owned();
    receiver.answer(&subject, 500);
    (receiver, ada, subject)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_whom_there_is_much_to_tell_and_who_is_not_taken_holds_up_nobody() {
    let (server, pushing) = start_with(Duration::from_secs(60), |config| config.partitions = 1).await;
    let (receiver, ada, _) = ada_is_not_taken(&server).await;
    // More than a lane reads ahead where the receiver takes what it gets.
    for n in 0..600 {
        rename(&server, &ada, &format!("ada{n}")).await;
    }
    register(&server, "bob", true).await;
    receiver.until("the other", |r| r.emails().len() == 2).await;
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_is_not_taken_holds_up_nobody_and_becomes_a_dead_letter_that_is_sent_again() {
    let (server, pushing) = start(Duration::from_secs(5)).await;
    let (receiver, ada, subject) = ada_is_not_taken(&server).await;
    upgrade(&server, &ada, "pro").await;
    for name in ["bob", "eve", "joe"] {
        register(&server, name, true).await;
    }
    receiver.until("the others", |r| r.emails().len() == 4).await;
    receiver.until("tried again", |r| r.attempts() >= 6).await;
    let dead = until_dead(&server, 1).await;
    assert_eq!(dead[0]["status"], 500, "{dead:?}");
    assert_eq!(
        (&dead[0]["subject"], &dead[0]["user_id"]),
        (&json!(subject), &json!(ada))
    );
    let unknown = json!({"records": [uuid::Uuid::nil()]});
    post(&server, "dead-letters/redrive", &unknown)
        .await
        .problem(422, "invalid-input");

    // What is sent again says what may be said now.
    receiver.answer_well();
    rename(&server, &ada, "augusta").await;
    let before = receiver.taken().len();
    let redriven = post(&server, "dead-letters/redrive", &json!({}))
        .await
        .expect(200);
    assert_eq!(redriven.body["records"], 1);
    let position = redriven.headers["gatelog-position"].to_str().unwrap();
    assert!(position.starts_with("activity:"), "{position}");
    receiver
        .until("the dead letter", |r| {
            let taken = r.taken();
            taken[before..].iter().any(|t| t.id == dead[0]["record"])
        })
        .await;
    assert_eq!(receiver.state()[&subject]["given_name"], "augusta");
    until_dead(&server, 0).await;
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_while_the_receiver_is_away_is_told_first_and_nothing_of_them_is_posted() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    let (ada, _) = register(&server, "ada", true).await;
    let (bob, _) = register(&server, "bob", true).await;
    receiver.until("both", |r| r.emails().len() == 2).await;
    receiver.answer("", 503);
    for name in ["x", "y", "z"] {
        rename(&server, &ada, name).await;
        rename(&server, &bob, name).await;
    }
    receiver.until("it fails", |r| r.attempts() > 4).await;
    let before = receiver.taken().len();
    consent(&server, &ada, "newsletter", false).await;
    receiver.answer_well();
    receiver
        .until("the rest", |r| {
            let names: Vec<_> = r.state().values().map(|f| f["given_name"].clone()).collect();
            names == ["z"]
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rest = receiver.taken().split_off(before);
    let of_ada: Vec<_> = rest
        .iter()
        .filter(|t| t.event["data"].get("fields").is_none())
        .collect();
    assert_eq!(of_ada.len(), 1, "{rest:#?}");
    let subject = &of_ada[0].event["subject"];
    let hers: Vec<_> = rest.iter().filter(|t| t.event["subject"] == *subject).collect();
    // What was on its way when she withdrew may still arrive before; no more than that, and nothing after.
    assert!(
        hers.len() <= 2 && hers.last().unwrap().id == of_ada[0].id,
        "{rest:#?}"
    );
    assert_eq!(receiver.emails(), ["bob@example.com"]);
    assert_eq!(receiver.state().values().next().unwrap()["given_name"], "z");
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_one_subject_come_one_after_another_and_of_many_at_once() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    let definition =
        json!({"purpose": "newsletter", "fields": ["given_name"], "events": ["user.profile_changed"]});
    define(&server, "marketing", &definition).await;
    let receiver = Receiver::start().await;
    // Longer than a busy machine lets one request wait for another.
    receiver.delay(Duration::from_millis(300));
    let body = json!({"url": receiver.url, "concurrency": 3});
    let answer = server.put(HOOK).admin().json(&body).send().await.expect(200);
    receiver.trust(&[answer.text("secret")]);
    // A state would be told as it is when it is its turn, with the sequence of what comes after it.
    until_begun(&server).await;
    let mut people = Vec::new();
    for i in 0..6 {
        people.push(register(&server, &format!("p{i}"), true).await.0);
    }
    for n in 0..5 {
        for id in &people {
            rename(&server, id, &format!("name{n}")).await;
        }
    }
    receiver.until("all", |r| r.distinct().len() == 36).await;
    assert!(
        (2..=3).contains(&receiver.most()),
        "{} at a time",
        receiver.most()
    );
    let mut last = std::collections::HashMap::new();
    for taken in receiver.taken() {
        let sequence = taken.event["sequence"].as_str().unwrap().to_owned();
        let subject = taken.event["subject"].as_str().unwrap().to_owned();
        let before = last.insert(subject, sequence.clone());
        // A delivery may come twice.
        assert!(before.is_none_or(|b| b <= sequence), "in order");
    }
    pushing.abort();
    server.stop().await;
}

/// How many people something was said of.
fn people(receiver: &Receiver) -> usize {
    let taken = receiver.taken();
    let subjects: BTreeSet<_> = taken.iter().map(|t| t.event["subject"].as_str()).collect();
    subjects.len()
}

fn knows_plan(receiver: &Receiver, plan: &str) -> bool {
    let state = receiver.state();
    state.values().any(|fields| fields["plan"] == plan)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_goes_on_after_a_restart_and_can_begin_anew() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    let (ada, at) = register(&server, "ada", true).await;
    receiver.until("ada", |r| r.emails().len() == 1).await;
    until_said(&server, &at).await;
    pushing.abort();
    let middle = clock::now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    // Before bob: a lane that has not quite ended may post him.
    receiver.forget();
    register(&server, "bob", true).await;
    let pushing = tokio::spawn(Pushes::new(server.started.node.clone(), None).run());
    receiver
        .until("bob", |r| r.emails().contains(&"bob@example.com".to_owned()))
        .await;
    assert_eq!(people(&receiver), 1, "ada again: {:#?}", receiver.taken());

    for (from, expected) in [
        (json!("snapshot"), 2),
        (json!("beginning"), 2),
        (json!(middle), 1),
    ] {
        receiver.forget();
        post(&server, "replay", &json!({"from": from})).await.expect(200);
        receiver.until(&from.to_string(), |r| people(r) >= expected).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let taken = receiver.taken();
        // Of one and the same there may be two records: as they are, and what led to it.
        assert_eq!(people(&receiver), expected, "{from}: {taken:#?}");
        let snapshot = |t: &Taken| t.event["type"] == "com.gatelog.feed.subject.snapshot.v1";
        assert!(taken.iter().all(snapshot), "{from}: {taken:#?}");
    }
    post(&server, "replay", &json!({"from": "yesterday"}))
        .await
        .problem(422, "invalid-input");

    // A new secret signs beside the former one, and alone once that is over.
    let old = server
        .put(HOOK)
        .admin()
        .json(&json!({"url": receiver.url}))
        .send()
        .await
        .expect(200);
    let new = post(&server, "secret", &json!({"overlap_seconds": 3600}))
        .await
        .expect(200);
    assert_ne!(old.text("secret"), new.text("secret"));
    receiver.forget();
    upgrade(&server, &ada, "pro").await;
    receiver
        .until("by the former secret", |r| knows_plan(r, "pro"))
        .await;
    receiver.trust(&[new.text("secret")]);
    upgrade(&server, &ada, "enterprise").await;
    receiver
        .until("by the new secret", |r| knows_plan(r, "enterprise"))
        .await;
    assert_eq!(receiver.forged(), 0);
    post(&server, "secret", &json!({"overlap_seconds": 0}))
        .await
        .expect(200);
    // What is posted before the lanes know of it is signed by both.
    for n in 0..60 {
        if receiver.forged() > 0 {
            break;
        }
        rename(&server, &ada, &format!("name{n}")).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(receiver.forged() > 0, "what the receiver cannot check is refused");
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_is_asked_no_more() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    receiver.answer("", 410);
    register(&server, "ada", true).await;
    let paused = async |expected: Value| {
        for _ in 0..3000 {
            let hooks = server
                .get("/v1/feeds/marketing/webhooks")
                .admin()
                .send()
                .await
                .expect(200);
            if hooks.body["webhooks"]["crm"]["paused"] == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not {expected}");
    };
    paused(json!("gone")).await;
    let attempts = receiver.attempts();
    register(&server, "bob", true).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(receiver.attempts(), attempts);
    receiver.answer_well();
    set(&server, &receiver).await;
    receiver.until("it goes on", |r| r.emails().len() == 2).await;
    post(&server, "pause", &json!({})).await.expect(200);
    paused(json!("operator")).await;
    server.delete(HOOK).admin().send().await.expect(200);
    server
        .delete(HOOK)
        .admin()
        .send()
        .await
        .problem(404, "webhook-not-found");
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_was_not_done_with_its_first_records_owes_withdrawals_all_the_same() {
    let server = Server::start_with(|config| {
        let here = vec!["127.0.0.0/8".parse().unwrap()];
        config.webhooks = WebhookConfig::new(true, here, Duration::from_secs(60));
        config.partitions = 1;
    })
    .await;
    let pushing = tokio::spawn(Pushes::new(server.started.node.clone(), None).run());
    define_marketing(&server).await;
    register(&server, "ada", true).await;
    let (bob, at) = register(&server, "bob", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    let known = consumer.subjects.iter();
    let ada: Vec<_> = known.filter(|(_, f)| f["email"] == "ada@example.com").collect();
    let receiver = Receiver::start().await;
    // Her record is tried again and again, so that nothing after it is done.
    receiver.answer(ada[0].0, 500);
    set(&server, &receiver).await;
    receiver.until("bob", |r| r.emails() == ["bob@example.com"]).await;
    post(&server, "pause", &json!({})).await.expect(200);
    let mut lanes = json!(null);
    for _ in 0..3000 {
        let status = server.get("/v1/feeds/marketing/status").admin().send().await;
        lanes = status.expect(200).body["consumers"][0]["this_node"]["partitions"].clone();
        if lanes == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lanes, 0, "its lane ends");
    consent(&server, &bob, "newsletter", false).await;
    set(&server, &receiver).await;
    receiver
        .until("bob's withdrawal", |r| r.emails().is_empty())
        .await;
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_a_feed_is_retired_is_posted_when_it_comes_back() {
    let (server, pushing) = start(Duration::from_secs(60)).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    register(&server, "ada", true).await;
    receiver.until("ada", |r| r.emails().len() == 1).await;
    receiver.answer("", 500);
    register(&server, "bob", true).await;
    receiver.until("bob is tried", |r| r.attempts() > 1).await;
    server
        .delete("/v1/feeds/marketing")
        .admin()
        .send()
        .await
        .expect(200);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    receiver.answer_well();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(receiver.emails(), ["ada@example.com"], "nothing leaves meanwhile");
    define_marketing(&server).await;
    receiver.until("bob", |r| r.emails().len() == 2).await;
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_may_be_posted_is_refused() {
    let server = Server::start().await;
    define_marketing(&server).await;
    for url in [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://user:secret@example.com/",
        "https://example.com/#part",
        "ftp://example.com/",
        "example.com",
    ] {
        let refused = server.put(HOOK).admin().json(&json!({"url": url})).send().await;
        let refused = refused.problem(422, "invalid-input");
        assert_eq!(refused.body["errors"][0]["field"], "url", "{url}");
        assert!(!refused.body.to_string().contains("secret"), "{}", refused.body);
    }
    for (body, field) in [
        (json!({"url": "https://example.com/", "version": 2}), "version"),
        (
            json!({"url": "https://example.com/", "concurrency": 0}),
            "concurrency",
        ),
    ] {
        let refused = server
            .put(HOOK)
            .admin()
            .json(&body)
            .send()
            .await
            .problem(422, "invalid-input");
        assert_eq!(refused.body["errors"][0]["field"], field);
    }
    let other = "/v1/feeds/none/webhooks/crm";
    let call = server
        .put(other)
        .admin()
        .json(&json!({"url": "https://example.com/"}));
    call.send().await.problem(404, "feed-not-found");
    server.stop().await;
}
