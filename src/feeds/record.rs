//! A record: what leaves by a feed, as a CloudEvent (1.0.2).

use std::borrow::Cow;
use std::fmt;

use gatelog_events::clock::Timestamp;
use gatelog_events::ids::TenantId;
use gatelog_events::log::kafka::OutletMessage;
use gatelog_projections::changes::Cause;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

const PREFIX: &str = "com.gatelog.feed.";
const VERSION: &str = ".v1";

/// The kind of a record that gives a subject's state without an event that was asked for.
pub const SNAPSHOT: &str = "subject.snapshot";
/// The kind of a record that says that nothing of a subject may be used any more.
pub const WITHDRAWN: &str = "subject.withdrawn";

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The same at each delivery.
    pub id: Uuid,
    /// [`SNAPSHOT`], [`WITHDRAWN`], or the kind of an event.
    pub kind: Cow<'static, str>,
    /// The feed's own name of the user.
    pub subject: Uuid,
    /// When it happened; a snapshot has no time.
    pub time: Option<Timestamp>,
    /// Number of the event among its user's.
    pub sequence: u64,
    /// Whether the consent that gates the feed was given with it. Only connectors ask.
    pub granted: bool,
    pub data: Data,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Data {
    State {
        /// What the event says of itself; nothing in a snapshot.
        #[serde(skip_serializing_if = "Map::is_empty")]
        details: Map<String, Value>,
        /// The fields that the feed names and the subject has, all of them, as they are now.
        fields: Map<String, Value>,
    },
    /// Forget the subject.
    Withdrawn { reason: Reason },
}

/// Why a subject must be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    ConsentWithdrawn,
    Disabled,
    Erased,
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Consent => Reason::ConsentWithdrawn,
            Cause::Disabled => Reason::Disabled,
            Cause::Erased => Reason::Erased,
        }
    }
}

/// The `type` of records of a kind.
pub fn type_name(kind: &str) -> String {
    TypeName(kind).to_string()
}

/// The same, without a copy.
#[derive(Debug)]
struct TypeName<'a>(&'a str);

impl fmt::Display for TypeName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(kind) = self;
        write!(f, "{PREFIX}{kind}{VERSION}")
    }
}

/// What all records of one version of a feed have in common.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Of which feed: CloudEvents' `source`.
    pub source: String,
    /// Where the schema of the data is.
    pub dataschema: String,
}

impl Envelope {
    /// `issuer` is the URL of this installation.
    pub fn new(issuer: &str, tenant: &TenantId, feed: &str, version: u32) -> Self {
        let issuer = issuer.trim_end_matches('/');
        Self {
            source: format!("/tenants/{tenant}/feeds/{feed}"),
            dataschema: format!("{issuer}/v1/feeds/{feed}/versions/{version}/schema"),
        }
    }

    /// The attributes of a record as headers of a Kafka message, and its data as the value (CloudEvents' Kafka protocol
    /// binding 1.0.2, binary content mode).
    pub fn message(&self, record: &Record) -> Result<OutletMessage, serde_json::Error> {
        let mut headers = vec![
            ("ce_specversion", "1.0".to_owned()),
            ("ce_id", record.id.to_string()),
            ("ce_source", self.source.clone()),
            ("ce_type", type_name(&record.kind)),
            ("ce_subject", record.subject.to_string()),
            ("ce_sequence", format!("{:016}", record.sequence)),
            ("ce_dataschema", self.dataschema.clone()),
            ("content-type", "application/json".to_owned()),
        ];
        headers.extend(record.time.map(|time| ("ce_time", time.to_string())));
        Ok(OutletMessage {
            key: record.subject.to_string(),
            value: Some(serde_json::to_vec(&record.data)?),
            headers,
        })
    }

    /// The record in CloudEvents' JSON format.
    pub fn event<'a>(&'a self, record: &'a Record) -> CloudEvent<'a> {
        CloudEvent {
            envelope: self,
            record,
        }
    }
}

/// A record on its way out.
pub struct CloudEvent<'a> {
    envelope: &'a Envelope,
    record: &'a Record,
}

impl Serialize for CloudEvent<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let r = self.record;
        let mut out = s.serialize_struct("CloudEvent", 10)?;
        out.serialize_field("specversion", "1.0")?;
        out.serialize_field("id", &r.id)?;
        out.serialize_field("source", &self.envelope.source)?;
        out.serialize_field("type", &format_args!("{}", TypeName(&r.kind)))?;
        out.serialize_field("subject", &r.subject)?;
        match &r.time {
            Some(time) => out.serialize_field("time", time)?,
            None => out.skip_field("time")?,
        }
        out.serialize_field("sequence", &format_args!("{:016}", r.sequence))?;
        out.serialize_field("datacontenttype", "application/json")?;
        out.serialize_field("dataschema", &self.envelope.dataschema)?;
        out.serialize_field("data", &r.data)?;
        out.end()
    }
}
