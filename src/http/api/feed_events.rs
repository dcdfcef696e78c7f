//! `GET /v1/feeds/{feed}/events`: what happened, page by page or as it happens (server-sent events).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};
use gatelog_events::clock;
use gatelog_events::domain::feed::{Command, Version};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::Partition;
use gatelog_projections::{changes, users};
use serde::{Deserialize, Serialize};

use super::feeds::known;
use crate::error::{Kind, Problem};
use crate::feeds::cursor::Cursor;
use crate::feeds::engine::{Batch, Engine, Item, Start};
use crate::feeds::handover;
use crate::feeds::keys::Scope;
use crate::feeds::record::{CloudEvent, Envelope, Record};
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::params::{Name, Query};
use crate::http::reply::{json, ok};

const LAST_EVENT_ID: &str = "last-event-id";
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Longest `wait`: below what proxies and this node's own limit allow.
const MAX_WAIT: u64 = 25;
/// How often a waiting consumer looks whether it may go on waiting.
const LOOK: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `?after=&limit=&version=&from=&wait=`.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// `next` of the page before. Going on from there acknowledges what was told up to there.
    pub after: Option<String>,
    /// Events wanted, 1 to 1,000; 100 if absent. Those of one commit are never parted, so there may be some more.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000)]
    pub limit: Option<String>,
    /// The version of the feed to follow; the newest, or that of the cursor, if absent. Moving to another version gives the
    /// present state of everyone anew.
    #[param(value_type = Option<u32>)]
    pub version: Option<String>,
    /// Where to begin without a cursor: `snapshot` (the present state of everyone, then what happens; if absent), `beginning`
    /// (everything that ever happened), or `now`.
    pub from: Option<String>,
    /// Seconds to wait for something to tell, 0 to 25; 0 if absent. Not for server-sent events.
    #[param(value_type = Option<u32>, maximum = 25)]
    pub wait: Option<String>,
}

/// A page of a feed.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedPage)]
pub struct Page<'a> {
    /// CloudEvents. Withdrawals come first.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub events: Vec<CloudEvent<'a>>,
    /// Cursor of the next page. There always is one: ask again later.
    pub next: String,
    /// Whether there is more already.
    pub more: bool,
}

/// That everything up to a cursor has arrived.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// `next` of a page, or the id of a server-sent event.
    pub cursor: String,
}

/// How many withdrawals were acknowledged.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Acknowledged {
    pub withdrawals: usize,
}

/// What happened, as it may be seen now. With `Accept: text/event-stream` it goes on for ever, and `Last-Event-ID` resumes.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}/events", tag = "feeds", params(("feed" = String, Path), EventsQuery),
    responses((status = 200, description = "A page, or server-sent events", content(
        (Page = "application/json"), (String = "text/event-stream")
    ))),
    security(("api_key" = ["feeds:read"]))
)]
pub async fn follow(
    State(app): State<App>,
    caller: Caller,
    Name(feed): Name,
    Query(query): Query<EventsQuery>,
    min: MinPosition,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let streaming = wants_stream(&headers);
    let resumed = headers.get(LAST_EVENT_ID).filter(|_| streaming);
    let resumed = match resumed.map(|id| id.to_str()) {
        Some(Ok(id)) => Some(id.to_owned()),
        Some(Err(_)) => return Err(no_cursor("Last-Event-ID")),
        None => None,
    };
    let limit = number(
        query.limit.as_ref(),
        "limit",
        1..=MAX_LIMIT as u64,
        DEFAULT_LIMIT as u64,
    )?;
    let wait = number(query.wait.as_ref(), "wait", 0..=MAX_WAIT, 0)?;
    caller.follows(&feed)?;
    min.reached(&app, &[changes::NAME, users::NAME]).await?;
    let mut follower = Follower::open(app, caller, feed, &query, resumed)?;
    follower.limit = usize::try_from(limit).unwrap_or(DEFAULT_LIMIT);
    follower.acknowledge().await?;
    if streaming {
        return Ok(follower.stream());
    }
    follower.page(Duration::from_secs(wait)).await
}

/// Says that everything up to a cursor has arrived, where nothing more is asked for.
#[utoipa::path(
    post, path = "/v1/feeds/{feed}/acknowledgements", tag = "feeds", params(("feed" = String, Path)),
    request_body = Acknowledgement,
    responses((status = 200, description = "It is on record", body = Acknowledged)),
    security(("api_key" = ["feeds:read"]))
)]
pub async fn acknowledge(
    State(app): State<App>,
    caller: Caller,
    Name(feed): Name,
    Json { value, .. }: Json<Acknowledgement>,
) -> Result<Response, Problem> {
    let query = EventsQuery {
        after: Some(value.cursor),
        limit: None,
        version: None,
        from: None,
        wait: None,
    };
    let follower = Follower::open(app, caller, feed, &query, None).map_err(|problem| {
        if problem.kind() == Kind::InvalidCursor {
            no_cursor("cursor")
        } else {
            problem
        }
    })?;
    let withdrawals = follower.acknowledge().await?;
    json(StatusCode::OK, &Acknowledged { withdrawals })
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    accepted.flat_map(|v| v.split(',')).any(|v| {
        v.split(';')
            .next()
            .is_some_and(|v| v.trim() == "text/event-stream")
    })
}

