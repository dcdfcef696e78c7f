//! `GET /v1/users/{id}/sessions`, `DELETE /v1/sessions/{id}`.

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::commit::Subject;
use gatelog_events::domain::session::{self, EndReason, Session};
use gatelog_events::ids::{SessionId, UserId};
use gatelog_projections::{sessions, users};
use serde::{Deserialize, Serialize};

use super::{existing, spooled};
use crate::auth::api_keys::Scope;
use crate::error::{Kind, Problem};
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::caller::Caller;
use crate::http::cursor::{self, List, PageQuery};
use crate::http::params::{Name, Query, UserParam, session_id};
use crate::http::reply::{Done, done, ok};
use crate::writer::Command;

const ROUTE: &str = "sessions";

/// A page of sessions.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Sessions {
    /// Newest first.
    pub sessions: Vec<SessionBody>,
    /// Cursor of the next page; null at the end.
    pub next: Option<String>,
}

/// One session.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Session)]
pub struct SessionBody {
    #[schema(value_type = Uuid)]
    pub session_id: SessionId,
    /// Whether it gives access now.
    pub active: bool,
    /// Whether it is the one that asks.
    pub current: bool,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub refreshed_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// `logged_out`, `refresh_token_reused` or `revoked`.
    #[schema(value_type = Option<String>)]
    pub end_reason: Option<EndReason>,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

/// Lists the sessions of a user, ended ones too.
#[utoipa::path(
    get, path = "/v1/users/{id}/sessions", tag = "sessions",
    params(("id" = Uuid, Path), PageQuery),
    responses((status = 200, description = "A page of sessions", body = Sessions)),
    security(("access_token" = []), ("api_key" = ["users:read"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    Query(page): Query<PageQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersRead, id)?;
    let list = List {
        route: ROUTE,
        owner: id.as_bytes(),
    };
    let (limit, after) = (page.limit()?, page.after(&app, list)?);
    min.reached(&app, &[users::NAME, sessions::NAME]).await?;
    let user = existing(&app, id)?;
    let own = match &caller {
        Caller::User { session, .. } => Some(*session),
        _ => None,
    };
    let policy = &app.node.config.session;
    let now = clock::now();
    let shown = |s: Session| SessionBody {
        active: user.may_sign_in() && s.is_live(user.credential_version, policy, now),
        current: own == Some(s.id),
        session_id: s.id,
        started_at: s.started_at,
        refreshed_at: s.refreshed_at,
        expires_at: s.expires_at,
        ended_at: s.ended.map(|(at, _)| at),
        end_reason: s.ended.map(|(_, reason)| reason),
        ip: s.client.ip,
        user_agent: s.client.user_agent,
    };
    let mut rows = app
        .node
        .views
        .sessions(app.tenant(), id, after.as_deref(), limit + 1)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|(key, _)| cursor::issue(&app, list, key));
    let sessions = rows.into_iter().map(|(_, session)| shown(session)).collect();
    ok(&Sessions { sessions, next })
}

/// Whose session it is, for API keys.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// The session's user. Required with an API key, not taken with an access token.
    #[param(value_type = Option<Uuid>)]
    pub user_id: Option<String>,
}

/// Ends a session: logs it out, or revokes it.
///
/// Users end their own sessions, this one or others. API keys with `sessions:write` name the user in `user_id`.
#[utoipa::path(
    delete, path = "/v1/sessions/{id}", tag = "sessions",
    params(("id" = Uuid, Path), Whose),
    responses((status = 200, description = "The session has ended", body = Done)),
    security(("access_token" = []), ("api_key" = ["sessions:write"]))
)]
pub async fn end(
    State(app): State<App>,
    caller: Caller,
    Name(id): Name,
    Query(whose): Query<Whose>,
    ask: Ask,
) -> Result<Response, Problem> {
    let (user, reason) = match (&caller, whose.user_id) {
        (Caller::User { user, session }, None) => {
            let own = session.to_string() == id;
            (
                *user,
                if own {
                    EndReason::LoggedOut
                } else {
                    EndReason::Revoked
                },
            )
        }
        (Caller::User { .. }, Some(_)) => return Err(wrong_query("It is not taken with an access token.")),
        (_, given) => {
            caller.needs(Scope::SessionsWrite)?;
            (named_user(given)?, EndReason::Revoked)
        }
    };
    let session_id = session_id(&id)?;
    let waits = match &caller {
        Caller::User { session, .. } if *session == session_id => spooled::may_wait(&app, user, session_id)?,
        _ => spooled::waits_here(&app, session_id),
    };
    let command = session::Command::End { session_id, reason };
    let ended = ask
        .submit(&app, &caller, Subject::User(user), Command::Session(command), &[])
        .await;
    match ended {
        Err(problem) if waits && problem.kind() == Kind::SessionNotFound => Err(spooled::not_recorded_yet()),
        ended => done(&ended?),
    }
}

fn named_user(given: Option<String>) -> Result<UserId, Problem> {
    let given = given.ok_or_else(|| wrong_query("It is required with an API key."))?;
    // An unknown user has no sessions.
    given.parse().map_err(|_| session::Rejection::NotFound.into())
}

fn wrong_query(detail: &'static str) -> Problem {
    Problem::new(Kind::InvalidQuery, "Correct the parameter named in `errors`.").field("user_id", detail)
}
