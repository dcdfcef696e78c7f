//! Old events are read for ever: bytes as they were once stored, and what they mean.
//!
//! `corpus/<type>.<n>.json` holds a commit as it stands in the log, sealed under [`support::TEST_KEY`];
//! `<type>.<n>.opened.json` what it says when it is opened. Neither is ever changed. New types get files by
//! `ADD_TO_CORPUS=1 cargo test -p gatelog-events --test corpus`, which never touches a file that is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gatelog_events::codec;
use gatelog_events::commit::{Commit, Subject};
use gatelog_events::domain::Event;
use gatelog_events::ids::CommitId;
use gatelog_events::seal::KeyStatus;
use gatelog_events::upcast;
use serde_json::{Value, json};
use support::samples::*;
use support::{Keys, ada, commit, key, nonces, rendered};
use uuid::Uuid;

/// The names on the wire. Frozen: a name may be added, never changed or taken away.
const LATEST: &[&str] = &[
    "com.gatelog.consent.granted.v2",
    "com.gatelog.consent.withdrawn.v2",
    "com.gatelog.feed.dead_lettered.v1",
    "com.gatelog.feed.progressed.v1",
    "com.gatelog.feed.redelivered.v1",
    "com.gatelog.feed.redriven.v1",
    "com.gatelog.feed.signals_told.v1",
    "com.gatelog.feed.stream_notices_taken.v1",
    "com.gatelog.feed.verification_requested.v1",
    "com.gatelog.feed.withdrawals_acknowledged.v1",
    "com.gatelog.feed.withdrawals_delivered.v1",
    "com.gatelog.identifier.claimed.v1",
    "com.gatelog.login.failed.v1",
    "com.gatelog.login.locked.v1",
    "com.gatelog.login.succeeded.v1",
    "com.gatelog.login.unlocked.v1",
    "com.gatelog.plan.assigned.v1",
    "com.gatelog.plan.cancelled.v1",
    "com.gatelog.plan.downgraded.v1",
    "com.gatelog.plan.renewed.v1",
    "com.gatelog.plan.switched.v1",
    "com.gatelog.plan.upgraded.v1",
    "com.gatelog.session.ended.v1",
    "com.gatelog.session.refreshed.v1",
    "com.gatelog.session.reused.v1",
    "com.gatelog.session.started.v1",
    "com.gatelog.tenant.api_key_created.v1",
    "com.gatelog.tenant.api_key_revoked.v1",
    "com.gatelog.tenant.feed_defined.v1",
    "com.gatelog.tenant.feed_retired.v1",
    "com.gatelog.tenant.feed_topic_removed.v1",
    "com.gatelog.tenant.feed_topic_set.v1",
    "com.gatelog.tenant.notice_published.v1",
    "com.gatelog.tenant.plan_defined.v1",
    "com.gatelog.tenant.purpose_defined.v1",
    "com.gatelog.tenant.signal_key_made.v1",
    "com.gatelog.tenant.signal_stream_changed.v1",
    "com.gatelog.tenant.signal_stream_created.v1",
    "com.gatelog.tenant.signal_stream_deleted.v1",
    "com.gatelog.tenant.signal_stream_status_set.v1",
    "com.gatelog.tenant.webhook_paused.v1",
    "com.gatelog.tenant.webhook_removed.v1",
    "com.gatelog.tenant.webhook_replayed.v1",
    "com.gatelog.tenant.webhook_secret_rotated.v1",
    "com.gatelog.tenant.webhook_set.v1",
    "com.gatelog.user.disabled.v1",
    "com.gatelog.user.email_changed.v1",
    "com.gatelog.user.email_verified.v1",
    "com.gatelog.user.enabled.v1",
    "com.gatelog.user.erased.v1",
    "com.gatelog.user.password_set.v1",
    "com.gatelog.user.profile_changed.v1",
    "com.gatelog.user.registered.v1",
    "com.gatelog.user.role_granted.v1",
    "com.gatelog.user.role_revoked.v1",
];

/// Names that are read and no longer written. Frozen too.
const OLD: &[&str] = &[
    "com.gatelog.consent.granted.v1",
    "com.gatelog.consent.withdrawn.v1",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// The names of the commits, `<type>.<n>`.
fn names() -> BTreeSet<String> {
    let files = std::fs::read_dir(folder())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap());
    files
        .filter(|f| !f.ends_with(".opened.json"))
        .filter_map(|f| Some(f.strip_suffix(".json")?.to_owned()))
        .collect()
}

fn stored(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.json"))).unwrap()
}

