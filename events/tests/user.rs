//! The rules of the user aggregate, its plan and consents aside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::user::{
    self, Command, Origin, PasswordReason, Person, Register, Registered, Rejection, Status, User, UserEvent,
    Verification,
};
use gatelog_events::domain::{Context, Event, consent, plan};
use support::samples::*;
use support::scenario::{Aggregate, Given};
use support::{NOON, email, settings};

/// A user, and whether the partition of the address at hand lets them have it.
struct Account {
    user: User,
    address_free: bool,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            user: User::default(),
            address_free: true,
        }
    }
}

impl Aggregate for Account {
    type Command = Command;
    type Rejection = gatelog_events::domain::Rejection;

    fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        self.user.evolve(event, time, sequence);
    }

    fn decide(&self, command: Command, now: Timestamp) -> Result<Vec<Event>, Self::Rejection> {
        let settings = settings();
        user::decide(
            &self.user,
            self.address_free,
            command,
            &Context {
                now,
                settings: &settings,
            },
        )
    }
}

fn given(history: impl IntoIterator<Item = Event>) -> Given<Account> {
    support::scenario::given(history)
}

fn ada() -> Vec<Event> {
    vec![
        registered(),
        password_set("h", PasswordReason::Registered),
        on_plan("free"),
    ]
}

fn ada_and(more: impl IntoIterator<Item = Event>) -> Vec<Event> {
    ada().into_iter().chain(more).collect()
}

fn fold(history: impl IntoIterator<Item = Event>) -> User {
    let mut user = User::default();
    for (event, sequence) in history.into_iter().zip(1..) {
        user.evolve(&event, NOON, sequence);
    }
    user
}

