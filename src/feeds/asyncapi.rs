//! The document (AsyncAPI 3.0) of all feeds of a tenant, generated from their definitions.

use gatelog_events::domain::feed::{Definition, Feed};
use gatelog_events::domain::tenant::Settings;
use serde_json::{Map, Value, json};

use super::record::{self, SNAPSHOT, WITHDRAWN};
use super::schema;

/// One channel per version of each feed that is not retired. `issuer` is the URL of this installation.
pub fn document(issuer: &str, settings: &Settings) -> Value {
    let issuer = issuer.trim_end_matches('/');
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let live = settings.feeds.iter().filter(|(_, f)| f.retired_at.is_none());
    for (name, version, definition) in live.flat_map(|(name, feed)| versions(name, feed)) {
        let key = key(name, version);
        operations.insert(
            format!("follow.{key}"),
            json!({"action": "receive", "channel": {"$ref": format!("#/channels/{}", pointer(&key))}}),
        );
        channels.insert(key, channel(name, version, definition));
    }
    let (protocol, host) = issuer.split_once("://").unwrap_or(("https", issuer));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Gatelog feeds",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What consumers may follow of the log: CloudEvents, by page or as server-sent events.",
        },
        "defaultContentType": "application/cloudevents+json",
        "servers": {"gatelog": {"host": host, "protocol": protocol}},
        "channels": channels,
        "operations": operations,
    })
}

fn versions<'a>(name: &'a str, feed: &'a Feed) -> impl Iterator<Item = (&'a str, u32, &'a Definition)> {
    (1..)
        .zip(&feed.versions)
        .map(move |(n, v)| (name, n, &v.definition))
}

fn key(name: &str, version: u32) -> String {
    format!("{name}.v{version}")
}

/// A key as a JSON Pointer holds it (RFC 6901).
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn channel(name: &str, version: u32, definition: &Definition) -> Value {
    let mut messages = Map::new();
    let kinds = definition.events.iter().map(String::as_str);
    for kind in kinds.chain([SNAPSHOT]) {
        let data = schema::state(definition, [kind].into_iter());
        messages.insert(kind.to_owned(), message(kind, data));
    }
    messages.insert(WITHDRAWN.to_owned(), message(WITHDRAWN, schema::withdrawn()));
    json!({
        "address": format!("/v1/feeds/{name}/events?version={version}"),
        "title": format!("Feed {name}, version {version}"),
        "description": definition.description,
        "messages": messages,
    })
    .as_object()
    .map(without_nulls)
    .unwrap_or_default()
}

fn without_nulls(object: &Map<String, Value>) -> Value {
    let kept = object.iter().filter(|(_, v)| !v.is_null());
    kept.map(|(k, v)| (k.clone(), v.clone()))
        .collect::<Map<_, _>>()
        .into()
}

fn message(kind: &str, data: Value) -> Value {
    let text = json!({"type": "string"});
    json!({
        "name": record::type_name(kind),
        "contentType": "application/cloudevents+json",
        "payload": {
            "type": "object",
            "required": ["specversion", "id", "source", "type", "subject", "data"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": {"type": "string", "format": "uuid"},
                "source": text,
                "type": {"const": record::type_name(kind)},
                "subject": {"type": "string", "format": "uuid", "description": "This feed's own name of the user."},
                "time": {"type": "string", "format": "date-time"},
                "sequence": text,
                "datacontenttype": {"const": "application/json"},
                "dataschema": {"type": "string", "format": "uri"},
                "data": data,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatelog_events::clock::Timestamp;
    use gatelog_events::domain::feed::Field;
    use gatelog_events::domain::tenant::{FeedDefined, TenantEvent};

    /// The feed of the README, in two versions.
    fn example() -> Value {
        let mut settings = Settings::default();
        for (sequence, fields) in
            (1..).zip([&["email", "plan"][..], &["email", "given_name", "locale", "plan"]])
        {
            let named = Field::all().filter(|field| fields.contains(&field.name()));
            let defined = TenantEvent::FeedDefined(FeedDefined {
                name: "marketing".into(),
                definition: Definition {
                    description: Some("The newsletter's readers".into()),
                    purpose: Some("newsletter".into()),
                    fields: named.collect(),
                    events: ["plan.upgraded", "user.profile_changed"]
                        .map(str::to_owned)
                        .into(),
                    retention_seconds: None,
                },
            });
            settings.evolve(&defined, Timestamp::EPOCH, sequence);
        }
        document("https://login.example.com", &settings)
    }

    #[test]
    fn the_checked_in_example_is_that_of_the_code() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/asyncapi.json");
        let now = format!("{:#}\n", example());
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &now).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == now,
            "schemas/asyncapi.json is not that of the code; run the tests with UPDATE_SCHEMAS=1"
        );
    }
}
