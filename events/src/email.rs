//! E-mail addresses: as typed, and the one form under which they are looked up.

use std::fmt;

use icu_casemap::CaseMapper;
use precis_profiles::UsernameCasePreserved;
use precis_profiles::precis_core::profile::Profile;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

/// Longest address in octets (RFC 5321, section 4.5.3.1.3: a path of 256 with its angle brackets).
pub const MAX_OCTETS: usize = 254;
/// Longest local part in octets (RFC 5321, section 4.5.3.1.1).
pub const MAX_LOCAL_OCTETS: usize = 64;

/// Why a text is not an e-mail address that we take. The text itself is never part of the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmail {
    #[error("it must have one @ between a local part and a domain, such as ada@example.com")]
    Shape,
    #[error("it must be at most {MAX_OCTETS} octets long, and at most {MAX_LOCAL_OCTETS} before the @")]
    TooLong,
    #[error("the part before the @ has characters that are not allowed")]
    LocalPart,
    #[error("the domain is not valid")]
    Domain,
}

/// An e-mail address.
///
/// Mail goes to [`typed`](Self::typed); who owns it is decided by [`key`](Self::key). Two addresses with one key are
/// one address. The key is frozen: changing how it is made means rebuilding every view that looks it up.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Email {
    typed: String,
    key: String,
}

impl Email {
    /// Reads an address. White space around it is dropped; nothing specific to any provider is done.
    ///
    /// The key is: NFKC and full case folding of the local part (RFC 8265's identifier class decides which characters
    /// are allowed), and the domain in its ASCII form (UTS #46, STD 3 rules) without a trailing dot.
    pub fn parse(text: &str) -> Result<Self, InvalidEmail> {
        let typed = text.trim();
        if typed.len() > MAX_OCTETS {
            return Err(InvalidEmail::TooLong);
        }
        let (local, domain) = typed.split_once('@').ok_or(InvalidEmail::Shape)?;
        // A second @ may only appear after compatibility normalization (U+FF20, U+FE6B).
        let looks_alike = |s: &str| s.nfkc().any(|c| c == '@');
        if local.is_empty() || domain.is_empty() || looks_alike(local) || looks_alike(domain) {
            return Err(InvalidEmail::Shape);
        }
        if local.len() > MAX_LOCAL_OCTETS {
            return Err(InvalidEmail::TooLong);
        }
        let key = format!("{}@{}", local_key(local)?, domain_key(domain)?);
        if key.len() > 2 * MAX_OCTETS {
            return Err(InvalidEmail::TooLong);
        }
        Ok(Self {
            typed: typed.to_owned(),
            key,
        })
    }

    /// As the owner wrote it.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The form that is looked up.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The part before the @, as typed.
    pub fn local_part(&self) -> &str {
        self.typed.split_once('@').map_or("", |(local, _)| local)
    }
}

/// NFKC and case folding until nothing changes any more; some characters need a second round.
fn fold(text: &str) -> String {
    let mut now: String = text.nfkc().collect();
    for _ in 0..4 {
        let next: String = CaseMapper::new().fold_string(&now).nfkc().collect();
        if next == now {
            break;
        }
        now = next;
    }
    now
}

fn local_key(local: &str) -> Result<String, InvalidEmail> {
    if local.is_ascii() {
        return ascii_local_key(local);
    }
    let folded = fold(local);
    if folded.is_empty() || folded.starts_with('.') || folded.ends_with('.') || folded.contains("..") {
        return Err(InvalidEmail::LocalPart);
    }
    let allowed = UsernameCasePreserved::new()
        .prepare(folded.as_str())
        .map_err(|_| InvalidEmail::LocalPart)?;
    if !allowed.chars().all(|c| !c.is_ascii() || is_atext(c) || c == '.') {
        return Err(InvalidEmail::LocalPart);
    }
    Ok(allowed.into_owned())
}

fn ascii_local_key(local: &str) -> Result<String, InvalidEmail> {
    let ok = local.chars().all(|c| is_atext(c) || c == '.')
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    if ok {
        Ok(local.to_ascii_lowercase())
    } else {
        Err(InvalidEmail::LocalPart)
    }
}

/// RFC 5322's `atext`: what an unquoted local part is made of. Quoted local parts are not taken.
fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

fn domain_key(domain: &str) -> Result<String, InvalidEmail> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_empty() {
        return Err(InvalidEmail::Domain);
    }
    let ascii = idna::domain_to_ascii_strict(domain).map_err(|_| InvalidEmail::Domain)?;
    let ascii = ascii.strip_suffix('.').unwrap_or(&ascii).to_owned();
    let all_numbers = ascii
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    if ascii.is_empty() || !ascii.contains('.') && ascii != "localhost" || all_numbers {
        return Err(InvalidEmail::Domain);
    }
    Ok(ascii)
}

