//! The rules of consent: every choice once, with its evidence, and withdrawing as easy as granting.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{ConsentChange, LawfulBasis, Method, NoticeRef, Rejection};
use gatelog_events::domain::user::{self, Command, User};
use gatelog_events::domain::{Context, Event};
use support::samples::*;
use support::scenario::{Aggregate, Given};
use support::{NOON, settings};

#[derive(Default)]
struct Account(User);

impl Aggregate for Account {
    type Command = (bool, ConsentChange);
    type Rejection = gatelog_events::domain::Rejection;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        self.0.evolve(event, time, sequence);
    }

    fn decide(&self, (granted, c): Self::Command, now: Timestamp) -> Result<Vec<Event>, Self::Rejection> {
        let settings = settings();
        let command = Command::SetConsent(wish(granted, c));
        user::decide(
            &self.0,
            true,
            command,
            &Context {
                now,
                settings: &settings,
            },
        )
    }
}

fn given(choices: impl IntoIterator<Item = Event>) -> Given<Account> {
    support::scenario::given([registered()].into_iter().chain(choices))
}

fn grant(change: ConsentChange) -> (bool, ConsentChange) {
    (true, change)
}

fn withdraw(change: ConsentChange) -> (bool, ConsentChange) {
    (false, change)
}

fn january() -> ConsentChange {
    choice("2026-01")
}

fn february() -> ConsentChange {
    choice("2026-02")
}

/// A version of the notice that is not there.
fn gone() -> ConsentChange {
    choice("1999-01")
}

fn by_sms() -> ConsentChange {
    ConsentChange {
        channel: "sms".into(),
        ..january()
    }
}

#[test]
fn a_first_choice_either_way_is_on_record() {
    given([]).when(grant(january())).then([granted(january())]);
    given([]).when(withdraw(january())).then([withdrawn(january())]);
}

#[test]
fn a_change_of_mind_is_on_record() {
    given([granted(january())])
        .when(withdraw(january()))
        .then([withdrawn(january())]);
    given([granted(january()), withdrawn(january())])
        .when(grant(january()))
        .then([granted(january())]);
}

#[test]
fn the_same_choice_again_is_no_event() {
    given([granted(january())]).when(grant(january())).then_nothing();
    given([withdrawn(january())])
        .when(withdraw(january()))
        .then_nothing();
    let otherwise = ConsentChange {
        method: Method::Recorded,
        ..january()
    };
    given([granted(january())]).when(grant(otherwise)).then_nothing();
}

#[test]
fn a_choice_on_another_notice_channel_or_basis_is_another_choice() {
    let contract = || ConsentChange {
        lawful_basis: LawfulBasis::Contract,
        ..january()
    };
    given([granted(january())])
        .when(grant(february()))
        .then([granted(february())]);
    given([granted(january())])
        .when(grant(by_sms()))
        .then([granted(by_sms())]);
    given([granted(january())])
        .when(grant(contract()))
        .then([granted(contract())]);
}

#[test]
fn purposes_do_not_mix() {
    let updates = || ConsentChange {
        purpose: "product_updates".into(),
        ..january()
    };
    given([granted(january())])
        .when(grant(updates()))
        .then([granted(updates())]);
    given([granted(january())])
        .when(withdraw(updates()))
        .then([withdrawn(updates())]);
}

#[test]
fn a_purpose_must_be_defined_for_either_choice() {
    let spam = || ConsentChange {
        purpose: "spam".into(),
        ..january()
    };
    given([])
        .when(grant(spam()))
        .then_rejected(Rejection::UnknownPurpose("spam".into()));
    given([])
        .when(withdraw(spam()))
        .then_rejected(Rejection::UnknownPurpose("spam".into()));
}

#[test]
fn a_grant_needs_the_very_notice_that_was_published() {
    let unknown = |version: &str, language: &str| Rejection::UnknownNotice {
        id: "privacy".into(),
        version: version.into(),
        language: language.into(),
    };
    let german = NoticeRef {
        language: "de".into(),
        ..january().notice
    };
    given([])
        .when(grant(gone()))
        .then_rejected(unknown("1999-01", "en"));
    given([])
        .when(grant(ConsentChange {
            notice: german,
            ..january()
        }))
        .then_rejected(unknown("2026-01", "de"));
}

#[test]
fn a_notice_that_is_kept_elsewhere_is_taken() {
    let elsewhere = || {
        let notice = NoticeRef {
            id: "print-form-7".into(),
            ..january().notice
        };
        ConsentChange { notice, ..january() }
    };
    given([]).when(grant(elsewhere())).then([granted(elsewhere())]);
}

#[test]
fn a_withdrawal_is_taken_even_if_its_notice_is_gone() {
    given([granted(january())])
        .when(withdraw(gone()))
        .then([withdrawn(gone())]);
}

#[test]
fn where_a_purpose_stands_is_its_last_choice_and_its_time() {
    let mut user = User::default();
    for (event, sequence) in [registered(), granted(january()), withdrawn(by_sms())]
        .iter()
        .zip(1..)
    {
        user.evolve(
            event,
            Timestamp::from_millis(NOON.millis() + sequence as i64),
            sequence,
        );
    }
    let state = &user.consents["newsletter"];
    assert!(!state.granted);
    assert_eq!(
        (state.channel.as_str(), state.since.millis()),
        ("sms", NOON.millis() + 3)
    );
}
