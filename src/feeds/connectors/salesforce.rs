//! Salesforce: contacts or leads, by an external id, and the consent that they gave.
//!
//! The external-id field (setting `external_id`) must be made, unique, on the person's object and, where a purpose is
//! given, on `Individual` and `ContactPointTypeConsent`. All mapped fields must exist; only standard ones are mapped by
//! default.
//!
//! - A state is an upsert of sObject collections (200 records). With a purpose there are three: the `Individual`, the
//!   person that refers to it, and the consent. All three have the subject as external id and refer to each other by it.
//!   `Individual.LastName` is required, and is the subject: the name stands in one place only.
//! - The consent is a `ContactPointTypeConsent`: `PartyConsent` has dates without a time of day and no channel. A record of
//!   a consent that was given sets `EffectiveFrom` and `CaptureDate`; all states say `OptIn` and no `EffectiveTo`.
//! - Withdrawn or disabled: mapped fields are set to null, `HasOptedOutOfEmail` to true, and the consent to `OptOut` with
//!   its end. The opt-out is taken back only when the feed's own consent is given again.
//! - `LastName` (and a lead's `Company`) cannot be null; the subject (and `[not provided]`) stand in.
//! - Erased: the three are deleted by external id, in composite requests. Salesforce keeps them in its recycle bin for 15
//!   days; a purge of it is a job for the Bulk API or an administrator.
//!
//! Events have no place in these objects: a record of one writes the state alone.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::{Call, Duty, Entry, Item, Limits, Method, Step, pack};
use super::mapping::{Mapping, MappingError, text};
use super::{Credential, DefinitionError, Given, LoginError, Plan, Secret, base_url, bearer, items, state};

mod answers;
pub(super) mod settings;

pub(super) use answers::verdicts;
pub use settings::{Channel, Object, Settings};

use settings::NAMES;

const VENDOR: &str = "Salesforce";
const LIMITS: Limits = Limits {
    count: 200,
    bytes: 4_000_000,
    each: 1_000_000,
};
/// Requests of a composite request.
const COMPOSITE: usize = 25;
const INDIVIDUAL: &str = "Individual";
const CONSENT: &str = "ContactPointTypeConsent";
/// A connector to Salesforce.
#[derive(Debug, Clone, PartialEq)]
pub struct Salesforce {
    settings: Settings,
    mapping: Mapping,
    client: Option<(Secret, Secret)>,
    token: Secret,
}

impl Salesforce {
    pub(super) fn new(
        settings: &Settings,
        fields: &BTreeSet<String>,
        credential: Credential,
    ) -> Result<Self, DefinitionError> {
        let (client, token) = match credential {
            Credential::Client { id, secret } => (Some((id, secret)), Secret::new("")),
            Credential::Bearer(token) => (None, token),
            _ => {
                return Err(DefinitionError::Credential(
                    "Salesforce takes `client` or `bearer`; give one of them",
                ));
            }
        };
        settings.check()?;
        let external = &settings.external_id;
        let mapping = Mapping::new(&NAMES, settings.mapping.as_ref(), fields)?;
        if let Some((field, name)) = mapping.of(external) {
            return Err(MappingError::Reserved {
                field: field.to_owned(),
                name: name.to_owned(),
            }
            .into());
        }
        let settings = Settings {
            base_url: base_url("base_url", &settings.base_url)?,
            ..settings.clone()
        };
        Ok(Self {
            settings,
            mapping,
            client,
            token,
        })
    }

    pub(super) fn base_url(&self) -> &str {
        &self.settings.base_url
    }

    pub(super) fn authorization(&self) -> String {
        bearer(&self.token)
    }

    pub(super) fn login(&self) -> Option<Call> {
        let (id, secret) = self.client.as_ref()?;
        let mut call = Call::new(
            Method::Post,
            "/services/oauth2/token".to_owned(),
            Step::Token,
            vec![],
        );
        let (id, secret) = (form(id.reveal()), form(secret.reveal()));
        call.body =
            format!("grant_type=client_credentials&client_id={id}&client_secret={secret}").into_bytes();
        Some(call.with("content-type", "application/x-www-form-urlencoded".to_owned()))
    }

