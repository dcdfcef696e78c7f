//! `/v1/feeds`: what feeds there are, their versions and their schemas.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::response::Response;
use gatelog_events::clock::Timestamp;
use gatelog_events::commit::Subject;
use gatelog_events::domain::feed::{self, Definition, Feed, Field};
use gatelog_events::domain::tenant::{self, FeedDefined, FeedTopicRemoved, Settings};
use gatelog_projections::settings;
use serde::{Deserialize, Serialize};

use crate::auth::api_keys::Scope;
use crate::error::{Kind, Problem};
use crate::feeds::push::topic_name;
use crate::feeds::record::Envelope;
use crate::feeds::{asyncapi, schema};
use crate::http::app::App;
use crate::http::ask::{Ask, MinPosition};
use crate::http::body::Json;
use crate::http::caller::Caller;
use crate::http::check::Check;
use crate::http::params::{Name, Names};
use crate::http::reply::{Done, done, ok};
use crate::writer::Command;

/// Ten years, in seconds.
const MAX_RETENTION: u64 = 10 * 365 * 24 * 60 * 60;
const MAX_NAMED: usize = 100;

/// What a feed gives to its consumer. Nothing is in it that is not named.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedInput {
    /// What it is for, for people.
    pub description: Option<String>,
    /// The purpose whose consent gates it. Without one, no field that tells who somebody is may be named.
    #[schema(example = "newsletter")]
    pub purpose: Option<String>,
    /// Fields, such as `email`, `given_name`, `locale`, `plan`. None are in by themselves.
    #[serde(default)]
    #[schema(example = json!(["email", "given_name", "locale", "plan"]))]
    pub fields: BTreeSet<String>,
    /// Kinds of events, such as `user.registered`, `plan.upgraded`, `login.succeeded`. That somebody came into sight or
    /// must be forgotten is told in any case.
    #[serde(default)]
    #[schema(example = json!(["user.profile_changed", "plan.upgraded"]))]
    pub events: BTreeSet<String>,
    /// Seconds for which what happened is told, from 1 to 315,360,000 (ten years). A consumer who comes later is told the
    /// present state of everyone in its place. Without end if absent.
    pub retention_seconds: Option<u64>,
}

impl FeedInput {
    fn check(self, name: String) -> Result<FeedDefined, Problem> {
        let mut check = Check::new();
        check.name("feed", &name);
        check.optional_text("description", self.description.as_ref());
        if let Some(purpose) = &self.purpose {
            check.name("purpose", purpose);
        }
        let mut fields = BTreeSet::new();
        for (i, text) in self.fields.iter().enumerate() {
            match text.parse::<Field>() {
                Ok(field) => _ = fields.insert(field),
                Err(_) => {
                    let names: Vec<_> = Field::all().map(Field::name).collect();
                    check.wrong(
                        format!("fields[{i}]"),
                        format!("Use any of {}.", names.join(", ")),
                    );
                }
            }
        }
        for (i, text) in self.events.iter().enumerate() {
            if !feed::kinds().any(|kind| kind == text) {
                let kinds: Vec<_> = feed::kinds().collect();
                check.wrong(
                    format!("events[{i}]"),
                    format!("Use any of {}.", kinds.join(", ")),
                );
            }
        }
        for (field, named) in [("fields", self.fields.len()), ("events", self.events.len())] {
            if named > MAX_NAMED {
                check.wrong(field, "There may be at most 100.");
            }
        }
        if self
            .retention_seconds
            .is_some_and(|s| !(1..=MAX_RETENTION).contains(&s))
        {
            check.wrong(
                "retention_seconds",
                "It must be from 1 to 315360000, ten years; leave it out for no end.",
            );
        }
        check.done()?;
        Ok(FeedDefined {
            name,
            definition: Definition {
                description: self.description,
                purpose: self.purpose,
                fields,
                events: self.events,
                retention_seconds: self.retention_seconds,
            },
        })
    }
}

/// All feeds, by name.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Feeds<'a> {
    pub feeds: BTreeMap<&'a str, FeedBody<'a>>,
}

