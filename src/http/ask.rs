//! The circumstances of a request that writes: its id, its sender, its idempotency key.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::commit::Subject;
use gatelog_events::domain::identifier::CLAIM_TTL;
use gatelog_events::domain::{Actor, session};
use gatelog_events::ids::{CommitId, Offset, Partition, Position, Shard, Stream};
use gatelog_projections::answers;
use gatelog_projections::view::View;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::app::App;
use super::caller::Caller;
use super::envelope::RequestId;
use super::peer::client_ip;
use crate::auth::throttle::Key;
use crate::error::{Kind, Problem};
use crate::writer::{Command, Idempotency, Outcome, Request, WriteError};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MIN_POSITION: &str = "gatelog-min-position";
const MAX_KEY: usize = 255;
const MAX_USER_AGENT: usize = 256;

/// A request that writes.
pub struct Ask {
    pub ip: IpAddr,
    user_agent: Option<String>,
    request_id: Uuid,
    method: Method,
    /// Path and query.
    target: String,
    key: Option<String>,
}

impl FromRequestParts<App> for Ask {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let user_agent = parts.headers.get(axum::http::header::USER_AGENT);
        let target = parts
            .uri
            .path_and_query()
            .map_or(parts.uri.path(), |t| t.as_str());
        Ok(Self {
            ip: client_ip(parts, &app.node.config.trusted_proxies),
            user_agent: user_agent.and_then(|v| v.to_str().ok()).map(shortened),
            request_id: parts.extensions.get::<RequestId>().map_or(Uuid::nil(), |id| id.0),
            method: parts.method.clone(),
            target: target.to_owned(),
            key: idempotency_key(&parts.headers)?,
        })
    }
}

/// `to_str` lets visible ASCII through only, so any byte is a boundary.
fn shortened(user_agent: &str) -> String {
    user_agent.get(..MAX_USER_AGENT).unwrap_or(user_agent).to_owned()
}

/// The key of `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a string in quotes, or the bare text.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let refused = || {
        Problem::new(Kind::InvalidHeader, "Correct the header named in `errors`.").field(
            "Idempotency-Key",
            "It must be one string of 1 to 255 visible ASCII characters, such as a UUID.",
        )
    };
    let text = value.to_str().map_err(|_| refused())?;
    let key = match text.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"').and_then(unescaped).ok_or_else(refused)?,
        None => text.to_owned(),
    };
    let valid = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if !valid || values.next().is_some() {
        return Err(refused());
    }
    Ok(Some(key))
}

/// The content of a string of RFC 8941, section 3.3.3: a backslash may stand before a quote or a backslash only.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            '"' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

impl Ask {
    /// The client, for the record of a login and the evidence of a consent.
    pub fn client(&self) -> session::Client {
        session::Client {
            ip: Some(self.ip.to_string()),
            user_agent: self.user_agent.clone(),
        }
    }

    /// The network whose attempts are counted together.
    pub fn network(&self) -> Key {
        Key::network(self.ip)
    }

    /// The commit id of this request, if it has an idempotency key: the same for each retry, and for nobody else's key.
    pub fn commit_id(&self, app: &App, caller: Option<&Caller>) -> Option<CommitId> {
        let key = self.key.as_ref()?;
        let (kind, id) = caller.map_or(("visitor", [0; 16]), Caller::identity);
        let parts: [&[u8]; 5] = [
            kind.as_bytes(),
            &id,
            self.method.as_str().as_bytes(),
            self.target.as_bytes(),
            key.as_bytes(),
        ];
        Some(commit_id(app.mac("idempotency", &parts)))
    }

