//! What is written can be read, and nothing else can: the form of commits in the log.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use gatelog_events::codec::{self, CodecError, MAX_EVENTS};
use gatelog_events::commit::{Commit, Subject};
use gatelog_events::domain::{Actor, Event};
use gatelog_events::ids::{ApiKeyId, CommitId, EventId};
use gatelog_events::personal::Personal;
use gatelog_events::seal::{KeyStatus, SealError, SubjectKey};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::samples::*;
use support::{Keys, ada, commit, key, nonces, rendered};
use uuid::Uuid;

fn subject_of(event: &Event) -> Subject {
    match event {
        Event::Tenant(_) => Subject::Tenant,
        Event::Feed(_) => Subject::Nobody,
        _ => Subject::User(ada()),
    }
}

/// One commit per type of event, sealed.
fn samples() -> impl Iterator<Item = (Event, Commit)> {
    one_of_each().into_iter().map(|event| {
        let mut sealed = commit(subject_of(&event), [event.clone()]);
        codec::seal(&mut sealed, &key(), nonces()).unwrap();
        (event, sealed)
    })
}

fn registration() -> Commit {
    let mut sealed = commit(
        Subject::User(ada()),
        [registered(), on_plan("free"), granted(choice("2026-01"))],
    );
    codec::seal(&mut sealed, &key(), nonces()).unwrap();
    sealed
}

fn decode(bytes: &[u8]) -> Result<Commit, CodecError> {
    codec::decode(CommitId(Uuid::from_u128(0xc0)), bytes)
}

fn as_json(commit: &Commit) -> Vec<Value> {
    serde_json::from_slice(&codec::encode(commit).unwrap()).unwrap()
}

/// Decodes the registration after a change to its JSON.
fn decode_changed(change: impl FnOnce(&mut Vec<Value>)) -> Result<Commit, CodecError> {
    let mut batch = as_json(&registration());
    change(&mut batch);
    decode(&serde_json::to_vec(&batch).unwrap())
}

#[test]
fn every_type_comes_back_as_it_was_written() {
    for (event, sealed) in samples() {
        let mut read = decode(&codec::encode(&sealed).unwrap()).unwrap();
        assert_eq!(read, sealed, "{}", event.type_name());
        codec::open(&mut read, &Keys::present()).unwrap();
        assert_eq!(rendered(&read.events[0].event), rendered(&event));
        assert!(!read.erased);
    }
}

#[test]
fn everything_around_the_events_comes_back_too() {
    let registration = registration();
    for actor in [
        Actor::Visitor,
        Actor::User(ada()),
        Actor::ApiKey(ApiKeyId(Uuid::from_u128(7))),
        Actor::System,
    ] {
        let whole = Commit {
            actor,
            causation_id: Some(EventId(Uuid::from_u128(8))),
            request_tag: Some([9; 16]),
            ..registration.clone()
        };
        assert_eq!(decode(&codec::encode(&whole).unwrap()).unwrap(), whole);
    }
    let nobody = commit(Subject::Nobody, [login_failed_for_nobody()]);
    assert_eq!(decode(&codec::encode(&nobody).unwrap()).unwrap(), nobody);
}

#[test]
fn the_stored_form_is_a_batch_of_cloudevents() {
    let event = &as_json(&registration())[0];
    assert_eq!(
        *event,
        json!({
            "specversion": "1.0",
            "id": "00000000-0000-0000-0000-0000000000e1",
            "source": "/tenants/default",
            "type": "com.gatelog.user.registered.v1",
            "subject": "0193e0a1-7c5a-8000-8000-00000000ada0",
            "time": "2026-11-24T12:00:00.000Z",
            "datacontenttype": "application/json",
            "dataschema": "urn:gatelog:schema:com.gatelog.user.registered.v1",
            "recordedtime": "2026-11-24T12:00:00.000Z",
            "sequence": "0000000000000001",
            "correlationid": "00000000-0000-0000-0000-0000000000c1",
            "authtype": "app_user",
            "authid": "0193e0a1-7c5a-8000-8000-00000000ada0",
            "data": {"origin": "self_service", "locale": "en", "sealed": event["data"]["sealed"]},
        })
    );
    let stored = codec::encode(&registration()).unwrap();
    for secret in ["Ada", "ada@", "x.test", "192.0.2.7"] {
        assert!(
            !String::from_utf8_lossy(&stored).contains(secret),
            "{secret} stands in the clear"
        );
    }
}

