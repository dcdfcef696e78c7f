//! The user: registration, address, password, profile, roles, status, erasure. Its state also holds plan and consents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::consent::{self, ConsentEvent, ConsentState, SetConsent};
use super::plan::{self, ChangePlan, PlanState};
use super::profile::{Profile, ProfilePatch};
use super::{Context, Event, Payload, events, has_personal};
use crate::clock::Timestamp;
use crate::email::Email;
use crate::personal::Personal;

events! {
    /// What happened to a user.
    UserEvent {
        Registered(Registered) = "com.gatelog.user.registered.v1",
        PasswordSet(PasswordSet) = "com.gatelog.user.password_set.v1",
        EmailChanged(EmailChanged) = "com.gatelog.user.email_changed.v1",
        EmailVerified(EmailVerified) = "com.gatelog.user.email_verified.v1",
        ProfileChanged(ProfileChanged) = "com.gatelog.user.profile_changed.v1",
        RoleGranted(RoleChange) = "com.gatelog.user.role_granted.v1",
        RoleRevoked(RoleChange) = "com.gatelog.user.role_revoked.v1",
        Disabled(StatusChange) = "com.gatelog.user.disabled.v1",
        Enabled(StatusChange) = "com.gatelog.user.enabled.v1",
        /// The subject key is destroyed by whoever folds this.
        Erased(StatusChange) = "com.gatelog.user.erased.v1",
    }
}

