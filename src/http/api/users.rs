//! `/v1/users`: what is known of a user, and changes of profile, address and existence.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::commit::Subject;
use gatelog_events::domain::consent::ConsentState;
use gatelog_events::domain::plan::PlanState;
use gatelog_events::domain::profile::Profile;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::{self, Status, User};
use gatelog_events::email::Email;
use gatelog_events::ids::UserId;
use gatelog_projections::{logins, sessions, users};
use serde::{Deserialize, Serialize};

use super::existing;
use crate::auth::api_keys::Scope;
use crate::error::{Kind, Problem, email_error};
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition, claim_commit_id, next_commit_id};
use crate::http::body::{Entries, Json};
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::{Query, UserParam};
use crate::http::reply::{Done, done, ok};
use crate::writer::{Command, WriteError};

static NO_ENTITLEMENTS: BTreeSet<String> = BTreeSet::new();

/// A user, as the read model has them.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = User)]
pub struct UserBody<'a> {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    pub email: Option<&'a str>,
    pub email_verified: bool,
    /// `active` or `disabled`.
    #[schema(value_type = String, example = "active")]
    pub status: Status,
    /// BCP 47 language tag.
    pub locale: Option<&'a str>,
    /// Fields that have a value.
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub profile: &'a Profile,
    #[schema(value_type = Option<UserPlan>)]
    pub plan: Option<&'a PlanState>,
    /// What the plan entitles to.
    #[schema(value_type = Vec<String>)]
    pub entitlements: &'a BTreeSet<String>,
    #[schema(value_type = Vec<String>)]
    pub roles: &'a BTreeSet<String>,
    /// The present choice for each purpose.
    #[schema(value_type = std::collections::HashMap<String, UserConsent>)]
    pub consents: &'a BTreeMap<String, ConsentState>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_login_at: Option<Timestamp>,
}

impl<'a> UserBody<'a> {
    /// What is shown of a user's row under a tenant's settings.
    pub fn new(
        user_id: UserId,
        user: &'a User,
        settings: &'a Settings,
        last_login_at: Option<Timestamp>,
    ) -> Self {
        let plan = user.plan.as_ref();
        let entitlements = plan
            .and_then(|p| settings.plans.get(&p.name))
            .map(|p| &p.entitlements);
        Self {
            user_id,
            email: user.email.as_ref().map(Email::typed),
            email_verified: user.email_verified,
            status: user.status,
            locale: user.locale.as_deref(),
            profile: &user.profile,
            plan,
            entitlements: entitlements.unwrap_or(&NO_ENTITLEMENTS),
            roles: &user.roles,
            consents: &user.consents,
            created_at: user.created_at,
            last_login_at,
        }
    }
}

/// The plan that a user has.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // describes PlanState, which knows nothing of OpenAPI
pub struct UserPlan {
    name: String,
    #[schema(format = DateTime)]
    since: String,
}

/// Where a purpose stands.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // describes ConsentState, which knows nothing of OpenAPI
pub struct UserConsent {
    granted: bool,
    #[schema(format = DateTime)]
    since: String,
    channel: String,
    notice: UserNotice,
    #[schema(example = "consent")]
    lawful_basis: String,
    #[schema(example = "self_service")]
    method: String,
}

/// The notice that was shown.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // describes NoticeRef, which knows nothing of OpenAPI
pub struct UserNotice {
    id: String,
    version: String,
    language: String,
}

/// One user.
#[utoipa::path(
    get, path = "/v1/users/{id}", tag = "users", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The user", body = UserBody)),
    security(("access_token" = []), ("api_key" = ["users:read"]))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersRead, id)?;
    min.reached(&app, &[users::NAME, sessions::NAME]).await?;
    let user = existing(&app, id)?;
    let settings = app.node.views.settings(app.tenant())?;
    let activity = app.node.views.activity(app.tenant(), id)?;
    ok(&UserBody::new(id, &user, &settings, activity.last_login_at))
}

/// Whom to look for.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Find {
    /// An e-mail address, in any spelling.
    pub email: String,
}

/// Users who were found.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Found<'a> {
    /// None or one.
    pub users: Vec<UserBody<'a>>,
}

