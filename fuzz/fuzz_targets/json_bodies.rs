//! Any bytes as the body of any request: reading and checking it never panics, what is accepted is what the API's
//! description promises, and what is refused is refused with a reason that does not repeat it.
//!
//! An input is a letter, `a` for the first of `Body::ALL` and so on, and the body. What is accepted is read again with a
//! parser that knows nothing of the API, and each field is checked by its name.

#![no_main]

use std::collections::HashSet;
use std::fmt;

use gatelog::error::{Kind, Problem};
use gatelog::http::bodies::Body;
use gatelog_events::email::Email;
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Stands for what must not come back; it is in the dictionary. No reason of our own contains it.
const SECRET: &str = "s3cret";

/// JSON in which no object has a name twice.
#[derive(Debug)]
enum Json {
    Null,
    Bool,
    Whole(u64),
    OtherNumber,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Read)
    }
}

struct Read;

impl<'de> Visitor<'de> for Read {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let (mut fields, mut seen) = (Vec::new(), HashSet::new());
        while let Some((name, value)) = map.next_entry::<String, Json>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom("a name occurs twice"));
            }
            fields.push((name, value));
        }
        Ok(Json::Object(fields))
    }
}

/// A text that people read: not empty, not long, nothing in it that is not seen.
fn is_readable(text: &str) -> bool {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    !text.trim().is_empty() && text.chars().count() <= 256 && !text.chars().any(hidden)
}

/// Only ASCII letters and digits, and `also`.
fn is_plain(text: &str, longest: usize, also: &[char]) -> bool {
    (1..=longest).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || also.contains(&c))
}

fn is_name(text: &str) -> bool {
    is_plain(text, 64, &['_', '-', '.', ':'])
}

fn is_web_address(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://")) && !text.contains(char::is_whitespace)
}

/// A text of at most 20,000 characters, and lines.
fn is_notice(text: &str) -> bool {
    text.chars().count() <= 20_000
        && text
            .chars()
            .all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

/// Whether the API's description allows this text in a field of this name.
fn text_fits(body: Body, name: &str, text: &str) -> bool {
    match name {
        "email" | "identifier" => Email::parse(text).is_ok(),
        "password" | "current_password" => !text.is_empty() && text.len() <= 4096,
        "refresh_token" => true,
        "purpose" | "channel" | "plan" | "source" | "id" => is_name(text),
        "locale" | "language" => is_plain(text, 35, &['-']),
        "url" => is_web_address(text),
        "text" => is_notice(text),
        "status" => ["active", "disabled"].contains(&text),
        "intent" => ["cancel", "renew"].contains(&text),
        "lawful_basis" => is_plain(text, 20, &['_']),
        "effective_at" => text.is_ascii() && text.starts_with(|c: char| c.is_ascii_digit()),
        "version" | "description" | "note" | "reason" => is_readable(text),
        "name" if body == Body::ApiKey => is_readable(text),
        _ => false,
    }
}

/// Whether the API's description allows this value in a field of this name. Null is as if the field were absent.
fn fits(body: Body, name: &str, value: &Json) -> bool {
    match (name, value) {
        ("granted", Json::Bool) | (_, Json::Null) => true,
        ("rank", Json::Whole(n)) => u32::try_from(*n).is_ok(),
        ("notice", Json::Object(fields)) => fields.iter().all(|(name, value)| fits(body, name, value)),
        ("profile", Json::Object(fields)) => fields.iter().all(|(_, value)| is_readable_value(value)),
        ("consents", Json::List(list)) => list.iter().all(|consent| match consent {
            Json::Object(fields) => fields.iter().all(|(name, value)| fits(body, name, value)),
            _ => false,
        }),
        ("entitlements" | "scopes", Json::List(list)) => list
            .iter()
            .all(|item| matches!(item, Json::Text(text) if is_name(text))),
        (name, Json::Text(text)) if body == Body::Profile && name != "locale" => is_readable(text),
        (name, Json::Text(text)) => text_fits(body, name, text),
        _ => false,
    }
}

fn is_readable_value(value: &Json) -> bool {
    matches!(value, Json::Text(text) if is_readable(text))
}

fn accepted(body: Body, raw: &[u8]) {
    let read = serde_json::from_slice(raw);
    let Ok(Json::Object(fields)) = read else {
        panic!("{body:?} was accepted and is no object of JSON with unique names: {read:?}");
    };
    for (name, value) in &fields {
        assert!(
            fits(body, name, value),
            "{body:?} was accepted with {name}: {value:?}"
        );
    }
}

fn refused(body: Body, raw: &[u8], problem: &Problem) {
    match problem.kind() {
        Kind::MalformedJson => {
            let read = serde_json::from_slice::<serde_json::Value>(raw);
            assert!(read.is_err(), "{body:?} is JSON and was refused as none");
        }
        Kind::InvalidInput => assert!(!problem.errors().is_empty(), "{body:?}: no field is named"),
        Kind::PasswordNotAccepted => {}
        kind => panic!("{body:?} was refused as {kind:?}"),
    }
    for error in problem.errors() {
        let harmless = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '&' | '"');
        assert!(!error.field.is_empty() && error.field.len() <= 256 && error.field.chars().all(harmless));
        assert!(
            !error.detail.is_empty() && !error.detail.contains(SECRET),
            "{}",
            error.detail
        );
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((letter, raw)) = input.split_first() else {
        return;
    };
    let Some(body) = Body::ALL.get(usize::from(letter.wrapping_sub(b'a'))) else {
        return;
    };
    match body.check(raw) {
        Ok(()) => accepted(*body, raw),
        Err(problem) => refused(*body, raw, &problem),
    }
});
