use super::*;
use crate::auth::NoRandomness;
use crate::auth::policy::PolicyViolation;
use crate::auth::pool::PoolError;
use crate::auth::throttle::RetryAfter;
use crate::auth::tokens::TokenError;
use crate::writer::WriteError;
use crate::writer::rebuild::RebuildError;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::{Rejection, consent, plan, session, tenant, user};
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::LogError;
use gatelog_events::seal::KeySourceError;
use gatelog_projections::applied::Behind;
use gatelog_projections::store::StoreError;

fn text() -> String {
    "s3cret".to_owned()
}

/// Every typed error, and what callers see of it.
fn table() -> Vec<(Problem, u16, &'static str)> {
    let wait = Duration::from_millis(1500);
    vec![
        (
            tenant::Rejection::SignalStreamNotFound.into(),
            404,
            "stream-not-found",
        ),
        (
            tenant::Rejection::TooManySignalStreams.into(),
            409,
            "too-many-streams",
        ),
        (
            tenant::Rejection::TooManyStreamsOfReceiver.into(),
            409,
            "too-many-streams",
        ),
        (user::Rejection::AddressTaken.into(), 409, "address-taken"),
        (user::Rejection::NotFound.into(), 404, "user-not-found"),
        (user::Rejection::AlreadyExists.into(), 409, "user-exists"),
        (user::Rejection::Disabled.into(), 403, "account-disabled"),
        (user::Rejection::CredentialChanged.into(), 403, "wrong-password"),
        (
            consent::Rejection::UnknownPurpose(text()).into(),
            422,
            "unknown-purpose",
        ),
        (
            consent::Rejection::UnknownNotice {
                id: text(),
                version: text(),
                language: text(),
            }
            .into(),
            422,
            "unknown-notice",
        ),
        (plan::Rejection::UnknownPlan(text()).into(), 422, "unknown-plan"),
        (
            plan::Rejection::NotYetEffective.into(),
            422,
            "plan-not-yet-effective",
        ),
        (
            plan::Rejection::NotACancellation(text()).into(),
            409,
            "not-a-cancellation",
        ),
        (plan::Rejection::NotARenewal(text()).into(), 409, "not-a-renewal"),
        (session::Rejection::NotFound.into(), 404, "session-not-found"),
        (session::Rejection::Ended.into(), 401, "session-ended"),
        (session::Rejection::NotAllowed.into(), 401, "invalid-credentials"),
        (
            session::Rejection::CredentialChanged.into(),
            401,
            "invalid-credentials",
        ),
        (
            session::Rejection::Locked(Timestamp::EPOCH).into(),
            401,
            "invalid-credentials",
        ),
        (
            tenant::Rejection::NoticeChanged {
                id: text(),
                version: text(),
                language: text(),
            }
            .into(),
            409,
            "notice-changed",
        ),
        (tenant::Rejection::ApiKeyExists.into(), 409, "api-key-exists"),
        (tenant::Rejection::ApiKeyNotFound.into(), 404, "api-key-not-found"),
        (
            WriteError::Rejected(Rejection::User(user::Rejection::NotFound)).into(),
            404,
            "user-not-found",
        ),
        (WriteError::KeyReused.into(), 422, "idempotency-key-reused"),
        (
            WriteError::Overloaded { retry_after: wait }.into(),
            503,
            "overloaded",
        ),
        (
            WriteError::Unavailable { reason: text() }.into(),
            503,
            "unavailable",
        ),
        (
            WriteError::TooLarge { size: 9, limit: 8 }.into(),
            413,
            "record-too-large",
        ),
        (WriteError::Internal(text()).into(), 500, "internal"),
        (
            PoolError::Overloaded { retry_after: wait }.into(),
            503,
            "overloaded",
        ),
        (PoolError::Closed.into(), 500, "internal"),
        (PoolError::InvalidParams.into(), 500, "internal"),
        (PoolError::Threads.into(), 500, "internal"),
        (PoolError::NoRandomness(NoRandomness).into(), 500, "internal"),
        (RebuildError::Unknown.into(), 404, "projection-not-found"),
        (RebuildError::Running.into(), 409, "rebuild-running"),
        (RebuildError::Thread(text()).into(), 500, "internal"),
        (RetryAfter(wait).into(), 429, "too-many-attempts"),
        (TokenError::Expired.into(), 401, "invalid-token"),
        (TokenError::TooLong.into(), 401, "invalid-token"),
        (TokenError::Malformed.into(), 401, "invalid-token"),
        (TokenError::Signature.into(), 401, "invalid-token"),
        (TokenError::Claims.into(), 401, "invalid-token"),
        (TokenError::Foreign.into(), 401, "invalid-token"),
        (TokenError::NotYetValid.into(), 401, "invalid-token"),
        (TokenError::Signing.into(), 500, "internal"),
        (
            PolicyViolation::TooShort { min: 15 }.into(),
            422,
            "password-not-accepted",
        ),
        (StoreError::Row { table: text() }.into(), 500, "internal"),
        (KeySourceError::Unavailable(text()).into(), 500, "internal"),
        (LogError::Closed.into(), 500, "internal"),
        (NoRandomness.into(), 500, "internal"),
        (
            Behind {
                projection: "users",
                stream: Stream::Identity,
                partition: Partition(3),
                next: 7,
            }
            .into(),
            412,
            "position-not-reached",
        ),
        (Problem::missing_scope("users:read"), 403, "missing-scope"),
        (Problem::invalid(vec![]), 422, "invalid-input"),
        (invalid_token(), 401, "invalid-token"),
        (invalid_credentials(), 401, "invalid-credentials"),
    ]
}

