//! `/ssf/streams`: making, reading, changing and deleting streams (SSF 1.0, section 8.1.1).

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gatelog_events::commit::Subject;
use gatelog_events::domain::signals::{
    self, Delivery, Push, SignalStream, SignalStreamChanged, SignalStreamCreated, SignalStreamDeleted,
    StreamConfig, StreamPatch,
};
use gatelog_events::domain::tenant::{self, Settings};
use gatelog_events::ids::ApiKeyId;
use gatelog_projections::settings;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::body::Body;
use super::{
    METHOD_POLL, METHOD_PUSH, invalid, known, may_see, poll_url, reads, receiver, settings_until,
    settings_with, wrong,
};
use crate::auth::api_keys::Scope;
use crate::auth::random;
use crate::error::Problem;
use crate::feeds::signals::types::EventType;
use crate::feeds::signals::{MIN_VERIFICATION_INTERVAL, from_now};
use crate::feeds::webhook::target::Target;
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::Query;
use crate::http::reply::{json, ok};
use crate::writer::{Command, Outcome, Request};

/// Types of events that a receiver may ask for, also such as are not known, and the longest of them.
const MAX_EVENTS: usize = 100;
const MAX_URI: usize = 512;
const MAX_AUTHORIZATION: usize = 4096;

/// What a receiver says of its stream. It may send what the transmitter says as well, if it is as the transmitter says.
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = SsfStreamInput)]
pub struct StreamInput {
    /// Of an existing stream.
    pub stream_id: Option<String>,
    /// URIs of types of events.
    pub events_requested: Option<Vec<String>>,
    pub delivery: Option<DeliveryInput>,
    pub description: Option<String>,
    pub iss: Option<String>,
    /// Whoever may do everything can make a stream for another: with the id of the receiver's API key.
    #[schema(value_type = Option<String>)]
    pub aud: Option<Value>,
    pub events_supported: Option<Vec<String>>,
    pub events_delivered: Option<Vec<String>>,
    pub min_verification_interval: Option<u32>,
}

/// How events reach the receiver.
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = SsfDeliveryInput)]
pub struct DeliveryInput {
    /// `urn:ietf:rfc:8935` (push) or `urn:ietf:rfc:8936` (poll).
    pub method: String,
    /// For push: where events are posted; https and public. For poll the transmitter says where to ask.
    pub endpoint_url: Option<String>,
    /// For push: the `Authorization` header of each request. It is never shown again.
    pub authorization_header: Option<String>,
}

/// A stream, as the transmitter sees it.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfStream)]
pub struct StreamBody<'a> {
    pub stream_id: String,
    pub iss: &'a str,
    pub aud: &'a str,
    #[schema(value_type = Vec<String>)]
    pub events_supported: BTreeSet<&'a str>,
    #[schema(value_type = Vec<String>)]
    pub events_requested: &'a BTreeSet<String>,
    #[schema(value_type = Vec<String>)]
    pub events_delivered: BTreeSet<&'a str>,
    pub delivery: DeliveryBody<'a>,
    /// In seconds.
    pub min_verification_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'a str>,
}

/// One stream, or all that the caller sees.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
#[schema(as = SsfStreams)]
pub enum StreamsBody<'a> {
    One(StreamBody<'a>),
    All(Vec<StreamBody<'a>>),
}

/// How events reach the receiver, without the header.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfDelivery)]
pub struct DeliveryBody<'a> {
    pub method: &'a str,
    pub endpoint_url: String,
}

/// `?stream_id=`.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// The stream.
    pub stream_id: Option<String>,
}

fn shown<'a>(app: &'a App, id: Uuid, stream: &'a SignalStream) -> StreamBody<'a> {
    let (method, endpoint_url) = match &stream.config.delivery {
        Delivery::Push(push) => (METHOD_PUSH, push.url.clone()),
        Delivery::Poll => (METHOD_POLL, poll_url(app, id)),
    };
    StreamBody {
        stream_id: id.simple().to_string(),
        iss: &app.node.config.issuer,
        aud: &stream.audience,
        events_supported: EventType::supported(),
        events_requested: &stream.config.events_requested,
        events_delivered: EventType::delivered(stream),
        delivery: DeliveryBody { method, endpoint_url },
        min_verification_interval: MIN_VERIFICATION_INTERVAL.as_secs(),
        description: stream.config.description.as_deref(),
    }
}

