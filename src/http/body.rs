//! Bodies: JSON under strict rules, and errors that name the field and never repeat what was sent.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::app::App;
use super::shape::Object;
use crate::error::{Kind, Problem};

/// A body beyond the limit is read on up to this, and thrown away: a connection that is closed while the caller still
/// sends loses the answer.
const DISCARDED_AT_MOST: usize = 16 << 20;

/// A body of JSON, and its bytes.
pub struct Json<T> {
    pub value: T,
    pub raw: Bytes,
}

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let raw = read(request, app.node.config.max_body_bytes).await?;
        if !is_json {
            return Err(Problem::new(
                Kind::NotJson,
                "Send JSON with `Content-Type: application/json`.",
            ));
        }
        let value = parse(&raw)?;
        Ok(Self { value, raw })
    }
}

/// `application/json`, or a type that is written in JSON (RFC 6839), such as `application/merge-patch+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(request: Request, limit: usize) -> Result<Bytes, Problem> {
    let mut chunks = request.into_body().into_data_stream();
    let mut whole = BytesMut::new();
    let mut seen = 0usize;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Problem::new(
                Kind::BodyUnreadable,
                "The connection broke, or the body is malformed; send it again.",
            )
        })?;
        seen = seen.saturating_add(chunk.len());
        if seen <= limit {
            whole.extend_from_slice(&chunk);
        } else if seen > DISCARDED_AT_MOST {
            break;
        }
    }
    if seen > limit {
        let detail = format!("A body may have at most {limit} bytes. Send less at once.");
        return Err(Problem::new(Kind::BodyTooLarge, detail));
    }
    Ok(whole.freeze())
}

/// Reads a body, which is one object. Unknown and repeated fields are refused.
pub(super) fn parse<T: DeserializeOwned>(raw: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(raw);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        refused(&path, e.inner())
    })?;
    json.end().map_err(|e| refused(".", &e))?;
    Ok(value)
}

fn refused(path: &str, e: &serde_json::Error) -> Problem {
    if !e.is_data() {
        let detail = format!(
            "The text is not valid JSON (RFC 8259) at line {}, column {}. Correct it and send it again.",
            e.line(),
            e.column()
        );
        return Problem::new(Kind::MalformedJson, detail);
    }
    let (field, detail) = explain(path, &e.to_string());
    Problem::invalid(vec![]).field(field, detail)
}

/// Field and remedy of an error of serde. Its own text may hold what was sent, so only what it expected is taken over.
pub(super) fn explain(path: &str, message: &str) -> (String, Cow<'static, str>) {
    let path = if path == "." { "" } else { path };
    let named = |rest: &str| {
        let name = rest.split('`').next().unwrap_or_default();
        if path.is_empty() {
            safe(name)
        } else {
            format!("{}.{}", safe(path), safe(name))
        }
    };
    if let Some(rest) = message.strip_prefix("missing field `") {
        return (named(rest), "It is required.".into());
    }
    if let Some(rest) = message.strip_prefix("duplicate field `") {
        let name = rest.split('`').next().unwrap_or_default();
        let field = if path.ends_with(name) {
            safe(path)
        } else {
            named(rest)
        };
        return (field, "It occurs twice. Send it once.".into());
    }
    let field = if path.is_empty() {
        "(body)".to_owned()
    } else {
        safe(path)
    };
    if message.starts_with("unknown field `") {
        return (field, "There is no such field here. Remove it.".into());
    }
    if [
        "invalid type: ",
        "invalid value: ",
        "invalid length ",
        "unknown variant `",
    ]
    .iter()
    .any(|start| message.starts_with(start))
    {
        let expected = message
            .rsplit_once(", expected ")
            .map_or("another value", |(_, e)| e);
        let expected = expected.split(" at line ").next().unwrap_or(expected);
        return (field, format!("It must be {}.", understandable(expected)).into());
    }
    (field, "It is not valid here.".into())
}

/// Names of Rust say nothing to callers.
fn understandable(expected: &str) -> &str {
    if expected.starts_with("struct ") || expected == "a map" {
        "an object"
    } else if expected == "a sequence" {
        "a list"
    } else if expected.starts_with("u8") || expected.starts_with("u16") || expected.starts_with("u32") {
        "a whole number that is not negative"
    } else {
        expected
    }
}

/// A name as the caller wrote it, cut short and without anything that could harm whoever displays it. The empty name
/// is two quotes, for it must be seen.
fn safe(name: &str) -> String {
    if name.is_empty() {
        return "''".to_owned();
    }
    name.chars()
        .map(|c| {
            if c.is_ascii_graphic() && !matches!(c, '<' | '>' | '&' | '"') {
                c
            } else {
                '?'
            }
        })
        .take(100)
        .collect()
}

