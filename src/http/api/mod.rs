//! The API, version 1: one file per resource.

pub mod api_keys;
pub mod consents;
mod feed_connectors;
pub mod feed_events;
pub mod feed_status;
pub mod feed_webhooks;
pub mod feed_withdrawals;
pub mod feeds;
pub mod logins;
pub mod passwords;
pub mod plans;
pub mod projections;
pub mod registrations;
pub mod roles;
pub mod sessions;
pub mod settings;
mod spooled;
pub mod ssf;
pub mod statistics;
pub mod timeline;
pub mod unsubscribe;
pub mod users;

use std::sync::Arc;

use gatelog_events::domain::consent::{ConsentChange, Evidence, LawfulBasis, Method, NoticeRef};
use gatelog_events::domain::session::Client;
use gatelog_events::domain::{Actor, consent, user};
use gatelog_events::ids::{Partition, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::app::App;
use super::ask::behind;
use super::check::Check;
use crate::error::Problem;

/// The user, if there is one who was not erased.
fn existing(app: &App, id: UserId) -> Result<Arc<user::User>, Problem> {
    let user = app.node.views.user(app.tenant(), id)?;
    if user.exists() {
        Ok(user)
    } else if app.node.views.settings(app.tenant())?.version == 0 {
        // A node that has not read even those does not say that there is nobody.
        Err(behind().into())
    } else {
        Err(user::Rejection::NotFound.into())
    }
}

/// The partition of a user.
fn partition_of(app: &App, user: UserId) -> Partition {
    user.shard().partition(app.node.log.partitions())
}

/// Which notice was shown.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeInput {
    pub id: String,
    pub version: String,
    /// BCP 47 language tag of the text that was shown.
    pub language: String,
}

impl NoticeInput {
    fn check(self, check: &mut Check, prefix: &str) -> NoticeRef {
        check.name(format!("{prefix}notice.id"), &self.id);
        check.text(format!("{prefix}notice.version"), &self.version);
        check.locale(format!("{prefix}notice.language"), &self.language);
        NoticeRef {
            id: self.id,
            version: self.version,
            language: self.language,
        }
    }
}

/// Lawful basis of a processing (GDPR, article 6(1)).
#[derive(Deserialize, Clone, Copy, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LawfulBasisInput {
    Consent,
    Contract,
    LegalObligation,
    VitalInterests,
    PublicTask,
    LegitimateInterests,
}

impl From<LawfulBasisInput> for LawfulBasis {
    fn from(basis: LawfulBasisInput) -> Self {
        match basis {
            LawfulBasisInput::Consent => LawfulBasis::Consent,
            LawfulBasisInput::Contract => LawfulBasis::Contract,
            LawfulBasisInput::LegalObligation => LawfulBasis::LegalObligation,
            LawfulBasisInput::VitalInterests => LawfulBasis::VitalInterests,
            LawfulBasisInput::PublicTask => LawfulBasis::PublicTask,
            LawfulBasisInput::LegitimateInterests => LawfulBasis::LegitimateInterests,
        }
    }
}

/// One choice about one purpose.
struct Choice {
    purpose: String,
    granted: bool,
    channel: String,
    notice: NoticeInput,
    lawful_basis: Option<LawfulBasisInput>,
    note: Option<String>,
}

impl Choice {
    /// Checks it; `prefix` says where it stands in the body.
    fn check(self, check: &mut Check, prefix: &str, method: Method, client: &Client) -> consent::SetConsent {
        check.name(format!("{prefix}purpose"), &self.purpose);
        check.name(format!("{prefix}channel"), &self.channel);
        check.optional_text(&format!("{prefix}note"), self.note.as_ref());
        consent::SetConsent {
            granted: self.granted,
            change: ConsentChange {
                purpose: self.purpose,
                channel: self.channel,
                notice: self.notice.check(check, prefix),
                lawful_basis: self.lawful_basis.map(Into::into).unwrap_or_default(),
                method,
                personal: Evidence {
                    ip: client.ip.clone(),
                    user_agent: client.user_agent.clone(),
                    note: self.note,
                }
                .into(),
            },
        }
    }
}

/// Who did something.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Actor)]
pub struct ActorBody {
    /// `visitor` (not signed in), `user`, `api_key`, or `system` (Gatelog itself, or its operator).
    pub r#type: &'static str,
    /// Of the user or the API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
}

impl From<&Actor> for ActorBody {
    fn from(actor: &Actor) -> Self {
        let (r#type, id) = match actor {
            Actor::Visitor => ("visitor", None),
            Actor::User(id) => ("user", Some(id.0)),
            Actor::ApiKey(id) => ("api_key", Some(id.0)),
            Actor::System => ("system", None),
        };
        Self { r#type, id }
    }
}