/// Makes a stream. It tells what happens from now on, of the types that are requested.
#[utoipa::path(
    post, path = "/ssf/streams", tag = "shared signals", request_body = StreamInput,
    responses((status = 201, description = "The stream", body = StreamBody)),
    security(("api_key" = ["ssf.manage"]))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    ask: Ask,
    Body { value, raw }: Body<StreamInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::SsfManage)?;
    let mut check = Check::new();
    for (member, given) in [
        ("stream_id", value.stream_id.is_some()),
        ("iss", value.iss.is_some()),
        ("aud", value.aud.is_some() && !caller.has(Scope::All)),
        ("events_supported", value.events_supported.is_some()),
        ("events_delivered", value.events_delivered.is_some()),
        (
            "min_verification_interval",
            value.min_verification_interval.is_some(),
        ),
    ] {
        if given {
            check.wrong(member, "The transmitter sets it. Leave it out.");
        }
    }
    // The same for each retry, so that a retry makes no second stream.
    let id = match ask.commit_id(&app, Some(&caller)) {
        Some(commit) => commit.0,
        None => uuid::Builder::from_random_bytes(random()?).into_uuid(),
    };
    let receiver = match &value.aud {
        // Nobody else learns which keys there are.
        Some(audience) if caller.has(Scope::All) => live_key(&app, audience, &mut check).await?,
        _ => receiver(&caller),
    };
    let config = config(said(&app, id, value, &mut check)?);
    done(check)?;
    make_first_key(&app, &caller, &ask).await?;
    let created = SignalStreamCreated {
        stream_id: id,
        audience: receiver.map_or_else(|| "operator".to_owned(), |key| key.to_string()),
        receiver,
        config,
        begins: from_now(&app.node).await?,
    };
    submit(&app, &caller, &ask, signals::Command::Create(created), &raw).await?;
    answer(&app, &caller, id, StatusCode::CREATED)
}

/// The API key that a stream is made for.
async fn live_key(app: &App, audience: &Value, check: &mut Check) -> Result<Option<ApiKeyId>, Problem> {
    let id = audience.as_str().and_then(|id| id.parse::<ApiKeyId>().ok());
    let reads = |settings: &Settings| -> Option<bool> {
        let key = settings
            .api_keys
            .get(&id?)
            .filter(|key| key.revoked_at.is_none())?;
        let scopes = [Scope::SsfRead, Scope::SsfManage, Scope::All];
        Some(scopes.iter().any(|scope| key.scopes.contains(scope.name())))
    };
    let settings = settings_until(app, |now| id.is_none() || reads(now).is_some()).await?;
    match reads(&settings) {
        Some(true) => {}
        Some(false) => check.wrong(
            "aud",
            "This API key has neither the scope ssf.read nor ssf.manage.",
        ),
        None => check.wrong("aud", "It must be the id of an API key that is not revoked."),
    }
    Ok(id)
}

/// The stream of an id, or all that the caller sees.
#[utoipa::path(
    get, path = "/ssf/streams", tag = "shared signals", params(StreamQuery),
    responses((status = 200, description = "The stream; a list of all where no id is given", body = StreamsBody)),
    security(("api_key" = ["ssf.read"]), ("api_key" = ["ssf.manage"]))
)]
pub async fn read(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StreamQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    reads(&caller)?;
    min.reached(&app, &[settings::NAME]).await?;
    if let Some(id) = query.stream_id {
        let settings = settings_with(&app, &caller, &id).await?;
        let (id, stream) = known(&settings, &caller, &id)?;
        return ok(&StreamsBody::One(shown(&app, id, stream)));
    }
    let settings = app.node.views.settings(app.tenant())?;
    let all = settings.signals.streams.iter();
    let own = all.filter(|(_, stream)| may_see(&caller, stream));
    let bodies = own.map(|(id, stream)| shown(&app, *id, stream));
    ok(&StreamsBody::All(bodies.collect()))
}

/// Changes what is given of a stream, and nothing else.
#[utoipa::path(
    patch, path = "/ssf/streams", tag = "shared signals", request_body = StreamInput,
    responses((status = 200, description = "The whole stream", body = StreamBody)),
    security(("api_key" = ["ssf.manage"]))
)]
pub async fn update(
    State(app): State<App>,
    caller: Caller,
    ask: Ask,
    Body { value, raw }: Body<StreamInput>,
) -> Result<Response, Problem> {
    change(&app, &caller, &ask, value, &raw, true).await
}

