//! Logins and sessions: what one user does at the door. One aggregate per user, in the activity stream.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, Payload, events, has_personal};
use crate::clock::Timestamp;
use crate::ids::SessionId;
use crate::personal::Personal;

events! {
    /// What happened at the door.
    SessionEvent {
        LoginSucceeded(LoginSucceeded) = "com.gatelog.login.succeeded.v1",
        LoginFailed(LoginFailed) = "com.gatelog.login.failed.v1",
        Locked(Locked) = "com.gatelog.login.locked.v1",
        Unlocked(Unlocked) = "com.gatelog.login.unlocked.v1",
        Started(Started) = "com.gatelog.session.started.v1",
        Refreshed(Refreshed) = "com.gatelog.session.refreshed.v1",
        /// A refresh token came a second time: somebody else may have it.
        Reused(Refreshed) = "com.gatelog.session.reused.v1",
        Ended(Ended) = "com.gatelog.session.ended.v1",
    }
}

/// By what a user logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoginMethod {
    Password,
}

impl LoginMethod {
    pub const fn name(self) -> &'static str {
        match self {
            LoginMethod::Password => "password",
        }
    }
}

/// From where somebody logged in.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Client {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LoginSucceeded {
    pub session_id: SessionId,
    pub method: LoginMethod,
    #[serde(rename = "sealed")]
    pub personal: Personal<Client>,
}

/// Why a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    WrongPassword,
    /// No account has the identifier. Such an event has no subject.
    UnknownIdentifier,
    NoPassword,
    /// The account could not be logged in to then: it was disabled, or locked, and the password was right.
    Disabled,
}

impl FailureReason {
    pub const fn name(self) -> &'static str {
        match self {
            FailureReason::WrongPassword => "wrong_password",
            FailureReason::UnknownIdentifier => "unknown_identifier",
            FailureReason::NoPassword => "no_password",
            FailureReason::Disabled => "disabled",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LoginFailed {
    pub reason: FailureReason,
    pub method: LoginMethod,
    /// Absent where there is no subject to seal for.
    #[serde(rename = "sealed", default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<Personal<Client>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Locked {
    pub until: Timestamp,
    /// Failures in a row.
    pub failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Unlocked {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Started {
    pub session_id: SessionId,
    /// The credential under which it started; a newer one ends it.
    pub credential_version: u32,
    /// Its end, however often it is refreshed.
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Refreshed {
    pub session_id: SessionId,
    /// In `refreshed`: of the token given out. In `reused`: of the token that came again.
    pub generation: u32,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    LoggedOut,
    RefreshTokenReused,
    /// By somebody with the right to.
    Revoked,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Ended {
    pub session_id: SessionId,
    pub reason: EndReason,
}

has_personal!(LoginSucceeded);
impl Payload for LoginFailed {
    fn personal(&mut self) -> Option<&mut dyn crate::personal::Sealable> {
        self.personal.as_mut().map(|p| p as _)
    }
}
impl Payload for Locked {}
impl Payload for Unlocked {}
impl Payload for Started {}
impl Payload for Refreshed {}
impl Payload for Ended {}

/// How long sessions live and when an account is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A session's end, however often it is refreshed.
    pub session_lifetime: Duration,
    /// A session's end if it is not refreshed.
    pub session_idle: Duration,
    /// Failures in a row before the first lock.
    pub lock_after: u32,
    /// Length of the first lock; each further failure doubles it.
    pub lock_base: Duration,
    /// The longest lock.
    pub lock_max: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            session_lifetime: Duration::from_secs(30 * 86_400),
            session_idle: Duration::from_secs(14 * 86_400),
            lock_after: 10,
            lock_base: Duration::from_secs(1),
            lock_max: Duration::from_secs(900),
        }
    }
}

impl Policy {
    /// How long the account is locked after `failures` failures in a row; zero if not at all.
    pub fn lock_for(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.lock_after) {
            None => Duration::ZERO,
            Some(n) => self
                .lock_base
                .saturating_mul(2u32.saturating_pow(n.min(30)))
                .min(self.lock_max),
        }
    }
}

/// What a user's activity so far comes to. Small however long the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Activity {
    pub version: u64,
    /// Failures since the last success or unlock.
    pub failures: u32,
    pub locked_until: Option<Timestamp>,
    pub last_login_at: Option<Timestamp>,
}

impl Activity {
    pub fn is_locked(&self, now: Timestamp) -> bool {
        self.locked_until.is_some_and(|until| now < until)
    }

