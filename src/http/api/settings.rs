//! `/v1/settings`: the catalogue of plans, the purposes and the notices.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::tenant::{self, NoticePublished, PlanDefined, PurposeDefined};
use gatelog_projections::settings;
use serde::{Deserialize, Serialize};

use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::Name;
use crate::http::reply::{Done, done, ok};
use crate::writer::Command;

const MAX_ENTITLEMENTS: usize = 100;
/// They stand in each access token, which proxies must take.
const MAX_ENTITLEMENT_BYTES: usize = 2000;
const MAX_NOTICE_CHARS: usize = 20_000;
const MAX_URL: usize = 2048;

/// A plan of the catalogue.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDefinition {
    /// Orders plans: a change to a higher rank is an upgrade. New users get the plan of lowest rank.
    #[schema(value_type = u64, maximum = 4_294_967_295_u32)]
    pub rank: u32,
    /// What it entitles to.
    #[serde(default)]
    pub entitlements: BTreeSet<String>,
}

impl PlanDefinition {
    /// The plan of this name.
    pub(in crate::http) fn check(self, name: String) -> Result<PlanDefined, Problem> {
        let mut check = Check::new();
        check.name("plan", &name);
        for (i, entitlement) in self.entitlements.iter().enumerate() {
            check.name(format!("entitlements[{i}]"), entitlement);
        }
        let bytes: usize = self.entitlements.iter().map(String::len).sum();
        if self.entitlements.len() > MAX_ENTITLEMENTS || bytes > MAX_ENTITLEMENT_BYTES {
            check.wrong("entitlements", "There may be at most 100, and 2000 bytes in all.");
        }
        check.done()?;
        Ok(PlanDefined {
            name,
            rank: self.rank,
            entitlements: self.entitlements,
        })
    }
}

/// A purpose for which data may be used.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurposeDefinition {
    pub description: String,
}

impl PurposeDefinition {
    /// The purpose of this name.
    pub(in crate::http) fn check(self, name: String) -> Result<PurposeDefined, Problem> {
        let mut check = Check::new();
        check.name("purpose", &name);
        check.text("description", &self.description);
        check.done()?;
        Ok(PurposeDefined {
            name,
            description: self.description,
        })
    }
}

/// One version of a notice in one language. What was published cannot change.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticePublication {
    pub version: String,
    /// BCP 47 language tag.
    pub language: String,
    /// Where the text can be read.
    pub url: Option<String>,
    /// The text as shown.
    pub text: Option<String>,
}

impl NoticePublication {
    /// The notice of this id.
    pub(in crate::http) fn check(self, id: String) -> Result<NoticePublished, Problem> {
        let mut check = Check::new();
        check.name("id", &id);
        check.text("version", &self.version);
        check.locale("language", &self.language);
        if self.url.as_ref().is_some_and(|url| !is_web_address(url)) {
            check.wrong(
                "url",
                "It must begin with https:// or http:// and have no spaces.",
            );
        }
        if self.text.as_ref().is_some_and(|text| !is_notice_text(text)) {
            check.wrong(
                "text",
                "It must have 1 to 20,000 characters, and no control characters but line breaks and tabs.",
            );
        }
        check.done()?;
        Ok(NoticePublished {
            id,
            version: self.version,
            language: self.language,
            url: self.url,
            text: self.text,
        })
    }
}

/// The catalogue, by name.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Plans<'a> {
    pub plans: BTreeMap<&'a str, PlanBody<'a>>,
}

/// See [`Plans`].
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Plan)]
pub struct PlanBody<'a> {
    pub rank: u32,
    #[schema(value_type = Vec<String>)]
    pub entitlements: &'a BTreeSet<String>,
}

/// The purposes, by name.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Purposes<'a> {
    pub purposes: BTreeMap<&'a str, PurposeBody<'a>>,
}

/// See [`Purposes`].
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Purpose)]
pub struct PurposeBody<'a> {
    pub description: &'a str,
}

/// The notices that were published, by id.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Notices<'a> {
    pub notices: BTreeMap<&'a str, Vec<NoticeBody<'a>>>,
}

/// See [`Notices`].
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Notice)]
pub struct NoticeBody<'a> {
    pub version: &'a str,
    pub language: &'a str,
    pub url: Option<&'a str>,
    pub text: Option<&'a str>,
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
}

