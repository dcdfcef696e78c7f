//! `/.well-known/ssf-configuration`: where receivers find everything (SSF 1.0, section 7).

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use reqwest::Url;
use serde::Serialize;

use super::{JWKS, METHOD_POLL, METHOD_PUSH, STATUS, STREAMS, VERIFICATION, url};
use crate::error::Problem;
use crate::feeds::signals::keys;
use crate::http::app::App;
use crate::http::params::Name;
use crate::http::reply::{json, ok};

/// Keys may be added at any time: no verifier shall keep them for long.
const MAX_AGE: HeaderValue = HeaderValue::from_static("public, max-age=60");

/// The transmitter's metadata.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfConfiguration)]
pub struct Configuration<'a> {
    pub spec_version: &'a str,
    pub issuer: &'a str,
    pub jwks_uri: String,
    pub delivery_methods_supported: Vec<&'a str>,
    pub configuration_endpoint: String,
    pub status_endpoint: String,
    pub verification_endpoint: String,
    pub authorization_schemes: Vec<AuthorizationScheme<'a>>,
    /// Members of a complex subject that a receiver must understand: without `session` it would end all of a user's.
    pub critical_subject_members: Vec<&'a str>,
    /// Every stream tells of everybody.
    pub default_subjects: &'a str,
}

/// How a receiver shows who it is.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = SsfAuthorizationScheme)]
pub struct AuthorizationScheme<'a> {
    /// A bearer token (RFC 6750) in the `Authorization` header: an API key.
    pub spec_urn: &'a str,
}

/// What this transmitter offers, for an issuer without a path.
#[utoipa::path(
    get, path = "/.well-known/ssf-configuration", tag = "shared signals", security(()),
    responses((status = 200, description = "Transmitter configuration metadata", body = Configuration))
)]
pub async fn get(State(app): State<App>) -> Result<Response, Problem> {
    described(&app, "")
}

/// What this transmitter offers, for an issuer with a path, which comes last here: of any number of segments, and so not in
/// the OpenAPI document.
pub async fn get_of_path(State(app): State<App>, Name(path): Name) -> Result<Response, Problem> {
    described(&app, &path)
}

fn described(app: &App, path: &str) -> Result<Response, Problem> {
    let issuer = app.node.config.issuer.as_str();
    if path_of(issuer) != path.trim_matches('/') {
        return Err(crate::http::not_found());
    }
    ok(&Configuration {
        spec_version: "1_0",
        issuer,
        jwks_uri: url(app, JWKS),
        delivery_methods_supported: vec![METHOD_PUSH, METHOD_POLL],
        configuration_endpoint: url(app, STREAMS),
        status_endpoint: url(app, STATUS),
        verification_endpoint: url(app, VERIFICATION),
        authorization_schemes: vec![AuthorizationScheme {
            spec_urn: "urn:ietf:rfc:6749",
        }],
        critical_subject_members: vec!["user", "session"],
        default_subjects: "ALL",
    })
}

/// The path of an issuer, without slashes around it.
fn path_of(issuer: &str) -> String {
    let url = Url::parse(issuer).ok();
    url.map_or_else(String::new, |url| url.path().trim_matches('/').to_owned())
}

/// The keys that verify security events (RFC 7517): none before the first stream.
#[utoipa::path(
    get, path = "/ssf/jwks.json", tag = "shared signals", security(()),
    responses((status = 200, description = "A JWK set", body = Object))
)]
pub async fn jwks(State(app): State<App>) -> Result<Response, Problem> {
    let settings = app.node.views.settings(app.tenant())?;
    let mut response = json(StatusCode::OK, &keys::jwks(&settings.signals))?;
    response.headers_mut().insert(CACHE_CONTROL, MAX_AGE);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuers_path_comes_after_the_well_known_one() {
        for (issuer, path) in [
            ("https://id.example.com", ""),
            ("https://id.example.com/", ""),
            ("https://id.example.com/one", "one"),
            ("https://id.example.com/one/two/", "one/two"),
            ("http://localhost:8080", ""),
        ] {
            assert_eq!(path_of(issuer), path, "{issuer}");
        }
    }
}