/// Finds a user by e-mail address.
#[utoipa::path(
    get, path = "/v1/users", tag = "users", params(Find),
    responses((status = 200, description = "Who has this address", body = Found)),
    security(("api_key" = ["users:read"]))
)]
pub async fn find(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<Find>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.needs(Scope::UsersRead)?;
    let email = Email::parse(&query.email).map_err(|e| {
        Problem::new(Kind::InvalidQuery, "Correct the parameter named in `errors`.")
            .field("email", email_error(e))
    })?;
    min.reached(&app, &[logins::NAME, users::NAME, sessions::NAME])
        .await?;
    let views = &app.node.views;
    let digest = app.node.directory.digest(app.tenant(), &email);
    let Some(row) = views.login(app.tenant(), digest)? else {
        return ok(&Found { users: vec![] });
    };
    let user = views.user(app.tenant(), row.user)?;
    // The read models are folded one after the other: only what both agree on is shown.
    if !user.has_email(&email) {
        return ok(&Found { users: vec![] });
    }
    let settings = views.settings(app.tenant())?;
    let activity = views.activity(app.tenant(), row.user)?;
    ok(&Found {
        users: vec![UserBody::new(row.user, &user, &settings, activity.last_login_at)],
    })
}

/// Changes of a profile (RFC 7396): a value replaces, null removes, what is absent stays.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // describes what `ProfileChange` reads
pub struct ProfileChanges {
    given_name: Option<String>,
    family_name: Option<String>,
    middle_name: Option<String>,
    nickname: Option<String>,
    gender: Option<String>,
    birthdate: Option<String>,
    phone_number: Option<String>,
    street_address: Option<String>,
    locality: Option<String>,
    region: Option<String>,
    postal_code: Option<String>,
    country: Option<String>,
    zoneinfo: Option<String>,
    website: Option<String>,
    company: Option<String>,
    job_title: Option<String>,
    /// BCP 47 language tag; it can be changed and not removed.
    locale: Option<String>,
}

/// Changes a user's profile and locale.
#[utoipa::path(
    patch, path = "/v1/users/{id}/profile", tag = "users", params(("id" = Uuid, Path)),
    request_body = ProfileChanges,
    responses((status = 200, description = "The profile is changed", body = Done)),
    security(("access_token" = []), ("api_key" = ["users:write"]))
)]
pub async fn patch_profile(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
    Json { value, raw }: Json<Entries<Option<String>>>,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersWrite, id)?;
    let command = check_profile(value)?;
    done(
        &ask.submit(&app, &caller, Subject::User(id), Command::User(command), &raw)
            .await?,
    )
}

/// The command that changes say.
pub(in crate::http) fn check_profile(changes: Entries<Option<String>>) -> Result<user::Command, Problem> {
    let mut check = Check::new();
    let (locale, fields): (Vec<_>, Vec<_>) = changes.0.into_iter().partition(|(name, _)| name == "locale");
    let locale = match locale.into_iter().next() {
        Some((_, Some(locale))) => {
            check.locale("locale", &locale);
            Some(locale)
        }
        Some((_, None)) => {
            check.wrong("locale", "It can be changed and not removed.");
            None
        }
        None => None,
    };
    let changes = check.profile_patch("", Entries(fields));
    check.done()?;
    Ok(user::Command::ChangeProfile { locale, changes })
}

/// A new address.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEmail {
    #[schema(example = "ada@example.org")]
    pub email: String,
}

impl NewEmail {
    pub(in crate::http) fn check(&self) -> Result<Email, Problem> {
        let mut check = Check::new();
        let email = check.email("email", &self.email);
        check.done()?;
        email.ok_or_else(|| Problem::invalid(vec![]))
    }
}

/// Changes a user's e-mail address. It is not verified then.
#[utoipa::path(
    put, path = "/v1/users/{id}/email", tag = "users", params(("id" = Uuid, Path)), request_body = NewEmail,
    responses((status = 200, description = "The address is changed", body = Done)),
    security(("access_token" = []), ("api_key" = ["users:write"]))
)]
pub async fn put_email(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
    Json { value, raw }: Json<NewEmail>,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersWrite, id)?;
    let email = value.check()?;
    if caller.is_user() {
        let now = clock::now();
        app.node.network_limits.check(ask.network(), now)?;
        // Each address that is claimed is nobody else's for a while, as by a registration.
        app.registrations.admit(ask.network(), now)?;
    }
    let user = existing(&app, id)?;
    let result = change_email(&app, &caller, &ask, id, &user, email, &raw).await;
    if caller.is_user() && result.as_ref().is_err_and(|p| p.kind() == Kind::AddressTaken) {
        app.node.network_limits.failed(ask.network(), clock::now());
    }
    result
}

