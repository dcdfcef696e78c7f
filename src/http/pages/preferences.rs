//! `/v1/preferences/{token}`: what somebody consented to, and changing it, by a link and without logging in.
//!
//! The link is the capability: no cookie is set or read, so no other site can make a browser act here (CSRF) that does not
//! know the link already. It works without a script. What it stands for is in [`crate::feeds::links::preferences`].

mod html;

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::header::ACCEPT_LANGUAGE;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use gatelog_events::clock;
use gatelog_events::commit::Subject;
use gatelog_events::domain::consent::{
    ConsentChange, ConsentState, Evidence, LawfulBasis, Method, NoticeRef, SetConsent,
};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::domain::user::{Status, User};
use gatelog_events::domain::{Actor, user};
use gatelog_events::ids::{Position, UserId};
use gatelog_projections::users;
use serde::Deserialize;

use self::html::{answer, called, not_valid};
use super::notices::{Shown, current};
use super::texts::{Texts, wanted};
use crate::error::Problem;
use crate::http::app::App;
use crate::http::ask::{Ask, behind, caught_up};
use crate::http::body::read;
use crate::http::params::Name;
use crate::http::reply::at;
use crate::writer::{Command, Request as Wish};

/// How the ledger tells that a choice was made here.
const NOTE: &str = "preference link";

/// The means of contact of who never chose one: the link came by e-mail.
const CHANNEL: &str = "email";

/// Whose link it is, as they are now.
struct Person {
    id: UserId,
    user: Arc<User>,
    settings: Arc<Settings>,
    /// The languages they want, the most wanted first.
    wanted: Vec<String>,
    texts: &'static Texts,
}

fn languages(headers: &HeaderMap) -> Vec<String> {
    let header = headers.get(ACCEPT_LANGUAGE).and_then(|v| v.to_str().ok());
    wanted(header.unwrap_or_default())
}

/// Who a link is for; nobody where it is not good (any more), for whatever reason.
fn open(app: &App, token: &str, headers: &HeaderMap) -> Result<Option<Person>, Problem> {
    let links = &app.node.links.preferences;
    let Some(link) = links.open(app.tenant(), token, clock::now().day()) else {
        return Ok(None);
    };
    let user = app.node.views.user(app.tenant(), link.user)?;
    let same_address = |email| links.is_for(app.tenant(), &link, email);
    if !user.exists() || !user.email.as_ref().is_some_and(same_address) {
        return Ok(None);
    }
    let mut wanted = languages(headers);
    wanted.extend(user.locale.clone());
    Ok(Some(Person {
        id: link.user,
        settings: app.node.views.settings(app.tenant())?,
        texts: Texts::of(&wanted),
        wanted,
        user,
    }))
}

impl Person {
    fn state(&self, purpose: &str) -> Option<&ConsentState> {
        self.user.consents.get(purpose)
    }

    /// The notice under which they could grant a purpose now.
    fn notice(&self, purpose: &str) -> Option<Shown<'_>> {
        if self.user.status != Status::Active {
            return None;
        }
        current(&self.settings, purpose, self.state(purpose), &self.wanted)
    }
}

/// A page that shows somebody's choices. It changes nothing, since programs follow links, too.
#[utoipa::path(
    get, path = "/v1/preferences/{token}", tag = "feeds", params(("token" = String, Path)),
    responses(
        (status = 200, description = "A page with the purposes and the person's choices", body = String, content_type = "text/html"),
        (status = 404, description = "The link is not valid any more", body = String, content_type = "text/html"),
    ),
    security(())
)]
pub async fn show(
    State(app): State<App>,
    Name(token): Name,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(match open(&app, &token, &headers)? {
        Some(person) => answer(StatusCode::OK, &person, None),
        None => not_valid(&headers),
    })
}

/// What a form says.
#[derive(Deserialize)]
struct Form {
    /// `grant`, `withdraw` or `withdraw_all`.
    choice: String,
    #[serde(default)]
    purpose: String,
    /// The notice that was shown, with what is granted.
    #[serde(default)]
    notice: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    language: String,
}

/// A form's fields are written as a query's are (WHATWG URL, application/x-www-form-urlencoded).
fn parse(body: &[u8]) -> Option<Form> {
    let text = std::str::from_utf8(body).ok()?;
    let uri: Uri = format!("/?{text}").parse().ok()?;
    Query::try_from_uri(&uri).ok().map(|Query(form)| form)
}

