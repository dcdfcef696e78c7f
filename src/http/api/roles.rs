//! `/v1/users/{id}/roles/{role}`, `/status` and `/lock`: what others decide about a user.

use axum::extract::State;
use axum::response::Response;
use gatelog_events::commit::Subject;
use gatelog_events::domain::{session, user};
use gatelog_events::ids::UserId;
use serde::Deserialize;

use super::existing;
use crate::auth::api_keys::Scope;
use crate::auth::throttle::Key;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::Ask;
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::{UserAnd, UserParam};
use crate::http::reply::{Done, done};
use crate::http::shape::Word;
use crate::writer::Command;

/// Gives a user a role.
#[utoipa::path(
    put, path = "/v1/users/{id}/roles/{role}", tag = "users",
    params(("id" = Uuid, Path), ("role" = String, Path)),
    responses((status = 200, description = "The user has the role", body = Done)),
    security(("api_key" = ["users:write"]))
)]
pub async fn grant(
    State(app): State<App>,
    caller: Caller,
    UserAnd(id, role): UserAnd,
    ask: Ask,
) -> Result<Response, Problem> {
    change(&app, &caller, &ask, id, role, |role| user::Command::GrantRole {
        role,
    })
    .await
}

/// Takes a role from a user.
#[utoipa::path(
    delete, path = "/v1/users/{id}/roles/{role}", tag = "users",
    params(("id" = Uuid, Path), ("role" = String, Path)),
    responses((status = 200, description = "The user has not the role", body = Done)),
    security(("api_key" = ["users:write"]))
)]
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    UserAnd(id, role): UserAnd,
    ask: Ask,
) -> Result<Response, Problem> {
    change(&app, &caller, &ask, id, role, |role| user::Command::RevokeRole {
        role,
    })
    .await
}

async fn change(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    id: UserId,
    role: String,
    command: impl FnOnce(String) -> user::Command,
) -> Result<Response, Problem> {
    caller.needs(Scope::UsersWrite)?;
    let mut check = Check::new();
    check.name("role", &role);
    check.done()?;
    let command = command(role);
    if let user::Command::GrantRole { role } = &command {
        fits(&*app.node.views.user(app.tenant(), id)?, role)?;
    }
    let command = Command::User(command);
    done(&ask.submit(app, caller, Subject::User(id), command, &[]).await?)
}

fn fits(known: &user::User, role: &str) -> Result<(), Problem> {
    if known.roles.contains(role) {
        return Ok(());
    }
    let bytes: usize = known.roles.iter().map(String::len).sum();
    let mut check = Check::new();
    if known.roles.len() >= user::MAX_ROLES || bytes + role.len() > user::MAX_ROLE_BYTES {
        check.wrong(
            "role",
            "A user has at most 100 roles, and 2000 bytes in all. Take others away first.",
        );
    }
    check.done()
}

/// Whether a user may sign in.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusInput {
    #[schema(value_type = NewStatus)]
    pub status: Word<NewStatus>,
    pub reason: Option<String>,
}

impl StatusInput {
    /// The command that it says.
    pub(in crate::http) fn check(self) -> Result<user::Command, Problem> {
        let mut check = Check::new();
        check.optional_text("reason", self.reason.as_ref());
        check.done()?;
        let reason = self.reason;
        Ok(match self.status.0 {
            NewStatus::Active => user::Command::Enable { reason },
            NewStatus::Disabled => user::Command::Disable { reason },
        })
    }
}

/// See [`StatusInput`].
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewStatus {
    Active,
    Disabled,
}

/// Disables a user, which ends all access at once, or enables them again.
#[utoipa::path(
    put, path = "/v1/users/{id}/status", tag = "users", params(("id" = Uuid, Path)),
    request_body = StatusInput,
    responses((status = 200, description = "The user has the status", body = Done)),
    security(("api_key" = ["users:write"]))
)]
pub async fn put_status(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
    Json { value, raw }: Json<StatusInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::UsersWrite)?;
    let command = Command::User(value.check()?);
    done(
        &ask.submit(&app, &caller, Subject::User(id), command, &raw)
            .await?,
    )
}

/// Lifts the lock that failed logins brought upon an account.
#[utoipa::path(
    delete, path = "/v1/users/{id}/lock", tag = "users", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The account is not locked", body = Done)),
    security(("api_key" = ["users:write"]))
)]
pub async fn unlock(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::UsersWrite)?;
    existing(&app, id)?;
    let command = Command::Session(session::Command::Unlock { reason: None });
    let outcome = ask.submit(&app, &caller, Subject::User(id), command, &[]).await?;
    if let Some(email) = &app.node.views.user(app.tenant(), id)?.email {
        let digest = app.node.directory.digest(app.tenant(), email);
        app.node.account_limits.succeeded(Key::Identifier(digest.0));
    }
    done(&outcome)
}
