//! Which passwords are accepted: length and blocklists, as NIST SP 800-63B-4 (section 3.1.1.2) asks; no rules of composition.

use std::fmt;

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::Rules;

use super::{Password, blocklist};

/// The longest password, in bytes of UTF-8: far beyond any real one, and cheap to hash.
pub const MAX_BYTES: usize = 1024;

/// Why a password is not accepted. Shown to the person who chose it, so it says what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyViolation {
    #[error("The password is too short: use at least {min} characters.")]
    TooShort { min: usize },
    #[error("The password is too long: use at most {max} bytes.")]
    TooLong { max: usize },
    #[error(
        "This password is among those that are guessed first. Choose another, such as several unrelated words."
    )]
    Common,
    #[error("The password consists mostly of {which}, which others can guess. Choose something unrelated.")]
    ContainsContext { which: ContextWord },
    #[error("The password repeats itself or follows a sequence. Choose something less regular.")]
    Repetitive,
    #[error("The password contains a control character, such as a tab or a line break. Remove it.")]
    ControlCharacter,
}

/// What of the context a password was built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextWord {
    Service,
    Email,
    GivenName,
    FamilyName,
}

impl fmt::Display for ContextWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "the name of this service",
            Self::Email => "your e-mail address",
            Self::GivenName => "your given name",
            Self::FamilyName => "your family name",
        })
    }
}

/// What an attacker knows about whoever chooses the password.
#[derive(Clone, Copy, Default)]
pub struct Context<'a> {
    pub service: &'a str,
    pub email: &'a str,
    pub given_name: &'a str,
    pub family_name: &'a str,
}

/// A password policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The fewest characters (Unicode code points) accepted.
    pub min_chars: usize,
}

impl Policy {
    /// `nist-4`: 15 characters where the password is the only factor.
    pub const NIST_4: Policy = Policy { min_chars: 15 };
    /// `asvs-l1`: 8 characters (OWASP ASVS 5.0, V6.2.1).
    pub const ASVS_L1: Policy = Policy { min_chars: 8 };

    /// The preset of this name.
    pub fn preset(name: &str) -> Option<Policy> {
        match name {
            "nist-4" => Some(Self::NIST_4),
            "asvs-l1" => Some(Self::ASVS_L1),
            _ => None,
        }
    }

    /// Normalises a new password, or says what is wrong with it.
    pub fn check(&self, password: &str, context: &Context<'_>) -> Result<Password, PolicyViolation> {
        let password = normalised(password)?;
        if password.chars().count() < self.min_chars {
            return Err(PolicyViolation::TooShort { min: self.min_chars });
        }
        let folded = password.to_lowercase();
        let folded = folded.trim();
        if is_regular(folded) || is_regular(&password) || folded.is_empty() {
            return Err(PolicyViolation::Repetitive);
        }
        if is_common(folded) {
            return Err(PolicyViolation::Common);
        }
        if let Some(which) = made_of_context(folded, context) {
            return Err(PolicyViolation::ContainsContext { which });
        }
        Ok(password.into())
    }
}

/// The form in which a password is hashed and verified, so that it does not matter which keyboard typed it: other spaces
/// become U+0020 and the text NFC, by the rules of OpaqueString (RFC 8265, section 4.2.1).
///
/// Of what that profile disallows, only control characters are refused: emoji sequences and characters newer than the
/// profile's tables are what people choose. Call it at log-ins too; it bounds the length before anything is hashed.
pub fn normalise(password: &str) -> Result<Password, PolicyViolation> {
    normalised(password).map(Password::from)
}

fn normalised(password: &str) -> Result<String, PolicyViolation> {
    let too_long = PolicyViolation::TooLong { max: MAX_BYTES };
    if password.len() > MAX_BYTES {
        return Err(too_long);
    }
    if password.chars().any(char::is_control) {
        return Err(PolicyViolation::ControlCharacter);
    }
    let rules = OpaqueString::new();
    let normal = rules
        .additional_mapping_rule(password)
        .and_then(|p| rules.normalization_rule(p))
        .map_err(|_| PolicyViolation::ControlCharacter)?;
    if normal.len() > MAX_BYTES {
        return Err(too_long);
    }
    Ok(normal.into_owned())
}

/// A listed word, or one with digits and symbols round it that add little.
fn is_common(folded: &str) -> bool {
    if blocklist::contains(folded) {
        return true;
    }
    let stem = folded.trim_matches(|c: char| !c.is_alphabetic());
    let added: String = folded.replacen(stem, "", 1);
    !stem.is_empty()
        && blocklist::contains(stem)
        && (2 * stem.chars().count() >= folded.chars().count() || is_regular(&added))
}

