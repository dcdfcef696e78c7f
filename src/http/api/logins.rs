//! `POST /v1/logins` and `POST /v1/sessions/refresh`: both give tokens.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::directory::Digest;
use gatelog_events::domain::session::{self, FailureReason, LoginMethod};
use gatelog_events::domain::user::{PasswordReason, Status};
use gatelog_events::domain::{Actor, Rejection, user};
use gatelog_events::email::Email;
use gatelog_events::ids::{Position, SessionId, Shard, UserId};
use gatelog_projections::logins::{self, LoginRow};
use metrics::counter;
use serde::{Deserialize, Serialize};

use super::{passwords, spooled};
use crate::auth::random;
use crate::auth::refresh::RefreshClaims;
use crate::auth::throttle::Key;
use crate::auth::tokens::Grant;
use crate::error::{Kind, Problem, invalid_credentials};
use crate::http::app::App;
use crate::http::ask::{Ask, behind, caught_up, reachable};
use crate::http::body::{Json, SecretText};
use crate::http::check::Check;
use crate::http::reply::{ok, written};
use crate::writer::{Command, Outcome, WriteError};

/// The client that tokens are issued to, until clients of their own are registered.
const CLIENT_ID: &str = "gatelog";

/// Who wants to come in.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The e-mail address.
    #[schema(example = "ada@example.com")]
    pub identifier: String,
    #[schema(value_type = String, format = Password)]
    pub password: SecretText,
}

impl Login {
    /// Whom, and what they gave to prove it. Nothing is hashed yet.
    pub(in crate::http) fn check(&self) -> Result<(Email, passwords::Given), Problem> {
        let mut check = Check::new();
        let email = check.email("identifier", &self.identifier);
        check.done()?;
        let Some(email) = email else {
            return Err(invalid_credentials());
        };
        Ok((email, passwords::Given::new(&self.password)?))
    }
}

/// A refresh token, to be exchanged.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    #[schema(value_type = String)]
    pub refresh_token: SecretText,
}

/// What gives access.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TokenSet {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    #[schema(value_type = Uuid)]
    pub session_id: SessionId,
    /// JWT (RFC 9068); its keys are at /.well-known/jwks.json.
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Lifetime of the access token in seconds.
    pub expires_in: u64,
    /// To be exchanged once, at POST /v1/sessions/refresh.
    pub refresh_token: String,
    /// Absent where the login is kept until the log can be reached again (`login_when_log_away`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "activity:3:1024")]
    pub position: Option<Position>,
}

/// A session that is open, and which of its refresh tokens is good.
pub(super) struct Opened {
    user: UserId,
    session: SessionId,
    generation: u32,
    /// Where the log says so; absent while that is still to come.
    position: Option<Position>,
}

impl Opened {
    /// A session that is not in the log yet.
    pub(super) fn waiting(user: UserId, session: SessionId) -> Self {
        Self {
            user,
            session,
            generation: 0,
            position: None,
        }
    }

    /// The session that an outcome started or went on with. One that ended it has none.
    fn of(outcome: &Outcome) -> Result<Self, Problem> {
        let answer = &outcome.answer;
        match (answer.user, answer.session) {
            (Some(user), Some(session)) => Ok(Self {
                user,
                session,
                generation: answer.generation,
                position: Some(answer.position()),
            }),
            _ => Err(ended()),
        }
    }
}