    pub fn evolve(&mut self, event: &SessionEvent, time: Timestamp, sequence: u64) {
        self.version = sequence;
        match event {
            SessionEvent::LoginSucceeded(_) => {
                self.failures = 0;
                self.locked_until = None;
                // A login that was kept while the log was away may be recorded after a later one.
                self.last_login_at = self.last_login_at.max(Some(time));
            }
            SessionEvent::LoginFailed(_) => self.failures = self.failures.saturating_add(1),
            SessionEvent::Locked(e) => self.locked_until = Some(e.until),
            SessionEvent::Unlocked(_) => {
                self.failures = 0;
                self.locked_until = None;
            }
            SessionEvent::Started(_)
            | SessionEvent::Refreshed(_)
            | SessionEvent::Reused(_)
            | SessionEvent::Ended(_) => {}
        }
    }
}

/// One session: a family of refresh tokens, of which only the newest is good.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub started_at: Timestamp,
    pub refreshed_at: Timestamp,
    pub expires_at: Timestamp,
    pub generation: u32,
    pub credential_version: u32,
    pub ended: Option<(Timestamp, EndReason)>,
    pub client: SessionClient,
}

/// From where a session was started, as a read model keeps it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SessionClient {
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// The session that a `started` event begins. `login` stands before it in the same commit.
    pub fn start(e: &Started, login: Option<&Client>, time: Timestamp) -> Self {
        let client = login.map_or_else(SessionClient::default, |c| SessionClient {
            ip: c.ip.clone(),
            user_agent: c.user_agent.clone(),
        });
        Self {
            id: e.session_id,
            started_at: time,
            refreshed_at: time,
            expires_at: e.expires_at,
            generation: 0,
            credential_version: e.credential_version,
            ended: None,
            client,
        }
    }

    pub fn evolve(&mut self, event: &SessionEvent, time: Timestamp) {
        match event {
            SessionEvent::Refreshed(e) => {
                self.generation = e.generation;
                self.refreshed_at = time;
            }
            SessionEvent::Ended(e) => self.ended = Some((time, e.reason)),
            _ => {}
        }
    }

    /// Whether it still gives access, for a user who may sign in and has this credential.
    pub fn is_live(&self, credential_version: u32, policy: &Policy, now: Timestamp) -> bool {
        self.ended.is_none()
            && self.credential_version == credential_version
            && now < self.expires_at
            && now < self.refreshed_at.plus(policy.session_idle)
    }
}

/// What can be asked at the door.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The credential was right.
    Login {
        session_id: SessionId,
        method: LoginMethod,
        client: Client,
        /// Version of the credential that was checked.
        credential_version: u32,
    },
    /// It was not.
    FailLogin {
        reason: FailureReason,
        method: LoginMethod,
        client: Client,
    },
    Refresh {
        session_id: SessionId,
        /// Of the token that was presented.
        generation: u32,
    },
    End {
        session_id: SessionId,
        reason: EndReason,
    },
    Unlock {
        reason: Option<String>,
    },
}

impl Command {
    /// The session that the command is about.
    pub fn session_id(&self) -> Option<SessionId> {
        match self {
            Command::Login { session_id, .. }
            | Command::Refresh { session_id, .. }
            | Command::End { session_id, .. } => Some(*session_id),
            Command::FailLogin { .. } | Command::Unlock { .. } => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error("there is no such session")]
    NotFound,
    #[error("the session has ended; log in again")]
    Ended,
    #[error("the account cannot log in at present")]
    NotAllowed,
    #[error("the password was changed meanwhile; log in again")]
    CredentialChanged,
    #[error("too many failed attempts; wait until {0}")]
    Locked(Timestamp),
}

/// What the door must know about the user, from the identity stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub exists: bool,
    pub may_sign_in: bool,
    pub credential_version: u32,
}

