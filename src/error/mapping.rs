//! Which error becomes which problem.

use std::time::Duration;

use gatelog_events::domain::{Rejection, consent, feed, plan, session, signals, tenant, user};
use gatelog_events::log::LogError;
use gatelog_events::seal::KeySourceError;
use gatelog_projections::applied::Behind;
use gatelog_projections::store::StoreError;

use super::{Kind, Problem};
use crate::auth::NoRandomness;
use crate::auth::policy::PolicyViolation;
use crate::auth::pool::PoolError;
use crate::auth::throttle::RetryAfter;
use crate::auth::tokens::TokenError;
use crate::writer::WriteError;
use crate::writer::rebuild::RebuildError;

impl From<WriteError> for Problem {
    fn from(e: WriteError) -> Self {
        match e {
            WriteError::Rejected(rejection) => rejection.into(),
            WriteError::KeyReused => Problem::new(
                Kind::KeyReused,
                "Send each request with an Idempotency-Key of its own; only a retry of the same request repeats it.",
            ),
            WriteError::Overloaded { retry_after } => overloaded(retry_after),
            WriteError::Unavailable { reason } => {
                tracing::warn!(%reason, "the log cannot be written");
                Problem::new(
                    Kind::Unavailable,
                    "Send the same request, with its Idempotency-Key, again in a moment.",
                )
                .retry_after(Duration::from_secs(1))
            }
            WriteError::NotOwner { stream, partition } => {
                tracing::warn!(%stream, %partition, "the partition's owner is not known yet");
                Problem::new(
                    Kind::Unavailable,
                    "Send the same request, with its Idempotency-Key, again in a moment.",
                )
                .retry_after(Duration::from_secs(1))
            }
            WriteError::TooLarge { limit, .. } => Problem::new(
                Kind::RecordTooLarge,
                format!("What is written for one request may have at most {limit} bytes. Send less at once."),
            ),
            WriteError::Internal(what) => Problem::internal(&what),
        }
    }
}

fn overloaded(wait: Duration) -> Problem {
    Problem::new(Kind::Overloaded, "Try again after the time in Retry-After.").retry_after(wait)
}

fn too_many_attempts(wait: Duration) -> Problem {
    Problem::new(
        Kind::TooManyAttempts,
        "Wait for the time in Retry-After before the next attempt.",
    )
    .retry_after(wait)
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::User(r) => r.into(),
            Rejection::Consent(r) => r.into(),
            Rejection::Plan(r) => r.into(),
            Rejection::Session(r) => r.into(),
            Rejection::Tenant(r) => r.into(),
        }
    }
}

impl From<user::Rejection> for Problem {
    fn from(rejection: user::Rejection) -> Self {
        match rejection {
            user::Rejection::AddressTaken => {
                Problem::new(Kind::AddressTaken, "Log in with it, or use another address.")
                    .field("email", "It belongs to another account.")
            }
            user::Rejection::NotFound => Problem::new(
                Kind::UserNotFound,
                "The id is of no user, of one that was erased, or of one that you may not see. Check it.",
            ),
            user::Rejection::AlreadyExists => Problem::new(Kind::UserExists, "Send the registration again."),
            user::Rejection::Disabled => {
                Problem::new(Kind::AccountDisabled, "Ask the operator to enable the account.")
            }
            user::Rejection::CredentialChanged => wrong_password(),
        }
    }
}

/// What was given as the account's present password is not.
pub fn wrong_password() -> Problem {
    Problem::new(Kind::WrongPassword, "Give the password that the account has now.")
        .field("current_password", "It is not the account's password.")
}

impl From<consent::Rejection> for Problem {
    fn from(rejection: consent::Rejection) -> Self {
        match rejection {
            consent::Rejection::UnknownPurpose(_) => Problem::new(
                Kind::UnknownPurpose,
                "Use one of GET /v1/settings/purposes, or define it with PUT /v1/settings/purposes/{purpose}.",
            )
            .field("purpose", "It is not defined."),
            consent::Rejection::UnknownNotice { .. } => Problem::new(
                Kind::UnknownNotice,
                "The notice is published, but not in this version and language. \
                 Publish it first with PUT /v1/settings/notices/{id}.",
            )
            .field("notice", "It is not published in this version and language."),
        }
    }
}