    /// A request to the writer, whichever node's that is. `body` is what was sent, to notice another request under the same key.
    pub fn request(
        &self,
        app: &App,
        caller: Option<&Caller>,
        subject: Subject,
        command: Command,
        body: &[u8],
    ) -> Request {
        let idempotency = self.commit_id(app, caller).map(|commit_id| {
            // Not the body itself: it may hold a password, which must not travel to the node that writes.
            let parts = [self.method.as_str().as_bytes(), self.target.as_bytes(), body];
            Idempotency {
                commit_id,
                request: Arc::new(app.mac("idempotency-request", &parts)),
            }
        });
        Request {
            tenant: app.tenant().clone(),
            subject,
            partition: None,
            command,
            actor: caller.map_or(Actor::Visitor, Caller::actor),
            correlation_id: self.request_id,
            idempotency,
            time: None,
            after: None,
        }
    }

    /// Hands a command to the writer and waits until it is durable.
    pub async fn submit(
        &self,
        app: &App,
        caller: &Caller,
        subject: Subject,
        command: Command,
        body: &[u8],
    ) -> Result<Outcome, Problem> {
        let request = self.request(app, Some(caller), subject, command, body);
        Ok(app.node.router.submit(request).await?)
    }
}

fn commit_id(mac: [u8; 32]) -> CommitId {
    let mut id = [0; 16];
    id.copy_from_slice(&mac[..16]);
    CommitId(uuid::Builder::from_custom_bytes(id).into_uuid())
}

/// The id of the commit that follows another one of the same request.
pub fn next_commit_id(app: &App, first: CommitId) -> CommitId {
    commit_id(app.mac("idempotency-next", &[first.as_bytes()]))
}

/// The id of the claim that comes before a commit; another one when so much time has passed that the claim is made anew.
pub fn claim_commit_id(app: &App, first: CommitId, now: Timestamp) -> CommitId {
    let period = now.millis() / (CLAIM_TTL.as_millis() as i64 / 4);
    commit_id(app.mac("idempotency-claim", &[first.as_bytes(), &period.to_be_bytes()]))
}

/// Whether the request of this commit id was answered before.
pub fn was_answered(app: &App, stream: Stream, partition: Partition, id: CommitId) -> Result<bool, Problem> {
    let views = &app.node.views;
    let Some(table) = views.table(answers::NAME) else {
        return Ok(false);
    };
    let view = View {
        store: views.store(),
        table: &table,
        overlay: None,
    };
    Ok(answers::get(view, app.tenant(), stream, partition, id, clock::now())?.is_some())
}

/// Refuses while it is known that the log cannot be reached: what would wait for it in vain is better not begun.
pub fn reachable(app: &App) -> Result<(), WriteError> {
    if app.node.backend.is_reachable() {
        return Ok(());
    }
    let reason = "the log cannot be reached".to_owned();
    Err(WriteError::Unavailable { reason })
}

