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
/// Withdrawals that one request looks at, give or take a read, whether or not they concern the feed: where few withdraw its
/// purpose, among very many who withdraw others, a page ends before it is full.
const LOOKED_AT: usize = 4096;

/// A page of the report, in the log's order partition by partition.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedWithdrawals)]
pub struct Report {
    /// May be fewer than `limit`, also none, while there is a next page.
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
/// A request looks at a bounded number of withdrawals, those of other purposes too. So a page may hold fewer lines than `limit`,
/// also none, while there is a next one: go on until `next` is null.
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
    let (limit, after) = (page.limit()?, page.after(&app, list_of(&name))?);
    min.reached(&app, &[changes::NAME, handovers::NAME]).await?;
    // Bounded, and yet some thousand rows: those who log in meanwhile shall not wait for the thread.
    tokio::task::spawn_blocking(move || report(&app, &name, after.as_deref(), limit)).await?
}

/// The pages of one feed's report.
fn list_of(feed: &str) -> List<'_> {
    List {
        route: ROUTE,
        owner: feed.as_bytes(),
    }
}

/// One page of a feed's report. Reads the store; blocks.
fn report(app: &App, feed: &str, after: Option<&[u8]>, limit: usize) -> Result<Response, Problem> {
    let settings = app.node.views.settings(app.tenant())?;
    let purposes = purposes(known(&settings, feed)?);
    let (withdrawals, next) = fill(
        Place::read(after),
        app.node.log.partitions(),
        limit,
        |at| {
            let rows = app
                .node
                .views
                .withdrawals(app.tenant(), at.partition, at.from, READ);
            rows.map_err(Problem::from)
        },
        |partition, offset, withdrawal| line(app, feed, &purposes, partition, offset, withdrawal),
    )?;
    let next = next.map(|place| cursor::issue(app, list_of(feed), &place.key()));
    ok(&Report { withdrawals, next })
}

/// What stands on a page that begins at `place`, and where the next one begins, unless nothing is left.
///
/// A page ends when it has `limit` lines or when [`LOOKED_AT`] rows were looked at, but never within an offset, of which it
/// has all lines. `read` gives up to [`READ`] rows of a partition, and `line` what is said of one that concerns the feed.
fn fill<R, L>(
    mut place: Place,
    partitions: u16,
    limit: usize,
    read: impl Fn(Place) -> Result<Vec<(Offset, R)>, Problem>,
    line: impl Fn(Partition, Offset, R) -> Result<Option<L>, Problem>,
) -> Result<(Vec<L>, Option<Place>), Problem> {
    let mut lines = Vec::new();
    let mut room = LOOKED_AT;
    while place.partition.0 < partitions {
        if lines.len() >= limit || room == 0 {
            return Ok((lines, Some(place)));
        }
        let rows = read(place)?;
        // To find that a partition has none is work, too.
        room = room.saturating_sub(rows.len().max(1));
        // Of the last offset there may be more than was read.
        let cut = rows
            .last()
            .map(|(offset, _)| *offset)
            .filter(|_| rows.len() == READ);
        let (mut stop, mut taken) = (None, None);
        for (offset, row) in rows {
            let full = lines.len() >= limit && taken != Some(offset);
            if full || cut == Some(offset) {
                stop = Some(offset);
                break;
            }
            taken = Some(offset);
            lines.extend(line(place.partition, offset, row)?);
        }
        place = match stop {
            Some(from) => Place { from, ..place },
            None => place.next_partition(),
        };
    }
    Ok((lines, None))
}