/// Decides what follows at the door.
pub fn decide(
    activity: &Activity,
    session: Option<&Session>,
    standing: Standing,
    command: Command,
    policy: &Policy,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::Login {
            session_id,
            method,
            client,
            credential_version,
        } => {
            // Recorded before: what became of the first try was not known, and it was sent again.
            if session.is_some_and(|s| s.id == session_id) {
                return Ok(vec![]);
            }
            if activity.is_locked(now) {
                return Err(Rejection::Locked(activity.locked_until.unwrap_or(now)));
            }
            if !standing.may_sign_in {
                return Err(Rejection::NotAllowed);
            }
            if standing.credential_version != credential_version {
                return Err(Rejection::CredentialChanged);
            }
            Ok(login(session_id, method, client, credential_version, policy, now))
        }
        Command::FailLogin {
            reason,
            method,
            client,
        } => Ok(failure(activity, standing, reason, method, client, policy, now)),
        Command::Refresh {
            session_id,
            generation,
        } => {
            let session = session.ok_or(Rejection::NotFound)?;
            refresh(session, standing, session_id, generation, policy, now)
        }
        Command::End { session_id, reason } => match session {
            None => Err(Rejection::NotFound),
            Some(s) if s.ended.is_some() => Ok(vec![]),
            Some(_) => Ok(vec![SessionEvent::Ended(Ended { session_id, reason }).into()]),
        },
        Command::Unlock { reason } => {
            if !standing.exists {
                return Err(Rejection::NotFound);
            }
            if activity.failures == 0 && activity.locked_until.is_none() {
                return Ok(vec![]);
            }
            Ok(vec![SessionEvent::Unlocked(Unlocked { reason }).into()])
        }
    }
}

fn login(
    session_id: SessionId,
    method: LoginMethod,
    client: Client,
    credential_version: u32,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Event> {
    vec![
        SessionEvent::LoginSucceeded(LoginSucceeded {
            session_id,
            method,
            personal: client.into(),
        })
        .into(),
        SessionEvent::Started(Started {
            session_id,
            credential_version,
            expires_at: now.plus(policy.session_lifetime),
        })
        .into(),
    ]
}

fn failure(
    activity: &Activity,
    standing: Standing,
    reason: FailureReason,
    method: LoginMethod,
    client: Client,
    policy: &Policy,
    now: Timestamp,
) -> Vec<Event> {
    let mut events = vec![
        SessionEvent::LoginFailed(LoginFailed {
            reason,
            method,
            personal: standing.exists.then(|| client.into()),
        })
        .into(),
    ];
    let failures = activity.failures.saturating_add(1);
    let lock = policy.lock_for(failures);
    // A lock is made no longer by who tries meanwhile, or they could keep the owner out for ever.
    if standing.exists && !lock.is_zero() && !activity.is_locked(now) {
        let until = now.plus(lock);
        events.push(SessionEvent::Locked(Locked { until, failures }).into());
    }
    events
}

fn refresh(
    session: &Session,
    standing: Standing,
    session_id: SessionId,
    generation: u32,
    policy: &Policy,
    now: Timestamp,
) -> Result<Vec<Event>, Rejection> {
    if !standing.may_sign_in || !session.is_live(standing.credential_version, policy, now) {
        return Err(Rejection::Ended);
    }
    if generation != session.generation {
        // RFC 9700, section 4.14.2: a token that was already exchanged ends the whole family.
        return Ok(vec![
            SessionEvent::Reused(Refreshed {
                session_id,
                generation,
            })
            .into(),
            SessionEvent::Ended(Ended {
                session_id,
                reason: EndReason::RefreshTokenReused,
            })
            .into(),
        ]);
    }
    Ok(vec![
        SessionEvent::Refreshed(Refreshed {
            session_id,
            generation: generation + 1,
        })
        .into(),
    ])
}
