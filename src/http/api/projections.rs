//! `/v1/projections`: how far each read model is.

use axum::extract::State;
use axum::response::Response;
use gatelog_events::ids::Position;
use gatelog_projections::applied::Stopped;
use serde::Serialize;

use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::caller::Caller;
use crate::http::lag::{self, Lag};
use crate::http::reply::ok;

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
    let projections = lag::measure(&app.node).await?.into_iter().map(Into::into).collect();
    ok(&Projections { projections })
}
