//! What the preference page looks like.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gatelog_events::domain::consent::NoticeRef;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::Status;

use super::super::notices::Shown;
use super::super::texts::Texts;
use super::super::{escaped, page};
use super::{Person, languages};

/// A style of ours and forms that lead here; nothing else, and no script at all.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// The first letter and the domain: enough to know one's own address by, and not enough to write to somebody else's.
fn masked(address: &str) -> String {
    let (local, domain) = address.split_once('@').unwrap_or((address, ""));
    let first: String = local.chars().take(1).collect();
    format!("{first}***@{domain}")
}

/// What a purpose is called, for people.
pub(super) fn called<'s>(settings: &'s Settings, purpose: &'s str) -> &'s str {
    let description = settings.purposes.get(purpose).map(String::as_str);
    description.filter(|d| !d.is_empty()).unwrap_or(purpose)
}

/// The page as it is for somebody now, with what is to be said of their last choice.
pub(super) fn answer(status: StatusCode, person: &Person, said: Option<&str>) -> Response {
    let t = person.texts;
    let address = person.user.email.as_ref().map(|e| masked(e.typed()));
    let mut main = String::new();
    if let Some(said) = said {
        let kind = if status.is_success() { "note" } else { "note bad" };
        main += &format!("<p class=\"{kind}\" role=\"status\">{}</p>", escaped(said));
    }
    if person.user.status != Status::Active {
        main += &format!("<p class=\"note\">{}</p>", t.disabled);
    }
    let purposes: Vec<_> = person.settings.purposes.keys().collect();
    if purposes.is_empty() {
        main += &format!("<p class=\"muted\">{}</p>", t.nothing);
    } else {
        let choices = purposes.iter().map(|purpose| choice(person, purpose));
        main += &format!("<ul class=\"choices\">{}</ul>", choices.collect::<String>());
    }
    let granted = purposes
        .iter()
        .filter(|p| person.state(p).is_some_and(|s| s.granted));
    if granted.count() > 1 {
        main += &format!(
            "<form method=\"post\" class=\"all\"><button class=\"plain\" name=\"choice\" value=\"withdraw_all\">{}</button></form>",
            t.withdraw_all
        );
    }
    let about = format!(
        "<p class=\"muted\">{} {}</p><p>{}</p>",
        t.for_address,
        escaped(&address.unwrap_or_default()),
        t.explained
    );
    document(status, t, t.title, &about, &main)
}

/// One purpose: what it is, how it stands, and a button.
fn choice(person: &Person, purpose: &str) -> String {
    let t = person.texts;
    let name = escaped(called(&person.settings, purpose));
    let state = person.state(purpose);
    let granted = state.is_some_and(|s| s.granted);
    let stands = match state.filter(|s| s.granted) {
        Some(s) => format!(
            "<span class=\"state\">{}</span> <span class=\"muted\">{} {}, {} <time>{}</time></span>",
            t.granted,
            t.by,
            escaped(t.channel(&s.channel)),
            t.since,
            s.since.to_string().get(..10).unwrap_or_default()
        ),
        None => format!("<span class=\"state off\">{}</span>", t.not_granted),
    };
    let hidden = |field: &str, value: &str| {
        format!(
            "<input type=\"hidden\" name=\"{field}\" value=\"{}\">",
            escaped(value)
        )
    };
    let of_purpose = hidden("purpose", purpose);
    // The button alone does not say what it is for to who hears the page.
    // Both look the same: neither choice is urged (GDPR, article 7(3)).
    let button = |choice: &str, text: &str| {
        format!(
            "<button class=\"plain\" name=\"choice\" value=\"{choice}\" aria-label=\"{text}: {name}\">{text}</button>"
        )
    };
    let act = match person.notice(purpose) {
        _ if granted => {
            let button = button("withdraw", t.withdraw);
            format!("<form method=\"post\">{of_purpose}{button}</form>")
        }
        Some(shown) => {
            let NoticeRef {
                id,
                version,
                language,
            } = shown.reference();
            let fields = [
                of_purpose,
                hidden("notice", &id),
                hidden("version", &version),
                hidden("language", &language),
            ];
            let button = button("grant", t.grant);
            format!(
                "{}<form method=\"post\">{}{button}</form>",
                text_of(t, &shown),
                fields.concat()
            )
        }
        None if person.user.status != Status::Active => String::new(),
        None => format!("<p class=\"muted small\">{}</p>", t.no_notice),
    };
    format!("<li><h2>{name}</h2><p>{stands}</p>{act}</li>")
}

/// The notice itself, or where it stands.
fn text_of(t: &Texts, shown: &Shown<'_>) -> String {
    let mut out = String::new();
    if let Some(text) = &shown.notice.text {
        out += &format!(
            "<details open><summary>{}</summary><div class=\"notice small\" lang=\"{}\" tabindex=\"0\">{}</div></details>",
            t.notice,
            escaped(shown.language),
            escaped(text)
        );
    }
    if let Some(url) = &shown.notice.url {
        out += &format!(
            "<p class=\"small\"><a href=\"{}\" rel=\"noreferrer noopener\" hreflang=\"{}\">{}</a></p>",
            escaped(url),
            escaped(shown.language),
            t.notice_elsewhere
        );
    }
    out
}

/// The same for every link that is not good, whatever the reason: it tells nothing of anybody.
pub(super) fn not_valid(headers: &HeaderMap) -> Response {
    let t = Texts::of(&languages(headers));
    let about = format!("<p>{}</p>", t.not_valid);
    document(StatusCode::NOT_FOUND, t, t.not_valid_title, &about, "")
}

fn document(status: StatusCode, t: &Texts, title: &str, about: &str, main: &str) -> Response {
    let language = t.language;
    let html = format!(
        "<!doctype html><html lang=\"{language}\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex, nofollow\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title}</title><link rel=\"icon\" href=\"/assets/gatelog.svg\" type=\"image/svg+xml\">\
         <link rel=\"stylesheet\" href=\"/assets/gatelog.css\"></head>\
         <body class=\"letter\"><main><h1>{title}</h1>{about}{main}</main></body></html>"
    );
    (status, page(html, POLICY)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_its_owner_only() {
        assert_eq!(masked("ada@example.com"), "a***@example.com");
        assert_eq!(masked("é@example.com"), "é***@example.com");
    }
}
