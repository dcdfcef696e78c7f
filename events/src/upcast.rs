//! Old event types in the form of their latest version, before anything else sees them.
//!
//! An upcaster is a pure function on the stored data. Sealed parts pass through untouched: they are bound to their
//! type's name without its version. A sealed content that changes its form needs a type of its own.

use serde_json::{Value, json};

use crate::domain::Event;

/// One step: the old type, the type it becomes, and how its data change.
struct Upcaster {
    from: &'static str,
    to: &'static str,
    data: fn(Value) -> Value,
}

const UPCASTERS: &[Upcaster] = &[
    Upcaster {
        from: "com.gatelog.consent.granted.v1",
        to: "com.gatelog.consent.granted.v2",
        data: notice_gets_a_language,
    },
    Upcaster {
        from: "com.gatelog.consent.withdrawn.v1",
        to: "com.gatelog.consent.withdrawn.v2",
        data: notice_gets_a_language,
    },
];

/// v1 named a notice by id and version only. `und` is BCP 47's tag for a language that is not determined.
fn notice_gets_a_language(mut data: Value) -> Value {
    if let Some(notice) = data.get_mut("notice").and_then(Value::as_object_mut) {
        notice.entry("language").or_insert_with(|| json!("und"));
    }
    data
}

/// The old types that are still read.
pub fn old_types() -> impl Iterator<Item = &'static str> {
    UPCASTERS.iter().map(|u| u.from)
}

/// Reads data of an old type as the latest. `None`: the type is not known at all.
pub(crate) fn upcast(event_type: &str, data: &str) -> Option<Result<Event, serde_json::Error>> {
    let mut step = UPCASTERS.iter().find(|u| u.from == event_type)?;
    let mut value: Value = match serde_json::from_str(data) {
        Ok(v) => v,
        Err(e) => return Some(Err(e)),
    };
    loop {
        value = (step.data)(value);
        match UPCASTERS.iter().find(|u| u.from == step.to) {
            Some(next) => step = next,
            None => return Event::decode(step.to, &value.to_string()),
        }
    }
}
