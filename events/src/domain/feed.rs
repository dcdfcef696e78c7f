//! Feeds: what one kind of consumer may follow of the log, and the record of who was told of a withdrawal when.
//!
//! What a feed is stands among the tenant's settings ([`super::tenant`]). That a withdrawal was handed over is said in the
//! activity stream, in the partition of the withdrawal itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::consent::ConsentEvent;
use super::plan::PlanEvent;
use super::profile::ProfileField;
use super::session::SessionEvent;
use super::signals::{SignalsTold, StreamNoticesTaken, VerificationRequested};
use super::user::UserEvent;
use super::webhook::{DeadLetter, DeadLetterRef, Progress, Webhook};
use super::{Event, Payload, events};
use crate::clock::Timestamp;
use crate::ids::{EventId, Offset};

events! {
    /// What happened between a feed and its consumer.
    FeedEvent {
        /// The consumer was told of these withdrawals.
        WithdrawalsDelivered(Handover) = "com.gatelog.feed.withdrawals_delivered.v1",
        /// The consumer has said, by going on from there, that it knows of them.
        WithdrawalsAcknowledged(Handover) = "com.gatelog.feed.withdrawals_acknowledged.v1",
        /// A webhook's receiver has taken everything up to here.
        Progressed(Progress) = "com.gatelog.feed.progressed.v1",
        /// A webhook's receiver did not take it, and is not asked any more.
        DeadLettered(DeadLetter) = "com.gatelog.feed.dead_lettered.v1",
        /// Dead letters are to be sent again.
        Redriven(DeadLetterRef) = "com.gatelog.feed.redriven.v1",
        /// Dead letters were taken at last.
        Redelivered(DeadLetterRef) = "com.gatelog.feed.redelivered.v1",
        /// The receiver of a stream of signals has everything up to here.
        SignalsTold(SignalsTold) = "com.gatelog.feed.signals_told.v1",
        /// The receiver of a stream of signals wants to see whether it works.
        VerificationRequested(VerificationRequested) = "com.gatelog.feed.verification_requested.v1",
        /// The receiver of a stream of signals knows what happened to the stream itself.
        StreamNoticesTaken(StreamNoticesTaken) = "com.gatelog.feed.stream_notices_taken.v1",
    }
}

/// Withdrawals of one partition that were handed over together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Handover {
    pub feed: String,
    pub withdrawals: Vec<HandedOver>,
}

/// One of them: the event that withdrew, and where it stands in its partition of the identity stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct HandedOver {
    pub event_id: EventId,
    pub offset: Offset,
}

impl Payload for Handover {}

/// Most withdrawals that one event may name.
pub const MAX_HANDED_OVER: usize = 256;

/// What can be asked to be recorded.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    WithdrawalsDelivered(Handover),
    WithdrawalsAcknowledged(Handover),
    Progressed(Progress),
    DeadLettered(DeadLetter),
    Redriven(DeadLetterRef),
    Redelivered(DeadLetterRef),
    SignalsTold(SignalsTold),
    RequestVerification(VerificationRequested),
    StreamNoticesTaken(StreamNoticesTaken),
}

/// What follows: what happened between a feed and its consumer is so, and nobody can refuse it. Nothing handed over is no
/// event.
pub fn decide(command: Command) -> Vec<Event> {
    let event = match command {
        Command::WithdrawalsDelivered(e) | Command::WithdrawalsAcknowledged(e)
            if e.withdrawals.is_empty() =>
        {
            return vec![];
        }
        Command::WithdrawalsDelivered(e) => FeedEvent::WithdrawalsDelivered(e),
        Command::WithdrawalsAcknowledged(e) => FeedEvent::WithdrawalsAcknowledged(e),
        Command::Progressed(e) => FeedEvent::Progressed(e),
        Command::DeadLettered(e) => FeedEvent::DeadLettered(e),
        Command::Redriven(e) => FeedEvent::Redriven(e),
        Command::Redelivered(e) => FeedEvent::Redelivered(e),
        Command::SignalsTold(e) => FeedEvent::SignalsTold(e),
        Command::RequestVerification(e) => FeedEvent::VerificationRequested(e),
        Command::StreamNoticesTaken(e) => FeedEvent::StreamNoticesTaken(e),
    };
    vec![event.into()]
}

/// A field that a feed may name. There are no others: what is not here never leaves by a feed, above all no password hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Email,
    EmailVerified,
    Locale,
    Plan,
    Entitlements,
    Roles,
    CreatedAt,
    /// The purposes that are granted now.
    Consents,
    /// A link by which the subject withdraws the consent that gates the feed, for `List-Unsubscribe` (RFC 8058).
    UnsubscribeUrl,
    /// A link to a page where the subject sees and changes all their consents. It ends after half a year.
    PreferencesUrl,
    Profile(ProfileField),
}

impl Field {
    /// Every field, in the order in which they are listed.
    pub fn all() -> impl Iterator<Item = Field> {
        let own = [
            Field::Email,
            Field::EmailVerified,
            Field::Locale,
            Field::Plan,
            Field::Entitlements,
            Field::Roles,
            Field::CreatedAt,
            Field::Consents,
            Field::UnsubscribeUrl,
            Field::PreferencesUrl,
        ];
        own.into_iter()
            .chain(ProfileField::ALL.into_iter().map(Field::Profile))
    }

