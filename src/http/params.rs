//! Parameters in paths and queries.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use gatelog_events::domain::{session, tenant, user};
use gatelog_events::ids::{ApiKeyId, SessionId, UserId};
use serde::de::DeserializeOwned;

use super::app::App;
use super::body::explain;
use crate::error::{Kind, Problem};

/// A query, with every parameter known and given once.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match axum::extract::Query::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(e) => Err(refused(&e)),
        }
    }
}

fn refused(e: &QueryRejection) -> Problem {
    let text = e.body_text();
    let reason = text.split_once(": ").map_or("", |(_, reason)| reason);
    let problem = Problem::new(
        Kind::InvalidQuery,
        "Send only the parameters that /docs names, each once.",
    );
    if ["missing field `", "duplicate field `"]
        .iter()
        .any(|s| reason.starts_with(s))
    {
        let (field, detail) = explain(".", reason);
        return problem.field(field, detail);
    }
    problem
}

/// `{id}` of a user. What is no id is answered like an id that is not known.
pub struct UserParam(pub UserId);

impl FromRequestParts<App> for UserParam {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let unknown = || Problem::from(user::Rejection::NotFound);
        let Path(id) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| unknown())?;
        id.parse().map(Self).map_err(|_| unknown())
    }
}

/// `{id}` of a user, and one more name.
pub struct UserAnd(pub UserId, pub String);

impl FromRequestParts<App> for UserAnd {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let unknown = || Problem::from(user::Rejection::NotFound);
        let Path((id, name)) = Path::<(String, String)>::from_request_parts(parts, app)
            .await
            .map_err(|_| unknown())?;
        Ok(Self(id.parse().map_err(|_| unknown())?, name))
    }
}

/// `{id}` of a session.
pub fn session_id(text: &str) -> Result<SessionId, Problem> {
    text.parse().map_err(|_| session::Rejection::NotFound.into())
}

/// `{id}` of an API key.
pub fn api_key_id(text: &str) -> Result<ApiKeyId, Problem> {
    text.parse().map_err(|_| tenant::Rejection::ApiKeyNotFound.into())
}

/// One name in the path.
pub struct Name(pub String);

impl FromRequestParts<App> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Path::<String>::from_request_parts(parts, app)
            .await
            .map(|Path(name)| Self(name))
            .map_err(|_| super::not_found())
    }
}

/// Two names in the path.
pub struct Names(pub String, pub String);

impl FromRequestParts<App> for Names {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Path::<(String, String)>::from_request_parts(parts, app)
            .await
            .map(|Path((first, second))| Self(first, second))
            .map_err(|_| super::not_found())
    }
}
