//! `GET /v1/feeds/{feed}/status`: how far each consumer is behind, and what was delivered last.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::domain::feed::Feed;
use gatelog_events::domain::tenant::Settings;
use gatelog_events::ids::Partition;
use gatelog_projections::{changes, handovers, settings, users, webhooks};
use serde::Serialize;
use uuid::Uuid;

use super::feeds::{known, topic_of};
use crate::auth::api_keys::Scope;
use crate::error::Problem;
use crate::feeds::backlog::{self, Backlog, Consumer, Count};
use crate::feeds::observed::{Delivery, Seen};
use crate::http::app::App;
use crate::http::ask::MinPosition;
use crate::http::caller::Caller;
use crate::http::params::Name;
use crate::http::reply::ok;

/// How a feed's consumers are doing. What stands under `this_node` only the node that was asked knows, since its start;
/// everything else follows from the log and is the same on each node, up to how far it has folded.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedStatus)]
pub struct StatusBody<'a> {
    pub feed: &'a str,
    /// When this was measured.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub newest_version: u32,
    /// The purpose that gates the newest version.
    pub purpose: Option<&'a str>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retired_at: Option<Timestamp>,
    /// The webhooks by name, then the topic. Who follows by page or stream keeps the cursor, so how far that is nobody
    /// here knows.
    pub consumers: Vec<ConsumerBody>,
    /// Withdrawals of which a consumer was told and that it has not acknowledged.
    pub unacknowledged_withdrawals: CountBody,
    /// Whether the key that asked may send dead letters again.
    pub may_redrive: bool,
}

/// One consumer to which records are pushed.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedConsumer)]
pub struct ConsumerBody {
    /// `webhook` or `topic`.
    pub kind: &'static str,
    pub name: String,
    /// The version of the feed whose records it gets.
    pub version: u32,
    /// `live`, `paused` (by an operator), `gone` (the receiver answered 410), or `retired` (the feed is).
    pub state: &'static str,
    pub lag: LagBody,
    /// What its receiver would not take. A topic has none.
    pub dead_letters: CountBody,
    pub this_node: ThisNodeBody,
}

/// How far a consumer is behind.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedLag)]
pub struct LagBody {
    /// Records that it does not have yet.
    pub records: u64,
    /// If false, so much waits that not all was looked at, and there are at most so many.
    pub exact: bool,
    /// Age of the oldest change that it does not have yet; 0 where none waits.
    pub seconds: f64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Option<Timestamp>,
    /// Withdrawals among them.
    pub withdrawals: u64,
    pub partitions: usize,
    /// Partitions in which it has begun, and of those the ones in which everyone's state is still handed over.
    pub partitions_begun: usize,
    pub snapshots_open: usize,
}

/// A count that goes no further than 1,000.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = BoundedCount)]
pub struct CountBody {
    pub count: usize,
    /// Whether there are more than that.
    pub more: bool,
}

/// What only the node that was asked knows of a consumer, of the partitions that it serves.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedConsumerOnThisNode)]
pub struct ThisNodeBody {
    /// Partitions that this node serves now.
    pub partitions: usize,
    /// Since when the rest is counted; null if nothing of it was served here.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Records taken per second, over the last minute.
    pub taken_per_second: f64,
    /// Since then, by outcome: attempts (`taken`, `failed`, `asked_to_wait`, `gone`), and records that were `dead_lettered`
    /// or `withheld`, as nobody might see them any more when it was their turn.
    pub totals: BTreeMap<&'static str, u64>,
    /// The last 50, newest first.
    pub deliveries: Vec<DeliveryBody>,
}

/// One attempt to deliver a record.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedDelivery)]
pub struct DeliveryBody {
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The id of the record, `webhook-id` of its deliveries.
    pub record: Uuid,
    #[schema(example = "plan.upgraded")]
    pub kind: String,
    /// Whom the feed's consumer knows the subject as.
    pub subject: Uuid,
    #[schema(example = "taken")]
    pub outcome: &'static str,
    /// Status of the answer; null where there was none.
    pub status: Option<u16>,
    pub milliseconds: u64,
}

