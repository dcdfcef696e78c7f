//! `GET /v1/feeds/{feed}/events`: what happened, page by page or as it happens (server-sent events).

mod sse;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::Response;
use gatelog_events::clock;
use gatelog_events::domain::feed::{Command, Handover, Version};
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::{Partition, Position};
use gatelog_projections::{changes, users};
use serde::{Deserialize, Serialize};

use super::feeds::known;
use crate::error::{Kind, Problem};
use crate::feeds::cursor::Cursor;
use crate::feeds::engine::{Batch, Engine, Item, Start};
use crate::feeds::handover::{self, Unsaid};
use crate::feeds::keys::Scope;
use crate::feeds::record::{CloudEvent, Envelope, Record};
use crate::http::app::App;
use crate::http::ask::{MinPosition, log_ends, reachable};
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::envelope::Arrived;
use crate::http::params::{Name, Query};
use crate::http::reply::{ok, written_in};
use crate::writer::WriteError;

const LAST_EVENT_ID: &str = "last-event-id";
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Longest `wait`: below what proxies and this node's own limit allow.
const MAX_WAIT: u64 = 25;
/// How often a waiting consumer looks whether it may go on waiting.
const LOOK: Duration = Duration::from_secs(1);

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
    security(("api_key" = ["feeds:read"]), ("api_key" = ["feeds:read:{feed}"]))
)]
pub async fn follow(
    State(app): State<App>,
    Arrived(arrived): Arrived,
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
    reachable(&app)?;
    let given = if resumed.is_some() {
        "Last-Event-ID"
    } else {
        "after"
    };
    // Whoever comes back to the same URL begins in the same place, but for those who begin with the present.
    let is_lost = resumed.is_none() && query.after.is_none() && start(&query)? == Start::Now;
    let mut follower = Follower::open(app, caller, feed, &query, resumed)?;
    follower.limit = usize::try_from(limit).unwrap_or(DEFAULT_LIMIT);
    follower.fits_the_log(given).await?;
    follower.go_on().await?;
    if streaming {
        return Ok(sse::answer(follower, is_lost));
    }
    follower.page(arrived + Duration::from_secs(wait)).await
}

/// Says that everything up to a cursor has arrived, where nothing more is asked for.
#[utoipa::path(
    post, path = "/v1/feeds/{feed}/acknowledgements", tag = "feeds", params(("feed" = String, Path)),
    request_body = Acknowledgement,
    responses((status = 200, description = "It is on record", body = Acknowledged)),
    security(("api_key" = ["feeds:read"]), ("api_key" = ["feeds:read:{feed}"]))
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
    follower.fits_the_log("cursor").await?;
    let (withdrawals, positions) = follower.acknowledge().await?;
    written_in(&positions, &Acknowledged { withdrawals })
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

fn beyond(field: &str) -> Problem {
    Problem::new(
        Kind::InvalidCursor,
        "Leave the cursor out to begin anew: the log has lost what it was told from, as where it was restored from a backup.",
    )
    .field(field, "It goes beyond the end of the log.")
}

