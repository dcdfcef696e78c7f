//! A tenant's settings: its catalogue of plans, its purposes and notices, its API keys, its feeds, its streams of signals.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::consent::NoticeRef;
use super::feed::{self, Definition, Feed};
use super::signals::{
    self, SignalKeyMade, SignalStreamChanged, SignalStreamCreated, SignalStreamDeleted,
    SignalStreamStatusSet, Signals,
};
use super::webhook::{
    self, WebhookPaused, WebhookRemoved, WebhookReplayed, WebhookSecretRotated, WebhookSet,
};
use super::{Event, Payload, events};
use crate::clock::Timestamp;
use crate::ids::ApiKeyId;

events! {
    /// What happened to a tenant's settings.
    TenantEvent {
        PlanDefined(PlanDefined) = "com.gatelog.tenant.plan_defined.v1",
        PurposeDefined(PurposeDefined) = "com.gatelog.tenant.purpose_defined.v1",
        NoticePublished(NoticePublished) = "com.gatelog.tenant.notice_published.v1",
        ApiKeyCreated(ApiKeyCreated) = "com.gatelog.tenant.api_key_created.v1",
        ApiKeyRevoked(ApiKeyRevoked) = "com.gatelog.tenant.api_key_revoked.v1",
        FeedDefined(FeedDefined) = "com.gatelog.tenant.feed_defined.v1",
        FeedRetired(FeedRetired) = "com.gatelog.tenant.feed_retired.v1",
        FeedTopicSet(FeedTopicSet) = "com.gatelog.tenant.feed_topic_set.v1",
        FeedTopicRemoved(FeedTopicRemoved) = "com.gatelog.tenant.feed_topic_removed.v1",
        WebhookSet(WebhookSet) = "com.gatelog.tenant.webhook_set.v1",
        WebhookRemoved(WebhookRemoved) = "com.gatelog.tenant.webhook_removed.v1",
        WebhookPaused(WebhookPaused) = "com.gatelog.tenant.webhook_paused.v1",
        WebhookSecretRotated(WebhookSecretRotated) = "com.gatelog.tenant.webhook_secret_rotated.v1",
        WebhookReplayed(WebhookReplayed) = "com.gatelog.tenant.webhook_replayed.v1",
        SignalStreamCreated(SignalStreamCreated) = "com.gatelog.tenant.signal_stream_created.v1",
        SignalStreamChanged(SignalStreamChanged) = "com.gatelog.tenant.signal_stream_changed.v1",
        SignalStreamStatusSet(SignalStreamStatusSet) = "com.gatelog.tenant.signal_stream_status_set.v1",
        SignalStreamDeleted(SignalStreamDeleted) = "com.gatelog.tenant.signal_stream_deleted.v1",
        SignalKeyMade(SignalKeyMade) = "com.gatelog.tenant.signal_key_made.v1",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanDefined {
    pub name: String,
    /// Orders plans: a change to a higher rank is an upgrade. The plan of lowest rank is the default.
    pub rank: u32,
    /// What the plan entitles to.
    pub entitlements: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PurposeDefined {
    pub name: String,
    pub description: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NoticePublished {
    pub id: String,
    pub version: String,
    /// BCP 47 language tag.
    pub language: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The text as shown, if it is kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApiKeyCreated {
    pub key_id: ApiKeyId,
    pub name: String,
    pub scopes: BTreeSet<String>,
    /// SHA-256 of the secret, in hex. The secret has 256 random bits, so a plain hash is enough.
    pub secret_sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApiKeyRevoked {
    pub key_id: ApiKeyId,
}

/// A new version of a feed. Older versions stay, so that consumers move when they choose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FeedDefined {
    pub name: String,
    #[serde(flatten)]
    pub definition: Definition,
}

/// Nothing leaves by the feed any more, until it is defined anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FeedRetired {
    pub name: String,
}

/// The feed's records are written to its Kafka topic from now on, everyone's state first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FeedTopicSet {
    pub feed: String,
    pub version: u32,
}

/// Nothing more is written to the feed's Kafka topic. The topic stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FeedTopicRemoved {
    pub feed: String,
}

impl Payload for PlanDefined {}
impl Payload for PurposeDefined {}
impl Payload for NoticePublished {}
impl Payload for ApiKeyCreated {}
impl Payload for ApiKeyRevoked {}
impl Payload for FeedDefined {}
impl Payload for FeedRetired {}
impl Payload for FeedTopicSet {}
impl Payload for FeedTopicRemoved {}

/// A plan in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub rank: u32,
    pub entitlements: BTreeSet<String>,
}

/// One version of a notice in one language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub url: Option<String>,
    pub text: Option<String>,
    pub published_at: Timestamp,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub name: String,
    pub scopes: BTreeSet<String>,
    pub secret_sha256: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// A tenant's settings as the events so far make them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    pub version: u64,
    pub plans: BTreeMap<String, Plan>,
    pub purposes: BTreeMap<String, String>,
    /// Notice id → (version, language) → notice.
    pub notices: BTreeMap<String, BTreeMap<(String, String), Notice>>,
    pub api_keys: BTreeMap<ApiKeyId, ApiKey>,
    pub feeds: BTreeMap<String, Feed>,
    pub signals: Signals,
}

