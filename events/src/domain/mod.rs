//! The domain: what can be asked (commands), what happened (events), and the pure functions between them.
//!
//! `decide(&state, command, &context) -> Result<Vec<Event>, Rejection>` says what follows from a command;
//! `state.evolve(&event, …)` says what an event makes of a state. Neither does I/O, reads a clock or draws randomness.
//!
//! Commands and rejections are serialized only on their way between nodes; a newer node must understand an older one's.
//!
//! | aggregate | stream | events of |
//! |---|---|---|
//! | user | identity | [`user`], [`consent`], [`plan`] |
//! | identifier | identity | [`identifier`] |
//! | tenant | identity | [`tenant`] |
//! | activity (one per user) | activity | [`session`] |
//! | none: what feeds and streams of signals handed over | activity | [`feed`] |

pub mod consent;
pub mod feed;
pub mod identifier;
pub mod plan;
pub mod profile;
pub mod session;
pub mod signals;
pub mod tenant;
pub mod user;
pub mod webhook;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{ApiKeyId, UserId};
use crate::personal::Sealable;

/// Who did it. CloudEvents' Auth Context extension (`authtype`, `authid`) carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Actor {
    /// Nobody that we know: a visitor who registers or logs in.
    Visitor,
    /// A user, by an access token of their own.
    User(UserId),
    /// A system, by an API key.
    ApiKey(ApiKeyId),
    /// Gatelog itself, or its operator at the command line.
    System,
}

/// What `decide` may know besides the state: handed in, so that decisions can be replayed.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub now: Timestamp,
    pub settings: &'a tenant::Settings,
}

/// What every event payload can do.
pub trait Payload: Serialize + schemars::JsonSchema {
    /// The personal part, if this type has one.
    fn personal(&mut self) -> Option<&mut dyn Sealable> {
        None
    }
}

/// Declares one closed enum of events: variant, payload, and the frozen name on the wire.
macro_rules! events {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident($payload:ty) = $wire:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant($payload),)+ }

        impl $name {
            /// The names on the wire. Frozen: a changed meaning gets a new version and an upcaster.
            pub const TYPES: &'static [&'static str] = &[$($wire,)+];

            pub fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $wire,)+ }
            }

            /// URI of the JSON Schema of the data.
            pub fn schema_uri(&self) -> &'static str {
                match self { $(Self::$variant(_) => concat!("urn:gatelog:schema:", $wire),)+ }
            }

            /// The personal part, if there is one.
            pub fn personal(&mut self) -> Option<&mut dyn $crate::personal::Sealable> {
                match self { $(Self::$variant(p) => $crate::domain::Payload::personal(p),)+ }
            }

            pub(crate) fn decode(type_name: &str, data: &str) -> Option<Result<Self, serde_json::Error>> {
                match type_name {
                    $($wire => Some(serde_json::from_str(data).map(Self::$variant)),)+
                    _ => None,
                }
            }

            /// Name and JSON Schema (2020-12) of each type.
            pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
                vec![$(($wire, schemars::schema_for!($payload)),)+]
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$variant(p) => p.serialize(s),)+ }
            }
        }
    };
}
pub(crate) use events;

/// Says that a payload has a sealed field `personal`.
macro_rules! has_personal {
    ($($payload:ty),+ $(,)?) => {$(
        impl $crate::domain::Payload for $payload {
            fn personal(&mut self) -> Option<&mut dyn $crate::personal::Sealable> {
                Some(&mut self.personal)
            }
        }
    )+};
}
pub(crate) use has_personal;

/// Anything that can have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    User(user::UserEvent),
    Consent(consent::ConsentEvent),
    Plan(plan::PlanEvent),
    Identifier(identifier::IdentifierEvent),
    Session(session::SessionEvent),
    Tenant(tenant::TenantEvent),
    Feed(feed::FeedEvent),
}

macro_rules! each_family {
    ($self:expr, $e:ident => $do:expr) => {
        match $self {
            Event::User($e) => $do,
            Event::Consent($e) => $do,
            Event::Plan($e) => $do,
            Event::Identifier($e) => $do,
            Event::Session($e) => $do,
            Event::Tenant($e) => $do,
            Event::Feed($e) => $do,
        }
    };
}

impl Event {
    pub fn type_name(&self) -> &'static str {
        each_family!(self, e => e.type_name())
    }

    pub fn schema_uri(&self) -> &'static str {
        each_family!(self, e => e.schema_uri())
    }

    pub fn personal(&mut self) -> Option<&mut dyn Sealable> {
        each_family!(self, e => e.personal())
    }

    /// Every type of event, with the JSON Schema of its data.
    pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
        [
            user::UserEvent::schemas(),
            consent::ConsentEvent::schemas(),
            plan::PlanEvent::schemas(),
            identifier::IdentifierEvent::schemas(),
            session::SessionEvent::schemas(),
            tenant::TenantEvent::schemas(),
            feed::FeedEvent::schemas(),
        ]
        .concat()
    }

    /// Reads the data of a type in its latest version; `None` for a type that is not known.
    pub(crate) fn decode(type_name: &str, data: &str) -> Option<Result<Self, serde_json::Error>> {
        user::UserEvent::decode(type_name, data)
            .map(|r| r.map(Event::User))
            .or_else(|| consent::ConsentEvent::decode(type_name, data).map(|r| r.map(Event::Consent)))
            .or_else(|| plan::PlanEvent::decode(type_name, data).map(|r| r.map(Event::Plan)))
            .or_else(|| session::SessionEvent::decode(type_name, data).map(|r| r.map(Event::Session)))
            .or_else(|| {
                identifier::IdentifierEvent::decode(type_name, data).map(|r| r.map(Event::Identifier))
            })
            .or_else(|| tenant::TenantEvent::decode(type_name, data).map(|r| r.map(Event::Tenant)))
            .or_else(|| feed::FeedEvent::decode(type_name, data).map(|r| r.map(Event::Feed)))
    }
}

impl Serialize for Event {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        each_family!(self, e => e.serialize(s))
    }
}

macro_rules! into_event {
    ($($family:ident($enum:ty)),+) => {$(
        impl From<$enum> for Event {
            fn from(e: $enum) -> Self {
                Event::$family(e)
            }
        }
    )+};
}
into_event!(
    User(user::UserEvent),
    Consent(consent::ConsentEvent),
    Plan(plan::PlanEvent),
    Identifier(identifier::IdentifierEvent),
    Session(session::SessionEvent),
    Tenant(tenant::TenantEvent),
    Feed(feed::FeedEvent)
);

/// Why a command was refused. Each is a problem type of its own towards callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error(transparent)]
    User(#[from] user::Rejection),
    #[error(transparent)]
    Consent(#[from] consent::Rejection),
    #[error(transparent)]
    Plan(#[from] plan::Rejection),
    #[error(transparent)]
    Session(#[from] session::Rejection),
    #[error(transparent)]
    Tenant(#[from] tenant::Rejection),
}
