//! Zendesk: users, by their external id.
//!
//! - A state is a user in `/api/v2/users/create_or_update_many`, without the mail by which Zendesk asks new users to verify
//!   their address. Events have no place there: a record of one writes the state alone. Zendesk answers with a job, and
//!   the calls that ask for its result follow from the answer.
//! - `name.given` and `name.family` are no properties of Zendesk: they are joined to `name`, which every user must have; the
//!   subject stands in where there is none. `user_fields.…` are fields that must be made in Zendesk; it ignores others.
//! - Zendesk takes an address only when it creates a user. A later one becomes a second address, and no address is removed
//!   by these calls. So setting `withdrawal` must say what is done when a consent is withdrawn or a user disabled:
//!   - `clear`: name, phone and the other mapped properties are emptied; the address and the tickets stay.
//!   - `delete`: as after an erasure.
//! - Accounts are made without leave to import users in bulk: Zendesk then answers 403, which pauses the feed until its
//!   support has given leave.
//! - Setting `suspend_disabled` also suspends a disabled user, until the next state. A withdrawn consent never suspends:
//!   who takes a consent back may still ask for help.
//! - Erased: the users' numbers are asked for (`show_many`), the users are deleted (`destroy_many`, a job), and then for
//!   good, one by one (`deleted_users/{id}`; setting `permanent`). Once deleted, a user is not found by external id any
//!   more: where everything stops between the two steps, the second is left to Zendesk's own deletion schedule.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::call::{Call, Duty, Entry, Item, Limits, Method, Step, pack};
use super::mapping::{Mapping, Names, is_identifier, text};
use super::{Credential, DefinitionError, Given, Plan, Reason, Said, base_url, basic, bearer, items, state};

mod answers;

const VENDOR: &str = "Zendesk";
const USERS: &str = "/api/v2/users";
/// 100 users are documented; the size of a request is not.
const LIMITS: Limits = Limits {
    count: 100,
    bytes: 1_000_000,
    each: 500_000,
};
/// Users that are looked for at once: their names stand in the URL.
const FOUND_AT_ONCE: usize = 40;
const FIELD: &str = "user_fields.";
const EMAIL: &str = "email";

pub(super) const NAMES: Names = Names {
    longest: 100,
    valid: |name| {
        const OWN: [&str; 10] = [
            EMAIL,
            "phone",
            "name",
            "name.given",
            "name.family",
            "locale",
            "time_zone",
            "alias",
            "details",
            "notes",
        ];
        OWN.contains(&name) || name.strip_prefix(FIELD).is_some_and(is_identifier)
    },
    rule: "is email, phone, name, name.given, name.family, locale, time_zone, alias, details, notes or user_fields.<key>",
    reserved: &[],
    any_case: false,
    defaults: &[
        ("email", EMAIL),
        ("given_name", "name.given"),
        ("family_name", "name.family"),
        ("phone_number", "phone"),
    ],
};

/// What becomes of a user whose consent is withdrawn or who is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Withdrawal {
    /// Mapped properties are emptied, but the address stays.
    Clear,
    /// As after an erasure.
    Delete,
}

/// What a definition says of a connector to Zendesk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `https://<subdomain>.zendesk.com`.
    pub base_url: String,
    /// Must be given where the address is mapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawal: Option<Withdrawal>,
    #[serde(default)]
    pub suspend_disabled: bool,
    /// Whether deleted users are deleted for good.
    #[serde(default = "yes")]
    pub permanent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<BTreeMap<String, String>>,
}

const fn yes() -> bool {
    true
}

/// A connector to Zendesk.
#[derive(Debug, Clone, PartialEq)]
pub struct Zendesk {
    base_url: String,
    withdrawal: Withdrawal,
    suspend_disabled: bool,
    permanent: bool,
    mapping: Mapping,
    credential: Credential,
}

impl Zendesk {
    pub(super) fn new(
        settings: &Settings,
        fields: &BTreeSet<String>,
        credential: Credential,
    ) -> Result<Self, DefinitionError> {
        if !matches!(credential, Credential::Basic { .. } | Credential::Bearer(_)) {
            return Err(DefinitionError::Credential(
                "Zendesk takes `basic` (address/token and an API token) or `bearer`",
            ));
        }
        let mapping = Mapping::new(&NAMES, settings.mapping.as_ref(), fields)?;
        let withdrawal = match settings.withdrawal {
            Some(withdrawal) => withdrawal,
            None if mapping.of(EMAIL).is_some() => {
                return Err(DefinitionError::Setting {
                    field: "withdrawal",
                    remedy: "say `delete`, or `clear` if the address may stay: Zendesk does not let it be emptied",
                });
            }
            None => Withdrawal::Clear,
        };
        Ok(Self {
            base_url: base_url("base_url", &settings.base_url)?,
            withdrawal,
            suspend_disabled: settings.suspend_disabled,
            permanent: settings.permanent,
            mapping,
            credential,
        })
    }