impl Settings {
    /// The plan of a user who was given none: the one of lowest rank.
    pub fn default_plan(&self) -> &str {
        self.plans
            .iter()
            .min_by_key(|(_, p)| p.rank)
            .map_or("", |(name, _)| name)
    }

    /// Whether a consent may refer to this notice. A notice that was never published here is its owner's business.
    pub fn publishes(&self, notice: &NoticeRef) -> bool {
        let wanted = (notice.version.clone(), notice.language.clone());
        self.notices
            .get(&notice.id)
            .is_none_or(|versions| versions.contains_key(&wanted))
    }

    pub fn evolve(&mut self, event: &TenantEvent, time: Timestamp, sequence: u64) {
        self.version = sequence;
        match event {
            TenantEvent::PlanDefined(e) => {
                let plan = Plan {
                    rank: e.rank,
                    entitlements: e.entitlements.clone(),
                };
                self.plans.insert(e.name.clone(), plan);
            }
            TenantEvent::PurposeDefined(e) => {
                self.purposes.insert(e.name.clone(), e.description.clone());
            }
            TenantEvent::NoticePublished(e) => {
                let notice = Notice {
                    url: e.url.clone(),
                    text: e.text.clone(),
                    published_at: time,
                };
                self.notices
                    .entry(e.id.clone())
                    .or_default()
                    .insert((e.version.clone(), e.language.clone()), notice);
            }
            TenantEvent::ApiKeyCreated(e) => {
                let key = ApiKey {
                    name: e.name.clone(),
                    scopes: e.scopes.clone(),
                    secret_sha256: e.secret_sha256.clone(),
                    created_at: time,
                    revoked_at: None,
                };
                self.api_keys.insert(e.key_id, key);
            }
            TenantEvent::ApiKeyRevoked(e) => {
                if let Some(key) = self.api_keys.get_mut(&e.key_id) {
                    key.revoked_at = Some(time);
                }
            }
            TenantEvent::FeedDefined(e) => {
                let feed = self.feeds.entry(e.name.clone()).or_default();
                feed.retired_at = None;
                feed.versions.push(feed::Version {
                    definition: e.definition.clone(),
                    defined_at: time,
                });
            }
            TenantEvent::FeedRetired(e) => {
                if let Some(feed) = self.feeds.get_mut(&e.name) {
                    feed.retired_at = Some(time);
                }
            }
            TenantEvent::FeedTopicSet(e) => {
                if let Some(feed) = self.feeds.get_mut(&e.feed) {
                    feed.topic = Some(feed::Topic {
                        version: e.version,
                        generation: sequence,
                    });
                    feed.topic_since.get_or_insert(time);
                }
            }
            TenantEvent::FeedTopicRemoved(e) => {
                if let Some(feed) = self.feeds.get_mut(&e.feed) {
                    feed.topic = None;
                }
            }
            TenantEvent::WebhookSet(_)
            | TenantEvent::WebhookRemoved(_)
            | TenantEvent::WebhookPaused(_)
            | TenantEvent::WebhookSecretRotated(_)
            | TenantEvent::WebhookReplayed(_) => webhook::evolve(&mut self.feeds, event, time, sequence),
            TenantEvent::SignalStreamCreated(_)
            | TenantEvent::SignalStreamChanged(_)
            | TenantEvent::SignalStreamStatusSet(_)
            | TenantEvent::SignalStreamDeleted(_)
            | TenantEvent::SignalKeyMade(_) => self.signals.evolve(event, time, sequence),
        }
    }
}

