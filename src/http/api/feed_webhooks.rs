//! `/v1/feeds/{feed}/webhooks`: where records are posted, their secrets, replays and dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use gatelog_events::clock::{self, Timestamp};
use gatelog_events::commit::Subject;
use gatelog_events::domain::feed::{self, Feed};
use gatelog_events::domain::tenant;
use gatelog_events::domain::webhook::{
    self, DeadLetterRef, PauseReason, ReplayFrom, SetConnector, SetWebhook, Webhook, WebhookPaused,
    WebhookRemoved, WebhookReplayed, WebhookSecretRotated,
};
use gatelog_events::ids::{Partition, Position, UserId};
use gatelog_projections::webhooks::Hook;
use gatelog_projections::{settings, webhooks};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::feed_connectors::{Place, connector, sentence};
use super::feeds::known;
use crate::auth::api_keys::Scope;
use crate::error::{Kind, Problem};
use crate::feeds::keys;
use crate::feeds::webhook::target::Target;
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::cursor::{self, List, PageQuery};
use crate::http::params::{Name, Names, Query};
use crate::http::reply::{Done, done, ok, written, written_in};
use crate::writer::{Command, Outcome, Request};

const ROUTE: &str = "feed-dead-letters";
const DEFAULT_CONCURRENCY: u16 = 8;
/// A vendor takes many records at once, and limits calls.
const CONNECTOR_CONCURRENCY: u16 = 2;
const MAX_CONCURRENCY: u16 = 256;
/// How long a former secret signs beside the new one, in seconds.
const DEFAULT_OVERLAP: u64 = 24 * 60 * 60;
const MAX_OVERLAP: u64 = 30 * 24 * 60 * 60;
/// Dead letters that one request sends again.
const MAX_REDRIVEN: usize = 1000;

/// Where the records of a feed are to be posted.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookInput {
    /// Beginning with https://. Addresses that are not public are refused unless the operator allows their network. A
    /// connector has its vendor's own.
    pub url: Option<String>,
    /// The version of the feed; if absent, the one that it has, or the newest where there is none yet. Another version begins
    /// with everyone's state anew.
    pub version: Option<u32>,
    /// Requests at a time from one node, 1 to 256; 8 if absent, 2 for a connector. Those about one subject always come one
    /// after another.
    pub concurrency: Option<u16>,
    /// A vendor whose API is spoken instead: `vendor` is `segment`, `hubspot`, `salesforce`, `zendesk` or `customer_io`;
    /// docs/connectors.md has the rest.
    #[schema(value_type = Option<Object>, example = json!({"vendor": "segment"}))]
    pub connector: Option<Value>,
    /// With what the vendor is called. It is sealed and never shown; left out, the connector keeps the one it has.
    #[schema(value_type = Option<Object>, example = json!({"write_key": {"write_key": "…"}}))]
    pub credential: Option<Value>,
}

/// A webhook, with the secret that signs.
#[derive(Serialize, utoipa::ToSchema)]
pub struct WebhookDone<'a> {
    #[schema(value_type = String, example = "identity:3:1024")]
    pub position: Position,
    /// As the libraries of Standard Webhooks take it: `whsec_` and base64. A connector has none.
    pub secret: Option<&'a str>,
}

/// All webhooks of a feed, by name.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Webhooks)]
pub struct WebhooksBody<'a> {
    pub webhooks: BTreeMap<&'a str, WebhookBody<'a>>,
}

/// A webhook without its secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookBody<'a> {
    pub url: &'a str,
    pub version: u32,
    pub concurrency: u16,
    /// The connector, without its credential; null where records are posted as they are.
    #[schema(value_type = Option<Object>)]
    pub connector: Option<Value>,
    /// `gone` if the receiver answered 410, `operator` if it was paused; PUT it again to go on.
    #[schema(value_type = Option<String>)]
    pub paused: Option<PauseReason>,
    /// How many partitions have begun, and of how many everyone's state has been posted.
    pub partitions_begun: usize,
    pub snapshots_done: usize,
}

/// A rotation of the secret.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationInput {
    /// Seconds for which the former secret signs, too: up to 30 days; a day if absent.
    pub overlap_seconds: Option<u64>,
}

/// A new beginning.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayInput {
    /// `snapshot`, `beginning`, or a time (RFC 3339) from which on what happened is posted again.
    #[schema(example = "2026-11-01T00:00:00Z")]
    pub from: String,
}

/// What a receiver did not take.
#[derive(Serialize, utoipa::ToSchema)]
pub struct DeadLetters {
    pub dead_letters: Vec<DeadLetterBody>,
    /// Cursor of the next page; null at the end.
    pub next: Option<String>,
}

