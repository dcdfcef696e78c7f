//! `POST /v1/registrations`.

use std::collections::{BTreeSet, HashSet};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::domain::consent::Method;
use gatelog_events::domain::profile::ProfileField;
use gatelog_events::domain::session::Client;
use gatelog_events::domain::user::{self, Origin, Register};
use gatelog_events::domain::{self, Rejection};
use gatelog_events::email::Email;
use gatelog_events::ids::{Stream, UserId};
use gatelog_events::seal::SubjectKey;
use gatelog_projections::subject_keys::NewKey;
use serde::{Deserialize, Serialize};

use super::{Choice, LawfulBasisInput, NoticeInput, partition_of};
use crate::auth::api_keys::Scope;
use crate::auth::policy::{Context, Policy};
use crate::auth::{Password, random};
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::{Ask, in_time, reachable, was_answered};
use crate::http::body::{Entries, Json, SecretText};
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::reply::written;
use crate::http::shape::{Object, Word};
use crate::writer::{Command, Outcome, WriteError};

/// A new account.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    #[schema(example = "ada@example.com")]
    pub email: String,
    #[schema(value_type = String, format = Password)]
    pub password: SecretText,
    /// BCP 47 language tag.
    pub locale: Option<String>,
    /// Fields of the profile; see PATCH /v1/users/{id}/profile.
    #[serde(default)]
    #[schema(value_type = std::collections::HashMap<String, String>)]
    pub profile: Entries<String>,
    /// A plan of the catalogue; its lowest if absent. A visitor can name no other.
    pub plan: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<RegistrationConsent>)]
    pub consents: Vec<Object<RegistrationConsent>>,
}

/// A choice that was made on the form.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistrationConsent {
    #[schema(example = "newsletter")]
    pub purpose: String,
    /// Means of contact.
    #[schema(example = "email")]
    pub channel: String,
    pub granted: bool,
    #[schema(value_type = NoticeInput)]
    pub notice: Object<NoticeInput>,
    #[schema(value_type = Option<LawfulBasisInput>)]
    pub lawful_basis: Option<Word<LawfulBasisInput>>,
    /// What else shows that it was this person's choice.
    pub note: Option<String>,
}

/// The account that was made.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Registered {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: gatelog_events::ids::Position,
}

/// A registration of which everything is checked that can be without the log.
pub(in crate::http) struct Checked {
    /// Still without a hash.
    register: Register,
    password: Password,
}

/// Creates an account.
///
/// Open to visitors, within limits per network, and to API keys with `registrations:write`.
#[utoipa::path(
    post, path = "/v1/registrations", tag = "registrations", request_body = Registration,
    responses((status = 201, description = "The account exists and can log in", body = Registered)),
    security((), ("api_key" = ["registrations:write"]))
)]
pub async fn register(
    State(app): State<App>,
    caller: Option<Caller>,
    ask: Ask,
    Json { value, raw }: Json<Registration>,
) -> Result<Response, Problem> {
    if let Some(caller) = &caller {
        caller.needs(Scope::RegistrationsWrite)?;
    }
    let visitor = caller.is_none();
    if visitor {
        let now = clock::now();
        app.node.network_limits.check(ask.network(), now)?;
        app.registrations.admit(ask.network(), now)?;
    }
    let Checked {
        mut register,
        password,
    } = check(value, &app.node.config.password_policy, &ask.client(), visitor)?;
    let email = register.email.clone();
    let shard = app.node.directory.shard(app.tenant(), &email);
    let user = UserId::new(clock::now(), shard, random()?);

    // The writer decides. This spares it, the hash pool and the store of keys what is lost already.
    decide_ahead(&app, &register, visitor)?;
    if is_taken(&app, &email)? && !is_retry(&app, &ask, caller.as_ref(), user)? {
        return Err(taken(&app, &ask, visitor));
    }
    reachable(&app)?;
    let hash = app.node.passwords.hash(password).await?;
    register.password_hash = Some(hash.as_str().to_owned());
    let command = user::Command::Register(register);
    let request = ask.request(
        &app,
        caller.as_ref(),
        Subject::User(user),
        Command::User(command),
        &raw,
    );
    let outcome = in_time(&app, async {
        store_key(&app, user).await?;
        app.node.router.submit(request).await
    })
    .await;
    if !is_of(&outcome, user) {
        destroy_key(&app, user).await;
    }
    match outcome {
        Ok(outcome) => {
            let position = outcome.answer.position();
            let user_id = outcome.answer.user.unwrap_or(user);
            written(StatusCode::CREATED, position, &Registered { user_id, position })
        }
        Err(WriteError::Rejected(Rejection::User(user::Rejection::AddressTaken))) => {
            Err(taken(&app, &ask, visitor))
        }
        Err(e) => Err(e.into()),
    }
}

