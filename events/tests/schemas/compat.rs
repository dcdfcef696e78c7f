//! The compatibility gate: what in a new schema would break those who read by the old one.
//!
//! Two kinds of readers count: a new program that reads old events (so nothing may be demanded or refused that was not
//! before), and an old program that reads new events (so nothing may vanish that was promised). More values of an enum
//! and more optional properties are allowed: readers are upgraded before writers, and pass over what they do not know.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Keywords that only people read.
const ANNOTATIONS: &[&str] = &[
    "$schema",
    "$id",
    "$defs",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
];
/// Keywords with a rule of their own. All others must stay as they are.
const WITH_RULES: &[&str] = &[
    "type",
    "enum",
    "const",
    "oneOf",
    "anyOf",
    "allOf",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "x-sealed-content",
];

/// What breaks, each with its place; empty if nothing does.
pub fn breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let mut gate = Gate {
        old,
        new,
        found: Vec::new(),
    };
    gate.compare("", old, new);
    gate.found
}

struct Gate<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
}

impl Gate<'_> {
    fn breaks(&mut self, place: &str, what: impl AsRef<str>) {
        self.found.push(format!(
            "{}: {}",
            if place.is_empty() { "/" } else { place },
            what.as_ref()
        ));
    }

    fn compare(&mut self, place: &str, old: &Value, new: &Value) {
        let (Some(old), Some(new)) = (resolve(self.old, old), resolve(self.new, new)) else {
            // `true` and `false` are schemas too.
            if old != new {
                self.breaks(place, "changed");
            }
            return;
        };
        match (values(self.old, &old), values(self.new, &new)) {
            (Some(before), Some(after)) => {
                for gone in before.difference(&after) {
                    self.breaks(place, format!("value {gone} removed"));
                }
            }
            (None, None) => {
                if types(&old) != types(&new) {
                    self.breaks(place, "type changed");
                }
                self.branches(place, &old, &new);
            }
            _ => self.breaks(place, "became, or is no longer, a list of values"),
        }
        self.properties(place, &old, &new);
        for keyword in ["items", "x-sealed-content"] {
            self.same_or_compare(&format!("{place}/{keyword}"), old.get(keyword), new.get(keyword));
        }
        let keywords: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for keyword in keywords {
            let free = ANNOTATIONS.contains(&keyword.as_str()) || WITH_RULES.contains(&keyword.as_str());
            if !free && old.get(keyword) != new.get(keyword) {
                self.breaks(place, format!("{keyword} changed"));
            }
        }
    }

    fn same_or_compare(&mut self, place: &str, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, None) => {}
            (Some(old), Some(new)) => self.compare(place, old, new),
            (Some(_), None) => self.breaks(place, "removed"),
            (None, Some(_)) => self.breaks(place, "added"),
        }
    }

    fn branches(&mut self, place: &str, old: &Map<String, Value>, new: &Map<String, Value>) {
        for keyword in ["oneOf", "anyOf", "allOf"] {
            let list = |schema: &Map<String, Value>| match schema.get(keyword) {
                Some(Value::Array(branches)) => branches.clone(),
                _ => vec![],
            };
            let (before, after) = (list(old), list(new));
            if before.len() != after.len() {
                self.breaks(place, format!("{keyword} has other branches"));
            }
            for (i, (old, new)) in before.iter().zip(&after).enumerate() {
                self.compare(&format!("{place}/{keyword}/{i}"), old, new);
            }
        }
    }

    fn properties(&mut self, place: &str, old: &Map<String, Value>, new: &Map<String, Value>) {
        let of = |schema: &Map<String, Value>| match schema.get("properties") {
            Some(Value::Object(properties)) => properties.clone(),
            _ => Map::new(),
        };
        let after = of(new);
        for (name, old) in &of(old) {
            match after.get(name) {
                Some(new) => self.compare(&format!("{place}/{name}"), old, new),
                None => self.breaks(place, format!("property {name} removed")),
            }
        }
        let (before, after) = (strings(old.get("required")), strings(new.get("required")));
        for name in after.difference(&before) {
            self.breaks(place, format!("property {name} newly required"));
        }
        for name in before.difference(&after) {
            self.breaks(place, format!("property {name} no longer promised"));
        }
        let rest = |schema: &Map<String, Value>| {
            schema
                .get("additionalProperties")
                .cloned()
                .unwrap_or(Value::Bool(true))
        };
        match (rest(old), rest(new)) {
            (Value::Bool(true), Value::Bool(true)) | (Value::Bool(false), _) => {}
            (Value::Bool(true), _) => self.breaks(place, "other properties are now refused or restricted"),
            (old, new) => self.compare(&format!("{place}/*"), &old, &new),
        }
    }
}

/// The schema with its `$ref` followed; `None` for `true` and `false`.
fn resolve(root: &Value, schema: &Value) -> Option<Map<String, Value>> {
    let mut schema = schema.as_object()?.clone();
    // Bounded, in case two definitions name each other.
    for _ in 0..16 {
        let Some(Value::String(reference)) = schema.remove("$ref") else {
            break;
        };
        let target = reference
            .strip_prefix('#')
            .and_then(|pointer| root.pointer(pointer))?;
        for (keyword, value) in target.as_object()? {
            schema.entry(keyword.clone()).or_insert_with(|| value.clone());
        }
    }
    Some(schema)
}

/// The values that a schema lists, in whichever of the forms that schemars writes enums.
fn values(root: &Value, schema: &Map<String, Value>) -> Option<BTreeSet<String>> {
    if let Some(value) = schema.get("const") {
        return Some([value.to_string()].into());
    }
    if let Some(Value::Array(list)) = schema.get("enum") {
        return Some(list.iter().map(Value::to_string).collect());
    }
    let branches = schema.get("oneOf")?.as_array()?;
    let lists: Option<Vec<_>> = branches
        .iter()
        .map(|b| values(root, &resolve(root, b)?))
        .collect();
    Some(lists?.into_iter().flatten().collect())
}

fn types(schema: &Map<String, Value>) -> BTreeSet<String> {
    match schema.get("type") {
        Some(Value::String(one)) => [one.clone()].into(),
        several => strings(several),
    }
}

fn strings(list: Option<&Value>) -> BTreeSet<String> {
    let list = list.and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}
