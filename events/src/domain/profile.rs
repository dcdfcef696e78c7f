//! What a user tells about themselves. A closed list of fields, so that a feed can name each of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest value in characters.
pub const MAX_CHARS: usize = 256;

/// A field of the profile. Names follow OpenID Connect's standard claims where there is one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProfileField {
    GivenName,
    FamilyName,
    MiddleName,
    Nickname,
    Gender,
    Birthdate,
    PhoneNumber,
    StreetAddress,
    Locality,
    Region,
    PostalCode,
    Country,
    Zoneinfo,
    Website,
    Company,
    JobTitle,
}

impl ProfileField {
    /// Every field.
    pub const ALL: [ProfileField; 16] = [
        ProfileField::GivenName,
        ProfileField::FamilyName,
        ProfileField::MiddleName,
        ProfileField::Nickname,
        ProfileField::Gender,
        ProfileField::Birthdate,
        ProfileField::PhoneNumber,
        ProfileField::StreetAddress,
        ProfileField::Locality,
        ProfileField::Region,
        ProfileField::PostalCode,
        ProfileField::Country,
        ProfileField::Zoneinfo,
        ProfileField::Website,
        ProfileField::Company,
        ProfileField::JobTitle,
    ];

    /// The field's name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ProfileField::GivenName => "given_name",
            ProfileField::FamilyName => "family_name",
            ProfileField::MiddleName => "middle_name",
            ProfileField::Nickname => "nickname",
            ProfileField::Gender => "gender",
            ProfileField::Birthdate => "birthdate",
            ProfileField::PhoneNumber => "phone_number",
            ProfileField::StreetAddress => "street_address",
            ProfileField::Locality => "locality",
            ProfileField::Region => "region",
            ProfileField::PostalCode => "postal_code",
            ProfileField::Country => "country",
            ProfileField::Zoneinfo => "zoneinfo",
            ProfileField::Website => "website",
            ProfileField::Company => "company",
            ProfileField::JobTitle => "job_title",
        }
    }
}

/// Why a value is not taken. The value is never part of the error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("it must not be empty; leave the field out, or send null to remove it")]
    Empty,
    #[error("it must be at most {MAX_CHARS} characters long")]
    TooLong,
    #[error("it must not contain control characters or marks that change the direction of text")]
    Character,
}

/// Checks one text that people will read: its length, and that it holds nothing invisible that misleads.
pub fn check_text(text: &str) -> Result<(), InvalidValue> {
    if text.trim().is_empty() {
        return Err(InvalidValue::Empty);
    }
    if text.len() > 4 * MAX_CHARS || text.chars().count() > MAX_CHARS {
        return Err(InvalidValue::TooLong);
    }
    // Unicode's directional formatting characters (UAX #9) and line separators can disguise a text.
    let misleads = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
    };
    if text.chars().any(misleads) {
        return Err(InvalidValue::Character);
    }
    Ok(())
}

/// The profile: only fields that have a value.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Profile(pub BTreeMap<ProfileField, String>);

/// A change of the profile: a value replaces, null removes, what is absent stays (RFC 7396).
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct ProfilePatch(pub BTreeMap<ProfileField, Option<String>>);

impl Profile {
    pub fn apply(&mut self, patch: &ProfilePatch) {
        for (field, value) in &patch.0 {
            match value {
                Some(v) => self.0.insert(*field, v.clone()),
                None => self.0.remove(field),
            };
        }
    }

    /// The part of `patch` that would change something.
    pub fn difference(&self, patch: ProfilePatch) -> ProfilePatch {
        ProfilePatch(
            patch
                .0
                .into_iter()
                .filter(|(field, value)| self.0.get(field) != value.as_ref())
                .collect(),
        )
    }
}

// Personal data stays out of logs, so only the names of the fields are shown.
impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for ProfilePatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_mislead_or_overflow_are_refused() {
        for (text, expected) in [
            ("Ada", Ok(())),
            ("محمد بن سلمان", Ok(())),
            ("山田 太郎", Ok(())),
            ("O'Neil-Ωmega", Ok(())),
            ("  ", Err(InvalidValue::Empty)),
            ("a\0b", Err(InvalidValue::Character)),
            ("evil\u{202e}gpj", Err(InvalidValue::Character)),
            ("a\nb", Err(InvalidValue::Character)),
        ] {
            assert_eq!(check_text(text), expected, "{text:?}");
        }
        assert_eq!(check_text(&"é".repeat(MAX_CHARS)), Ok(()));
        assert_eq!(check_text(&"é".repeat(MAX_CHARS + 1)), Err(InvalidValue::TooLong));
    }

    #[test]
    fn a_patch_replaces_removes_and_keeps() {
        let mut profile: Profile = serde_json::from_str(r#"{"given_name":"Ada","company":"X"}"#).unwrap();
        let patch: ProfilePatch =
            serde_json::from_str(r#"{"given_name":"Ada","company":null,"country":"GB"}"#).unwrap();
        let real = profile.difference(patch);
        assert_eq!(
            real.0.keys().collect::<Vec<_>>(),
            [&ProfileField::Country, &ProfileField::Company]
        );
        profile.apply(&real);
        assert_eq!(
            serde_json::to_string(&profile).unwrap(),
            r#"{"given_name":"Ada","country":"GB"}"#
        );
    }

    #[test]
    fn field_names_are_those_of_json() {
        for name in ["given_name", "street_address", "job_title", "zoneinfo"] {
            let field: ProfileField = serde_json::from_str(&format!("{name:?}")).unwrap();
            assert_eq!(field.name(), name);
        }
    }
}
