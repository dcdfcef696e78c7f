//! The rules of plans: what kind of change it is follows from the catalogue's ranks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::plan::{ChangePlan, Intent, PlanChange, PlanEvent, PlanState, Rejection};
use gatelog_events::domain::tenant::{Settings, TenantEvent};
use gatelog_events::domain::user::{self, Command, User};
use gatelog_events::domain::{Context, Event};
use support::samples::*;
use support::scenario::{Aggregate, Given};
use support::{NOON, at, settings};

struct Account(User, Settings);

impl Default for Account {
    /// The catalogue: free 0, pro 10, team 10, enterprise 20.
    fn default() -> Self {
        let mut settings = settings();
        settings.evolve(
            &TenantEvent::PlanDefined(plan_defined("team", 10, &["app"])),
            NOON,
            9,
        );
        Self(User::default(), settings)
    }
}

impl Aggregate for Account {
    type Command = ChangePlan;
    type Rejection = gatelog_events::domain::Rejection;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        self.0.evolve(event, time, sequence);
    }

    fn decide(&self, wish: ChangePlan, now: Timestamp) -> Result<Vec<Event>, Self::Rejection> {
        user::decide(
            &self.0,
            true,
            Command::ChangePlan(wish),
            &Context {
                now,
                settings: &self.1,
            },
        )
    }
}

fn on(plan: &str) -> Given<Account> {
    support::scenario::given([registered(), on_plan(plan)])
}

fn without_plan() -> Given<Account> {
    support::scenario::given([registered()])
}

fn to(plan: &str) -> ChangePlan {
    ChangePlan {
        to: plan.into(),
        intent: None,
        effective_at: None,
        source: "api".into(),
        reason: None,
    }
}

fn cancel_to(plan: &str) -> ChangePlan {
    ChangePlan {
        intent: Some(Intent::Cancel),
        ..to(plan)
    }
}

fn renew(plan: &str) -> ChangePlan {
    ChangePlan {
        intent: Some(Intent::Renew),
        ..to(plan)
    }
}

fn is(kind: fn(PlanChange) -> PlanEvent, from: &str, to: &str) -> [Event; 1] {
    [kind(plan_change(Some(from), to)).into()]
}

#[test]
fn the_kind_of_change_follows_from_the_ranks() {
    without_plan().when(to("pro")).then([on_plan("pro")]);
    on("free")
        .when(to("pro"))
        .then(is(PlanEvent::Upgraded, "free", "pro"));
    on("enterprise")
        .when(to("pro"))
        .then(is(PlanEvent::Downgraded, "enterprise", "pro"));
    on("pro")
        .when(to("team"))
        .then(is(PlanEvent::Switched, "pro", "team"));
    on("pro")
        .when(cancel_to("free"))
        .then(is(PlanEvent::Cancelled, "pro", "free"));
    on("pro")
        .when(renew("pro"))
        .then(is(PlanEvent::Renewed, "pro", "pro"));
}

#[test]
fn the_present_plan_again_is_no_event_unless_it_is_renewed() {
    on("pro").when(to("pro")).then_nothing();
    on("pro").when(cancel_to("pro")).then_nothing();
}

#[test]
fn a_plan_that_left_the_catalogue_ranks_lowest() {
    on("legacy")
        .when(to("pro"))
        .then(is(PlanEvent::Upgraded, "legacy", "pro"));
    on("legacy")
        .when(to("free"))
        .then(is(PlanEvent::Switched, "legacy", "free"));
}

#[test]
fn what_is_not_so_is_refused() {
    on("free")
        .when(to("gold"))
        .then_rejected(Rejection::UnknownPlan("gold".into()));
    on("pro")
        .when(cancel_to("enterprise"))
        .then_rejected(Rejection::NotACancellation("pro".into()));
    on("pro")
        .when(cancel_to("team"))
        .then_rejected(Rejection::NotACancellation("pro".into()));
    on("pro")
        .when(renew("free"))
        .then_rejected(Rejection::NotARenewal("pro".into()));
}

#[test]
fn a_change_may_count_from_the_past_but_not_from_the_future() {
    let from = |time: &str| ChangePlan {
        effective_at: Some(at(time)),
        ..to("pro")
    };
    let change = PlanChange {
        effective_at: at("2026-11-01T00:00:00Z"),
        ..plan_change(Some("free"), "pro")
    };
    on("free")
        .when(from("2026-11-01T00:00:00Z"))
        .then([PlanEvent::Upgraded(change).into()]);
    on("free")
        .when(from("2026-11-24T12:00:00Z"))
        .then(is(PlanEvent::Upgraded, "free", "pro"));
    on("free")
        .when(from("2026-11-24T12:00:00.001Z"))
        .then_rejected(Rejection::NotYetEffective);
}

#[test]
fn source_and_reason_are_kept() {
    let by_support = || (Some("goodwill".to_owned()), "support".to_owned());
    let (reason, source) = by_support();
    let change = PlanChange {
        reason,
        source,
        ..plan_change(Some("free"), "pro")
    };
    let (reason, source) = by_support();
    on("free")
        .when(ChangePlan {
            reason,
            source,
            ..to("pro")
        })
        .then([PlanEvent::Upgraded(change).into()]);
}

#[test]
fn a_renewal_does_not_move_the_start_of_a_plan() {
    let mut user = User::default();
    let renewal = PlanChange {
        effective_at: at("2027-11-24T12:00:00Z"),
        ..plan_change(Some("pro"), "pro")
    };
    for (event, sequence) in [registered(), on_plan("pro"), PlanEvent::Renewed(renewal).into()]
        .iter()
        .zip(1..)
    {
        user.evolve(event, NOON, sequence);
    }
    assert_eq!(
        user.plan,
        Some(PlanState {
            name: "pro".into(),
            since: NOON
        })
    );
}
