//! What a node answers while it opens: it lives, and is not ready. A load balancer goes to another node at once, where it
//! would otherwise wait for an answer from a port that is bound and not served.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::sync::watch;
use tower::ServiceExt;

use super::{envelope, metrics, operations};
use crate::error::{Kind, Problem};

/// What the node answers once it is open.
pub type Opened = watch::Receiver<Option<Router>>;

/// Serves until the node is open.
pub fn router(opened: Opened) -> Router {
    metrics::recorder();
    Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/internal/{*path}", any(wait))
        .fallback(async || starting())
        .layer(envelope::EnvelopeLayer)
        .with_state(opened)
}

fn starting() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "The node is starting. Ask another one, or this one again in a moment.",
    )
    .retry_after(Duration::from_secs(1))
}

/// Another node asks, which knows this one from an earlier run. Only an answer that is signed tells it that nothing was
/// done, so it waits until this node can sign.
async fn wait(State(mut opened): State<Opened>, request: Request) -> Response {
    let router = match opened.wait_for(Option::is_some).await {
        Ok(router) => router.clone(),
        Err(_) => None,
    };
    match router {
        Some(router) => router
            .oneshot(request)
            .await
            .unwrap_or_else(|never: Infallible| match never {}),
        None => starting().into_response(),
    }
}