impl<'de> Deserialize<'de> for Email {
    /// Reads a stored pair. Its key is taken as it was, since it is frozen.
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Stored {
            typed: String,
            key: String,
        }
        let Stored { typed, key } = Stored::deserialize(d)?;
        Ok(Self { typed, key })
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

impl schemars::JsonSchema for Email {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Email".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "properties": {
                "typed": {"type": "string", "description": "as the owner wrote it"},
                "key": {"type": "string", "description": "the form that is looked up"}
            },
            "required": ["typed", "key"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(s: &str) -> String {
        Email::parse(s).unwrap_or_else(|e| panic!("{s}: {e}")).key
    }

    #[test]
    fn variants_of_one_address_have_one_key() {
        for (address, variants) in [
            (
                "Straße@X.test",
                &[
                    "STRASSE@x.TEST",
                    "straße@x.test.",
                    "  strasse@X.test\n",
                    "STRAẞE@x.test",
                    "ſtrasse@x.test",
                ][..],
            ),
            (
                "rené@bücher.example",
                &[
                    "rene\u{301}@bücher.example",
                    "RENÉ@xn--bcher-kva.example",
                    "René@BÜCHER.example.",
                ][..],
            ),
            (
                "Ada.Lovelace+news@Example.COM",
                &["ada.lovelace+news@example.com"][..],
            ),
            ("ＡＤＡ@example.com", &["ada@example.com"][..]),
            (
                "ada@ＥＸＡＭＰＬＥ.com",
                &["ada@example.com", "ada@example。com"][..],
            ),
            ("ΣΊΣΥΦΟΣ@x.test", &["σίσυφος@x.test", "σίσυφοσ@x.test"][..]),
            // Cherokee folds to upper case.
            ("Ꭼ@x.test", &["ꭼ@x.test"][..]),
        ] {
            for v in variants {
                assert_eq!(key(v), key(address), "{v} and {address}");
            }
        }
    }

    #[test]
    fn different_addresses_stay_different() {
        for (a, b) in [
            ("a.da@gmail.com", "ada@gmail.com"),
            ("ada+x@gmail.com", "ada@gmail.com"),
            ("ada@example.com", "ada@example.org"),
            ("аda@example.com", "ada@example.com"), // Cyrillic а
        ] {
            assert_ne!(key(a), key(b));
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for (text, why) in [
            ("", InvalidEmail::Shape),
            ("ada", InvalidEmail::Shape),
            ("@example.com", InvalidEmail::Shape),
            ("ada@", InvalidEmail::Shape),
            ("a@b@c.test", InvalidEmail::Shape),
            ("victim@ours.test＠evil.test", InvalidEmail::Shape),
            ("victim@ours.test﹫evil.test", InvalidEmail::Shape),
            ("victim＠ours.test", InvalidEmail::Shape),
            ("ada lovelace@example.com", InvalidEmail::LocalPart),
            ("ada\u{0}@example.com", InvalidEmail::LocalPart),
            ("ada\r\nBcc: x@example.com", InvalidEmail::LocalPart),
            ("ada\u{202e}@example.com", InvalidEmail::LocalPart),
            ("ad\u{200b}a\u{e9}@example.com", InvalidEmail::LocalPart),
            ("\"ada\"@example.com", InvalidEmail::LocalPart),
            (".ada@example.com", InvalidEmail::LocalPart),
            ("a..da@example.com", InvalidEmail::LocalPart),
            ("😀@example.com", InvalidEmail::LocalPart),
            ("ada@exa mple.com", InvalidEmail::Domain),
            ("ada@exam_ple.com", InvalidEmail::Domain),
            ("ada@com", InvalidEmail::Domain),
            ("ada@-x.com", InvalidEmail::Domain),
            ("ada@.com", InvalidEmail::Domain),
            ("ada@127.0.0.1", InvalidEmail::Domain),
            ("ada@[127.0.0.1]", InvalidEmail::Domain),
            ("ada@example.com\u{202e}", InvalidEmail::Domain),
        ] {
            assert_eq!(Email::parse(text).err(), Some(why), "{text:?}");
        }
        let long = format!("{}@example.com", "a".repeat(65));
        assert_eq!(Email::parse(&long).err(), Some(InvalidEmail::TooLong));
        let long = format!("a@{}com", "abcdefgh.".repeat(40));
        assert_eq!(Email::parse(&long).err(), Some(InvalidEmail::TooLong));
    }

    proptest! {
        #[test]
        fn folding_is_idempotent(text in "\\PC{1,20}") {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn the_key_of_a_key_is_itself(local in "\\PC{1,12}", domain in "[a-zß-ö]{1,8}\\.(test|com)") {
            if let Ok(e) = Email::parse(&format!("{local}@{domain}")) {
                prop_assert_eq!(Email::parse(e.key()).map(|again| again.key), Ok(e.key));
            }
        }

        #[test]
        fn no_input_panics(text in "\\PC*") {
            let _ = Email::parse(&text);
        }
    }
}
