//! `/ssf/dead-letters`: what the receiver of a stream did not take.

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::ids::UserId;
use gatelog_projections::webhooks::{self, Hook};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{known, reads, settings_with, wrong};
use crate::error::Problem;
use crate::feeds::signals::FEED;
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::caller::Caller;
use crate::http::cursor::{self, List, PageQuery};
use crate::http::params::Query;
use crate::http::reply::ok;

const ROUTE: &str = "signal-dead-letters";

/// `?stream_id=&limit=&after=`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// The stream.
    pub stream_id: Option<String>,
    /// How many, 1 to 200; 50 if absent.
    #[param(value_type = Option<u32>)]
    pub limit: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
}

/// A page of what was given up.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfDeadLetters)]
pub struct DeadLetters {
    pub dead_letters: Vec<DeadLetterBody>,
    /// Cursor of the next page; null at the end.
    pub next: Option<String>,
}

/// One SET that was given up. What it said is not kept.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfDeadLetter)]
pub struct DeadLetterBody {
    pub jti: Uuid,
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    pub attempts: u32,
    /// Status of the last answer to a push; null where there was none.
    pub status: Option<u16>,
    pub reason: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
}

/// What a receiver rejected, or was not there for in all the time that it was tried.
#[utoipa::path(
    get, path = "/ssf/dead-letters", tag = "shared signals", params(DeadLetterQuery),
    responses((status = 200, description = "A page", body = DeadLetters)),
    security(("api_key" = ["ssf.read"]), ("api_key" = ["ssf.manage"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<DeadLetterQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    reads(&caller)?;
    let id = query
        .stream_id
        .ok_or_else(|| wrong("stream_id", "It is required."))?;
    min.reached(&app, &[webhooks::NAME]).await?;
    let settings = settings_with(&app, &caller, &id).await?;
    let (id, _) = known(&settings, &caller, &id)?;
    let page = PageQuery {
        limit: query.limit,
        after: query.after,
    };
    let list = List {
        route: ROUTE,
        owner: id.as_bytes(),
    };
    let (limit, after) = (page.limit()?, page.after(&app, list)?);
    let name = id.simple().to_string();
    let hook = Hook {
        tenant: app.tenant(),
        feed: FEED,
        webhook: &name,
    };
    let mut rows = app.node.views.dead_letters(hook, after.as_deref(), limit + 1)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|(key, _, _)| cursor::issue(&app, list, key));
    let bodies = rows.into_iter().map(|(_, _, dead)| DeadLetterBody {
        jti: dead.letter.record,
        user_id: dead.letter.user,
        attempts: dead.letter.attempts,
        status: dead.letter.status,
        reason: dead.letter.reason,
        since: dead.since,
    });
    ok(&DeadLetters {
        dead_letters: bodies.collect(),
        next,
    })
}
