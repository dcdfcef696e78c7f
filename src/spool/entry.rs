//! What an entry says: all that is needed to record the same session later.
//!
//! As in the log, what is personal is sealed under the subject's key, so that an entry says nothing of the erased.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatelog_events::clock::Timestamp;
use gatelog_events::domain::session::{Client, LoginMethod};
use gatelog_events::ids::{CommitId, EventId, SessionId, TenantId, UserId};
use gatelog_events::personal::{Personal, Sealable};
use gatelog_events::seal::{Binding, SubjectKey};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{SpoolError, SpooledLogin};
use crate::writer::Idempotency;

/// What the sealed part is bound to, beside session and user.
const BOUND_TO: &str = "spooled-login";

#[derive(Serialize, Deserialize)]
struct Stored {
    tenant: TenantId,
    user: UserId,
    session_id: SessionId,
    method: LoginMethod,
    credential_version: u32,
    at: Timestamp,
    correlation_id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit_id: Option<CommitId>,
    sealed: Personal<Private>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Private {
    client: Client,
    /// The digest of what was asked, base64url; only with an idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

/// An entry as it was read: its personal part is still sealed.
pub struct Entry(Stored);

fn bound(session: SessionId, subject: UserId) -> Binding<'static> {
    Binding {
        event: EventId(session.0),
        event_type: BOUND_TO,
        subject,
    }
}

fn failed(e: impl std::fmt::Display) -> SpoolError {
    SpoolError::Entry(e.to_string())
}

impl SpooledLogin {
    /// The body of its entry. `nonce`: 96 fresh random bits.
    pub fn seal(&self, key: &SubjectKey, nonce: [u8; 12]) -> Result<Vec<u8>, SpoolError> {
        let request = self
            .idempotency
            .as_ref()
            .map(|i| URL_SAFE_NO_PAD.encode(&i.request));
        let mut sealed = Personal::Clear(Private {
            client: self.client.clone(),
            request,
        });
        sealed
            .seal(key, &bound(self.session_id, self.user), nonce)
            .map_err(failed)?;
        let stored = Stored {
            tenant: self.tenant.clone(),
            user: self.user,
            session_id: self.session_id,
            method: self.method,
            credential_version: self.credential_version,
            at: self.at,
            correlation_id: self.correlation_id,
            commit_id: self.idempotency.as_ref().map(|i| i.commit_id),
            sealed,
        };
        serde_json::to_vec(&stored).map_err(failed)
    }
}

impl Entry {
    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, SpoolError> {
        // serde_json's messages may quote the input.
        let stored = serde_json::from_slice(body);
        Ok(Self(stored.map_err(|_| failed("it is not of its form"))?))
    }

    pub fn tenant(&self) -> &TenantId {
        &self.0.tenant
    }

    pub fn user(&self) -> UserId {
        self.0.user
    }

    pub fn session_id(&self) -> SessionId {
        self.0.session_id
    }

    pub fn commit_id(&self) -> Option<CommitId> {
        self.0.commit_id
    }

    /// The login, opened with its subject's key.
    pub fn open(self, key: &SubjectKey) -> Result<SpooledLogin, SpoolError> {
        let mut stored = self.0;
        stored
            .sealed
            .open(Some(key), &bound(stored.session_id, stored.user))
            .map_err(failed)?;
        let Personal::Clear(private) = stored.sealed else {
            return Err(failed("it is not open"));
        };
        let idempotency = match (stored.commit_id, private.request) {
            (Some(commit_id), Some(request)) => Some(Idempotency {
                commit_id,
                request: Arc::from(URL_SAFE_NO_PAD.decode(request).map_err(failed)?),
            }),
            _ => None,
        };
        Ok(SpooledLogin {
            tenant: stored.tenant,
            user: stored.user,
            session_id: stored.session_id,
            method: stored.method,
            credential_version: stored.credential_version,
            at: stored.at,
            correlation_id: stored.correlation_id,
            client: private.client,
            idempotency,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(idempotency: bool) -> SpooledLogin {
        SpooledLogin {
            tenant: TenantId::default(),
            user: UserId(Uuid::from_u128(1)),
            session_id: SessionId(Uuid::from_u128(2)),
            method: LoginMethod::Password,
            credential_version: 3,
            at: Timestamp::from_millis(1_795_000_000_123),
            correlation_id: Uuid::from_u128(4),
            client: Client {
                ip: Some("192.0.2.7".to_owned()),
                user_agent: Some("Netscape/4".to_owned()),
            },
            idempotency: idempotency.then(|| Idempotency {
                commit_id: CommitId(Uuid::from_u128(5)),
                request: Arc::from(&b"digest"[..]),
            }),
        }
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_key_of_its_subject_alone() {
        let key = SubjectKey::new([7; 32]);
        for with_key in [false, true] {
            let before = login(with_key);
            let body = before.seal(&key, [9; 12]).unwrap();
            let text = String::from_utf8(body.clone()).unwrap();
            assert!(
                !text.contains("192.0.2.7") && !text.contains("Netscape"),
                "{text}"
            );
            let entry = Entry::read(&body).unwrap();
            assert_eq!(
                (entry.user(), entry.session_id()),
                (before.user, before.session_id)
            );
            let after = entry.open(&key).unwrap();
            assert!(after.client == before.client && after.tenant == before.tenant);
            assert_eq!(
                (after.at, after.correlation_id),
                (before.at, before.correlation_id)
            );
            assert_eq!(after.credential_version, 3);
            let parts = |l: &SpooledLogin| l.idempotency.as_ref().map(|i| (i.commit_id, i.request.to_vec()));
            assert_eq!(parts(&after), parts(&before));
            assert!(
                Entry::read(&body)
                    .unwrap()
                    .open(&SubjectKey::new([8; 32]))
                    .is_err()
            );
        }
    }

    #[test]
    fn a_sealed_part_cannot_be_moved_to_another_session() {
        let key = SubjectKey::new([7; 32]);
        let body = String::from_utf8(login(false).seal(&key, [9; 12]).unwrap()).unwrap();
        let other = body.replace(&Uuid::from_u128(2).to_string(), &Uuid::from_u128(6).to_string());
        assert_ne!(body, other);
        assert!(Entry::read(other.as_bytes()).unwrap().open(&key).is_err());
    }

    #[test]
    fn a_message_never_quotes_an_entry() {
        let e = Entry::read(br#"{"tenant":"ada@example.com"}"#).err().unwrap();
        assert!(!e.to_string().contains("ada"), "{e}");
    }
}
