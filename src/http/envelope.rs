//! What surrounds every request: an id, a time limit, a net under panics, security headers, and its measurement.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use futures::future::BoxFuture;
use gatelog_events::clock;
use metrics::{Histogram, histogram};
use tower::{Layer, Service};
use uuid::Uuid;

use crate::error::{Kind, Problem};
use crate::writer::random::Random;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// No request takes longer, its body included.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// The id of a request: the caller's, if that is a UUID, or a random one. It is the correlation id of what is written.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub Uuid);

/// When a request came. Whoever waits for something counts from then, or all its waiting together would take longer than
/// a request may.
#[derive(Debug, Clone, Copy)]
pub struct Arrived(pub Instant);

impl<S: Sync> FromRequestParts<S> for Arrived {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let arrived = parts.extensions.get().copied();
        Ok(arrived.unwrap_or_else(|| Self(clock::monotonic())))
    }
}

/// Method and status.
type Labels = (&'static str, &'static str);

thread_local! {
    /// Drawn in blocks: one call to the generator for each request would be a tenth of what a read costs.
    static IDS: RefCell<Random> = RefCell::new(Random::new());
    /// The series of each route, so that a request need not name its labels to the recorder again.
    static DURATIONS: RefCell<HashMap<String, Vec<(Labels, Histogram)>>> = RefCell::default();
}

/// Puts the envelope around a service.
#[derive(Debug, Clone, Copy)]
pub struct EnvelopeLayer;

/// A service in its envelope. By hand, since axum's `from_fn` clones and boxes what is inside once more per request.
#[derive(Debug, Clone)]
pub struct Envelope<S>(S);

impl<S> Layer<S> for EnvelopeLayer {
    type Service = Envelope<S>;

    fn layer(&self, inner: S) -> Envelope<S> {
        Envelope(inner)
    }
}

impl<S> Service<Request> for Envelope<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let begun = clock::monotonic();
        let id = request_id(request.headers());
        request.extensions_mut().insert(RequestId(id));
        request.extensions_mut().insert(Arrived(begun));
        let method = method_label(request.method());
        let route = request.extensions().get::<MatchedPath>().cloned();
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answered(answer).await;
            let path = route.as_ref().map_or("unmatched", MatchedPath::as_str);
            add_headers(response.headers_mut(), id, path.starts_with("/docs"));
            let status = status_label(response.status().as_u16());
            record(path, method, status, begun.elapsed());
            Ok(response)
        })
    }
}

/// The answer, or a problem where there is none in time.
async fn answered(answer: impl Future<Output = Result<Response, Infallible>>) -> Response {
    let answer = AssertUnwindSafe(answer).catch_unwind();
    match tokio::time::timeout(TIME_LIMIT, answer).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(_)) => Problem::internal(&"a handler panicked").into_response(),
        Err(_) => timed_out().into_response(),
    }
}

fn record(route: &str, method: &'static str, status: &'static str, took: Duration) {
    DURATIONS.with_borrow_mut(|durations| {
        if !durations.contains_key(route) {
            durations.insert(route.to_owned(), Vec::new());
        }
        let Some(of_route) = durations.get_mut(route) else {
            return;
        };
        if let Some((_, histogram)) = of_route.iter().find(|(of, _)| *of == (method, status)) {
            return histogram.record(took);
        }
        let histogram = histogram!(
            "gatelog_http_request_duration_seconds",
            "method" => method,
            "route" => route.to_owned(),
            "status" => status,
        );
        histogram.record(took);
        of_route.push(((method, status), histogram));
    });
}

fn timed_out() -> Problem {
    Problem::new(
        Kind::Timeout,
        "What was asked may have been done: send the same request, with its Idempotency-Key, again.",
    )
    .retry_after(Duration::from_secs(1))
}

fn request_id(headers: &HeaderMap) -> Uuid {
    let given = headers
        .get(REQUEST_ID)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| Uuid::try_parse(v).ok());
    given.unwrap_or_else(|| {
        let bytes = IDS.with_borrow_mut(Random::take::<16>).unwrap_or_default();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    })
}

fn add_headers(headers: &mut HeaderMap, id: Uuid, docs: bool) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    if let Ok(id) = HeaderValue::from_str(id.as_hyphenated().encode_lower(&mut text)) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(content_policy(docs)));
    if !docs {
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-store"));
    }
}

/// The page under /docs has its scripts and styles here. Other pages bring a policy of their own, and no other answer is one.
fn content_policy(docs: bool) -> &'static str {
    if docs {
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    } else {
        "default-src 'none'; frame-ancestors 'none'"
    }
}

/// A closed set, so that callers cannot make series.
fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn status_label(status: u16) -> &'static str {
    macro_rules! labels {
        ($($status:literal)+) => {
            match status { $($status => stringify!($status),)+ _ => "other" }
        };
    }
    labels!(200 201 202 204 303 304 307 308 400 401 403 404 405 409 412 413 415 422 429 500 503)
}
