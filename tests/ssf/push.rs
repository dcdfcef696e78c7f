//! Streams that are pushed (RFC 8935).

use std::time::Duration;

use gatelog_events::ids::Partition;
use gatelog_projections::signals;
use serde_json::{Value, json};
use uuid::Uuid;

use super::parties::*;
use crate::support::server::{PASSWORD, Server};

const MINUTE: Duration = Duration::from_secs(60);

/// Waits until it is on record that so many were taken beyond the first that was not, in the only partition.
async fn until_on_record(server: &Server, party: &Party, so_many: usize) {
    let (node, id): (_, Uuid) = (&server.started.node, party.id().parse().unwrap());
    let tenant = &node.config.tenant;
    let mut found = 0;
    for _ in 0..3000 {
        let beyond = node
            .views
            .signals(|v| signals::beyond(v, tenant, id, Partition(0)));
        found = beyond.unwrap().len();
        if found >= so_many {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("only {found} are on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_hears_of_everything_in_order() {
    let (server, transmitting) = start(MINUTE).await;
    person(&server, "before").await;
    let receiver = PushReceiver::start().await;
    receiver.stream(&server, &ALL).await;
    let (ada, token) = person(&server, "ada").await;
    let session = log_out(&server, &ada, &token).await;
    receiver
        .until("the session's end", |r| r.taken().len() == 2)
        .await;
    set_password(&server, &ada, "eleven yellow herons argue").await;
    set_account(&server, &ada, "disabled").await;
    set_account(&server, &ada, "active").await;
    set_email(&server, &ada, "augusta@example.com").await;
    receiver.until("the rest", |r| r.taken().len() == 8).await;
    erase(&server, &ada).await;
    receiver.until("the end", |r| r.taken().len() == 10).await;
    let taken = receiver.taken();
    let mut of_session: Vec<Value> = Vec::new();
    let mut kinds = Vec::new();
    let user = json!({"format": "iss_sub", "iss": ISSUER, "sub": ada});
    for claims in &taken {
        let (kind, event) = event(claims);
        assert!(event["event_timestamp"].is_i64(), "{kind}");
        let subject = &claims["sub_id"];
        match subject["format"].as_str().unwrap() {
            "complex" => of_session.push(subject.clone()),
            "email" => {
                assert_eq!(kind, "risc/identifier-changed");
                assert_eq!(subject["email"], "ada@example.com");
                assert_eq!(event["new-value"], "augusta@example.com");
            }
            _ => assert_eq!(*subject, user, "{kind}"),
        }
        kinds.push(kind);
    }
    assert_eq!(
        of_session,
        [json!({"format": "complex", "user": user, "session": {"format": "opaque", "id": session}})]
    );
    // Sessions end in the activity stream, beside what happens to the account.
    assert_eq!(
        kinds[2..],
        [
            "caep/credential-change",
            "caep/session-revoked",
            "risc/account-disabled",
            "caep/session-revoked",
            "risc/account-enabled",
            "risc/identifier-changed",
            "risc/account-purged",
            "caep/session-revoked",
        ]
    );
    kinds.truncate(2);
    kinds.sort();
    assert_eq!(kinds, ["caep/credential-change", "caep/session-revoked"]);
    let (_, changed) = event(&taken[2]);
    assert_eq!(
        (
            &changed["change_type"],
            &changed["credential_type"],
            &changed["initiating_entity"]
        ),
        (&json!("update"), &json!("password"), &json!("admin"))
    );
    assert_eq!(taken[2]["txn"], taken[3]["txn"], "one cause");
    assert!(changed["reason_admin"]["en"].is_string());
    assert!(
        receiver
            .authorizations()
            .iter()
            .all(|a| a.as_deref() == Some("Bearer hush"))
    );
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_asked_for_is_told() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    receiver.stream(&server, &["risc/account-purged"]).await;
    let (ada, _) = person(&server, "ada").await;
    set_password(&server, &ada, "eleven yellow herons argue").await;
    set_email(&server, &ada, "augusta@example.com").await;
    erase(&server, &ada).await;
    receiver.until("the end", |r| !r.taken().is_empty()).await;
    assert_eq!(receiver.kinds(), ["risc/account-purged"]);
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hears_of_sessions_only_hears_that_an_erasure_ended_them() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    receiver.stream(&server, &["caep/session-revoked"]).await;
    let (ada, _) = person(&server, "ada").await;
    erase(&server, &ada).await;
    receiver.until("the end", |r| !r.taken().is_empty()).await;
    let claims = &receiver.taken()[0];
    let (kind, revoked) = event(claims);
    assert_eq!(kind, "caep/session-revoked");
    assert_eq!(
        revoked["reason_admin"]["en"],
        "The account was erased; all sessions have ended"
    );
    assert_eq!(
        claims["sub_id"],
        json!({"format": "iss_sub", "iss": ISSUER, "sub": ada})
    );
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_comes_with_its_state_and_not_too_often() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    let party = receiver.stream(&server, &[]).await;
    party.verify(&server, "state-1").await.expect(204);
    let refused = party.verify(&server, "state-2").await;
    let refused = refused.problem(429, "too-many-verifications");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=10).contains(&wait));
    receiver.until("the event", |r| !r.taken().is_empty()).await;
    let claims = &receiver.taken()[0];
    assert_eq!(
        event(claims),
        ("ssf/verification".to_owned(), json!({"state": "state-1"}))
    );
    assert_eq!(claims["sub_id"], json!({"format": "opaque", "id": party.id()}));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.attempts(), 1, "once");
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_paused_comes_later_in_order_and_while_disabled_never() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    let party = receiver
        .stream(&server, &["risc/account-disabled", "risc/account-enabled"])
        .await;
    let (ada, _) = person(&server, "ada").await;
    party.set_status(&server, "paused").await;
    for status in ["disabled", "active", "disabled", "active"] {
        set_account(&server, &ada, status).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.attempts(), 0);
    party.set_status(&server, "enabled").await;
    receiver.until("what was held", |r| r.taken().len() == 4).await;
    let pair = ["risc/account-disabled", "risc/account-enabled"];
    assert_eq!(receiver.kinds(), [pair, pair].concat());
    party.set_status(&server, "disabled").await;
    for status in ["disabled", "active"] {
        set_account(&server, &ada, status).await;
    }
    party.set_status(&server, "enabled").await;
    set_account(&server, &ada, "disabled").await;
    receiver.until("what came after", |r| r.taken().len() == 5).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.kinds()[4..], ["risc/account-disabled"]);
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_is_rejected_is_given_up_and_holds_up_nobody() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    let party = receiver
        .stream(&server, &["risc/account-disabled", "risc/account-enabled"])
        .await;
    let (ada, _) = person(&server, "ada").await;
    let error = |code: &str| json!({"err": code, "description": "<script>no</script>"});
    receiver.answer_next(400, error("invalid_audience"));
    set_account(&server, &ada, "disabled").await;
    set_account(&server, &ada, "active").await;
    receiver.until("the next one", |r| !r.taken().is_empty()).await;
    assert_eq!(receiver.kinds(), ["risc/account-enabled"]);
    let dead = party.dead_letters(&server, 1).await;
    assert_eq!(dead[0]["reason"], "the receiver rejected it: invalid_audience");
    assert_eq!(
        (&dead[0]["user_id"], &dead[0]["status"]),
        (&json!(ada), &json!(400))
    );
    // Who may not send may be allowed to later, and a key that is not known yet be fetched: it is tried again.
    receiver.answer_next(400, error("authentication_failed"));
    receiver.answer_next(400, error("invalid_key"));
    set_account(&server, &ada, "disabled").await;
    receiver
        .until("it is taken at last", |r| r.taken().len() == 2)
        .await;
    assert_eq!(party.dead_letters(&server, 1).await.len(), 1);
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_gets_everything_in_order_also_after_a_restart() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    receiver
        .stream(&server, &["risc/account-disabled", "risc/account-enabled"])
        .await;
    let (ada, _) = person(&server, "ada").await;
    let (bob, _) = person(&server, "bob").await;
    receiver.answer(503, Value::Null);
    for _ in 0..3 {
        for user in [&ada, &bob] {
            set_account(&server, user, "disabled").await;
            set_account(&server, user, "active").await;
        }
    }
    receiver.until("it fails", |r| r.attempts() > 4).await;
    transmitting.abort();
    let transmitting = transmit(&server);
    receiver.answer_well();
    let of = |r: &PushReceiver, user: &str| -> Vec<String> {
        let taken = r.taken();
        let own = taken.iter().filter(|c| c["sub_id"]["sub"] == user);
        own.map(|c| event(c).0).collect()
    };
    receiver
        .until("everything", |r| of(r, &ada).len() >= 6 && of(r, &bob).len() >= 6)
        .await;
    let pair = ["risc/account-disabled", "risc/account-enabled"];
    for user in [&ada, &bob] {
        assert_eq!(of(&receiver, user), [pair, pair, pair].concat());
    }
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_does_not_come_again_because_of_what_is_not() {
    let (server, transmitting) = start_with(MINUTE, |config| config.partitions = 1).await;
    let receiver = PushReceiver::start().await;
    let party = receiver
        .stream(&server, &["risc/account-disabled", "risc/account-enabled"])
        .await;
    let (ada, _) = person(&server, "ada").await;
    let (bob, _) = person(&server, "bob").await;
    receiver.refuse(&ada);
    set_account(&server, &ada, "disabled").await;
    for _ in 0..5 {
        set_account(&server, &bob, "disabled").await;
        set_account(&server, &bob, "active").await;
    }
    receiver.until("bob's", |r| r.taken().len() == 10).await;
    // A stream that is changed in any way has its lanes begin anew; they say first what was taken.
    let delivery = json!({"method": PUSH, "endpoint_url": receiver.url});
    let change = json!({"stream_id": party.id(), "description": "for the gateway", "delivery": delivery});
    let call = server.call(reqwest::Method::PATCH, STREAMS).auth(&party.key);
    call.json(&change).send().await.expect(200);
    // And a node says it each second. One that is killed before would have it come again, as it may.
    until_on_record(&server, &party, 10).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    transmitting.abort();
    let transmitting = transmit(&server);
    receiver.answer_well();
    receiver.until("ada's", |r| r.taken().len() == 11).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let taken = receiver.taken();
    assert_eq!(receiver.times_taken(), 11, "none twice: {:?}", receiver.kinds());
    assert_eq!(taken[10]["sub_id"]["sub"], json!(ada));
    // The address is the same, and so the header stays.
    let seen = receiver.authorizations();
    assert!(
        seen.iter().all(|a| a.as_deref() == Some("Bearer hush")),
        "{seen:?}"
    );
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_whom_nothing_is_taken_holds_up_nobody_however_much_there_is() {
    let (server, transmitting) = start_with(10 * MINUTE, |config| config.partitions = 1).await;
    let receiver = PushReceiver::start().await;
    receiver
        .stream(&server, &["risc/account-disabled", "risc/account-enabled"])
        .await;
    let (ada, _) = person(&server, "ada").await;
    let (bob, _) = person(&server, "bob").await;
    receiver.refuse(&ada);
    // More than a lane reads ahead where the receiver takes what it gets.
    for _ in 0..270 {
        set_account(&server, &ada, "disabled").await;
        set_account(&server, &ada, "active").await;
    }
    set_account(&server, &bob, "disabled").await;
    receiver.until("bob's", |r| !r.taken().is_empty()).await;
    assert_eq!(receiver.taken()[0]["sub_id"]["sub"], json!(bob));
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_more_hears_of_it_from_then_on() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    let party = receiver.stream(&server, &["risc/account-purged"]).await;
    let (ada, _) = person(&server, "ada").await;
    set_password(&server, &ada, "eleven yellow herons argue").await;
    set_account(&server, &ada, "disabled").await;
    set_account(&server, &ada, "active").await;
    let told = [
        "risc/account-disabled",
        "risc/account-enabled",
        "caep/credential-change",
    ];
    let change = json!({"stream_id": party.id(), "events_requested": uris(&told)});
    let call = server.call(reqwest::Method::PATCH, STREAMS).auth(&party.key);
    call.json(&change).send().await.expect(200);
    set_account(&server, &ada, "disabled").await;
    set_account(&server, &ada, "active").await;
    set_password(&server, &ada, PASSWORD).await;
    receiver
        .until("what came then", |r| r.taken().len() >= told.len())
        .await;
    assert_eq!(receiver.kinds(), told);
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_whoever_was_erased_meanwhile_nothing_personal_leaves() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    let party = receiver.stream(&server, &ALL).await;
    let (ada, _) = person(&server, "ada").await;
    receiver.until("the password", |r| r.taken().len() == 1).await;
    party.set_status(&server, "paused").await;
    set_email(&server, &ada, "augusta@example.com").await;
    set_account(&server, &ada, "disabled").await;
    erase(&server, &ada).await;
    party.set_status(&server, "enabled").await;
    receiver
        .until("the account's end", |r| r.taken().len() == 5)
        .await;
    assert_eq!(
        receiver.kinds()[1..],
        [
            "risc/account-disabled",
            "caep/session-revoked",
            "risc/account-purged",
            "caep/session-revoked",
        ]
    );
    let said = json!(receiver.taken()).to_string();
    assert!(!said.contains("@example.com"), "{said}");
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_does_to_a_stream_its_receiver_hears_before_it_is_still() {
    let (server, transmitting) = start(MINUTE).await;
    let receiver = PushReceiver::start().await;
    let party = receiver.stream(&server, &["risc/account-disabled"]).await;
    let set = async |status: &str| {
        let body = json!({"stream_id": party.id(), "status": status, "reason": "maintenance"});
        server.post(STATUS).admin().json(&body).send().await.expect(200);
    };
    set("disabled").await;
    receiver.until("it is disabled", |r| r.taken().len() == 1).await;
    let (ada, _) = person(&server, "ada").await;
    set_account(&server, &ada, "disabled").await;
    set("enabled").await;
    receiver.until("it is enabled", |r| r.taken().len() == 2).await;
    let said: Vec<_> = receiver.taken().iter().map(event).collect();
    let updated = |status: &str| {
        (
            "ssf/stream-updated".to_owned(),
            json!({"status": status, "reason": "maintenance"}),
        )
    };
    assert_eq!(said, [updated("disabled"), updated("enabled")]);
    transmitting.abort();
    server.stop().await;
}
