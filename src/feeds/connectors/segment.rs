//! Segment: the HTTP Tracking API's `/v1/batch`, and the Public API's `/regulations`.
//!
//! - A state is an `identify`: `userId` is the subject, `messageId` the record's id, by which Segment drops what it has had
//!   already. A record of an event adds a `track` that names the event and has its details, but no traits.
//! - A withdrawal is a `track` "Consent Withdrawn" without traits, for the destinations that act on events, and an
//!   `identify` that sets each mapped trait to null. Segment keeps no state that could be deleted by trait: null is what it
//!   hands on to destinations and warehouses as "no longer there", which a `track` alone would not do. No regulation is
//!   made of it, because a suppression outlasts a later consent.
//! - An erasure adds a regulation `SUPPRESS_WITH_DELETE` for the `userId`, which deletes what Segment and the destinations
//!   that support it have, and drops what may still come. It comes last, so that the other destinations hear of the
//!   erasure before. Regulations need a plan that has them; `regulations: false` leaves them out.
//! - No `alias`: a subject's pseudonym never changes.
//!
//! The tracking API answers 200 also to a write key that it does not know; nobody is told then.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Outcome};
use super::call::{Base, Call, Entry, Item, Limits, Method, Step, pack};
use super::mapping::{Mapping, Names, is_identifier};
use super::{
    Credential, DefinitionError, Duty, Given, Plan, Reason, Said, Secret, base_url, basic, bearer, items,
    state,
};

const VENDOR: &str = "Segment";
/// The documented limits are 500 and 32 KB; whether a KB has 1000 or 1024 bytes is not said.
const LIMITS: Limits = Limits {
    count: 2_500,
    bytes: 500_000,
    each: 32_000,
};
/// Subjects of one regulation.
const REGULATED: usize = 5_000;

pub(super) const NAMES: Names = Names {
    longest: 100,
    valid: is_identifier,
    rule: "begins with a letter and has letters, digits and underscores",
    // Traits that Segment expects to be objects, and its own identifiers.
    reserved: &["id", "userid", "anonymousid", "address", "company"],
    any_case: true,
    defaults: &[
        ("email", "email"),
        ("email_verified", "emailVerified"),
        ("locale", "locale"),
        ("plan", "plan"),
        ("entitlements", "entitlements"),
        ("roles", "roles"),
        ("created_at", "createdAt"),
        ("consents", "consents"),
        ("unsubscribe_url", "unsubscribeUrl"),
        ("preferences_url", "preferencesUrl"),
        ("given_name", "firstName"),
        ("family_name", "lastName"),
        ("middle_name", "middleName"),
        ("nickname", "nickname"),
        ("gender", "gender"),
        ("birthdate", "birthday"),
        ("phone_number", "phone"),
        ("street_address", "street"),
        ("locality", "city"),
        ("region", "state"),
        ("postal_code", "postalCode"),
        ("country", "country"),
        ("zoneinfo", "timezone"),
        ("website", "website"),
        ("company", "companyName"),
        ("job_title", "title"),
    ],
};

/// What a definition says of a connector to Segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// In the EU: `https://events.eu1.segmentapis.com`.
    #[serde(default = "tracking")]
    pub base_url: String,
    /// The Public API; in the EU: `https://eu1.api.segmentapis.com`.
    #[serde(default = "public_api")]
    pub regulations_url: String,
    /// Whether erasures become regulations.
    #[serde(default = "yes")]
    pub regulations: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<BTreeMap<String, String>>,
}

fn tracking() -> String {
    "https://api.segment.io".to_owned()
}

fn public_api() -> String {
    "https://api.segmentapis.com".to_owned()
}

const fn yes() -> bool {
    true
}

/// A connector to Segment.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    base_url: String,
    regulations_url: String,
    mapping: Mapping,
    write_key: Secret,
    regulations: Option<Secret>,
}

impl Segment {
    pub(super) fn new(
        settings: &Settings,
        fields: &BTreeSet<String>,
        credential: Credential,
    ) -> Result<Self, DefinitionError> {
        let Credential::WriteKey {
            write_key,
            public_api,
        } = credential
        else {
            return Err(DefinitionError::Credential(
                "Segment takes a write key; give `write_key`",
            ));
        };
        if settings.regulations && public_api.is_none() {
            return Err(DefinitionError::Credential(
                "erasures need a token of the Public API; give `public_api`, or set `regulations` to false",
            ));
        }
        Ok(Self {
            base_url: base_url("base_url", &settings.base_url)?,
            regulations_url: base_url("regulations_url", &settings.regulations_url)?,
            mapping: Mapping::new(&NAMES, settings.mapping.as_ref(), fields)?,
            write_key,
            regulations: public_api.filter(|_| settings.regulations),
        })
    }