impl From<plan::Rejection> for Problem {
    fn from(rejection: plan::Rejection) -> Self {
        match rejection {
            plan::Rejection::UnknownPlan(_) => Problem::new(
                Kind::UnknownPlan,
                "Use one of GET /v1/settings/plans, or define it with PUT /v1/settings/plans/{plan}.",
            )
            .field("plan", "It is not in the catalogue."),
            plan::Rejection::NotYetEffective => {
                Problem::new(Kind::PlanNotYetEffective, "Send the change when it takes effect.")
                    .field("effective_at", "It lies in the future.")
            }
            plan::Rejection::NotACancellation(_) => Problem::new(
                Kind::NotACancellation,
                "A cancellation must lead to a plan of lower rank than the present one. Leave `intent` out.",
            )
            .field("intent", "The plan is not of lower rank than the present one."),
            plan::Rejection::NotARenewal(_) => Problem::new(
                Kind::NotARenewal,
                "A renewal must name the present plan. Leave `intent` out to change it.",
            )
            .field("plan", "It is not the present plan."),
        }
    }
}

impl From<session::Rejection> for Problem {
    fn from(rejection: session::Rejection) -> Self {
        match rejection {
            session::Rejection::NotFound => Problem::new(
                Kind::SessionNotFound,
                "Check the id; GET /v1/users/{id}/sessions lists them.",
            ),
            session::Rejection::Ended => Problem::new(Kind::SessionEnded, "Log in again."),
            // None may be told from a wrong password; of a lock, who guesses would learn that there is an account.
            session::Rejection::NotAllowed
            | session::Rejection::CredentialChanged
            | session::Rejection::Locked(_) => invalid_credentials(),
        }
    }
}

/// A login that failed, for whatever reason.
pub fn invalid_credentials() -> Problem {
    Problem::new(
        Kind::InvalidCredentials,
        "Check identifier and password and try again.",
    )
}

impl From<tenant::Rejection> for Problem {
    fn from(rejection: tenant::Rejection) -> Self {
        match rejection {
            tenant::Rejection::NoticeChanged { .. } => Problem::new(
                Kind::NoticeChanged,
                "What people consented to cannot change: publish the text under a new version.",
            )
            .field("version", "It was published with other content."),
            tenant::Rejection::ApiKeyExists => Problem::new(Kind::ApiKeyExists, "Send the request again."),
            tenant::Rejection::ApiKeyNotFound => {
                Problem::new(Kind::ApiKeyNotFound, "Check the id; GET /v1/api-keys lists them.")
            }
            tenant::Rejection::FeedNotFound => {
                Problem::new(Kind::FeedNotFound, "Check the name; GET /v1/feeds lists them.")
            }
            tenant::Rejection::UnknownFeedPurpose(_) => Problem::new(
                Kind::UnknownPurpose,
                "Use one of GET /v1/settings/purposes, or define it with PUT /v1/settings/purposes/{purpose}.",
            )
            .field("purpose", "It is not defined."),
            tenant::Rejection::FeedNeedsPurpose(field) => Problem::new(
                Kind::FeedNeedsPurpose,
                "Name the purpose whose consent gates the feed, or leave the fields out that tell who somebody is.",
            )
            .field("purpose", format!("The field {field} needs one.")),
            tenant::Rejection::FeedKeepsPurpose(ref purpose) => Problem::new(
                Kind::InvalidInput,
                "Correct the fields named in `errors`; /docs describes them.",
            )
            .field(
                "purpose",
                match purpose {
                    Some(purpose) => format!("The feed rests on {purpose}. Define another feed for another purpose."),
                    None => "The feed rests on no purpose. Define another feed for this one.".to_owned(),
                },
            ),
            tenant::Rejection::UnknownFeedEvent(_) => Problem::new(
                Kind::InvalidInput,
                "Correct the fields named in `errors`; /docs describes them.",
            )
            .field("events", format!("Use any of {}.", feed::kinds().collect::<Vec<_>>().join(", "))),
            tenant::Rejection::FeedVersionNotFound => Problem::new(
                Kind::InvalidInput,
                "Correct the fields named in `errors`; /docs describes them.",
            )
            .field("version", "The feed has no such version; GET /v1/feeds/{feed} lists them."),
            tenant::Rejection::WebhookNotFound => Problem::new(
                Kind::WebhookNotFound,
                "Check the name; GET /v1/feeds/{feed}/webhooks lists them.",
            ),
            tenant::Rejection::CredentialNeeded => Problem::new(
                Kind::InvalidInput,
                "Correct the fields named in `errors`; /docs describes them.",
            )
            .field("credential", "A new connector, or one at another address, needs one; leave it out only to keep the one there is."),
            tenant::Rejection::TooManyWebhooks => Problem::new(
                Kind::TooManyWebhooks,
                "Remove one that is not used any more, or define another feed.",
            ),
            tenant::Rejection::SignalStreamNotFound => Problem::new(
                Kind::StreamNotFound,
                "Check the id; GET /ssf/streams lists those that you may see.",
            ),
            tenant::Rejection::TooManySignalStreams => {
                Problem::new(Kind::TooManyStreams, "Delete one that is not used any more.")
            }
            tenant::Rejection::TooManyStreamsOfReceiver => Problem::new(
                Kind::TooManyStreams,
                format!(
                    "This API key has {}, and may have no more. Delete one, or change it to what you need.",
                    signals::MAX_OF_RECEIVER
                ),
            ),
            tenant::Rejection::TooManyFeedVersions => Problem::new(
                Kind::TooManyFeedVersions,
                "All versions of a feed are kept. Define another feed instead.",
            ),
        }
    }
}

