//! `/v1/api-keys`.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::tenant::{self, ApiKeyCreated};
use gatelog_events::ids::{ApiKeyId, Position};
use gatelog_projections::settings;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use crate::auth::api_keys::{NewApiKey, ONE_FEED, Scope};
use crate::error::{Kind, Problem};
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::{Name, api_key_id};
use crate::http::reply::{Done, done, ok, written};
use crate::writer::Command;

/// A new key.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyInput {
    /// What it is for, for people.
    pub name: String,
    /// What it may do.
    #[schema(example = json!(["users:read"]), min_items = 1, max_items = 100)]
    pub scopes: BTreeSet<String>,
}

const MAX_SCOPES: usize = 100;

impl KeyInput {
    /// The scopes that it names.
    pub(in crate::http) fn check(&self) -> Result<Vec<Scope>, Problem> {
        let mut check = Check::new();
        check.text("name", &self.name);
        if self.scopes.is_empty() {
            check.wrong("scopes", "Name at least one scope.");
        }
        if self.scopes.len() > MAX_SCOPES {
            check.wrong("scopes", "Name at most 100.");
        }
        for feed in self.scopes.iter().filter_map(|s| s.strip_prefix(ONE_FEED)) {
            check.name("scopes", feed);
        }
        let scopes: Option<Vec<Scope>> = self.scopes.iter().map(|s| Scope::parse(s)).collect();
        if scopes.is_none() {
            let all: Vec<_> = Scope::ALL.iter().map(|s| s.name()).collect();
            check.wrong(
                "scopes",
                format!("One of them is not known. There are: {}.", all.join(", ")),
            );
        }
        check.done()?;
        Ok(scopes.unwrap_or_default())
    }
}

/// A key that was created.
#[derive(Serialize, utoipa::ToSchema)]
pub struct KeyCreated<'a> {
    #[schema(value_type = Uuid)]
    pub key_id: ApiKeyId,
    /// The key. It is shown only here.
    pub api_key: &'a str,
    pub name: &'a str,
    #[schema(value_type = Vec<String>)]
    pub scopes: &'a BTreeSet<String>,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
}

/// All keys.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Keys<'a> {
    pub api_keys: Vec<KeyBody<'a>>,
}

/// A key without its secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ApiKey)]
pub struct KeyBody<'a> {
    #[schema(value_type = Uuid)]
    pub key_id: ApiKeyId,
    pub name: &'a str,
    #[schema(value_type = Vec<String>)]
    pub scopes: &'a BTreeSet<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
}

/// Creates an API key, with scopes that the caller has too.
#[utoipa::path(
    post, path = "/v1/api-keys", tag = "api-keys", request_body = KeyInput,
    responses((status = 201, description = "The key; it is shown only once", body = KeyCreated)),
    security(("api_key" = ["api-keys:write"]))
)]
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    ask: Ask,
    Json { value, raw }: Json<KeyInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::ApiKeysWrite)?;
    refuse_more_than_held(&caller, &value.check()?)?;
    let key = new_key(&app, &caller, &ask)?;
    let command = tenant::Command::CreateApiKey(ApiKeyCreated {
        key_id: key.id,
        name: value.name.clone(),
        scopes: value.scopes.clone(),
        secret_sha256: key.secret_sha256,
    });
    let outcome = ask
        .submit(&app, &caller, Subject::Tenant, Command::Tenant(command), &raw)
        .await?;
    let position = outcome.answer.position();
    let body = KeyCreated {
        key_id: key.id,
        api_key: key.text.expose_secret(),
        name: &value.name,
        scopes: &value.scopes,
        position,
    };
    written(StatusCode::CREATED, position, &body)
}

fn refuse_more_than_held(caller: &Caller, scopes: &[Scope]) -> Result<(), Problem> {
    match scopes.iter().find(|scope| !caller.has(**scope)) {
        None => Ok(()),
        Some(scope) => Err(Problem::new(
            Kind::ScopeNotHeld,
            format!(
                "Your key has not the scope {}. Leave it out, or use a key that has it.",
                scope.name()
            ),
        )
        .field("scopes", "Your own key has not all of them.")),
    }
}

/// A random key; for a retry of the same request the same key, since its secret is kept nowhere.
fn new_key(app: &App, caller: &Caller, ask: &Ask) -> Result<NewApiKey, Problem> {
    let Some(commit) = ask.commit_id(app, Some(caller)) else {
        return Ok(NewApiKey::generate()?);
    };
    let mut id = [0; 16];
    id.copy_from_slice(&app.mac("api-key-id", &[commit.as_bytes()])[..16]);
    Ok(NewApiKey::from_bytes(
        id,
        &app.mac("api-key-secret", &[commit.as_bytes()]),
    ))
}

/// All API keys, revoked ones too, without their secrets.
#[utoipa::path(
    get, path = "/v1/api-keys", tag = "api-keys",
    responses((status = 200, description = "All keys", body = Keys)),
    security(("api_key" = ["api-keys:write"]))
)]
pub async fn list(State(app): State<App>, caller: Caller, min: MinPosition) -> Result<Response, Problem> {
    caller.needs(Scope::ApiKeysWrite)?;
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let api_keys = settings.api_keys.iter().map(|(id, key)| KeyBody {
        key_id: *id,
        name: &key.name,
        scopes: &key.scopes,
        created_at: key.created_at,
        revoked_at: key.revoked_at,
    });
    ok(&Keys {
        api_keys: api_keys.collect(),
    })
}

/// Revokes an API key.
#[utoipa::path(
    delete, path = "/v1/api-keys/{id}", tag = "api-keys", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The key gives no access any more", body = Done)),
    security(("api_key" = ["api-keys:write"]))
)]
pub async fn revoke(
    State(app): State<App>,
    caller: Caller,
    Name(id): Name,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::ApiKeysWrite)?;
    let command = tenant::Command::RevokeApiKey {
        key_id: api_key_id(&id)?,
    };
    done(
        &ask.submit(&app, &caller, Subject::Tenant, Command::Tenant(command), &[])
            .await?,
    )
}
