//! Customer.io: the Track API's `/api/v2/batch`.
//!
//! - A state is an `identify` of the person whose `id` is the subject; a record of an event adds an `event`, whose id is
//!   the record's id written as a ULID, by which Customer.io drops what it has had already.
//! - A withdrawal empties each mapped attribute and sets `unsubscribed`, with `_update` so that nobody is made anew. What
//!   Customer.io knows by itself of the person (events, deliveries) stays.
//! - An erasure is `delete` and then `suppress`, so that the id cannot be brought back by anybody.
//! - `unsubscribed` is taken back only by a record of a consent that was given: an opt-out at Customer.io itself outlasts
//!   all other records.
//!
//! An empty string is how Customer.io removes an attribute. `created_at` there is a Unix time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::answer::{Answer, Outcome, Verdict, judged};
use super::call::{Call, Entry, Item, Limits, Method, Step, pack};
use super::mapping::{Mapping, Names, is_identifier, unix_seconds};
use super::{Credential, DefinitionError, Duty, Given, Plan, Secret, base_url, basic, items, state};

const VENDOR: &str = "Customer.io";
/// The documented limits are 500 and 32 kB.
const LIMITS: Limits = Limits {
    count: 1_000,
    bytes: 500_000,
    each: 32_000,
};
/// An attribute whose values are Unix times.
const CREATED_AT: &str = "created_at";

pub(super) const NAMES: Names = Names {
    longest: 150,
    valid: is_identifier,
    rule: "begins with a letter and has letters, digits and underscores",
    reserved: &[
        "id",
        "cio_id",
        "anonymous_id",
        "unsubscribed",
        "cio_subscription_preferences",
    ],
    any_case: false,
    defaults: &[
        ("email", "email"),
        ("email_verified", "email_verified"),
        ("locale", "locale"),
        ("plan", "plan"),
        ("entitlements", "entitlements"),
        ("roles", "roles"),
        ("created_at", CREATED_AT),
        ("consents", "consents"),
        ("unsubscribe_url", "unsubscribe_url"),
        ("preferences_url", "preferences_url"),
        ("given_name", "first_name"),
        ("family_name", "last_name"),
        ("middle_name", "middle_name"),
        ("nickname", "nickname"),
        ("gender", "gender"),
        ("birthdate", "birthdate"),
        ("phone_number", "phone"),
        ("street_address", "street_address"),
        ("locality", "city"),
        ("region", "region"),
        ("postal_code", "postal_code"),
        ("country", "country"),
        ("zoneinfo", "timezone"),
        ("website", "website"),
        ("company", "company"),
        ("job_title", "job_title"),
    ],
};

/// What a definition says of a connector to Customer.io.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// In the EU: `https://track-eu.customer.io`.
    #[serde(default = "track")]
    pub base_url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<BTreeMap<String, String>>,
}

fn track() -> String {
    "https://track.customer.io".to_owned()
}

/// A connector to Customer.io.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomerIo {
    base_url: String,
    mapping: Mapping,
    site: Secret,
    key: Secret,
}

