//! What holds whatever the order of commands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{ConsentChange, ConsentEvent, LawfulBasis};
use gatelog_events::domain::identifier::{self, CLAIM_TTL, Holding, IdentifierEvent};
use gatelog_events::domain::plan::{ChangePlan, Intent};
use gatelog_events::domain::session::{
    self, Activity, EndReason, LoginMethod, Policy, Session, SessionEvent, Standing,
};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::{
    self, Command, Origin, PasswordReason, Register, Status, User, UserEvent, Verification,
};
use gatelog_events::domain::{Context, Event};
use gatelog_events::email::Email;
use gatelog_events::ids::UserId;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use support::samples::{choice, client, patch, wish};
use support::{NOON, email, session_id, settings};
use uuid::Uuid;

const ADDRESSES: [&str; 3] = ["ada@x.test", "bob@x.test", "eve@x.test"];

fn address() -> impl Strategy<Value = Email> {
    select(&ADDRESSES[..]).prop_map(email)
}

/// Choices about two purposes on notices that are there and one that is not, on several channels and bases.
fn consent() -> impl Strategy<Value = ConsentChange> {
    let purposes = select(&["newsletter", "sms_offers", "spam"][..]);
    let versions = select(&["2026-01", "2026-02", "1999-01"][..]);
    let bases = select(&[LawfulBasis::Consent, LawfulBasis::Contract][..]);
    (purposes, versions, select(&["email", "sms"][..]), bases).prop_map(
        |(purpose, version, channel, lawful_basis)| ConsentChange {
            purpose: purpose.into(),
            channel: channel.into(),
            lawful_basis,
            ..choice(version)
        },
    )
}

fn registration(email: Email) -> Register {
    Register {
        origin: Origin::Api,
        email,
        password_hash: Some("h".into()),
        email_verified: false,
        locale: None,
        profile: Default::default(),
        plan: None,
        roles: [].into(),
        consents: vec![],
        disabled: false,
    }
}

fn role() -> impl Strategy<Value = String> {
    select(&["admin", "buyer"][..]).prop_map(str::to_owned)
}

/// A command that proptest may show: commands themselves hold personal data, so they have no Debug.
#[derive(Clone)]
struct Asked(Command);

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.0 {
            Command::Register(r) => return write!(f, "Register {} {:?}", r.email.key(), r.consents),
            Command::ChangeEmail { email } => return write!(f, "ChangeEmail {}", email.key()),
            Command::SetPassword { reason, .. } => return write!(f, "SetPassword {reason:?}"),
            Command::ChangeProfile { changes, .. } => return write!(f, "ChangeProfile {changes:?}"),
            Command::SetConsent(wish) => return wish.fmt(f),
            Command::ChangePlan(wish) => return wish.fmt(f),
            Command::GrantRole { role } => return write!(f, "GrantRole {role}"),
            Command::RevokeRole { role } => return write!(f, "RevokeRole {role}"),
            Command::VerifyEmail { .. } => "VerifyEmail",
            Command::Disable { .. } => "Disable",
            Command::Enable { .. } => "Enable",
            Command::Erase { .. } => "Erase",
        };
        f.write_str(name)
    }
}

fn command() -> impl Strategy<Value = Asked> {
    let reasons = [
        PasswordReason::Changed,
        PasswordReason::Reset,
        PasswordReason::Rehashed,
    ];
    let profiles = [
        r#"{"given_name":"Ada"}"#,
        r#"{"given_name":null}"#,
        r#"{"company":"X"}"#,
        "{}",
    ];
    let plans = select(&["free", "pro", "enterprise", "gold"][..]);
    let intents = select(&[None, Some(Intent::Cancel), Some(Intent::Renew)][..]);
    prop_oneof![
        2 => (address(), vec((any::<bool>(), consent()), 0..3)).prop_map(|(email, choices)| {
            let consents = choices.into_iter().map(|(granted, c)| wish(granted, c)).collect();
            Asked(Command::Register(Register { consents, ..registration(email) }))
        }),
        1 => select(reasons.to_vec()).prop_map(|reason| Asked(Command::SetPassword { hash: "h".into(), reason, instead_of: None })),
        1 => address().prop_map(|email| Asked(Command::ChangeEmail { email })),
        1 => Just(Asked(Command::VerifyEmail { method: Verification::Mail })),
        1 => select(profiles.to_vec()).prop_map(|p| Asked(Command::ChangeProfile { locale: None, changes: patch(p) })),
        6 => (any::<bool>(), consent()).prop_map(|(granted, c)| Asked(Command::SetConsent(wish(granted, c)))),
        2 => (plans, intents).prop_map(|(to, intent)| Asked(Command::ChangePlan(ChangePlan {
            to: to.into(), intent, effective_at: None, source: "api".into(), reason: None,
        }))),
        1 => role().prop_map(|role| Asked(Command::GrantRole { role })),
        1 => role().prop_map(|role| Asked(Command::RevokeRole { role })),
        1 => Just(Asked(Command::Disable { reason: None })),
        1 => Just(Asked(Command::Enable { reason: None })),
        1 => prop::bool::weighted(0.2).prop_map(|really| match really {
            true => Asked(Command::Erase { reason: None }),
            false => Asked(Command::VerifyEmail { method: Verification::Asserted }),
        }),
    ]
}

