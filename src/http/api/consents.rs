//! `/v1/users/{id}/consents`: the ledger, and choices.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::consent::{ConsentState, LawfulBasis, Method, NoticeRef, SetConsent};
use gatelog_events::domain::session::Client;
use gatelog_events::domain::user;
use gatelog_events::ids::{EventId, Position, UserId};
use gatelog_projections::consents::Entry;
use gatelog_projections::{consents, users};
use serde::{Deserialize, Serialize};

use super::users::{UserConsent, UserNotice};
use super::{ActorBody, Choice, LawfulBasisInput, NoticeInput, existing};
use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::cursor::{self, List, PageQuery};
use crate::http::params::{Query, UserAnd, UserParam};
use crate::http::reply::{ok, written};
use crate::http::shape::{Object, Word};
use crate::writer::Command;

const ROUTE: &str = "consents";

/// What a user consented to.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Ledger<'a> {
    /// The present choice for each purpose.
    #[schema(value_type = std::collections::HashMap<String, UserConsent>)]
    pub consents: &'a BTreeMap<String, ConsentState>,
    /// Every choice that was made, oldest first.
    pub history: Vec<LedgerEntry>,
    /// Cursor of the next page; null at the end.
    pub next: Option<String>,
}

/// One choice, with what shows it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct LedgerEntry {
    #[schema(value_type = Uuid)]
    pub id: EventId,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
    pub purpose: String,
    pub granted: bool,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub channel: String,
    #[schema(value_type = UserNotice)]
    pub notice: NoticeRef,
    #[schema(value_type = String, example = "consent")]
    pub lawful_basis: LawfulBasis,
    #[schema(value_type = String, example = "self_service")]
    pub method: Method,
    pub actor: ActorBody,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub note: Option<String>,
}

impl From<Entry> for LedgerEntry {
    fn from(e: Entry) -> Self {
        Self {
            id: e.event,
            position: e.position(),
            actor: (&e.actor).into(),
            purpose: e.purpose,
            granted: e.granted,
            time: e.time,
            channel: e.channel,
            notice: e.notice,
            lawful_basis: e.lawful_basis,
            method: e.method,
            ip: e.ip,
            user_agent: e.user_agent,
            note: e.note,
        }
    }
}

/// A user's consents, with their history.
#[utoipa::path(
    get, path = "/v1/users/{id}/consents", tag = "consents", params(("id" = Uuid, Path), PageQuery),
    responses((status = 200, description = "Present consents and a page of the ledger", body = Ledger)),
    security(("access_token" = []), ("api_key" = ["users:read"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    Query(page): Query<PageQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersRead, id)?;
    let list = List {
        route: ROUTE,
        owner: id.as_bytes(),
    };
    let (limit, after) = (page.limit()?, page.after(&app, list)?);
    min.reached(&app, &[users::NAME, consents::NAME]).await?;
    let user = existing(&app, id)?;
    let mut rows = app
        .node
        .views
        .consents(app.tenant(), id, after.as_deref(), limit + 1)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|(key, _)| cursor::issue(&app, list, key));
    let history = rows.into_iter().map(|(_, entry)| entry.into()).collect();
    ok(&Ledger {
        consents: &user.consents,
        history,
        next,
    })
}

/// A choice.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsentInput {
    /// True grants, false withdraws.
    pub granted: bool,
    /// Means of contact.
    #[schema(example = "email")]
    pub channel: String,
    #[schema(value_type = NoticeInput)]
    pub notice: Object<NoticeInput>,
    #[schema(value_type = Option<LawfulBasisInput>)]
    pub lawful_basis: Option<Word<LawfulBasisInput>>,
    /// What else shows that it was this person's choice.
    pub note: Option<String>,
}

impl ConsentInput {
    /// What is to be recorded of it.
    pub(in crate::http) fn check(
        self,
        purpose: String,
        method: Method,
        client: &Client,
    ) -> Result<SetConsent, Problem> {
        let choice = Choice {
            purpose,
            granted: self.granted,
            channel: self.channel,
            notice: self.notice.0,
            lawful_basis: self.lawful_basis.map(|Word(basis)| basis),
            note: self.note,
        };
        let mut check = Check::new();
        let wish = choice.check(&mut check, "", method, client);
        check.done()?;
        Ok(wish)
    }
}

/// A choice that stands.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ConsentSet {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    pub purpose: String,
    pub granted: bool,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
}

/// Grants or withdraws a consent. The same choice again changes nothing.
#[utoipa::path(
    put, path = "/v1/users/{id}/consents/{purpose}", tag = "consents", request_body = ConsentInput,
    params(("id" = Uuid, Path), ("purpose" = String, Path)),
    responses((status = 200, description = "The choice stands", body = ConsentSet)),
    security(("access_token" = []), ("api_key" = ["consents:write"]))
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    UserAnd(id, purpose): UserAnd,
    ask: Ask,
    Json { value, raw }: Json<ConsentInput>,
) -> Result<Response, Problem> {
    caller.may(Scope::ConsentsWrite, id)?;
    let method = if caller.is_user() {
        Method::SelfService
    } else {
        Method::Recorded
    };
    let granted = value.granted;
    let wish = value.check(purpose.clone(), method, &ask.client())?;
    let command = Command::User(user::Command::SetConsent(wish));
    let outcome = ask
        .submit(&app, &caller, Subject::User(id), command, &raw)
        .await?;
    let position = outcome.answer.position();
    written(
        StatusCode::OK,
        position,
        &ConsentSet {
            user_id: id,
            purpose,
            granted,
            position,
        },
    )
}