/// By which way an account came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    SelfService,
    Api,
    Import,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Registered {
    pub origin: Origin,
    /// BCP 47 language tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(rename = "sealed")]
    pub personal: Personal<Person>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Person {
    pub email: Email,
    #[serde(default)]
    pub profile: Profile,
}

/// Why a password was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PasswordReason {
    Registered,
    Imported,
    /// By its owner.
    Changed,
    /// By somebody else.
    Reset,
    /// The same password under newer parameters; sessions live on.
    Rehashed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PasswordSet {
    pub reason: PasswordReason,
    #[serde(rename = "sealed")]
    pub personal: Personal<PasswordHash>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PasswordHash {
    /// PHC string, or another form that `gatelog import` takes.
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EmailChanged {
    #[serde(rename = "sealed")]
    pub personal: Personal<NewEmail>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NewEmail {
    pub email: Email,
    /// The address until then: whoever is told of the change must know which one it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Email>,
}

/// How it was shown that the address is the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verification {
    /// A mailed secret came back.
    Mail,
    /// An operator or the former system vouches for it.
    Asserted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EmailVerified {
    pub method: Verification,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProfileChanged {
    /// Present if the locale changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(rename = "sealed")]
    pub personal: Personal<ProfileUpdate>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProfileUpdate {
    pub changes: ProfilePatch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RoleChange {
    pub role: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StatusChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

has_personal!(Registered, PasswordSet, EmailChanged, ProfileChanged);
impl Payload for EmailVerified {}
impl Payload for RoleChange {}
impl Payload for StatusChange {}

/// Whether a user may do anything at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Active,
    Disabled,
    Erased,
}

/// Roles of a user, at the most, and their bytes in all: they stand in each access token, which proxies must take.
pub const MAX_ROLES: usize = 100;
/// See [`MAX_ROLES`].
pub const MAX_ROLE_BYTES: usize = 2000;

/// A user as the events so far make them. Version 0 is a user that does not exist.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct User {
    /// Sequence of the last event.
    pub version: u64,
    pub status: Status,
    pub created_at: Timestamp,
    pub email: Option<Email>,
    pub email_verified: bool,
    pub locale: Option<String>,
    pub profile: Profile,
    /// Grows with each change of the password but a rehash, and when the user is disabled: older sessions are dead.
    pub credential_version: u32,
    pub plan: Option<PlanState>,
    pub roles: BTreeSet<String>,
    pub consents: BTreeMap<String, ConsentState>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("version", &self.version)
            .field("status", &self.status)
            .field("plan", &self.plan)
            .field("roles", &self.roles)
            .field("consents", &self.consents)
            .finish_non_exhaustive()
    }
}

impl User {
    /// Whether the user exists and was not erased.
    pub fn exists(&self) -> bool {
        self.version > 0 && self.status != Status::Erased
    }

    /// The one rule for all ways in.
    pub fn may_sign_in(&self) -> bool {
        self.version > 0 && self.status == Status::Active
    }

    /// Whether this is the user's address now.
    pub fn has_email(&self, email: &Email) -> bool {
        self.exists() && self.email.as_ref().is_some_and(|e| e.key() == email.key())
    }

    /// Folds one event, which happened at `time` and is the aggregate's `sequence`-th.
    pub fn evolve(&mut self, event: &Event, time: Timestamp, sequence: u64) {
        match event {
            Event::User(e) => self.evolve_user(e, time),
            Event::Consent(e) => self.evolve_consent(e, time),
            Event::Plan(e) => self.plan = Some(PlanState::after(e, self.plan.take())),
            Event::Identifier(_) | Event::Session(_) | Event::Tenant(_) | Event::Feed(_) => return,
        }
        self.version = sequence;
    }

    fn evolve_consent(&mut self, event: &ConsentEvent, time: Timestamp) {
        let (purpose, state) = ConsentState::from_event(event, time);
        self.consents.insert(purpose.to_owned(), state);
    }

    fn evolve_user(&mut self, event: &UserEvent, time: Timestamp) {
        match event {
            UserEvent::Registered(e) => {
                self.created_at = time;
                self.locale = e.locale.clone();
                if let Some(person) = e.personal.get() {
                    self.email = Some(person.email.clone());
                    self.profile = person.profile.clone();
                }
            }
            UserEvent::PasswordSet(e) if e.reason != PasswordReason::Rehashed => self.credential_version += 1,
            UserEvent::PasswordSet(_) => {}
            UserEvent::EmailChanged(e) => {
                self.email = e.personal.get().map(|p| p.email.clone());
                self.email_verified = false;
            }
            UserEvent::EmailVerified(_) => self.email_verified = true,
            UserEvent::ProfileChanged(e) => {
                if e.locale.is_some() {
                    self.locale = e.locale.clone();
                }
                if let Some(update) = e.personal.get() {
                    self.profile.apply(&update.changes);
                }
            }
            UserEvent::RoleGranted(e) => {
                self.roles.insert(e.role.clone());
            }
            UserEvent::RoleRevoked(e) => {
                self.roles.remove(&e.role);
            }
            UserEvent::Disabled(_) => {
                self.status = Status::Disabled;
                // What was open stays closed when the user is enabled again.
                self.credential_version += 1;
            }
            UserEvent::Enabled(_) => self.status = Status::Active,
            UserEvent::Erased(_) => {
                *self = User {
                    status: Status::Erased,
                    created_at: self.created_at,
                    ..User::default()
                }
            }
        }
    }
}

/// What can be asked of a user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Register(Register),
    SetPassword {
        hash: String,
        reason: PasswordReason,
        /// Only if the password is still the one of this version; otherwise it is refused, or nothing happens where the same
        /// one was to be hashed anew.
        instead_of: Option<u32>,
    },
    ChangeEmail {
        email: Email,
    },
    VerifyEmail {
        method: Verification,
    },
    ChangeProfile {
        locale: Option<String>,
        changes: ProfilePatch,
    },
    SetConsent(SetConsent),
    ChangePlan(ChangePlan),
    GrantRole {
        role: String,
    },
    RevokeRole {
        role: String,
    },
    Disable {
        reason: Option<String>,
    },
    Enable {
        reason: Option<String>,
    },
    Erase {
        reason: Option<String>,
    },
}

/// A new user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    pub origin: Origin,
    pub email: Email,
    /// PHC string or an imported form; without one the user cannot log in by password yet.
    pub password_hash: Option<String>,
    pub email_verified: bool,
    pub locale: Option<String>,
    pub profile: Profile,
    /// The catalogue's default plan, if absent.
    pub plan: Option<String>,
    pub roles: BTreeSet<String>,
    pub consents: Vec<SetConsent>,
    pub disabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error("the address belongs to another account")]
    AddressTaken,
    #[error("there is no such user")]
    NotFound,
    #[error("there is a user of this id already")]
    AlreadyExists,
    #[error("the account is disabled")]
    Disabled,
    #[error("the password was changed since")]
    CredentialChanged,
}

/// Decides. `address_free` matters to commands that take an address: whether its partition lets this user have it.
pub fn decide(
    user: &User,
    address_free: bool,
    command: Command,
    ctx: &Context<'_>,
) -> Result<Vec<Event>, super::Rejection> {
    if let Command::Register(register) = command {
        return decide_registration(user, address_free, register, ctx);
    }
    if !user.exists() {
        return Err(Rejection::NotFound.into());
    }
    let one = |e: UserEvent| Ok(vec![e.into()]);
    match command {
        Command::Register(_) => Err(Rejection::AlreadyExists.into()),
        Command::SetPassword {
            instead_of, reason, ..
        } if instead_of.is_some_and(|version| version != user.credential_version) => match reason {
            PasswordReason::Rehashed => Ok(vec![]),
            _ => Err(Rejection::CredentialChanged.into()),
        },
        Command::SetPassword { hash, reason, .. } => one(password_set(hash, reason)),
        Command::ChangeEmail { email } if user.email.as_ref() == Some(&email) => Ok(vec![]),
        Command::ChangeEmail { email } if !address_free && !user.has_email(&email) => {
            Err(Rejection::AddressTaken.into())
        }
        Command::ChangeEmail { email } => one(UserEvent::EmailChanged(EmailChanged {
            personal: NewEmail {
                email,
                previous: user.email.clone(),
            }
            .into(),
        })),
        Command::VerifyEmail { .. } if user.email_verified => Ok(vec![]),
        Command::VerifyEmail { method } => one(UserEvent::EmailVerified(EmailVerified { method })),
        Command::ChangeProfile { locale, changes } => Ok(profile_changed(user, locale, changes)),
        Command::SetConsent(wish) => {
            let current = user.consents.get(&wish.change.purpose);
            Ok(consent::decide(current, wish, ctx)?.into_iter().collect())
        }
        Command::ChangePlan(wish) => Ok(plan::decide(user.plan.as_ref(), wish, ctx)?.into_iter().collect()),
        Command::GrantRole { role } if user.roles.contains(&role) => Ok(vec![]),
        Command::GrantRole { role } => one(UserEvent::RoleGranted(RoleChange { role })),
        Command::RevokeRole { role } if !user.roles.contains(&role) => Ok(vec![]),
        Command::RevokeRole { role } => one(UserEvent::RoleRevoked(RoleChange { role })),
        Command::Disable { .. } if user.status == Status::Disabled => Ok(vec![]),
        Command::Disable { reason } => one(UserEvent::Disabled(StatusChange { reason })),
        Command::Enable { .. } if user.status == Status::Active => Ok(vec![]),
        Command::Enable { reason } => one(UserEvent::Enabled(StatusChange { reason })),
        Command::Erase { reason } => one(UserEvent::Erased(StatusChange { reason })),
    }
}

fn password_set(hash: String, reason: PasswordReason) -> UserEvent {
    UserEvent::PasswordSet(PasswordSet {
        reason,
        personal: PasswordHash { hash }.into(),
    })
}

fn profile_changed(user: &User, locale: Option<String>, changes: ProfilePatch) -> Vec<Event> {
    let locale = locale.filter(|l| user.locale.as_ref() != Some(l));
    let changes = user.profile.difference(changes);
    if locale.is_none() && changes.0.is_empty() {
        return vec![];
    }
    vec![
        UserEvent::ProfileChanged(ProfileChanged {
            locale,
            personal: ProfileUpdate { changes }.into(),
        })
        .into(),
    ]
}

fn decide_registration(
    user: &User,
    address_free: bool,
    register: Register,
    ctx: &Context<'_>,
) -> Result<Vec<Event>, super::Rejection> {
    if user.version > 0 {
        return Err(Rejection::AlreadyExists.into());
    }
    if !address_free {
        return Err(Rejection::AddressTaken.into());
    }
    let imported = register.origin == Origin::Import;
    let mut events: Vec<Event> = vec![
        UserEvent::Registered(Registered {
            origin: register.origin,
            locale: register.locale,
            personal: Person {
                email: register.email,
                profile: register.profile,
            }
            .into(),
        })
        .into(),
    ];
    if let Some(hash) = register.password_hash {
        let reason = if imported {
            PasswordReason::Imported
        } else {
            PasswordReason::Registered
        };
        events.push(password_set(hash, reason).into());
    }
    if register.email_verified {
        let method = Verification::Asserted;
        events.push(UserEvent::EmailVerified(EmailVerified { method }).into());
    }
    let plan = ChangePlan {
        to: register
            .plan
            .unwrap_or_else(|| ctx.settings.default_plan().to_owned()),
        intent: None,
        effective_at: None,
        source: if imported { "import" } else { "registration" }.to_owned(),
        reason: None,
    };
    events.extend(plan::decide(None, plan, ctx)?);
    events.extend(first_consents(register.consents, ctx)?);
    for role in register.roles {
        events.push(UserEvent::RoleGranted(RoleChange { role }).into());
    }
    if register.disabled {
        events.push(UserEvent::Disabled(StatusChange { reason: None }).into());
    }
    Ok(events)
}

/// Each choice is decided on what those before it made true, so that one named twice is one event.
fn first_consents(wishes: Vec<SetConsent>, ctx: &Context<'_>) -> Result<Vec<Event>, consent::Rejection> {
    let mut so_far = User::default();
    let mut events = Vec::with_capacity(wishes.len());
    for wish in wishes {
        let current = so_far.consents.get(&wish.change.purpose);
        if let Some(event) = consent::decide(current, wish, ctx)? {
            so_far.evolve(&event, ctx.now, 0);
            events.push(event);
        }
    }
    Ok(events)
}
