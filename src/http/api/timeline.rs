//! `GET /v1/users/{id}/timeline`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::ids::{EventId, Position};
use gatelog_projections::timeline::Entry;
use gatelog_projections::{timeline, users};
use serde::Serialize;

use super::{ActorBody, existing};
use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::caller::Caller;
use crate::http::cursor::{self, List, PageQuery};
use crate::http::params::{Query, UserParam};
use crate::http::reply::ok;

const ROUTE: &str = "timeline";

/// A page of what happened.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Timeline)]
pub struct TimelineBody {
    /// Newest first.
    pub events: Vec<Happened>,
    /// Cursor of the next page; null at the end.
    pub next: Option<String>,
}

/// One thing that happened.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Happened {
    #[schema(value_type = Uuid)]
    pub id: EventId,
    #[schema(example = "com.gatelog.plan.upgraded.v1")]
    pub r#type: String,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
    /// Number of the event within its aggregate.
    pub sequence: u64,
    pub actor: ActorBody,
    /// What the event says in the clear.
    pub details: BTreeMap<String, String>,
}

impl From<Entry> for Happened {
    fn from(e: Entry) -> Self {
        Self {
            id: e.id,
            position: e.position(),
            actor: (&e.actor).into(),
            r#type: e.event_type.into_owned(),
            time: e.time,
            sequence: e.sequence,
            details: e
                .details
                .into_iter()
                .map(|(name, what)| (name.into_owned(), what))
                .collect(),
        }
    }
}

/// All that happened to a user, newest first.
#[utoipa::path(
    get, path = "/v1/users/{id}/timeline", tag = "users", params(("id" = Uuid, Path), PageQuery),
    responses((status = 200, description = "A page of the timeline", body = TimelineBody)),
    security(("access_token" = []), ("api_key" = ["timeline:read"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    Query(page): Query<PageQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.may(Scope::TimelineRead, id)?;
    let list = List {
        route: ROUTE,
        owner: id.as_bytes(),
    };
    let (limit, after) = (page.limit()?, page.after(&app, list)?);
    min.reached(&app, &[users::NAME, timeline::NAME]).await?;
    existing(&app, id)?;
    let mut rows = app
        .node
        .views
        .timeline(app.tenant(), id, after.as_deref(), limit + 1)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|(key, _)| cursor::issue(&app, list, key));
    let events = rows.into_iter().map(|(_, entry)| entry.into()).collect();
    ok(&TimelineBody { events, next })
}
