//! A commit's form in the log: a CloudEvents 1.0.2 JSON batch (`application/cloudevents-batch+json`).
//!
//! Extensions used: `sequence` (lexicographically ordered, so zero-padded), `recordedtime`, `authtype` and `authid`
//! (Auth Context), and our own `correlationid`, `causationid` and `requesttag`.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::commit::{Commit, Recorded, Subject};
use crate::domain::{Actor, Event};
use crate::ids::{ApiKeyId, CommitId, EventId, TenantId, UserId};
use crate::seal::{Binding, KeySource, KeySourceError, KeyStatus, SealError, SubjectKey};
use crate::upcast::upcast;

/// Media type of a commit's value.
pub const MEDIA_TYPE: &str = "application/cloudevents-batch+json";

/// Most events that one commit may hold.
pub const MAX_EVENTS: usize = 256;

const SOURCE_PREFIX: &str = "/tenants/";
const TENANT_SUBJECT: &str = "tenant";

/// Why a commit cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CodecError {
    #[error("not a batch of CloudEvents as this log holds them: {0}")]
    Form(String),
    #[error("events of type {0:?} are not known to this version")]
    UnknownType(String),
    #[error("data of an event of type {event_type:?} are not of their type: {what}")]
    Data { event_type: String, what: String },
    #[error("the events of one commit differ in {0}")]
    Mixed(&'static str),
    #[error("the sequence has a gap within the commit")]
    Sequence,
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("the key of subject {0} is missing, and no tombstone says that it was destroyed")]
    KeyMissing(UserId),
    #[error("{0}")]
    Keys(#[from] KeySourceError),
}

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    specversion: &'static str,
    id: EventId,
    source: &'a str,
    #[serde(rename = "type")]
    event_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    time: Timestamp,
    datacontenttype: &'static str,
    dataschema: &'static str,
    recordedtime: Timestamp,
    sequence: String,
    correlationid: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    causationid: Option<EventId>,
    authtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    authid: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requesttag: Option<&'a str>,
    data: &'a Event,
}

#[derive(Deserialize)]
struct EnvelopeIn<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    id: EventId,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow, default)]
    subject: Option<Text<'a>>,
    time: Timestamp,
    recordedtime: Timestamp,
    #[serde(borrow)]
    sequence: Cow<'a, str>,
    correlationid: Uuid,
    #[serde(default)]
    causationid: Option<EventId>,
    #[serde(borrow)]
    authtype: Cow<'a, str>,
    #[serde(default)]
    authid: Option<Uuid>,
    #[serde(borrow, default)]
    requesttag: Option<Text<'a>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// What may be absent: serde borrows a bare `Cow`, but not one in an `Option`.
#[derive(Deserialize, PartialEq)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn auth(actor: &Actor) -> (&'static str, Option<Uuid>) {
    match actor {
        Actor::Visitor => ("unauthenticated", None),
        Actor::User(u) => ("app_user", Some(u.0)),
        Actor::ApiKey(k) => ("api_key", Some(k.0)),
        Actor::System => ("system", None),
    }
}

fn actor(authtype: &str, authid: Option<Uuid>) -> Option<Actor> {
    match (authtype, authid) {
        ("unauthenticated", None) => Some(Actor::Visitor),
        ("app_user", Some(u)) => Some(Actor::User(UserId(u))),
        ("api_key", Some(k)) => Some(Actor::ApiKey(ApiKeyId(k))),
        ("system", None) => Some(Actor::System),
        _ => None,
    }
}

/// Seals every personal part of the commit. `nonces` yields one fresh 96-bit nonce per call.
pub fn seal(
    commit: &mut Commit,
    key: &SubjectKey,
    mut nonces: impl FnMut() -> [u8; 12],
) -> Result<(), CodecError> {
    let Some(subject) = commit.subject.user() else {
        return Ok(());
    };
    for recorded in &mut commit.events {
        let bound = Binding {
            event: recorded.id,
            event_type: recorded.event.type_name(),
            subject,
        };
        if let Some(personal) = recorded.event.personal() {
            personal.seal(key, &bound, nonces())?;
        }
    }
    Ok(())
}

/// Writes a sealed commit. A personal part that is still clear is an error, never output, and so is a commit that
/// [`decode`] would refuse.
pub fn encode(commit: &Commit) -> Result<Vec<u8>, CodecError> {
    check_count(commit.events.len())?;
    for pair in commit.events.windows(2) {
        check_order(pair[0].sequence, pair[1].sequence)?;
    }
    let source = format!("{SOURCE_PREFIX}{}", commit.tenant);
    let subject = match commit.subject {
        Subject::User(u) => Some(u.to_string()),
        Subject::Tenant => Some(TENANT_SUBJECT.to_owned()),
        Subject::Nobody => None,
    };
    let (authtype, authid) = auth(&commit.actor);
    let requesttag = commit.request_tag.map(|t| URL_SAFE_NO_PAD.encode(t));
    let mut out = Vec::with_capacity(1024 * commit.events.len());
    out.push(b'[');
    for (i, recorded) in commit.events.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let envelope = EnvelopeOut {
            specversion: "1.0",
            id: recorded.id,
            source: &source,
            event_type: recorded.event.type_name(),
            subject: subject.as_deref(),
            time: recorded.time,
            datacontenttype: "application/json",
            dataschema: recorded.event.schema_uri(),
            recordedtime: commit.recorded_at,
            sequence: format!("{:016}", recorded.sequence),
            correlationid: commit.correlation_id,
            causationid: commit.causation_id,
            authtype,
            authid,
            requesttag: requesttag.as_deref(),
            data: &recorded.event,
        };
        serde_json::to_writer(&mut out, &envelope).map_err(|e| CodecError::Form(e.to_string()))?;
    }
    out.push(b']');
    Ok(out)
}