/// A feed, with all its versions.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Feed)]
pub struct FeedBody<'a> {
    /// The version that new consumers get.
    pub newest: u32,
    /// Nothing leaves by it since.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retired_at: Option<Timestamp>,
    pub versions: Vec<VersionBody<'a>>,
    /// The Kafka topic that has its records, where there is one.
    pub topic: Option<TopicBody>,
}

/// The Kafka topic of a feed.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedTopic)]
pub struct TopicBody {
    pub name: String,
    pub version: u32,
}

/// Which version the topic shall have.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicInput {
    /// If absent, the one that it has, or the newest where there is none yet.
    pub version: Option<u32>,
}

/// One version of a feed.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FeedVersion)]
pub struct VersionBody<'a> {
    pub version: u32,
    #[schema(value_type = String, format = DateTime)]
    pub defined_at: Timestamp,
    pub description: Option<&'a str>,
    pub purpose: Option<&'a str>,
    #[schema(value_type = Vec<String>)]
    pub fields: &'a BTreeSet<Field>,
    #[schema(value_type = Vec<String>)]
    pub events: &'a BTreeSet<String>,
    /// Seconds for which what happened is told; null for no end.
    pub retention_seconds: Option<u64>,
    /// Where the JSON Schema of the records' data is.
    pub schema: String,
}

impl<'a> FeedBody<'a> {
    fn new(app: &App, name: &str, feed: &'a Feed) -> Self {
        let versions = (1..).zip(&feed.versions).map(|(version, v)| VersionBody {
            version,
            defined_at: v.defined_at,
            description: v.definition.description.as_deref(),
            purpose: v.definition.purpose.as_deref(),
            fields: &v.definition.fields,
            events: &v.definition.events,
            retention_seconds: v.definition.retention_seconds,
            schema: Envelope::new(&app.node.config.issuer, app.tenant(), name, version).dataschema,
        });
        Self {
            newest: feed.newest(),
            retired_at: feed.retired_at,
            versions: versions.collect(),
            topic: feed.topic.map(|topic| TopicBody {
                name: topic_of(app, name),
                version: topic.version,
            }),
        }
    }
}

/// The name of a feed's topic.
pub(super) fn topic_of(app: &App, feed: &str) -> String {
    let kafka = app.node.config.kafka.as_ref();
    let prefix = kafka.map_or("", |k| k.log.topic_prefix.as_str());
    format!("{prefix}{}", topic_name(feed))
}

/// The feed of this name, retired or not.
pub(super) fn known<'a>(settings: &'a Settings, name: &str) -> Result<&'a Feed, Problem> {
    let feed = settings.feeds.get(name);
    feed.ok_or_else(|| tenant::Rejection::FeedNotFound.into())
}

/// All feeds.
#[utoipa::path(
    get, path = "/v1/feeds", tag = "feeds",
    responses((status = 200, description = "All feeds, retired ones too", body = Feeds)),
    security(("api_key" = ["feeds:read"]))
)]
pub async fn list(State(app): State<App>, caller: Caller, min: MinPosition) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsRead)?;
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let feeds = settings.feeds.iter();
    let feeds = feeds.map(|(name, feed)| (name.as_str(), FeedBody::new(&app, name, feed)));
    ok(&Feeds {
        feeds: feeds.collect(),
    })
}

/// A feed.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}", tag = "feeds", params(("feed" = String, Path)),
    responses((status = 200, description = "The feed and its versions", body = FeedBody)),
    security(("api_key" = ["feeds:read"]), ("api_key" = ["feeds:read:{feed}"]))
)]
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.follows(&name)?;
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    ok(&FeedBody::new(&app, &name, known(&settings, &name)?))
}