fn register() -> Register {
    Register {
        origin: Origin::SelfService,
        email: email(ADDRESS),
        password_hash: None,
        email_verified: false,
        locale: Some("en".into()),
        profile: profile(r#"{"given_name":"Ada"}"#),
        plan: None,
        roles: [].into(),
        consents: vec![],
        disabled: false,
    }
}

fn registers(change: impl FnOnce(&mut Register)) -> Command {
    let mut r = register();
    change(&mut r);
    Command::Register(r)
}

fn first_plan(name: &str, source: &str) -> Event {
    let change = plan::PlanChange {
        source: source.into(),
        ..plan_change(None, name)
    };
    plan::PlanEvent::Assigned(change).into()
}

fn set_password(reason: PasswordReason) -> Command {
    Command::SetPassword {
        hash: "new".into(),
        reason,
        instead_of: None,
    }
}

fn change_email(address: &str) -> Command {
    Command::ChangeEmail {
        email: email(address),
    }
}

fn change_profile(locale: Option<&str>, changes: &str) -> Command {
    Command::ChangeProfile {
        locale: locale.map(Into::into),
        changes: patch(changes),
    }
}

fn grant_role(role: &str) -> Command {
    Command::GrantRole { role: role.into() }
}

fn revoke_role(role: &str) -> Command {
    Command::RevokeRole { role: role.into() }
}

fn disable() -> Command {
    Command::Disable {
        reason: Some("abuse".into()),
    }
}

fn enable() -> Command {
    Command::Enable {
        reason: Some("cleared".into()),
    }
}

fn erase() -> Command {
    Command::Erase { reason: None }
}

fn verify_email() -> Command {
    Command::VerifyEmail {
        method: Verification::Mail,
    }
}

#[test]
fn whoever_registers_gets_the_default_plan() {
    given([])
        .when(registers(|_| ()))
        .then([registered(), first_plan("free", "registration")]);
}

#[test]
fn a_registration_is_one_commit_with_all_that_it_tells() {
    given([])
        .when(registers(|r| {
            r.password_hash = Some("h".into());
            r.email_verified = true;
            r.plan = Some("pro".into());
            r.roles = ["buyer".to_owned(), "admin".to_owned()].into();
            r.consents = vec![wish(true, choice("2026-01"))];
            r.disabled = true;
        }))
        .then([
            registered(),
            password_set("h", PasswordReason::Registered),
            email_verified(Verification::Asserted),
            first_plan("pro", "registration"),
            granted(choice("2026-01")),
            role_granted("admin"),
            role_granted("buyer"),
            disabled(None),
        ]);
}

#[test]
fn an_import_says_so() {
    let imported = UserEvent::Registered(Registered {
        origin: Origin::Import,
        locale: None,
        personal: Person {
            email: email(ADDRESS),
            profile: Default::default(),
        }
        .into(),
    });
    given([])
        .when(registers(|r| {
            r.origin = Origin::Import;
            r.locale = None;
            r.profile = Default::default();
            r.password_hash = Some("h".into());
        }))
        .then([
            imported.into(),
            password_set("h", PasswordReason::Imported),
            first_plan("free", "import"),
        ]);
}

#[test]
fn a_registration_is_all_or_nothing() {
    let elsewhere = wish(
        true,
        consent::ConsentChange {
            purpose: "spam".into(),
            ..choice("2026-01")
        },
    );
    given(ada())
        .when(registers(|_| ()))
        .then_rejected(Rejection::AlreadyExists);
    given(ada_and([erased(None)]))
        .when(registers(|_| ()))
        .then_rejected(Rejection::AlreadyExists);
    given([])
        .and(|a| a.address_free = false)
        .when(registers(|_| ()))
        .then_rejected(Rejection::AddressTaken);
    given([])
        .when(registers(|r| r.plan = Some("gold".into())))
        .then_rejected(plan::Rejection::UnknownPlan("gold".into()));
    given([])
        .when(registers(|r| {
            r.consents = vec![wish(true, choice("2026-01")), elsewhere]
        }))
        .then_rejected(consent::Rejection::UnknownPurpose("spam".into()));
}

#[test]
fn a_form_that_names_a_choice_twice_is_one_choice() {
    let twice = vec![wish(true, choice("2026-01")), wish(true, choice("2026-01"))];
    given([]).when(registers(|r| r.consents = twice)).then([
        registered(),
        first_plan("free", "registration"),
        granted(choice("2026-01")),
    ]);
}

#[test]
fn nobody_changes_a_user_who_is_not_there_or_no_longer() {
    let all: &[fn() -> Command] = &[
        || set_password(PasswordReason::Changed),
        || change_email("b@x.test"),
        verify_email,
        || change_profile(Some("de"), "{}"),
        || Command::SetConsent(wish(true, choice("2026-01"))),
        || {
            Command::ChangePlan(plan::ChangePlan {
                to: "pro".into(),
                intent: None,
                effective_at: None,
                source: "api".into(),
                reason: None,
            })
        },
        || grant_role("admin"),
        || revoke_role("admin"),
        disable,
        enable,
        erase,
    ];
    for command in all {
        given([]).when(command()).then_rejected(Rejection::NotFound);
        given(ada_and([role_granted("admin"), erased(None)]))
            .when(command())
            .then_rejected(Rejection::NotFound);
    }
}

#[test]
fn each_password_is_an_event_even_the_same_again() {
    for reason in [
        PasswordReason::Changed,
        PasswordReason::Reset,
        PasswordReason::Rehashed,
    ] {
        given(ada())
            .when(set_password(reason))
            .then([password_set("new", reason)]);
    }
}

#[test]
fn a_new_password_is_a_new_credential_but_a_rehash_is_not() {
    let version = |more: &[PasswordReason]| {
        fold(ada_and(more.iter().map(|r| password_set("h", *r)))).credential_version
    };
    assert_eq!(fold([registered()]).credential_version, 0);
    assert_eq!(version(&[]), 1);
    assert_eq!(version(&[PasswordReason::Rehashed]), 1);
    assert_eq!(
        version(&[
            PasswordReason::Changed,
            PasswordReason::Rehashed,
            PasswordReason::Reset
        ]),
        3
    );
}

#[test]
fn an_address_is_changed_if_it_is_free_and_must_be_verified_again() {
    given(ada())
        .when(change_email("b@x.test"))
        .then([email_changed_from(ADDRESS, "b@x.test")]);
    given(ada())
        .and(|a| a.address_free = false)
        .when(change_email("b@x.test"))
        .then_rejected(Rejection::AddressTaken);
    let moved = fold(ada_and([
        email_verified(Verification::Mail),
        email_changed("b@x.test"),
    ]));
    assert!(!moved.email_verified);
    assert!(moved.has_email(&email("B@X.test")) && !moved.has_email(&email(ADDRESS)));
}

#[test]
fn the_own_address_is_never_taken_and_its_same_spelling_is_no_change() {
    given(ada())
        .and(|a| a.address_free = false)
        .when(change_email(ADDRESS))
        .then_nothing();
    given(ada())
        .and(|a| a.address_free = false)
        .when(change_email("ADA@x.test"))
        .then([email_changed_from(ADDRESS, "ADA@x.test")]);
}

#[test]
fn an_address_is_verified_once() {
    given(ada())
        .when(verify_email())
        .then([email_verified(Verification::Mail)]);
    given(ada_and([email_verified(Verification::Asserted)]))
        .when(verify_email())
        .then_nothing();
}

#[test]
fn only_what_changes_in_a_profile_is_told() {
    given(ada())
        .when(change_profile(
            Some("en"),
            r#"{"given_name":"Ada","company":"Engines","nickname":null}"#,
        ))
        .then([profile_changed(None, r#"{"company":"Engines"}"#)]);
    given(ada())
        .when(change_profile(Some("fr"), r#"{"given_name":null}"#))
        .then([profile_changed(Some("fr"), r#"{"given_name":null}"#)]);
    given(ada())
        .when(change_profile(Some("fr"), "{}"))
        .then([profile_changed(Some("fr"), "{}")]);
    given(ada())
        .when(change_profile(Some("en"), r#"{"given_name":"Ada"}"#))
        .then_nothing();
    given(ada()).when(change_profile(None, "{}")).then_nothing();
}

#[test]
fn a_role_is_granted_once_and_revoked_once() {
    given(ada())
        .when(grant_role("admin"))
        .then([role_granted("admin")]);
    given(ada_and([role_granted("admin")]))
        .when(grant_role("admin"))
        .then_nothing();
    given(ada_and([role_granted("admin")]))
        .when(revoke_role("admin"))
        .then([role_revoked("admin")]);
    given(ada()).when(revoke_role("admin")).then_nothing();
}

#[test]
fn an_account_is_disabled_and_enabled_once() {
    given(ada()).when(disable()).then([disabled(Some("abuse"))]);
    given(ada_and([disabled(None)])).when(disable()).then_nothing();
    given(ada_and([disabled(None)]))
        .when(enable())
        .then([enabled(Some("cleared"))]);
    given(ada()).when(enable()).then_nothing();
    assert!(!fold(ada_and([disabled(None)])).may_sign_in());
    assert!(fold(ada_and([disabled(None), enabled(None)])).may_sign_in());
}

#[test]
fn a_disabled_account_can_still_be_put_in_order() {
    let history = || ada_and([disabled(None)]);
    given(history())
        .when(set_password(PasswordReason::Reset))
        .then([password_set("new", PasswordReason::Reset)]);
    given(history())
        .when(Command::SetConsent(wish(false, choice("2026-01"))))
        .then([withdrawn(choice("2026-01"))]);
    given(history()).when(erase()).then([erased(None)]);
}

#[test]
fn an_erasure_leaves_only_that_there_was_somebody() {
    given(ada()).when(erase()).then([erased(None)]);
    let left = fold(ada_and([
        granted(choice("2026-01")),
        role_granted("admin"),
        erased(None),
    ]));
    let nothing = User {
        version: 6,
        status: Status::Erased,
        created_at: NOON,
        ..User::default()
    };
    assert!(left == nothing);
    assert!(!left.exists() && !left.may_sign_in() && !left.has_email(&email(ADDRESS)));
}

#[test]
fn a_history_whose_key_is_destroyed_still_folds() {
    let bound = gatelog_events::seal::Binding {
        event: gatelog_events::ids::EventId(uuid::Uuid::nil()),
        event_type: "t",
        subject: support::ada(),
    };
    let without_personal = |mut e: Event| {
        if let Some(p) = e.personal() {
            p.seal(&support::key(), &bound, [0; 12]).unwrap();
            p.open(None, &bound).unwrap();
        }
        e
    };
    let history = ada_and([
        email_changed("b@x.test"),
        profile_changed(Some("fr"), r#"{"company":"X"}"#),
    ]);
    let user = fold(history.into_iter().map(without_personal));
    assert!(user.email.is_none() && user.profile.0.is_empty());
    assert_eq!(
        (user.version, user.credential_version, user.locale.as_deref()),
        (5, 1, Some("fr"))
    );
}

#[test]
fn a_user_shows_nothing_personal_in_a_log() {
    let user = fold(ada_and([profile_changed(None, r#"{"family_name":"Lovelace"}"#)]));
    let shown = format!("{user:?} {:?}", ada());
    assert!(
        !shown.contains("Ada") && !shown.contains("Lovelace") && !shown.contains("x.test"),
        "{shown}"
    );
}

#[test]
fn a_rehash_does_not_bring_back_a_password_that_was_changed_meanwhile() {
    let rehash = |version| Command::SetPassword {
        hash: "new".into(),
        reason: PasswordReason::Rehashed,
        instead_of: Some(version),
    };
    let changed = || {
        given([
            registered(),
            password_set("h", PasswordReason::Registered),
            password_set("i", PasswordReason::Changed),
        ])
    };
    changed().when(rehash(1)).then_nothing();
    changed()
        .when(rehash(2))
        .then([password_set("new", PasswordReason::Rehashed)]);
}

#[test]
fn a_password_that_is_no_more_proves_nothing() {
    let change = |version| Command::SetPassword {
        hash: "new".into(),
        reason: PasswordReason::Changed,
        instead_of: Some(version),
    };
    let changed = || {
        given([
            registered(),
            password_set("h", PasswordReason::Registered),
            password_set("i", PasswordReason::Reset),
        ])
    };
    changed()
        .when(change(1))
        .then_rejected(Rejection::CredentialChanged);
    changed()
        .when(change(2))
        .then([password_set("new", PasswordReason::Changed)]);
}
