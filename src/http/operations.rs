//! What operators and machines ask: is it alive, is it ready, what are its numbers, its keys, its description.

use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Serialize;

use super::api::projections::ProjectionBody;
use super::app::App;
use super::lag;
use super::reply::json;
use crate::error::Problem;

/// How long others may keep the key set. A new key is [published](crate::auth::keys::PUBLISHED) for longer before it signs.
const JWKS_MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Whether the process is alive.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// Whether the node can be given requests.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Readiness {
    pub ready: bool,
    /// Whether the node was told to stop. It answers until other nodes write what it wrote, and should be given nothing more.
    pub stopping: bool,
    /// Whether the log can be reached. While it cannot, reads go on and writes are answered with 503; how far the read
    /// models are behind is not known then, and not shown.
    pub log_reachable: bool,
    /// Logins that are kept until the log can be reached, and are not recorded yet.
    pub spooled_logins: usize,
    /// Partitions in Kafka that take no writes at present, as they have no leader or too few copies in sync. What belongs
    /// there is answered with 503, and reads go on.
    pub unwritable_partitions: u64,
    /// Partitions in Kafka of which it has not said since the node's start where they end. Until it does, nobody knows what the
    /// node lacks, and it is not ready.
    pub untold_partitions: usize,
    /// The lag from which on a read model makes the node not ready, in records.
    pub max_lag: u64,
    pub projections: Vec<ProjectionBody>,
}

/// The process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", security(()),
    responses((status = 200, description = "It is", body = Health))
)]
pub async fn healthz() -> Result<Response, Problem> {
    json(StatusCode::OK, &Health { status: "ok" })
}

/// The node can be given requests: every read model is near the log's end, and none stands still.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", security(()),
    responses(
        (status = 200, description = "It can", body = Readiness),
        (status = 503, description = "Not yet, or not any more", body = Readiness),
    )
)]
pub async fn readyz(State(app): State<App>) -> Result<Response, Problem> {
    let max_lag = app.node.config.max_lag;
    let lag::Known {
        log_reachable,
        untold,
        lags,
    } = lag::known(&app.node);
    // Before anything is served there is nothing to be behind.
    let near =
        untold == 0 && !lags.is_empty() && lags.iter().all(|l| l.records <= max_lag && l.stopped.is_empty());
    // In a new cluster nothing can be done before some node has written the first settings.
    let stopping = app.node.stopping.load(Relaxed);
    let ready = near && !stopping && app.node.views.settings(app.tenant())?.version > 0;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let projections = lags.into_iter().map(Into::into).collect();
    json(
        status,
        &Readiness {
            ready,
            stopping,
            log_reachable,
            spooled_logins: app.node.spool.as_ref().map_or(0, |spool| spool.len()),
            untold_partitions: untold,
            unwritable_partitions: app.node.backend.unwritable_partitions(),
            max_lag,
            projections,
        },
    )
}

/// Numbers for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", security(()),
    responses((status = 200, description = "In the Prometheus text format", content_type = "text/plain", body = String))
)]
pub async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    super::metrics::refresh(&app).await;
    let mut response = super::metrics::recorder().render().into_response();
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}

/// The keys that verify access tokens (RFC 7517).
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "operations", security(()),
    responses((status = 200, description = "A JWK set", body = Object))
)]
pub async fn jwks(State(app): State<App>) -> Result<Response, Problem> {
    let mut response = json(StatusCode::OK, &app.node.tokens.jwks())?;
    response.headers_mut().insert(CACHE_CONTROL, JWKS_MAX_AGE);
    Ok(response)
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub async fn openapi(State(app): State<App>) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], app.document.clone()).into_response()
}

/// The front door leads to the documentation.
pub async fn index() -> Redirect {
    Redirect::temporary("/docs/")
}