/// One record that was tried in vain. What it said is not kept: sent again, it says what may be said then.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = DeadLetter)]
pub struct DeadLetterBody {
    /// The id of the record, `webhook-id` of its deliveries.
    pub record: Uuid,
    #[schema(value_type = Uuid)]
    pub user_id: UserId,
    /// Whom the receiver knows this user as.
    pub subject: Uuid,
    pub attempts: u32,
    /// Status of the last answer; null where there was none.
    pub status: Option<u16>,
    pub reason: String,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it was asked to be sent again, if it was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub redriven_at: Option<Timestamp>,
}

/// Which dead letters are to be sent again.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveInput {
    /// Ids of records; if absent, up to 1,000 of those that nobody has asked for: withdrawals, then the oldest.
    pub records: Option<Vec<Uuid>>,
}

/// How many will be.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Redriven {
    pub records: usize,
}

fn hook(feed: &Feed, name: &str) -> Result<Webhook, Problem> {
    let hook = feed.webhooks.get(name).cloned();
    hook.ok_or_else(|| tenant::Rejection::WebhookNotFound.into())
}

/// The webhooks of a feed.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}/webhooks", tag = "feeds", params(("feed" = String, Path)),
    responses((status = 200, description = "All webhooks, without their secrets", body = WebhooksBody)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    min.reached(&app, &[settings::NAME, webhooks::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let mut all = BTreeMap::new();
    for (webhook, w) in &known(&settings, &name)?.webhooks {
        let of = Hook {
            tenant: app.tenant(),
            feed: &name,
            webhook,
        };
        let (mut begun, mut snapshots) = (0, 0);
        for partition in (0..app.node.log.partitions()).map(Partition) {
            let progress = app.node.views.webhook_progress(of, partition)?;
            if let Some(progress) = progress.filter(|p| p.generation == w.generation) {
                begun += 1;
                snapshots += usize::from(progress.snapshot.is_none());
            }
        }
        let body = WebhookBody {
            url: &w.url,
            version: w.version,
            concurrency: w.concurrency,
            connector: w
                .connector
                .as_ref()
                .and_then(|c| serde_json::from_str(&c.settings).ok()),
            paused: w.paused,
            partitions_begun: begun,
            snapshots_done: snapshots,
        };
        all.insert(webhook.as_str(), body);
    }
    ok(&WebhooksBody { webhooks: all })
}

/// Sets a webhook. A new one begins with everyone's state; a known one goes on where it stands, also after a pause.
#[utoipa::path(
    put, path = "/v1/feeds/{feed}/webhooks/{webhook}", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path)), request_body = WebhookInput,
    responses((status = 200, description = "The webhook is so set", body = WebhookDone)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    ask: Ask,
    Json { value, raw }: Json<WebhookInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let mut check = Check::new();
    check.name("webhook", &name);
    let default = if value.connector.is_some() {
        CONNECTOR_CONCURRENCY
    } else {
        DEFAULT_CONCURRENCY
    };
    let concurrency = value.concurrency.unwrap_or(default);
    if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
        check.wrong("concurrency", "It must be a whole number from 1 to 256.");
    }
    let version = value.version;
    let (url, connector) = target(&app, &mut check, (&feed, &name), value)?;
    check.done()?;
    let set = SetWebhook {
        feed: feed.clone(),
        name: name.clone(),
        url,
        version,
        concurrency,
        connector,
    };
    let outcome = submit(&app, &caller, &ask, webhook::Command::Set(set), &raw).await?;
    with_secret(&app, &feed, &name, &outcome).await
}

/// Where records are to go; `check` is told what is wrong with it.
fn target(
    app: &App,
    check: &mut Check,
    (feed, webhook): (&str, &str),
    value: WebhookInput,
) -> Result<(String, Option<SetConnector>), Problem> {
    let place = Place {
        feed,
        webhook,
        version: value.version,
    };
    match (value.url, value.connector) {
        (None, None) => check.wrong("url", "Say where to post, or set `connector`."),
        (Some(_), Some(_)) => check.wrong("url", "Leave it out: a connector has its vendor's own."),
        (Some(url), None) => {
            if value.credential.is_some() {
                check.wrong("credential", "Leave it out: only a connector has one.");
            }
            if let Err(e) = Target::parse(&url, &app.node.config.webhooks.policy) {
                let text = e.to_string();
                check.wrong("url", sentence(text.strip_prefix("url: ").unwrap_or(&text)));
            }
            return Ok((url, None));
        }
        (None, Some(definition)) => {
            let made = connector(app, check, &place, definition, value.credential)?;
            return Ok(made.map_or_else(Default::default, |(set, url)| (url, Some(set))));
        }
    }
    Ok(Default::default())
}