    pub(super) fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(super) fn authorization(&self) -> String {
        match &self.credential {
            Credential::Basic { user, password } => basic(user.reveal(), password.reveal()),
            Credential::Bearer(token) => bearer(token),
            // Not taken by `new`.
            Credential::WriteKey { .. } | Credential::Client { .. } => String::new(),
        }
    }

    pub(super) fn calls(&self, batch: &[Given]) -> Plan {
        let is_gone = |item: &Item| match item.duty {
            Duty::Keep => false,
            Duty::Clear => self.withdrawal == Withdrawal::Delete,
            Duty::Erase => true,
        };
        let (gone, kept): (Vec<_>, Vec<_>) = items(batch).partition(|(item, _)| is_gone(item));
        let users = kept.into_iter().map(|(item, given)| {
            let user = self.user(&item, given);
            Entry::new(item, &Value::Object(user))
        });
        let (packs, refused) = pack(users.collect(), LIMITS);
        let mut plan = Plan::default();
        plan.refuse(VENDOR, refused);
        plan.calls.extend(packs.into_iter().map(|pack| {
            let path = format!("{USERS}/create_or_update_many");
            Call::list(Method::Post, path, Step::Write, "", "users", pack).authorized(self.authorization())
        }));
        let gone: Vec<_> = gone.into_iter().map(|(item, _)| item).collect();
        plan.calls.extend(gone.chunks(FOUND_AT_ONCE).map(|items| {
            let subjects: Vec<_> = items.iter().map(|i| i.subject.to_string()).collect();
            let path = format!("{USERS}/show_many?external_ids={}", subjects.join(","));
            self.call(Method::Get, path, Step::Find, items.to_vec())
        }));
        plan
    }

    fn call(&self, method: Method, path: String, step: Step, items: Vec<Item>) -> Call {
        Call::new(method, path, step, items).authorized(self.authorization())
    }

    fn user(&self, item: &Item, given: &Given) -> Map<String, Value> {
        let (mut user, mut fields) = (Map::new(), Map::new());
        let (mut given_name, mut family_name) = (String::new(), String::new());
        let state = state(given);
        for (property, value) in self.mapping.values(&state) {
            let words = text(value, ", ");
            let value = match value {
                Value::Array(_) | Value::Object(_) => json!(words),
                _ => value.clone(),
            };
            match (property, property.strip_prefix(FIELD)) {
                (_, Some(field)) => drop(fields.insert(field.to_owned(), value)),
                ("name.given", _) => given_name = words,
                ("name.family", _) => family_name = words,
                // There is no address to take back, and null is no address.
                (EMAIL, _) if value.is_null() => {}
                _ => drop(user.insert(property.to_owned(), value)),
            }
        }
        let joined = format!("{} {}", given_name.trim(), family_name.trim());
        let name = user
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or(&joined)
            .trim()
            .to_owned();
        let name = if name.is_empty() {
            given.subject.to_string()
        } else {
            name
        };
        user.insert("name".to_owned(), json!(name));
        user.insert("external_id".to_owned(), json!(given.subject));
        user.insert("skip_verify_email".to_owned(), json!(true));
        if !fields.is_empty() {
            user.insert("user_fields".to_owned(), Value::Object(fields));
        }
        if self.suspend_disabled
            && (item.duty == Duty::Keep || given.said == Said::Withdrawn(Reason::Disabled))
        {
            user.insert("suspended".to_owned(), json!(item.duty != Duty::Keep));
        }
        user
    }

    fn erase(&self, items: Vec<Item>) -> Call {
        let numbers: Vec<_> = items.iter().filter_map(|i| i.number.as_deref()).collect();
        let path = format!("{USERS}/destroy_many?ids={}", numbers.join(","));
        self.call(Method::Delete, path, Step::Erase, items)
    }

    fn purge(&self, item: Item) -> Call {
        let path = format!(
            "/api/v2/deleted_users/{}",
            item.number.as_deref().unwrap_or_default()
        );
        self.call(Method::Delete, path, Step::Purge, vec![item])
    }
}

#[cfg(test)]
mod tests;
