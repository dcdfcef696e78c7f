//! Streams that are polled (RFC 8936).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gatelog_events::clock;
use gatelog_events::ids::{Partition, Position, Stream};
use serde_json::{Value, json};

use super::parties::*;
use crate::support::process::{BOOTSTRAP, Process};
use crate::support::server::{PASSWORD, Server};

fn now() -> Value {
    json!({"returnImmediately": true})
}

fn names(sets: &[Value]) -> Vec<Value> {
    sets.iter().map(|s| s["jti"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_never_comes_back_and_the_rest_does() {
    let server = Server::start().await;
    person(&server, "before").await;
    let events = ["risc/account-disabled", "risc/account-enabled"];
    let party = Party::of(&server, json!({"method": POLL}), &events).await;
    assert_eq!(party.polled(&server, now()).await, (vec![], false));
    let mut people = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let (id, _) = person(&server, name).await;
        set_account(&server, &id, "disabled").await;
        people.push(id);
    }
    let (all, more) = party.polled(&server, now()).await;
    assert_eq!((all.len(), more), (3, false));
    let (again, _) = party.polled(&server, now()).await;
    assert_eq!(again, all, "the same SETs, to the byte");
    let (two, more) = party
        .polled(&server, json!({"returnImmediately": true, "maxEvents": 2}))
        .await;
    assert_eq!((two.len(), more), (2, true));
    // The one in the middle of time is taken, the others wait.
    let first_two = names(&all);
    let ack = json!({"returnImmediately": true, "ack": [first_two[1], "nonsense", uuid::Uuid::nil()]});
    let (rest, _) = party.polled(&server, ack.clone()).await;
    let mut expected = all.clone();
    expected.retain(|s| s["jti"] != first_two[1]);
    assert_eq!(names(&rest).len(), 2);
    assert!(rest.iter().all(|s| expected.contains(s)));
    assert_eq!(party.polled(&server, ack).await.0.len(), 2, "twice is once");
    // Only to acknowledge.
    let ack = json!({"maxEvents": 0, "ack": names(&rest)});
    assert_eq!(party.polled(&server, ack).await.0, Vec::<Value>::new());
    set_account(&server, &people[0], "active").await;
    let after = party.drain(&server).await;
    assert_eq!(kinds(&after), ["risc/account-enabled"]);
    assert!(party.drain(&server).await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_waits_for_something_to_tell() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-disabled"]).await;
    let (ada, _) = person(&server, "ada").await;
    let begun: Instant = clock::monotonic();
    let waiting = party.polled(&server, json!({}));
    let happening = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        set_account(&server, &ada, "disabled").await;
    };
    let ((sets, _), ()) = tokio::join!(waiting, happening);
    assert_eq!(kinds(&sets), ["risc/account-disabled"]);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_secs(20),
        "{took:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_and_a_pause() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-disabled"]).await;
    party.verify(&server, "hello").await.expect(204);
    let (sets, _) = party.polled(&server, now()).await;
    assert_eq!(
        event(&sets[0]),
        ("ssf/verification".to_owned(), json!({"state": "hello"}))
    );
    assert_eq!(party.drain(&server).await.len(), 1);
    party.set_status(&server, "paused").await;
    let (ada, _) = person(&server, "ada").await;
    set_account(&server, &ada, "disabled").await;
    assert!(party.drain(&server).await.is_empty());
    party.set_status(&server, "enabled").await;
    assert_eq!(kinds(&party.drain(&server).await), ["risc/account-disabled"]);
    let refused = party.poll(&server, json!({"maxEvents": "all"})).await;
    let refused = refused.problem(400, "invalid-stream");
    assert_eq!(refused.body["errors"][0]["field"], "maxEvents");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_will_not_take_does_not_come_back_and_is_on_record() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-disabled"]).await;
    let (ada, _) = person(&server, "ada").await;
    set_account(&server, &ada, "disabled").await;
    let (sets, _) = party.polled(&server, now()).await;
    let jti = sets[0]["jti"].as_str().unwrap();
    // A key may be fetched, and what is forbidden be allowed.
    for err in ["invalid_key", "authentication_failed", "access_denied"] {
        let errors = json!({"returnImmediately": true, "setErrs": {jti: {"err": err}}});
        assert_eq!(party.polled(&server, errors).await.0, sets, "{err}");
    }
    let errors = json!({
        "returnImmediately": true,
        "setErrs": {jti: {"err": "invalid_audience", "description": "not for us"}},
    });
    assert!(party.polled(&server, errors).await.0.is_empty());
    assert!(party.drain(&server).await.is_empty());
    let dead = party.dead_letters(&server, 1).await;
    assert_eq!(dead[0]["jti"], jti);
    assert_eq!(dead[0]["reason"], "the receiver rejected it: invalid_audience");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_whoever_was_erased_meanwhile_nothing_personal_is_polled() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &ALL).await;
    let (ada, _) = person(&server, "ada").await;
    set_email(&server, &ada, "augusta@example.com").await;
    let (sets, _) = party.polled(&server, now()).await;
    assert!(json!(sets).to_string().contains("augusta@example.com"));
    erase(&server, &ada).await;
    let sets = party.drain(&server).await;
    let mut told = kinds(&sets);
    told.sort();
    assert_eq!(
        told,
        [
            "caep/credential-change",
            "caep/session-revoked",
            "risc/account-purged"
        ]
    );
    assert!(!json!(sets).to_string().contains("@example.com"));
    // What cannot be told any more holds nothing up.
    let (bob, _) = person(&server, "bob").await;
    erase(&server, &bob).await;
    assert_eq!(party.drain(&server).await.len(), 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_behind_more_than_is_read_at_once_is_found() {
    let server = Server::start().await;
    let quiet = Party::of(&server, json!({"method": POLL}), &["risc/account-purged"]).await;
    let slow = Party::of(&server, json!({"method": POLL}), &["risc/account-disabled"]).await;
    let (ada, _) = person(&server, "ada").await;
    // Three things to tell each time, also that the sessions have ended.
    for _ in 0..400 {
        set_account(&server, &ada, "disabled").await;
        set_account(&server, &ada, "active").await;
    }
    assert_eq!(quiet.polled(&server, now()).await, (vec![], false));
    erase(&server, &ada).await;
    assert_eq!(kinds(&quiet.drain(&server).await), ["risc/account-purged"]);
    // The first is never acknowledged.
    let one = json!({"returnImmediately": true, "maxEvents": 1});
    let first = names(&slow.polled(&server, one).await.0).remove(0);
    let mut seen = BTreeSet::new();
    let mut ack: Vec<Value> = Vec::new();
    loop {
        let body = json!({"returnImmediately": true, "maxEvents": 256, "ack": ack});
        let (sets, _) = slow.polled(&server, body).await;
        ack = names(&sets);
        seen.extend(ack.iter().map(Value::to_string));
        ack.retain(|jti| *jti != first);
        if ack.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_acknowledged_is_given_up_in_the_end() {
    // Long enough that what comes later is polled while it is young, however busy the machine.
    let (server, transmitting) = start(Duration::from_secs(15)).await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-disabled"]).await;
    let (ada, _) = person(&server, "ada").await;
    let (bob, _) = person(&server, "bob").await;
    set_account(&server, &ada, "disabled").await;
    let (sets, _) = party.polled(&server, now()).await;
    assert_eq!(party.polled(&server, now()).await.0, sets);
    tokio::time::sleep(Duration::from_millis(15_100)).await;
    set_account(&server, &bob, "disabled").await;
    let (later, _) = party.polled(&server, now()).await;
    assert_eq!(later.len(), 1);
    assert_eq!(later[0]["sub_id"]["sub"], json!(bob));
    let dead = party.dead_letters(&server, 1).await;
    assert_eq!(
        (&dead[0]["jti"], &dead[0]["attempts"]),
        (&sets[0]["jti"], &json!(2))
    );
    assert_eq!(
        dead[0]["reason"],
        "the receiver did not acknowledge it in all the time"
    );
    assert_eq!(party.polled(&server, now()).await.0, later);
    assert_eq!(party.dead_letters(&server, 1).await.len(), 1);
    transmitting.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifications_that_nobody_acknowledges_keep_nothing_back() {
    let server = Server::start().await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-disabled"]).await;
    party.verify(&server, "hello").await.expect(204);
    let (ada, _) = person(&server, "ada").await;
    set_account(&server, &ada, "disabled").await;
    let two = json!({"returnImmediately": true, "maxEvents": 2});
    let (sets, more) = party.polled(&server, two).await;
    let mut told = kinds(&sets);
    told.sort();
    assert_eq!(
        (told, more),
        (
            vec!["risc/account-disabled".into(), "ssf/verification".into()],
            false
        )
    );
    server.stop().await;
}

/// The real binary: nothing is lost or told twice where it restarts between a poll and its acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_restarts_between_a_poll_and_its_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let node = Process::start(dir.path(), None).await.unwrap();
    let call = async |node: &Process, method: &str, path: &str, body: Option<Value>| {
        node.call(method, path, body).await.unwrap()
    };
    let events = uris(&["risc/account-disabled", "risc/account-enabled"]);
    let body = json!({"delivery": {"method": POLL}, "events_requested": events});
    let (status, stream) = call(&node, "POST", STREAMS, Some(body)).await;
    assert_eq!(status, 201, "{stream}");
    let id = stream["stream_id"].as_str().unwrap();
    let poll = format!("/ssf/poll/{id}");
    let registration = json!({"email": "ada@example.com", "password": PASSWORD});
    let (status, made) = call(&node, "POST", "/v1/registrations", Some(registration)).await;
    assert_eq!(status, 201, "{made}");
    let account = format!("/v1/users/{}/status", made["user_id"].as_str().unwrap());
    for status in ["disabled", "active"] {
        let body = json!({"status": status});
        assert_eq!(call(&node, "PUT", &account, Some(body)).await.0, 200);
    }
    let jtis = |answer: &Value| -> Vec<String> {
        let sets = answer["sets"].as_object().unwrap();
        sets.keys().cloned().collect()
    };
    let mut before = Value::Null;
    // What was written last may not be folded yet.
    for _ in 0..3000 {
        (_, before) = call(&node, "POST", &poll, Some(now())).await;
        if jtis(&before).len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(jtis(&before).len(), 2, "{before}");
    node.kill();
    let node = Process::start(dir.path(), None).await.unwrap();
    let (_, after) = call(&node, "POST", &poll, Some(now())).await;
    assert_eq!(after, before, "signed by the same key");
    let one = json!({"returnImmediately": true, "ack": [jtis(&before)[0]]});
    let (_, rest) = call(&node, "POST", &poll, Some(one)).await;
    assert_eq!(jtis(&rest), jtis(&before)[1..]);
    node.kill();
    let node = Process::start(dir.path(), None).await.unwrap();
    let (_, rest) = call(&node, "POST", &poll, Some(now())).await;
    assert_eq!(jtis(&rest), jtis(&before)[1..], "what was acknowledged stays so");
    let said = node.said();
    assert!(
        !said.contains("ada@example.com") && !said.contains(BOOTSTRAP),
        "{said}"
    );
    assert!(node.stop().success());
}

/// Below the node's own limit, which ends a request without an answer: also where the receiver waits for a position first,
/// and something happens all the time that is not for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_poll_with_nothing_to_tell_is_answered_in_time() {
    let server = Server::start_with(|config| config.partitions = 1).await;
    let party = Party::of(&server, json!({"method": POLL}), &["risc/account-purged"]).await;
    let (ada, _) = person(&server, "ada").await;
    let (stream, partition) = (Stream::Identity, Partition(0));
    let end = server.started.node.log.end(stream, partition).await.unwrap();
    // It comes after some seconds, so that as much more of waiting would be too much.
    let awaited = Position {
        stream,
        partition,
        offset: end + 20,
    };
    let happening = async {
        loop {
            for status in ["disabled", "active"] {
                tokio::time::sleep(Duration::from_millis(400)).await;
                set_account(&server, &ada, status).await;
            }
        }
    };
    let path = format!("/ssf/poll/{}", party.id());
    let begun = clock::monotonic();
    let poll = server.post(&path).auth(&party.key).json(&json!({}));
    let poll = poll.with("gatelog-min-position", &awaited.to_string());
    let answer = tokio::select! {
        answer = poll.send() => answer.expect(200),
        () = happening => unreachable!(),
    };
    assert_eq!(answer.body, json!({"sets": {}, "moreAvailable": false}));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(20),
        "{took:?}: it waits for something to tell"
    );
    let folded = server.started.node.views.next("signals", stream, partition);
    assert!(folded.unwrap() > awaited.offset);
    server.stop().await;
}