/// Grants or withdraws what a form of the page says.
#[utoipa::path(
    post, path = "/v1/preferences/{token}", tag = "feeds", params(("token" = String, Path)),
    responses(
        (status = 200, description = "The choice stands; the page as it is now", body = String, content_type = "text/html"),
        (status = 400, description = "The form is not one of the page", body = String, content_type = "text/html"),
        (status = 404, description = "The link is not valid any more", body = String, content_type = "text/html"),
        (status = 409, description = "The notice that was shown is not the newest any more", body = String, content_type = "text/html"),
    ),
    security(())
)]
pub async fn choose(
    State(app): State<App>,
    Name(token): Name,
    headers: HeaderMap,
    ask: Ask,
    request: Request,
) -> Result<Response, Problem> {
    let body = read(request, app.node.config.max_body_bytes).await?;
    let Some(person) = open(&app, &token, &headers)? else {
        return Ok(not_valid(&headers));
    };
    // Each change is an event for ever, and whoever has the link can ask for any number.
    app.choices.admit(ask.network(), clock::now())?;
    let texts = person.texts;
    let form = parse(&body)
        .filter(|f| f.choice == "withdraw_all" || person.settings.purposes.contains_key(&f.purpose));
    let Some(form) = form else {
        return Ok(answer(
            StatusCode::BAD_REQUEST,
            &person,
            Some(texts.not_understood),
        ));
    };
    // Another node may have written the consent that is to be withdrawn.
    if form.choice != "grant" && !caught_up(&app, users::NAME, person.id.shard()).await? {
        return Err(behind().into());
    }
    let Some(person) = open(&app, &token, &headers)? else {
        return Ok(not_valid(&headers));
    };
    let changes = match form.choice.as_str() {
        "grant" => {
            let Some(shown) = person.notice(&form.purpose).map(|n| n.reference()) else {
                return Ok(answer(StatusCode::CONFLICT, &person, Some(texts.no_notice)));
            };
            let read = NoticeRef {
                id: form.notice,
                version: form.version,
                language: form.language,
            };
            // What is recorded is what was read. Another language of the same version may be wanted by now.
            if (&read.id, &read.version) != (&shown.id, &shown.version) || !person.settings.publishes(&read) {
                return Ok(answer(StatusCode::CONFLICT, &person, Some(texts.notice_changed)));
            }
            vec![granted(&person, &form.purpose, read, &ask)]
        }
        "withdraw" => withdrawn(&person, &form.purpose, &ask).into_iter().collect(),
        "withdraw_all" => {
            let all = person.settings.purposes.keys();
            all.filter_map(|purpose| withdrawn(&person, purpose, &ask))
                .collect()
        }
        _ => {
            return Ok(answer(
                StatusCode::BAD_REQUEST,
                &person,
                Some(texts.not_understood),
            ));
        }
    };
    let mut position = None;
    for wish in changes {
        position = Some(submit(&app, &person, wish, &ask).await?);
    }
    let said = match form.choice.as_str() {
        "withdraw_all" => texts.saved_all_withdrawn.to_owned(),
        choice => {
            let saved = if choice == "grant" {
                texts.saved_granted
            } else {
                texts.saved_withdrawn
            };
            format!("{saved} {}", called(&person.settings, &form.purpose))
        }
    };
    let Some(position) = position else {
        return Ok(answer(StatusCode::OK, &person, Some(&said)));
    };
    // Another node may have written it. It stands in any case; only what the page shows may be a moment behind.
    let _ = app
        .node
        .views
        .wait_for(users::NAME, position, app.node.config.min_position_wait)
        .await;
    let now = Person {
        user: app.node.views.user(app.tenant(), person.id)?,
        ..person
    };
    Ok(at(answer(StatusCode::OK, &now, Some(&said)), position))
}

fn evidence(ask: &Ask) -> Evidence {
    let client = ask.client();
    Evidence {
        ip: client.ip,
        user_agent: client.user_agent,
        note: Some(NOTE.to_owned()),
    }
}

fn granted(person: &Person, purpose: &str, notice: NoticeRef, ask: &Ask) -> SetConsent {
    let channel = person.state(purpose).map_or(CHANNEL, |s| s.channel.as_str());
    SetConsent {
        granted: true,
        change: ConsentChange {
            purpose: purpose.to_owned(),
            channel: channel.to_owned(),
            notice,
            lawful_basis: LawfulBasis::Consent,
            method: Method::SelfService,
            personal: evidence(ask).into(),
        },
    }
}

/// The withdrawal of what was granted, with the notice and the channel of the grant.
fn withdrawn(person: &Person, purpose: &str, ask: &Ask) -> Option<SetConsent> {
    let state = person.state(purpose).filter(|s| s.granted)?.clone();
    Some(SetConsent {
        granted: false,
        change: ConsentChange {
            purpose: purpose.to_owned(),
            channel: state.channel,
            notice: state.notice,
            lawful_basis: state.lawful_basis,
            method: Method::SelfService,
            personal: evidence(ask).into(),
        },
    })
}

async fn submit(app: &App, person: &Person, wish: SetConsent, ask: &Ask) -> Result<Position, Problem> {
    let command = Command::User(user::Command::SetConsent(wish));
    let wish = Wish {
        actor: Actor::User(person.id),
        // The same choice again changes nothing, and one form makes several commits: no key is needed.
        idempotency: None,
        ..ask.request(app, None, Subject::User(person.id), command, &[])
    };
    Ok(app.node.router.submit(wish).await?.answer.position())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_browsers_write_them() {
        let form =
            parse(b"purpose=news+letter&notice=privacy&version=1%262&language=de&choice=grant").unwrap();
        assert_eq!(
            (form.purpose.as_str(), form.version.as_str()),
            ("news letter", "1&2")
        );
        assert!(parse(b"choice=withdraw_all").is_some());
        for wrong in [
            &b""[..],
            b"purpose=x",
            b"choice=grant&choice=withdraw",
            b"\xff=1",
            b"choice=a b",
        ] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
