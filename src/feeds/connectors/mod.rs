//! Connectors: from the records of a feed to the HTTP calls of a vendor, and from the vendor's answers to verdicts.
//!
//! All of it is pure. The host makes the calls of a [`Plan`] in order, gives each answer to [`Connector::verdicts`], and a
//! [`Run`] keeps count: a record is delivered when all calls that speak for it were accepted. The same batch sent again
//! leaves the vendor in the same state, because a state is always written whole, by the feed's pseudonym, and events have
//! an id of their own wherever the vendor has a place for one.
//!
//! What a state lacks is cleared at the vendor, but only in properties of mapped fields, and only fields that the feed
//! names can be mapped: what others write at the vendor stays as it is. Nothing personal is in a path or query.
//!
//! The pseudonym of a subject never changes within a feed, so no vendor's `alias` or `merge` is needed.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

pub mod answer;
pub mod call;
mod credential;
pub mod customer_io;
pub mod hubspot;
pub mod mapping;
pub mod run;
pub mod salesforce;
pub mod segment;
pub mod zendesk;

pub use answer::{Answer, Outcome, Verdict};
pub use call::{Base, Call, Method};
pub use credential::{Credential, Secret};
pub use mapping::{Mapping, MappingError};
pub use run::{Go, Run};

use call::{Duty, Item};
use credential::{basic, bearer};

/// The kind of a record that gives a state without an event that was asked for.
pub const SNAPSHOT: &str = "subject.snapshot";

/// A record of a feed; a batch has at most one of each subject.
#[derive(Clone, PartialEq)]
pub struct Given {
    /// The same at each delivery.
    pub id: Uuid,
    /// [`SNAPSHOT`], or the kind of an event.
    pub kind: String,
    /// The feed's own name of the user, which becomes the vendor's external id.
    pub subject: Uuid,
    /// RFC 3339; a snapshot has none.
    pub time: Option<String>,
    pub sequence: u64,
    /// Whether the consent that gates the feed was given with it: only then is an opt-out at the vendor taken back.
    pub granted: bool,
    /// What the event says of itself.
    pub details: Map<String, Value>,
    pub said: Said,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Given {
    /// Whether it tells of an event.
    fn is_event(&self) -> bool {
        self.kind != SNAPSHOT
    }
}

/// What a record says.
#[derive(Clone, PartialEq)]
pub enum Said {
    /// The fields that the feed names and the subject has, as they are now.
    State(Map<String, Value>),
    /// Forget the subject.
    Withdrawn(Reason),
}

/// Why a subject must be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    ConsentWithdrawn,
    Disabled,
    Erased,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Reason::ConsentWithdrawn => "consent_withdrawn",
            Reason::Disabled => "disabled",
            Reason::Erased => "erased",
        }
    }
}

/// A connector cannot be made of this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error("{field}: not an absolute http or https URL without user, query or fragment; correct it")]
    Url { field: &'static str },
    #[error("{field}: {remedy}")]
    Setting {
        field: &'static str,
        remedy: &'static str,
    },
    #[error("credential: {0}")]
    Credential(&'static str),
}

/// A base URL without the slash at its end.
fn base_url(field: &'static str, url: &str) -> Result<String, DefinitionError> {
    let url = url.trim_end_matches('/');
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let well_formed = rest.is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        !host.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"?#@\\\"<>".contains(&b))
    });
    if well_formed {
        Ok(url.to_owned())
    } else {
        Err(DefinitionError::Url { field })
    }
}

/// Which vendor, and its settings, as a feed's definition has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "vendor", rename_all = "snake_case")]
pub enum Definition {
    Segment(segment::Settings),
    Hubspot(hubspot::Settings),
    Salesforce(salesforce::Settings),
    Zendesk(zendesk::Settings),
    CustomerIo(customer_io::Settings),
}

impl Definition {
    /// A connector for a feed that names these fields.
    ///
    /// # Errors
    /// [`DefinitionError`] names what must be corrected.
    pub fn connect(
        &self,
        fields: &BTreeSet<String>,
        credential: Credential,
    ) -> Result<Connector, DefinitionError> {
        credential.check()?;
        Ok(match self {
            Definition::Segment(s) => Connector::Segment(segment::Segment::new(s, fields, credential)?),
            Definition::Hubspot(s) => Connector::Hubspot(hubspot::Hubspot::new(s, fields, credential)?),
            Definition::Salesforce(s) => {
                Connector::Salesforce(salesforce::Salesforce::new(s, fields, credential)?)
            }
            Definition::Zendesk(s) => Connector::Zendesk(zendesk::Zendesk::new(s, fields, credential)?),
            Definition::CustomerIo(s) => {
                Connector::CustomerIo(customer_io::CustomerIo::new(s, fields, credential)?)
            }
        })
    }
}

