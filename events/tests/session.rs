//! The rules at the door: logins, lock-outs, sessions and their refresh tokens.
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
use gatelog_events::domain::session::{
    self, Activity, Command, EndReason, FailureReason, LoginMethod, Policy, Rejection, Session, SessionEvent,
    Standing,
};
use support::samples::*;
use support::scenario::{Aggregate, Given};
use support::{NOON, at, session_id};

const END: &str = "2026-12-24T12:00:00Z";
const A_MINUTE_LATER: &str = "2026-11-24T12:01:00Z";

/// What one user did at the door, and who they are by the identity stream.
struct Door {
    activity: Activity,
    session: Option<Session>,
    standing: Standing,
}

impl Default for Door {
    fn default() -> Self {
        let standing = Standing {
            exists: true,
            may_sign_in: true,
            credential_version: 1,
        };
        Self {
            activity: Activity::default(),
            session: None,
            standing,
        }
    }
}

impl Aggregate for Door {
    type Command = Command;
    type Rejection = Rejection;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        let Event::Session(event) = event else {
            panic!("not an event of the door")
        };
        self.activity.evolve(event, time, sequence);
        match (event, &mut self.session) {
            (SessionEvent::Started(e), session) => *session = Some(Session::start(e, None, time)),
            (event, Some(session)) => session.evolve(event, time),
            _ => {}
        }
    }

    fn decide(&self, command: Command, now: Timestamp) -> Result<Vec<Event>, Rejection> {
        let policy = Policy::default();
        session::decide(
            &self.activity,
            self.session.as_ref(),
            self.standing,
            command,
            &policy,
            now,
        )
    }
}

fn given(history: impl IntoIterator<Item = Event>) -> Given<Door> {
    support::scenario::given(history)
}

fn in_session() -> Given<Door> {
    given([login_succeeded(), started(1, END)])
}

fn failures(n: usize) -> Vec<Event> {
    vec![login_failed(FailureReason::WrongPassword); n]
}

fn login(credential_version: u32) -> Command {
    Command::Login {
        session_id: session_id(),
        method: LoginMethod::Password,
        client: client(),
        credential_version,
    }
}

fn fail(reason: FailureReason) -> Command {
    Command::FailLogin {
        reason,
        method: LoginMethod::Password,
        client: client(),
    }
}

fn refresh(generation: u32) -> Command {
    Command::Refresh {
        session_id: session_id(),
        generation,
    }
}

fn log_out() -> Command {
    Command::End {
        session_id: session_id(),
        reason: EndReason::LoggedOut,
    }
}

fn unlock() -> Command {
    Command::Unlock {
        reason: Some("by support".into()),
    }
}

fn no_longer(door: &mut Door) {
    door.standing = Standing {
        exists: false,
        may_sign_in: false,
        credential_version: 0,
    };
}

#[test]
fn a_session_starts_once_whatever_happened_since() {
    let later: [fn(&mut Door); 2] = [no_longer, |door| door.standing.credential_version = 2];
    in_session().when(login(1)).then_nothing();
    for happened in later {
        in_session().and(happened).when(login(1)).then_nothing();
    }
    given([login_succeeded(), started(1, END), ended(EndReason::LoggedOut)])
        .when(login(1))
        .then_nothing();
}

#[test]
fn a_login_starts_a_session_of_thirty_days() {
    given([])
        .when(login(1))
        .then([login_succeeded(), started(1, END)]);
    given(failures(3))
        .when(login(1))
        .then([login_succeeded(), started(1, END)]);
}

#[test]
fn a_login_needs_an_account_in_good_standing_and_the_present_credential() {
    given([])
        .and(|d| d.standing.may_sign_in = false)
        .when(login(1))
        .then_rejected(Rejection::NotAllowed);
    given([])
        .and(no_longer)
        .when(login(1))
        .then_rejected(Rejection::NotAllowed);
    given([])
        .and(|d| d.standing.credential_version = 2)
        .when(login(1))
        .then_rejected(Rejection::CredentialChanged);
}