/// Replaces all that the receiver says of a stream: what is not given is gone.
#[utoipa::path(
    put, path = "/ssf/streams", tag = "shared signals", request_body = StreamInput,
    responses((status = 200, description = "The whole stream", body = StreamBody)),
    security(("api_key" = ["ssf.manage"]))
)]
pub async fn replace(
    State(app): State<App>,
    caller: Caller,
    ask: Ask,
    Body { value, raw }: Body<StreamInput>,
) -> Result<Response, Problem> {
    change(&app, &caller, &ask, value, &raw, false).await
}

/// Deletes a stream. What it has not told is never told.
#[utoipa::path(
    delete, path = "/ssf/streams", tag = "shared signals", params(StreamQuery),
    responses((status = 204, description = "There is no such stream any more")),
    security(("api_key" = ["ssf.manage"]))
)]
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StreamQuery>,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::SsfManage)?;
    let id = query
        .stream_id
        .ok_or_else(|| wrong("stream_id", "It is required."))?;
    let settings = settings_with(&app, &caller, &id).await?;
    let (stream_id, _) = known(&settings, &caller, &id)?;
    let command = signals::Command::Delete(SignalStreamDeleted { stream_id });
    submit(&app, &caller, &ask, command, &[]).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn change(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    input: StreamInput,
    raw: &[u8],
    keep: bool,
) -> Result<Response, Problem> {
    caller.needs(Scope::SsfManage)?;
    let id = input
        .stream_id
        .as_deref()
        .ok_or_else(|| wrong("stream_id", "It is required."))?;
    let settings = settings_with(app, caller, id).await?;
    let (id, stream) = known(&settings, caller, id)?;
    let mut check = Check::new();
    check_transmitters(app, id, stream, &input, &mut check);
    if !keep && input.delivery.is_none() {
        check.wrong(
            "delivery",
            "It is required: a stream without it would not reach you.",
        );
    }
    let said = said(app, id, input, &mut check)?;
    done(check)?;
    let command = if keep {
        // What stays is decided where it is written: this node may not know yet what was changed a moment ago.
        signals::Command::Patch(said)
    } else {
        signals::Command::Change(SignalStreamChanged {
            stream_id: id,
            config: config(said),
        })
    };
    submit(app, caller, ask, command, raw).await?;
    answer(app, caller, id, StatusCode::OK)
}

/// What the transmitter says must be as it is, where it is sent at all.
fn check_transmitters(app: &App, id: Uuid, stream: &SignalStream, input: &StreamInput, check: &mut Check) {
    const DIFFERS: &str = "It is not as the transmitter has it. Leave it out, or send what a GET gives.";
    let now = shown(app, id, stream);
    let same_set = |given: &Option<Vec<String>>, known: &BTreeSet<&str>| {
        let given = given.as_ref();
        given.is_none_or(|given| given.iter().map(String::as_str).collect::<BTreeSet<_>>() == *known)
    };
    let same_audience = match &input.aud {
        None => true,
        Some(Value::Array(all)) => all.len() == 1 && all[0] == now.aud,
        Some(one) => one == now.aud,
    };
    for (member, same) in [
        ("iss", input.iss.as_deref().is_none_or(|iss| iss == now.iss)),
        ("aud", same_audience),
        (
            "events_supported",
            same_set(&input.events_supported, &now.events_supported),
        ),
        (
            "events_delivered",
            same_set(&input.events_delivered, &now.events_delivered),
        ),
        (
            "min_verification_interval",
            input
                .min_verification_interval
                .is_none_or(|n| u64::from(n) == now.min_verification_interval),
        ),
    ] {
        if !same {
            check.wrong(member, DIFFERS);
        }
    }
}

/// All that a receiver says of a stream, which says this and nothing else.
fn config(said: StreamPatch) -> StreamConfig {
    StreamConfig {
        // Also for a new stream that says nothing of it (SSF 1.0, section 8.1.1.1).
        delivery: said.delivery.unwrap_or(Delivery::Poll),
        events_requested: said.events_requested.unwrap_or_default(),
        description: said.description,
    }
}

