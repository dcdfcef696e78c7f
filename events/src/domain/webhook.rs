//! Webhooks: where the records of a feed are posted. Among the tenant's settings; how far each has come, and what it
//! would not take, is said in the activity stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::feed::Feed;
use super::tenant::{Rejection, TenantEvent};
use super::{Event, Payload};
use crate::clock::Timestamp;
use crate::ids::{EventId, Offset, Stream, UserId};

/// A webhook is so set from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WebhookSet {
    pub feed: String,
    pub name: String,
    pub url: String,
    /// The version of the feed whose records are posted.
    pub version: u32,
    /// Requests at a time from one node, at the most.
    pub concurrency: u16,
    /// The vendor whose API is spoken there; none where records are posted as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Connector>,
}

/// How records are brought to a vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Connector {
    pub vendor: String,
    /// What else its definition says, in JSON; what may stand there is the vendor's.
    pub settings: String,
    /// With what the vendor is called, sealed.
    pub credential: String,
}

/// Settings of connectors that say where the credential goes.
const ADDRESSES: [&str; 2] = ["base_url", "regulations_url"];

impl Connector {
    /// Whether its credential would go to the same vendor at the same addresses. Who may change a connector need not know
    /// the credential, and must not learn it by sending it elsewhere.
    pub fn keeps_credential(&self, vendor: &str, settings: &str) -> bool {
        let addresses = |settings: &str| {
            let settings: serde_json::Value = serde_json::from_str(settings).unwrap_or_default();
            ADDRESSES.map(|name| settings[name].clone())
        };
        self.vendor == vendor && addresses(&self.settings) == addresses(settings)
    }
}

/// Nothing is posted there any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WebhookRemoved {
    pub feed: String,
    pub name: String,
}

/// Nothing is posted there until the webhook is set again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WebhookPaused {
    pub feed: String,
    pub name: String,
    pub reason: PauseReason,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// The receiver answered 410: it wants no more.
    Gone,
    Operator,
}

/// A new secret signs; the former one goes on signing beside it for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WebhookSecretRotated {
    pub feed: String,
    pub name: String,
    pub former_until: Timestamp,
}

/// The webhook begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WebhookReplayed {
    pub feed: String,
    pub name: String,
    pub from: ReplayFrom,
}

/// From where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayFrom {
    /// The present state of everyone, and then what happens.
    #[default]
    Snapshot,
    /// Everything that the log holds.
    Beginning,
    /// What was recorded from this time on.
    Time(Timestamp),
}

impl Payload for WebhookSet {}
impl Payload for WebhookRemoved {}
impl Payload for WebhookPaused {}
impl Payload for WebhookSecretRotated {}
impl Payload for WebhookReplayed {}

/// A webhook as the events so far make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub url: String,
    pub version: u32,
    pub concurrency: u16,
    pub connector: Option<Connector>,
    pub paused: Option<PauseReason>,
    /// Number of the settings' event with which it was set first, and when that was.
    pub since: u64,
    pub set_at: Timestamp,
    /// Number of the settings' event with which it began last; what is said of an earlier beginning counts no more.
    pub generation: u64,
    pub from: ReplayFrom,
    /// Number of the secret that signs.
    pub secret: u32,
    /// Until when the secret before it signs, too.
    pub former_until: Option<Timestamp>,
}

/// What can be asked of the webhooks of a feed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Set(SetWebhook),
    Remove(WebhookRemoved),
    Pause(WebhookPaused),
    RotateSecret(WebhookSecretRotated),
    Replay(WebhookReplayed),
}

/// How a webhook is to be set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetWebhook {
    pub feed: String,
    pub name: String,
    pub url: String,
    /// The newest there is when it is decided, if absent.
    pub version: Option<u32>,
    pub concurrency: u16,
    pub connector: Option<SetConnector>,
}

/// How a connector is to be set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetConnector {
    pub vendor: String,
    pub settings: String,
    /// Sealed; the one it has with this vendor at this address, if absent.
    pub credential: Option<String>,
}

/// Webhooks of one feed, at the most.
pub const MAX_WEBHOOKS: usize = 100;

/// Folds one event into the webhooks of its feed.
pub(super) fn evolve(
    feeds: &mut BTreeMap<String, Feed>,
    event: &TenantEvent,
    time: Timestamp,
    sequence: u64,
) {
    match event {
        TenantEvent::WebhookSet(e) => {
            if let Some(feed) = feeds.get_mut(&e.feed) {
                set(feed, e, time, sequence);
            }
        }
        TenantEvent::WebhookRemoved(e) => {
            if let Some(feed) = feeds.get_mut(&e.feed)
                && let Some(removed) = feed.webhooks.remove(&e.name)
            {
                feed.former_secrets.insert(e.name.clone(), removed.secret);
            }
        }
        TenantEvent::WebhookPaused(e) => change(feeds, &e.feed, &e.name, |w| w.paused = Some(e.reason)),
        TenantEvent::WebhookSecretRotated(e) => change(feeds, &e.feed, &e.name, |w| {
            w.secret += 1;
            w.former_until = Some(e.former_until);
        }),
        TenantEvent::WebhookReplayed(e) => change(feeds, &e.feed, &e.name, |w| {
            w.generation = sequence;
            w.from = e.from;
        }),
        _ => {}
    }
}

fn change(feeds: &mut BTreeMap<String, Feed>, feed: &str, name: &str, change: impl FnOnce(&mut Webhook)) {
    if let Some(webhook) = feeds.get_mut(feed).and_then(|f| f.webhooks.get_mut(name)) {
        change(webhook);
    }
}