/// Claims the address in its own partition, then attaches it in the user's. A claim that is left behind expires.
async fn change_email(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    id: UserId,
    user: &User,
    email: Email,
    raw: &[u8],
) -> Result<Response, Problem> {
    let digest = app.node.directory.digest(app.tenant(), &email);
    let holder = app.node.views.login(app.tenant(), digest)?;
    if holder.is_some_and(|row| row.user != id) {
        return Err(user::Rejection::AddressTaken.into());
    }
    let subject = Subject::User(id);
    let mut claimed = None;
    if !user.has_email(&email) {
        let mut request = ask.request(app, Some(caller), subject, Command::Claim(email.clone()), raw);
        if let Some(idempotency) = &mut request.idempotency {
            // A claim that was made long ago has expired, so that a retry must not get its answer.
            idempotency.commit_id = claim_commit_id(app, idempotency.commit_id, clock::now());
        }
        let outcome = app.node.router.submit(request).await?;
        claimed = Some(outcome.answer.position());
    }
    let command = Command::User(user::Command::ChangeEmail { email });
    let mut request = ask.request(app, Some(caller), subject, command, raw);
    request.after = claimed;
    if let Some(idempotency) = &mut request.idempotency {
        idempotency.commit_id = next_commit_id(app, idempotency.commit_id);
    }
    let outcome = app
        .node
        .router
        .submit(request)
        .await
        .map_err(|e: WriteError| Problem::from(e))?;
    done(&outcome)
}

/// Erases a user: their key is destroyed, their read models are purged. The log keeps its order and says nothing more
/// about the person.
#[utoipa::path(
    delete, path = "/v1/users/{id}", tag = "users", params(("id" = Uuid, Path)),
    responses((status = 200, description = "The user is erased", body = Done)),
    security(("access_token" = []), ("api_key" = ["users:erase"]))
)]
pub async fn erase(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersErase, id)?;
    let command = user::Command::Erase { reason: None };
    done(
        &ask.submit(&app, &caller, Subject::User(id), Command::User(command), &[])
            .await?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::domain::consent::{LawfulBasis, Method, NoticeRef};
    use gatelog_events::domain::tenant::Plan;
    use serde_json::json;

    /// The contract that clients rely on.
    #[test]
    fn a_user_has_the_form_of_the_contract() {
        let since = Timestamp::from_millis(1_795_000_000_000);
        let consent = ConsentState {
            granted: true,
            since,
            channel: "email".into(),
            notice: NoticeRef {
                id: "n".into(),
                version: "1".into(),
                language: "de".into(),
            },
            lawful_basis: LawfulBasis::Consent,
            method: Method::SelfService,
        };
        let user = User {
            version: 3,
            created_at: since,
            email: Some(Email::parse("Ada@Example.com").unwrap()),
            plan: Some(PlanState {
                name: "pro".into(),
                since,
            }),
            consents: [("newsletter".to_owned(), consent)].into(),
            ..User::default()
        };
        let mut settings = Settings::default();
        settings.plans.insert(
            "pro".into(),
            Plan {
                rank: 1,
                entitlements: ["export".to_owned()].into(),
            },
        );
        let id = UserId(uuid::Uuid::from_u128(7));
        let shown = serde_json::to_value(UserBody::new(id, &user, &settings, None)).unwrap();
        let time = "2026-11-18T11:06:40.000Z";
        let expected = json!({
            "user_id": "00000000-0000-0000-0000-000000000007",
            "email": "Ada@Example.com",
            "email_verified": false,
            "status": "active",
            "locale": null,
            "profile": {},
            "plan": {"name": "pro", "since": time},
            "entitlements": ["export"],
            "roles": [],
            "consents": {"newsletter": {
                "granted": true, "since": time, "channel": "email",
                "notice": {"id": "n", "version": "1", "language": "de"},
                "lawful_basis": "consent", "method": "self_service",
            }},
            "created_at": time,
            "last_login_at": null,
        });
        assert_eq!(shown, expected);
    }
}
