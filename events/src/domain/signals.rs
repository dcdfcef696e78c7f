//! Streams of security events (OpenID Shared Signals Framework 1.0): who is told of what, and where. Among the tenant's
//! settings; how far each stream has come, and what was asked of it meanwhile, is said in the activity stream.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::tenant::{Rejection, TenantEvent};
use super::{Event, Payload};
use crate::clock::Timestamp;
use crate::ids::{ApiKeyId, EventId, Offset, Stream};

/// A receiver made a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalStreamCreated {
    pub stream_id: Uuid,
    /// The API key whose stream it is; none for the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver: Option<ApiKeyId>,
    /// The `aud` of what is sent.
    pub audience: String,
    pub config: StreamConfig,
    pub begins: Begins,
}

/// The stream is so set from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalStreamChanged {
    pub stream_id: Uuid,
    pub config: StreamConfig,
}

/// The stream is enabled, paused or disabled from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalStreamStatusSet {
    pub stream_id: Uuid,
    pub status: StreamStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether somebody else than the receiver did it, so that the receiver must be told (SSF 1.0, section 8.1.5).
    pub tell: bool,
    /// Where the stream begins anew, because nothing was held while it was disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<Begins>,
}

/// Nothing is told by the stream any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalStreamDeleted {
    pub stream_id: Uuid,
}

/// There is a new key. The first one signs at once, a later one after a while; until then the one before does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalKeyMade {
    /// The key's RFC 7638 thumbprint.
    pub kid: String,
    /// The modulus of the RSA key, in base64url (RFC 7518, section 6.3.1).
    pub modulus: String,
    /// Its public exponent, in base64url.
    pub exponent: String,
    /// The private key, encrypted under a key that derives from the nodes' routing secret.
    pub wrapped: String,
}

impl Payload for SignalStreamCreated {}
impl Payload for SignalStreamChanged {}
impl Payload for SignalStreamStatusSet {}
impl Payload for SignalStreamDeleted {}
impl Payload for SignalKeyMade {}

/// What a receiver says of its stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StreamConfig {
    pub delivery: Delivery,
    /// URIs of types of events; also such as are not known here.
    pub events_requested: BTreeSet<String>,
    #[serde(default)]
    pub description: Option<String>,
}

/// How what is told reaches the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It is posted to the receiver (RFC 8935).
    Push(Push),
    /// The receiver asks for it (RFC 8936).
    Poll,
}

/// Where it is posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Push {
    pub url: String,
    /// The `Authorization` header that the receiver wants, encrypted under a key that derives from the nodes' routing
    /// secret.
    #[serde(default)]
    pub authorization: Option<String>,
}

/// Where a stream begins, by partition: offsets of the first commits that it tells of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Begins {
    pub identity: Vec<Offset>,
    pub activity: Vec<Offset>,
}

/// Whether a stream tells anything (SSF 1.0, section 8.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamStatus {
    #[default]
    Enabled,
    /// What happens is held, and told later.
    Paused,
    /// What happens is never told.
    Disabled,
}

/// What a receiver is to be told of its stream's status, since somebody else changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusNotice {
    /// Number of the settings' event. A later notice takes the place of those before.
    pub number: u64,
    pub time: Timestamp,
}

/// A stream as the events so far make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalStream {
    pub receiver: Option<ApiKeyId>,
    pub audience: String,
    pub config: StreamConfig,
    pub status: StreamStatus,
    pub reason: Option<String>,
    pub notice: Option<StatusNotice>,
    /// Number of the settings' event with which it began last; what is said of an earlier beginning counts no more.
    pub generation: u64,
    pub begins: Begins,
    /// Types that were asked for later than the stream was made, and when: what happened before is not told.
    pub asked_at: BTreeMap<String, Timestamp>,
}

/// All streams of a tenant, and the keys that sign.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Signals {
    pub streams: BTreeMap<Uuid, SignalStream>,
    /// Those that are published; the newest comes last.
    pub keys: Vec<SignalKey>,
}

/// A key that signs, has signed a moment ago, or soon will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalKey {
    pub made: SignalKeyMade,
    /// From when on it signs, until the next one does.
    pub signs_from: Timestamp,
}

