//! What is told, as the claims of a Security Event Token (RFC 8417) as SSF 1.0, section 4, profiles it.

use gatelog_events::clock::Timestamp;
use gatelog_events::domain::session::EndReason;
use gatelog_events::domain::signals::{SignalStream, StatusNotice, StreamStatus};
use gatelog_events::ids::{EventId, TenantId, UserId};
use gatelog_projections::signals::{Addresses, AllEnded, Initiator, Signal, Verification, What};
use serde_json::{Value, json};
use uuid::Uuid;

use super::types::EventType;
use crate::feeds::keys::{FeedKeys, Scope};

/// A SET that is not signed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// The same at each delivery.
    pub jti: Uuid,
    pub claims: Value,
}

/// Makes the SETs of one stream.
#[derive(Clone, Copy)]
pub struct Teller<'a> {
    /// The installation's URL: `iss` here as in access tokens.
    pub issuer: &'a str,
    pub keys: &'a FeedKeys,
    pub tenant: &'a TenantId,
    pub stream_id: Uuid,
    pub stream: &'a SignalStream,
}

impl Teller<'_> {
    /// What tells of a signal; nothing of a change of address whose addresses are gone. `addresses` are those of the
    /// change.
    pub fn signal(&self, signal: &Signal, addresses: Option<&Addresses>) -> Option<Set> {
        let kind = EventType::of(signal.what);
        let mut event = json!({
            "event_timestamp": signal.time.seconds(),
            "initiating_entity": initiator(signal.by),
        });
        let mut subject = self.user(signal.user);
        match signal.what {
            What::SessionEnded(session, reason) => {
                event["reason_admin"] = json!({"en": session_reason(reason)});
                let session = json!({"format": "opaque", "id": session});
                subject = json!({"format": "complex", "user": subject, "session": session});
            }
            What::AllSessionsEnded(why) => {
                let reason = match why {
                    AllEnded::PasswordChanged => "The password was changed; all earlier sessions have ended",
                    AllEnded::AccountDisabled => "The account was disabled; all sessions have ended",
                    AllEnded::AccountErased => "The account was erased; all sessions have ended",
                };
                event["reason_admin"] = json!({"en": reason});
            }
            What::PasswordCreated | What::PasswordChanged => {
                let (change, reason) = match signal.what {
                    What::PasswordCreated => ("create", "The account was registered with a password"),
                    _ => ("update", "The password was changed"),
                };
                event["credential_type"] = json!("password");
                event["change_type"] = json!(change);
                event["reason_admin"] = json!({"en": reason});
            }
            What::AccountDisabled | What::AccountEnabled | What::AccountPurged => {}
            What::AddressChanged => {
                let addresses = addresses?;
                subject = json!({"format": "email", "email": addresses.previous.typed()});
                event["new-value"] = json!(addresses.email.typed());
            }
        }
        let jti = self.jti(kind, signal.event);
        // Signals of one commit have one cause (SSF 1.0, section 4.1.9).
        let scope = self.scope(super::FEED);
        let txn = self.keys.record(scope, EventId(signal.commit.0));
        let mut set = self.set(jti, kind, signal.time, subject, event);
        set.claims["txn"] = json!(txn);
        Some(set)
    }

    /// The name of a signal's SET, without making it.
    pub fn name(&self, signal: &Signal) -> Uuid {
        self.jti(EventType::of(signal.what), signal.event)
    }

    /// What a receiver asked for in order to see whether its stream works.
    pub fn verification(&self, id: EventId, verification: &Verification) -> Set {
        let event = match &verification.state {
            Some(state) => json!({"state": state}),
            None => json!({}),
        };
        let kind = EventType::Verification;
        self.set(self.jti(kind, id), kind, verification.time, self.itself(), event)
    }

    /// That somebody else than the receiver changed the stream's status.
    pub fn updated(&self, notice: &StatusNotice) -> Set {
        let mut event = json!({"status": status(self.stream.status)});
        if let Some(reason) = &self.stream.reason {
            event["reason"] = json!(reason);
        }
        let kind = EventType::StreamUpdated;
        let name = format!("{}/{}/{}", super::FEED, kind.uri(), notice.number);
        let jti = self.keys.record(self.scope(&name), EventId(self.stream_id));
        self.set(jti, kind, notice.time, self.itself(), event)
    }

    /// `iat` is when it happened, so that a SET that is sent again is the same SET.
    fn set(&self, jti: Uuid, kind: EventType, time: Timestamp, subject: Value, event: Value) -> Set {
        let claims = json!({
            "iss": self.issuer,
            "jti": jti,
            "iat": time.seconds(),
            "aud": self.stream.audience,
            "sub_id": subject,
            "events": {kind.uri(): event},
        });
        Set { jti, claims }
    }

    fn jti(&self, kind: EventType, event: EventId) -> Uuid {
        let name = format!("{}/{}/{}", super::FEED, self.stream_id, kind.uri());
        self.keys.record(self.scope(&name), event)
    }

    fn scope<'a>(&'a self, feed: &'a str) -> Scope<'a> {
        Scope {
            tenant: self.tenant,
            feed,
        }
    }

    /// A user as access tokens name them (RFC 9493, section 3.2.3).
    fn user(&self, user: UserId) -> Value {
        json!({"format": "iss_sub", "iss": self.issuer, "sub": user})
    }

    /// The stream (SSF 1.0, section 8.1.4.1).
    fn itself(&self) -> Value {
        json!({"format": "opaque", "id": self.stream_id.simple().to_string()})
    }
}