fn number(
    text: Option<&String>,
    field: &str,
    range: std::ops::RangeInclusive<u64>,
    absent: u64,
) -> Result<u64, Problem> {
    let Some(text) = text else { return Ok(absent) };
    let parsed = text.parse().ok().filter(|n| range.contains(n));
    parsed.ok_or_else(|| {
        let detail = format!(
            "It must be a whole number from {} to {}.",
            range.start(),
            range.end()
        );
        invalid_query(field, detail)
    })
}

fn invalid_query(field: &str, detail: String) -> Problem {
    Problem::new(Kind::InvalidQuery, "Correct the parameter named in `errors`.").field(field, detail)
}

fn no_cursor(field: &str) -> Problem {
    Problem::new(
        Kind::InvalidCursor,
        "Use `next` of the page before, unchanged and for the same feed, or leave it out to begin anew.",
    )
    .field(field, "It is not a cursor of this feed.")
}

/// One consumer of one feed.
struct Follower {
    app: App,
    caller: Caller,
    feed: String,
    cursor: Cursor,
    limit: usize,
}

impl Follower {
    fn open(
        app: App,
        caller: Caller,
        feed: String,
        query: &EventsQuery,
        resumed: Option<String>,
    ) -> Result<Self, Problem> {
        caller.follows(&feed)?;
        let settings = app.node.views.settings(app.tenant())?;
        let newest = known(&settings, &feed)?.newest();
        let wanted = match &query.version {
            None => None,
            Some(_) => Some(number(query.version.as_ref(), "version", 1..=u64::from(newest), 1)? as u32),
        };
        let start = start(query)?;
        let scope = Scope {
            tenant: app.tenant(),
            feed: &feed,
        };
        let given = resumed.as_ref().map(|text| (text, "Last-Event-ID"));
        let given = given.or(query.after.as_ref().map(|text| (text, "after")));
        let partitions = app.node.log.partitions();
        let given = match given {
            Some((text, field)) => Some(
                Cursor::open(text, &app.node.feed_keys, scope, partitions).map_err(|_| no_cursor(field))?,
            ),
            None => None,
        };
        let number = wanted.or(given.as_ref().map(|c| c.version)).unwrap_or(newest);
        let mut follower = Self {
            cursor: Cursor {
                version: number,
                turn: 0,
                lanes: Vec::new(),
            },
            limit: DEFAULT_LIMIT,
            app,
            caller,
            feed,
        };
        let version = follower.version(&settings)?;
        let engine = follower.engine(&settings, version);
        follower.cursor = match given {
            None => engine.begin(number, partitions, start),
            Some(cursor) if cursor.version == number => cursor,
            Some(cursor) => {
                let before = known(&settings, &follower.feed)?.version(cursor.version);
                let before = before.ok_or_else(|| no_cursor("after"))?;
                engine.moved(cursor, number, &before.definition)
            }
        };
        Ok(follower)
    }