/// Which part of the context makes up most of the password, if what else there is would not do by itself.
fn made_of_context(folded: &str, context: &Context<'_>) -> Option<ContextWord> {
    let mut words = context.words();
    words.sort_by_key(|(_, word)| std::cmp::Reverse(word.len()));
    let mut rest = folded.to_owned();
    let mut found = None;
    for (which, word) in &words {
        if rest.contains(word) {
            found = found.or(Some(*which));
            rest = rest.replace(word, "");
        }
    }
    let little_else = 2 * rest.chars().count() < folded.chars().count();
    found.filter(|_| little_else || is_common(&rest) || is_regular(&rest))
}

impl Context<'_> {
    /// Words of three bytes or more, in lower case: names whole and in parts, and the parts of the address but for its
    /// top-level domain.
    fn words(&self) -> Vec<(ContextWord, String)> {
        let email = self.email.rsplit_once('.').map_or(self.email, |(rest, _)| rest);
        let sources = [
            (ContextWord::Service, self.service),
            (ContextWord::Email, email),
            (ContextWord::GivenName, self.given_name),
            (ContextWord::FamilyName, self.family_name),
        ];
        let mut words = Vec::new();
        for (which, text) in sources {
            let text = text.to_lowercase();
            let parts = text.split(|c: char| !c.is_alphanumeric());
            words.extend(
                std::iter::once(text.as_str())
                    .chain(parts)
                    .filter(|word| word.len() >= 3)
                    .map(|word| (which, word.to_owned())),
            );
        }
        words
    }
}

/// Rows of keyboards, where neighbouring keys make a sequence.
const ROWS: [&str; 11] = [
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "yxcvbnm",
    "azertyuiop",
    "qsdfghjklm",
    "wxcvbn",
    "йцукенгшщзхъ",
    "фывапролджэ",
    "ячсмитьбю",
];

/// Whether a text of four characters or more repeats a shorter one, uses hardly any characters, or mostly goes from each
/// character to the same, the next, or the neighbouring key.
fn is_regular(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let n = chars.len();
    if n < 4 {
        return false;
    }
    let distinct = chars.iter().collect::<std::collections::BTreeSet<_>>().len();
    let steps = chars.windows(2).filter(|w| is_step(w[0], w[1])).count();
    2 * period(&chars) <= n || (n >= 8 && distinct <= 3) || 4 * steps >= 3 * (n - 1)
}

fn is_step(a: char, b: char) -> bool {
    let next = |a: char, b: char| u32::from(a) + 1 == u32::from(b) || (a, b) == ('9', '0');
    let on_a_row = ROWS.iter().any(|row| {
        let mut neighbours = row.chars().zip(row.chars().skip(1));
        neighbours.any(|pair| pair == (a, b) || pair == (b, a))
    });
    a == b || next(a, b) || next(b, a) || on_a_row
}

