//! Consent: each grant and withdrawal is an event with its evidence (fields of ISO/IEC TS 27560:2023).

use serde::{Deserialize, Serialize};

use super::{Context, Event, events, has_personal};
use crate::clock::Timestamp;
use crate::personal::Personal;

events! {
    /// What happened to a consent.
    ConsentEvent {
        /// v1 had notices without a language; see `upcast`.
        Granted(ConsentChange) = "com.gatelog.consent.granted.v2",
        Withdrawn(ConsentChange) = "com.gatelog.consent.withdrawn.v2",
    }
}

/// The notice that was shown: which text, which version of it, in which language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeRef {
    pub id: String,
    pub version: String,
    /// BCP 47 language tag; `und` where it is not known.
    pub language: String,
}

/// GDPR, article 6(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum LawfulBasis {
    #[default]
    Consent,
    Contract,
    LegalObligation,
    VitalInterests,
    PublicTask,
    LegitimateInterests,
}

/// How the choice was expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A box was ticked or a button pressed at registration.
    RegistrationForm,
    /// The user changed it in their own settings.
    #[default]
    SelfService,
    /// A clerk or a system recorded what the user said.
    Recorded,
    /// Taken over from another system.
    Import,
}

/// One choice about one purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConsentChange {
    pub purpose: String,
    /// Means of contact, such as `email`, `sms`, `phone`, `post`, `push`.
    pub channel: String,
    pub notice: NoticeRef,
    pub lawful_basis: LawfulBasis,
    pub method: Method,
    #[serde(rename = "sealed")]
    pub personal: Personal<Evidence>,
}

/// What shows that it was really this person's choice.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Evidence {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Free text, such as the wording that was ticked or the call it was given in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

has_personal!(ConsentChange);

/// Where a purpose stands for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentState {
    pub granted: bool,
    pub since: Timestamp,
    pub channel: String,
    pub notice: NoticeRef,
    pub lawful_basis: LawfulBasis,
    pub method: Method,
}

impl ConsentState {
    pub(crate) fn from_event(event: &ConsentEvent, time: Timestamp) -> (&str, Self) {
        let (granted, c) = match event {
            ConsentEvent::Granted(c) => (true, c),
            ConsentEvent::Withdrawn(c) => (false, c),
        };
        let state = Self {
            granted,
            since: time,
            channel: c.channel.clone(),
            notice: c.notice.clone(),
            lawful_basis: c.lawful_basis,
            method: c.method,
        };
        (&c.purpose, state)
    }
}

/// A wish to grant or withdraw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetConsent {
    pub granted: bool,
    #[serde(with = "carried")]
    pub change: ConsentChange,
}

/// A change on its way to the node that writes it. Its evidence is not sealed yet, which only a stored change must be.
mod carried {
    use serde::ser::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{ConsentChange, Evidence, LawfulBasis, Method, NoticeRef};

    #[derive(Serialize, Deserialize)]
    struct Change<Text, Notice, Clear> {
        purpose: Text,
        channel: Text,
        notice: Notice,
        lawful_basis: LawfulBasis,
        method: Method,
        evidence: Clear,
    }

    pub fn serialize<S: Serializer>(change: &ConsentChange, s: S) -> Result<S::Ok, S::Error> {
        let evidence = change.personal.get();
        let evidence = evidence.ok_or_else(|| S::Error::custom("the evidence of a wish is not readable"))?;
        Change {
            purpose: &change.purpose,
            channel: &change.channel,
            notice: &change.notice,
            lawful_basis: change.lawful_basis,
            method: change.method,
            evidence,
        }
        .serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ConsentChange, D::Error> {
        let change = Change::<String, NoticeRef, Evidence>::deserialize(d)?;
        Ok(ConsentChange {
            purpose: change.purpose,
            channel: change.channel,
            notice: change.notice,
            lawful_basis: change.lawful_basis,
            method: change.method,
            personal: change.evidence.into(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error("there is no purpose {0:?}; PUT /v1/settings/purposes/{{purpose}} defines one")]
    UnknownPurpose(String),
    #[error(
        "notice {id:?} is not published in version {version:?} and language {language:?}; \
         PUT /v1/settings/notices/{{id}} publishes it"
    )]
    UnknownNotice {
        id: String,
        version: String,
        language: String,
    },
}

/// Decides on one choice. The same choice on the same notice, channel and basis again is no event.
pub(crate) fn decide(
    current: Option<&ConsentState>,
    wish: SetConsent,
    ctx: &Context<'_>,
) -> Result<Option<Event>, Rejection> {
    let c = &wish.change;
    if !ctx.settings.purposes.contains_key(&c.purpose) {
        return Err(Rejection::UnknownPurpose(c.purpose.clone()));
    }
    // A withdrawal is taken even if its notice is gone: it must be as easy as the grant (GDPR 7(3)).
    if wish.granted && !ctx.settings.publishes(&c.notice) {
        return Err(Rejection::UnknownNotice {
            id: c.notice.id.clone(),
            version: c.notice.version.clone(),
            language: c.notice.language.clone(),
        });
    }
    let same = current.is_some_and(|s| {
        s.granted == wish.granted
            && s.channel == c.channel
            && s.notice == c.notice
            && s.lawful_basis == c.lawful_basis
    });
    Ok((!same).then(|| {
        if wish.granted {
            ConsentEvent::Granted(wish.change).into()
        } else {
            ConsentEvent::Withdrawn(wish.change).into()
        }
    }))
}