#[test]
fn a_locked_account_takes_no_login_until_the_lock_ends() {
    let until = at("2026-11-24T12:00:01Z");
    let locked = || given([locked("2026-11-24T12:00:01Z", 10)]);
    locked().when(login(1)).then_rejected(Rejection::Locked(until));
    locked()
        .at(at("2026-11-24T12:00:00.999Z"))
        .when(login(1))
        .then_rejected(Rejection::Locked(until));
    locked()
        .at(until)
        .when(login(1))
        .then([login_succeeded(), started(1, "2026-12-24T12:00:01Z")]);
}

#[test]
fn a_failure_is_on_record_with_its_reason() {
    for reason in [
        FailureReason::WrongPassword,
        FailureReason::NoPassword,
        FailureReason::Disabled,
    ] {
        given([]).when(fail(reason)).then([login_failed(reason)]);
    }
}

#[test]
fn a_failure_of_nobody_seals_and_locks_nothing() {
    let nobody = || fail(FailureReason::UnknownIdentifier);
    given([])
        .and(no_longer)
        .when(nobody())
        .then([login_failed_for_nobody()]);
    given(failures(50))
        .and(no_longer)
        .when(nobody())
        .then([login_failed_for_nobody()]);
}

#[test]
fn the_tenth_failure_locks_and_each_further_one_doubles_it() {
    let wrong = || fail(FailureReason::WrongPassword);
    let failed = || login_failed(FailureReason::WrongPassword);
    given(failures(8)).when(wrong()).then([failed()]);
    given(failures(9))
        .when(wrong())
        .then([failed(), locked("2026-11-24T12:00:01Z", 10)]);
    given(failures(10))
        .when(wrong())
        .then([failed(), locked("2026-11-24T12:00:02Z", 11)]);
    given(failures(14))
        .when(wrong())
        .then([failed(), locked("2026-11-24T12:00:32Z", 15)]);
    given(failures(50))
        .when(wrong())
        .then([failed(), locked("2026-11-24T12:15:00Z", 51)]);
}

#[test]
fn locks_grow_to_their_bound_whatever_the_policy() {
    let policy = Policy::default();
    for (failures, seconds) in [
        (0, 0),
        (9, 0),
        (10, 1),
        (11, 2),
        (19, 512),
        (20, 900),
        (41, 900),
        (u32::MAX, 900),
    ] {
        assert_eq!(
            policy.lock_for(failures),
            Duration::from_secs(seconds),
            "{failures} failures"
        );
    }
    let endless = Policy {
        lock_base: Duration::MAX,
        lock_max: Duration::MAX,
        ..policy
    };
    assert_eq!(endless.lock_for(u32::MAX), Duration::MAX);
}

#[test]
fn a_login_that_is_recorded_late_is_not_the_last_one() {
    let Event::Session(login) = login_succeeded() else {
        panic!("not of the door")
    };
    let mut activity = Activity::default();
    activity.evolve(&login, at(A_MINUTE_LATER), 1);
    activity.evolve(&login, NOON, 2);
    assert_eq!(
        (activity.last_login_at, activity.version),
        (Some(at(A_MINUTE_LATER)), 2)
    );
}

#[test]
fn a_success_or_an_unlock_forgets_the_failures() {
    let wrong = || fail(FailureReason::WrongPassword);
    let failed = || login_failed(FailureReason::WrongPassword);
    let after = |event| failures(9).into_iter().chain([event]);
    given(after(login_succeeded())).when(wrong()).then([failed()]);
    given(after(unlocked(None))).when(wrong()).then([failed()]);
}

#[test]
fn an_account_is_unlocked_if_there_is_anything_to_forget() {
    given([]).when(unlock()).then_nothing();
    given(failures(1))
        .when(unlock())
        .then([unlocked(Some("by support"))]);
    given([locked(END, 10)])
        .when(unlock())
        .then([unlocked(Some("by support"))]);
    given([locked(END, 10), unlocked(None)])
        .when(unlock())
        .then_nothing();
    given([])
        .and(no_longer)
        .when(unlock())
        .then_rejected(Rejection::NotFound);
}

#[test]
fn the_newest_refresh_token_is_exchanged_for_the_next() {
    in_session().when(refresh(0)).then([refreshed(1)]);
    given([started(1, END), refreshed(1), refreshed(2)])
        .when(refresh(2))
        .then([refreshed(3)]);
}

