//! The one place that turns what goes wrong into what callers see: problem details (RFC 9457).
//!
//! Every problem has a stable `type`, a sentence that says what to do, and the fields that are wrong. None repeats what
//! was sent, and none says what went wrong inside: that is logged, under the request's id. Which error becomes which
//! problem stands in `mapping`.

mod mapping;

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use gatelog_events::domain::profile::InvalidValue;
use gatelog_events::email::InvalidEmail;
use serde::Serialize;
use serde_json::{Map, Value};

pub use mapping::{invalid_credentials, invalid_token, wrong_password};

macro_rules! kinds {
    ($($name:ident = $status:ident $slug:literal $title:literal,)+) => {
        /// A kind of problem. Its `type` is `urn:gatelog:problem:` and a slug that never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the title says it
        pub enum Kind { $($name,)+ }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)+];

            /// The `type`.
            pub const fn uri(self) -> &'static str {
                match self { $(Kind::$name => concat!("urn:gatelog:problem:", $slug),)+ }
            }

            /// The status that goes with it.
            pub const fn status(self) -> StatusCode {
                match self { $(Kind::$name => StatusCode::$status,)+ }
            }

            /// The same for each problem of the kind.
            pub const fn title(self) -> &'static str {
                match self { $(Kind::$name => $title,)+ }
            }
        }
    };
}

kinds! {
    MalformedJson = BAD_REQUEST "malformed-json" "The body is not JSON",
    InvalidHeader = BAD_REQUEST "invalid-header" "A header is not valid",
    InvalidQuery = BAD_REQUEST "invalid-query" "The query is not valid",
    InvalidCursor = BAD_REQUEST "invalid-cursor" "The cursor is not valid",
    BodyUnreadable = BAD_REQUEST "body-unreadable" "The body could not be read",
    InvalidStream = BAD_REQUEST "invalid-stream" "What is asked of the stream is not valid",
    MissingToken = UNAUTHORIZED "missing-token" "Who is calling?",
    InvalidToken = UNAUTHORIZED "invalid-token" "The token or key is not valid",
    InvalidCredentials = UNAUTHORIZED "invalid-credentials" "Identifier or password is wrong",
    SessionEnded = UNAUTHORIZED "session-ended" "The session has ended",
    MissingScope = FORBIDDEN "missing-scope" "The API key may not do this",
    NotPermitted = FORBIDDEN "not-permitted" "Users may not do this themselves",
    WrongPassword = FORBIDDEN "wrong-password" "The present password is wrong",
    AccountDisabled = FORBIDDEN "account-disabled" "The account is disabled",
    RouteNotFound = NOT_FOUND "route-not-found" "There is nothing under this path",
    UserNotFound = NOT_FOUND "user-not-found" "There is no such user",
    SessionNotFound = NOT_FOUND "session-not-found" "There is no such session",
    LinkNotValid = NOT_FOUND "link-not-valid" "The link is not valid",
    ApiKeyNotFound = NOT_FOUND "api-key-not-found" "There is no such API key",
    FeedNotFound = NOT_FOUND "feed-not-found" "There is no such feed",
    WebhookNotFound = NOT_FOUND "webhook-not-found" "There is no such webhook",
    StreamNotFound = NOT_FOUND "stream-not-found" "There is no such stream",
    ProjectionNotFound = NOT_FOUND "projection-not-found" "There is no such projection",
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed" "This path does not take that method",
    AddressTaken = CONFLICT "address-taken" "The address belongs to another account",
    UserExists = CONFLICT "user-exists" "There is a user of this id already",
    NotACancellation = CONFLICT "not-a-cancellation" "This is not a cancellation",
    NotARenewal = CONFLICT "not-a-renewal" "This is not a renewal",
    NoticeChanged = CONFLICT "notice-changed" "The notice was published with other content",
    ApiKeyExists = CONFLICT "api-key-exists" "There is an API key of this id already",
    FeedRetired = CONFLICT "feed-retired" "The feed is retired",
    TooManyFeedVersions = CONFLICT "too-many-feed-versions" "The feed has too many versions",
    TooManyWebhooks = CONFLICT "too-many-webhooks" "The feed has too many webhooks",
    TooManyStreams = CONFLICT "too-many-streams" "There are too many streams",
    NoTopics = CONFLICT "no-topics" "There is no Kafka to write to",
    RebuildRunning = CONFLICT "rebuild-running" "The projection is being rebuilt already",
    PositionNotReached = PRECONDITION_FAILED "position-not-reached" "The read model is not that far yet",
    BodyTooLarge = PAYLOAD_TOO_LARGE "body-too-large" "The body is too large",
    RecordTooLarge = PAYLOAD_TOO_LARGE "record-too-large" "The request is too large to be written",
    NotJson = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "The body must be JSON",
    InvalidInput = UNPROCESSABLE_ENTITY "invalid-input" "Some of the input is not valid",
    PasswordNotAccepted = UNPROCESSABLE_ENTITY "password-not-accepted" "The password is not accepted",
    UnknownPurpose = UNPROCESSABLE_ENTITY "unknown-purpose" "There is no such purpose",
    FeedNeedsPurpose = UNPROCESSABLE_ENTITY "feed-needs-purpose" "Such a feed needs a purpose",
    UnknownNotice = UNPROCESSABLE_ENTITY "unknown-notice" "There is no such notice",
    UnknownPlan = UNPROCESSABLE_ENTITY "unknown-plan" "There is no such plan",
    PlanNotYetEffective = UNPROCESSABLE_ENTITY "plan-not-yet-effective" "The change of plan lies in the future",
    ScopeNotHeld = FORBIDDEN "scope-not-held" "A key cannot give what it does not have",
    KeyReused = UNPROCESSABLE_ENTITY "idempotency-key-reused" "The idempotency key was used for another request",
    TooManyAttempts = TOO_MANY_REQUESTS "too-many-attempts" "Too many attempts",
    TooManyVerifications = TOO_MANY_REQUESTS "too-many-verifications" "The stream was verified a moment ago",
    Internal = INTERNAL_SERVER_ERROR "internal" "Something went wrong inside",
    Overloaded = SERVICE_UNAVAILABLE "overloaded" "Too much is waiting",
    Unavailable = SERVICE_UNAVAILABLE "unavailable" "Nothing can be written at present",
    Timeout = SERVICE_UNAVAILABLE "timeout" "The request took too long",
    NotReady = SERVICE_UNAVAILABLE "not-ready" "The node is not ready",
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Path of the field in the body, or name of the parameter, such as `consents[0].notice.id`.
    pub field: String,
    /// What is wrong and what to do.
    pub detail: Cow<'static, str>,
}