/// An object with names of the caller's choice, each at most once.
pub struct Entries<V>(pub Vec<(String, V)>);

impl<V> Default for Entries<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Collect<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Collect<V> {
            type Value = Vec<(String, V)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format_args!(
                            "duplicate field `{}`",
                            safe(&name)
                        )));
                    }
                    entries.push((name, value));
                }
                Ok(entries)
            }
        }
        d.deserialize_map(Collect(PhantomData)).map(Self)
    }
}

/// A secret text in a body: not shown by `Debug`, wiped when dropped.
#[derive(Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password)]
pub struct SecretText(String);

impl SecretText {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::shape::Word;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Body {
        name: String,
        granted: Option<bool>,
        inner: Option<Inner>,
        map: Option<Entries<String>>,
        kind: Option<Lawful>,
        shaped: Option<Object<Inner>>,
        word: Option<Word<Lawful>>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        list: Vec<u32>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Lawful {
        Consent,
    }

    fn outcome(text: &[u8]) -> (Kind, String) {
        let problem = parse::<Body>(text).err().unwrap();
        let shown = format!("{problem:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
        (problem.kind(), shown)
    }

    #[test]
    fn errors_name_the_field_and_never_the_value() {
        for (text, field, detail) in [
            (r#"{}"#, "name", "It is required."),
            (
                r#"{"name":"a","x":"s3cret"}"#,
                "x",
                "There is no such field here. Remove it.",
            ),
            (r#"{"name":["s3cret"]}"#, "name", "It must be a string."),
            (
                r#"{"name":"a","granted":"s3cret, expected x"}"#,
                "granted",
                "It must be a boolean.",
            ),
            (
                r#"{"name":"a","inner":{"list":[1,-2]}}"#,
                "inner.list[1]",
                "It must be a whole number that is not negative.",
            ),
            (r#"{"name":"a","inner":{}}"#, "inner.list", "It is required."),
            (
                r#"{"name":"a","inner":"s3cret"}"#,
                "inner",
                "It must be an object.",
            ),
            (r#"{"name":"a","kind":"s3cret"}"#, "kind", "It must be `consent`."),
            (
                r#"{"name":"a","name":"s3cret"}"#,
                "name",
                "It occurs twice. Send it once.",
            ),
            (
                r#"{"name":"a","map":{"k":"1","k":"s3cret"}}"#,
                "map.k",
                "It occurs twice. Send it once.",
            ),
            (r#"{"name":"a","map":{"k":7}}"#, "map.k", "It must be a string."),
            (r#"["s3cret"]"#, "(body)", "It must be an object."),
            (
                r#"{"name":"a","shaped":["s3cret"]}"#,
                "shaped",
                "It must be an object.",
            ),
            (
                r#"{"name":"a","word":{"consent":null}}"#,
                "word",
                "It must be a string.",
            ),
            (r#"{"name":"a","word":"s3cret"}"#, "word", "It must be `consent`."),
            // Of an enum by itself, serde_json says that this is not JSON.
            (r#"{"name":"a","word":7}"#, "word", "It must be a string."),
        ] {
            let (kind, shown) = outcome(text.as_bytes());
            assert_eq!(kind, Kind::InvalidInput, "{text}");
            let wanted = format!("field: {field:?}, detail: {detail:?}");
            assert!(shown.contains(&wanted), "{text}: {shown}");
        }
    }

    #[test]
    fn the_empty_name_is_seen() {
        for text in [r#"{"":"1","":"2"}"#, r#"{"a":"1","":"2","":"3"}"#] {
            let problem = parse::<Entries<String>>(text.as_bytes()).err().unwrap();
            assert_eq!(problem.errors()[0].field, "''", "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        let deep = format!("{{\"name\":{}", "[".repeat(10_000));
        for text in [
            &b"{\"name\":\"s3cret\""[..],
            b"",
            b"{\"name\":\"\xff\"}",
            br#"{"name":"\ud800"}"#,
            br#"{"name":"a"} s3cret"#,
            b"{'name':'s3cret'}",
            b"{\"name\":\"a\0\"}",
            deep.as_bytes(),
        ] {
            // A list where a text should be is a wrong type before it is too deep.
            let (kind, _) = outcome(text);
            assert!(matches!(kind, Kind::MalformedJson | Kind::InvalidInput));
        }
        assert_eq!(outcome(br#"{"name":"\ud800"}"#).0, Kind::MalformedJson);
        assert_eq!(outcome(b"").0, Kind::MalformedJson);
    }

    #[test]
    fn names_are_made_harmless() {
        let (_, shown) = outcome("{\"name\":\"a\",\"<script>\u{202e}\":1}".as_bytes());
        assert!(shown.contains("?script??"), "{shown}");
    }

    #[test]
    fn content_types() {
        for (value, ok) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_json(&headers), ok, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
