//! Posts webhooks to endpoints that somebody else chose, so that nothing inside the operator's network is reached by
//! them (OWASP "Server-Side Request Forgery"): no redirects, no proxies, and connections to checked addresses only.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, Response};

use super::target::{Policy, Refused, Target, TargetError};
use gatelog_events::clock::Timestamp;

/// How much of an answer's body is read, in bytes. All of it is thrown away; what is read whole keeps its connection.
pub const MAX_REPLY: usize = 64 * 1024;

/// How much of the answer of an API is read, in bytes.
pub const MAX_ANSWER: usize = 4 * 1024 * 1024;

const IDLE: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("gatelog/", env!("CARGO_PKG_VERSION"));

/// How long a receiver may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For finding the address, connecting and TLS.
    pub connect: Duration,
    /// For all of one attempt.
    pub total: Duration,
}

impl Default for Timeouts {
    /// 5 s and 20 s; Standard Webhooks recommends 15 to 30 s for an attempt.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(20),
        }
    }
}

/// What a receiver answered. Of the body nothing is kept: it may be an answer from inside the operator's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// How long the receiver asks to wait (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
    /// Bytes of the body that were read and thrown away, at most [`MAX_REPLY`].
    pub discarded: usize,
}

/// What an API answered that was chosen by the operator's own staff, whose answers are read.
#[derive(Clone, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// Names in lower case; values that are no text are left out.
    pub headers: Vec<(String, String)>,
    /// How long the API asks to wait (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
    /// Up to [`MAX_ANSWER`] of it.
    pub body: Vec<u8>,
}

/// There was no answer. No text of these errors has the URL's path or query, or an address that a name resolved to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Nothing was sent.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Nothing was sent. The field says which address it was, for the operator's eyes only.
    #[error("url: its host name resolves to addresses that cannot be reached; use the name of a public host")]
    NameRefused(Refused),
    /// Nothing was sent.
    #[error("url: its host name cannot be resolved; check its spelling and its DNS records ({0})")]
    Unresolved(String),
    /// Nothing was sent.
    #[error("headers: a name or value is not valid in HTTP; remove control characters")]
    Headers,
    /// Nothing was sent.
    #[error("the receiver cannot be connected to; check that it runs and its certificate is valid ({0})")]
    Unconnected(String),
    /// The receiver may have got the message.
    #[error("the receiver took too long; it must answer before it does its work")]
    TimedOut,
    /// The receiver may have got the message.
    #[error("the receiver broke off or does not answer in HTTP; check what listens there ({0})")]
    Broken(String),
}

/// There is no HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("webhooks cannot be sent: {0}")]
pub struct NoClient(#[from] reqwest::Error);

/// Posts to endpoints. Keeps its connections; cheap to clone.
#[derive(Clone)]
pub struct WebhookClient {
    client: reqwest::Client,
    policy: Arc<Policy>,
}

impl WebhookClient {
    /// A client for this policy. When the policy changes, make a new one: kept connections were checked by the old.
    ///
    /// # Errors
    /// [`NoClient`] if TLS cannot be set up.
    pub fn new(policy: Policy, timeouts: Timeouts) -> Result<Self, NoClient> {
        Self::with_lookup(policy, timeouts, Arc::new(|name| Box::pin(lookup(name))))
    }

    fn with_lookup(policy: Policy, timeouts: Timeouts, lookup: Lookup) -> Result<Self, NoClient> {
        let policy = Arc::new(policy);
        let resolver = CheckedResolver {
            policy: policy.clone(),
            lookup,
        };
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would resolve names itself, unchecked.
            .no_proxy()
            // When to try again is decided by the schedule.
            .retry(reqwest::retry::never())
            .https_only(!policy.allow_http)
            .dns_resolver(resolver)
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.total)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .referer(false)
            .user_agent(USER_AGENT)
            .build()?;
        Ok(Self { client, policy })
    }

    /// Posts once. `now` is what a date in `Retry-After` is compared with. Whatever status comes back is a [`Reply`],
    /// also when its body breaks off.
    ///
    /// # Errors
    /// [`DeliveryError`] if the target is refused or no status comes back in time.
    pub async fn post(
        &self,
        target: &Target,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
        now: Timestamp,
    ) -> Result<Reply, DeliveryError> {
        let answer = self.send(Method::POST, target, headers, body.into()).await?;
        Ok(Reply {
            status: answer.status().as_u16(),
            retry_after: asked_to_wait(&answer, now),
            discarded: discard(answer).await,
        })
    }

    /// As [`post`](Self::post), with up to `limit` bytes of the body of an answer of status 400, where a protocol has error
    /// codes there. Whoever asks for them must show nothing of them but codes that it knows.
    ///
    /// # Errors
    /// As [`post`](Self::post).
    pub async fn post_for_error(
        &self,
        target: &Target,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Reply, Vec<u8>), DeliveryError> {
        let mut answer = self.send(Method::POST, target, headers, body.into()).await?;
        let status = answer.status().as_u16();
        let retry_after = asked_to_wait(&answer, now);
        let mut kept = Vec::new();
        if status == 400 {
            // The status has come, and that is what counts.
            let _ = read(&mut answer, limit, &mut kept).await;
        }
        let reply = Reply {
            status,
            retry_after,
            discarded: discard(answer).await,
        };
        Ok((reply, kept))
    }

    /// Calls an API once, and reads what it answers. Otherwise as [`WebhookClient::post`].
    ///
    /// # Errors
    /// [`DeliveryError`] if the target is refused or no whole answer comes back in time.
    pub async fn call(
        &self,
        method: Method,
        target: &Target,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        now: Timestamp,
    ) -> Result<Answered, DeliveryError> {
        let mut answer = self.send(method, target, headers, body.into()).await?;
        let named = answer.headers().iter();
        let named = named
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
        let mut answered = Answered {
            status: answer.status().as_u16(),
            headers: named.collect(),
            retry_after: asked_to_wait(&answer, now),
            body: Vec::new(),
        };
        read(&mut answer, MAX_ANSWER, &mut answered.body)
            .await
            .map_err(explain)?;
        Ok(answered)
    }

    async fn send(
        &self,
        method: Method,
        target: &Target,
        headers: &[(&str, &str)],
        body: reqwest::Body,
    ) -> Result<Response, DeliveryError> {
        // Hosts that are addresses never come to the resolver.
        target.check(&self.policy)?;
        let mut request = self.client.request(method, target.url().clone()).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.map_err(explain)
    }
}