/// Defines a feed, or a new version of it. Consumers of older versions move when they choose.
#[utoipa::path(
    put, path = "/v1/feeds/{feed}", tag = "feeds", params(("feed" = String, Path)),
    request_body = FeedInput,
    responses((status = 200, description = "The feed is so defined", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    ask: Ask,
    Json { value, raw }: Json<FeedInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let command = tenant::Command::DefineFeed(value.check(name)?);
    done(
        &ask.submit(&app, &caller, Subject::Tenant, Command::Tenant(command), &raw)
            .await?,
    )
}

/// Retires a feed: nothing leaves by it any more, until it is defined anew.
#[utoipa::path(
    delete, path = "/v1/feeds/{feed}", tag = "feeds", params(("feed" = String, Path)),
    responses((status = 200, description = "The feed is retired", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn retire(
    State(app): State<App>,
    caller: Caller,
    Name(name): Name,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let command = tenant::Command::RetireFeed { name };
    done(
        &ask.submit(&app, &caller, Subject::Tenant, Command::Tenant(command), &[])
            .await?,
    )
}

/// Writes a feed to its Kafka topic: everyone's state, and then what happens. Only where the log is in Kafka.
#[utoipa::path(
    put, path = "/v1/feeds/{feed}/topic", tag = "feeds", params(("feed" = String, Path)),
    request_body = TopicInput,
    responses((status = 200, description = "The topic has the feed's records from now on", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn put_topic(
    State(app): State<App>,
    caller: Caller,
    Name(feed): Name,
    ask: Ask,
    Json { value, raw }: Json<TopicInput>,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    if app.node.config.kafka.is_none() {
        return Err(Problem::new(
            Kind::NoTopics,
            "Follow the feed by page, stream or webhook, or move the log to Kafka (`gatelog log copy`).",
        ));
    }
    if feed.contains(':') {
        let mut check = Check::new();
        check.wrong(
            "feed",
            "A name with a colon cannot be that of a topic. Define the feed under another one.",
        );
        check.done()?;
    }
    let version = value.version;
    let command = tenant::Command::SetFeedTopic { feed, version };
    done(
        &ask.submit(&app, &caller, Subject::Tenant, Command::Tenant(command), &raw)
            .await?,
    )
}

/// Writes no more to a feed's Kafka topic. The topic stays; delete it where Kafka is administered.
#[utoipa::path(
    delete, path = "/v1/feeds/{feed}/topic", tag = "feeds", params(("feed" = String, Path)),
    responses((status = 200, description = "Nothing more is written there", body = Done)),
    security(("api_key" = ["feeds:write"]))
)]
pub async fn remove_topic(
    State(app): State<App>,
    caller: Caller,
    Name(feed): Name,
    ask: Ask,
) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsWrite)?;
    let command = tenant::Command::RemoveFeedTopic(FeedTopicRemoved { feed });
    done(
        &ask.submit(&app, &caller, Subject::Tenant, Command::Tenant(command), &[])
            .await?,
    )
}

/// The JSON Schema of what the records of a version say. It holds no secret: its address stands in each record.
#[utoipa::path(
    get, path = "/v1/feeds/{feed}/versions/{version}/schema", tag = "feeds",
    params(("feed" = String, Path), ("version" = u32, Path)),
    responses((status = 200, description = "JSON Schema (2020-12) of `data`", body = serde_json::Value)),
    security(("api_key" = ["feeds:read"]), ("api_key" = ["feeds:read:{feed}"]))
)]
pub async fn schema(
    State(app): State<App>,
    caller: Caller,
    Names(name, version): Names,
    min: MinPosition,
) -> Result<Response, Problem> {
    caller.follows(&name)?;
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    let feed = known(&settings, &name)?;
    let found = version.parse().ok().and_then(|n| Some((n, feed.version(n)?)));
    let (number, version) = found.ok_or(tenant::Rejection::FeedNotFound)?;
    let id = Envelope::new(&app.node.config.issuer, app.tenant(), &name, number).dataschema;
    ok(&schema::data(&id, &name, number, &version.definition))
}

/// All feeds as an AsyncAPI document.
#[utoipa::path(
    get, path = "/v1/asyncapi.json", tag = "feeds",
    responses((status = 200, description = "AsyncAPI 3.0", body = serde_json::Value)),
    security(("api_key" = ["feeds:read"]))
)]
pub async fn document(State(app): State<App>, caller: Caller, min: MinPosition) -> Result<Response, Problem> {
    caller.needs(Scope::FeedsRead)?;
    min.reached(&app, &[settings::NAME]).await?;
    let settings = app.node.views.settings(app.tenant())?;
    ok(&asyncapi::document(&app.node.config.issuer, &settings))
}
