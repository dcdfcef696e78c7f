//! What a definition says of a connector to Salesforce.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::DefinitionError;
use super::super::mapping::{Names, is_identifier};

pub(in super::super) const NAMES: Names = Names {
    longest: 80,
    valid: is_identifier,
    rule: "begins with a letter and has letters, digits and underscores",
    reserved: &[
        "id",
        "individual",
        "individualid",
        "attributes",
        "ownerid",
        "hasoptedoutofemail",
        "isdeleted",
        "name",
    ],
    any_case: true,
    defaults: &[
        ("email", "Email"),
        ("given_name", "FirstName"),
        ("family_name", "LastName"),
        ("phone_number", "Phone"),
        ("job_title", "Title"),
    ],
};

/// Which object stands for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Object {
    #[default]
    Contact,
    Lead,
}

/// By which way the person consents to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Channel {
    #[default]
    Email,
    MailingAddress,
    Phone,
    Social,
    Web,
}

impl Object {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Object::Contact => "Contact",
            Object::Lead => "Lead",
        }
    }
}

impl Channel {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Channel::Email => "Email",
            Channel::MailingAddress => "MailingAddress",
            Channel::Phone => "Phone",
            Channel::Social => "Social",
            Channel::Web => "Web",
        }
    }
}

/// What a definition says of a connector to Salesforce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The instance, `https://….my.salesforce.com`.
    pub base_url: String,
    /// Of the REST API.
    #[serde(default = "version")]
    pub version: String,
    #[serde(default)]
    pub object: Object,
    #[serde(default = "gatelog_id")]
    pub external_id: String,
    /// What the consent is for, such as the feed's purpose. Without one no consents are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The id of the `DataUsePurpose` that the consent refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_use_purpose: Option<String>,
    #[serde(default)]
    pub channel: Channel,
    #[serde(default = "gatelog")]
    pub capture_source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<BTreeMap<String, String>>,
}

fn version() -> String {
    "62.0".to_owned()
}

fn gatelog_id() -> String {
    "Gatelog_Id__c".to_owned()
}

fn gatelog() -> String {
    "Gatelog".to_owned()
}

fn setting(field: &'static str, remedy: &'static str, holds: bool) -> Result<(), DefinitionError> {
    if holds {
        Ok(())
    } else {
        Err(DefinitionError::Setting { field, remedy })
    }
}

impl Settings {
    pub(super) fn check(&self) -> Result<(), DefinitionError> {
        let version = self.version.split_once('.');
        let digits = |s: &str| !s.is_empty() && s.len() < 4 && s.bytes().all(|b| b.is_ascii_digit());
        setting(
            "version",
            "must be like 62.0",
            version.is_some_and(|(a, b)| digits(a) && digits(b)),
        )?;
        let external = &self.external_id;
        setting(
            "external_id",
            "must be the name of a field",
            is_identifier(external)
                && external.len() <= NAMES.longest
                && !external.eq_ignore_ascii_case("id"),
        )?;
        let short = |s: &String| (1..=255).contains(&s.chars().count());
        setting(
            "purpose",
            "must have 1 to 255 characters",
            self.purpose.iter().all(short),
        )?;
        setting(
            "capture_source",
            "must have 1 to 255 characters",
            short(&self.capture_source),
        )?;
        let id = |s: &String| matches!(s.len(), 15 | 18) && s.bytes().all(|b| b.is_ascii_alphanumeric());
        setting(
            "data_use_purpose",
            "must be an id of 15 or 18 characters",
            self.data_use_purpose.iter().all(id),
        )?;
        Ok(())
    }
}