/// How long a key is published before it signs, so that whoever keeps a copy of the JWK set knows it by then.
pub const KEY_LEAD: Duration = Duration::from_secs(5 * 60);

/// What is to be changed of what a receiver says of its stream; the rest stays as it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPatch {
    pub stream_id: Uuid,
    /// Of a push to the same URL, the header stays where none is given: nobody can send again what is never shown.
    pub delivery: Option<Delivery>,
    pub events_requested: Option<BTreeSet<String>>,
    pub description: Option<String>,
}

impl StreamPatch {
    /// What the receiver says then, having said `config` before.
    fn over(self, config: &StreamConfig) -> StreamConfig {
        let mut new = config.clone();
        if let Some(delivery) = self.delivery {
            new.delivery = delivery;
        }
        if let (Delivery::Push(new), Delivery::Push(old)) = (&mut new.delivery, &config.delivery)
            && new.authorization.is_none()
            && new.url == old.url
        {
            new.authorization.clone_from(&old.authorization);
        }
        if let Some(requested) = self.events_requested {
            new.events_requested = requested;
        }
        new.description = self.description.or(new.description);
        new
    }
}

/// What can be asked of streams.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Create(SignalStreamCreated),
    Change(SignalStreamChanged),
    SetStatus(SignalStreamStatusSet),
    Delete(SignalStreamDeleted),
    /// The first key; nothing if there is one.
    MakeFirstKey(SignalKeyMade),
    Patch(StreamPatch),
    /// Another key, whatever there is.
    MakeKey(SignalKeyMade),
}

/// Streams of one tenant, at the most.
pub const MAX_STREAMS: usize = 100;
/// Streams of one API key, at the most, so that none takes those of all others.
pub const MAX_OF_RECEIVER: usize = 10;

impl Signals {
    /// Folds one event.
    pub(super) fn evolve(&mut self, event: &TenantEvent, time: Timestamp, sequence: u64) {
        match event {
            TenantEvent::SignalStreamCreated(e) => {
                let stream = SignalStream {
                    receiver: e.receiver,
                    audience: e.audience.clone(),
                    config: e.config.clone(),
                    status: StreamStatus::Enabled,
                    reason: None,
                    notice: None,
                    generation: sequence,
                    begins: e.begins.clone(),
                    asked_at: BTreeMap::new(),
                };
                self.streams.insert(e.stream_id, stream);
            }
            TenantEvent::SignalStreamChanged(e) => {
                if let Some(stream) = self.streams.get_mut(&e.stream_id) {
                    stream.set_config(&e.config, time);
                }
            }
            TenantEvent::SignalStreamStatusSet(e) => {
                if let Some(stream) = self.streams.get_mut(&e.stream_id) {
                    stream.set_status(e, time, sequence);
                }
            }
            TenantEvent::SignalStreamDeleted(e) => _ = self.streams.remove(&e.stream_id),
            TenantEvent::SignalKeyMade(e) => self.add_key(e, time),
            _ => {}
        }
    }
}

impl Signals {
    /// The key that signs at a time: the newest whose time has come.
    pub fn signing(&self, now: Timestamp) -> Option<&SignalKey> {
        self.keys.get(self.index_of_signing(now))
    }

    fn index_of_signing(&self, now: Timestamp) -> usize {
        let signing = self.keys.iter().rposition(|key| key.signs_from <= now);
        // Where clocks differ, the first one may seem to be of the future.
        signing.unwrap_or(0)
    }

    /// What was replaced by the one that signs now is published no more: it has signed nothing for a while.
    fn add_key(&mut self, made: &SignalKeyMade, time: Timestamp) {
        let signing = self.index_of_signing(time);
        self.keys.drain(..signing);
        let signs_from = if self.keys.is_empty() {
            time
        } else {
            time.plus(KEY_LEAD)
        };
        self.keys.push(SignalKey {
            made: made.clone(),
            signs_from,
        });
    }

    /// How many streams a receiver has that is an API key.
    fn count_of(&self, receiver: Option<ApiKeyId>) -> usize {
        let own = |stream: &&SignalStream| receiver.is_some() && stream.receiver == receiver;
        self.streams.values().filter(own).count()
    }
}

impl SignalStream {
    /// Since when a type of events is asked for, if it was not when the stream was made.
    pub fn asked_at(&self, event_type: &str) -> Option<Timestamp> {
        self.asked_at.get(event_type).copied()
    }