    /// The field's name in definitions and records.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Email => "email",
            Field::EmailVerified => "email_verified",
            Field::Locale => "locale",
            Field::Plan => "plan",
            Field::Entitlements => "entitlements",
            Field::Roles => "roles",
            Field::CreatedAt => "created_at",
            Field::Consents => "consents",
            Field::UnsubscribeUrl => "unsubscribe_url",
            Field::PreferencesUrl => "preferences_url",
            Field::Profile(field) => field.name(),
        }
    }

    /// Whether it tells who somebody is: such a field leaves only with a consent.
    pub const fn is_personal(self) -> bool {
        matches!(
            self,
            Field::Email | Field::UnsubscribeUrl | Field::PreferencesUrl | Field::Profile(_)
        )
    }
}

/// There is no field of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such field of a feed")]
pub struct UnknownField;

impl FromStr for Field {
    type Err = UnknownField;

    fn from_str(name: &str) -> Result<Self, UnknownField> {
        Self::all().find(|f| f.name() == name).ok_or(UnknownField)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(d)?;
        name.parse().map_err(D::Error::custom)
    }
}

impl schemars::JsonSchema for Field {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Field".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<_> = Field::all().map(Field::name).collect();
        schemars::json_schema!({ "type": "string", "enum": names })
    }
}

/// What a feed gives to its consumer. Nothing is in it that was not named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Definition {
    #[serde(default)]
    pub description: Option<String>,
    /// The purpose whose consent gates the feed; without one, no field that tells who somebody is may be named.
    #[serde(default)]
    pub purpose: Option<String>,
    pub fields: BTreeSet<Field>,
    /// Kinds of events, such as `plan.upgraded`.
    pub events: BTreeSet<String>,
    /// Seconds for which what happened is told. A consumer who comes later is told the present state of everyone in its
    /// place. Without end if absent.
    #[serde(default)]
    pub retention_seconds: Option<u64>,
}

/// One version of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub definition: Definition,
    pub defined_at: Timestamp,
}

/// The Kafka topic of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// The version of the feed whose records it has.
    pub version: u32,
    /// Number of the settings' event with which it began last.
    pub generation: u64,
}

/// The name under which a topic says how far it has come; no webhook can have it.
pub const TOPIC: &str = "/topic";

/// A feed, with all its versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Feed {
    /// Version 1 comes first.
    pub versions: Vec<Version>,
    pub retired_at: Option<Timestamp>,
    /// The Kafka topic that has its records, where there is one.
    pub topic: Option<Topic>,
    /// When it was given one first. What was written there stays when nothing more is.
    pub topic_since: Option<Timestamp>,
    /// Where its records are posted, by name.
    pub webhooks: BTreeMap<String, Webhook>,
    /// Number of the last secret of webhooks that were removed, by name.
    pub former_secrets: BTreeMap<String, u32>,
}

impl Feed {
    /// A version by its number, from 1.
    pub fn version(&self, number: u32) -> Option<&Version> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.versions.get(index)
    }

    /// The number of the newest version.
    pub fn newest(&self) -> u32 {
        u32::try_from(self.versions.len()).unwrap_or(u32::MAX)
    }
}

const PREFIX: &str = "com.gatelog.";

/// The name by which a feed knows a type of event: without the log's prefix and version.
pub fn kind(type_name: &str) -> &str {
    let name = type_name.strip_prefix(PREFIX).unwrap_or(type_name);
    name.rsplit_once(".v").map_or(name, |(name, _)| name)
}

/// The kinds of events that a feed may name. What ends somebody's visibility is told in any case, and so is not among them.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    let told_anyway = ["user.disabled", "user.erased"];
    [
        UserEvent::TYPES,
        ConsentEvent::TYPES,
        PlanEvent::TYPES,
        SessionEvent::TYPES,
    ]
    .into_iter()
    .flatten()
    .map(|name| kind(name))
    .filter(move |kind| !told_anyway.contains(kind))
}

/// Whether events of a kind stand in the activity stream.
pub fn is_activity(of_kind: &str) -> bool {
    SessionEvent::TYPES.iter().any(|name| kind(name) == of_kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_one_name_each_and_keep_it() {
        let names: Vec<_> = Field::all().map(Field::name).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), distinct.len());
        for field in Field::all() {
            let json = serde_json::to_string(&field).unwrap();
            assert_eq!(json, format!("{:?}", field.name()));
            assert_eq!(serde_json::from_str::<Field>(&json).unwrap(), field);
        }
        assert!(serde_json::from_str::<Field>("\"password_hash\"").is_err());
    }

    #[test]
    fn kinds_are_the_names_on_the_wire_without_prefix_and_version() {
        assert_eq!(kind("com.gatelog.plan.upgraded.v1"), "plan.upgraded");
        let all: Vec<_> = kinds().collect();
        for name in [
            "user.registered",
            "consent.withdrawn",
            "plan.upgraded",
            "login.succeeded",
        ] {
            assert!(all.contains(&name), "{name}");
        }
        assert!(!all.contains(&"user.erased"));
        assert!(is_activity("login.succeeded") && !is_activity("plan.upgraded"));
    }
}