/// Logs a user in by password.
///
/// Unknown identifiers, wrong passwords, and accounts that are disabled or locked are answered alike and take the same time:
/// with 401, or with 503 where this node has not read all that other nodes wrote. Who tries too often is told by 429 when to
/// try again, whether or not there is such an account. While the log cannot be reached the answer is 503 or, if the
/// operator has chosen so, a session that is recorded later.
#[utoipa::path(
    post, path = "/v1/logins", tag = "sessions", request_body = Login,
    responses((status = 200, description = "A new session", body = TokenSet)),
    security(())
)]
pub async fn login(
    State(app): State<App>,
    ask: Ask,
    Json { value, raw }: Json<Login>,
) -> Result<Response, Problem> {
    let (email, given) = value.check()?;
    let digest = app.node.directory.digest(app.tenant(), &email);
    admit(&app, &ask, digest)?;
    // What came to nothing is neither a failure nor a success.
    let forgive = |e: Problem| {
        app.node
            .account_limits
            .forgive(Key::Identifier(digest.0), clock::now());
        e
    };
    spooled::unless_spooled(&app, reachable(&app)).map_err(forgive)?;
    let mut row = app.node.views.login(app.tenant(), digest)?;
    // Another node may have registered the address, or changed the password, a moment ago. The log is asked for every
    // login, and none goes on if it does not answer. Were it asked only where that can change the answer, then whenever it
    // is slower than a hash, or away, time or status would tell known addresses and right passwords from others.
    let shard = app.node.directory.shard(app.tenant(), &email);
    let (verified, asked) = futures::join!(given.verify(&app, row.as_ref()), knows_all(&app, digest, shard));
    let is_behind = spooled::unless_spooled(&app, asked).map_err(forgive)? == Some(false);
    let mut verified = verified.map_err(forgive)?;
    if app.node.views.login(app.tenant(), digest)? != row {
        row = app.node.views.login(app.tenant(), digest)?;
        verified = given.verify(&app, row.as_ref()).await.map_err(forgive)?;
    }
    match row {
        Some(row) if verified.ok && row.status == Status::Active && !is_locked(&app, row.user)? => {
            let opened = match succeed(&app, &ask, &row, &raw).await {
                Ok(opened) => opened,
                // The owner knows better. That the password was right once is told to nobody.
                Err(e) if is_behind && is_refusal(&e) => return Err(cannot_tell(&app, &ask)),
                Err(e) => return Err(forgive(e)),
            };
            app.node.account_limits.succeeded(Key::Identifier(digest.0));
            if verified.needs_rehash && opened.position.is_some() {
                rehash(app.clone(), ask, given, row);
            }
            tokens(&app, &opened)
        }
        _ if is_behind => Err(cannot_tell(&app, &ask)),
        row => {
            let problem = fail(&app, &ask, row.as_ref(), verified.ok, &email).await;
            Err(match problem.kind() {
                Kind::InvalidCredentials => problem,
                _ => forgive(problem),
            })
        }
    }
}

/// Whether this node has read all that was written of who has an address: in the address's partition, and in that of who
/// holds it, which is another one where they had another address before. Two questions in any case, or time would tell which
/// addresses somebody holds.
async fn knows_all(app: &App, digest: Digest, address: Shard) -> Result<bool, WriteError> {
    if !caught_up(app, logins::NAME, address).await? {
        return Ok(false);
    }
    let views = &app.node.views;
    let holder = match views.holding(app.tenant(), digest)? {
        Some(holding) => Some(holding.user),
        None => views.login(app.tenant(), digest)?.map(|row| row.user),
    };
    let shard = holder.map_or(address, |user| user.shard());
    caught_up(app, logins::NAME, shard).await
}

fn is_refusal(problem: &Problem) -> bool {
    matches!(problem.kind(), Kind::InvalidCredentials)
}

/// Who registered elsewhere a moment ago is nobody yet, and a password that was changed is wrong. The attempt stays counted
/// in memory, or the time that a node is behind would be one for guessing.
fn cannot_tell(app: &App, ask: &Ask) -> Problem {
    app.node.network_limits.failed(ask.network(), clock::now());
    counter!("gatelog_login_failures_unrecorded_total").increment(1);
    behind().into()
}

fn admit(app: &App, ask: &Ask, digest: Digest) -> Result<(), Problem> {
    let now = clock::now();
    app.node.network_limits.check(ask.network(), now)?;
    Ok(app.node.account_limits.admit(Key::Identifier(digest.0), now)?)
}

/// The lock that the log keeps; it outlives a restart, unlike the throttle in memory. Nothing of it shows: unlike the
/// throttle, it is there for known accounts only.
fn is_locked(app: &App, user: UserId) -> Result<bool, Problem> {
    let activity = app.node.views.activity(app.tenant(), user)?;
    Ok(activity.is_locked(clock::now()))
}

async fn succeed(app: &App, ask: &Ask, row: &LoginRow, raw: &[u8]) -> Result<Opened, Problem> {
    let now = clock::now();
    let command = session::Command::Login {
        session_id: SessionId::new(now, row.user.shard(), random()?),
        method: LoginMethod::Password,
        client: ask.client(),
        credential_version: row.credential_version,
    };
    let request = ask.request(app, None, Subject::User(row.user), Command::Session(command), raw);
    if let Some(before) = spooled::earlier(app, &request).await? {
        return Ok(before);
    }
    match spooled::submit(app, request.clone()).await? {
        Some(outcome) => Opened::of(&outcome),
        None => spooled::keep(app, request, now).await,
    }
}