/// One consumer of one feed.
#[derive(Clone)]
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
            Some((text, field)) => {
                Some(Cursor::open(text, &app.node.cursors, scope, partitions).map_err(|_| no_cursor(field))?)
            }
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

    fn sealed(&self) -> Result<String, Problem> {
        let scope = Scope {
            tenant: self.app.tenant(),
            feed: &self.feed,
        };
        let text = self.cursor.seal(&self.app.node.cursors, scope);
        text.ok_or_else(|| Problem::internal(&"where the consumer stands cannot be sealed"))
    }

    /// Refuses a cursor that is beyond the end of the log, which has lost its end since then: what is written there anew would
    /// not be told. The log is asked only where this node has not folded so much.
    async fn fits_the_log(&self, field: &str) -> Result<(), Problem> {
        let log = &self.app.node.log;
        let is_heard = |told: &Position| {
            let heard = log.heard_end(told.stream, told.partition);
            heard.is_some_and(|heard| heard.end >= told.offset)
        };
        let mut told = self.unfolded()?;
        told.retain(|told| !is_heard(told));
        if told.is_empty() {
            return Ok(());
        }
        let places = told.iter().map(|told| (told.stream, told.partition)).collect();
        // One that does not say where it ends has not said that it ends before.
        let ends = log_ends(&self.app, places).await.unwrap_or_default();
        match told.iter().zip(ends).any(|(told, end)| end < told.offset) {
            true => Err(beyond(field)),
            false => Ok(()),
        }
    }

    fn unfolded(&self) -> Result<Vec<Position>, Problem> {
        let settings = self.app.node.views.settings(self.app.tenant())?;
        let version = self.version(&settings)?;
        Ok(self.engine(&settings, version).unfolded(&self.cursor))
    }

    /// Says in the log that the consumer knows what it was told up to its cursor. How many withdrawals that concerns, and
    /// where it stands.
    async fn acknowledge(&self) -> Result<(usize, Vec<Position>), Problem> {
        let told = self.unacknowledged()?;
        let count = told.values().map(Vec::len).sum();
        let said = self.record(told, Command::WithdrawalsAcknowledged).await;
        let positions = said.into_values().collect::<Result<Vec<_>, WriteError>>()?;
        Ok((count, positions.concat()))
    }

    /// Says the same, as far as it can be said, for a consumer who goes on: what it knows of other partitions stays open until
    /// it goes on the next time. An error where nothing can be said of any.
    async fn go_on(&self) -> Result<(), Problem> {
        let told = self.unacknowledged()?;
        let unsaid = handover::unsaid(self.record(told, Command::WithdrawalsAcknowledged).await);
        if handover::is_sayable_elsewhere(&self.app.node, &unsaid) {
            return Ok(());
        }
        match unsaid.into_values().next() {
            Some(e) => Err(e.into()),
            None => Ok(()),
        }
    }

    fn unacknowledged(&self) -> Result<handover::Told, Problem> {
        let (views, tenant) = (&self.app.node.views, self.app.tenant());
        Ok(handover::acknowledged(views, tenant, &self.feed, &self.cursor)?)
    }

    async fn record(&self, told: handover::Told, what: fn(Handover) -> Command) -> handover::Said {
        handover::record(&self.app.node, &self.feed, told, &self.caller.actor(), what).await
    }

    /// What comes next, and why something of it has to wait, if so. Which withdrawals are in it is on record before it leaves.
    ///
    /// Of a partition in which that cannot be recorded nothing is in it, and the cursor stays there. A node that is cut off
    /// gives nothing: others may know of somebody who has withdrawn.
    async fn batch(&mut self) -> Result<(Batch<Item>, Option<WriteError>), Problem> {
        reachable(&self.app)?;
        let mut aside = Unsaid::new();
        loop {
            let mut batch = self.read(aside.keys().copied().collect()).await?;
            let unsaid = self.hand_over(&batch.told).await?;
            batch.leave(&unsaid, &self.cursor);
            let is_all = unsaid.is_empty();
            aside.extend(unsaid);
            // A batch may be full of withdrawals of one partition: without it there may be others.
            if is_all || batch.cursor.lanes != self.cursor.lanes {
                self.cursor = batch.cursor.clone();
                return Ok((batch, aside.into_values().next()));
            }
        }
    }

    async fn read(&self, aside: BTreeSet<Partition>) -> Result<Batch<Item>, Problem> {
        let follower = self.clone();
        tokio::task::spawn_blocking(move || follower.read_now(&aside)).await?
    }

    /// Reads the store; blocks.
    fn read_now(&self, aside: &BTreeSet<Partition>) -> Result<Batch<Item>, Problem> {
        let settings = self.app.node.views.settings(self.app.tenant())?;
        let version = self.version(&settings)?;
        let engine = self.engine(&settings, version);
        Ok(engine.visible(self.cursor.clone(), self.limit, aside)?)
    }

    /// Says in the log which withdrawals are about to leave. Where that could not be said.
    async fn hand_over(&self, told: &[Item]) -> Result<Unsaid, Problem> {
        let (views, tenant) = (&self.app.node.views, self.app.tenant());
        let withdrawals = told.iter().filter_map(Item::handed_over);
        let news = handover::news(views, tenant, &self.feed, withdrawals)?;
        let said = self.record(news, Command::WithdrawalsDelivered).await;
        Ok(handover::unsaid(said))
    }

    /// What is told of these now.
    async fn records(&self, told: Vec<Item>) -> Result<Vec<Record>, Problem> {
        let follower = self.clone();
        tokio::task::spawn_blocking(move || {
            let records = told.iter().map(|item| follower.leaving(item));
            records
                .filter_map(Result::transpose)
                .collect::<Result<Vec<_>, _>>()
        })
        .await?
    }

    /// What an item says as it leaves; nothing if its subject may not be seen any more. An error where the caller may not
    /// follow any more, or this node is cut off. Reads a row of the store.
    fn leaving(&self, item: &Item) -> Result<Option<Record>, Problem> {
        reachable(&self.app)?;
        let settings = self.app.node.views.settings(self.app.tenant())?;
        let version = self.version(&settings)?;
        Ok(self.engine(&settings, version).record(item)?)
    }

    async fn page(mut self, until: Instant) -> Result<Response, Problem> {
        let (mut batch, mut waits) = self.batch().await?;
        while batch.told.is_empty() {
            let left = until.saturating_duration_since(clock::monotonic());
            if left.is_zero() || self.is_stopping() {
                break;
            }
            if waits.is_some() {
                // Nothing tells when it can be recorded again.
                tokio::time::sleep(left.min(LOOK)).await;
            } else if !batch.more {
                self.wait(left.min(LOOK)).await?;
            }
            (batch, waits) = self.batch().await?;
        }
        if let Some(e) = waits
            && batch.told.is_empty()
        {
            return Err(e.into());
        }
        let records = self.records(batch.told).await?;
        let envelope = self.envelope();
        ok(&Page {
            events: records.iter().map(|r| envelope.event(r)).collect(),
            next: self.sealed()?,
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

    /// The next batch that moves the consumer's place; nothing once the caller may not follow any more, or the node stops or
    /// is cut off.
    async fn next_batch(&mut self) -> Option<Vec<Item>> {
        while !self.is_stopping() {
            let before = self.cursor.clone();
            let (batch, waits) = self.batch().await.ok()?;
            let is_worth_it = !batch.told.is_empty() || !batch.more || waits.is_some();
            if self.cursor != before && is_worth_it {
                return Some(batch.told);
            }
            if waits.is_some() {
                // Nothing tells when it can be recorded again.
                tokio::time::sleep(LOOK).await;
            } else if !batch.more {
                self.wait(LOOK).await.ok()?;
            }
        }
        None
    }
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
