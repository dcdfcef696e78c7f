//! One row of an import: its form, its checks, and the registration that it asks for.

use std::collections::{BTreeMap, BTreeSet};

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::consent::{ConsentChange, Evidence, LawfulBasis, Method, NoticeRef, SetConsent};
use gatelog_events::domain::profile::{Profile, ProfileField, check_text};
use gatelog_events::domain::user::{self, Origin, Register};
use gatelog_events::email::Email;
use serde::Deserialize;

use crate::auth::imported::StoredHash;

/// What is wrong with a row. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub field: String,
    pub problem: String,
}

impl Problem {
    pub fn new(field: impl Into<String>, problem: impl ToString) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}

/// A row as it is written. Unknown fields are refused, so that nothing is lost in silence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    email: String,
    password_hash: Option<String>,
    #[serde(default)]
    email_verified: bool,
    created_at: Option<Timestamp>,
    locale: Option<String>,
    #[serde(default)]
    profile: BTreeMap<ProfileField, String>,
    plan: Option<String>,
    #[serde(default)]
    roles: BTreeSet<String>,
    #[serde(default)]
    consents: Vec<Consent>,
    #[serde(default)]
    disabled: bool,
    /// The former system's own id. Taken so that exports need no editing; it is not kept.
    #[serde(default, rename = "external_id")]
    _external_id: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consent {
    purpose: String,
    channel: String,
    granted: bool,
    notice: NoticeRef,
    /// When the choice was made in the former system; kept as evidence.
    time: Option<Timestamp>,
}

/// A row that was checked.
pub struct Checked {
    pub email: Email,
    /// When the account was made in the former system.
    pub created_at: Option<Timestamp>,
    pub register: Register,
}

/// Reads and checks a line. `now` bounds times that must lie in the past.
pub fn check(line: &[u8], now: Timestamp) -> Result<Checked, Problem> {
    let row: Row = serde_json::from_slice(line).map_err(|e| explain(&e))?;
    let email = Email::parse(&row.email).map_err(|e| Problem::new("email", e))?;
    if let Some(hash) = &row.password_hash {
        StoredHash::parse(hash).map_err(|e| Problem::new("password_hash", e))?;
    }
    if row.created_at.is_some_and(|t| t > now) {
        return Err(Problem::new("created_at", "it lies in the future"));
    }
    for (field, value) in &row.profile {
        check_text(value).map_err(|e| Problem::new(format!("profile.{}", field.name()), e))?;
    }
    row.locale.as_deref().map_or(Ok(()), |l| language("locale", l))?;
    row.plan.as_deref().map_or(Ok(()), |p| name("plan", p))?;
    row.roles.iter().try_for_each(|role| name("roles", role))?;
    let bytes: usize = row.roles.iter().map(String::len).sum();
    if row.roles.len() > user::MAX_ROLES || bytes > user::MAX_ROLE_BYTES {
        return Err(Problem::new(
            "roles",
            "a user has at most 100, and 2000 bytes in all",
        ));
    }
    if row.consents.len() > MAX_CONSENTS {
        return Err(Problem::new("consents", "there may be at most 100"));
    }
    let consents = consents(row.consents, now)?;
    let register = Register {
        origin: Origin::Import,
        email: email.clone(),
        password_hash: row.password_hash,
        email_verified: row.email_verified,
        locale: row.locale,
        profile: Profile(row.profile),
        plan: row.plan,
        roles: row.roles,
        consents,
        disabled: row.disabled,
    };
    Ok(Checked {
        email,
        created_at: row.created_at,
        register,
    })
}

/// With roles and all else that a row says they fit into one commit.
const MAX_CONSENTS: usize = 100;

fn consents(rows: Vec<Consent>, now: Timestamp) -> Result<Vec<SetConsent>, Problem> {
    let mut all = Vec::with_capacity(rows.len());
    for (i, c) in rows.into_iter().enumerate() {
        let field = |name: &str| format!("consents[{i}].{name}");
        name(field("purpose"), &c.purpose)?;
        name(field("channel"), &c.channel)?;
        for (at, text) in [("notice.id", &c.notice.id), ("notice.version", &c.notice.version)] {
            check_text(text).map_err(|e| Problem::new(field(at), e))?;
        }
        language(field("notice.language"), &c.notice.language)?;
        if c.time.is_some_and(|t| t > now) {
            return Err(Problem::new(field("time"), "it lies in the future"));
        }
        all.push(SetConsent {
            granted: c.granted,
            change: ConsentChange {
                purpose: c.purpose,
                channel: c.channel,
                notice: c.notice,
                lawful_basis: LawfulBasis::Consent,
                method: Method::Import,
                personal: Evidence {
                    note: c.time.map(|t| format!("recorded by the former system at {t}")),
                    ..Evidence::default()
                }
                .into(),
            },
        });
    }
    Ok(all)
}

/// A name that systems use: of a plan, a purpose, a role.
fn name(field: impl Into<String>, text: &str) -> Result<(), Problem> {
    let valid = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':'));
    if valid {
        Ok(())
    } else {
        Err(Problem::new(
            field,
            "it must be 1 to 64 letters (a-z), digits, or any of _ - . :",
        ))
    }
}

