//! `/feeds` and `/feeds/{feed}`: how the consumers of feeds are doing, for people who look.
//!
//! The page is the same for everybody and holds nothing: its script asks the API with the key that is entered, which is
//! never in a URL.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::{SCRIPT, page};

/// Script, style and data from this node only, nothing inline, and no text that becomes markup (Trusted Types).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page; which feed it shows, its script reads from the address.
pub async fn show() -> Response {
    page(include_str!("../../../web/feeds.html"), POLICY)
}

/// Its script.
pub async fn script() -> Response {
    let script = include_str!("../../../web/feeds.js");
    ([(CONTENT_TYPE, SCRIPT)], script).into_response()
}
