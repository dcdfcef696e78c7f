//! Dead letters that are sent again: what is refused again, what is not true any more, what is lost, and very many.

use std::time::Duration;

use futures::future::join_all;
use gatelog::feeds::push::Pushes;
use gatelog::writer::{Command, Request};
use gatelog_events::commit::Subject;
use gatelog_events::domain::webhook::{DeadLetter, Told};
use gatelog_events::domain::{Actor, feed};
use gatelog_events::ids::{EventId, Partition, Stream, UserId};
use gatelog_projections::webhooks::Hook;
use serde_json::{Value, json};
use uuid::Uuid;

use super::connectors::{self, Vendor};
use super::consumer::*;
use super::webhooks::{dead_letters, post, set, start, until_dead};
use crate::support::receiver::Receiver;
use crate::support::server::Server;

/// A second attempt is made once this is over, and it is the last.
const LIFETIME: Duration = Duration::from_secs(1);

async fn redrive(server: &Server, so_many: usize) {
    let redriven = post(server, "dead-letters/redrive", &json!({})).await;
    assert_eq!(redriven.expect(200).body["records"], so_many);
}

/// The only dead letter, once it is on the list again that was sent again.
async fn until_back(server: &Server, before: &Value) -> Value {
    for _ in 0..3000 {
        let dead = dead_letters(server).await;
        assert_eq!(dead.len(), 1, "{dead:#?}");
        if dead[0]["redriven_at"].is_null() && dead[0]["since"] != before["since"] {
            return dead[0].clone();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it is not back: {:#?}", dead_letters(server).await);
}

/// Waits until nothing was sent for longer than it takes a lane to look for dead letters that are to be sent again, and for
/// what failed to be tried again.
async fn until_quiet(sent: impl Fn() -> usize) {
    let mut before = sent();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = sent();
        if now == before {
            return;
        }
        before = now;
    }
    panic!("something is sent again and again: {before} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_again_stays_the_letter_that_it_was_and_is_not_sent_for_ever() {
    let (server, pushing) = start(LIFETIME).await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    // Else she may come both in the snapshot and by her consent.
    Consumer::of(&server, "marketing")
        .await
        .sees(&server, &[at])
        .await;
    let receiver = Receiver::start().await;
    receiver.answer("", 500);
    set(&server, &receiver).await;
    let first = until_dead(&server, 1).await.remove(0);
    // A state is named by the version of whom it is about, so that it would have another name now.
    consent(&server, &ada, "product_updates", true).await;
    let attempts = receiver.attempts();
    redrive(&server, 1).await;
    let second = until_back(&server, &first).await;
    assert!(receiver.attempts() > attempts);
    for field in ["record", "user_id", "subject", "status"] {
        assert_eq!(second[field], first[field], "{field}");
    }
    until_quiet(|| receiver.attempts()).await;

    // Also not by a lane that goes on from what was said.
    pushing.abort();
    let attempts = receiver.attempts();
    let pushing = tokio::spawn(Pushes::new(server.started.node.clone(), None).run());
    until_quiet(|| receiver.attempts()).await;
    assert_eq!(receiver.attempts(), attempts);
    assert_eq!(dead_letters(&server).await, [second]);

    receiver.answer_well();
    redrive(&server, 1).await;
    until_dead(&server, 0).await;
    until_quiet(|| receiver.attempts()).await;
    let taken = receiver.distinct();
    assert_eq!(taken.len(), 1, "{taken:#?}");
    assert_eq!(receiver.emails(), ["ada@example.com"]);
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vendor_refuses_again_is_on_the_list_again_and_is_not_sent_for_ever() {
    let (server, pushing) = connectors::start().await;
    let (_, at) = register(&server, "ada", true).await;
    Consumer::of(&server, "marketing")
        .await
        .sees(&server, &[at])
        .await;
    let vendor = Vendor::start(|_| (400, json!({"code": "bad_request"}))).await;
    connectors::set(&server, &connectors::segment(&vendor.url)).await;
    let mut letter = until_dead(&server, 1).await.remove(0);
    for _ in 0..2 {
        let calls = vendor.calls().len();
        redrive(&server, 1).await;
        let again = until_back(&server, &letter).await;
        assert_eq!(again["record"], letter["record"]);
        assert!(vendor.calls().len() > calls);
        letter = again;
    }
    until_quiet(|| vendor.calls().len()).await;
    pushing.abort();
    server.stop().await;
}

/// A state is named by a version. Whoever has a new one at each attempt is tried no longer than others.
#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_somebody_who_changes_all_the_time_is_given_up_too() {
    let (server, pushing) = start(LIFETIME).await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    let mut consumer = Consumer::of(&server, "marketing").await;
    consumer.catch_up(&server, "", &at).await;
    let receiver = Receiver::start().await;
    receiver.answer(consumer.subjects.keys().next().unwrap(), 500);
    let (bob, at) = register(&server, "bob", true).await;
    consumer.sees(&server, &[at]).await;
    set(&server, &receiver).await;
    let changing = async {
        for n in 0u64.. {
            consent(&server, &ada, "product_updates", n % 2 == 0).await;
            // What the receiver takes of others shows that it is there, so that it is not spared.
            rename(&server, &bob, &format!("name{n}")).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let dead = tokio::select! {
        dead = until_dead(&server, 1) => dead,
        () = changing => unreachable!(),
    };
    assert_eq!(
        (&dead[0]["user_id"], &dead[0]["status"]),
        (&json!(ada), &json!(500))
    );
    pushing.abort();
    server.stop().await;
}

/// The lines of the report on withdrawals that are about somebody.
async fn withdrawals_of(server: &Server, user: &str) -> Vec<Value> {
    let path = "/v1/feeds/marketing/withdrawals";
    let report = server.get(path).admin().send().await.expect(200);
    let mut lines = report.body["withdrawals"].as_array().unwrap().clone();
    lines.retain(|line| line["user_id"] == user);
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_that_is_not_true_any_more_is_not_told_when_it_is_sent_again() {
    let (server, pushing) = start(LIFETIME).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "eve"] {
        people.push(register(&server, name, true).await.0);
    }
    receiver.until("everyone", |r| r.emails().len() == 3).await;
    until_quiet(|| receiver.attempts()).await;
    receiver.answer("", 500);
    for id in &people {
        consent(&server, id, "newsletter", false).await;
    }
    let dead = until_dead(&server, 3).await;
    let subject = |id: &str| {
        let letter = dead.iter().find(|letter| letter["user_id"] == id);
        letter.unwrap()["subject"].clone()
    };
    receiver.answer_well();
    receiver.forget();
    // One is back, and of another more is known by now than that she withdrew.
    consent(&server, &people[0], "newsletter", true).await;
    erase(&server, &people[2]).await;
    receiver
        .until("what came since", |r| r.distinct().len() == 2)
        .await;
    receiver.forget();
    redrive(&server, 3).await;
    until_dead(&server, 0).await;
    until_quiet(|| receiver.attempts()).await;
    let told: Vec<_> = receiver
        .distinct()
        .into_iter()
        .map(|taken| (taken.event["subject"].clone(), taken.event["data"].clone()))
        .collect();
    let reason = json!({"reason": "consent_withdrawn"});
    assert_eq!(told, [(subject(&people[1]), reason)], "of bob alone");

    // On record is what was told.
    let mut bobs = Vec::new();
    for _ in 0..3000 {
        bobs = withdrawals_of(&server, &people[1]).await;
        if bobs.iter().all(|line| line["acknowledged_at"].is_string()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bobs.len(), 1, "{bobs:#?}");
    assert!(bobs[0]["delivered_at"].is_string() && bobs[0]["acknowledged_at"].is_string());
    let adas = withdrawals_of(&server, &people[0]).await;
    assert_eq!(adas.len(), 1, "{adas:#?}");
    assert_eq!(
        (&adas[0]["delivered_at"], &adas[0]["acknowledged_at"]),
        (&Value::Null, &Value::Null)
    );
    pushing.abort();
    server.stop().await;
}

fn hook(server: &Server) -> Hook<'_> {
    Hook {
        tenant: &server.started.node.config.tenant,
        feed: "marketing",
        webhook: "crm",
    }
}

/// Says in the log that a record about somebody was not taken. Its number is its id.
async fn bury(server: &Server, partition: Partition, record: u128, user: UserId, told: Told) {
    let node = &server.started.node;
    let letter = DeadLetter {
        feed: "marketing".into(),
        webhook: "crm".into(),
        record: Uuid::from_u128(record),
        user,
        told,
        attempts: 9,
        status: Some(500),
        reason: "the receiver answered 500".into(),
    };
    let request = Request {
        tenant: node.config.tenant.clone(),
        subject: Subject::Nobody,
        partition: Some(partition),
        command: Command::Feed(feed::Command::DeadLettered(letter)),
        actor: Actor::System,
        correlation_id: Uuid::nil(),
        idempotency: None,
        time: None,
        after: None,
    };
    node.router.submit(request).await.unwrap();
}

/// The reasons of all dead letters, and whether each is to be sent again.
fn reasons(server: &Server) -> Vec<(String, bool)> {
    let letters = server.started.node.views.dead_letters(hook(server), None, 10_000);
    let letters = letters.unwrap().into_iter();
    letters
        .map(|(_, _, dead)| (dead.letter.reason, dead.redriven_at.is_some()))
        .collect()
}

/// Waits until there are so many dead letters that nobody has asked for.
async fn until_waiting(server: &Server, so_many: usize) {
    let views = &server.started.node.views;
    let mut waiting = 0;
    for _ in 0..3000 {
        let letters = views.waiting_dead_letters(hook(server), 10_000);
        waiting = letters.unwrap().len();
        if waiting == so_many {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{waiting} wait, not {so_many}: {:#?}", reasons(server));
}

/// Retention may have cut off of the activity stream what they were to tell.
#[tokio::test(flavor = "multi_thread")]
async fn letters_whose_events_are_gone_are_on_the_list_and_keep_no_others_from_being_sent() {
    let (server, pushing) = start(LIFETIME).await;
    define_marketing(&server).await;
    let (ada, at) = register(&server, "ada", true).await;
    Consumer::of(&server, "marketing")
        .await
        .sees(&server, &[at])
        .await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    receiver.until("ada", |r| r.emails().len() == 1).await;
    // More than a lane takes up at once, and before the one that can be sent.
    const LOST: usize = 70;
    for record in 0..LOST as u128 {
        let gone = Told::Happened {
            stream: Stream::Activity,
            offset: 0,
            event_id: EventId(Uuid::nil()),
            as_state: false,
        };
        bury(
            &server,
            Partition(0),
            record,
            UserId(Uuid::from_u128(record)),
            gone,
        )
        .await;
    }
    let ada = UserId(ada.parse().unwrap());
    bury(&server, Partition(0), u128::MAX, ada, Told::State).await;
    until_waiting(&server, LOST + 1).await;
    receiver.forget();
    redrive(&server, LOST + 1).await;
    receiver.until("ada again", |r| r.emails().len() == 1).await;
    until_waiting(&server, LOST).await;
    for _ in 0..3000 {
        if reasons(&server).len() == LOST {
            break;
        }
        // Hers was taken, which is not said yet.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lost = "its event is not in the log any more, so that it cannot be sent again";
    assert_eq!(reasons(&server), vec![(lost.to_owned(), false); LOST]);
    pushing.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_of_very_many_can_be_sent_again() {
    let (server, pushing) = start(LIFETIME).await;
    define_marketing(&server).await;
    let receiver = Receiver::start().await;
    set(&server, &receiver).await;
    const MANY: u128 = 1100;
    for some in (0..MANY).collect::<Vec<_>>().chunks(100) {
        let buried = some.iter().map(|n| {
            // Nobody may see them any more, so that there is nothing to send.
            let user = UserId(Uuid::from_u128(*n));
            bury(&server, Partition((*n % 8) as u16), *n, user, Told::State)
        });
        join_all(buried).await;
    }
    until_waiting(&server, 1100).await;
    // The last of all, twice.
    let last = Uuid::from_u128(MANY - 1);
    let named = post(&server, "dead-letters/redrive", &json!({"records": [last, last]})).await;
    assert_eq!(named.expect(200).body["records"], 1);
    until_waiting(&server, 1099).await;
    redrive(&server, 1000).await;
    until_waiting(&server, 99).await;
    redrive(&server, 99).await;
    until_dead(&server, 0).await;
    redrive(&server, 0).await;
    let unknown = json!({"records": [last]});
    post(&server, "dead-letters/redrive", &unknown)
        .await
        .problem(422, "invalid-input");
    pushing.abort();
    server.stop().await;
}