async fn submit(
    app: &App,
    caller: &Caller,
    ask: &Ask,
    command: webhook::Command,
    raw: &[u8],
) -> Result<Outcome, Problem> {
    let command = Command::Tenant(tenant::Command::Webhook(command));
    ask.submit(app, caller, Subject::Tenant, command, raw).await
}

/// The secret that signs since then. It derives from the node's own, so it can be told again.
async fn with_secret(app: &App, feed: &str, name: &str, outcome: &Outcome) -> Result<Response, Problem> {
    let position = outcome.answer.position();
    let wait = app.node.config.min_position_wait;
    app.node.views.wait_for(settings::NAME, position, wait).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let hook = hook(known(&settings, feed)?, name)?;
    let scope = keys::Scope {
        tenant: app.tenant(),
        feed,
    };
    let secret = app.node.feed_keys.webhook_secret(scope, name, hook.secret);
    let secret = secret.map_err(|e| Problem::internal(&e))?.reveal();
    let done = WebhookDone {
        position,
        secret: hook.connector.is_none().then_some(secret.as_str()),
    };
    written(StatusCode::OK, position, &done)
}

/// Removes a webhook, with how far it had come.
#[utoipa::path(
    delete, path = "/v1/feeds/{feed}/webhooks/{webhook}", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path)),
    responses((status = 200, description = "Nothing is posted there any more", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn remove(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let command = webhook::Command::Remove(WebhookRemoved { feed, name });
    done(&submit(&app, &caller, &ask, command, &[]).await?)
}

/// Pauses a webhook; PUT it again to go on.
#[utoipa::path(
    post, path = "/v1/feeds/{feed}/webhooks/{webhook}/pause", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path)),
    responses((status = 200, description = "Nothing is posted there for now", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn pause(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let reason = PauseReason::Operator;
    let command = webhook::Command::Pause(WebhookPaused { feed, name, reason });
    done(&submit(&app, &caller, &ask, command, &[]).await?)
}

/// Gives a webhook a new secret. The former one goes on signing beside it for a while.
#[utoipa::path(
    post, path = "/v1/feeds/{feed}/webhooks/{webhook}/secret", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path)), request_body = RotationInput,
    responses((status = 200, description = "The new secret", body = WebhookDone)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn rotate(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    ask: Ask,
    Json { value, raw }: Json<RotationInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let overlap = value.overlap_seconds.unwrap_or(DEFAULT_OVERLAP);
    if overlap > MAX_OVERLAP {
        let mut check = Check::new();
        check.wrong("overlap_seconds", "It must be at most 2592000 (30 days).");
        check.done()?;
    }
    let rotated = WebhookSecretRotated {
        feed: feed.clone(),
        name: name.clone(),
        former_until: clock::now().plus(Duration::from_secs(overlap)),
    };
    let command = webhook::Command::RotateSecret(rotated);
    let outcome = submit(&app, &caller, &ask, command, &raw).await?;
    with_secret(&app, &feed, &name, &outcome).await
}

/// Lets a webhook begin anew. What is posted again says what may be said now.
#[utoipa::path(
    post, path = "/v1/feeds/{feed}/webhooks/{webhook}/replay", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path)), request_body = ReplayInput,
    responses((status = 200, description = "It begins anew", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn replay(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    ask: Ask,
    Json { value, raw }: Json<ReplayInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let from = match value.from.as_str() {
        "snapshot" => ReplayFrom::Snapshot,
        "beginning" => ReplayFrom::Beginning,
        text => match text.parse() {
            Ok(time) => ReplayFrom::Time(time),
            Err(_) => {
                let mut check = Check::new();
                check.wrong(
                    "from",
                    "It must be snapshot, beginning, or a time such as 2026-11-01T00:00:00Z.",
                );
                return Err(check.done().err().unwrap_or_else(|| Problem::invalid(vec![])));
            }
        },
    };
    let command = webhook::Command::Replay(WebhookReplayed { feed, name, from });
    done(&submit(&app, &caller, &ask, command, &raw).await?)
}

/// What a receiver would not take.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}/webhooks/{webhook}/dead-letters", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path), PageQuery),
    responses((status = 200, description = "A page of dead letters", body = DeadLetters)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn dead_letters(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    Query(page): Query<PageQuery>,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let owner = format!("{feed}/{name}");
    let list = List {
        route: ROUTE,
        owner: owner.as_bytes(),
    };
    let (limit, after) = (page.limit()?, page.after(&app, list)?);
    min.reached(&app, &[webhooks::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    hook(known(&settings, &feed)?, &name)?;
    let mut rows = app
        .node
        .views
        .dead_letters(of(&app, &feed, &name), after.as_deref(), limit + 1)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|(key, _, _)| cursor::issue(&app, list, key));
    let scope = keys::Scope {
        tenant: app.tenant(),
        feed: &feed,
    };
    let bodies = rows.into_iter().map(|(_, _, dead)| DeadLetterBody {
        record: dead.letter.record,
        user_id: dead.letter.user,
        subject: app.node.feed_keys.subject(scope, dead.letter.user),
        attempts: dead.letter.attempts,
        status: dead.letter.status,
        reason: dead.letter.reason,
        since: dead.since,
        redriven_at: dead.redriven_at,
    });
    ok(&DeadLetters {
        dead_letters: bodies.collect(),
        next,
    })
}

fn of<'a>(app: &'a App, feed: &'a str, webhook: &'a str) -> Hook<'a> {
    Hook {
        tenant: app.tenant(),
        feed,
        webhook,
    }
}

/// The dead letters that are named, or those whose turn it is, by partition. Reads the store; blocks.
fn selected(
    app: &App,
    hook: Hook<'_>,
    named: Option<&BTreeSet<Uuid>>,
) -> Result<BTreeMap<Partition, Vec<Uuid>>, Problem> {
    let (views, partitions) = (&app.node.views, app.node.log.partitions());
    let letters = match named {
        None => views.waiting_dead_letters(hook, MAX_REDRIVEN)?,
        Some(records) => {
            let mut letters = Vec::with_capacity(records.len());
            for record in records {
                let partition = views.dead_letter_partition(hook, partitions, *record)?;
                letters.push((partition.ok_or_else(no_dead_letter)?, *record));
            }
            letters
        }
    };
    let mut by_partition: BTreeMap<Partition, Vec<Uuid>> = BTreeMap::new();
    for (partition, record) in letters {
        by_partition.entry(partition).or_default().push(record);
    }
    Ok(by_partition)
}

fn no_dead_letter() -> Problem {
    let remedy = "Correct the fields named in `errors`; /docs describes them.";
    Problem::new(Kind::InvalidInput, remedy)
        .field("records", "Not all of them are dead letters of this webhook.")
}

/// Sends dead letters again.
#[utoipa::path(
    post, path = "/v1/feeds/{feed}/webhooks/{webhook}/dead-letters/redrive", tag = "feeds",
    params(("feed" = String, Path), ("webhook" = String, Path)), request_body = RedriveInput,
    responses((status = 200, description = "They will be sent again", body = Redriven)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn redrive(
    State(app): State<App>,
    caller: Caller,
    Names(feed, name): Names,
    ask: Ask,
    Json { value, raw }: Json<RedriveInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let settings = app.node.views.settings(app.tenant())?;
    hook(known(&settings, &feed)?, &name)?;
    if value.records.as_ref().is_some_and(|r| r.len() > MAX_REDRIVEN) {
        let mut check = Check::new();
        check.wrong("records", "There may be at most 1000.");
        check.done()?;
    }
    let named: Option<BTreeSet<Uuid>> = value.records.map(BTreeSet::from_iter);
    let (reader, at) = (app.clone(), (feed.clone(), name.clone()));
    let selecting = tokio::task::spawn_blocking(move || {
        let hook = of(&reader, &at.0, &at.1);
        selected(&reader, hook, named.as_ref())
    });
    let by_partition = selecting.await??;
    let mut positions = Vec::with_capacity(by_partition.len());
    let (mut said, mut failed) = (0, None);
    for (partition, records) in by_partition {
        let asked = records.len();
        let letters = DeadLetterRef {
            feed: feed.clone(),
            webhook: name.clone(),
            records,
        };
        let command = Command::Feed(feed::Command::Redriven(letters));
        // What is asked twice is asked once: no key is needed for each partition.
        let request = Request {
            partition: Some(partition),
            idempotency: None,
            ..ask.request(&app, Some(&caller), Subject::Nobody, command, &raw)
        };
        match app.node.router.submit(request).await {
            Ok(outcome) => {
                positions.push(outcome.answer.position());
                said += asked;
            }
            // Others need not wait for it.
            Err(e) => _ = failed.get_or_insert(e),
        }
    }
    match failed {
        Some(e) if said == 0 => Err(e.into()),
        _ => written_in(&positions, &Redriven { records: said }),
    }
}