impl From<Count> for CountBody {
    fn from(count: Count) -> Self {
        Self {
            count: count.count,
            more: count.more,
        }
    }
}

impl LagBody {
    fn new(backlog: &Backlog, now: Timestamp) -> Self {
        let age = backlog.oldest.map(|oldest| now.since(oldest));
        Self {
            records: backlog.records,
            exact: backlog.exact,
            seconds: age.unwrap_or_default().as_secs_f64(),
            oldest: backlog.oldest,
            withdrawals: backlog.withdrawals,
            partitions: backlog.partitions,
            partitions_begun: backlog.begun,
            snapshots_open: backlog.snapshots,
        }
    }
}

impl From<Seen> for ThisNodeBody {
    fn from(seen: Seen) -> Self {
        let totals = seen.totals.iter();
        Self {
            partitions: seen.places.len(),
            since: seen.since,
            taken_per_second: seen.taken_per_second,
            totals: totals.map(|(outcome, n)| (outcome.name(), *n)).collect(),
            deliveries: seen.deliveries.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Delivery> for DeliveryBody {
    fn from(d: Delivery) -> Self {
        Self {
            time: d.time,
            record: d.record,
            kind: d.kind.into_owned(),
            subject: d.subject,
            outcome: d.outcome.name(),
            status: d.status,
            milliseconds: u64::try_from(d.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl backlog::State {
    const fn name(self) -> &'static str {
        match self {
            backlog::State::Live => "live",
            backlog::State::Paused => "paused",
            backlog::State::Gone => "gone",
            backlog::State::Retired => "retired",
        }
    }
}

/// How far each consumer is behind, what was delivered last, and what waits.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}/status", tag = "feeds", params(("feed" = String, Path)),
    responses((status = 200, description = "The state of the feed's consumers", body = StatusBody)),
    security(("api_key" = ["feeds:read"]), ("api_key" = ["feeds:read:{feed}"]))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.follows(&name)?;
    let views = [
        settings::NAME,
        webhooks::NAME,
        changes::NAME,
        users::NAME,
        handovers::NAME,
    ];
    min.reached(&app, &views).await?;
    let may_redrive = caller.has(Scope::FeedsWrite);
    // Bounded, and yet some thousand rows: those who log in meanwhile shall not wait for the thread.
    tokio::task::spawn_blocking(move || {
        let settings = app.node.views.settings(app.tenant())?;
        let feed = known(&settings, &name)?;
        let newest = feed.version(feed.newest());
        ok(&StatusBody {
            feed: &name,
            time: clock::now(),
            newest_version: feed.newest(),
            purpose: newest.and_then(|v| v.definition.purpose.as_deref()),
            retired_at: feed.retired_at,
            consumers: consumers(&app, &settings, &name, feed)?,
            unacknowledged_withdrawals: backlog::unacknowledged(&app.node, &name)?.into(),
            may_redrive,
        })
    })
    .await?
}

fn consumers(app: &App, settings: &Settings, name: &str, feed: &Feed) -> Result<Vec<ConsumerBody>, Problem> {
    let each = |consumer: Consumer<'_>| {
        let seen = app.node.observed.seen(name, consumer.name);
        let partitions = (0..app.node.log.partitions()).map(Partition);
        let waits = backlog::measure(&app.node, settings, name, consumer, &seen, partitions)?;
        let topic = consumer.is_topic();
        Ok::<_, Problem>(ConsumerBody {
            kind: if topic { "topic" } else { "webhook" },
            name: if topic {
                topic_of(app, name)
            } else {
                consumer.name.to_owned()
            },
            version: consumer.version,
            state: consumer.state.name(),
            lag: LagBody::new(&waits, clock::now()),
            dead_letters: backlog::dead_letters(&app.node, name, consumer.name)?.into(),
            this_node: seen.into(),
        })
    };
    backlog::consumers(feed).map(each).collect()
}