#[test]
fn a_refresh_token_that_comes_again_ends_the_session() {
    given([started(1, END), refreshed(1)])
        .when(refresh(0))
        .then([reused(0), ended(EndReason::RefreshTokenReused)]);
    in_session()
        .when(refresh(7))
        .then([reused(7), ended(EndReason::RefreshTokenReused)]);
}

#[test]
fn after_a_reuse_no_token_of_the_family_is_good() {
    let history = || {
        given([
            started(1, END),
            refreshed(1),
            reused(0),
            ended(EndReason::RefreshTokenReused),
        ])
    };
    for generation in [0, 1, 2] {
        history()
            .when(refresh(generation))
            .then_rejected(Rejection::Ended);
    }
}

#[test]
fn a_session_that_is_not_live_is_not_refreshed() {
    given([]).when(refresh(0)).then_rejected(Rejection::NotFound);
    given([started(1, END), ended(EndReason::LoggedOut)])
        .when(refresh(0))
        .then_rejected(Rejection::Ended);
    in_session()
        .and(|d| d.standing.may_sign_in = false)
        .when(refresh(0))
        .then_rejected(Rejection::Ended);
    in_session()
        .and(no_longer)
        .when(refresh(0))
        .then_rejected(Rejection::Ended);
    in_session()
        .and(|d| d.standing.credential_version = 2)
        .when(refresh(0))
        .then_rejected(Rejection::Ended);
    in_session()
        .at(at("2026-12-08T12:00:00Z"))
        .when(refresh(0))
        .then_rejected(Rejection::Ended);
    // Reuse of a session that is over tells nothing new.
    given([started(1, END), refreshed(1), ended(EndReason::Revoked)])
        .when(refresh(0))
        .then_rejected(Rejection::Ended);
}

#[test]
fn a_session_lives_as_long_as_its_credential_its_use_and_its_term_allow() {
    let policy = Policy::default();
    let session = |history: &[Event]| {
        let mut door = Door::default();
        for (event, sequence) in history.iter().zip(1..) {
            door.evolve(event, NOON, sequence);
        }
        door.session.unwrap()
    };
    let fresh = session(&[started(1, END)]);
    for (what, credential, now, live) in [
        ("at once", 1, "2026-11-24T12:00:00Z", true),
        ("after a change of the password", 2, A_MINUTE_LATER, false),
        (
            "just before fourteen idle days",
            1,
            "2026-12-08T11:59:59.999Z",
            true,
        ),
        ("after fourteen idle days", 1, "2026-12-08T12:00:00Z", false),
    ] {
        assert_eq!(fresh.is_live(credential, &policy, at(now)), live, "{what}");
    }
    let mut used = fresh;
    used.evolve(
        &SessionEvent::Refreshed(session::Refreshed {
            session_id: used.id,
            generation: 1,
        }),
        at("2026-12-23T00:00:00Z"),
    );
    assert!(
        used.is_live(1, &policy, at("2026-12-24T11:59:59Z")),
        "a refresh keeps it alive"
    );
    assert!(!used.is_live(1, &policy, at(END)), "but not beyond its term");
    assert!(!session(&[started(1, END), ended(EndReason::LoggedOut)]).is_live(1, &policy, NOON));
}

#[test]
fn a_session_is_ended_once() {
    in_session().when(log_out()).then([ended(EndReason::LoggedOut)]);
    given([started(1, END), ended(EndReason::Revoked)])
        .when(log_out())
        .then_nothing();
    given([]).when(log_out()).then_rejected(Rejection::NotFound);
    // Its owner may be disabled or gone: ending is always allowed.
    in_session()
        .and(no_longer)
        .when(log_out())
        .then([ended(EndReason::LoggedOut)]);
}

#[test]
fn commands_name_the_session_they_are_about() {
    for command in [login(1), refresh(0), log_out()] {
        assert_eq!(command.session_id(), Some(session_id()));
    }
    for command in [fail(FailureReason::WrongPassword), unlock()] {
        assert_eq!(command.session_id(), None);
    }
}

#[test]
fn a_session_remembers_where_it_came_from_and_does_not_show_it() {
    let Event::Session(SessionEvent::Started(e)) = started(1, END) else {
        panic!("a start")
    };
    let session = Session::start(&e, Some(&client()), NOON);
    assert_eq!(session.client.ip.as_deref(), Some("192.0.2.7"));
    assert!(!format!("{session:?}").contains("192.0.2.7"));
}
