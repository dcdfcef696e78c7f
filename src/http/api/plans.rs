//! `PUT /v1/users/{id}/plan`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::commit::Subject;
use gatelog_events::domain::plan::{ChangePlan, Intent};
use gatelog_events::domain::user;
use gatelog_events::ids::{Position, UserId};
use serde::{Deserialize, Serialize};

use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::Ask;
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::UserParam;
use crate::http::reply::written;
use crate::http::shape::Word;
use crate::writer::Command;

/// A change of plan.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    /// A plan of the catalogue.
    #[schema(example = "pro")]
    pub plan: String,
    pub reason: Option<String>,
    /// Where the change comes from, such as `billing` or `support`; `api` if absent.
    pub source: Option<String>,
    /// What it is where the plans' ranks cannot tell: the paid plan is given up, or goes on for another term.
    #[schema(value_type = Option<IntentInput>)]
    pub intent: Option<Word<IntentInput>>,
    /// Since when it counts (RFC 3339); not in the future. Now if absent.
    #[schema(format = DateTime)]
    pub effective_at: Option<String>,
}

impl PlanInput {
    /// The change that it wishes for.
    pub(in crate::http) fn check(self) -> Result<ChangePlan, Problem> {
        let mut check = Check::new();
        check.name("plan", &self.plan);
        check.optional_text("reason", self.reason.as_ref());
        if let Some(source) = &self.source {
            check.name("source", source);
        }
        let effective_at = self.effective_at.map(|t| t.parse());
        if let Some(Err(_)) = &effective_at {
            check.wrong(
                "effective_at",
                "It must be a date and time (RFC 3339), such as 2026-11-24T10:15:00Z.",
            );
        }
        check.done()?;
        Ok(ChangePlan {
            to: self.plan,
            intent: self.intent.map(|Word(intent)| match intent {
                IntentInput::Cancel => Intent::Cancel,
                IntentInput::Renew => Intent::Renew,
            }),
            effective_at: effective_at.and_then(Result::ok),
            source: self.source.unwrap_or_else(|| "api".to_owned()),
            reason: self.reason,
        })
    }
}

/// See [`PlanInput`].
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IntentInput {
    Cancel,
    Renew,
}

/// The plan that the user has now.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PlanSet {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    pub plan: String,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
}

/// Changes a user's plan. The plan that the user has already changes nothing, unless it is renewed.
#[utoipa::path(
    put, path = "/v1/users/{id}/plan", tag = "plans", params(("id" = Uuid, Path)), request_body = PlanInput,
    responses((status = 200, description = "The user has the plan", body = PlanSet)),
    security(("api_key" = ["plans:write"]))
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
    Json { value, raw }: Json<PlanInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::PlansWrite)?;
    let wish = value.check()?;
    let plan = wish.to.clone();
    let command = Command::User(user::Command::ChangePlan(wish));
    let outcome = ask
        .submit(&app, &caller, Subject::User(id), command, &raw)
        .await?;
    let position = outcome.answer.position();
    written(
        StatusCode::OK,
        position,
        &PlanSet {
            user_id: id,
            plan,
            position,
        },
    )
}
