//! Streams of signals: what can be asked of them, and what follows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use std::time::Duration;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::Event;
use gatelog_events::domain::signals::{
    Command, Delivery, MAX_OF_RECEIVER, MAX_STREAMS, Push, SignalStreamChanged, SignalStreamCreated,
    SignalStreamStatusSet, StreamConfig, StreamPatch, StreamStatus,
};
use gatelog_events::domain::tenant::{self, Rejection, Settings, TenantEvent};
use gatelog_events::ids::ApiKeyId;
use support::samples::*;
use support::scenario::{Aggregate, given};
use uuid::Uuid;

#[derive(Default)]
struct Streams(Settings);

impl Aggregate for Streams {
    type Command = Command;
    type Rejection = Rejection;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        let Event::Tenant(event) = event else {
            panic!("not a tenant's event")
        };
        self.0.evolve(event, time, sequence);
    }

    fn decide(&self, command: Command, _: Timestamp) -> Result<Vec<Event>, Rejection> {
        tenant::decide(&self.0, tenant::Command::Signals(command))
    }
}

const URL: &str = "https://gateway.example.com/events";

fn created() -> Event {
    TenantEvent::SignalStreamCreated(stream_created(URL)).into()
}

fn is_set(status: StreamStatus, tell: bool, begins_at: Option<u64>) -> Event {
    TenantEvent::SignalStreamStatusSet(stream_status(status, tell, begins_at.map(begins))).into()
}

fn set(status: StreamStatus, begins_at: Option<u64>) -> Command {
    Command::SetStatus(stream_status(status, false, begins_at.map(begins)))
}

#[test]
fn a_stream_is_made_once_changed_and_deleted() {
    let create = || Command::Create(stream_created(URL));
    let change = |url| Command::Change(stream_changed(url));
    let changed = |url| Event::from(TenantEvent::SignalStreamChanged(stream_changed(url)));
    let delete = || Command::Delete(stream_deleted());
    given::<Streams>([]).when(create()).then([created()]);
    given::<Streams>([created()]).when(create()).then_nothing();
    given::<Streams>([created()]).when(change(URL)).then_nothing();
    given::<Streams>([created()])
        .when(change("https://b.example"))
        .then([changed("https://b.example")]);
    given::<Streams>([created(), changed("https://b.example")])
        .when(change("https://b.example"))
        .then_nothing();
    given::<Streams>([created()])
        .when(delete())
        .then([TenantEvent::SignalStreamDeleted(stream_deleted()).into()]);
    let deleted = || TenantEvent::SignalStreamDeleted(stream_deleted()).into();
    for command in [change(URL), delete(), set(StreamStatus::Paused, None)] {
        given::<Streams>([])
            .when(command.clone())
            .then_rejected(Rejection::SignalStreamNotFound);
        given::<Streams>([created(), deleted()])
            .when(command)
            .then_rejected(Rejection::SignalStreamNotFound);
    }
}

#[test]
fn there_are_only_so_many_streams_in_all_and_of_one_key() {
    let many = |n: usize, receiver: fn(u128) -> Option<ApiKeyId>| {
        (0..n as u128).map(move |n| {
            TenantEvent::SignalStreamCreated(SignalStreamCreated {
                stream_id: Uuid::from_u128(1000 + n),
                receiver: receiver(n),
                ..stream_created(URL)
            })
            .into()
        })
    };
    let create = || Command::Create(stream_created(URL));
    let operators = |_| None;
    given::<Streams>(many(MAX_STREAMS - 1, operators))
        .when(create())
        .then([created()]);
    given::<Streams>(many(MAX_STREAMS, operators))
        .when(create())
        .then_rejected(Rejection::TooManySignalStreams);
    let own = |_| stream_created(URL).receiver;
    given::<Streams>(many(MAX_OF_RECEIVER - 1, own))
        .when(create())
        .then([created()]);
    given::<Streams>(many(MAX_OF_RECEIVER, own))
        .when(create())
        .then_rejected(Rejection::TooManyStreamsOfReceiver);
    // Others' count for nobody else, and the operator's only for all.
    let others = |n| Some(ApiKeyId(Uuid::from_u128(n)));
    given::<Streams>(many(MAX_OF_RECEIVER, others))
        .when(create())
        .then([created()]);
    let of_operator = SignalStreamCreated {
        receiver: None,
        ..stream_created(URL)
    };
    given::<Streams>(many(MAX_OF_RECEIVER, operators))
        .when(Command::Create(of_operator.clone()))
        .then([TenantEvent::SignalStreamCreated(of_operator).into()]);
}