/// Records the failure, and answers it the same way whatever its reason.
async fn fail(app: &App, ask: &Ask, row: Option<&LoginRow>, right: bool, email: &Email) -> Problem {
    app.node.network_limits.failed(ask.network(), clock::now());
    let (subject, reason) = match row {
        None => (Subject::Nobody, FailureReason::UnknownIdentifier),
        Some(row) if row.password_hash.is_none() => (Subject::User(row.user), FailureReason::NoPassword),
        Some(row) if right => (Subject::User(row.user), FailureReason::Disabled),
        Some(row) => (Subject::User(row.user), FailureReason::WrongPassword),
    };
    let command = session::Command::FailLogin {
        reason,
        method: LoginMethod::Password,
        client: ask.client(),
    };
    let mut request = ask.request(app, None, subject, Command::Session(command), &[]);
    // A retry is another guess, and counts as one.
    request.idempotency = None;
    if row.is_none() {
        let shard = app.node.directory.shard(app.tenant(), email);
        request.partition = Some(shard.partition(app.node.log.partitions()));
    }
    match spooled::submit(app, request).await {
        Ok(None) => {
            counter!("gatelog_login_failures_unrecorded_total").increment(1);
            invalid_credentials()
        }
        // The account vanished meanwhile: for the caller that is an unknown identifier.
        Ok(Some(_)) | Err(WriteError::Rejected(_)) => invalid_credentials(),
        Err(e) => e.into(),
    }
}

/// Replaces a hash of another family or older parameters, after the answer. If it fails, the next login tries again.
fn rehash(app: App, ask: Ask, given: passwords::Given, row: LoginRow) {
    tokio::spawn(async move {
        if let Err(problem) = try_rehash(&app, &ask, given, row).await {
            tracing::info!(kind = problem.kind().uri(), "a password was not rehashed");
        }
    });
}

async fn try_rehash(app: &App, ask: &Ask, given: passwords::Given, row: LoginRow) -> Result<(), Problem> {
    let hash = app.node.passwords.hash(given.normal).await?;
    let command = user::Command::SetPassword {
        hash: hash.as_str().to_owned(),
        reason: PasswordReason::Rehashed,
        // A password that was changed meanwhile must not come back.
        instead_of: Some(row.credential_version),
    };
    let mut request = ask.request(app, None, Subject::User(row.user), Command::User(command), &[]);
    request.idempotency = None;
    request.actor = Actor::System;
    app.node.router.submit(request).await?;
    Ok(())
}

/// Exchanges a refresh token for a new pair.
///
/// A token that was exchanged before ends its session, for somebody else may have it. A retry with the same
/// Idempotency-Key gets the same tokens again. A session that is not recorded yet is answered with 503.
#[utoipa::path(
    post, path = "/v1/sessions/refresh", tag = "sessions", request_body = Refresh,
    responses((status = 200, description = "New tokens of the same session", body = TokenSet)),
    security(())
)]
pub async fn refresh(
    State(app): State<App>,
    ask: Ask,
    Json { value, raw }: Json<Refresh>,
) -> Result<Response, Problem> {
    let claims = app
        .node
        .refresh_tokens
        .parse_and_check(app.tenant(), value.refresh_token.expose())
        .ok_or_else(ended)?;
    let command = session::Command::Refresh {
        session_id: claims.session,
        generation: claims.generation,
    };
    let subject = Subject::User(claims.user);
    let request = ask.request(&app, None, subject, Command::Session(command), &raw);
    match app.node.router.submit(request).await {
        Ok(outcome) => tokens(&app, &Opened::of(&outcome)?),
        // No token but the first was given out of a session that is not recorded.
        Err(WriteError::Rejected(Rejection::Session(session::Rejection::NotFound)))
            if claims.generation == 0 && spooled::may_wait(&app, claims.user, claims.session)? =>
        {
            Err(spooled::not_recorded_yet())
        }
        Err(WriteError::Rejected(Rejection::Session(_) | Rejection::User(_))) => Err(ended()),
        Err(e) => Err(e.into()),
    }
}

fn ended() -> Problem {
    Problem::new(Kind::SessionEnded, "Log in again.")
}

fn tokens(app: &App, opened: &Opened) -> Result<Response, Problem> {
    let Opened {
        user: user_id,
        session: session_id,
        generation,
        position,
    } = *opened;
    let user = app.node.views.user(app.tenant(), user_id)?;
    let settings = app.node.views.settings(app.tenant())?;
    let plan = user.plan.as_ref().and_then(|p| settings.plans.get(&p.name));
    let grant = Grant {
        user: user_id,
        session: session_id,
        tenant: app.tenant().clone(),
        client_id: CLIENT_ID.to_owned(),
        scope: BTreeSet::new(),
        roles: user.roles.clone(),
        entitlements: plan.map(|p| p.entitlements.clone()).unwrap_or_default(),
    };
    let claims = RefreshClaims {
        user: user_id,
        session: session_id,
        generation,
    };
    let body = TokenSet {
        user_id,
        session_id,
        access_token: app.node.tokens.issue(&grant, clock::now())?,
        token_type: "Bearer",
        expires_in: app.node.config.access_token_lifetime.as_secs(),
        refresh_token: app.node.refresh_tokens.issue(app.tenant(), claims),
        position,
    };
    match position {
        Some(position) => written(StatusCode::OK, position, &body),
        None => ok(&body),
    }
}