impl From<PoolError> for Problem {
    fn from(e: PoolError) -> Self {
        match e {
            PoolError::Overloaded { retry_after } => overloaded(retry_after),
            PoolError::Closed
            | PoolError::Stored(_)
            | PoolError::InvalidParams
            | PoolError::Threads
            | PoolError::NoRandomness(_) => Problem::internal(&e),
        }
    }
}

impl From<RebuildError> for Problem {
    fn from(e: RebuildError) -> Self {
        match e {
            RebuildError::Unknown => Problem::new(
                Kind::ProjectionNotFound,
                "Use a name that GET /v1/projections lists.",
            ),
            RebuildError::Running => Problem::new(
                Kind::RebuildRunning,
                "Wait until it has ended; GET /v1/projections shows how far it is.",
            ),
            RebuildError::Thread(_) => Problem::internal(&e),
        }
    }
}

impl From<RetryAfter> for Problem {
    fn from(RetryAfter(wait): RetryAfter) -> Self {
        too_many_attempts(wait)
    }
}

impl From<TokenError> for Problem {
    fn from(e: TokenError) -> Self {
        match e {
            TokenError::Signing | TokenError::Oversize => Problem::internal(&e),
            _ => invalid_token(),
        }
    }
}

/// A token or key that gives no access, for whatever reason.
pub fn invalid_token() -> Problem {
    Problem::new(
        Kind::InvalidToken,
        "It is malformed, expired, revoked or of somebody who may no longer sign in. \
         Refresh the session, log in again, or use another API key.",
    )
}

impl From<PolicyViolation> for Problem {
    fn from(violation: PolicyViolation) -> Self {
        Problem::new(Kind::PasswordNotAccepted, violation.to_string())
            .field("password", violation.to_string())
    }
}

impl From<Behind> for Problem {
    fn from(behind: Behind) -> Self {
        let place = format!("{}:{}", behind.stream, behind.partition);
        Problem::new(
            Kind::PositionNotReached,
            "Read again in a moment, or without Gatelog-Min-Position to get what is known so far.",
        )
        .member("projection", behind.projection)
        .member("partition", place)
        .member("next_offset", behind.next)
        .retry_after(Duration::from_secs(1))
    }
}

macro_rules! internal {
    ($($error:ty),+) => {$(
        impl From<$error> for Problem {
            fn from(e: $error) -> Self {
                Problem::internal(&e)
            }
        }
    )+};
}
internal!(
    StoreError,
    KeySourceError,
    LogError,
    NoRandomness,
    serde_json::Error,
    tokio::task::JoinError
);
