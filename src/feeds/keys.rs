//! Names that mean something in one feed only: pseudonyms of subjects, and ids of records.

use aws_lc_rs::hmac;
use gatelog_events::ids::{EventId, TenantId, UserId};
use uuid::Uuid;

use super::webhook::signature::{InvalidSecret, Secret};
use crate::auth::secrets;

/// The key of all feeds. It derives from the routing secret, which never changes: a pseudonym is for ever, too.
#[derive(Clone)]
pub struct FeedKeys(hmac::Key);

/// What a feed's own names derive from.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub tenant: &'a TenantId,
    pub feed: &'a str,
}

impl FeedKeys {
    pub fn new(routing_secret: &secrets::Secret) -> Self {
        let routing = hmac::Key::new(hmac::HMAC_SHA256, routing_secret.expose());
        let derived = hmac::sign(&routing, b"gatelog feeds v1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Whom this feed's consumer knows a user as.
    pub fn subject(&self, scope: Scope<'_>, user: UserId) -> Uuid {
        self.name("subject", scope, &[user.as_bytes()])
    }

    /// The id of the record for an event; the same at each delivery.
    pub fn record(&self, scope: Scope<'_>, event: EventId) -> Uuid {
        self.name("record", scope, &[event.as_bytes()])
    }

    /// The id of the record of a user's state in a snapshot, with these fields.
    pub fn snapshot(&self, scope: Scope<'_>, user: UserId, version: u64, fields: &str) -> Uuid {
        let parts = [user.as_bytes(), &version.to_be_bytes()[..], fields.as_bytes()];
        self.name("snapshot", scope, &parts)
    }

    /// The secret that signs what is posted to a webhook. It is derived, so that it is kept nowhere; a rotation counts
    /// `number` up.
    pub fn webhook_secret(
        &self,
        scope: Scope<'_>,
        webhook: &str,
        number: u32,
    ) -> Result<Secret, InvalidSecret> {
        let mac = self.sign(
            "webhook-secret",
            scope,
            &[webhook.as_bytes(), &number.to_be_bytes()],
        );
        Secret::new(mac.as_ref().to_vec())
    }

    fn name(&self, label: &str, scope: Scope<'_>, parts: &[&[u8]]) -> Uuid {
        uuid::Builder::from_custom_bytes(self.mac(label, scope, parts)).into_uuid()
    }

    fn mac(&self, label: &str, scope: Scope<'_>, parts: &[&[u8]]) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&self.sign(label, scope, parts).as_ref()[..16]);
        out
    }

    /// HMAC-SHA-256 over a label, the feed and parts, each with its length before it.
    fn sign(&self, label: &str, scope: Scope<'_>, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        let own = [
            label.as_bytes(),
            scope.tenant.as_str().as_bytes(),
            scope.feed.as_bytes(),
        ];
        for part in own.iter().chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }
}