/// An event as it was recorded.
type Recorded = (Event, Timestamp, u64);

/// Runs the commands a second apart and numbers what follows as the writer does.
fn history(commands: Vec<(Asked, bool)>, settings: &Settings) -> (User, Vec<Recorded>) {
    let (mut user, mut log) = (User::default(), Vec::new());
    for ((Asked(command), free), second) in commands.into_iter().zip(1..) {
        let now = NOON.plus(Duration::from_secs(second));
        for event in user::decide(&user, free, command, &Context { now, settings }).unwrap_or_default() {
            let sequence = user.version + 1;
            user.evolve(&event, now, sequence);
            log.push((event, now, sequence));
        }
    }
    (user, log)
}

fn fold(user: &mut User, log: &[Recorded]) {
    for (event, time, sequence) in log {
        user.evolve(event, *time, *sequence);
    }
}

proptest! {
    #[test]
    fn any_order_of_commands_keeps_what_must_hold(commands in vec((command(), prop::bool::weighted(0.8)), 1..60)) {
        let (user, log) = history(commands, &settings());
        let sequences: Vec<u64> = log.iter().map(|(_, _, n)| *n).collect();
        prop_assert_eq!(sequences, (1..=log.len() as u64).collect::<Vec<_>>(), "gapless");
        prop_assert_eq!(user.version, log.len() as u64);

        for (i, (event, ..)) in log.iter().enumerate() {
            let registered = matches!(event, Event::User(UserEvent::Registered(_)));
            prop_assert_eq!(registered, i == 0, "registered first and once");
            let erased = matches!(event, Event::User(UserEvent::Erased(_)));
            prop_assert!(!erased || i + 1 == log.len(), "nothing after an erasure");
        }
        prop_assert_eq!(user.status == Status::Erased, user.version > 0 && !user.exists());
        prop_assert_eq!(user.exists(), user.email.is_some() && user.plan.is_some());
    }

    #[test]
    fn where_a_consent_stands_is_the_fold_of_its_own_ledger(commands in vec((command(), Just(true)), 1..60)) {
        let (user, log) = history(commands, &settings());
        let mut ledgers: BTreeMap<&str, Vec<(bool, &ConsentChange, Timestamp)>> = BTreeMap::new();
        for (event, time, _) in &log {
            let Event::Consent(event) = event else { continue };
            let (granted, c) = match event {
                ConsentEvent::Granted(c) => (true, c),
                ConsentEvent::Withdrawn(c) => (false, c),
            };
            ledgers.entry(&c.purpose).or_default().push((granted, c, *time));
        }
        if user.exists() {
            prop_assert!(user.consents.keys().eq(ledgers.keys()));
        } else {
            prop_assert!(user.consents.is_empty());
        }
        for (purpose, state) in &user.consents {
            let (granted, c, time) = ledgers[purpose.as_str()].last().unwrap();
            prop_assert_eq!((state.granted, state.since), (*granted, *time));
            prop_assert_eq!(
                (&state.channel, &state.notice, state.lawful_basis, state.method),
                (&c.channel, &c.notice, c.lawful_basis, c.method)
            );
        }
        for ledger in ledgers.values() {
            for pair in ledger.windows(2) {
                let same = |a: &(bool, &ConsentChange, _), b: &(bool, &ConsentChange, _)| {
                    (a.0, &a.1.channel, &a.1.notice, a.1.lawful_basis)
                        == (b.0, &b.1.channel, &b.1.notice, b.1.lawful_basis)
                };
                prop_assert!(!same(&pair[0], &pair[1]), "no choice stands twice in a row");
            }
        }
    }

    #[test]
    fn a_prefix_and_the_rest_are_the_whole(
        commands in vec((command(), Just(true)), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let (user, log) = history(commands, &settings());
        let (prefix, rest) = log.split_at(cut.index(log.len() + 1));
        let mut folded = User::default();
        fold(&mut folded, prefix);
        // A read model keeps the state between the two as bytes.
        let bytes = serde_json::to_vec(&folded).unwrap();
        let mut folded: User = serde_json::from_slice(&bytes).unwrap();
        fold(&mut folded, rest);
        prop_assert!(folded == user);
    }
}

/// Several users and the addresses they want, each step as one partition would take it.
struct World {
    settings: Settings,
    now: Timestamp,
    users: Vec<User>,
    holdings: BTreeMap<String, Holding>,
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Register(usize, usize),
    Claim(usize, usize),
    /// The second half of the process: attach what was claimed.
    Attach(usize, usize),
    Erase(usize),
    Disable(usize),
}

const USERS: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let (user, address) = (0..USERS, 0..ADDRESSES.len());
    let both = (user.clone(), address);
    prop_oneof![
        3 => select(vec![1, 60, CLAIM_TTL.as_secs() - 1, CLAIM_TTL.as_secs(), 86_400]).prop_map(Step::Wait),
        3 => both.clone().prop_map(|(u, a)| Step::Register(u, a)),
        4 => both.clone().prop_map(|(u, a)| Step::Claim(u, a)),
        4 => both.prop_map(|(u, a)| Step::Attach(u, a)),
        1 => user.clone().prop_map(Step::Erase),
        1 => user.prop_map(Step::Disable),
    ]
}