/// A BCP 47 language tag, by its form.
fn language(field: impl Into<String>, tag: &str) -> Result<(), Problem> {
    let mut subtags = tag.split('-');
    let first = subtags.next().unwrap_or_default();
    let valid = tag.len() <= 35
        && (2..=8).contains(&first.len())
        && first.bytes().all(|b| b.is_ascii_alphabetic())
        && subtags.all(|s| (1..=8).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric()));
    if valid {
        Ok(())
    } else {
        Err(Problem::new(
            field,
            "it must be a language tag (BCP 47), such as de or pt-BR",
        ))
    }
}

/// What serde found, without the values that its message may quote. Names of fields are kept if they are plain.
fn explain(e: &serde_json::Error) -> Problem {
    let message = e.to_string();
    let quoted = message.split('`').nth(1).unwrap_or_default();
    let plain =
        (1..=64).contains(&quoted.len()) && quoted.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let field = if plain { quoted } else { "" };
    let place = format!("column {}", e.column());
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        Problem::new(field, format!("there is no such field ({place})"))
    } else if message.starts_with("missing field") {
        Problem::new(field, "it is missing")
    } else if message.starts_with("duplicate field") {
        Problem::new(field, "it stands there twice")
    } else if e.is_data() {
        Problem::new("", format!("a value is not of its type ({place})"))
    } else {
        Problem::new("", format!("this is not JSON ({place})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: &str) -> Problem {
        check(line.as_bytes(), Timestamp::from_millis(1_000_000_000_000))
            .err()
            .unwrap()
    }

    #[test]
    fn a_whole_row() {
        let line = r#"{"email":"Ada@Example.com","password_hash":"$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
            "email_verified":true,"created_at":"2001-02-03T04:05:06Z","locale":"de-CH","profile":{"given_name":"Ada"},
            "plan":"pro","roles":["editor"],"disabled":false,
            "consents":[{"purpose":"newsletter","channel":"email","granted":true,"notice":{"id":"n","version":"1","language":"de"}}]}"#;
        let checked = check(line.as_bytes(), Timestamp::from_millis(1_000_000_000_000))
            .ok()
            .unwrap();
        assert_eq!(checked.email.typed(), "Ada@Example.com");
        assert_eq!(checked.register.consents.len(), 1);
        assert_eq!(checked.register.origin, Origin::Import);
    }

    #[test]
    fn each_wrong_row_names_its_field_and_no_value() {
        for (line, field) in [
            (r#"{"email":"nobody"}"#, "email"),
            (r#"{"name":"x"}"#, "name"),
            (r"{}", "email"),
            (r#"{"email":"a@b.test","email":"a@b.test"}"#, "email"),
            (
                r#"{"email":"a@b.test","password_hash":"secret-value"}"#,
                "password_hash",
            ),
            (
                r#"{"email":"a@b.test","password_hash":"$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo"}"#,
                "password_hash",
            ),
            (
                r#"{"email":"a@b.test","created_at":"2999-01-01T00:00:00Z"}"#,
                "created_at",
            ),
            (
                r#"{"email":"a@b.test","profile":{"given_name":" "}}"#,
                "profile.given_name",
            ),
            (
                r#"{"email":"a@b.test","profile":{"shoe_size":"secret-value"}}"#,
                "shoe_size",
            ),
            (r#"{"email":"a@b.test","locale":"secret-value!"}"#, "locale"),
            (r#"{"email":"a@b.test","roles":["secret value"]}"#, "roles"),
            (r#"{"email":"a@b.test","disabled":"secret-value"}"#, ""),
            (r#"{"email":"a@b.test""#, ""),
            ("secret-value", ""),
            (
                r#"{"email":"a@b.test","consents":[{"purpose":"p","channel":"email","granted":true}]}"#,
                "notice",
            ),
        ] {
            let found = problem(line);
            assert_eq!(found.field, field, "{line}: {found:?}");
            assert!(!found.problem.contains("secret"), "{found:?}");
        }
    }

    #[test]
    fn a_row_fits_into_a_commit_and_a_token() {
        let consent = r#"{"purpose":"p","channel":"email","granted":true,
            "notice":{"id":"n","version":"1","language":"de"},"time":"2001-01-01T00:00:00Z"}"#;
        let row = |roles: usize, length: usize, consents: usize, time: &str| {
            let roles: Vec<_> = (0..roles).map(|i| format!("\"{i:0length$}\"")).collect();
            let consents = vec![consent.replace("2001", time); consents];
            let line = format!(
                r#"{{"email":"a@b.test","roles":[{}],"consents":[{}]}}"#,
                roles.join(","),
                consents.join(",")
            );
            check(line.as_bytes(), Timestamp::from_millis(1_000_000_000_000)).map_err(|e| e.field)
        };
        assert!(row(100, 20, 100, "2001").is_ok());
        for (roles, length, consents, time, field) in [
            (101, 3, 0, "2001", "roles"),
            (32, 64, 0, "2001", "roles"),
            (0, 1, 101, "2001", "consents"),
            (0, 1, 2, "2999", "consents[0].time"),
        ] {
            assert_eq!(row(roles, length, consents, time).err().unwrap(), field);
        }
    }
}