/// The catalogue of plans.
#[utoipa::path(
    get, path = "/v1/settings/plans", tag = "settings",
    responses((status = 200, description = "All plans", body = Plans)),
    security(("access_token" = []), ("api_key" = []))
)]
pub async fn plans(State(app): State<App>, _caller: Caller, min: MinPosition) -> Result<Response, Problem> {
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let plans = settings.plans.iter();
    let plans = plans.map(|(name, p)| {
        (
            name.as_str(),
            PlanBody {
                rank: p.rank,
                entitlements: &p.entitlements,
            },
        )
    });
    ok(&Plans {
        plans: plans.collect(),
    })
}

/// Defines a plan, or redefines it.
#[utoipa::path(
    put, path = "/v1/settings/plans/{plan}", tag = "settings", params(("plan" = String, Path)),
    request_body = PlanDefinition,
    responses((status = 200, description = "The plan is defined", body = Done)),
    security(("api_key" = ["settings:write"]))
)]
pub async fn put_plan(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    ask: Ask,
    Json { value, raw }: Json<PlanDefinition>,
) -> Result<Response, Problem> {
    caller.needs(Scope::SettingsWrite)?;
    let plan = value.check(name)?;
    submit(&app, &caller, &ask, tenant::Command::DefinePlan(plan), &raw).await
}

/// The purposes.
#[utoipa::path(
    get, path = "/v1/settings/purposes", tag = "settings",
    responses((status = 200, description = "All purposes", body = Purposes)),
    security(("access_token" = []), ("api_key" = []))
)]
pub async fn purposes(
    State(app): State<App>,
    _caller: Caller,
    min: MinPosition,
) -> Result<Response, Problem> {
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let purposes = settings.purposes.iter();
    let purposes = purposes.map(|(name, description)| (name.as_str(), PurposeBody { description }));
    ok(&Purposes {
        purposes: purposes.collect(),
    })
}

/// Defines a purpose, or redefines it.
#[utoipa::path(
    put, path = "/v1/settings/purposes/{purpose}", tag = "settings", params(("purpose" = String, Path)),
    request_body = PurposeDefinition,
    responses((status = 200, description = "The purpose is defined", body = Done)),
    security(("api_key" = ["settings:write"]))
)]
pub async fn put_purpose(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    ask: Ask,
    Json { value, raw }: Json<PurposeDefinition>,
) -> Result<Response, Problem> {
    caller.needs(Scope::SettingsWrite)?;
    let purpose = value.check(name)?;
    submit(&app, &caller, &ask, tenant::Command::DefinePurpose(purpose), &raw).await
}

/// The notices.
#[utoipa::path(
    get, path = "/v1/settings/notices", tag = "settings",
    responses((status = 200, description = "All notices", body = Notices)),
    security(("access_token" = []), ("api_key" = []))
)]
pub async fn notices(State(app): State<App>, _caller: Caller, min: MinPosition) -> Result<Response, Problem> {
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let notices = settings.notices.iter().map(|(id, versions)| {
        let versions = versions.iter().map(|((version, language), n)| NoticeBody {
            version,
            language,
            url: n.url.as_deref(),
            text: n.text.as_deref(),
            published_at: n.published_at,
        });
        (id.as_str(), versions.collect())
    });
    ok(&Notices {
        notices: notices.collect(),
    })
}

/// Publishes a version of a notice in one language.
#[utoipa::path(
    put, path = "/v1/settings/notices/{id}", tag = "settings", params(("id" = String, Path)),
    request_body = NoticePublication,
    responses((status = 200, description = "The notice is published", body = Done)),
    security(("api_key" = ["settings:write"]))
)]
pub async fn put_notice(
    State(app): State<App>,
    caller: Caller,
    Name(id): Name,
    ask: Ask,
    Json { value, raw }: Json<NoticePublication>,
) -> Result<Response, Problem> {
    caller.needs(Scope::SettingsWrite)?;
    let notice = value.check(id)?;
    submit(&app, &caller, &ask, tenant::Command::PublishNotice(notice), &raw).await
}

/// A notice is longer than other texts, and has lines.
fn is_notice_text(text: &str) -> bool {
    let count = text.chars().count();
    let allowed = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    (1..=MAX_NOTICE_CHARS).contains(&count) && text.chars().all(allowed)
}

fn is_web_address(url: &str) -> bool {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty())
        && url.len() <= MAX_URL
        && !url.chars().any(|c| c.is_whitespace() || c.is_control())
}

async fn submit(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    command: tenant::Command,
    raw: &[u8],
) -> Result<Response, Problem> {
    done(
        &ask.submit(app, caller, Subject::Tenant, Command::Tenant(command), raw)
            .await?,
    )
}