/// The shortest length after which the text repeats itself, to its end (Knuth, Morris and Pratt).
fn period(chars: &[char]) -> usize {
    let mut borders = vec![0; chars.len()];
    let mut border = 0;
    for i in 1..chars.len() {
        while border > 0 && chars[i] != chars[border] {
            border = borders[border - 1];
        }
        if chars[i] == chars[border] {
            border += 1;
        }
        borders[i] = border;
    }
    chars.len() - border
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    const CONTEXT: Context<'_> = Context {
        service: "Gatelog",
        email: "margarethe.von-trotta@filmhaus.example",
        given_name: "Margarethe",
        family_name: "von Trotta",
    };

    fn nist(password: &str) -> Result<(), PolicyViolation> {
        Policy::NIST_4.check(password, &CONTEXT).map(drop)
    }

    fn asvs(password: &str) -> Result<(), PolicyViolation> {
        Policy::ASVS_L1.check(password, &CONTEXT).map(drop)
    }

    #[test]
    fn accepted() {
        let long = "mint rover 7 ".repeat(4) + "quartz lantern ferry beyond"; // 79 characters
        for password in [
            "correct horse battery staple",
            "nine lazy otters juggle",
            "GatelogMeetsWinterOwls",
            "Die Ankunft des Zuges 1895",
            "我喜欢在早晨的公园里散步喝茶看书听音乐",
            "🦊🌲🚂🎻🍋🧭🏔️🎲🪁🧵🪐🦉🌶️🫖🛶",
            "xq7!Vd03kT~pLm2",
            long.as_str(),
        ] {
            assert_eq!(nist(password), Ok(()), "{password}");
        }
        for password in ["tr0ub4dor&3x", "kleiner Igel", "9f2!kQ7z"] {
            assert_eq!(asvs(password), Ok(()), "{password}");
        }
    }

    #[test]
    fn length_is_counted_in_characters_and_bounded_in_bytes() {
        assert_eq!(nist("jolly otter 14"), Err(PolicyViolation::TooShort { min: 15 }));
        assert_eq!(nist("jolly otters 15"), Ok(()));
        assert_eq!(asvs("ääüößé7"), Err(PolicyViolation::TooShort { min: 8 }));
        let words = |n: usize| {
            "Zebra mit Hut! "
                .chars()
                .chain("läuft 3 km weit".chars())
                .cycle()
                .take(n)
                .collect::<String>()
        };
        assert_eq!(
            nist(&format!("a{}", "x7 k".repeat(256))),
            Err(PolicyViolation::TooLong { max: 1024 })
        );
        assert_eq!(nist(&words(10_000)), Err(PolicyViolation::TooLong { max: 1024 }));
        assert!(normalise(&"x".repeat(1024)).is_ok());
        assert!(normalise(&"x".repeat(1 << 20)).is_err());
    }

    #[test]
    fn common_passwords() {
        for password in [
            "Password1",
            "iloveyou!",
            "  Letmein1 ",
            "1password1",
            "sunshine99",
            "dragon1234567",
            "QAZWSX123",
        ] {
            assert_eq!(asvs(password), Err(PolicyViolation::Common), "{password}");
        }
        for password in [
            "password1234567",
            "1Qaz2wsx3edc4rfv",
            "Responsibilities",
            "monkey1234567890",
            "congratulations!",
        ] {
            assert_eq!(nist(password), Err(PolicyViolation::Common), "{password}");
        }
    }

    #[test]
    fn repetitive_passwords() {
        for password in [
            "aaaaaaaaaaaaaaaa",
            "123456789012345",
            "passwordpassword",
            "Abcabcabcabcabcab",
            "abcdefghijklmnop",
            "zyxwvutsrqponmlk",
            "qwertyuiopasdfgh",
            "йцукенгшщзфывапро",
            "1212121112221212",
            "987654321098765",
            "               ",
            "　　　　　　　　　　　　　　　",
            "xyq            ",
        ] {
            assert_eq!(nist(password), Err(PolicyViolation::Repetitive), "{password}");
        }
    }

    #[test]
    fn context_words() {
        let table = [
            ("gateloggatelog-1", ContextWord::Service),
            ("Gatelog-password", ContextWord::Service),
            ("margarethe-1942!", ContextWord::Email),
            ("Filmhaus Trotta7", ContextWord::Email),
        ];
        for (password, which) in table {
            assert_eq!(
                nist(password),
                Err(PolicyViolation::ContainsContext { which }),
                "{password}"
            );
        }
        let named = Context {
            given_name: "Anneliese",
            family_name: "宮本武蔵",
            ..Context::default()
        };
        for (password, which) in [
            ("anneliese 2026!", ContextWord::GivenName),
            ("宮本武蔵宮本武蔵x77", ContextWord::FamilyName),
        ] {
            let refused = Policy::ASVS_L1.check(password, &named).map(drop);
            assert_eq!(
                refused,
                Err(PolicyViolation::ContainsContext { which }),
                "{password}"
            );
        }
    }

    #[test]
    fn control_characters() {
        for password in [
            "jolly\0otters at sea",
            "jolly\totters at sea",
            "jolly\u{7f}otters at sea",
            "jolly\u{85}otters at sea",
        ] {
            assert_eq!(
                nist(password),
                Err(PolicyViolation::ControlCharacter),
                "{password:?}"
            );
        }
    }

    #[test]
    fn one_password_however_typed() {
        let normal = |p: &str| normalise(p).unwrap().expose_secret().to_owned();
        assert_eq!(normal("Cafe\u{301} am\u{a0}See"), normal("Café am See"));
        assert_eq!(normal("U\u{3000}U"), "U U");
        assert_ne!(normal("Café"), normal("café"));
        assert_ne!(normal("²"), normal("2"));
        assert_eq!(normal(" kept "), " kept ");
    }

    #[test]
    fn messages_never_show_the_password() {
        let message = asvs("sunshine99").unwrap_err().to_string();
        assert!(
            !message.contains("sunshine") && message.ends_with('.'),
            "{message}"
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_is_stable(password in "\\PC{0,40}", email in "\\PC{0,20}", name in "\\PC{0,10}") {
            let context = Context { email: &email, given_name: &name, ..CONTEXT };
            if let Ok(normal) = Policy::ASVS_L1.check(&password, &context) {
                let text = normal.expose_secret();
                let again = normalise(text).unwrap();
                prop_assert_eq!(again.expose_secret(), text);
            }
        }

        #[test]
        fn any_repeated_unit_is_refused(unit in "[a-z0-9]{1,20}", times in 2usize..20) {
            let password = unit.repeat(times);
            prop_assume!(password.len() >= 15);
            prop_assert_eq!(nist(&password), Err(PolicyViolation::Repetitive));
        }
    }
}
