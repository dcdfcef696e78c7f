//! `/ssf/status` and `/ssf/verification`: whether a stream tells anything, and whether it works (SSF 1.0, sections 8.1.2
//! and 8.1.4).

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gatelog_events::clock;
use gatelog_events::domain::feed;
use gatelog_events::domain::signals::{
    self, SignalStream, SignalStreamStatusSet, StreamStatus, VerificationRequested,
};
use gatelog_projections::{settings, signals as view};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::body::Body;
use super::streams::{StreamQuery, submit};
use super::{invalid, known, reads, receiver, settings_with, wrong};
use crate::auth::api_keys::Scope;
use crate::error::{Kind, Problem};
use crate::feeds::signals::{MIN_VERIFICATION_INTERVAL, from_now, home, say_and_see, token};
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::Query;
use crate::http::reply::ok;

/// Longest `state` of a verification, in bytes.
const MAX_STATE: usize = 1024;

/// A stream's status.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfStatus)]
pub struct StatusBody<'a> {
    pub stream_id: String,
    /// `enabled`, `paused` (what happens is held) or `disabled` (it is never told).
    pub status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// What a stream's status is to be.
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = SsfStatusInput)]
pub struct StatusInput {
    pub stream_id: String,
    /// `enabled`, `paused` or `disabled`.
    pub status: String,
    /// Why, in a few words.
    pub reason: Option<String>,
}

/// A request for a verification event.
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = SsfVerificationInput)]
pub struct VerificationInput {
    pub stream_id: String,
    /// Comes back in the event; up to 1,024 bytes.
    pub state: Option<String>,
}

fn shown(id: Uuid, stream: &SignalStream) -> StatusBody<'_> {
    StatusBody {
        stream_id: id.simple().to_string(),
        status: token::status(stream.status),
        reason: stream.reason.as_deref(),
    }
}

/// The status of a stream.
#[utoipa::path(
    get, path = "/ssf/status", tag = "shared signals", params(StreamQuery),
    responses((status = 200, description = "The status", body = StatusBody)),
    security(("api_key" = ["ssf.read"]), ("api_key" = ["ssf.manage"]))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StreamQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    reads(&caller)?;
    min.reached(&app, &[settings::NAME]).await?;
    let id = query
        .stream_id
        .ok_or_else(|| wrong("stream_id", "It is required."))?;
    let settings = settings_with(&app, &caller, &id).await?;
    let (id, stream) = known(&settings, &caller, &id)?;
    ok(&shown(id, stream))
}

/// Enables, pauses or disables a stream. If an administrator does it, the receiver is told by a stream-updated event.
#[utoipa::path(
    post, path = "/ssf/status", tag = "shared signals", request_body = StatusInput,
    responses((status = 200, description = "The status", body = StatusBody)),
    security(("api_key" = ["ssf.manage"]))
)]
pub async fn set(
    State(app): State<App>,
    caller: Caller,
    ask: Ask,
    Body { value, raw }: Body<StatusInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::SsfManage)?;
    let settings = settings_with(&app, &caller, &value.stream_id).await?;
    let (id, stream) = known(&settings, &caller, &value.stream_id)?;
    let mut check = Check::new();
    check.optional_text("reason", value.reason.as_ref());
    let wanted = [
        StreamStatus::Enabled,
        StreamStatus::Paused,
        StreamStatus::Disabled,
    ];
    let status = wanted.into_iter().find(|s| token::status(*s) == value.status);
    if status.is_none() {
        check.wrong("status", "It must be enabled, paused or disabled.");
    }
    check
        .done()
        .map_err(|problem| invalid(problem.errors().to_vec()))?;
    let status = status.unwrap_or_default();
    // Taken also where it seems not to be disabled: this node may not know yet. Whoever writes does, and decides.
    let begins = match status {
        StreamStatus::Disabled => None,
        StreamStatus::Enabled | StreamStatus::Paused => Some(from_now(&app.node).await?),
    };
    let command = signals::Command::SetStatus(SignalStreamStatusSet {
        stream_id: id,
        status,
        reason: value.reason,
        tell: receiver(&caller) != stream.receiver,
        begins,
    });
    submit(&app, &caller, &ask, command, &raw).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let (id, stream) = known(&settings, &caller, &value.stream_id)?;
    ok(&shown(id, stream))
}

/// Sends a verification event by the stream, so that its receiver sees whether it works.
#[utoipa::path(
    post, path = "/ssf/verification", tag = "shared signals", request_body = VerificationInput,
    responses((status = 204, description = "It will be sent")),
    security(("api_key" = ["ssf.manage"]))
)]
pub async fn verify(
    State(app): State<App>,
    caller: Caller,
    Body { value, .. }: Body<VerificationInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::SsfManage)?;
    let settings = settings_with(&app, &caller, &value.stream_id).await?;
    let (stream_id, _) = known(&settings, &caller, &value.stream_id)?;
    if value.state.as_ref().is_some_and(|state| state.len() > MAX_STATE) {
        return Err(wrong("state", "It may have at most 1024 bytes."));
    }
    let views = &app.node.views;
    let last = views.signals(|v| view::verified_at(v, app.tenant(), stream_id))?;
    let next = last.map(|last| last.plus(MIN_VERIFICATION_INTERVAL));
    let now = clock::now();
    if let Some(next) = next.filter(|next| now < *next) {
        return Err(Problem::new(
            Kind::TooManyVerifications,
            "Wait for the time in Retry-After; min_verification_interval of the stream says how long in general.",
        )
        .retry_after(next.since(now)));
    }
    let requested = VerificationRequested {
        stream_id,
        state: value.state,
    };
    let partition = home(stream_id, app.node.log.partitions());
    say_and_see(
        &app.node,
        partition,
        feed::Command::RequestVerification(requested),
    )
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