#[test]
fn a_patch_changes_what_it_names_as_the_stream_is_when_it_is_decided() {
    let nothing = || StreamPatch {
        stream_id: STREAM,
        delivery: None,
        events_requested: None,
        description: None,
    };
    let push = |url: &str, authorization: Option<&str>| {
        Delivery::Push(Push {
            url: url.to_owned(),
            authorization: authorization.map(str::to_owned),
        })
    };
    let of = |delivery: Delivery| StreamPatch {
        delivery: Some(delivery),
        ..nothing()
    };
    let known = || stream_created(URL).config;
    given::<Streams>([])
        .when(Command::Patch(nothing()))
        .then_rejected(Rejection::SignalStreamNotFound);
    for patch in [nothing(), of(push(URL, None))] {
        given::<Streams>([created()])
            .when(Command::Patch(patch))
            .then_nothing();
    }
    let changed = |config: StreamConfig| {
        let stream_id = STREAM;
        Event::from(TenantEvent::SignalStreamChanged(SignalStreamChanged {
            stream_id,
            config,
        }))
    };
    for (patch, config) in [
        (
            of(push("https://b.example", None)),
            StreamConfig {
                delivery: push("https://b.example", None),
                ..known()
            },
        ),
        (
            of(push(URL, Some("b3RoZXI"))),
            StreamConfig {
                delivery: push(URL, Some("b3RoZXI")),
                ..known()
            },
        ),
        (
            of(Delivery::Poll),
            StreamConfig {
                delivery: Delivery::Poll,
                ..known()
            },
        ),
        (
            StreamPatch {
                events_requested: Some(Default::default()),
                ..nothing()
            },
            StreamConfig {
                events_requested: Default::default(),
                ..known()
            },
        ),
        (
            StreamPatch {
                description: Some("another".to_owned()),
                ..nothing()
            },
            StreamConfig {
                description: Some("another".to_owned()),
                ..known()
            },
        ),
    ] {
        given::<Streams>([created()])
            .when(Command::Patch(patch))
            .then([changed(config)]);
    }
    // Whoever patched before, on whatever node, has changed something else.
    let first = StreamConfig {
        delivery: push(URL, Some("b3RoZXI")),
        ..known()
    };
    let patch = StreamPatch {
        description: Some("another".to_owned()),
        ..nothing()
    };
    given::<Streams>([created(), changed(first.clone())])
        .when(Command::Patch(patch))
        .then([changed(StreamConfig {
            description: Some("another".to_owned()),
            ..first
        })]);
}

#[test]
fn only_a_stream_that_was_disabled_begins_anew() {
    use StreamStatus::{Disabled, Enabled, Paused};
    given::<Streams>([created()])
        .when(set(Paused, Some(9)))
        .then([is_set(Paused, false, None)]);
    given::<Streams>([created(), is_set(Paused, false, None)])
        .when(set(Paused, Some(9)))
        .then_nothing();
    given::<Streams>([created(), is_set(Paused, false, None)])
        .when(set(Enabled, Some(9)))
        .then([is_set(Enabled, false, None)]);
    given::<Streams>([created(), is_set(Disabled, false, None)])
        .when(set(Paused, Some(9)))
        .then([is_set(Paused, false, Some(9))]);
    let mut other_reason = stream_status(Disabled, false, Some(begins(9)));
    other_reason.reason = None;
    given::<Streams>([created(), is_set(Disabled, false, None)])
        .when(Command::SetStatus(other_reason.clone()))
        .then([TenantEvent::SignalStreamStatusSet(SignalStreamStatusSet {
            begins: None,
            ..other_reason
        })
        .into()]);

    let mut settings = Settings::default();
    let seen: Vec<_> = [
        created(),
        is_set(Paused, false, None),
        is_set(Enabled, true, None),
        is_set(Disabled, true, None),
        is_set(Enabled, false, Some(9)),
    ]
    .iter()
    .zip(1..)
    .map(|(event, sequence)| {
        let Event::Tenant(event) = event else { panic!() };
        settings.evolve(event, support::NOON, sequence);
        let stream = &settings.signals.streams[&STREAM];
        let notice = stream.notice.as_ref().map(|n| n.number);
        (stream.status, stream.generation, stream.begins.clone(), notice)
    })
    .collect();
    assert_eq!(
        seen,
        [
            (Enabled, 1, begins(7), None),
            (Paused, 1, begins(7), None),
            (Enabled, 1, begins(7), Some(3)),
            (Disabled, 1, begins(7), Some(4)),
            (Enabled, 5, begins(9), None),
        ]
    );
}

#[test]
fn the_first_key_is_made_once() {
    let make = || Command::MakeFirstKey(signal_key("one"));
    let made = || TenantEvent::SignalKeyMade(signal_key("one")).into();
    given::<Streams>([]).when(make()).then([made()]);
    given::<Streams>([made()]).when(make()).then_nothing();
}

#[test]
fn a_new_key_is_published_before_it_signs_and_an_old_one_a_while_after() {
    let make = |kid: &str| Command::MakeKey(signal_key(kid));
    let made = |kid: &str| TenantEvent::SignalKeyMade(signal_key(kid));
    given::<Streams>([]).when(make("one")).then([made("one").into()]);
    given::<Streams>([made("one").into()])
        .when(make("two"))
        .then([made("two").into()]);
    given::<Streams>([made("one").into(), made("two").into()])
        .when(make("two"))
        .then_nothing();

    let mut settings = Settings::default();
    let at = |minute: u64| support::NOON.plus(Duration::from_secs(60 * minute));
    assert_eq!(settings.signals.signing(at(0)), None);
    for (minute, new, published, signing) in [
        (0, Some("one"), vec!["one"], "one"),
        (1, Some("two"), vec!["one", "two"], "one"),
        // Asked for on two nodes at once.
        (2, Some("three"), vec!["one", "two", "three"], "one"),
        (5, None, vec!["one", "two", "three"], "one"),
        (6, None, vec!["one", "two", "three"], "two"),
        (7, None, vec!["one", "two", "three"], "three"),
        (60, Some("four"), vec!["three", "four"], "three"),
        (65, None, vec!["three", "four"], "four"),
    ] {
        if let Some(kid) = new {
            settings.evolve(&made(kid), at(minute), minute);
        }
        let known = settings.signals.keys.iter().map(|key| key.made.kid.as_str());
        assert_eq!(known.collect::<Vec<_>>(), published, "{minute}");
        let now = settings.signals.signing(at(minute)).unwrap();
        assert_eq!(now.made.kid, signing, "{minute}");
    }
}