fn decode(name: &str) -> Commit {
    codec::decode(CommitId(Uuid::from_u128(0xc0)), &stored(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// All that an opened commit says.
fn opened(commit: &Commit) -> Value {
    let event = |r: &gatelog_events::commit::Recorded| {
        let mut event = rendered(&r.event);
        event["id"] = json!(r.id);
        event["sequence"] = json!(r.sequence);
        event["time"] = json!(r.time);
        event
    };
    json!({
        "tenant": commit.tenant,
        "subject": format!("{:?}", commit.subject),
        "actor": commit.actor,
        "correlation_id": commit.correlation_id,
        "causation_id": commit.causation_id,
        "recorded_at": commit.recorded_at,
        "request_tag": commit.request_tag.map(hex::encode),
        "events": commit.events.iter().map(event).collect::<Vec<_>>(),
    })
}

/// One commit of each type, and some of more events or of nobody.
fn to_have() -> Vec<(String, Commit)> {
    let about = |event: &Event| match event {
        Event::Tenant(_) => Subject::Tenant,
        Event::Feed(_) => Subject::Nobody,
        _ => Subject::User(ada()),
    };
    let single = |event: Event| (format!("{}.1", event.type_name()), commit(about(&event), [event]));
    let mut registration = commit(
        Subject::User(ada()),
        [registered(), on_plan("free"), granted(choice("2026-01"))],
    );
    registration.request_tag = Some([7; 16]);
    let mut all: Vec<_> = one_of_each().into_iter().map(single).collect();
    all.push(("com.gatelog.user.registered.v1.2".into(), registration));
    all.push((
        "com.gatelog.login.failed.v1.2".into(),
        commit(Subject::Nobody, [login_failed_for_nobody()]),
    ));
    all
}

fn write_new(name: &str, content: &[u8]) {
    let path = folder().join(name);
    if !path.exists() {
        std::fs::write(path, content).unwrap();
    }
}

#[test]
fn what_was_once_stored_still_says_the_same() {
    let add = std::env::var_os("ADD_TO_CORPUS").is_some();
    if add {
        for (name, mut commit) in to_have() {
            codec::seal(&mut commit, &key(), nonces()).unwrap();
            write_new(&format!("{name}.json"), &codec::encode(&commit).unwrap());
        }
    }
    for name in names() {
        let mut commit = decode(&name);
        codec::open(&mut commit, &Keys::present()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let says = opened(&commit);
        let file = format!("{name}.opened.json");
        if add {
            write_new(
                &file,
                (serde_json::to_string_pretty(&says).unwrap() + "\n").as_bytes(),
            );
        }
        let expected = std::fs::read(folder().join(&file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(
            says,
            serde_json::from_slice::<Value>(&expected).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn an_erased_subject_of_any_age_reads_as_erased() {
    for name in names() {
        let mut commit = decode(&name);
        codec::open(&mut commit, &Keys(KeyStatus::Destroyed)).unwrap();
        assert_eq!(commit.erased, commit.subject.user().is_some(), "{name}");
    }
}

#[test]
fn nothing_personal_stands_in_the_clear() {
    for name in names() {
        let text = String::from_utf8(stored(&name)).unwrap().to_lowercase();
        for secret in ["\"ada", "ada@", "lovelace", "augusta", "argon2", "192.0.2.7"] {
            assert!(!text.contains(secret), "{name} holds {secret}");
        }
    }
}

#[test]
fn every_type_and_version_is_in_the_corpus() {
    let names = names();
    for event_type in LATEST.iter().chain(OLD) {
        assert!(
            names.contains(&format!("{event_type}.1")),
            "no bytes of {event_type}: ADD_TO_CORPUS=1 cargo test -p gatelog-events --test corpus"
        );
    }
}

#[test]
fn names_on_the_wire_are_frozen() {
    let latest: BTreeSet<_> = Event::schemas().into_iter().map(|(name, _)| name).collect();
    let old: BTreeSet<_> = upcast::old_types().collect();
    assert!(
        latest.into_iter().eq(LATEST.iter().copied()),
        "add new names to LATEST; never change one"
    );
    assert!(
        old.into_iter().eq(OLD.iter().copied()),
        "add names of old versions to OLD; never change one"
    );
}

#[test]
fn the_samples_are_of_every_type() {
    let sampled: BTreeSet<_> = one_of_each().iter().map(Event::type_name).collect();
    assert!(sampled.into_iter().eq(LATEST.iter().copied()));
}

#[test]
fn a_notice_of_version_1_has_an_undetermined_language() {
    for name in [
        "com.gatelog.consent.granted.v1.1",
        "com.gatelog.consent.withdrawn.v1.1",
    ] {
        assert!(!String::from_utf8(stored(name)).unwrap().contains("language"));
        let commit = decode(name);
        assert_eq!(rendered_notice(&commit)["language"], "und");
    }
    assert_eq!(
        rendered_notice(&decode("com.gatelog.consent.granted.v2.1"))["language"],
        "en"
    );
}

fn rendered_notice(commit: &Commit) -> Value {
    let Event::Consent(event) = &commit.events[0].event else {
        panic!("a consent")
    };
    serde_json::to_value(event).unwrap()["notice"].clone()
}