/// What a receiver says, checked.
fn said(app: &App, id: Uuid, input: StreamInput, check: &mut Check) -> Result<StreamPatch, Problem> {
    check.optional_text("description", input.description.as_ref());
    let requested = input.events_requested.map(|requested| {
        if requested.len() > MAX_EVENTS || requested.iter().any(|uri| uri.is_empty() || uri.len() > MAX_URI) {
            check.wrong(
                "events_requested",
                "It may have at most 100 URIs of 1 to 512 characters.",
            );
        }
        requested.into_iter().collect()
    });
    let delivery = input
        .delivery
        .map(|delivery| read_delivery(app, id, delivery, check));
    Ok(StreamPatch {
        stream_id: id,
        delivery: delivery.transpose()?,
        events_requested: requested,
        description: input.description,
    })
}

fn read_delivery(app: &App, id: Uuid, input: DeliveryInput, check: &mut Check) -> Result<Delivery, Problem> {
    match input.method.as_str() {
        METHOD_POLL => {
            if input.endpoint_url.is_some_and(|url| url != poll_url(app, id)) {
                check.wrong(
                    "delivery.endpoint_url",
                    "For poll the transmitter sets it. Leave it out.",
                );
            }
            if input.authorization_header.is_some() {
                check.wrong(
                    "delivery.authorization_header",
                    "It is for push only. Leave it out.",
                );
            }
            Ok(Delivery::Poll)
        }
        METHOD_PUSH => {
            let url = input.endpoint_url.unwrap_or_default();
            if url.is_empty() {
                check.wrong("delivery.endpoint_url", "It is required for push.");
            } else if let Err(e) = Target::parse(&url, &app.node.config.webhooks.policy) {
                let text = e.to_string();
                let text = text.strip_prefix("url: ").unwrap_or(&text).to_owned();
                check.wrong("delivery.endpoint_url", format!("Correct the URL: {text}."));
            }
            let header = input.authorization_header;
            let authorization = header
                .map(|header| wrapped(app, id, &header, check))
                .transpose()?;
            Ok(Delivery::Push(Push { url, authorization }))
        }
        _ => {
            check.wrong(
                "delivery.method",
                "It must be urn:ietf:rfc:8935 (push) or urn:ietf:rfc:8936 (poll).",
            );
            Ok(Delivery::Poll)
        }
    }
}

/// The header, encrypted.
fn wrapped(app: &App, id: Uuid, header: &str, check: &mut Check) -> Result<String, Problem> {
    let valid = (1..=MAX_AUTHORIZATION).contains(&header.len())
        && header.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && header.trim() == header;
    if !valid {
        check.wrong(
            "delivery.authorization_header",
            "It must be the value of an HTTP header: 1 to 4096 visible ASCII characters and spaces between.",
        );
    }
    let keys = &app.node.signal_keys;
    let wrapped = keys.wrap_authorization(app.tenant(), id, header);
    wrapped.map_err(|e| Problem::internal(&e))
}

fn done(check: Check) -> Result<(), Problem> {
    check.done().map_err(|problem| invalid(problem.errors().to_vec()))
}

/// Before the first stream, the key that signs what is told.
async fn make_first_key(app: &App, caller: &Caller, ask: &Ask) -> Result<(), Problem> {
    if !app.node.views.settings(app.tenant())?.signals.keys.is_empty() {
        return Ok(());
    }
    let made = super::keys::make(app).await?;
    let command = Command::Tenant(tenant::Command::Signals(signals::Command::MakeFirstKey(made)));
    let request = Request {
        idempotency: None,
        ..ask.request(app, Some(caller), Subject::Tenant, command, &[])
    };
    app.node.router.submit(request).await?;
    Ok(())
}

pub(super) async fn submit(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    command: signals::Command,
    raw: &[u8],
) -> Result<Outcome, Problem> {
    let command = Command::Tenant(tenant::Command::Signals(command));
    let outcome = ask.submit(app, caller, Subject::Tenant, command, raw).await?;
    let wait = app.node.config.min_position_wait;
    let position = outcome.answer.position();
    app.node.views.wait_for(settings::NAME, position, wait).await?;
    Ok(outcome)
}

fn answer(app: &App, caller: &Caller, id: Uuid, status: StatusCode) -> Result<Response, Problem> {
    let settings = app.node.views.settings(app.tenant())?;
    let (id, stream) = known(&settings, caller, &id.to_string())?;
    json(status, &shown(app, id, stream))
}
