//! What a node answers while it opens: it lives, and is not ready. A load balancer goes to another node at once, where it
//! would otherwise wait for an answer from a port that is bound and not served.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;

use super::{envelope, internal, metrics, operations};
use crate::cluster::Gate;
use crate::error::{Kind, Problem};

/// Serves until the node is open. `gate`: of a run that nobody knows, if there are other nodes.
pub fn router(gate: Option<Arc<Gate>>) -> Router {
    metrics::recorder();
    Router::new()
        .route("/healthz", get(operations::healthz))
        .merge(gate.map_or_else(Router::new, internal::of_an_earlier_run))
        .fallback(async || starting())
        .layer(envelope::EnvelopeLayer)
}

fn starting() -> Problem {
    Problem::new(
        Kind::Unavailable,
        "The node is starting. Ask another one, or this one again in a moment.",
    )
    .retry_after(Duration::from_secs(1))
}
