//! What the tests of this crate share: fixed identities, a key source, and how to look into events.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod samples;
pub mod scenario;

use gatelog_events::clock::Timestamp;
use gatelog_events::commit::{Commit, Recorded, Subject};
use gatelog_events::domain::tenant::{self, NoticePublished, Settings};
use gatelog_events::domain::{Actor, Event};
use gatelog_events::email::Email;
use gatelog_events::ids::{CommitId, EventId, SessionId, TenantId, UserId};
use gatelog_events::personal::{Personal, Sealable};
use gatelog_events::seal::{Binding, KeySource, KeySourceError, KeyStatus, SubjectKey};
use serde_json::Value;
use uuid::Uuid;

/// The key that the corpus is sealed under. Frozen with it.
pub const TEST_KEY: [u8; 32] = [0x42; 32];
/// Noon of 24 November 2026.
pub const NOON: Timestamp = Timestamp::from_millis(1_795_521_600_000);

pub fn key() -> SubjectKey {
    SubjectKey::new(TEST_KEY)
}

pub fn ada() -> UserId {
    UserId(Uuid::from_u128(0x0193_e0a1_7c5a_8000_8000_0000_0000_ada0))
}

pub fn session_id() -> SessionId {
    SessionId(Uuid::from_u128(0x0193_e0a1_7c5a_8000_8000_0000_0000_5e55))
}

pub fn email(text: &str) -> Email {
    Email::parse(text).expect("an address")
}

pub fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// The settings that a new tenant starts with, and a notice `privacy` in two versions.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    let mut events = tenant::decide(&settings, tenant::Command::Seed).expect("seed");
    for (version, language) in [("2026-01", "en"), ("2026-02", "en")] {
        let notice = NoticePublished {
            id: "privacy".into(),
            version: version.into(),
            language: language.into(),
            url: None,
            text: Some("We write to you.".into()),
        };
        events.push(tenant::TenantEvent::NoticePublished(notice).into());
    }
    for (event, sequence) in events.iter().zip(1..) {
        let Event::Tenant(event) = event else {
            panic!("not a tenant's event")
        };
        settings.evolve(event, NOON, sequence);
    }
    settings
}

/// A commit of these events about `subject`, numbered from 1 (from 0 where there is no aggregate).
pub fn commit(subject: Subject, events: impl IntoIterator<Item = Event>) -> Commit {
    let step = u64::from(subject != Subject::Nobody);
    Commit {
        id: CommitId(Uuid::from_u128(0xc0)),
        tenant: TenantId::default(),
        subject,
        actor: subject.user().map_or(Actor::System, Actor::User),
        correlation_id: Uuid::from_u128(0xc1),
        causation_id: None,
        recorded_at: NOON,
        request_tag: None,
        events: events
            .into_iter()
            .zip(1u64..)
            .map(|(event, n)| Recorded {
                id: EventId(Uuid::from_u128(0xe0 + u128::from(n))),
                sequence: n * step,
                time: NOON,
                event,
            })
            .collect(),
        erased: false,
    }
}

/// Nonces for tests: never the same twice, always the same again.
pub fn nonces() -> impl FnMut() -> [u8; 12] {
    let mut n = 0u8;
    move || {
        n += 1;
        [n; 12]
    }
}

/// Answers the same for every subject.
pub struct Keys(pub KeyStatus);

impl Keys {
    pub fn present() -> Self {
        Self(KeyStatus::Present(key()))
    }
}

impl KeySource for Keys {
    fn key(&self, _: &TenantId, _: UserId) -> Result<KeyStatus, KeySourceError> {
        Ok(self.0.clone())
    }
}

/// An event with a readable personal part as JSON. Only tests may do this: the crate itself refuses to write it.
pub fn rendered(event: &Event) -> Value {
    let mut event = event.clone();
    let bound = Binding {
        event: EventId(Uuid::nil()),
        event_type: "rendered",
        subject: ada(),
    };
    if let Some(personal) = event.personal() {
        personal.seal(&key(), &bound, [0; 12]).expect("sealable");
    }
    let mut data = serde_json::to_value(&event).expect("sealed");
    if let Some(sealed) = data.get_mut("sealed") {
        let mut content: Personal<Value> = Personal::Sealed(sealed.as_str().expect("text").to_owned());
        content.open(Some(&key()), &bound).expect("sealed above");
        *sealed = content.get().expect("open").clone();
    }
    serde_json::json!({"type": event.type_name(), "data": data})
}