/// The calls for a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// To be made in this order.
    pub calls: Vec<Call>,
    /// Records that no call can be made for.
    pub refused: Vec<(usize, Verdict)>,
}

impl Plan {
    fn refuse(&mut self, vendor: &str, records: Vec<usize>) {
        let reason = format!("{vendor} takes no record of this size");
        self.refused.extend(records.into_iter().map(|r| {
            (
                r,
                Verdict::Rejected {
                    reason: reason.clone(),
                },
            )
        }));
    }
}

/// The token request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("credential: the vendor refuses it; correct it and see that it may use the API")]
    Refused,
    #[error("the vendor gives no token now; try again")]
    Later,
}

/// A connector to one vendor for one feed.
#[derive(Debug, Clone, PartialEq)]
pub enum Connector {
    Segment(segment::Segment),
    Hubspot(hubspot::Hubspot),
    Salesforce(salesforce::Salesforce),
    Zendesk(zendesk::Zendesk),
    CustomerIo(customer_io::CustomerIo),
}

impl Connector {
    /// The most records that go well in one batch. More are split.
    pub const fn max_batch(&self) -> usize {
        match self {
            Connector::Segment(_) | Connector::Salesforce(_) | Connector::CustomerIo(_) => 200,
            Connector::Hubspot(_) | Connector::Zendesk(_) => 100,
        }
    }

    /// What a call's path is appended to.
    pub fn base_url(&self, base: Base) -> &str {
        match self {
            Connector::Segment(c) => c.base_url(base),
            Connector::Hubspot(c) => c.base_url(),
            Connector::Salesforce(c) => c.base_url(),
            Connector::Zendesk(c) => c.base_url(),
            Connector::CustomerIo(c) => c.base_url(),
        }
    }

    /// The calls that deliver a batch.
    pub fn calls(&self, batch: &[Given]) -> Plan {
        match self {
            Connector::Segment(c) => c.calls(batch),
            Connector::Hubspot(c) => c.calls(batch),
            Connector::Salesforce(c) => c.calls(batch),
            Connector::Zendesk(c) => c.calls(batch),
            Connector::CustomerIo(c) => c.calls(batch),
        }
    }

    /// What the answer to one of these calls means.
    pub fn verdicts(&self, call: &Call, answer: &Answer<'_>) -> Outcome {
        match self {
            Connector::Segment(_) => segment::verdicts(call, answer),
            Connector::Hubspot(c) => c.verdicts(call, answer),
            Connector::Salesforce(_) => salesforce::verdicts(call, answer),
            Connector::Zendesk(c) => c.verdicts(call, answer),
            Connector::CustomerIo(_) => customer_io::verdicts(call, answer),
        }
    }

    /// The value of `authorization` in calls to this base URL.
    pub fn authorization(&self, base: Base) -> String {
        match self {
            Connector::Segment(c) => c.authorization(base),
            Connector::Hubspot(c) => c.authorization(),
            Connector::Salesforce(c) => c.authorization(),
            Connector::Zendesk(c) => c.authorization(),
            Connector::CustomerIo(c) => c.authorization(),
        }
    }

    /// The call that gets an access token, where the credential needs one: before the first batch and whenever an answer
    /// was [`Outcome::Unauthorized`]. Its answer goes to [`Connector::logged_in`].
    pub fn login(&self) -> Option<Call> {
        match self {
            Connector::Salesforce(c) => c.login(),
            _ => None,
        }
    }

    /// Takes the token that the answer to [`Connector::login`]'s call has. Calls that stand already have the old one:
    /// [`Run::renew`] gives them the new.
    ///
    /// # Errors
    /// [`LoginError`] if it has none.
    pub fn logged_in(&mut self, answer: &Answer<'_>) -> Result<(), LoginError> {
        match self {
            Connector::Salesforce(c) => c.logged_in(answer),
            _ => Ok(()),
        }
    }
}

/// Each record's place in a batch, and what is to be done with its subject.
fn items(batch: &[Given]) -> impl Iterator<Item = (Item, &Given)> {
    batch.iter().enumerate().map(|(record, given)| {
        let duty = match given.said {
            Said::State(_) => Duty::Keep,
            Said::Withdrawn(Reason::Erased) => Duty::Erase,
            Said::Withdrawn(Reason::ConsentWithdrawn | Reason::Disabled) => Duty::Clear,
        };
        (Item::new(record, given, duty), given)
    })
}

/// A state's fields; none of a withdrawal.
fn state(given: &Given) -> Map<String, Value> {
    match &given.said {
        Said::State(fields) => fields.clone(),
        Said::Withdrawn(_) => Map::new(),
    }
}

#[cfg(test)]
mod tests;
