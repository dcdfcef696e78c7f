//! `/v1/unsubscribe/{token}`: withdrawing a consent by a link, without logging in (RFC 8058).

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use gatelog_events::commit::Subject;
use gatelog_events::domain::consent::{ConsentChange, ConsentState, Evidence, Method, SetConsent};
use gatelog_events::domain::{Actor, user};
use gatelog_events::ids::UserId;
use gatelog_projections::users;

use crate::error::{Kind, Problem};
use crate::http::app::App;
use crate::http::ask::{Ask, behind, caught_up};
use crate::http::pages::escaped;
use crate::http::params::Name;
use crate::http::reply::at;
use crate::writer::{Command, Request};

const DONE: &str = "<h1>You are unsubscribed</h1><p>This page can be closed.</p>";
const NOTE: &str = "one-click unsubscribe (RFC 8058)";

/// What a link stands for: whose consent, to what, and as it is now; none where there is nothing to withdraw.
struct Link {
    user: UserId,
    purpose: String,
    granted: Option<ConsentState>,
}

fn open(app: &App, token: &str) -> Result<Link, Problem> {
    let found = app.node.links.unsubscribe.open(app.tenant(), token);
    let (user, purpose) = found.ok_or_else(|| {
        Problem::new(
            Kind::LinkNotValid,
            "Use the link of the message as it is, or change your choices where you are logged in.",
        )
    })?;
    let state = app.node.views.user(app.tenant(), user)?;
    let granted = state.consents.get(&purpose).filter(|c| c.granted).cloned();
    Ok(Link {
        user,
        purpose,
        granted,
    })
}

/// A page that asks whether to unsubscribe. It changes nothing, since programs follow links, too.
#[utoipa::path(
    get, path = "/v1/unsubscribe/{token}", tag = "feeds", params(("token" = String, Path)),
    responses((status = 200, description = "A page with a button", body = String, content_type = "text/html")),
    security(())
)]
pub async fn ask(State(app): State<App>, Name(token): Name) -> Result<Response, Problem> {
    let link = open(&app, &token)?;
    let settings = app.node.views.settings(app.tenant())?;
    let known = settings.purposes.get(&link.purpose);
    let purpose = escaped(known.unwrap_or(&link.purpose));
    Ok(page(&match link.granted {
        Some(_) => format!(
            "<h1>Unsubscribe?</h1><p>You get: {purpose}.</p>\
             <form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
             <button>Unsubscribe</button></form>"
        ),
        None => format!("<h1>You are not subscribed</h1><p>You do not get: {purpose}.</p>"),
    }))
}

/// Withdraws the consent at once. No cookie, no log-in, no redirect; again, it changes nothing.
#[utoipa::path(
    post, path = "/v1/unsubscribe/{token}", tag = "feeds", params(("token" = String, Path)),
    responses((status = 200, description = "The consent is withdrawn", body = String, content_type = "text/html")),
    security(())
)]
pub async fn withdraw(State(app): State<App>, Name(token): Name, ask: Ask) -> Result<Response, Problem> {
    let mut link = open(&app, &token)?;
    if link.granted.is_none() {
        // Another node may have written the consent that is to be withdrawn.
        if !caught_up(&app, users::NAME, link.user.shard()).await? {
            return Err(behind().into());
        }
        link = open(&app, &token)?;
    }
    if let Some(state) = link.granted {
        let client = ask.client();
        let change = ConsentChange {
            purpose: link.purpose,
            channel: state.channel,
            notice: state.notice,
            lawful_basis: state.lawful_basis,
            method: Method::SelfService,
            personal: Evidence {
                ip: client.ip,
                user_agent: client.user_agent,
                note: Some(NOTE.to_owned()),
            }
            .into(),
        };
        let wish = SetConsent {
            granted: false,
            change,
        };
        let command = Command::User(user::Command::SetConsent(wish));
        let request = Request {
            actor: Actor::User(link.user),
            idempotency: None,
            ..ask.request(&app, None, Subject::User(link.user), command, &[])
        };
        let outcome = app.node.router.submit(request).await?;
        return Ok(at(page(DONE), outcome.answer.position()));
    }
    Ok(page(DONE))
}

fn page(content: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Unsubscribe</title>{content}</html>"
    );
    let mut response = (StatusCode::OK, html).into_response();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}
