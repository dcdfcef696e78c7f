//! `/ssf/…`: streams of security events (OpenID Shared Signals Framework 1.0), and where receivers find them.

mod body;
pub mod configuration;
pub mod dead_letters;
pub mod keys;
pub mod poll;
pub mod status;
pub mod streams;

use std::sync::Arc;

use gatelog_events::domain::signals::SignalStream;
use gatelog_events::domain::tenant::{self, Settings};
use gatelog_events::ids::ApiKeyId;
use gatelog_projections::settings;
use uuid::Uuid;

use crate::auth::api_keys::Scope;
use crate::error::{FieldError, Kind, Problem};
use crate::http::app::App;
use crate::http::ask::{behind, caught_up};
use crate::http::caller::Caller;

const STREAMS: &str = "/ssf/streams";
const STATUS: &str = "/ssf/status";
const VERIFICATION: &str = "/ssf/verification";
const JWKS: &str = "/ssf/jwks.json";
const POLL: &str = "/ssf/poll";

/// RFC 8935.
const METHOD_PUSH: &str = "urn:ietf:rfc:8935";
/// RFC 8936.
const METHOD_POLL: &str = "urn:ietf:rfc:8936";

/// The URL of a path of this installation.
fn url(app: &App, path: &str) -> String {
    format!("{}{path}", app.node.config.issuer.trim_end_matches('/'))
}

/// Where a stream is polled.
fn poll_url(app: &App, stream_id: Uuid) -> String {
    url(app, &format!("{POLL}/{}", stream_id.simple()))
}

/// Whose streams the caller's are; none of the operator.
fn receiver(caller: &Caller) -> Option<ApiKeyId> {
    match caller {
        Caller::ApiKey { id, .. } => Some(*id),
        Caller::Bootstrap | Caller::User { .. } => None,
    }
}

/// Whether the caller sees a stream: it is the receiver's own, or the caller may do everything.
fn may_see(caller: &Caller, stream: &SignalStream) -> bool {
    let own = receiver(caller).filter(|id| stream.receiver == Some(*id));
    own.is_some() || caller.has(Scope::All)
}

/// Whoever may change streams may read them.
fn reads(caller: &Caller) -> Result<(), Problem> {
    if caller.has(Scope::SsfManage) {
        return Ok(());
    }
    caller.needs(Scope::SsfRead)
}

/// A stream that the caller sees. Another's is answered like one that there is not.
fn known<'s>(
    settings: &'s Settings,
    caller: &Caller,
    stream_id: &str,
) -> Result<(Uuid, &'s SignalStream), Problem> {
    let id = Uuid::try_parse(stream_id).ok();
    let found = id.and_then(|id| Some((id, settings.signals.streams.get(&id)?)));
    found
        .filter(|(_, stream)| may_see(caller, stream))
        .ok_or_else(|| tenant::Rejection::SignalStreamNotFound.into())
}

/// The settings as they are known here, at least until the stream is known.
async fn settings_with(app: &App, caller: &Caller, stream_id: &str) -> Result<Arc<Settings>, Problem> {
    let can_be = Uuid::try_parse(stream_id).is_ok();
    settings_until(app, |now| !can_be || known(now, caller, stream_id).is_ok()).await
}

/// The settings as they are known here, at least until they have what is looked for: a moment ago another node may have
/// made it. Error: they have not, and this node does not know all that others wrote.
async fn settings_until(app: &App, has_it: impl Fn(&Settings) -> bool) -> Result<Arc<Settings>, Problem> {
    let now = app.node.views.settings(app.tenant())?;
    if has_it(&now) {
        return Ok(now);
    }
    let shard = app.node.directory.tenant_shard(app.tenant());
    let caught_up = caught_up(app, settings::NAME, shard).await?;
    let now = app.node.views.settings(app.tenant())?;
    match caught_up || has_it(&now) {
        true => Ok(now),
        false => Err(behind().into()),
    }
}

/// Something that was asked of a stream is wrong (SSF 1.0 has status 400 for it).
fn invalid(errors: Vec<FieldError>) -> Problem {
    let problem = Problem::new(
        Kind::InvalidStream,
        "Correct the members named in `errors`; /docs describes them.",
    );
    errors
        .into_iter()
        .fold(problem, |p, e| p.field(e.field, e.detail))
}

/// One member is wrong.
fn wrong(member: &str, detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    invalid(vec![]).field(member, detail)
}
