//! The schemas that are checked in say what the types say, and break nobody who reads by the last release.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod compat;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use compat::breaking_changes;
use gatelog_events::domain::Event;
use gatelog_events::upcast;
use serde_json::{Value, json};

const REGENERATE: &str = "UPDATE_SCHEMAS=1 cargo test -p gatelog-events --test schemas";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas")
}

/// Event type → schema, of all files in a folder.
fn read(folder: &Path) -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
    files
        .filter(|f| f.extension().is_some_and(|e| e == "json"))
        .map(|f| {
            let schema = serde_json::from_slice(&std::fs::read(&f).unwrap()).unwrap();
            (f.file_stem().unwrap().to_str().unwrap().to_owned(), schema)
        })
        .filter(|(name, _)| name.starts_with("com.gatelog."))
        .collect()
}

/// `com.gatelog.user.email_changed.v1` → `UserEmailChanged`.
fn title(event_type: &str) -> String {
    let name = event_type.strip_prefix("com.gatelog.").unwrap();
    let (name, _version) = name.rsplit_once(".v").unwrap();
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split(['.', '_']).map(capital).collect()
}

/// What the types say.
fn generated() -> BTreeMap<String, schemars::Schema> {
    let whole = |(name, mut schema): (&str, schemars::Schema)| {
        schema.insert("$id".into(), format!("urn:gatelog:schema:{name}").into());
        schema.insert("title".into(), title(name).into());
        (name.to_owned(), schema)
    };
    Event::schemas().into_iter().map(whole).collect()
}

#[test]
fn the_files_say_what_the_types_say() {
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        for (name, schema) in generated() {
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            std::fs::write(folder().join(format!("{name}.json")), text).unwrap();
        }
    }
    let files = read(&folder());
    for (name, schema) in generated() {
        let same = files.get(&name) == Some(&Value::from(schema));
        assert!(
            same,
            "schemas/{name}.json differs from the type. If it should: {REGENERATE}"
        );
    }
}

#[test]
fn each_type_and_version_has_a_file_and_each_file_a_type() {
    let expected: BTreeSet<_> = generated()
        .into_keys()
        .chain(upcast::old_types().map(str::to_owned))
        .collect();
    let files = read(&folder());
    assert!(
        files.keys().eq(expected.iter()),
        "run {REGENERATE}; files of old versions are kept by hand"
    );
    for (name, schema) in files {
        assert_eq!(schema["$id"], format!("urn:gatelog:schema:{name}"));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["title"], title(&name));
    }
}

#[test]
fn no_change_breaks_readers_of_the_last_release() {
    let now = read(&folder());
    let released = read(&folder().join("released"));
    assert!(!released.is_empty());
    for (name, old) in released {
        let new = now
            .get(&name)
            .unwrap_or_else(|| panic!("{name} was released and is read for ever"));
        let breaks = breaking_changes(&old, new);
        assert!(
            breaks.is_empty(),
            "{name} breaks readers of the last release; make it a new version with an upcaster:\n  {}",
            breaks.join("\n  ")
        );
    }
}

/// A schema with everything that the gate looks at.
fn sample() -> Value {
    json!({
        "$id": "urn:x", "title": "X", "type": "object",
        "properties": {
            "name": {"type": "string"},
            "note": {"type": ["string", "null"]},
            "time": {"type": "string", "format": "date-time"},
            "count": {"type": "integer", "format": "uint32", "minimum": 0},
            "code": {"type": "string", "pattern": "^[a-z]+$"},
            "kind": {"$ref": "#/$defs/Kind"},
            "method": {"$ref": "#/$defs/Method"},
            "fixed": {"const": 1},
            "tags": {"type": "array", "items": {"type": "string"}},
            "extra": {"type": "object", "additionalProperties": {"type": "string"}},
            "place": {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]},
            "sealed": {"type": "string", "x-sealed-content": {"$ref": "#/$defs/Place"}},
        },
        "required": ["name", "kind", "sealed"],
        "$defs": {
            "Kind": {"type": "string", "enum": ["a", "b"]},
            "Method": {"oneOf": [{"const": "form", "type": "string"}, {"const": "import", "type": "string"}]},
            "Place": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "zip": {"type": "string"}},
                "required": ["city"],
            },
        },
    })
}

