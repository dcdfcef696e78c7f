//! HubSpot: contacts, by a property of their own that holds the subject.
//!
//! The property (setting `id_property`) must be made in HubSpot as one that has unique values. All mapped properties must
//! exist there; only HubSpot's own are mapped by default.
//!
//! - A state is an upsert in `/crm/v3/objects/contacts/batch/upsert`. Events have no place in it: HubSpot wants each kind of
//!   event defined beforehand, so a record of an event writes the state alone. An address that another contact has is a
//!   conflict, and the record is rejected: HubSpot merges contacts only when told to.
//! - Withdrawals begin with `/batch/read`, which turns subjects into HubSpot's numbers and tells the address. Contacts that
//!   are not there need nothing more, so that no empty contact comes into being.
//!   - Withdrawn or disabled: the address is unsubscribed from the subscription type of setting `subscription_id`, if
//!     there is one, and each mapped property is emptied by `/batch/update`; the address only once it is unsubscribed, as it
//!     is needed for another attempt.
//!   - Erased: `/gdpr-delete`, which also keeps the address from coming back. It takes HubSpot's number or an address;
//!     another unique property is not documented for it. By address it would also put one that no contact has on the
//!     blocklist, so the number is used.
//!
//! Unsubscribing is a call of its own for each contact (`/communication-preferences/v3/unsubscribe`): the newer batch
//! endpoints are in no version of the client that these calls are checked with.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::{Call, Duty, Entry, Item, Limits, Method, Step, pack};
use super::mapping::{Mapping, MappingError, Names, text};
use super::{Credential, DefinitionError, Given, Plan, Secret, base_url, bearer, items, state};

mod answers;

const VENDOR: &str = "HubSpot";
const CONTACTS: &str = "/crm/v3/objects/contacts";
/// 100 contacts are documented; the size of a request is not, and stays far below what a web server takes.
const LIMITS: Limits = Limits {
    count: 100,
    bytes: 1_000_000,
    each: 500_000,
};
pub(super) const NAMES: Names = Names {
    longest: 100,
    valid: |name| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    },
    rule: "begins with a letter and has lower-case letters, digits and underscores",
    reserved: &[
        "hs_object_id",
        "createdate",
        "lastmodifieddate",
        "hs_additional_emails",
    ],
    any_case: false,
    defaults: &[
        ("email", "email"),
        ("given_name", "firstname"),
        ("family_name", "lastname"),
        ("phone_number", "phone"),
        ("street_address", "address"),
        ("locality", "city"),
        ("region", "state"),
        ("postal_code", "zip"),
        ("country", "country"),
        ("website", "website"),
        ("company", "company"),
        ("job_title", "jobtitle"),
    ],
};

/// What a definition says of a connector to HubSpot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default = "hubapi")]
    pub base_url: String,
    /// The contacts' property, with unique values, that holds the subject.
    #[serde(default = "gatelog_id")]
    pub id_property: String,
    /// The subscription type that a withdrawal unsubscribes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<BTreeMap<String, String>>,
}

fn hubapi() -> String {
    "https://api.hubapi.com".to_owned()
}

fn gatelog_id() -> String {
    "gatelog_id".to_owned()
}

/// A connector to HubSpot.
#[derive(Debug, Clone, PartialEq)]
pub struct Hubspot {
    base_url: String,
    id_property: String,
    subscription_id: Option<String>,
    mapping: Mapping,
    token: Secret,
}

impl Hubspot {
    pub(super) fn new(
        settings: &Settings,
        fields: &BTreeSet<String>,
        credential: Credential,
    ) -> Result<Self, DefinitionError> {
        let Credential::Bearer(token) = credential else {
            return Err(DefinitionError::Credential(
                "HubSpot takes the token of a private app; give `bearer`",
            ));
        };
        if !(NAMES.valid)(&settings.id_property) || settings.id_property.len() > NAMES.longest {
            return Err(DefinitionError::Setting {
                field: "id_property",
                remedy: "must be the name of a property of contacts",
            });
        }
        let number = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        if !settings.subscription_id.iter().all(number) {
            return Err(DefinitionError::Setting {
                field: "subscription_id",
                remedy: "must be the number of a subscription type",
            });
        }
        let mapping = Mapping::new(&NAMES, settings.mapping.as_ref(), fields)?;
        if let Some((field, name)) = mapping.of(&settings.id_property) {
            return Err(MappingError::Reserved {
                field: field.to_owned(),
                name: name.to_owned(),
            }
            .into());
        }
        Ok(Self {
            base_url: base_url("base_url", &settings.base_url)?,
            id_property: settings.id_property.clone(),
            subscription_id: settings.subscription_id.clone(),
            mapping,
            token,
        })
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(super) fn authorization(&self) -> String {
        bearer(&self.token)
    }

    pub(super) fn calls(&self, batch: &[Given]) -> Plan {
        let (kept, gone): (Vec<_>, Vec<_>) = items(batch).partition(|(item, _)| item.duty == Duty::Keep);
        let upserts = kept.into_iter().map(|(item, given)| {
            let input = json!({
                "idProperty": self.id_property,
                "id": given.subject,
                "objectWriteTraceId": item.record.to_string(),
                "properties": self.properties(&state(given)),
            });
            Entry::new(item, &input)
        });
        let (packs, refused) = pack(upserts.collect(), LIMITS);
        let mut plan = Plan::default();
        plan.refuse(VENDOR, refused);
        plan.calls.extend(
            packs
                .into_iter()
                .map(|pack| self.list("upsert", Step::Write, "", pack)),
        );
        let reads = gone
            .into_iter()
            .map(|(item, given)| Entry::new(item, &json!({ "id": given.subject })));
        let rest = json!({ "idProperty": self.id_property, "properties": [self.id_property, "email"], "propertiesWithHistory": [] });
        let rest = rest.to_string();
        let rest = format!("{},", rest.trim_start_matches('{').trim_end_matches('}'));
        let (packs, _) = pack(reads.collect(), LIMITS);
        plan.calls.extend(
            packs
                .into_iter()
                .map(|pack| self.list("read", Step::Find, &rest, pack)),
        );
        plan
    }

    fn list(&self, what: &str, step: Step, rest: &str, pack: Vec<Entry>) -> Call {
        let path = format!("{CONTACTS}/batch/{what}");
        Call::list(Method::Post, path, step, rest, "inputs", pack).authorized(self.authorization())
    }

    fn properties(&self, state: &Map<String, Value>) -> Map<String, Value> {
        // Lists are written as HubSpot writes the choices of its checkboxes.
        self.mapping
            .values(state)
            .map(|(name, value)| (name.to_owned(), json!(text(value, ";"))))
            .collect()
    }

    fn unsubscribe(&self, item: &Item, address: &str, subscription: &str) -> Call {
        let path = "/communication-preferences/v3/unsubscribe".to_owned();
        Call::new(Method::Post, path, Step::Unsubscribe, vec![item.clone()])
            .json(&json!({
                "emailAddress": address,
                "subscriptionId": subscription,
                // Accounts in which HubSpot's data privacy settings are on want both.
                "legalBasis": "CONSENT_WITH_NOTICE",
                "legalBasisExplanation": "The consent was withdrawn",
            }))
            .authorized(self.authorization())
    }
}

#[cfg(test)]
mod tests;
