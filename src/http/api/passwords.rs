//! `PUT /v1/users/{id}/password`, and how a given password is checked.

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::directory::Digest;
use gatelog_events::domain::profile::ProfileField;
use gatelog_events::domain::user::{self, PasswordReason, User};
use gatelog_events::ids::UserId;
use gatelog_projections::logins::{self, LoginRow};
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::existing;
use crate::auth::Password;
use crate::auth::api_keys::Scope;
use crate::auth::policy::{self, Context};
use crate::auth::pool::Verified;
use crate::auth::throttle::Key;
use crate::error::{Kind, Problem, wrong_password};
use crate::http::app::App;
use crate::http::ask::{Ask, behind, caught_up};
use crate::http::body::{Json, SecretText};
use crate::http::caller::Caller;
use crate::http::params::UserParam;
use crate::http::reply::{Done, done};
use crate::writer::Command;

/// A password that somebody gave to prove who they are.
pub struct Given {
    /// As our own hashes have it.
    pub normal: Password,
    /// As typed, where that differs: other systems hashed it like this.
    typed: Option<Password>,
}

impl Given {
    /// Bounds its length before anything is hashed.
    pub fn new(text: &SecretText) -> Result<Self, Problem> {
        let normal = policy::normalise(text.expose())?;
        let differs = normal.expose_secret() != text.expose();
        let typed = differs.then(|| text.expose().to_owned().into());
        Ok(Self { normal, typed })
    }

    /// Whether it is the password of `row`. Takes the same work whether or not there is such a user or password.
    pub async fn verify(&self, app: &App, row: Option<&LoginRow>) -> Result<Verified, Problem> {
        let stored = row.and_then(|r| r.password_hash.as_deref());
        let verified = verify(app, &self.normal, stored).await?;
        match &self.typed {
            Some(typed) if !verified.ok => {
                let verified = verify(app, typed, stored).await?;
                // What was hashed as typed is to be hashed as normalised.
                Ok(Verified {
                    needs_rehash: verified.ok,
                    ..verified
                })
            }
            _ => Ok(verified),
        }
    }
}

async fn verify(app: &App, password: &Password, stored: Option<&str>) -> Result<Verified, Problem> {
    match stored {
        Some(stored) => Ok(app.node.passwords.verify(password.clone(), stored).await?),
        None => {
            app.node.passwords.verify_dummy(password.clone()).await?;
            Ok(Verified {
                ok: false,
                needs_rehash: false,
            })
        }
    }
}

/// A new password.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    #[schema(value_type = String, format = Password)]
    pub password: SecretText,
    /// Required with a user's own access token.
    #[schema(value_type = Option<String>, format = Password)]
    pub current_password: Option<SecretText>,
}

/// Sets a new password and ends all sessions of the user.
///
/// Users give their present password too; API keys with `users:write` need not.
#[utoipa::path(
    put, path = "/v1/users/{id}/password", tag = "users", request_body = NewPassword,
    params(("id" = uuid::Uuid, Path)),
    responses((status = 200, description = "The password is set", body = Done)),
    security(("access_token" = []), ("api_key" = ["users:write"]))
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    UserParam(id): UserParam,
    ask: Ask,
    Json { value, raw }: Json<NewPassword>,
) -> Result<Response, Problem> {
    caller.may(Scope::UsersWrite, id)?;
    let knows_all = !caller.is_user() || caught_up(&app, logins::NAME, id.shard()).await?;
    let user = existing(&app, id)?;
    let digest = user
        .email
        .as_ref()
        .map(|e| app.node.directory.digest(app.tenant(), e));
    let password = app
        .node
        .config
        .password_policy
        .check(value.password.expose(), &context(&user))?;
    let (reason, instead_of) = if caller.is_user() {
        let current = value.current_password.as_ref().ok_or_else(|| {
            Problem::invalid(vec![]).field("current_password", "It is required to change one's own password.")
        })?;
        let proved = match prove(&app, id, digest, current).await {
            Err(e) if !knows_all && e.kind() == Kind::WrongPassword => return Err(behind().into()),
            proved => proved?,
        };
        // Whoever writes may know of a newer one, of which this one proves nothing.
        (PasswordReason::Changed, Some(proved))
    } else {
        (PasswordReason::Reset, None)
    };
    let hash = app.node.passwords.hash(password).await?;
    let command = user::Command::SetPassword {
        hash: hash.as_str().to_owned(),
        reason,
        instead_of,
    };
    let outcome = ask
        .submit(&app, &caller, Subject::User(id), Command::User(command), &raw)
        .await?;
    if let Some(digest) = digest {
        app.node.account_limits.succeeded(Key::Identifier(digest.0));
    }
    done(&outcome)
}

fn context(user: &User) -> Context<'_> {
    let word = |field| user.profile.0.get(&field).map_or("", String::as_str);
    Context {
        service: "gatelog",
        email: user.email.as_ref().map_or("", |e| e.typed()),
        given_name: word(ProfileField::GivenName),
        family_name: word(ProfileField::FamilyName),
    }
}

/// Checks the present password, with the limits of a login, and says which version of the credential it is.
async fn prove(app: &App, id: UserId, digest: Option<Digest>, current: &SecretText) -> Result<u32, Problem> {
    let given = Given::new(current).map_err(|_| wrong_password())?;
    let Some(digest) = digest else {
        return Err(wrong_password());
    };
    let key = Key::Identifier(digest.0);
    app.node.account_limits.admit(key, clock::now())?;
    let row = app.node.views.login(app.tenant(), digest)?;
    let row = row.filter(|row| row.user == id);
    match (given.verify(app, row.as_ref()).await, row) {
        (Ok(verified), Some(row)) if verified.ok => Ok(row.credential_version),
        (Ok(_), _) => Err(wrong_password()),
        (Err(e), _) => {
            app.node.account_limits.forgive(key, clock::now());
            Err(e)
        }
    }
}