/// The sample with `place` (a JSON pointer) set to `value`, or removed if it is null.
fn changed(place: &str, value: Value) -> Value {
    let mut schema = sample();
    let (parent, key) = place.rsplit_once('/').unwrap();
    let parent = schema.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(o), Value::Null) => drop(o.remove(key).unwrap()),
        (Value::Object(o), value) => drop(o.insert(key.to_owned(), value)),
        (Value::Array(a), Value::Null) => drop(a.remove(key.parse().unwrap())),
        (Value::Array(a), value) => a[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{place}"),
    }
    schema
}

#[test]
fn the_gate_finds_what_breaks() {
    for (what, place, value) in [
        ("a property removed", "/properties/note", Value::Null),
        ("a required property removed", "/properties/name", Value::Null),
        (
            "a property newly required",
            "/required",
            json!(["name", "kind", "sealed", "note"]),
        ),
        (
            "a property no longer promised",
            "/required",
            json!(["kind", "sealed"]),
        ),
        ("another type", "/properties/name/type", json!("integer")),
        ("a narrower type", "/properties/note/type", json!("string")),
        (
            "a wider type, which old readers refuse",
            "/properties/name/type",
            json!(["string", "null"]),
        ),
        ("no type any more", "/properties/name/type", Value::Null),
        ("a value removed", "/$defs/Kind/enum", json!(["a"])),
        ("a value renamed", "/$defs/Kind/enum", json!(["a", "c"])),
        ("a described value removed", "/$defs/Method/oneOf/1", Value::Null),
        (
            "a text that became a list of values",
            "/properties/name/enum",
            json!(["Ada"]),
        ),
        (
            "a list of values that became a text",
            "/$defs/Kind/enum",
            Value::Null,
        ),
        ("another constant", "/properties/fixed/const", json!(2)),
        ("another format", "/properties/time/format", json!("date")),
        ("no format any more", "/properties/time/format", Value::Null),
        ("a wider number", "/properties/count/format", json!("uint64")),
        ("a new bound", "/properties/count/maximum", json!(10)),
        (
            "another pattern",
            "/properties/code/pattern",
            json!("^[a-z0-9]+$"),
        ),
        ("a new pattern", "/properties/name/pattern", json!("^A")),
        (
            "items of another type",
            "/properties/tags/items/type",
            json!("integer"),
        ),
        (
            "other properties of another type",
            "/properties/extra/additionalProperties/type",
            json!("integer"),
        ),
        ("an object that was closed", "/additionalProperties", json!(false)),
        ("a branch removed", "/properties/place/anyOf/1", Value::Null),
        (
            "a definition narrowed",
            "/$defs/Place/required",
            json!(["city", "zip"]),
        ),
        (
            "sealed content in the clear",
            "/properties/sealed",
            json!({"$ref": "#/$defs/Place"}),
        ),
        (
            "clear content sealed",
            "/properties/name/x-sealed-content",
            json!({"type": "string"}),
        ),
        (
            "a sealed property removed",
            "/$defs/Place/properties/zip",
            Value::Null,
        ),
        (
            "a sealed property of another type",
            "/$defs/Place/properties/zip/type",
            json!("integer"),
        ),
    ] {
        assert!(
            !breaking_changes(&sample(), &changed(place, value)).is_empty(),
            "{what} was let through"
        );
    }
}

#[test]
fn the_gate_lets_pass_what_is_harmless() {
    for (what, place, value) in [
        ("nothing", "/title", json!("X")),
        ("another title", "/title", json!("Y")),
        (
            "a description",
            "/properties/name/description",
            json!("how they are called"),
        ),
        ("a default", "/properties/note/default", json!("")),
        (
            "a new optional property",
            "/properties/new",
            json!({"type": "string"}),
        ),
        (
            "a new optional sealed property",
            "/$defs/Place/properties/street",
            json!({"type": "string"}),
        ),
        ("one more value", "/$defs/Kind/enum", json!(["a", "b", "c"])),
        (
            "values that got descriptions",
            "/$defs/Kind",
            json!({
                "oneOf": [{"const": "a", "description": "first"}, {"enum": ["b"], "type": "string"}],
            }),
        ),
        (
            "a definition written out",
            "/properties/kind",
            json!({"type": "string", "enum": ["b", "a"]}),
        ),
        (
            "required in another order",
            "/required",
            json!(["sealed", "kind", "name"]),
        ),
        (
            "types in another order",
            "/properties/note/type",
            json!(["null", "string"]),
        ),
    ] {
        assert_eq!(
            breaking_changes(&sample(), &changed(place, value)),
            [""; 0],
            "{what}"
        );
    }
    let closed = changed("/additionalProperties", json!(false));
    assert_eq!(
        breaking_changes(&closed, &sample()),
        [""; 0],
        "an object that was opened"
    );
}
