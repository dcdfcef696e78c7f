//! Who calls, and what they may do.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use gatelog_events::clock;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::{Actor, user};
use gatelog_events::ids::{ApiKeyId, SessionId, UserId};
use gatelog_projections::{sessions, settings, users};
use subtle::ConstantTimeEq;

use super::app::App;
use super::ask::{MinPosition, behind, caught_up};
use crate::auth::api_keys::{ONE_FEED, Presented, Scope};
use crate::auth::tokens::AccessClaims;
use crate::error::{Kind, Problem, invalid_token};

/// Who calls.
#[derive(Clone)]
pub enum Caller {
    /// The operator, by the key for first set-up.
    Bootstrap,
    /// A system.
    ApiKey { id: ApiKeyId, settings: Arc<Settings> },
    /// A user who is signed in.
    User { user: UserId, session: SessionId },
}

impl Caller {
    /// Who the log says did it.
    pub fn actor(&self) -> Actor {
        match self {
            Caller::Bootstrap => Actor::System,
            Caller::ApiKey { id, .. } => Actor::ApiKey(*id),
            Caller::User { user, .. } => Actor::User(*user),
        }
    }

    /// Whether an API key has a scope. Users have none.
    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Caller::Bootstrap => true,
            Caller::ApiKey { id, settings } => settings.api_keys.get(id).is_some_and(|key| {
                key.scopes.contains(scope.name()) || key.scopes.contains(Scope::All.name())
            }),
            Caller::User { .. } => false,
        }
    }

    /// Only for API keys that have the scope.
    pub fn needs(&self, scope: Scope) -> Result<(), Problem> {
        match self {
            Caller::User { .. } => Err(Problem::new(
                Kind::NotPermitted,
                "This needs an API key; a user's access token gives access to the user's own data only.",
            )),
            _ if self.has(scope) => Ok(()),
            _ => Err(Problem::missing_scope(scope.name())),
        }
    }

    /// For the user themselves, and for API keys that have the scope. Somebody else's id is answered like an unknown one.
    pub fn may(&self, scope: Scope, on: UserId) -> Result<(), Problem> {
        match self {
            Caller::User { user, .. } if *user == on => Ok(()),
            Caller::User { .. } => Err(user::Rejection::NotFound.into()),
            _ => self.needs(scope),
        }
    }

    /// Only for API keys that may follow this feed.
    pub fn follows(&self, feed: &str) -> Result<(), Problem> {
        if let Caller::ApiKey { id, settings } = self
            && let Some(key) = settings.api_keys.get(id)
            && key.scopes.contains(&format!("{ONE_FEED}{feed}"))
        {
            return Ok(());
        }
        self.needs(Scope::FeedsRead)
    }

    /// For those who stay: refuses an API key that was revoked since.
    pub fn is_still(&self, settings: &Settings) -> Result<(), Problem> {
        match self {
            Caller::ApiKey { id, .. } if settings.api_keys.get(id).is_none_or(|k| k.revoked_at.is_some()) => {
                Err(invalid_token())
            }
            _ => Ok(()),
        }
    }

    /// Whether it is the user's own token.
    pub fn is_user(&self) -> bool {
        matches!(self, Caller::User { .. })
    }

    /// A name that no other caller has, for idempotency keys.
    pub(super) fn identity(&self) -> (&'static str, [u8; 16]) {
        match self {
            Caller::Bootstrap => ("bootstrap", [0; 16]),
            Caller::ApiKey { id, .. } => ("api-key", *id.as_bytes()),
            Caller::User { user, .. } => ("user", *user.as_bytes()),
        }
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = <Caller as OptionalFromRequestParts<App>>::from_request_parts(parts, app).await?;
        caller.ok_or_else(|| {
            Problem::new(
                Kind::MissingToken,
                "Send `Authorization: Bearer` with an access token (POST /v1/logins gives one) or an API key.",
            )
        })
    }
}

impl OptionalFromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Option<Self>, Problem> {
        let mut values = parts.headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let token = value.to_str().ok().and_then(bearer).ok_or_else(invalid_token)?;
        if values.next().is_some() {
            return Err(invalid_token());
        }
        let min = MinPosition::of(&parts.headers)?;
        // What will never be good is not waited for.
        let credential = read(app, token)?;
        // Who was shut out, or let in, by what the caller has seen is so here as well.
        min.reached(app, &[users::NAME, sessions::NAME, settings::NAME])
            .await?;
        identify(app, credential).await.map(Some)
    }
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// What a caller shows, as far as it is good whatever was written since.
enum Credential {
    Bootstrap,
    ApiKey(Presented),
    Token(Arc<AccessClaims>),
}