/// Bounds a write that takes more than one step as the router bounds one: where other nodes write too, what is not done
/// within `forward_timeout` is answered, and what became of it is not known.
pub async fn in_time<T>(
    app: &App,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, WriteError> {
    let Some(cluster) = &app.node.config.cluster else {
        return write.await;
    };
    let limit = cluster.forward_timeout;
    let done = tokio::time::timeout(limit, write).await;
    done.unwrap_or_else(|_| {
        let reason = format!("it was not done within {limit:?}");
        Err(WriteError::Unavailable { reason })
    })
}

/// Longest wait for what other nodes wrote before somebody is told that there is no such thing.
const CATCHING_UP: Duration = Duration::from_secs(2);

/// Questions to the log at a time. Each holds a thread until it is answered, which a broker that died may not do.
static QUESTIONS: Semaphore = Semaphore::const_new(256);

/// Where partitions end, as the log says now; nothing where it does not say within bounds.
pub async fn log_ends(app: &App, places: Vec<(Stream, Partition)>) -> Option<Vec<Offset>> {
    let log = app.node.log.clone();
    let ends = async {
        let turn = QUESTIONS.acquire().await.ok()?;
        // A task of its own, so that the question counts until it is answered, though nobody waits any more.
        let asked = tokio::spawn(async move {
            let _turn = turn;
            log.ends(&places).await.ok()
        });
        asked.await.ok()?
    };
    tokio::time::timeout(CATCHING_UP, ends).await.ok()?
}

/// Waits until a projection has folded what the identity partition of a shard holds now, if other nodes write too.
///
/// `false`: it is behind all the same, after a wait within bounds. Error: nobody can say what the partition holds. Either
/// way this node must not say that something is not there.
pub async fn caught_up(app: &App, projection: &str, shard: Shard) -> Result<bool, WriteError> {
    if app.node.config.kafka.is_none() {
        return Ok(true);
    }
    reachable(app)?;
    let (stream, partition) = (Stream::Identity, shard.partition(app.node.log.partitions()));
    let deadline = clock::monotonic() + CATCHING_UP;
    let ends = log_ends(app, vec![(stream, partition)]).await;
    let Some(end) = ends.and_then(|ends| ends.first().copied()) else {
        let reason = "the log does not say what other nodes wrote".to_owned();
        return Err(WriteError::Unavailable { reason });
    };
    let Some(offset) = end.checked_sub(1) else {
        return Ok(true);
    };
    let last = Position {
        stream,
        partition,
        offset,
    };
    let left = deadline.saturating_duration_since(clock::monotonic());
    Ok(app.node.views.wait_for(projection, last, left).await.is_ok())
}

/// What is answered where this node knows less than the log holds, and it matters.
pub fn behind() -> WriteError {
    let reason = "this node has not read all that other nodes wrote".to_owned();
    WriteError::Unavailable { reason }
}

/// `Gatelog-Min-Position`: what must have been folded before a read is answered.
pub struct MinPosition(Option<Position>);

impl FromRequestParts<App> for MinPosition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Self::of(&parts.headers)
    }
}

impl MinPosition {
    /// As a request's headers have it.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(MIN_POSITION).iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        let position = value.to_str().ok().and_then(|text| text.parse().ok());
        match position {
            Some(position) if values.next().is_none() => Ok(Self(Some(position))),
            _ => Err(
                Problem::new(Kind::InvalidHeader, "Correct the header named in `errors`.").field(
                    "Gatelog-Min-Position",
                    "It must be one position as a write answers it, such as identity:3:1024.",
                ),
            ),
        }
    }

    /// Waits, within bounds, until the projections have folded the position.
    pub async fn reached(&self, app: &App, projections: &[&str]) -> Result<(), Problem> {
        let Some(position) = self.0 else {
            return Ok(());
        };
        let deadline = clock::monotonic() + app.node.config.min_position_wait;
        for projection in projections {
            if super::lag::streams(projection).contains(&position.stream) {
                let left: Duration = deadline.saturating_duration_since(clock::monotonic());
                app.node.views.wait_for(projection, position, left).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[&str]) -> Result<Option<String>, Kind> {
        let mut headers = HeaderMap::new();
        for v in values {
            headers.append(IDEMPOTENCY_KEY, v.parse().unwrap());
        }
        idempotency_key(&headers).map_err(|p| p.kind())
    }

    #[test]
    fn idempotency_keys_come_quoted_or_bare() {
        assert_eq!(key(&[]), Ok(None));
        for (text, expected) in [
            (
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
                "8e03978e-40d5-43dd-bc93-6894a57f9324",
            ),
            ("\"8e03978e\"", "8e03978e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            ("a", "a"),
        ] {
            assert_eq!(key(&[text]), Ok(Some(expected.to_owned())), "{text}");
        }
        let long = "k".repeat(256);
        for text in ["", "\"\"", "\"abc", "\"a\"b\"", "a b", r#""a\b""#, &long] {
            assert_eq!(key(&[text]), Err(Kind::InvalidHeader), "{text}");
        }
        assert!(key(&[&"k".repeat(255)]).is_ok());
        assert_eq!(key(&["a", "a"]), Err(Kind::InvalidHeader));
    }
}