#[test]
fn a_clear_personal_part_is_never_written() {
    for mut event in one_of_each() {
        let clear = commit(subject_of(&event), [event.clone()]);
        let written = codec::encode(&clear);
        assert_eq!(
            written.is_err(),
            event.personal().is_some(),
            "{}",
            event.type_name()
        );
        if let Err(e) = written {
            assert!(!e.to_string().to_lowercase().contains("ada"), "{e}");
        }
    }
    // A subject that is no user has no key, so what is personal cannot be sealed and must not be written.
    let mut mislaid = commit(Subject::Nobody, [registered()]);
    codec::seal(&mut mislaid, &key(), nonces()).unwrap();
    assert!(codec::encode(&mislaid).is_err());
}

#[test]
fn an_erased_subject_reads_as_erased() {
    let mut read = decode(&codec::encode(&registration()).unwrap()).unwrap();
    codec::open(&mut read, &Keys(KeyStatus::Destroyed)).unwrap();
    assert!(read.erased);
    let Event::User(gatelog_events::domain::user::UserEvent::Registered(e)) = &read.events[0].event else {
        panic!("a registration");
    };
    assert!(e.personal == Personal::Erased);
    assert_eq!(e.locale.as_deref(), Some("en"), "facts in the clear stay");
    assert!(
        codec::encode(&read).is_err(),
        "what is erased cannot be written again"
    );
}

#[test]
fn a_missing_key_is_damage_and_not_an_erasure() {
    let mut read = registration();
    let error = codec::open(&mut read, &Keys(KeyStatus::Missing)).unwrap_err();
    assert!(matches!(error, CodecError::KeyMissing(subject) if subject == ada()));
    assert_eq!(read, registration(), "nothing was touched");
}

#[test]
fn a_sealed_part_cannot_be_moved() {
    let open = |mut commit: Commit, key| codec::open(&mut commit, &Keys(KeyStatus::Present(key)));
    let mut other_event = registration();
    other_event.events[0].id = EventId(Uuid::from_u128(99));
    let mut other_subject = registration();
    other_subject.subject = Subject::User(gatelog_events::ids::UserId(Uuid::from_u128(99)));
    let mut other_type = as_json(&registration());
    other_type[2]["type"] = json!("com.gatelog.consent.withdrawn.v2");
    let other_type = decode(&serde_json::to_vec(&other_type).unwrap()).unwrap();
    for (what, moved) in [
        ("to another event", other_event),
        ("to another subject", other_subject),
        ("to another type", other_type),
    ] {
        let error = open(moved, key()).expect_err(what);
        assert!(
            matches!(error, CodecError::Seal(SealError::Forged)),
            "{what}: {error}"
        );
    }
    let error = open(registration(), SubjectKey::new([1; 32])).unwrap_err();
    assert!(
        matches!(error, CodecError::Seal(SealError::Forged)),
        "another key: {error}"
    );
}

#[test]
fn sealing_twice_or_opening_twice_changes_nothing() {
    let mut again = registration();
    codec::seal(&mut again, &key(), || [77; 12]).unwrap();
    assert_eq!(again, registration());
    codec::open(&mut again, &Keys::present()).unwrap();
    let once = again.clone();
    codec::open(&mut again, &Keys(KeyStatus::Destroyed)).unwrap();
    assert_eq!(again.events, once.events);
}