/// Where the report goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    fn next_partition(self) -> Self {
        Self {
            partition: Partition(self.partition.0 + 1),
            from: 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a partition: the offset, and whether it concerns the feed.
    type Rows = Vec<(Offset, bool)>;

    /// So many rows that do not concern the feed, at offsets of their own.
    fn others(rows: usize) -> Rows {
        (0..rows as Offset).map(|offset| (offset, false)).collect()
    }

    /// One page: partition and offset of each of its lines, and where the next one begins. No more is looked at than may be.
    fn page(all: &[Rows], at: Place, limit: usize) -> (Vec<(u16, Offset)>, Option<Place>) {
        let looked_at = std::cell::Cell::new(0);
        let read = |at: Place| {
            let rows = all[usize::from(at.partition.0)].iter();
            let rows = rows.filter(|(offset, _)| *offset >= at.from).take(READ);
            let rows: Vec<_> = rows.copied().collect();
            looked_at.set(looked_at.get() + rows.len());
            Ok(rows)
        };
        let line = |partition: Partition, offset: Offset, concerns: bool| {
            let line = (partition.0, offset);
            Ok(concerns.then_some(line))
        };
        let partitions = u16::try_from(all.len()).unwrap();
        let filled = fill(at, partitions, limit, read, line).unwrap();
        assert!(looked_at.get() < LOOKED_AT + READ);
        filled
    }

    /// All pages, each from the cursor of the one before.
    fn pages(all: &[Rows], limit: usize) -> Vec<Vec<(u16, Offset)>> {
        let mut pages = Vec::new();
        let mut at = Some(Place::read(None));
        while let Some(place) = at {
            assert_eq!(Place::read(Some(&place.key())), place);
            let (lines, next) = page(all, place, limit);
            pages.push(lines);
            at = next;
        }
        pages
    }

    fn expected(all: &[Rows]) -> Vec<(u16, Offset)> {
        let mut lines = Vec::new();
        for (partition, rows) in (0..).zip(all) {
            let concerned = rows.iter().filter(|(_, concerns)| *concerns);
            lines.extend(concerned.map(|(offset, _)| (partition, *offset)));
        }
        lines
    }

    #[test]
    fn pages_have_each_line_once_in_the_order_of_the_log() {
        let one = |offset| (offset, true);
        let of_one_commit = vec![(9, true); READ - 1];
        let mut at_its_end = others(READ - 1);
        at_its_end.extend([(1000, true), (1000, true), (1001, false), (1001, true)]);
        let cases: [Vec<Rows>; 8] = [
            vec![],
            vec![vec![], vec![]],
            vec![vec![one(3)], vec![], vec![one(0), one(7)]],
            vec![vec![one(1), (2, false), one(2), one(2), one(5)], vec![one(0)]],
            vec![of_one_commit.clone(), of_one_commit],
            // A read that ends within an offset.
            vec![at_its_end, vec![one(0)]],
            vec![others(READ), others(LOOKED_AT), vec![one(4)]],
            vec![(0..3 * READ as Offset).map(one).collect(), vec![one(1)]],
        ];
        for (n, all) in cases.iter().enumerate() {
            for limit in [1, 2, 3, 200] {
                let pages = pages(all, limit);
                assert_eq!(pages.concat(), expected(all), "{n} {limit}");
            }
        }
    }

    #[test]
    fn a_page_ends_at_its_limit_but_never_within_an_offset() {
        let all = [vec![(1, true), (2, true), (2, true), (2, true), (3, true)]];
        let lengths = |limit: usize| -> Vec<usize> { pages(&all, limit).iter().map(Vec::len).collect() };
        assert_eq!(lengths(1), [1, 3, 1]);
        assert_eq!(lengths(2), [4, 1]);
        assert_eq!(lengths(4), [4, 1]);
        assert_eq!(lengths(5), [5]);
    }

    #[test]
    fn a_page_without_lines_says_where_to_go_on() {
        let mut first = others(3 * LOOKED_AT);
        first.push((u64::MAX - 1, true));
        let all = [first, others(LOOKED_AT), vec![(5, true)]];
        let pages = pages(&all, 50);
        assert!(pages.len() > 3, "{}", pages.len());
        assert!(pages[0].is_empty());
        assert_eq!(pages.concat(), [(0, u64::MAX - 1), (2, 5)]);
        // Many partitions without any withdrawal are no reason to look at all of them at once.
        let none: Vec<Rows> = (0..=LOOKED_AT).map(|_| Vec::new()).collect();
        let (lines, next) = page(&none, Place::read(None), 50);
        assert!(lines.is_empty());
        let place = next.unwrap();
        assert_eq!((usize::from(place.partition.0), place.from), (LOOKED_AT, 0));
    }
}