    pub(super) fn base_url(&self, base: Base) -> &str {
        match base {
            Base::Api => &self.base_url,
            Base::Regulations => &self.regulations_url,
        }
    }

    pub(super) fn authorization(&self, base: Base) -> String {
        match (base, &self.regulations) {
            (Base::Regulations, Some(token)) => bearer(token),
            _ => basic(self.write_key.reveal(), ""),
        }
    }

    pub(super) fn calls(&self, batch: &[Given]) -> Plan {
        let messages = items(batch)
            .flat_map(|(item, given)| self.messages(&item, given))
            .collect();
        let (packs, refused) = pack(messages, LIMITS);
        let mut plan = Plan::default();
        plan.refuse(VENDOR, refused);
        plan.calls.extend(packs.into_iter().map(|pack| {
            Call::list(
                Method::Post,
                "/v1/batch".to_owned(),
                Step::Write,
                "",
                "batch",
                pack,
            )
            .authorized(self.authorization(Base::Api))
        }));
        if self.regulations.is_some() {
            let erased: Vec<_> = items(batch)
                .map(|(item, _)| item)
                .filter(|i| i.duty == Duty::Erase)
                .collect();
            plan.calls
                .extend(erased.chunks(REGULATED).map(|items| self.regulation(items)));
        }
        plan
    }

    fn messages(&self, item: &Item, given: &Given) -> Vec<Entry> {
        let state = state(given);
        let traits: Map<_, _> = self
            .mapping
            .values(&state)
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        let message = |kind: &str, id: String, more: Value| {
            let mut message = json!({ "type": kind, "messageId": id, "userId": given.subject });
            if let (Some(message), Value::Object(more)) = (message.as_object_mut(), more) {
                message.extend(more);
                message.extend(
                    given
                        .time
                        .as_ref()
                        .map(|time| ("timestamp".to_owned(), json!(time))),
                );
            }
            Entry::new(item.clone(), &message)
        };
        let identify = message("identify", given.id.to_string(), json!({ "traits": traits }));
        let track = |event: &str, properties: Value| {
            // Its own id: of two messages with one id Segment drops the second.
            message(
                "track",
                format!("{}-event", given.id),
                json!({ "event": event, "properties": properties }),
            )
        };
        match given.said {
            Said::State(_) if given.is_event() => {
                let mut properties = given.details.clone();
                properties.insert("kind".to_owned(), json!(given.kind));
                properties.insert("sequence".to_owned(), json!(given.sequence));
                vec![identify, track(&title(&given.kind), properties.into())]
            }
            Said::State(_) => vec![identify],
            Said::Withdrawn(reason) => vec![track("Consent Withdrawn", reason_only(reason)), identify],
        }
    }

    fn regulation(&self, items: &[Item]) -> Call {
        let subjects: Vec<_> = items.iter().map(|i| i.subject).collect();
        Call::new(Method::Post, "/regulations".to_owned(), Step::Erase, items.to_vec())
            .json(&json!({ "regulationType": "SUPPRESS_WITH_DELETE", "subjectType": "USER_ID", "subjectIds": subjects }))
            .with("accept", "application/vnd.segment.v1+json".to_owned())
            .authorized(self.authorization(Base::Regulations))
            .at(Base::Regulations)
    }
}

fn reason_only(reason: Reason) -> Value {
    json!({ "reason": reason.name() })
}

/// `plan.upgraded` as Segment names events: `Plan Upgraded`.
fn title(kind: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    kind.split(['.', '_'])
        .filter(|w| !w.is_empty())
        .map(word)
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) fn verdicts(call: &Call, answer: &Answer<'_>) -> Outcome {
    if answer.is_success() {
        return Outcome::delivered(call);
    }
    // Both APIs: `{"code": …}` or `{"errors": [{"type": …}]}`.
    let body = answer.json();
    let code = body["code"]
        .as_str()
        .or_else(|| body["errors"][0]["type"].as_str());
    answer.failure(call, VENDOR, code)
}

#[cfg(test)]
mod tests;