fn asked_to_wait(answer: &Response, now: Timestamp) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry_after(text, now)
}

/// Reads a body up to so many bytes.
async fn read(answer: &mut Response, limit: usize, body: &mut Vec<u8>) -> Result<(), reqwest::Error> {
    while let Some(chunk) = answer.chunk().await? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    Ok(())
}

async fn discard(mut answer: Response) -> usize {
    // As most answers are: there is nothing to wait for.
    if answer.content_length() == Some(0) {
        return 0;
    }
    let mut length = 0;
    while length < MAX_REPLY {
        match answer.chunk().await {
            Ok(Some(chunk)) => length += chunk.len(),
            // The status has come, and that is what counts.
            Ok(None) | Err(_) => break,
        }
    }
    length.min(MAX_REPLY)
}

/// Seconds or an HTTP date (RFC 9110 section 5.6.7; of its three forms the one that may still be sent).
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits for u64 are a very long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some(Timestamp::from_millis(date.timestamp_millis()).since(now))
}

type Found = std::io::Result<Vec<SocketAddr>>;
type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Found> + Send>> + Send + Sync>;

async fn lookup(name: String) -> Found {
    // The port is filled in by the client.
    Ok(tokio::net::lookup_host((name, 0)).await?.collect())
}

/// Resolves names to allowed addresses. The connection is made to these and the name is not resolved again, so that
/// another DNS answer a moment later changes nothing.
struct CheckedResolver {
    policy: Arc<Policy>,
    lookup: Lookup,
}

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("{0}")]
    Refused(Refused),
    #[error("{0}")]
    Failed(String),
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.lookup)(name.as_str().to_owned());
        let policy = self.policy.clone();
        Box::pin(async move {
            let addresses = found.await.map_err(|e| LookupError::Failed(e.to_string()))?;
            let allowed = allowed(addresses, &policy)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn allowed(addresses: Vec<SocketAddr>, policy: &Policy) -> Result<Vec<SocketAddr>, LookupError> {
    let mut refused = None;
    let mut kept = Vec::with_capacity(addresses.len());
    for address in addresses {
        match policy.check(address.ip()) {
            Ok(()) => kept.push(address),
            Err(e) => refused = Some(e),
        }
    }
    match (kept.is_empty(), refused) {
        (false, _) => Ok(kept),
        (true, Some(refused)) => Err(LookupError::Refused(refused)),
        (true, None) => Err(LookupError::Failed("it has no addresses".to_owned())),
    }
}

fn explain(e: reqwest::Error) -> DeliveryError {
    match causes(&e).find_map(|cause| cause.downcast_ref()) {
        Some(LookupError::Refused(refused)) => return DeliveryError::NameRefused(*refused),
        Some(LookupError::Failed(reason)) => return DeliveryError::Unresolved(reason.clone()),
        None => {}
    }
    // Without reqwest's own text: that has the URL.
    let reason = || causes(&e).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if e.is_builder() {
        DeliveryError::Headers
    } else if e.is_timeout() {
        DeliveryError::TimedOut
    } else if e.is_connect() {
        DeliveryError::Unconnected(reason())
    } else {
        DeliveryError::Broken(reason())
    }
}

fn causes(e: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(e.source(), |&cause| cause.source())
}

#[cfg(test)]
mod tests;
