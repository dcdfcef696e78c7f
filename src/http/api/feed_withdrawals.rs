//! `GET /v1/feeds/{feed}/withdrawals`: the auditor's report. What was withdrawn, when a consumer of the feed was first told,
//! and when one first acknowledged. Whoever needs proof of one consumer gives it a feed of its own.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::feed::{Feed, HandedOver};
use gatelog_events::ids::{EventId, Offset, Partition, Position, Stream, UserId};
use gatelog_projections::changes::{self, Cause, Withdrawal};
use gatelog_projections::handovers;
use serde::Serialize;
use uuid::Uuid;

use super::feeds::known;
use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::feeds::engine::concerns;
use crate::feeds::keys;
use crate::feeds::record::Reason;
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::caller::Caller;
use crate::http::cursor::{self, List, PageQuery};
use crate::http::params::{Name, Query};
use crate::http::reply::ok;

const ROUTE: &str = "feed-withdrawals";
/// More than one commit can hold, so that all of an offset are read together.
const READ: usize = gatelog_events::codec::MAX_EVENTS + 1;

/// A page of the report, in the log's order partition by partition.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedWithdrawals)]
pub struct Report {
    pub withdrawals: Vec<Line>,
    /// Cursor of the next page; null at the end.
    pub next: Option<String>,
}

/// One withdrawal.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedWithdrawal)]
pub struct Line {
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    /// Whom the feed's consumer knows this user as.
    pub subject: Uuid,
    #[schema(value_type = String, example = "consent_withdrawn")]
    pub reason: Reason,
    /// The purpose that was withdrawn, where it was one.
    pub purpose: Option<String>,
    #[schema(value_type = Uuid)]
    pub event_id: EventId,
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
    #[schema(value_type = String, format = DateTime)]
    pub withdrawn_at: Timestamp,
    /// When a consumer of the feed was first told; null if none was yet, or all began to follow only later.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub delivered_at: Option<Timestamp>,
    /// When a consumer of the feed first went on from there.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub acknowledged_at: Option<Timestamp>,
}

/// What was withdrawn, when the feed's consumers were first told, and when one first acknowledged.
///
/// The report is of the feed, not of one consumer: give a consumer a feed of its own where there must be proof that it knows.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}/withdrawals", tag = "feeds", params(("feed" = String, Path), PageQuery),
    responses((status = 200, description = "A page of the report", body = Report)),
    security(("api_key" = ["feeds:audit"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    Query(page): Query<PageQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsAudit)?;
    let list = List {
        route: ROUTE,
        owner: name.as_bytes(),
    };
    let (limit, after) = (page.limit()?, page.after(&app, list)?);
    min.reached(&app, &[changes::NAME, handovers::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let purposes = purposes(known(&settings, &name)?);
    let mut place = Place::read(after.as_deref());
    let mut withdrawals = Vec::new();
    while place.partition.0 < app.node.log.partitions() && withdrawals.len() < limit {
        let Place { partition, from } = place;
        let rows = app.node.views.withdrawals(app.tenant(), partition, from, READ)?;
        let last = rows.last().map(|(offset, _)| *offset);
        // Of the last offset there may be more than was read.
        let complete = last.filter(|_| rows.len() == READ);
        let mut next = complete;
        for (offset, withdrawal) in rows {
            if complete.is_some_and(|end| offset >= end) {
                break;
            }
            if withdrawals.len() >= limit && offset >= place.from {
                next = Some(offset);
                break;
            }
            place.from = offset + 1;
            if let Some(line) = line(&app, &name, &purposes, partition, offset, withdrawal)? {
                withdrawals.push(line);
            }
        }
        place = match next {
            Some(from) => Place { partition, from },
            None => Place {
                partition: Partition(partition.0 + 1),
                from: 0,
            },
        };
    }
    let more = place.partition.0 < app.node.log.partitions();
    let next = more.then(|| cursor::issue(&app, list, &place.key()));
    ok(&Report { withdrawals, next })
}

/// Where the report goes on.
#[derive(Clone, Copy)]
struct Place {
    partition: Partition,
    from: Offset,
}

impl Place {
    fn read(key: Option<&[u8]>) -> Self {
        let parts = key.and_then(|k| k.split_at_checked(2));
        let read = parts.and_then(|(p, from)| Some((p.try_into().ok()?, from.try_into().ok()?)));
        let (partition, from) = read.unwrap_or_default();
        Self {
            partition: Partition(u16::from_be_bytes(partition)),
            from: Offset::from_be_bytes(from),
        }
    }

    fn key(self) -> Vec<u8> {
        [&self.partition.0.to_be_bytes()[..], &self.from.to_be_bytes()[..]].concat()
    }
}

/// What any version of the feed rests on: a purpose, or none.
fn purposes(feed: &Feed) -> BTreeSet<Option<&str>> {
    let all = feed.versions.iter();
    all.map(|v| v.definition.purpose.as_deref()).collect()
}

fn line(
    app: &App,
    feed: &str,
    purposes: &BTreeSet<Option<&str>>,
    partition: Partition,
    offset: Offset,
    withdrawal: Withdrawal,
) -> Result<Option<Line>, Problem> {
    let concerned = purposes.iter().find(|purpose| concerns(&withdrawal, **purpose));
    let Some(purpose) = concerned else {
        return Ok(None);
    };
    let purpose = purpose.filter(|_| withdrawal.cause == Cause::Consent);
    let handed = HandedOver {
        event_id: withdrawal.id,
        offset,
    };
    let known = app.node.views.handover(app.tenant(), feed, partition, &handed)?;
    let scope = keys::Scope {
        tenant: app.tenant(),
        feed,
    };
    Ok(Some(Line {
        user_id: withdrawal.user,
        subject: app.node.feed_keys.subject(scope, withdrawal.user),
        reason: withdrawal.cause.into(),
        purpose: purpose.map(str::to_owned),
        event_id: withdrawal.id,
        position: Position {
            stream: Stream::Identity,
            partition,
            offset,
        },
        withdrawn_at: withdrawal.time,
        delivered_at: known.delivered_at,
        acknowledged_at: known.acknowledged_at,
    }))
}
