//! What nodes ask of each other. Not for clients: it is not in the OpenAPI document, and neither API keys nor tokens
//! open it, only the cluster's secret. Whoever has not got it finds nothing under these paths.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::post;
use gatelog_events::clock;
use gatelog_events::ids::{TenantId, UserId};
use gatelog_events::seal::KeySource;
use gatelog_projections::subject_keys::SubjectKeys;

use super::body;
use crate::cluster::auth::{ANSWER, NotANode, Ticket};
use crate::cluster::wire::{self, Received, Refused};
use crate::cluster::{COMMANDS, Gate, HELLO, Here, MAX_COMMAND_BYTES};
use crate::error::Problem;
use crate::node::Node;
use crate::writer::WriteError;

/// What a node needs to take commands from others.
#[derive(Clone)]
pub struct Internal {
    pub gate: Arc<Gate>,
    pub here: Here,
    pub keys: Arc<SubjectKeys>,
}

/// The routes for other nodes, if this node lets any in.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(node: &Node) -> Router<S> {
    match &node.gate {
        None => Router::new(),
        Some(gate) => open_to(Internal {
            gate: gate.clone(),
            here: node.router.here().clone(),
            keys: node.keys.clone(),
        }),
    }
}

/// The routes for other nodes.
pub fn open_to<S: Clone + Send + Sync + 'static>(internal: Internal) -> Router<S> {
    Router::new()
        .route(COMMANDS, post(commands))
        .route(HELLO, post(hello))
        .with_state(internal)
}

/// The routes for other nodes while this one opens: whoever knows it from an earlier run hears, signed, that this is
/// another, and that nothing was done.
pub(super) fn of_an_earlier_run<S: Clone + Send + Sync + 'static>(gate: Arc<Gate>) -> Router<S> {
    let refuse = async |State(gate): State<Arc<Gate>>, request: Request| {
        let (ticket, verdict, _) = let_in(&gate, request).await?;
        refuse(&gate, &ticket, verdict.err().unwrap_or(Refused::NotAddressed))
    };
    Router::new()
        .route(COMMANDS, post(refuse))
        .route(HELLO, post(refuse))
        .with_state(gate)
}

/// Says that this is the node that is meant, or that it is not.
async fn hello(State(internal): State<Internal>, request: Request) -> Result<Response, Problem> {
    let gate = internal.gate;
    let (ticket, verdict, _) = let_in(&gate, request).await?;
    match verdict {
        Ok(()) => answer(&gate, &ticket, StatusCode::OK, Vec::new()),
        Err(refused) => refuse(&gate, &ticket, refused),
    }
}

/// Carries a command out that another node was asked for, or says that this node does not own the partition. It never
/// forwards, so no command goes round in circles.
async fn commands(State(internal): State<Internal>, request: Request) -> Result<Response, Problem> {
    let Internal { gate, here, keys } = internal;
    let (ticket, verdict, body) = let_in(&gate, request).await?;
    if let Err(refused) = verdict {
        return refuse(&gate, &ticket, refused);
    }
    let received = match wire::decode_command(&body) {
        Ok(received) => received,
        Err(refused) => return refuse(&gate, &ticket, refused),
    };
    let Received { request, seen } = received;
    let fetched = match request.subject.user() {
        Some(user) => fetch_key(keys, request.tenant.clone(), user).await,
        None => Ok(()),
    };
    let result = match fetched {
        Ok(()) => here.submit(request, &seen).await,
        Err(e) => Err(e),
    };
    answer(&gate, &ticket, StatusCode::OK, wire::encode_result(&result)?)
}

/// Reads what a node of this cluster sent, and says whether it may be carried out.
async fn let_in(gate: &Gate, request: Request) -> Result<(Ticket, Result<(), Refused>, Bytes), Problem> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let authorization = match (headers.next(), headers.next()) {
        (Some(value), None) => value.to_str().ok().map(str::to_owned),
        _ => None,
    };
    let Some(authorization) = authorization else {
        return Err(not_a_node(NotANode::Missing));
    };
    let method = request.method().clone();
    let target = request.uri().path_and_query().map(|t| t.as_str().to_owned());
    let target = target.unwrap_or_default();
    let body = body::read(request, MAX_COMMAND_BYTES).await?;
    let (ticket, verdict) = gate
        .check(
            method.as_str(),
            &target,
            Some(&authorization),
            &body,
            clock::now(),
        )
        .map_err(not_a_node)?;
    Ok((ticket, verdict, body))
}

/// Brings the user's key into memory. It may have been made at another node a moment ago, and whoever decides must not
/// wait for Kafka to bring it. Error: it cannot be said whether there is one, so nothing can be decided.
async fn fetch_key(keys: Arc<SubjectKeys>, tenant: TenantId, user: UserId) -> Result<(), WriteError> {
    if keys.is_at_hand(user) {
        return Ok(());
    }
    let fetched = tokio::task::spawn_blocking(move || keys.key(&tenant, user).map(drop)).await;
    match fetched {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(WriteError::Unavailable {
            reason: format!("the subject's key cannot be read: {e}"),
        }),
        Err(e) => Err(WriteError::Internal(e.to_string())),
    }
}

/// Who is not a node finds nothing here; why is told in the log only.
fn not_a_node(why: NotANode) -> Problem {
    tracing::warn!(%why, "a request for a path between nodes is not from a node of this cluster");
    super::not_found()
}

fn refuse(gate: &Gate, ticket: &Ticket, refused: Refused) -> Result<Response, Problem> {
    tracing::warn!(%refused, "a command of another node is refused");
    let status = match refused {
        Refused::UnknownForm | Refused::UnknownCommand | Refused::Malformed => StatusCode::BAD_REQUEST,
        Refused::NotAddressed => StatusCode::NOT_FOUND,
        Refused::Stale | Refused::Replayed => StatusCode::UNAUTHORIZED,
        Refused::Busy => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(gate, ticket, status, wire::encode_refusal(refused)?)
}

fn answer(gate: &Gate, ticket: &Ticket, status: StatusCode, body: Vec<u8>) -> Result<Response, Problem> {
    let mac = gate.sign(ticket, status.as_u16(), &body);
    let mac = HeaderValue::try_from(mac).map_err(|e| Problem::internal(&e))?;
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HeaderName::from_static(ANSWER), mac);
    Ok(response)
}