/// A webhook that is set again goes on where it stands; of another version it needs everyone's state anew.
fn set(feed: &mut Feed, e: &WebhookSet, time: Timestamp, sequence: u64) {
    match feed.webhooks.get_mut(&e.name) {
        Some(known) => {
            if known.version != e.version {
                known.generation = sequence;
                known.from = ReplayFrom::Snapshot;
            }
            known.url.clone_from(&e.url);
            known.version = e.version;
            known.concurrency = e.concurrency;
            known.connector.clone_from(&e.connector);
            known.paused = None;
        }
        None => {
            let webhook = Webhook {
                url: e.url.clone(),
                version: e.version,
                concurrency: e.concurrency,
                connector: e.connector.clone(),
                paused: None,
                since: sequence,
                set_at: time,
                generation: sequence,
                from: ReplayFrom::Snapshot,
                // Whoever had the name before knows the secrets up to then.
                secret: feed.former_secrets.get(&e.name).map_or(1, |former| former + 1),
                former_until: None,
            };
            feed.webhooks.insert(e.name.clone(), webhook);
        }
    }
}

/// Decides on a change of a feed's webhooks. What is so already is no event.
pub(super) fn decide(feeds: &BTreeMap<String, Feed>, command: Command) -> Result<Vec<Event>, Rejection> {
    let (feed, name) = match &command {
        Command::Set(e) => (&e.feed, &e.name),
        Command::Remove(e) => (&e.feed, &e.name),
        Command::Pause(e) => (&e.feed, &e.name),
        Command::RotateSecret(e) => (&e.feed, &e.name),
        Command::Replay(e) => (&e.feed, &e.name),
    };
    let feed = feeds.get(feed).ok_or(Rejection::FeedNotFound)?;
    let known = feed.webhooks.get(name);
    let event = match (command, known) {
        (Command::Set(wanted), known) => return decide_set(feed, known, wanted),
        (_, None) => return Err(Rejection::WebhookNotFound),
        (Command::Pause(e), Some(known)) if known.paused == Some(e.reason) => return Ok(vec![]),
        (Command::Pause(e), _) => TenantEvent::WebhookPaused(e),
        (Command::Remove(e), _) => TenantEvent::WebhookRemoved(e),
        (Command::RotateSecret(e), _) => TenantEvent::WebhookSecretRotated(e),
        (Command::Replay(e), _) => TenantEvent::WebhookReplayed(e),
    };
    Ok(vec![event.into()])
}

fn decide_set(feed: &Feed, known: Option<&Webhook>, wanted: SetWebhook) -> Result<Vec<Event>, Rejection> {
    // Whoever is set again stays on its version: a newer one may tell more.
    let stays = known.map(|w| w.version);
    let version = wanted.version.or(stays).unwrap_or_else(|| feed.newest());
    if feed.version(version).is_none() {
        return Err(Rejection::FeedVersionNotFound);
    }
    if known.is_none() && feed.webhooks.len() >= MAX_WEBHOOKS {
        return Err(Rejection::TooManyWebhooks);
    }
    let connector = match wanted.connector {
        Some(connector) => Some(connect(known, connector)?),
        None => None,
    };
    let same = known.is_some_and(|w| {
        let is = (&w.url, w.version, w.concurrency, &w.connector);
        w.paused.is_none() && is == (&wanted.url, version, wanted.concurrency, &connector)
    });
    if same {
        return Ok(vec![]);
    }
    let event = TenantEvent::WebhookSet(WebhookSet {
        feed: wanted.feed,
        name: wanted.name,
        url: wanted.url,
        version,
        concurrency: wanted.concurrency,
        connector,
    });
    Ok(vec![event.into()])
}

fn connect(known: Option<&Webhook>, wanted: SetConnector) -> Result<Connector, Rejection> {
    let before = known.and_then(|w| w.connector.as_ref());
    let before = before.filter(|c| c.keeps_credential(&wanted.vendor, &wanted.settings));
    let credential = wanted
        .credential
        .or_else(|| Some(before?.credential.clone()))
        .ok_or(Rejection::CredentialNeeded)?;
    Ok(Connector {
        vendor: wanted.vendor,
        settings: wanted.settings,
        credential,
    })
}

/// How far a webhook, or a feed's topic, has come in the partition in which this is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    pub feed: String,
    /// The webhook's name, or [`super::feed::TOPIC`].
    pub webhook: String,
    pub generation: u64,
    /// While everyone's state is posted: the offsets between which the rest of them registered.
    #[serde(default)]
    pub snapshot: Option<(Offset, Offset)>,
    pub identity: Offset,
    pub activity: Offset,
    pub withdrawals: Offset,
}

/// What a receiver did not take, after all attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetter {
    pub feed: String,
    pub webhook: String,
    /// The record's id.
    pub record: uuid::Uuid,
    pub user: UserId,
    pub told: Told,
    pub attempts: u32,
    /// The last answer's status; none where there was no answer.
    #[serde(default)]
    pub status: Option<u16>,
    pub reason: String,
}

/// What was to be told, so that it can be told again. Offsets are those of the partition in which this is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Somebody's state, without an event that was asked for.
    State,
    Happened {
        stream: Stream,
        offset: Offset,
        event_id: EventId,
        /// Told as a state.
        as_state: bool,
    },
    Withdrawn {
        offset: Offset,
        event_id: EventId,
    },
}

/// Dead letters that are to be sent again, or that were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetterRef {
    pub feed: String,
    pub webhook: String,
    pub records: Vec<uuid::Uuid>,
}

impl Payload for Progress {}
impl Payload for DeadLetter {}
impl Payload for DeadLetterRef {}
