//! The rules of claims: one owner per address.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::identifier::{self, CLAIM_TTL, Holding};
use gatelog_events::domain::user::Rejection;
use gatelog_events::domain::{Event, identifier::IdentifierEvent};
use gatelog_events::ids::UserId;
use support::samples::claimed;
use support::scenario::{Aggregate, Given};
use support::{NOON, ada, at, email};
use uuid::Uuid;

const ADDRESS: &str = "new@x.test";
const TEN_PAST: &str = "2026-11-24T12:10:00Z";

/// An address as its partition sees it. Claims in the history are Ada's.
#[derive(Default)]
struct Address {
    holding: Option<Holding>,
    attached: bool,
}

impl Aggregate for Address {
    type Command = UserId;
    type Rejection = Rejection;

    fn evolve(&mut self, event: &Event, _: Timestamp, _: u64) {
        let Event::Identifier(IdentifierEvent::Claimed(e)) = event else {
            panic!("not a claim")
        };
        let claimed_until = Some(e.expires_at);
        self.holding = Some(Holding {
            user: ada(),
            claimed_until,
        });
    }

    fn decide(&self, who: UserId, now: Timestamp) -> Result<Vec<Event>, Rejection> {
        identifier::decide_claim(self.holding.as_ref(), self.attached, who, email(ADDRESS), now)
    }
}

fn given(history: impl IntoIterator<Item = Event>) -> Given<Address> {
    support::scenario::given(history)
}

fn adas_claim() -> Given<Address> {
    given([claimed(ADDRESS, TEN_PAST)])
}

fn adas_since_registration() -> Given<Address> {
    given([]).and(|a| {
        a.holding = Some(Holding {
            user: ada(),
            claimed_until: None,
        })
    })
}

fn claim_by(user: UserId) -> UserId {
    user
}

fn bob() -> UserId {
    UserId(Uuid::from_u128(0xb0b))
}

#[test]
fn what_nobody_holds_may_be_claimed_for_ten_minutes() {
    given([]).when(claim_by(bob())).then([claimed(ADDRESS, TEN_PAST)]);
    assert_eq!(NOON.plus(CLAIM_TTL), at(TEN_PAST));
}

#[test]
fn a_claim_keeps_others_out_until_it_expires() {
    adas_claim()
        .when(claim_by(bob()))
        .then_rejected(Rejection::AddressTaken);
    adas_claim()
        .at(at("2026-11-24T12:09:59.999Z"))
        .when(claim_by(bob()))
        .then_rejected(Rejection::AddressTaken);
    adas_claim()
        .at(at(TEN_PAST))
        .when(claim_by(bob()))
        .then([claimed(ADDRESS, "2026-11-24T12:20:00Z")]);
}

#[test]
fn a_claim_that_was_attached_never_expires() {
    let attached = || {
        adas_claim()
            .and(|a| a.attached = true)
            .at(at("2036-01-01T00:00:00Z"))
    };
    attached()
        .when(claim_by(bob()))
        .then_rejected(Rejection::AddressTaken);
}

#[test]
fn its_holder_may_claim_again() {
    adas_claim()
        .at(at("2026-11-24T12:05:00Z"))
        .when(claim_by(ada()))
        .then([claimed(ADDRESS, "2026-11-24T12:15:00Z")]);
    adas_since_registration()
        .and(|a| a.attached = true)
        .when(claim_by(ada()))
        .then([claimed(ADDRESS, TEN_PAST)]);
}

#[test]
fn an_address_of_registration_is_free_once_its_holder_moved_on_or_was_erased() {
    adas_since_registration()
        .and(|a| a.attached = true)
        .when(claim_by(bob()))
        .then_rejected(Rejection::AddressTaken);
    adas_since_registration()
        .when(claim_by(bob()))
        .then([claimed(ADDRESS, TEN_PAST)]);
}