#[test]
fn a_batch_that_is_not_one_commit_is_refused() {
    type Change = fn(&mut Vec<Value>);
    let cases: &[(&str, Change)] = &[
        ("empty", |b| b.clear()),
        ("another tenant", |b| b[1]["source"] = json!("/tenants/other")),
        ("another subject", |b| {
            b[1]["subject"] = json!("0193e0a1-7c5a-8000-8000-00000000beef")
        }),
        ("no subject", |b| {
            drop(b[1].as_object_mut().unwrap().remove("subject"))
        }),
        ("another actor", |b| {
            b[1]["authid"] = json!("0193e0a1-7c5a-8000-8000-00000000beef")
        }),
        ("another recorded time", |b| {
            b[1]["recordedtime"] = json!("2026-11-24T12:00:01Z")
        }),
        ("another correlation", |b| {
            b[1]["correlationid"] = json!("0193e0a1-7c5a-8000-8000-00000000beef")
        }),
        ("another cause", |b| {
            b[1]["causationid"] = json!("0193e0a1-7c5a-8000-8000-00000000beef")
        }),
        ("another request", |b| {
            b[1]["requesttag"] = json!("CQkJCQkJCQkJCQkJCQkJCQ")
        }),
        ("a gap", |b| b[2]["sequence"] = json!("0000000000000004")),
        ("a number twice", |b| b[1]["sequence"] = json!("0000000000000001")),
        ("out of order", |b| b.swap(0, 1)),
        ("no numbers after numbers", |b| {
            b[1]["sequence"] = json!("0000000000000000")
        }),
        ("numbers after no number", |b| {
            b[0]["sequence"] = json!("0000000000000000")
        }),
        ("the last number there is, and one more", |b| {
            b[0]["sequence"] = json!(u64::MAX.to_string());
        }),
        ("a signed number", |b| {
            b[0]["sequence"] = json!("+000000000000001")
        }),
        ("a number that overflows", |b| {
            b[0]["sequence"] = json!("99999999999999999999")
        }),
        ("no number", |b| b[0]["sequence"] = json!("one")),
        ("a bare number", |b| b[0]["sequence"] = json!(1)),
        ("CloudEvents 0.3", |b| b[0]["specversion"] = json!("0.3")),
        ("CloudEvents 0.3 later on", |b| b[2]["specversion"] = json!("0.3")),
        ("an unknown type", |b| {
            b[0]["type"] = json!("com.gatelog.user.registered.v999")
        }),
        ("data of another type", |b| {
            b[0]["type"] = json!("com.gatelog.user.role_granted.v1")
        }),
        ("no data", |b| drop(b[0].as_object_mut().unwrap().remove("data"))),
        ("data in the clear", |b| {
            b[0]["data"]["sealed"] = json!({"email": "ada@x.test"})
        }),
        ("a source of another form", |b| {
            b.iter_mut().for_each(|e| e["source"] = json!("https://x.test/"))
        }),
        ("a tenant that is no name", |b| {
            b.iter_mut().for_each(|e| e["source"] = json!("/tenants/../x"))
        }),
        ("a subject that is no user", |b| {
            b.iter_mut().for_each(|e| e["subject"] = json!("ada@x.test"))
        }),
        ("an actor of no kind", |b| {
            b.iter_mut().for_each(|e| e["authtype"] = json!("root"))
        }),
        ("a system with an id", |b| {
            b.iter_mut().for_each(|e| e["authtype"] = json!("system"))
        }),
        ("a short request tag", |b| {
            b.iter_mut().for_each(|e| e["requesttag"] = json!("CQkJ"))
        }),
        ("a time that is none", |b| b[0]["time"] = json!("yesterday")),
        ("a time before the year 0", |b| {
            b[0]["time"] = json!("0000-01-01T00:00:00+01:00")
        }),
        ("an id that is none", |b| b[0]["id"] = json!("1")),
    ];
    assert!(decode_changed(|_| ()).is_ok());
    for (what, change) in cases {
        assert!(decode_changed(change).is_err(), "{what} was taken");
    }
}