fn user_id(n: usize) -> UserId {
    UserId(Uuid::from_u128(n as u128 + 1))
}

impl World {
    fn new() -> Self {
        Self {
            settings: settings(),
            now: NOON,
            users: vec![User::default(); USERS],
            holdings: BTreeMap::new(),
        }
    }

    /// The holding of an address, and whether its holder has it as their address now.
    fn holding(&self, email: &Email) -> (Option<&Holding>, bool) {
        let holding = self.holdings.get(email.key());
        let attached = holding
            .is_some_and(|h| (0..USERS).any(|n| user_id(n) == h.user && self.users[n].has_email(email)));
        (holding, attached)
    }

    fn is_free_for(&self, n: usize, email: &Email) -> bool {
        let (holding, attached) = self.holding(email);
        identifier::is_free_for(holding, attached, user_id(n), self.now)
    }

    fn hold(&mut self, n: usize, email: &Email, claimed_until: Option<Timestamp>) {
        self.holdings.insert(
            email.key().to_owned(),
            Holding {
                user: user_id(n),
                claimed_until,
            },
        );
    }

    /// Whether anything came of it.
    fn command(&mut self, n: usize, free: bool, command: Command) -> bool {
        let ctx = Context {
            now: self.now,
            settings: &self.settings,
        };
        let events = user::decide(&self.users[n], free, command, &ctx).unwrap_or_default();
        for event in &events {
            let sequence = self.users[n].version + 1;
            self.users[n].evolve(event, self.now, sequence);
        }
        !events.is_empty()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Wait(seconds) => self.now = self.now.plus(Duration::from_secs(seconds)),
            Step::Register(n, a) => {
                let email = email(ADDRESSES[a]);
                let free = self.is_free_for(n, &email);
                if self.command(n, free, Command::Register(registration(email.clone()))) {
                    self.hold(n, &email, None);
                }
            }
            Step::Claim(n, a) if self.users[n].exists() => {
                let email = email(ADDRESSES[a]);
                let (holding, attached) = self.holding(&email);
                let claim = identifier::decide_claim(holding, attached, user_id(n), email.clone(), self.now);
                for event in claim.unwrap_or_default() {
                    let Event::Identifier(IdentifierEvent::Claimed(e)) = event else {
                        panic!("a claim")
                    };
                    self.hold(n, &email, Some(e.expires_at));
                }
            }
            Step::Claim(..) => {}
            Step::Attach(n, a) => {
                let email = email(ADDRESSES[a]);
                // Only its holder may attach an address; that nobody holds it is not enough.
                let mine = self
                    .holdings
                    .get(email.key())
                    .is_some_and(|h| h.user == user_id(n));
                self.command(n, mine, Command::ChangeEmail { email });
            }
            Step::Erase(n) => drop(self.command(n, false, Command::Erase { reason: None })),
            Step::Disable(n) => drop(self.command(n, false, Command::Disable { reason: None })),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn an_address_has_one_owner(steps in vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            for address in ADDRESSES {
                let address = email(address);
                let owners: Vec<_> = (0..USERS).filter(|n| world.users[*n].has_email(&address)).collect();
                prop_assert!(owners.len() <= 1, "{owners:?} own one address after {step:?}");
                for owner in owners {
                    let holder = world.holdings.get(address.key()).map(|h| h.user);
                    prop_assert_eq!(holder, Some(user_id(owner)), "who owns it holds it");
                    for other in (0..USERS).filter(|n| *n != owner) {
                        prop_assert!(!world.is_free_for(other, &address), "an owned address is not free");
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum AtTheDoor {
    LogIn,
    /// With a token this many exchanges old.
    Refresh(u32),
    LogOut,
    ChangePassword,
    Wait(u64),
}

fn at_the_door() -> impl Strategy<Value = AtTheDoor> {
    prop_oneof![
        2 => Just(AtTheDoor::LogIn),
        8 => prop_oneof![6 => Just(0), 1 => 1u32..3].prop_map(AtTheDoor::Refresh),
        1 => Just(AtTheDoor::LogOut),
        1 => Just(AtTheDoor::ChangePassword),
        2 => select(&[60, 86_400, 13 * 86_400][..]).prop_map(AtTheDoor::Wait),
    ]
}

proptest! {
    #[test]
    fn a_refresh_token_is_good_once_and_generations_never_go_back(steps in vec(at_the_door(), 1..60)) {
        let policy = Policy::default();
        let (mut now, mut credential_version) = (NOON, 1);
        let mut activity = Activity::default();
        let mut session: Option<Session> = None;
        for step in steps {
            let command = match step {
                AtTheDoor::Wait(seconds) => {
                    now = now.plus(Duration::from_secs(seconds));
                    continue;
                }
                AtTheDoor::ChangePassword => {
                    credential_version += 1;
                    continue;
                }
                AtTheDoor::LogIn if session.is_some() => continue,
                AtTheDoor::LogIn => session::Command::Login {
                    session_id: session_id(),
                    method: LoginMethod::Password,
                    client: client(),
                    credential_version,
                },
                AtTheDoor::Refresh(age) => session::Command::Refresh {
                    session_id: session_id(),
                    generation: session.as_ref().map_or(0, |s| s.generation.saturating_sub(age)),
                },
                AtTheDoor::LogOut => {
                    session::Command::End { session_id: session_id(), reason: EndReason::LoggedOut }
                }
            };
            let presented = match command {
                session::Command::Refresh { generation, .. } => Some(generation),
                _ => None,
            };
            let standing = Standing { exists: true, may_sign_in: true, credential_version };
            let before = session.clone();
            let was_live = before.as_ref().is_some_and(|s| s.is_live(credential_version, &policy, now));
            let events = session::decide(&activity, session.as_ref(), standing, command, &policy, now);
            for event in events.unwrap_or_default() {
                let Event::Session(event) = event else { panic!("not an event of the door") };
                activity.evolve(&event, now, activity.version + 1);
                match (&event, &mut session) {
                    (SessionEvent::Started(e), None) => session = Some(Session::start(e, None, now)),
                    (SessionEvent::Refreshed(e), Some(s)) => {
                        prop_assert!(was_live, "only a live session is refreshed");
                        prop_assert_eq!(presented, Some(s.generation), "only by its newest token");
                        prop_assert_eq!(e.generation, s.generation + 1);
                        s.evolve(&event, now);
                    }
                    (_, Some(s)) => s.evolve(&event, now),
                    (_, None) => {}
                }
            }
            let (Some(before), Some(after)) = (before, &session) else { continue };
            prop_assert!(after.generation >= before.generation);
            prop_assert!(before.ended.is_none() || *after == before, "what has ended stays as it was");
            if presented.is_some_and(|g| was_live && g != before.generation) {
                prop_assert_eq!(after.ended.map(|(_, why)| why), Some(EndReason::RefreshTokenReused));
            }
        }
    }
}
