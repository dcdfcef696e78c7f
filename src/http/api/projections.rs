//! `/v1/projections`: how far each read model is, and building one anew.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::ids::Position;
use gatelog_projections::applied::Stopped;
use serde::Serialize;

use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::caller::Caller;
use crate::http::lag::{self, Lag};
use crate::http::params::Name;
use crate::http::reply::{json, ok};
use crate::writer::rebuild::RebuildProgress;

/// All read models.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Projections {
    pub projections: Vec<ProjectionBody>,
}

/// How far a read model is.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Projection)]
pub struct ProjectionBody {
    pub name: &'static str,
    /// Records in the log that it has not folded yet.
    pub lag: u64,
    /// Where it stands still because it cannot read on.
    pub stopped: Vec<StoppedBody>,
    /// Its last rebuild since the node was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<Rebuild>,
}

/// How far a rebuild is.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Rebuild {
    /// `running`, `done` or `failed`.
    pub status: &'static str,
    /// Records folded so far.
    pub folded: u64,
    /// Records to fold, as counted when it began.
    pub total: u64,
}

impl From<&RebuildProgress> for Rebuild {
    fn from(progress: &RebuildProgress) -> Self {
        let status = match progress.ended() {
            None => "running",
            Some(Ok(())) => "done",
            Some(Err(_)) => "failed",
        };
        Self {
            status,
            folded: progress.folded(),
            total: progress.total(),
        }
    }
}

/// See [`ProjectionBody`].
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Stopped)]
pub struct StoppedBody {
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
    pub reason: String,
}

impl From<Lag> for ProjectionBody {
    fn from(lag: Lag) -> Self {
        let stopped = |Stopped { position, reason }| StoppedBody { position, reason };
        Self {
            name: lag.projection,
            lag: lag.records,
            stopped: lag.stopped.into_iter().map(stopped).collect(),
            rebuild: None,
        }
    }
}

/// How far each read model is.
#[utoipa::path(
    get, path = "/v1/projections", tag = "operations",
    responses((status = 200, description = "All read models", body = Projections)),
    security(("api_key" = ["settings:write"]))
)]
pub async fn list(State(app): State<App>, caller: Caller) -> Result<Response, Problem> {
    caller.needs(Scope::SettingsWrite)?;
    let rebuilds: HashMap<_, _> = app.node.rebuilds.progress().into_iter().collect();
    let shown = |lag: Lag| ProjectionBody {
        rebuild: rebuilds
            .get(lag.projection)
            .map(|progress| progress.as_ref().into()),
        ..lag.into()
    };
    let projections = lag::known(&app.node).lags.into_iter().map(shown).collect();
    ok(&Projections { projections })
}

/// Starts to build a read model anew, beside the one that serves; it takes over when it has caught up.
#[utoipa::path(
    post, path = "/v1/projections/{name}/rebuild", tag = "operations", params(("name" = String, Path)),
    responses((status = 202, description = "It has begun; GET /v1/projections shows how far it is", body = Rebuild)),
    security(("api_key" = ["settings:write"]))
)]
pub async fn rebuild(State(app): State<App>, caller: Caller, Name(name): Name) -> Result<Response, Problem> {
    caller.needs(Scope::SettingsWrite)?;
    // Starting counts the records and makes a thread and a table; other requests need not wait for that.
    let starter = app.clone();
    let started = tokio::task::spawn_blocking(move || starter.node.rebuilds.start(&name)).await??;
    json(StatusCode::ACCEPTED, &Rebuild::from(started.as_ref()))
}
