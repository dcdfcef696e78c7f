//! Checks of single values, collecting every field that is wrong.

use std::borrow::Cow;

use gatelog_events::domain::profile::{Profile, ProfileField, ProfilePatch, check_text};
use gatelog_events::email::Email;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use super::body::Entries;
use crate::error::{FieldError, Problem, email_error, text_error};

const MAX_NAME: usize = 64;
const MAX_LOCALE: usize = 35;

/// Collects what is wrong with a request.
#[derive(Default)]
pub struct Check(Vec<FieldError>);

impl Check {
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a field is wrong.
    pub fn wrong(&mut self, field: impl Into<String>, detail: impl Into<Cow<'static, str>>) {
        self.0.push(FieldError {
            field: field.into(),
            detail: detail.into(),
        });
    }

    /// The problem with all fields that are wrong, if any is.
    pub fn done(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.0))
        }
    }

    /// An address; none where it is wrong.
    pub fn email(&mut self, field: &str, text: &str) -> Option<Email> {
        match Email::parse(text) {
            Ok(email) => Some(email),
            Err(e) => {
                self.wrong(field, email_error(e));
                None
            }
        }
    }

    /// A text that people read.
    pub fn text(&mut self, field: impl Into<String>, text: &str) {
        if let Err(e) = check_text(text) {
            self.wrong(field, text_error(e));
        }
    }

    /// A text that may be absent.
    pub fn optional_text(&mut self, field: &str, text: Option<&String>) {
        if let Some(text) = text {
            self.text(field, text);
        }
    }

    /// A name that systems use: of a plan, a purpose, a role.
    pub fn name(&mut self, field: impl Into<String>, name: &str) {
        let valid = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'));
        if !valid {
            self.wrong(
                field,
                "It must be 1 to 64 letters (a-z), digits, or any of `_ - . :`.",
            );
        }
    }

    /// A BCP 47 language tag, by its form: subtags of up to 8 letters and digits, the first one of letters.
    pub fn locale(&mut self, field: impl Into<String>, tag: &str) {
        let mut subtags = tag.split('-');
        let first = subtags.next().unwrap_or_default();
        let alphanumeric =
            |s: &str| (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric());
        let valid = tag.len() <= MAX_LOCALE
            && (2..=8).contains(&first.len())
            && first.bytes().all(|b| b.is_ascii_alphabetic())
            && subtags.all(alphanumeric);
        if !valid {
            self.wrong(field, "It must be a language tag (BCP 47), such as de or pt-BR.");
        }
    }

    /// A profile's fields.
    pub fn profile(&mut self, prefix: &str, entries: Entries<String>) -> Profile {
        let mut profile = Profile::default();
        for (name, value) in entries.0 {
            if let Some(field) = self.profile_field(prefix, &name) {
                self.text(format!("{prefix}{name}"), &value);
                profile.0.insert(field, value);
            }
        }
        profile
    }

    /// Changes of a profile.
    pub fn profile_patch(&mut self, prefix: &str, entries: Entries<Option<String>>) -> ProfilePatch {
        let mut patch = ProfilePatch::default();
        for (name, value) in entries.0 {
            if let Some(field) = self.profile_field(prefix, &name) {
                if let Some(text) = &value {
                    self.text(format!("{prefix}{name}"), text);
                }
                patch.0.insert(field, value);
            }
        }
        patch
    }

    fn profile_field(&mut self, prefix: &str, name: &str) -> Option<ProfileField> {
        let field: Result<_, serde::de::value::Error> = ProfileField::deserialize(name.into_deserializer());
        match field {
            Ok(field) => Some(field),
            Err(e) => {
                let (shown, _) = super::body::explain(&format!("{prefix}{name}"), &e.to_string());
                self.wrong(
                    shown,
                    "There is no such field in a profile. Remove it; /docs lists those there are.",
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(f: impl Fn(&mut Check)) -> bool {
        let mut check = Check::new();
        f(&mut check);
        check.done().is_err()
    }

    #[test]
    fn locales() {
        for tag in [
            "de",
            "pt-BR",
            "zh-Hant-TW",
            "sl-rozaj-biske-1994",
            "de-CH-x-phonebk",
        ] {
            assert!(!wrong(|c| c.locale("locale", tag)), "{tag}");
        }
        for tag in [
            "",
            "d",
            "1de",
            "de_DE",
            "de-",
            "de--CH",
            "deutschland",
            "de-abcdefghi",
            "dé",
        ] {
            assert!(wrong(|c| c.locale("locale", tag)), "{tag}");
        }
        assert!(wrong(|c| c.locale("locale", &"ab-".repeat(20))));
    }

    #[test]
    fn names() {
        for name in ["pro", "sms_offers", "support:read", "a.b-c", "Pro2"] {
            assert!(!wrong(|c| c.name("name", name)), "{name}");
        }
        for name in ["", "a b", "ä", "a\0", "a/b", &"x".repeat(65)] {
            assert!(wrong(|c| c.name("name", name)), "{name}");
        }
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut check = Check::new();
        assert!(check.email("email", "nobody").is_none());
        let entries = vec![
            ("given_name".to_owned(), "a\u{202e}b".to_owned()),
            ("shoe_size".to_owned(), "44".to_owned()),
            ("family_name".to_owned(), "x".repeat(1 << 20)),
        ];
        check.profile("profile.", Entries(entries));
        let shown = format!("{:?}", check.done().unwrap_err());
        for field in [
            "\"email\"",
            "profile.given_name",
            "profile.shoe_size",
            "profile.family_name",
        ] {
            assert!(shown.contains(field), "{field}: {shown}");
        }
        assert!(!shown.contains("44"));
    }
}
