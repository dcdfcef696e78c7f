//! Events as they come up in tests, short enough to read in a line.

use gatelog_events::domain::Event;
use gatelog_events::domain::consent::{
    ConsentChange, ConsentEvent, Evidence, LawfulBasis, Method, NoticeRef, SetConsent,
};
use gatelog_events::domain::feed::{Definition, FeedEvent, HandedOver, Handover};
use gatelog_events::domain::identifier::{Address, Claimed, IdentifierEvent};
use gatelog_events::domain::plan::{PlanChange, PlanEvent};
use gatelog_events::domain::profile::{Profile, ProfilePatch};
use gatelog_events::domain::session::{
    Client, EndReason, Ended, FailureReason, Locked, LoginFailed, LoginMethod, LoginSucceeded, Refreshed,
    SessionEvent, Started, Unlocked,
};
use gatelog_events::domain::signals::{
    Begins, Delivery, Push, SignalKeyMade, SignalRef, SignalStreamChanged, SignalStreamCreated,
    SignalStreamDeleted, SignalStreamStatusSet, SignalsTold, StreamConfig, StreamNoticesTaken, StreamStatus,
    VerificationRequested,
};
use gatelog_events::domain::tenant::{
    ApiKeyCreated, ApiKeyRevoked, FeedDefined, FeedRetired, FeedTopicRemoved, FeedTopicSet, NoticePublished,
    PlanDefined, PurposeDefined, TenantEvent,
};
use gatelog_events::domain::user::{
    EmailChanged, EmailVerified, NewEmail, Origin, PasswordHash, PasswordReason, PasswordSet, Person,
    ProfileChanged, ProfileUpdate, Registered, RoleChange, StatusChange, UserEvent, Verification,
};
use gatelog_events::domain::webhook::{
    DeadLetter, DeadLetterRef, PauseReason, Progress, ReplayFrom, Told, WebhookPaused, WebhookRemoved,
    WebhookReplayed, WebhookSecretRotated, WebhookSet,
};
use gatelog_events::ids::{ApiKeyId, EventId, Stream};
use uuid::Uuid;

use super::{NOON, at, email, session_id};

pub const ADDRESS: &str = "Ada@x.test";

pub fn profile(json: &str) -> Profile {
    serde_json::from_str(json).expect("a profile")
}

pub fn patch(json: &str) -> ProfilePatch {
    serde_json::from_str(json).expect("a patch")
}