impl CustomerIo {
    pub(super) fn new(
        settings: &Settings,
        fields: &BTreeSet<String>,
        credential: Credential,
    ) -> Result<Self, DefinitionError> {
        let Credential::Basic { user, password } = credential else {
            return Err(DefinitionError::Credential(
                "Customer.io takes a site id and a Track API key; give `basic`",
            ));
        };
        Ok(Self {
            base_url: base_url("base_url", &settings.base_url)?,
            mapping: Mapping::new(&NAMES, settings.mapping.as_ref(), fields)?,
            site: user,
            key: password,
        })
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(super) fn authorization(&self) -> String {
        basic(self.site.reveal(), self.key.reveal())
    }

    pub(super) fn calls(&self, batch: &[Given]) -> Plan {
        let operations = items(batch)
            .flat_map(|(item, given)| self.operations(&item, given))
            .collect();
        let (packs, refused) = pack(operations, LIMITS);
        let mut plan = Plan::default();
        plan.refuse(VENDOR, refused);
        plan.calls.extend(packs.into_iter().map(|pack| {
            Call::list(
                Method::Post,
                "/api/v2/batch".to_owned(),
                Step::Write,
                "",
                "batch",
                pack,
            )
            .authorized(self.authorization())
        }));
        plan
    }

    fn operations(&self, item: &Item, given: &Given) -> Vec<Entry> {
        let at = given.time.as_deref().and_then(unix_seconds);
        let operation = |action: &str, more: Value| {
            let mut operation =
                json!({ "type": "person", "identifiers": { "id": given.subject }, "action": action });
            if let (Some(operation), Value::Object(more)) = (operation.as_object_mut(), more) {
                operation.extend(more);
            }
            Entry::new(item.clone(), &operation)
        };
        let timed = |mut more: Value| {
            if let (Some(more), Some(at)) = (more.as_object_mut(), at) {
                more.insert("timestamp".to_owned(), json!(at));
            }
            more
        };
        match item.duty {
            Duty::Erase => vec![operation("delete", json!({})), operation("suppress", json!({}))],
            Duty::Clear => {
                let mut attributes = self.attributes(given);
                attributes.insert("unsubscribed".to_owned(), json!(true));
                attributes.insert("_update".to_owned(), json!(true));
                vec![operation("identify", timed(json!({ "attributes": attributes })))]
            }
            Duty::Keep => {
                let mut attributes = self.attributes(given);
                if given.granted {
                    attributes.insert("unsubscribed".to_owned(), json!(false));
                }
                let mut operations = vec![operation("identify", timed(json!({ "attributes": attributes })))];
                if given.is_event() {
                    let mut details = given.details.clone();
                    details.insert("sequence".to_owned(), json!(given.sequence));
                    let event = json!({ "name": given.kind, "id": ulid(given.id), "attributes": details });
                    operations.push(operation("event", timed(event)));
                }
                operations
            }
        }
    }

    fn attributes(&self, given: &Given) -> Map<String, Value> {
        let state = state(given);
        let values = self.mapping.values(&state).map(|(name, value)| {
            let value = match value {
                Value::Null => json!(""),
                Value::String(time) if name == CREATED_AT => {
                    unix_seconds(time).map_or_else(|| json!(""), |t| json!(t))
                }
                _ => value.clone(),
            };
            (name.to_owned(), value)
        });
        values.collect()
    }
}

/// The same 128 bits in Crockford's base 32, as a ULID is written.
fn ulid(id: Uuid) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = id.as_u128();
    let digit = |n: u32| char::from(DIGITS[usize::try_from((bits >> (5 * n)) & 31).unwrap_or(0)]);
    (0..26).rev().map(digit).collect()
}

pub(super) fn verdicts(call: &Call, answer: &Answer<'_>) -> Outcome {
    let body = answer.json();
    if !answer.is_success() {
        return answer.failure(call, VENDOR, body["errors"][0]["reason"].as_str());
    }
    // With 207, and at times with 200: errors that name the operation by its place.
    let empty = vec![];
    let errors = body["errors"].as_array().unwrap_or(&empty);
    let nameless = errors.iter().find(|e| {
        e["batch_index"]
            .as_u64()
            .is_none_or(|i| i >= call.items.len() as u64)
    });
    if let Some(error) = nameless {
        // Something was refused, and it is not said what: each half again, until it is alone.
        return match call.halves() {
            Some(halves) => Outcome::next(halves.into()),
            None => Outcome::all(call, &Verdict::rejected(VENDOR, error["reason"].as_str())),
        };
    }
    let verdicts = judged(&call.items, |index, _| {
        let error = errors
            .iter()
            .find(|e| e["batch_index"].as_u64() == Some(index as u64));
        error.map_or(Verdict::Delivered, |e| {
            Verdict::rejected(VENDOR, e["reason"].as_str())
        })
    });
    Outcome::Judged {
        verdicts,
        next: vec![],
    }
}

#[cfg(test)]
mod tests;