/// What can be asked of a tenant's settings.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The settings that a new tenant starts with; nothing if it has any.
    Seed,
    DefinePlan(PlanDefined),
    DefinePurpose(PurposeDefined),
    PublishNotice(NoticePublished),
    CreateApiKey(ApiKeyCreated),
    RevokeApiKey {
        key_id: ApiKeyId,
    },
    DefineFeed(FeedDefined),
    RetireFeed {
        name: String,
    },
    SetFeedTopic {
        feed: String,
        /// The newest there is when it is decided, if absent.
        version: Option<u32>,
    },
    RemoveFeedTopic(FeedTopicRemoved),
    Webhook(webhook::Command),
    Signals(signals::Command),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error(
        "version {version:?} of notice {id:?} in language {language:?} was published before with other content; \
         what people consented to cannot change: publish a new version"
    )]
    NoticeChanged {
        id: String,
        version: String,
        language: String,
    },
    #[error("there is an API key of this id already")]
    ApiKeyExists,
    #[error("there is no such API key")]
    ApiKeyNotFound,
    #[error("there is no feed of this name")]
    FeedNotFound,
    #[error("there is no purpose {0:?} that could gate the feed")]
    UnknownFeedPurpose(String),
    #[error("{0} tells who somebody is, so the feed needs a purpose whose consent gates it")]
    FeedNeedsPurpose(feed::Field),
    #[error("the feed rests on {}: define another feed", .0.as_deref().map_or_else(|| "no purpose".to_owned(), |p| format!("the purpose {p:?}")))]
    FeedKeepsPurpose(Option<String>),
    #[error("there is no kind of event {0:?} that a feed may name")]
    UnknownFeedEvent(String),
    #[error("the feed has {MAX_FEED_VERSIONS} versions, and no more are kept: define another feed")]
    TooManyFeedVersions,
    #[error("the feed has no such version")]
    FeedVersionNotFound,
    #[error("there is no webhook of this name")]
    WebhookNotFound,
    #[error("the feed has {} webhooks, and may have no more", webhook::MAX_WEBHOOKS)]
    TooManyWebhooks,
    #[error("a new connector needs a credential")]
    CredentialNeeded,
    #[error("there is no such stream")]
    SignalStreamNotFound,
    #[error("there are {} streams, and there may be no more", signals::MAX_STREAMS)]
    TooManySignalStreams,
    #[error("the API key has {} streams, and may have no more", signals::MAX_OF_RECEIVER)]
    TooManyStreamsOfReceiver,
}

/// Decides on a change of settings. What is so already is no event.
pub fn decide(settings: &Settings, command: Command) -> Result<Vec<Event>, Rejection> {
    match command {
        Command::Seed if settings.version == 0 => Ok(seed()),
        Command::Seed => Ok(vec![]),
        Command::DefinePlan(e) => {
            let wanted = Plan {
                rank: e.rank,
                entitlements: e.entitlements.clone(),
            };
            let same = settings.plans.get(&e.name) == Some(&wanted);
            Ok(unless(same, TenantEvent::PlanDefined(e)))
        }
        Command::DefinePurpose(e) => {
            let same = settings.purposes.get(&e.name) == Some(&e.description);
            Ok(unless(same, TenantEvent::PurposeDefined(e)))
        }
        Command::PublishNotice(e) => publish_notice(settings, e),
        Command::CreateApiKey(e) if settings.api_keys.contains_key(&e.key_id) => Err(Rejection::ApiKeyExists),
        Command::CreateApiKey(e) => Ok(unless(false, TenantEvent::ApiKeyCreated(e))),
        Command::RevokeApiKey { key_id } => match settings.api_keys.get(&key_id) {
            None => Err(Rejection::ApiKeyNotFound),
            Some(key) => Ok(unless(
                key.revoked_at.is_some(),
                TenantEvent::ApiKeyRevoked(ApiKeyRevoked { key_id }),
            )),
        },
        Command::DefineFeed(e) => define_feed(settings, e),
        Command::SetFeedTopic { feed: name, version } => {
            let feed = settings.feeds.get(&name).ok_or(Rejection::FeedNotFound)?;
            let stays = feed.topic.map(|topic| topic.version);
            let version = version.or(stays).unwrap_or_else(|| feed.newest());
            feed.version(version).ok_or(Rejection::FeedVersionNotFound)?;
            let same = feed.topic.is_some_and(|topic| topic.version == version);
            let set = FeedTopicSet { feed: name, version };
            Ok(unless(same, TenantEvent::FeedTopicSet(set)))
        }
        Command::RemoveFeedTopic(e) => {
            let feed = settings.feeds.get(&e.feed).ok_or(Rejection::FeedNotFound)?;
            let none = feed.topic.is_none();
            Ok(unless(none, TenantEvent::FeedTopicRemoved(e)))
        }
        Command::Webhook(command) => webhook::decide(&settings.feeds, command),
        Command::Signals(command) => signals::decide(&settings.signals, command),
        Command::RetireFeed { name } => match settings.feeds.get(&name) {
            None => Err(Rejection::FeedNotFound),
            Some(feed) => Ok(unless(
                feed.retired_at.is_some(),
                TenantEvent::FeedRetired(FeedRetired { name }),
            )),
        },
    }
}

