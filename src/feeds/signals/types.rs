//! The types of events, by their URIs.

use std::collections::BTreeSet;

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::signals::SignalStream;
use gatelog_projections::signals::What;

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $uri:literal,)+) => {
        /// A type of event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventType { $($(#[$doc])* $name,)+ }

        impl EventType {
            /// Its URI, as in `events` of a SET.
            pub const fn uri(self) -> &'static str {
                match self { $(EventType::$name => concat!("https://schemas.openid.net/secevent/", $uri),)+ }
            }
        }
    };
}

event_types! {
    /// CAEP 1.0, section 3.1.
    SessionRevoked = "caep/event-type/session-revoked",
    /// CAEP 1.0, section 3.3.
    CredentialChange = "caep/event-type/credential-change",
    /// RISC 1.0, section 2.3.
    AccountDisabled = "risc/event-type/account-disabled",
    /// RISC 1.0, section 2.4.
    AccountEnabled = "risc/event-type/account-enabled",
    /// RISC 1.0, section 2.2.
    AccountPurged = "risc/event-type/account-purged",
    /// RISC 1.0, section 2.5.
    IdentifierChanged = "risc/event-type/identifier-changed",
    /// SSF 1.0, section 8.1.4.
    Verification = "ssf/event-type/verification",
    /// SSF 1.0, section 8.1.5.
    StreamUpdated = "ssf/event-type/stream-updated",
}

impl EventType {
    /// Those that a receiver can ask for. What concerns the stream itself it is told in any case.
    pub const SUPPORTED: [EventType; 6] = [
        EventType::SessionRevoked,
        EventType::CredentialChange,
        EventType::AccountDisabled,
        EventType::AccountEnabled,
        EventType::AccountPurged,
        EventType::IdentifierChanged,
    ];

    /// The type that tells of a signal.
    pub const fn of(what: What) -> EventType {
        match what {
            What::SessionEnded(..) | What::AllSessionsEnded(_) => EventType::SessionRevoked,
            What::PasswordCreated | What::PasswordChanged => EventType::CredentialChange,
            What::AccountDisabled => EventType::AccountDisabled,
            What::AccountEnabled => EventType::AccountEnabled,
            What::AccountPurged => EventType::AccountPurged,
            What::AddressChanged => EventType::IdentifierChanged,
        }
    }

    /// Whether a stream tells of it: its receiver must have asked.
    pub fn is_delivered(self, stream: &SignalStream) -> bool {
        stream.config.events_requested.contains(self.uri())
    }

    /// Whether a stream tells what happened of it at that time: nothing of before its receiver asked.
    pub fn is_told(self, stream: &SignalStream, time: Timestamp) -> bool {
        let asked = stream.asked_at(self.uri());
        self.is_delivered(stream) && asked.is_none_or(|asked| asked <= time)
    }

    /// The URIs of all that can be asked for.
    pub fn supported() -> BTreeSet<&'static str> {
        Self::SUPPORTED.into_iter().map(Self::uri).collect()
    }

    /// The URIs of what a stream tells.
    pub fn delivered(stream: &SignalStream) -> BTreeSet<&'static str> {
        let delivered = Self::SUPPORTED.into_iter().filter(|t| t.is_delivered(stream));
        delivered.map(Self::uri).collect()
    }
}
