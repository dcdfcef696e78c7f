//! Which of a feed's fields become which of a vendor's properties. What is in no mapping never leaves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// The names of all fields that a feed can have; in the host, `Field::all()`.
pub const FIELDS: [&str; 26] = [
    "email",
    "email_verified",
    "locale",
    "plan",
    "entitlements",
    "roles",
    "created_at",
    "consents",
    "unsubscribe_url",
    "preferences_url",
    "given_name",
    "family_name",
    "middle_name",
    "nickname",
    "gender",
    "birthdate",
    "phone_number",
    "street_address",
    "locality",
    "region",
    "postal_code",
    "country",
    "zoneinfo",
    "website",
    "company",
    "job_title",
];

/// What a vendor's property names look like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// Bytes of a name.
    pub longest: usize,
    /// Whether the name is well-formed.
    pub valid: fn(&str) -> bool,
    /// What `valid` asks for.
    pub rule: &'static str,
    /// Names, in lower case, that the connector or the vendor gives a meaning of its own.
    pub reserved: &'static [&'static str],
    /// Whether names that differ in case only are the same name.
    pub any_case: bool,
    /// What is mapped if nothing is said.
    pub defaults: &'static [(&'static str, &'static str)],
}

/// A mapping cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    #[error("mapping.{field}: there is no such field of a feed; take one of {}", FIELDS.join(", "))]
    UnknownField { field: String },
    #[error("mapping.{field}: the feed does not name this field; add it to the feed or leave it out here")]
    NotInFeed { field: String },
    #[error("mapping.{field}: the property's name is empty; give one, or leave the field out")]
    Empty { field: String },
    #[error("mapping.{field}: the property's name is longer than {longest} bytes; shorten it")]
    TooLong { field: String, longest: usize },
    #[error("mapping.{field}: the property's name is not well-formed; it {rule}")]
    IllFormed { field: String, rule: &'static str },
    #[error("mapping.{field}: the property `{name}` is set by the connector or the vendor; take another")]
    Reserved { field: String, name: String },
    #[error("mapping.{field}: the property `{name}` is taken by `{other}`; take another for one of them")]
    Taken {
        field: String,
        other: String,
        name: String,
    },
}

impl MappingError {
    /// The field that it is about.
    pub fn field(&self) -> &str {
        match self {
            MappingError::UnknownField { field }
            | MappingError::NotInFeed { field }
            | MappingError::Empty { field }
            | MappingError::TooLong { field, .. }
            | MappingError::IllFormed { field, .. }
            | MappingError::Reserved { field, .. }
            | MappingError::Taken { field, .. } => field,
        }
    }
}

/// A checked mapping: field and property, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping(Vec<(String, String)>);

impl Mapping {
    /// The mapping that was asked for, or the vendor's defaults as far as the feed names their fields. What is asked for
    /// replaces the defaults as a whole, so that a mapping says all that leaves.
    pub(super) fn new(
        names: &Names,
        asked: Option<&BTreeMap<String, String>>,
        fields: &BTreeSet<String>,
    ) -> Result<Self, MappingError> {
        let Some(asked) = asked else {
            let defaults = names.defaults.iter().filter(|(field, _)| fields.contains(*field));
            return Ok(Self(
                defaults.map(|&(f, p)| (f.to_owned(), p.to_owned())).collect(),
            ));
        };
        let mut taken: BTreeMap<String, &str> = BTreeMap::new();
        for (field, name) in asked {
            check(names, field, name, fields)?;
            let key = if names.any_case {
                name.to_ascii_lowercase()
            } else {
                name.clone()
            };
            if let Some(other) = taken.insert(key, field) {
                return Err(MappingError::Taken {
                    field: field.clone(),
                    other: other.to_owned(),
                    name: name.clone(),
                });
            }
        }
        Ok(Self(asked.iter().map(|(f, p)| (f.clone(), p.clone())).collect()))
    }

    /// The properties' names.
    pub fn properties(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, property)| property.as_str())
    }

    /// The field of a property, and the property as it is written there.
    pub(super) fn of(&self, property: &str) -> Option<(&str, &str)> {
        let found = self.0.iter().find(|(_, p)| p.eq_ignore_ascii_case(property));
        found.map(|(f, p)| (f.as_str(), p.as_str()))
    }

    /// Each property with its field's value, null where the subject has none (any more).
    pub(super) fn values<'a>(
        &'a self,
        state: &'a Map<String, Value>,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let value = |field: &str| state.get(field).unwrap_or(&Value::Null);
        self.0
            .iter()
            .map(move |(field, property)| (property.as_str(), value(field)))
    }
}

fn check(names: &Names, field: &str, name: &str, fields: &BTreeSet<String>) -> Result<(), MappingError> {
    let field = || field.to_owned();
    if !FIELDS.contains(&field().as_str()) {
        return Err(MappingError::UnknownField { field: field() });
    }
    if !fields.contains(&field()) {
        return Err(MappingError::NotInFeed { field: field() });
    }
    if name.is_empty() {
        return Err(MappingError::Empty { field: field() });
    }
    if name.len() > names.longest {
        return Err(MappingError::TooLong {
            field: field(),
            longest: names.longest,
        });
    }
    if !(names.valid)(name) {
        return Err(MappingError::IllFormed {
            field: field(),
            rule: names.rule,
        });
    }
    if names.reserved.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(MappingError::Reserved {
            field: field(),
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// A letter, then letters, digits and underscores.
pub(super) fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Text for vendors whose properties are text: null is empty, a list its elements with `between` between them.
pub(super) fn text(value: &Value, between: &str) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(all) if all.iter().all(|v| !v.is_array() && !v.is_object()) => {
            let all: Vec<_> = all.iter().map(|v| text(v, between)).collect();
            all.join(between)
        }
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Unix time in seconds of a time in RFC 3339; none if it is not well-formed.
pub(super) fn unix_seconds(time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| {
        let digits = time.get(from..to)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse::<i64>().ok())?
    };
    let is = |at: usize, among: &[u8]| time.as_bytes().get(at).is_some_and(|b| among.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let ranges =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !(marks && ranges) {
        return None;
    }
    let zone = time
        .get(19..)?
        .trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let hours: i64 = zone.get(1..3)?.parse().ok()?;
            let minutes: i64 = zone.get(4..6)?.parse().ok()?;
            (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    // Days since 1970-01-01, with years that begin in March so that the leap day comes last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (m * 153 + 2) / 5 + day
        - 1
        - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second - offset)
}

#[cfg(test)]
mod tests;
