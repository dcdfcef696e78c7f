//! A user as callers see it: the answer of `GET /v1/users/{id}` and of `gatelog replay --as-of`.

use std::collections::{BTreeMap, BTreeSet};

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{ConsentState, LawfulBasis, Method, NoticeRef};
use gatelog_events::domain::profile::Profile;
use gatelog_events::domain::session::Activity;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::{Status, User};
use gatelog_events::ids::UserId;
use serde::Serialize;
use utoipa::ToSchema;

/// What is known of a user.
#[derive(Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserJson {
    #[schema(value_type = uuid::Uuid)]
    pub user_id: UserId,
    /// As its owner wrote it. Absent only for users who were erased.
    #[schema(format = "email")]
    pub email: Option<String>,
    pub email_verified: bool,
    /// `active`, `disabled` or `erased`.
    #[schema(value_type = String, example = "active")]
    pub status: Status,
    /// BCP 47 language tag.
    pub locale: Option<String>,
    /// Only fields that have a value.
    #[schema(value_type = BTreeMap<String, String>)]
    pub profile: Profile,
    pub plan: Option<PlanJson>,
    /// What the plan entitles to, by the present catalogue.
    pub entitlements: BTreeSet<String>,
    pub roles: BTreeSet<String>,
    /// By purpose; purposes that were never decided on are absent.
    pub consents: BTreeMap<String, ConsentJson>,
    #[schema(value_type = chrono::DateTime<chrono::Utc>)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<chrono::DateTime<chrono::Utc>>)]
    pub last_login_at: Option<Timestamp>,
}

/// The plan that a user has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanJson {
    pub name: String,
    #[schema(value_type = chrono::DateTime<chrono::Utc>)]
    pub since: Timestamp,
}

/// Where one purpose stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConsentJson {
    pub granted: bool,
    /// When this choice was made.
    #[schema(value_type = chrono::DateTime<chrono::Utc>)]
    pub since: Timestamp,
    /// Means of contact, such as `email` or `sms`.
    pub channel: String,
    /// The notice that was shown.
    pub notice: NoticeJson,
    /// GDPR, article 6(1), such as `consent` or `contract`.
    #[schema(value_type = String, example = "consent")]
    pub lawful_basis: LawfulBasis,
    /// How the choice was expressed, such as `registration_form` or `self_service`.
    #[schema(value_type = String, example = "self_service")]
    pub method: Method,
}

/// Which text was shown, in which version and language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NoticeJson {
    pub id: String,
    pub version: String,
    /// BCP 47 language tag; `und` where it is not known.
    pub language: String,
}

impl UserJson {
    /// Renders a user's state with the catalogue of plans and the user's activity of the same moment.
    pub fn new(id: UserId, user: &User, settings: &Settings, activity: &Activity) -> Self {
        let entitlements = user
            .plan
            .as_ref()
            .and_then(|plan| settings.plans.get(&plan.name))
            .map(|plan| plan.entitlements.clone())
            .unwrap_or_default();
        Self {
            user_id: id,
            email: user.email.as_ref().map(|e| e.typed().to_owned()),
            email_verified: user.email_verified,
            status: user.status,
            locale: user.locale.clone(),
            profile: user.profile.clone(),
            plan: user.plan.as_ref().map(|p| PlanJson {
                name: p.name.clone(),
                since: p.since,
            }),
            entitlements,
            roles: user.roles.clone(),
            consents: user
                .consents
                .iter()
                .map(|(purpose, state)| (purpose.clone(), state.into()))
                .collect(),
            created_at: user.created_at,
            last_login_at: activity.last_login_at,
        }
    }
}

impl From<&ConsentState> for ConsentJson {
    fn from(state: &ConsentState) -> Self {
        Self {
            granted: state.granted,
            since: state.since,
            channel: state.channel.clone(),
            notice: (&state.notice).into(),
            lawful_basis: state.lawful_basis,
            method: state.method,
        }
    }
}

impl From<&NoticeRef> for NoticeJson {
    fn from(notice: &NoticeRef) -> Self {
        Self {
            id: notice.id.clone(),
            version: notice.version.clone(),
            language: notice.language.clone(),
        }
    }
}
