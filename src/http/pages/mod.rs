//! Pages for people. What they are made of lies in `web/` and is part of the binary; they load nothing from elsewhere.

pub mod feeds;
mod notices;
pub mod preferences;
mod texts;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const CSS: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");

/// Pages are of nobody's index: they are for who has a key or a link.
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

/// A page under a content security policy (CSP 3) of its own.
pub fn page(html: impl IntoResponse, policy: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, HTML),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (ROBOTS, HeaderValue::from_static("noindex, nofollow")),
    ];
    (headers, html).into_response()
}

/// What all pages look like.
pub async fn style() -> Response {
    ([(CONTENT_TYPE, CSS)], include_str!("../../../web/gatelog.css")).into_response()
}

/// The sign in the tab.
pub async fn icon() -> Response {
    ([(CONTENT_TYPE, SVG)], include_str!("../../../web/gatelog.svg")).into_response()
}

/// A text as it may stand in HTML, also in a quoted attribute.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