    /// The `instance_url` of the answer is not followed: where records go is said by the definition alone.
    pub(super) fn logged_in(&mut self, answer: &Answer<'_>) -> Result<(), LoginError> {
        match answer.status {
            200..=299 => {
                let body = answer.json();
                let token = body["access_token"].as_str().unwrap_or_default();
                if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(LoginError::Later);
                }
                self.token = Secret::new(token);
                Ok(())
            }
            400 | 401 | 403 => Err(LoginError::Refused),
            _ => Err(LoginError::Later),
        }
    }

    pub(super) fn calls(&self, batch: &[Given]) -> Plan {
        let (gone, kept): (Vec<_>, Vec<_>) = items(batch).partition(|(item, _)| item.duty == Duty::Erase);
        let mut plan = Plan::default();
        let mut upsert = |object: &str, record: &dyn Fn(&Item, &Given) -> Map<String, Value>| {
            let entries = kept.iter().map(|(item, given)| {
                let mut record = record(item, given);
                record.insert("attributes".to_owned(), json!({ "type": object }));
                record.insert(self.settings.external_id.clone(), json!(given.subject));
                Entry::new(item.clone(), &Value::Object(record))
            });
            let (packs, refused) = pack(entries.collect(), LIMITS);
            plan.refuse(VENDOR, refused);
            let path = format!(
                "{}/composite/sobjects/{object}/{}",
                self.root(),
                self.settings.external_id
            );
            plan.calls.extend(packs.into_iter().map(|pack| {
                let rest = "\"allOrNone\":false,";
                Call::list(Method::Patch, path.clone(), Step::Write, rest, "records", pack)
                    .authorized(self.authorization())
            }));
        };
        if self.settings.purpose.is_some() {
            upsert(INDIVIDUAL, &|_, given| {
                [("LastName".to_owned(), json!(given.subject))]
                    .into_iter()
                    .collect()
            });
        }
        upsert(self.settings.object.name(), &|item, given| {
            self.person(item, given)
        });
        if let Some(purpose) = &self.settings.purpose {
            upsert(CONSENT, &|item, given| self.consent(item, given, purpose));
        }
        let deletions = gone
            .iter()
            .flat_map(|(item, given)| self.deletions(item, given))
            .collect();
        let (packs, _) = pack(
            deletions,
            Limits {
                count: COMPOSITE,
                ..LIMITS
            },
        );
        plan.calls.extend(packs.into_iter().map(|pack| {
            let (path, rest) = (format!("{}/composite", self.root()), "\"allOrNone\":false,");
            Call::list(Method::Post, path, Step::Erase, rest, "compositeRequest", pack)
                .authorized(self.authorization())
        }));
        plan
    }

    fn root(&self) -> String {
        format!("/services/data/v{}", self.settings.version)
    }

    /// A reference to another record by its external id.
    fn reference(&self, given: &Given) -> Value {
        let id = (self.settings.external_id.clone(), json!(given.subject));
        Value::Object([id].into_iter().collect())
    }

    fn person(&self, item: &Item, given: &Given) -> Map<String, Value> {
        let state = state(given);
        let values = self.mapping.values(&state).map(|(name, value)| {
            let value = match value {
                // As the choices of a multi-select picklist are written.
                Value::Array(_) | Value::Object(_) => json!(text(value, ";")),
                _ => value.clone(),
            };
            (name.to_owned(), value)
        });
        let mut person: Map<_, _> = values.collect();
        let mut required = |name: &str, instead: Value| {
            let mapped = self.mapping.of(name).map_or(name, |(_, mapped)| mapped);
            let value = person.entry(mapped.to_owned()).or_insert(Value::Null);
            if value.is_null() || value.as_str().is_some_and(|s| s.trim().is_empty()) {
                *value = instead;
            }
        };
        required("LastName", json!(given.subject));
        if self.settings.object == Object::Lead {
            required("Company", json!("[not provided]"));
        }
        if self.settings.purpose.is_some() {
            person.insert(INDIVIDUAL.to_owned(), self.reference(given));
        }
        if item.duty == Duty::Clear {
            person.insert("HasOptedOutOfEmail".to_owned(), json!(true));
        } else if given.granted {
            person.insert("HasOptedOutOfEmail".to_owned(), json!(false));
        }
        person
    }

    fn consent(&self, item: &Item, given: &Given, purpose: &str) -> Map<String, Value> {
        let mut consent = Map::new();
        let mut set = |name: &str, value: Value| consent.insert(name.to_owned(), value);
        set("Name", json!(purpose));
        set("Party", self.reference(given));
        set("ContactPointType", json!(self.settings.channel.name()));
        set("CaptureContactPointType", json!("Web"));
        set("CaptureSource", json!(self.settings.capture_source));
        if let Some(id) = &self.settings.data_use_purpose {
            set("DataUsePurposeId", json!(id));
        }
        let withdrawn = item.duty == Duty::Clear;
        set(
            "PrivacyConsentStatus",
            json!(if withdrawn { "OptOut" } else { "OptIn" }),
        );
        match (&given.time, withdrawn) {
            (Some(time), true) => {
                set("EffectiveTo", json!(time));
                set("CaptureDate", json!(time));
            }
            (None, true) => {}
            (time, false) => {
                set("EffectiveTo", Value::Null);
                if let Some(time) = time.as_ref().filter(|_| given.granted) {
                    set("EffectiveFrom", json!(time));
                    set("CaptureDate", json!(time));
                }
            }
        }
        consent
    }

    fn deletions(&self, item: &Item, given: &Given) -> Vec<Entry> {
        let person = self.settings.object.name();
        let objects: &[&str] = if self.settings.purpose.is_some() {
            &[CONSENT, person, INDIVIDUAL]
        } else {
            &[person]
        };
        let deletion = |object: &&str| {
            let url = format!(
                "{}/sobjects/{object}/{}/{}",
                self.root(),
                self.settings.external_id,
                given.subject
            );
            let reference = format!("{object}{}", item.record);
            Entry::new(
                item.clone(),
                &json!({ "method": "DELETE", "url": url, "referenceId": reference }),
            )
        };
        objects.iter().map(deletion).collect()
    }
}

/// As `application/x-www-form-urlencoded` wants it.
fn form(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b);
    let encode = |b: u8| {
        if plain(b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests;