    fn set_config(&mut self, config: &StreamConfig, time: Timestamp) {
        let (before, now) = (&self.config.events_requested, &config.events_requested);
        self.asked_at.retain(|known, _| now.contains(known));
        self.asked_at
            .extend(now.difference(before).map(|new| (new.clone(), time)));
        self.config = config.clone();
    }

    fn set_status(&mut self, e: &SignalStreamStatusSet, time: Timestamp, sequence: u64) {
        self.status = e.status;
        self.reason.clone_from(&e.reason);
        if let Some(begins) = &e.begins {
            self.begins = begins.clone();
            self.generation = sequence;
        }
        // The receiver itself knows what it asked for, whatever it was to be told before.
        self.notice = e.tell.then_some(StatusNotice {
            number: sequence,
            time,
        });
    }
}

/// Decides on a change of streams. What is so already is no event.
pub(super) fn decide(signals: &Signals, command: Command) -> Result<Vec<Event>, Rejection> {
    let known = |id: &Uuid| signals.streams.get(id).ok_or(Rejection::SignalStreamNotFound);
    let event = match command {
        Command::Create(e) if signals.streams.contains_key(&e.stream_id) => return Ok(vec![]),
        Command::Create(_) if signals.streams.len() >= MAX_STREAMS => {
            return Err(Rejection::TooManySignalStreams);
        }
        Command::Create(e) if signals.count_of(e.receiver) >= MAX_OF_RECEIVER => {
            return Err(Rejection::TooManyStreamsOfReceiver);
        }
        Command::Create(e) => TenantEvent::SignalStreamCreated(e),
        Command::Change(e) if known(&e.stream_id)?.config == e.config => return Ok(vec![]),
        Command::Change(e) => TenantEvent::SignalStreamChanged(e),
        Command::Patch(e) => {
            let (stream_id, before) = (e.stream_id, &known(&e.stream_id)?.config);
            let config = e.over(before);
            if config == *before {
                return Ok(vec![]);
            }
            TenantEvent::SignalStreamChanged(SignalStreamChanged { stream_id, config })
        }
        Command::SetStatus(e) => {
            let stream = known(&e.stream_id)?;
            if (stream.status, &stream.reason) == (e.status, &e.reason) {
                return Ok(vec![]);
            }
            // Only who was disabled begins anew: what a paused stream holds is told later.
            let anew = stream.status == StreamStatus::Disabled && e.status != StreamStatus::Disabled;
            let begins = e.begins.filter(|_| anew);
            TenantEvent::SignalStreamStatusSet(SignalStreamStatusSet { begins, ..e })
        }
        Command::Delete(e) => {
            known(&e.stream_id)?;
            TenantEvent::SignalStreamDeleted(e)
        }
        Command::MakeFirstKey(_) if !signals.keys.is_empty() => return Ok(vec![]),
        Command::MakeKey(e) if signals.keys.iter().any(|key| key.made.kid == e.kid) => return Ok(vec![]),
        Command::MakeFirstKey(e) | Command::MakeKey(e) => TenantEvent::SignalKeyMade(e),
    };
    Ok(vec![event.into()])
}

/// How far a stream has come in the partition in which this is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignalsTold {
    pub stream_id: Uuid,
    pub generation: u64,
    /// Everything before these offsets is done with.
    pub identity: Offset,
    pub activity: Offset,
    /// What else is: the receiver has it, or has refused it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beyond: Vec<SignalRef>,
}

/// One thing that a stream tells: which of those of one commit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct SignalRef {
    pub stream: Stream,
    pub offset: Offset,
    pub number: u16,
}

/// A receiver asked for a verification event (SSF 1.0, section 8.1.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct VerificationRequested {
    pub stream_id: Uuid,
    /// What the receiver wants to hear again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// The receiver has heard of its stream itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StreamNoticesTaken {
    pub stream_id: Uuid,
    /// The requests whose verification events it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verifications: Vec<EventId>,
    /// The number of the last change of status that it knows of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u64>,
}

impl Payload for SignalsTold {}
impl Payload for VerificationRequested {}
impl Payload for StreamNoticesTaken {}

/// Most things that one event may name as told.
pub const MAX_BEYOND: usize = 256;