/// Reads a commit as it is stored: personal parts stay sealed.
pub fn decode(id: CommitId, bytes: &[u8]) -> Result<Commit, CodecError> {
    // Checked as a whole: one by one, the many short texts cost more.
    let text = std::str::from_utf8(bytes)
        .map_err(|e| CodecError::Form(format!("no UTF-8 after octet {}", e.valid_up_to())))?;
    let envelopes: Vec<EnvelopeIn<'_>> =
        serde_json::from_str(text).map_err(|e| CodecError::Form(position_of(&e)))?;
    let Some(first) = envelopes.first() else {
        return Err(CodecError::Form("the batch is empty".to_owned()));
    };
    check_count(envelopes.len())?;
    let mut commit = Commit {
        id,
        tenant: tenant(&first.source)?,
        subject: subject(first.subject.as_ref().map(|s| &*s.0))?,
        actor: actor(&first.authtype, first.authid)
            .ok_or_else(|| CodecError::Form("authtype and authid do not fit".to_owned()))?,
        correlation_id: first.correlationid,
        causation_id: first.causationid,
        recorded_at: first.recordedtime,
        request_tag: first.requesttag.as_ref().map(|t| request_tag(&t.0)).transpose()?,
        events: Vec::with_capacity(envelopes.len()),
        erased: false,
    };
    for envelope in &envelopes {
        same_commit(first, envelope)?;
        let recorded = recorded(envelope)?;
        if let Some(before) = commit.events.last() {
            check_order(before.sequence, recorded.sequence)?;
        }
        commit.events.push(recorded);
    }
    Ok(commit)
}

/// Opens the personal parts, or marks them erased where the subject's key was destroyed.
pub fn open(commit: &mut Commit, keys: &dyn KeySource) -> Result<(), CodecError> {
    let Some(subject) = commit.subject.user() else {
        return Ok(());
    };
    let key = match keys.key(&commit.tenant, subject)? {
        KeyStatus::Present(key) => Some(key),
        KeyStatus::Destroyed => None,
        KeyStatus::Missing => return Err(CodecError::KeyMissing(subject)),
    };
    commit.erased = key.is_none();
    for recorded in &mut commit.events {
        let bound = Binding {
            event: recorded.id,
            event_type: recorded.event.type_name(),
            subject,
        };
        if let Some(personal) = recorded.event.personal() {
            personal.open(key.as_ref(), &bound)?;
        }
    }
    Ok(())
}

fn check_count(events: usize) -> Result<(), CodecError> {
    match events {
        0 => Err(CodecError::Form("the batch is empty".to_owned())),
        1..=MAX_EVENTS => Ok(()),
        _ => Err(CodecError::Form(format!("more than {MAX_EVENTS} events"))),
    }
}

/// Numbers follow each other, or there are none (0).
fn check_order(before: u64, next: u64) -> Result<(), CodecError> {
    let follows = match before {
        0 => next == 0,
        n => n.checked_add(1) == Some(next),
    };
    if follows {
        Ok(())
    } else {
        Err(CodecError::Sequence)
    }
}

// serde_json's messages may quote the input; the place is enough.
fn position_of(e: &serde_json::Error) -> String {
    format!("line {}, column {}", e.line(), e.column())
}

fn tenant(source: &str) -> Result<TenantId, CodecError> {
    source
        .strip_prefix(SOURCE_PREFIX)
        .and_then(|name| TenantId::new(name).ok())
        .ok_or_else(|| CodecError::Form("source does not name a tenant".to_owned()))
}

fn subject(text: Option<&str>) -> Result<Subject, CodecError> {
    match text {
        None => Ok(Subject::Nobody),
        Some(TENANT_SUBJECT) => Ok(Subject::Tenant),
        Some(text) => text
            .parse()
            .map(Subject::User)
            .map_err(|_| CodecError::Form("subject is not a user id".to_owned())),
    }
}

// `parse` alone would take a sign too.
fn sequence(text: &str) -> Result<u64, CodecError> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| CodecError::Form("sequence is not a number".to_owned()))
}

fn request_tag(text: &str) -> Result<[u8; 16], CodecError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| CodecError::Form("requesttag has not 16 octets".to_owned()))
}

fn same_commit(first: &EnvelopeIn<'_>, other: &EnvelopeIn<'_>) -> Result<(), CodecError> {
    if other.specversion != "1.0" {
        return Err(CodecError::Form("specversion is not 1.0".to_owned()));
    }
    for (what, same) in [
        ("source", first.source == other.source),
        ("subject", first.subject == other.subject),
        ("recordedtime", first.recordedtime == other.recordedtime),
        ("correlationid", first.correlationid == other.correlationid),
        ("causationid", first.causationid == other.causationid),
        ("requesttag", first.requesttag == other.requesttag),
        (
            "authtype",
            first.authtype == other.authtype && first.authid == other.authid,
        ),
    ] {
        if !same {
            return Err(CodecError::Mixed(what));
        }
    }
    Ok(())
}

fn recorded(envelope: &EnvelopeIn<'_>) -> Result<Recorded, CodecError> {
    let event_type = &*envelope.event_type;
    let event = match Event::decode(event_type, envelope.data.get()) {
        Some(event) => event,
        None => upcast(event_type, envelope.data.get())
            .ok_or_else(|| CodecError::UnknownType(event_type.chars().take(100).collect()))?,
    }
    .map_err(|e| CodecError::Data {
        event_type: event_type.to_owned(),
        what: position_of(&e),
    })?;
    Ok(Recorded {
        id: envelope.id,
        sequence: sequence(&envelope.sequence)?,
        time: envelope.time,
        event,
    })
}