/// A problem on its way to the caller.
#[derive(Debug, Clone)]
pub struct Problem(Box<Content>);

#[derive(Debug, Clone)]
struct Content {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
    scope: Option<&'static str>,
    members: Map<String, Value>,
}

/// The document (RFC 9457).
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// A URI that is the same for each problem of its kind, such as `urn:gatelog:problem:address-taken`.
    pub r#type: &'a str,
    pub title: &'a str,
    pub status: u16,
    /// What happened and what to do about it.
    pub detail: &'a str,
    /// The fields that are wrong, where there are any.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub errors: &'a [FieldError],
    #[serde(flatten)]
    #[schema(ignore)]
    pub members: &'a Map<String, Value>,
}

impl Problem {
    /// A problem with a sentence that says what to do.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Content {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            scope: None,
            members: Map::new(),
        }))
    }

    /// One or more fields are wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(
            Kind::InvalidInput,
            "Correct the fields named in `errors`; /docs describes them.",
        );
        problem.0.errors = errors;
        problem
    }

    /// Something failed inside. The caller learns that, the log learns what.
    pub fn internal(what: &dyn Display) -> Self {
        tracing::error!(%what, "a request failed inside");
        Self::new(
            Kind::Internal,
            "It was logged. Try again; if it persists, tell the operator the X-Request-Id of this answer.",
        )
    }

    /// An API key lacks a scope.
    pub fn missing_scope(scope: &'static str) -> Self {
        let detail = format!("The API key needs the scope {scope}. Use a key that has it.");
        let mut problem = Self::new(Kind::MissingScope, detail);
        problem.0.scope = Some(scope);
        problem
    }

    /// Names a field that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.errors.push(FieldError {
            field: field.into(),
            detail: detail.into(),
        });
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Adds an extension member.
    #[must_use]
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The fields that are wrong.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    fn challenge(&self) -> Option<HeaderValue> {
        match self.0.kind {
            Kind::InvalidToken => Some(HeaderValue::from_static("Bearer error=\"invalid_token\"")),
            Kind::MissingScope => {
                let scope = self.0.scope.unwrap_or_default();
                HeaderValue::try_from(format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"")).ok()
            }
            kind if kind.status() == StatusCode::UNAUTHORIZED => Some(HeaderValue::from_static("Bearer")),
            _ => None,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Content {
            kind,
            detail,
            errors,
            retry_after,
            members,
            ..
        } = &*self.0;
        let document = ProblemDocument {
            r#type: kind.uri(),
            title: kind.title(),
            status: kind.status().as_u16(),
            detail,
            errors,
            members,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (kind.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = retry_after {
            headers.insert(RETRY_AFTER, whole_seconds(*wait).into());
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Rounded up: who comes back a moment too early is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// What is wrong with an e-mail address, for the caller.
pub fn email_error(e: InvalidEmail) -> Cow<'static, str> {
    sentence(&e)
}

/// What is wrong with a text, for the caller.
pub fn text_error(e: InvalidValue) -> Cow<'static, str> {
    sentence(&e)
}

fn sentence(e: &dyn Display) -> Cow<'static, str> {
    let text = e.to_string();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()).into(),
        None => "It is not valid.".into(),
    }
}

#[cfg(test)]
mod tests;