/// Everything that can be told from the body alone.
pub(in crate::http) fn check(
    body: Registration,
    policy: &Policy,
    client: &Client,
    visitor: bool,
) -> Result<Checked, Problem> {
    let mut check = Check::new();
    let email = check.email("email", &body.email);
    if let Some(locale) = &body.locale {
        check.locale("locale", locale);
    }
    if let Some(plan) = &body.plan {
        check.name("plan", plan);
    }
    let profile = check.profile("profile.", body.profile);
    let mut purposes = HashSet::new();
    let mut consents = Vec::with_capacity(body.consents.len());
    for (i, Object(c)) in body.consents.into_iter().enumerate() {
        if !purposes.insert(c.purpose.clone()) {
            check.wrong(
                format!("consents[{i}].purpose"),
                "It occurs twice. Make one choice for each purpose.",
            );
        }
        let choice = Choice {
            purpose: c.purpose,
            granted: c.granted,
            channel: c.channel,
            notice: c.notice.0,
            lawful_basis: c.lawful_basis.map(|Word(basis)| basis),
            note: c.note,
        };
        consents.push(choice.check(
            &mut check,
            &format!("consents[{i}]."),
            Method::RegistrationForm,
            client,
        ));
    }
    check.done()?;
    let Some(email) = email else {
        return Err(Problem::invalid(vec![]));
    };
    let word = |field| profile.0.get(&field).map_or("", String::as_str);
    let context = Context {
        service: "gatelog",
        email: email.typed(),
        given_name: word(ProfileField::GivenName),
        family_name: word(ProfileField::FamilyName),
    };
    let password = policy.check(body.password.expose(), &context)?;
    let register = Register {
        origin: if visitor { Origin::SelfService } else { Origin::Api },
        email,
        password_hash: None,
        email_verified: false,
        locale: body.locale,
        profile,
        plan: body.plan,
        roles: BTreeSet::new(),
        consents,
        disabled: false,
    };
    Ok(Checked { register, password })
}

/// Whether the plan and the consents are acceptable, by the settings as they are now.
fn decide_ahead(app: &App, register: &Register, visitor: bool) -> Result<(), Problem> {
    let settings = app.node.views.settings(app.tenant())?;
    if settings.version == 0 {
        return Err(WriteError::Unavailable {
            reason: "the tenant's settings are not known here yet".to_owned(),
        }
        .into());
    }
    let context = domain::Context {
        now: clock::now(),
        settings: &settings,
    };
    let command = user::Command::Register(register.clone());
    user::decide(&user::User::default(), true, command, &context)?;
    let default = settings.default_plan();
    match &register.plan {
        // What a plan entitles to is not for the taking.
        Some(plan) if visitor && plan != default => {
            let only = format!(
                "Leave it out, or name {default}: for another plan an API key with registrations:write registers."
            );
            let mut check = Check::new();
            check.wrong("plan", only);
            check.done()
        }
        _ => Ok(()),
    }
}

fn is_taken(app: &App, email: &Email) -> Result<bool, Problem> {
    let digest = app.node.directory.digest(app.tenant(), email);
    Ok(app.node.views.login(app.tenant(), digest)?.is_some())
}

/// Whether this may be a request that succeeded before, of which the writer knows the answer.
fn is_retry(app: &App, ask: &Ask, caller: Option<&Caller>, user: UserId) -> Result<bool, Problem> {
    match ask.commit_id(app, caller) {
        Some(id) => was_answered(app, Stream::Identity, partition_of(app, user), id),
        None => Ok(false),
    }
}

/// Whoever tries out which addresses are taken is slowed down.
fn taken(app: &App, ask: &Ask, visitor: bool) -> Problem {
    if visitor {
        app.node.network_limits.failed(ask.network(), clock::now());
    }
    user::Rejection::AddressTaken.into()
}

/// Whether the new user's key may be in use. Where the outcome is not known it must stay.
fn is_of(outcome: &Result<Outcome, WriteError>, user: UserId) -> bool {
    match outcome {
        Ok(outcome) => outcome.answer.user == Some(user),
        Err(WriteError::Unavailable { .. } | WriteError::Internal(_)) => true,
        Err(
            WriteError::Rejected(_)
            | WriteError::KeyReused
            | WriteError::Overloaded { .. }
            | WriteError::NotOwner { .. }
            | WriteError::TooLarge { .. },
        ) => false,
    }
}

/// The key must be durable before the first event that is sealed under it.
async fn store_key(app: &App, user: UserId) -> Result<(), WriteError> {
    let internal = |e: &dyn std::error::Error| WriteError::Internal(e.to_string());
    let key = NewKey {
        tenant: app.tenant().clone(),
        subject: user,
        key: SubjectKey::new(random().map_err(|e| internal(&e))?),
        nonce: random().map_err(|e| internal(&e))?,
    };
    let keys = app.node.keys.clone();
    let put = tokio::task::spawn_blocking(move || keys.put(&[key])).await;
    put.map_err(|e| internal(&e))?
        .map_err(|e| WriteError::Unavailable {
            reason: format!("the key was not stored: {e}"),
        })
}

/// A key that nothing was sealed under says nothing, so a failure to destroy it is only logged.
async fn destroy_key(app: &App, user: UserId) {
    let (keys, tenant) = (app.node.keys.clone(), app.tenant().clone());
    match tokio::task::spawn_blocking(move || keys.destroy(&tenant, user)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(%e, "an unused subject key was not destroyed"),
        Err(e) => tracing::warn!(%e, "an unused subject key was not destroyed"),
    }
}
