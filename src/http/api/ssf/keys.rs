//! `/ssf/keys`: replacing the key that signs security events.

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::signals::{self, SignalKeyMade, Signals};
use serde::Serialize;

use super::streams::submit;
use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::Ask;
use crate::http::caller::Caller;
use crate::http::reply::ok;

/// The newest key.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfKey)]
pub struct KeyBody<'a> {
    /// Its name in the JWK set.
    pub kid: &'a str,
    /// From when on it signs. It is published at once.
    #[schema(value_type = String, format = DateTime)]
    pub signs_from: Timestamp,
}

/// Makes another key that signs in five minutes; those before the one that signs until then are published no more.
#[utoipa::path(
    post, path = "/ssf/keys", tag = "shared signals",
    responses((status = 200, description = "The key, also where it waits already", body = KeyBody)),
    security(("api_key" = ["*"]))
)]
pub async fn replace(State(app): State<App>, caller: Caller, ask: Ask) -> Result<Response, Problem> {
    caller.needs(Scope::All)?;
    let settings = app.node.views.settings(app.tenant())?;
    // One that waits is what is asked for: whoever asks twice shall not use up two.
    if let Some(waiting) = newest(&settings.signals).filter(|key| clock::now() < key.signs_from) {
        return ok(&waiting);
    }
    let made = make(&app).await?;
    submit(&app, &caller, &ask, signals::Command::MakeKey(made), &[]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let made =
        newest(&settings.signals).ok_or_else(|| Problem::internal(&"the key that was made is not there"));
    ok(&made?)
}

fn newest(signals: &Signals) -> Option<KeyBody<'_>> {
    let key = signals.keys.last()?;
    Some(KeyBody {
        kid: &key.made.kid,
        signs_from: key.signs_from,
    })
}

/// A new key, which nobody knows yet.
pub(super) async fn make(app: &App) -> Result<SignalKeyMade, Problem> {
    let node = app.node.clone();
    let made = tokio::task::spawn_blocking(move || node.signal_keys.make(&node.config.tenant));
    made.await?.map_err(|e| Problem::internal(&e))
}