pub fn registered() -> Event {
    UserEvent::Registered(Registered {
        origin: Origin::SelfService,
        locale: Some("en".into()),
        personal: Person {
            email: email(ADDRESS),
            profile: profile(r#"{"given_name":"Ada"}"#),
        }
        .into(),
    })
    .into()
}

pub fn password_set(hash: &str, reason: PasswordReason) -> Event {
    let personal = PasswordHash { hash: hash.into() }.into();
    UserEvent::PasswordSet(PasswordSet { reason, personal }).into()
}

pub fn email_changed(address: &str) -> Event {
    let personal = NewEmail {
        email: email(address),
        previous: None,
    }
    .into();
    UserEvent::EmailChanged(EmailChanged { personal }).into()
}

/// As it is written since events say which address it was.
pub fn email_changed_from(previous: &str, address: &str) -> Event {
    let personal = NewEmail {
        email: email(address),
        previous: Some(email(previous)),
    }
    .into();
    UserEvent::EmailChanged(EmailChanged { personal }).into()
}

pub fn email_verified(method: Verification) -> Event {
    UserEvent::EmailVerified(EmailVerified { method }).into()
}

pub fn profile_changed(locale: Option<&str>, changes: &str) -> Event {
    let personal = ProfileUpdate {
        changes: patch(changes),
    }
    .into();
    UserEvent::ProfileChanged(ProfileChanged {
        locale: locale.map(Into::into),
        personal,
    })
    .into()
}

pub fn role_granted(role: &str) -> Event {
    UserEvent::RoleGranted(RoleChange { role: role.into() }).into()
}

pub fn role_revoked(role: &str) -> Event {
    UserEvent::RoleRevoked(RoleChange { role: role.into() }).into()
}

fn because(reason: Option<&str>) -> StatusChange {
    StatusChange {
        reason: reason.map(Into::into),
    }
}

pub fn disabled(reason: Option<&str>) -> Event {
    UserEvent::Disabled(because(reason)).into()
}

pub fn enabled(reason: Option<&str>) -> Event {
    UserEvent::Enabled(because(reason)).into()
}

pub fn erased(reason: Option<&str>) -> Event {
    UserEvent::Erased(because(reason)).into()
}

/// A choice about the newsletter by e-mail, on the notice `privacy` in English.
pub fn choice(version: &str) -> ConsentChange {
    ConsentChange {
        purpose: "newsletter".into(),
        channel: "email".into(),
        notice: NoticeRef {
            id: "privacy".into(),
            version: version.into(),
            language: "en".into(),
        },
        lawful_basis: LawfulBasis::Consent,
        method: Method::SelfService,
        personal: Evidence {
            ip: Some("192.0.2.7".into()),
            ..Evidence::default()
        }
        .into(),
    }
}

pub fn wish(granted: bool, change: ConsentChange) -> SetConsent {
    SetConsent { granted, change }
}

pub fn granted(change: ConsentChange) -> Event {
    ConsentEvent::Granted(change).into()
}

pub fn withdrawn(change: ConsentChange) -> Event {
    ConsentEvent::Withdrawn(change).into()
}

pub fn plan_change(from: Option<&str>, to: &str) -> PlanChange {
    PlanChange {
        from: from.map(Into::into),
        to: to.into(),
        effective_at: NOON,
        source: "api".into(),
        reason: None,
    }
}

pub fn on_plan(name: &str) -> Event {
    PlanEvent::Assigned(plan_change(None, name)).into()
}

pub fn client() -> Client {
    Client {
        ip: Some("192.0.2.7".into()),
        user_agent: Some("Test/1".into()),
    }
}

pub fn login_succeeded() -> Event {
    SessionEvent::LoginSucceeded(LoginSucceeded {
        session_id: session_id(),
        method: LoginMethod::Password,
        personal: client().into(),
    })
    .into()
}

pub fn login_failed(reason: FailureReason) -> Event {
    SessionEvent::LoginFailed(LoginFailed {
        reason,
        method: LoginMethod::Password,
        personal: Some(client().into()),
    })
    .into()
}

/// A failure at an address that nobody has: no subject, so nothing personal either.
pub fn login_failed_for_nobody() -> Event {
    SessionEvent::LoginFailed(LoginFailed {
        reason: FailureReason::UnknownIdentifier,
        method: LoginMethod::Password,
        personal: None,
    })
    .into()
}

pub fn locked(until: &str, failures: u32) -> Event {
    SessionEvent::Locked(Locked {
        until: at(until),
        failures,
    })
    .into()
}

pub fn unlocked(reason: Option<&str>) -> Event {
    SessionEvent::Unlocked(Unlocked {
        reason: reason.map(Into::into),
    })
    .into()
}

pub fn started(credential_version: u32, expires_at: &str) -> Event {
    SessionEvent::Started(Started {
        session_id: session_id(),
        credential_version,
        expires_at: at(expires_at),
    })
    .into()
}

fn of_generation(generation: u32) -> Refreshed {
    Refreshed {
        session_id: session_id(),
        generation,
    }
}

pub fn refreshed(generation: u32) -> Event {
    SessionEvent::Refreshed(of_generation(generation)).into()
}

pub fn reused(generation: u32) -> Event {
    SessionEvent::Reused(of_generation(generation)).into()
}

pub fn ended(reason: EndReason) -> Event {
    SessionEvent::Ended(Ended {
        session_id: session_id(),
        reason,
    })
    .into()
}

pub fn claimed(address: &str, expires_at: &str) -> Event {
    let personal = Address {
        email: email(address),
    }
    .into();
    IdentifierEvent::Claimed(Claimed {
        expires_at: at(expires_at),
        personal,
    })
    .into()
}

pub fn plan_defined(name: &str, rank: u32, entitlements: &[&str]) -> PlanDefined {
    PlanDefined {
        name: name.into(),
        rank,
        entitlements: entitlements.iter().map(|e| (*e).to_owned()).collect(),
    }
}

pub fn purpose_defined(name: &str, description: &str) -> PurposeDefined {
    PurposeDefined {
        name: name.into(),
        description: description.into(),
    }
}

pub fn notice(version: &str, text: &str) -> NoticePublished {
    NoticePublished {
        id: "terms".into(),
        version: version.into(),
        language: "de".into(),
        url: Some("https://x.test/terms".into()),
        text: Some(text.into()),
    }
}

pub fn api_key_id() -> ApiKeyId {
    ApiKeyId(Uuid::from_u128(0xa1))
}

pub fn api_key() -> ApiKeyCreated {
    ApiKeyCreated {
        key_id: api_key_id(),
        name: "CRM".into(),
        scopes: ["users:read".to_owned()].into(),
        secret_sha256: "ab".repeat(32),
    }
}

pub fn api_key_revoked() -> Event {
    TenantEvent::ApiKeyRevoked(ApiKeyRevoked { key_id: api_key_id() }).into()
}

/// One event of every type, in its latest version.
pub fn feed_defined(purpose: Option<&str>, fields: &[&str]) -> FeedDefined {
    FeedDefined {
        name: "marketing".into(),
        definition: Definition {
            description: None,
            purpose: purpose.map(Into::into),
            fields: fields.iter().map(|f| f.parse().expect("a field")).collect(),
            events: ["plan.upgraded".to_owned()].into(),
            retention_seconds: None,
        },
    }
}

pub fn feed_retired() -> Event {
    TenantEvent::FeedRetired(FeedRetired {
        name: "marketing".into(),
    })
    .into()
}

pub fn handover() -> Handover {
    Handover {
        feed: "marketing".into(),
        withdrawals: vec![HandedOver {
            event_id: EventId(Uuid::from_u128(0x77)),
            offset: 41,
        }],
    }
}

pub const MARKETING: &str = "marketing";
pub const CRM: &str = "crm";

pub fn webhook_set(url: &str, version: u32) -> WebhookSet {
    WebhookSet {
        feed: MARKETING.into(),
        name: CRM.into(),
        url: url.into(),
        version,
        concurrency: 8,
        connector: None,
    }
}

pub fn webhook_removed() -> WebhookRemoved {
    WebhookRemoved {
        feed: MARKETING.into(),
        name: CRM.into(),
    }
}

pub fn webhook_paused(reason: PauseReason) -> WebhookPaused {
    WebhookPaused {
        feed: MARKETING.into(),
        name: CRM.into(),
        reason,
    }
}

pub fn webhook_rotated() -> WebhookSecretRotated {
    WebhookSecretRotated {
        feed: MARKETING.into(),
        name: CRM.into(),
        former_until: at("2026-11-25T12:00:00Z"),
    }
}

pub fn webhook_replayed(from: ReplayFrom) -> WebhookReplayed {
    WebhookReplayed {
        feed: MARKETING.into(),
        name: CRM.into(),
        from,
    }
}

pub fn feed_topic_set(version: u32) -> FeedTopicSet {
    FeedTopicSet {
        feed: MARKETING.into(),
        version,
    }
}

pub fn progress() -> Progress {
    Progress {
        feed: MARKETING.into(),
        webhook: CRM.into(),
        generation: 7,
        snapshot: Some((10, 20)),
        identity: 41,
        activity: 0,
        withdrawals: 43,
    }
}

pub fn dead_letter() -> DeadLetter {
    DeadLetter {
        feed: MARKETING.into(),
        webhook: CRM.into(),
        record: Uuid::from_u128(0x99),
        user: super::ada(),
        told: Told::Happened {
            stream: Stream::Identity,
            offset: 41,
            event_id: EventId(Uuid::from_u128(0x77)),
            as_state: false,
        },
        attempts: 14,
        status: Some(500),
        reason: "the receiver answered 500".into(),
    }
}

pub fn dead_letters() -> DeadLetterRef {
    DeadLetterRef {
        feed: MARKETING.into(),
        webhook: CRM.into(),
        records: vec![Uuid::from_u128(0x99)],
    }
}

pub const STREAM: Uuid = Uuid::from_u128(0x57);

pub fn stream_config(url: &str) -> StreamConfig {
    StreamConfig {
        delivery: Delivery::Push(Push {
            url: url.into(),
            authorization: Some("d3JhcHBlZA".into()),
        }),
        events_requested: ["https://schemas.openid.net/secevent/caep/event-type/session-revoked".to_owned()]
            .into(),
        description: Some("for the gateway".into()),
    }
}

pub fn begins(n: u64) -> Begins {
    Begins {
        identity: vec![n, 0],
        activity: vec![0, n],
    }
}

pub fn stream_created(url: &str) -> SignalStreamCreated {
    SignalStreamCreated {
        stream_id: STREAM,
        receiver: Some(ApiKeyId(Uuid::from_u128(0xa1))),
        audience: "the gateway".into(),
        config: stream_config(url),
        begins: begins(7),
    }
}

pub fn stream_changed(url: &str) -> SignalStreamChanged {
    SignalStreamChanged {
        stream_id: STREAM,
        config: stream_config(url),
    }
}

pub fn stream_status(status: StreamStatus, tell: bool, begins: Option<Begins>) -> SignalStreamStatusSet {
    SignalStreamStatusSet {
        stream_id: STREAM,
        status,
        reason: Some("maintenance".into()),
        tell,
        begins,
    }
}

pub fn stream_deleted() -> SignalStreamDeleted {
    SignalStreamDeleted { stream_id: STREAM }
}

pub fn signal_key(kid: &str) -> SignalKeyMade {
    SignalKeyMade {
        kid: kid.into(),
        modulus: "bW9kdWx1cw".into(),
        exponent: "AQAB".into(),
        wrapped: "d3JhcHBlZA".into(),
    }
}

pub fn signals_told() -> SignalsTold {
    SignalsTold {
        stream_id: STREAM,
        generation: 7,
        identity: 41,
        activity: 43,
        beyond: vec![SignalRef {
            stream: Stream::Activity,
            offset: 47,
            number: 1,
        }],
    }
}

pub fn verification_requested() -> VerificationRequested {
    VerificationRequested {
        stream_id: STREAM,
        state: Some("c3RhdGU".into()),
    }
}

pub fn notices_taken() -> StreamNoticesTaken {
    StreamNoticesTaken {
        stream_id: STREAM,
        verifications: vec![EventId(Uuid::from_u128(0x77))],
        status: Some(9),
    }
}

pub fn one_of_each() -> Vec<Event> {
    let plan = |kind: fn(PlanChange) -> PlanEvent| -> Event {
        let reason = Some("asked by phone".to_owned());
        kind(PlanChange {
            reason,
            ..plan_change(Some("free"), "pro")
        })
        .into()
    };
    vec![
        registered(),
        password_set(
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA",
            PasswordReason::Changed,
        ),
        email_changed("ada.lovelace@x.test"),
        email_verified(Verification::Mail),
        profile_changed(Some("fr"), r#"{"given_name":"Augusta","company":null}"#),
        role_granted("admin"),
        role_revoked("admin"),
        disabled(Some("chargeback")),
        enabled(None),
        erased(Some("by the user")),
        granted(choice("2026-01")),
        withdrawn(choice("2026-01")),
        on_plan("free"),
        plan(PlanEvent::Upgraded),
        plan(PlanEvent::Downgraded),
        plan(PlanEvent::Switched),
        plan(PlanEvent::Cancelled),
        plan(PlanEvent::Renewed),
        claimed("ada@y.test", "2026-11-24T12:10:00Z"),
        login_succeeded(),
        login_failed(FailureReason::WrongPassword),
        locked("2026-11-24T12:00:01Z", 10),
        unlocked(Some("by support")),
        started(1, "2026-12-24T12:00:00Z"),
        refreshed(1),
        reused(0),
        ended(EndReason::LoggedOut),
        TenantEvent::PlanDefined(plan_defined("team", 15, &["app", "sso"])).into(),
        TenantEvent::PurposeDefined(purpose_defined("surveys", "Questions by e-mail")).into(),
        TenantEvent::NoticePublished(notice("1", "Wir schreiben Ihnen.")).into(),
        TenantEvent::ApiKeyCreated(api_key()).into(),
        api_key_revoked(),
        TenantEvent::FeedDefined(feed_defined(Some("newsletter"), &["email", "plan"])).into(),
        feed_retired(),
        FeedEvent::WithdrawalsDelivered(handover()).into(),
        FeedEvent::WithdrawalsAcknowledged(handover()).into(),
        TenantEvent::WebhookSet(webhook_set("https://crm.example.com/hooks", 1)).into(),
        TenantEvent::WebhookRemoved(webhook_removed()).into(),
        TenantEvent::WebhookPaused(webhook_paused(PauseReason::Gone)).into(),
        TenantEvent::WebhookSecretRotated(webhook_rotated()).into(),
        TenantEvent::WebhookReplayed(webhook_replayed(ReplayFrom::Time(at("2026-11-01T00:00:00Z")))).into(),
        TenantEvent::FeedTopicSet(feed_topic_set(1)).into(),
        TenantEvent::FeedTopicRemoved(FeedTopicRemoved {
            feed: MARKETING.into(),
        })
        .into(),
        FeedEvent::Progressed(progress()).into(),
        FeedEvent::DeadLettered(dead_letter()).into(),
        FeedEvent::Redriven(dead_letters()).into(),
        FeedEvent::Redelivered(dead_letters()).into(),
        TenantEvent::SignalStreamCreated(stream_created("https://gateway.example.com/events")).into(),
        TenantEvent::SignalStreamChanged(stream_changed("https://gateway.example.com/events")).into(),
        TenantEvent::SignalStreamStatusSet(stream_status(StreamStatus::Enabled, true, Some(begins(9))))
            .into(),
        TenantEvent::SignalStreamDeleted(stream_deleted()).into(),
        TenantEvent::SignalKeyMade(signal_key("one")).into(),
        FeedEvent::SignalsTold(signals_told()).into(),
        FeedEvent::VerificationRequested(verification_requested()).into(),
        FeedEvent::StreamNoticesTaken(notices_taken()).into(),
    ]
}