async fn shown(problem: Problem) -> (axum::http::response::Parts, Value) {
    let (parts, body) = problem.into_response().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    (parts, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn each_error_has_its_type_and_status_and_tells_no_value() {
    for (problem, status, slug) in table() {
        let (parts, body) = shown(problem).await;
        let what = format!("{slug}: {body}");
        assert_eq!(parts.status.as_u16(), status, "{what}");
        assert_eq!(body["status"], status, "{what}");
        assert_eq!(body["type"], format!("urn:gatelog:problem:{slug}"), "{what}");
        assert!(body["title"].is_string(), "{what}");
        assert!(body["detail"].as_str().unwrap().ends_with('.'), "{what}");
        assert!(!body.to_string().contains("s3cret"), "{what}");
        assert_eq!(parts.headers[CONTENT_TYPE], "application/problem+json", "{what}");
        assert_eq!(
            parts.headers.contains_key(RETRY_AFTER),
            matches!(status, 429 | 503 | 412),
            "{what}"
        );
        assert_eq!(
            parts.headers.contains_key(WWW_AUTHENTICATE),
            status == 401 || slug == "missing-scope",
            "{what}"
        );
    }
}

#[tokio::test]
async fn waits_are_rounded_up_and_a_position_says_how_far_it_is() {
    let (parts, _) = shown(RetryAfter(Duration::from_millis(1500)).into()).await;
    assert_eq!(parts.headers[RETRY_AFTER], "2");
    let (parts, _) = shown(RetryAfter(Duration::ZERO).into()).await;
    assert_eq!(parts.headers[RETRY_AFTER], "1");
    let behind = Behind {
        projection: "users",
        stream: Stream::Identity,
        partition: Partition(3),
        next: 7,
    };
    let (_, body) = shown(behind.into()).await;
    assert_eq!(
        (&body["projection"], &body["partition"], &body["next_offset"]),
        (&"users".into(), &"identity:3".into(), &7.into())
    );
}

#[test]
fn types_are_distinct() {
    let mut uris: Vec<_> = Kind::ALL.iter().map(|k| k.uri()).collect();
    uris.sort_unstable();
    uris.dedup();
    assert_eq!(uris.len(), Kind::ALL.len());
    assert!(
        Kind::ALL
            .iter()
            .all(|k| k.status().is_client_error() || k.status().is_server_error())
    );
}