    /// The version that is followed, if the caller may still follow it.
    fn version<'s>(&self, settings: &'s Settings) -> Result<&'s Version, Problem> {
        self.caller.is_still(settings)?;
        let feed = known(settings, &self.feed)?;
        if feed.retired_at.is_some() {
            return Err(Problem::new(
                Kind::FeedRetired,
                "Nothing leaves by it any more. Ask the operator which feed to follow instead.",
            ));
        }
        feed.version(self.cursor.version)
            .ok_or_else(|| no_cursor("after"))
    }

    fn engine<'a>(&'a self, settings: &'a Settings, version: &'a Version) -> Engine<'a> {
        Engine::of(
            &self.app.node,
            settings,
            &self.feed,
            &version.definition,
            Partition(0),
        )
    }

    fn envelope(&self) -> Envelope {
        let issuer = &self.app.node.config.issuer;
        Envelope::new(issuer, self.app.tenant(), &self.feed, self.cursor.version)
    }

    fn sealed(&self) -> String {
        let scope = Scope {
            tenant: self.app.tenant(),
            feed: &self.feed,
        };
        self.cursor.seal(&self.app.node.feed_keys, scope)
    }

    /// Says in the log that the consumer knows what it was told up to its cursor. How many withdrawals that concerns.
    async fn acknowledge(&self) -> Result<usize, Problem> {
        let node = &self.app.node;
        let told = handover::acknowledged(&node.views, self.app.tenant(), &self.feed, &self.cursor)?;
        let count = told.values().map(Vec::len).sum();
        self.record(told, Command::WithdrawalsAcknowledged).await?;
        Ok(count)
    }

    async fn record(
        &self,
        told: handover::Told,
        what: fn(gatelog_events::domain::feed::Handover) -> Command,
    ) -> Result<(), Problem> {
        let (router, tenant) = (&self.app.node.router, self.app.tenant());
        handover::record(router, tenant, &self.feed, told, &self.caller.actor(), what).await?;
        Ok(())
    }

    /// What comes next. Which withdrawals are in it is on record before it leaves.
    async fn batch(self) -> Result<(Self, Batch<(Item, Record)>), Problem> {
        let blocking = tokio::task::spawn_blocking(move || {
            let settings = self.app.node.views.settings(self.app.tenant())?;
            let version = self.version(&settings)?;
            let batch = self
                .engine(&settings, version)
                .records(self.cursor.clone(), self.limit)?;
            Ok::<_, Problem>((self, batch))
        });
        let (mut follower, batch) = blocking.await.map_err(|e| Problem::internal(&e))??;
        let (views, tenant) = (&follower.app.node.views, follower.app.tenant());
        let withdrawals = batch.told.iter().filter_map(|(item, _)| item.handed_over());
        let told = handover::news(views, tenant, &follower.feed, withdrawals)?;
        follower.record(told, Command::WithdrawalsDelivered).await?;
        follower.cursor = batch.cursor.clone();
        Ok((follower, batch))
    }

    async fn page(self, wait: Duration) -> Result<Response, Problem> {
        let until = clock::monotonic() + wait;
        let (mut follower, mut batch) = self.batch().await?;
        while batch.told.is_empty() {
            let left = until.saturating_duration_since(clock::monotonic());
            if left.is_zero() || follower.is_stopping() {
                break;
            }
            if !batch.more {
                follower.wait(left.min(LOOK)).await?;
            }
            (follower, batch) = follower.batch().await?;
        }
        let envelope = follower.envelope();
        ok(&Page {
            events: batch.told.iter().map(|(_, r)| envelope.event(r)).collect(),
            next: follower.sealed(),
            more: batch.more,
        })
    }

    /// Waits until there may be something to tell.
    async fn wait(&self, at_most: Duration) -> Result<(), Problem> {
        let views = &self.app.node.views;
        // Before looking, so that nothing in between is missed.
        let moved = views.moved(changes::NAME);
        let settings: Arc<Settings> = views.settings(self.app.tenant())?;
        let version = self.version(&settings)?;
        if !self.engine(&settings, version).has_more(&self.cursor) {
            let _ = tokio::time::timeout(at_most, moved).await;
        }
        Ok(())
    }

    /// A node that is told to stop does not wait for those who follow for ever.
    fn is_stopping(&self) -> bool {
        self.app.node.is_stopping()
    }

    fn stream(self) -> Response {
        let batches = stream::unfold(Some(self), |follower| async move { follower?.next().await });
        let events = batches.flat_map(stream::iter);
        Sse::new(infallible(events))
            .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
            .into_response()
    }

    /// The next events; nothing once the caller may not follow any more, or the node stops. The consumer comes back then,
    /// and hears why.
    async fn next(self) -> Option<(Vec<Event>, Option<Self>)> {
        let mut follower = self;
        loop {
            if follower.is_stopping() {
                return None;
            }
            let before = follower.cursor.clone();
            let (again, batch) = follower.batch().await.ok()?;
            follower = again;
            if follower.cursor != before && (!batch.told.is_empty() || !batch.more) {
                let events = follower.events(&batch);
                return Some((events, Some(follower)));
            }
            if !batch.more {
                follower.wait(LOOK).await.ok()?;
            }
        }
    }

    /// One server-sent event per record. Only the last one has an id: who is cut off before it gets all of them again. Where
    /// nothing is to be told, an id alone moves the consumer's place.
    fn events(&self, batch: &Batch<(Item, Record)>) -> Vec<Event> {
        let envelope = self.envelope();
        let mut events: Vec<_> = batch
            .told
            .iter()
            .filter_map(|(_, record)| Event::default().json_data(envelope.event(record)).ok())
            .collect();
        let last = events.pop().unwrap_or_default();
        events.push(last.id(self.sealed()));
        events
    }
}

fn infallible(events: impl Stream<Item = Event>) -> impl Stream<Item = Result<Event, Infallible>> {
    events.map(Ok)
}

fn start(query: &EventsQuery) -> Result<Start, Problem> {
    match query.from.as_deref() {
        None | Some("snapshot") => Ok(Start::Snapshot),
        Some("beginning") => Ok(Start::Beginning),
        Some("now") => Ok(Start::Now),
        Some(_) => {
            let detail = "It must be snapshot, beginning or now.";
            Err(invalid_query("from", detail.to_owned()))
        }
    }
}