#[test]
fn errors_do_not_repeat_what_they_read() {
    let secret = "hunter2-ada";
    for error in [
        decode_changed(|b| b[0]["data"]["origin"] = json!(secret)).unwrap_err(),
        decode_changed(|b| b[0]["time"] = json!(secret)).unwrap_err(),
        decode_changed(|b| b[0]["subject"] = json!(secret)).unwrap_err(),
        decode_changed(|b| b.iter_mut().for_each(|e| e["subject"] = json!(secret))).unwrap_err(),
        decode(secret.as_bytes()).unwrap_err(),
    ] {
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
}

#[test]
fn unknown_extensions_and_new_optional_facts_are_passed_over() {
    let read = decode_changed(|b| {
        b[0]["traceparent"] = json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        b[0]["data"]["referrer"] = json!("newsletter");
    });
    assert_eq!(read.unwrap(), registration());
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let roles = |n: usize| commit(Subject::User(ada()), (0..n).map(|i| role_granted(&i.to_string())));
    let most = roles(MAX_EVENTS);
    assert_eq!(decode(&codec::encode(&most).unwrap()).unwrap(), most);
    for n in [0, MAX_EVENTS + 1] {
        assert!(
            matches!(codec::encode(&roles(n)), Err(CodecError::Form(_))),
            "{n} events"
        );
    }
    let mut gap = roles(3);
    gap.events[2].sequence = 7;
    assert!(matches!(codec::encode(&gap), Err(CodecError::Sequence)));

    let mut batch = as_json(&most);
    let mut last = batch[MAX_EVENTS - 1].clone();
    last["sequence"] = json!("0000000000000257");
    batch.push(last);
    assert!(
        decode(&serde_json::to_vec(&batch).unwrap()).is_err(),
        "257 events were read"
    );
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(200_000), close.repeat(200_000));
    let template = String::from_utf8(codec::encode(&registration()).unwrap()).unwrap();
    for bomb in [deep("[", "]"), deep(r#"{"a":"#, "}")] {
        assert!(decode(bomb.as_bytes()).is_err());
        // As a fact, as the whole data, and as data of an old type, which are read into a tree.
        for place in [r#""self_service""#, r#"{"origin":"self_service""#] {
            let broken = template.replacen(place, &bomb, 1);
            assert_ne!(broken, template);
            assert!(decode(broken.as_bytes()).is_err());
        }
        let old = template
            .replace("com.gatelog.consent.granted.v2", "com.gatelog.consent.granted.v1")
            .replacen(r#""newsletter""#, &bomb, 1);
        assert!(decode(old.as_bytes()).is_err());
        // An unknown extension is passed over, however deep.
        let extension = template.replacen("[{", &format!(r#"[{{"x":{bomb},"#), 1);
        assert!(decode(extension.as_bytes()).is_ok());
    }
}

/// Changes that an attacker or a bad disk might make to valid bytes.
fn mutate(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (at, kind, byte) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind % 5 {
            0 => bytes[at] = *byte,
            1 => bytes[at] ^= 1 << (byte % 8),
            2 => bytes.insert(at, *byte),
            3 => drop(bytes.remove(at)),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_json_makes_the_decoder_panic(text in r#"(\[|\]|\{|\}|:|,|"[a-z]{0,9}"|[0-9]{1,20}|null|true){0,40}"#) {
        let _ = decode(text.as_bytes());
    }

    #[test]
    fn no_change_to_a_commit_makes_it_panic_or_read_as_something_that_cannot_be_written(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let sealed: Vec<_> = samples().map(|(_, c)| c).chain([registration()]).collect();
        let bytes = mutate(codec::encode(which.get(&sealed)).unwrap(), &changes);
        if let Ok(mut read) = decode(&bytes) {
            let again = decode(&codec::encode(&read).unwrap()).unwrap();
            prop_assert_eq!(&again, &read);
            let _ = codec::open(&mut read, &Keys::present());
        }
    }
}
