//! The JSON Schema (2020-12) of what the records of one version of a feed say: generated from its definition.

use gatelog_events::domain::feed::{Definition, Field};
use gatelog_projections::details;
use serde_json::{Map, Value, json};

/// The schema of `data`, for all kinds of records of this version.
pub fn data(id: &str, feed: &str, version: u32, definition: &Definition) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": id,
        "title": format!("Feed {feed}, version {version}"),
        "description": "Either the subject's granted fields as they are now, with details of the event, or that the subject must be forgotten.",
        "oneOf": [state(definition, definition.events.iter().map(String::as_str)), withdrawn()],
    })
}

/// What a record with fields says of an event of one of these kinds. A field, or a detail, without a value is absent.
pub fn state<'k>(definition: &Definition, kinds: impl Iterator<Item = &'k str>) -> Value {
    let details: Map<String, Value> = kinds
        .flat_map(details::told)
        .map(|name| ((*name).to_owned(), detail(name)))
        .collect();
    let fields: Map<String, Value> = definition
        .fields
        .iter()
        .map(|f| (f.name().to_owned(), field(*f)))
        .collect();
    let members = [("details", details), ("fields", fields)];
    let properties: Map<String, Value> = members
        .into_iter()
        .filter(|(name, known)| *name == "fields" || !known.is_empty())
        .map(|(name, known)| (name.to_owned(), closed(known)))
        .collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": ["fields"],
        "additionalProperties": false,
    })
}

fn closed(properties: Map<String, Value>) -> Value {
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn detail(name: &str) -> Value {
    match name {
        "effective_at" | "until" => json!({"type": "string", "format": "date-time"}),
        _ => json!({"type": "string"}),
    }
}

/// What a record says when a subject must be forgotten.
pub fn withdrawn() -> Value {
    json!({
        "type": "object",
        "properties": {
            "reason": {"type": "string", "enum": ["consent_withdrawn", "disabled", "erased"]},
        },
        "required": ["reason"],
        "additionalProperties": false,
    })
}

fn field(field: Field) -> Value {
    let names = json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true});
    match field {
        Field::Email => json!({"type": "string", "format": "email"}),
        Field::EmailVerified => json!({"type": "boolean"}),
        Field::Locale => json!({"type": "string", "description": "BCP 47 language tag."}),
        Field::UnsubscribeUrl | Field::PreferencesUrl => json!({"type": "string", "format": "uri"}),
        Field::CreatedAt => json!({"type": "string", "format": "date-time"}),
        Field::Entitlements | Field::Roles | Field::Consents => names,
        Field::Plan | Field::Profile(_) => json!({"type": "string"}),
    }
}