/// A stream's status as receivers know it.
pub const fn status(status: StreamStatus) -> &'static str {
    match status {
        StreamStatus::Enabled => "enabled",
        StreamStatus::Paused => "paused",
        StreamStatus::Disabled => "disabled",
    }
}

/// CAEP 1.0, section 2.
const fn initiator(by: Initiator) -> &'static str {
    match by {
        Initiator::User => "user",
        // What a node does by itself is no signal: this was the operator, by the bootstrap key.
        Initiator::Admin | Initiator::System => "admin",
        Initiator::Policy => "policy",
    }
}

const fn session_reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::LoggedOut => "The user logged out",
        EndReason::RefreshTokenReused => "A refresh token was used a second time; somebody else may have it",
        EndReason::Revoked => "The session was revoked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secrets::Secret;
    use gatelog_events::domain::signals::{Begins, Delivery, StreamConfig};
    use gatelog_events::email::Email;
    use gatelog_events::ids::{CommitId, SessionId};

    const ISSUER: &str = "https://id.example.com";

    fn stream() -> SignalStream {
        SignalStream {
            receiver: None,
            audience: "receiver".to_owned(),
            config: StreamConfig {
                delivery: Delivery::Poll,
                events_requested: Default::default(),
                description: None,
            },
            status: StreamStatus::Paused,
            reason: Some("maintenance".to_owned()),
            notice: None,
            generation: 1,
            begins: Begins::default(),
            asked_at: Default::default(),
        }
    }

    fn signal(what: What, by: Initiator) -> Signal {
        Signal {
            user: UserId(Uuid::from_u128(7)),
            event: EventId(Uuid::from_u128(8)),
            commit: CommitId(Uuid::from_u128(9)),
            time: Timestamp::from_millis(1_795_000_000_999),
            by,
            what,
        }
    }

    fn addresses() -> Addresses {
        Addresses {
            previous: Email::parse("ada@example.com").unwrap(),
            email: Email::parse("Augusta@example.com").unwrap(),
        }
    }

    fn with_teller<T>(f: impl FnOnce(Teller<'_>) -> T) -> T {
        let (keys, tenant, stream) = (
            FeedKeys::new(&Secret::new([1; 32])),
            TenantId::default(),
            stream(),
        );
        f(Teller {
            issuer: ISSUER,
            keys: &keys,
            tenant: &tenant,
            stream_id: Uuid::from_u128(0x55),
            stream: &stream,
        })
    }

    const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type";
    const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type";

    #[test]
    fn each_signal_has_its_event_its_subject_and_who_did_it() {
        let user = json!({"format": "iss_sub", "iss": ISSUER, "sub": Uuid::from_u128(7)});
        let session = SessionId(Uuid::from_u128(5));
        let complex = json!({
            "format": "complex", "user": user, "session": {"format": "opaque", "id": session},
        });
        let email = json!({"format": "email", "email": "ada@example.com"});
        use Initiator::{Admin, Policy, System, User};
        for (what, by, uri, subject, said) in [
            (
                What::SessionEnded(session, EndReason::LoggedOut),
                User,
                format!("{CAEP}/session-revoked"),
                &complex,
                json!({"initiating_entity": "user", "reason_admin": {"en": "The user logged out"}}),
            ),
            (
                What::SessionEnded(session, EndReason::RefreshTokenReused),
                Policy,
                format!("{CAEP}/session-revoked"),
                &complex,
                json!({"initiating_entity": "policy", "reason_admin": {
                    "en": "A refresh token was used a second time; somebody else may have it"
                }}),
            ),
            (
                What::AllSessionsEnded(AllEnded::AccountDisabled),
                Admin,
                format!("{CAEP}/session-revoked"),
                &user,
                json!({"initiating_entity": "admin", "reason_admin": {
                    "en": "The account was disabled; all sessions have ended"
                }}),
            ),
            (
                What::AllSessionsEnded(AllEnded::AccountErased),
                User,
                format!("{CAEP}/session-revoked"),
                &user,
                json!({"initiating_entity": "user", "reason_admin": {
                    "en": "The account was erased; all sessions have ended"
                }}),
            ),
            (
                What::PasswordCreated,
                User,
                format!("{CAEP}/credential-change"),
                &user,
                json!({"initiating_entity": "user", "credential_type": "password", "change_type": "create",
                    "reason_admin": {"en": "The account was registered with a password"}}),
            ),
            (
                What::PasswordChanged,
                Admin,
                format!("{CAEP}/credential-change"),
                &user,
                json!({"initiating_entity": "admin", "credential_type": "password", "change_type": "update",
                    "reason_admin": {"en": "The password was changed"}}),
            ),
            (
                What::AccountDisabled,
                System,
                format!("{RISC}/account-disabled"),
                &user,
                json!({"initiating_entity": "admin"}),
            ),
            (
                What::AccountEnabled,
                Admin,
                format!("{RISC}/account-enabled"),
                &user,
                json!({"initiating_entity": "admin"}),
            ),
            (
                What::AccountPurged,
                User,
                format!("{RISC}/account-purged"),
                &user,
                json!({"initiating_entity": "user"}),
            ),
            (
                What::AddressChanged,
                User,
                format!("{RISC}/identifier-changed"),
                &email,
                json!({"initiating_entity": "user", "new-value": "Augusta@example.com"}),
            ),
        ] {
            let signal = signal(what, by);
            let set = with_teller(|t| {
                assert_eq!(
                    t.signal(&signal, Some(&addresses())).unwrap().jti,
                    t.name(&signal)
                );
                t.signal(&signal, Some(&addresses())).unwrap()
            });
            let mut event = said;
            event["event_timestamp"] = json!(1_795_000_000);
            assert_eq!(set.claims["events"], json!({ uri: event }), "{what:?}");
            assert_eq!(&set.claims["sub_id"], subject, "{what:?}");
            let mut members: Vec<_> = set.claims.as_object().unwrap().keys().cloned().collect();
            members.sort();
            assert_eq!(
                members,
                ["aud", "events", "iat", "iss", "jti", "sub_id", "txn"],
                "neither sub nor exp"
            );
            assert_eq!(
                (&set.claims["iss"], &set.claims["aud"], &set.claims["jti"]),
                (&json!(ISSUER), &json!("receiver"), &json!(set.jti))
            );
        }
    }

    #[test]
    fn a_change_of_address_is_not_told_without_its_addresses() {
        with_teller(|t| {
            assert_eq!(
                t.signal(&signal(What::AddressChanged, Initiator::User), None),
                None
            )
        });
    }

    #[test]
    fn signals_of_one_commit_have_one_cause_and_different_names() {
        let what = [
            What::PasswordChanged,
            What::AllSessionsEnded(AllEnded::PasswordChanged),
        ];
        let [a, b] =
            what.map(|what| with_teller(|t| t.signal(&signal(what, Initiator::User), None).unwrap()));
        assert_ne!(a.jti, b.jti);
        assert_eq!(a.claims["txn"], b.claims["txn"]);
    }

    #[test]
    fn the_stream_itself_is_an_opaque_subject() {
        let id = Uuid::from_u128(0x55).simple().to_string();
        let verification = |state: Option<&str>| Verification {
            time: Timestamp::from_millis(1_000),
            state: state.map(str::to_owned),
        };
        let (with, without, updated, later) = with_teller(|t| {
            let event = EventId(Uuid::from_u128(1));
            let notice = |number| StatusNotice {
                number,
                time: Timestamp::from_millis(2_000),
            };
            (
                t.verification(event, &verification(Some("abc"))),
                t.verification(event, &verification(None)),
                t.updated(&notice(3)),
                t.updated(&notice(4)),
            )
        });
        for set in [&with, &without, &updated] {
            assert_eq!(set.claims["sub_id"], json!({"format": "opaque", "id": id}));
        }
        let of = |set: &Set, kind: EventType| set.claims["events"][kind.uri()].clone();
        assert_eq!(of(&with, EventType::Verification), json!({"state": "abc"}));
        assert_eq!(of(&without, EventType::Verification), json!({}));
        assert_eq!(
            of(&updated, EventType::StreamUpdated),
            json!({"status": "paused", "reason": "maintenance"})
        );
        assert_ne!(updated.jti, later.jti);
    }
}