/// Versions of a feed, at the most: all are kept with the settings.
pub const MAX_FEED_VERSIONS: usize = 1000;

fn define_feed(settings: &Settings, e: FeedDefined) -> Result<Vec<Event>, Rejection> {
    let definition = &e.definition;
    match &definition.purpose {
        Some(purpose) if !settings.purposes.contains_key(purpose) => {
            return Err(Rejection::UnknownFeedPurpose(purpose.clone()));
        }
        Some(_) => {}
        None => {
            if let Some(field) = definition.fields.iter().find(|f| f.is_personal()) {
                return Err(Rejection::FeedNeedsPurpose(*field));
            }
        }
    }
    if let Some(unknown) = definition
        .events
        .iter()
        .find(|name| !feed::kinds().any(|kind| kind == *name))
    {
        return Err(Rejection::UnknownFeedEvent(unknown.clone()));
    }
    let known = settings.feeds.get(&e.name);
    if known.is_some_and(|feed| feed.versions.len() >= MAX_FEED_VERSIONS) {
        return Err(Rejection::TooManyFeedVersions);
    }
    // A consumer who moved to another purpose would never hear that whom it knew by the former one withdrew.
    if let Some(before) = known.and_then(|feed| feed.versions.last())
        && before.definition.purpose != definition.purpose
    {
        return Err(Rejection::FeedKeepsPurpose(before.definition.purpose.clone()));
    }
    let same = known.is_some_and(|feed| {
        let newest = feed.versions.last();
        feed.retired_at.is_none() && newest.is_some_and(|v| v.definition == *definition)
    });
    Ok(unless(same, TenantEvent::FeedDefined(e)))
}

fn unless(nothing_changes: bool, event: TenantEvent) -> Vec<Event> {
    if nothing_changes {
        vec![]
    } else {
        vec![event.into()]
    }
}

fn publish_notice(settings: &Settings, e: NoticePublished) -> Result<Vec<Event>, Rejection> {
    let key = (e.version.clone(), e.language.clone());
    match settings.notices.get(&e.id).and_then(|v| v.get(&key)) {
        None => Ok(unless(false, TenantEvent::NoticePublished(e))),
        Some(n) if n.url == e.url && n.text == e.text => Ok(vec![]),
        Some(_) => Err(Rejection::NoticeChanged {
            id: e.id,
            version: e.version,
            language: e.language,
        }),
    }
}

/// Plans and purposes that make a first tour work.
fn seed() -> Vec<Event> {
    let plan = |name: &str, rank, entitlements: &[&str]| {
        TenantEvent::PlanDefined(PlanDefined {
            name: name.to_owned(),
            rank,
            entitlements: entitlements.iter().map(|s| (*s).to_owned()).collect(),
        })
        .into()
    };
    let purpose = |name: &str, description: &str| {
        TenantEvent::PurposeDefined(PurposeDefined {
            name: name.to_owned(),
            description: description.to_owned(),
        })
        .into()
    };
    vec![
        plan("free", 0, &["app"]),
        plan("pro", 10, &["app", "export", "priority_support"]),
        plan(
            "enterprise",
            20,
            &["app", "audit_log", "export", "priority_support", "sso"],
        ),
        purpose("newsletter", "News about us, by e-mail"),
        purpose("product_updates", "Changes to the products you use"),
        purpose("sms_offers", "Offers by text message"),
    ]
}