fn read(app: &App, token: &str) -> Result<Credential, Problem> {
    if is_bootstrap(app, token) {
        return Ok(Credential::Bootstrap);
    }
    Ok(match Presented::parse(token) {
        Some(presented) => Credential::ApiKey(presented),
        None => Credential::Token(app.node.tokens.verify(token, clock::now())?),
    })
}

async fn identify(app: &App, credential: Credential) -> Result<Caller, Problem> {
    match credential {
        Credential::Bootstrap => Ok(Caller::Bootstrap),
        Credential::ApiKey(presented) => by_api_key(app, &presented),
        Credential::Token(claims) => by_access_token(app, &claims).await,
    }
}

fn by_api_key(app: &App, presented: &Presented) -> Result<Caller, Problem> {
    let settings = app.node.views.settings(app.tenant())?;
    // A node that has not read of any keys does not say of one that there is none.
    if settings.version == 0 {
        return Err(behind().into());
    }
    let known = settings
        .api_keys
        .get(&presented.id)
        .is_some_and(|key| presented.matches(&key.secret_sha256) && key.revoked_at.is_none());
    match known {
        true => Ok(Caller::ApiKey {
            id: presented.id,
            settings,
        }),
        false => Err(invalid_token()),
    }
}

/// Compares hashes, so that neither content nor length of the key shows in the time it takes.
fn is_bootstrap(app: &App, token: &str) -> bool {
    app.bootstrap.as_ref().is_some_and(|expected| {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        expected.as_ref().ct_eq(hash.as_ref()).into()
    })
}

async fn by_access_token(app: &App, claims: &AccessClaims) -> Result<Caller, Problem> {
    let now = clock::now();
    // It may have expired while what the caller has seen was waited for.
    app.node.tokens.check(claims, now)?;
    if claims.tenant != *app.tenant() {
        return Err(invalid_token());
    }
    let mut user = app.node.views.user(app.tenant(), claims.sub)?;
    if user.version == 0 {
        // Who has a token of ours was registered; on another node perhaps, and a moment ago.
        let caught_up = caught_up(app, users::NAME, claims.sub.shard()).await?;
        user = app.node.views.user(app.tenant(), claims.sub)?;
        if user.version == 0 && !caught_up {
            return Err(behind().into());
        }
    }
    if !user.may_sign_in() {
        return Err(invalid_token());
    }
    // A session that is not known here (any more) does not make its token worthless; one that has ended does.
    let session = app.node.views.session(app.tenant(), claims.sub, claims.sid)?;
    let policy = &app.node.config.session;
    if session.is_some_and(|s| !s.is_live(user.credential_version, policy, now)) {
        return Err(invalid_token());
    }
    Ok(Caller::User {
        user: claims.sub,
        session: claims.sid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("BEARER a.b.c", Some("a.b.c")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("abc", None),
        ] {
            assert_eq!(bearer(value), token, "{value}");
        }
    }

    #[test]
    fn api_keys_may_what_their_scopes_say() {
        let id = ApiKeyId(uuid::Uuid::from_u128(1));
        let caller = |scopes: &[&str]| {
            let mut settings = Settings::default();
            let key = gatelog_events::domain::tenant::ApiKey {
                name: "k".into(),
                scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
                secret_sha256: String::new(),
                created_at: gatelog_events::clock::Timestamp::EPOCH,
                revoked_at: None,
            };
            settings.api_keys.insert(id, key);
            Caller::ApiKey {
                id,
                settings: Arc::new(settings),
            }
        };
        let user = UserId(uuid::Uuid::from_u128(2));
        assert!(caller(&["users:read"]).may(Scope::UsersRead, user).is_ok());
        assert!(caller(&["*"]).may(Scope::UsersErase, user).is_ok());
        let refused = caller(&["users:read"]).may(Scope::UsersWrite, user).unwrap_err();
        assert_eq!(refused.kind(), Kind::MissingScope);
    }

    #[test]
    fn users_reach_their_own_data_only() {
        let (own, other) = (UserId(uuid::Uuid::from_u128(1)), UserId(uuid::Uuid::from_u128(2)));
        let caller = Caller::User {
            user: own,
            session: SessionId(uuid::Uuid::from_u128(3)),
        };
        assert!(caller.may(Scope::UsersRead, own).is_ok());
        assert_eq!(
            caller.may(Scope::UsersRead, other).unwrap_err().kind(),
            Kind::UserNotFound
        );
        assert_eq!(
            caller.needs(Scope::PlansWrite).unwrap_err().kind(),
            Kind::NotPermitted
        );
    }
}
