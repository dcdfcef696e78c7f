//! What all handlers share.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use gatelog_events::ids::TenantId;
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use super::measured::Measured;
use crate::auth::throttle::{Limits, Throttle};
use crate::node::Node;

/// Registrations from one network, whether or not they succeed: far above what people do, far below what a script can.
const REGISTRATIONS: Limits = Limits {
    free: 1000,
    base: Duration::from_secs(1),
    factor: 2,
    cap: Duration::from_secs(60),
    decay: Duration::from_secs(1),
};

/// Changes of consents by link from one network, whether or not they change anything.
const CHOICES: Limits = Limits {
    free: 100,
    decay: Duration::from_secs(10),
    ..REGISTRATIONS
};

/// Polls that read at the same time.
const POLLS: usize = 4;

const NETWORKS_REMEMBERED: usize = 100_000;

/// The state of the router. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// See [`App`].
pub struct Shared {
    pub node: Arc<Node>,
    /// Registrations by network.
    pub registrations: Throttle,
    /// Changes of consents by link, by network.
    pub choices: Throttle,
    /// For polls that read what a stream has to tell: they may be many, and each may read much.
    pub polls: Arc<Semaphore>,
    /// SHA-256 of the bootstrap key.
    pub(super) bootstrap: Option<digest::Digest>,
    /// `/openapi.json`.
    pub(super) document: Bytes,
    /// That the consumers of feeds were measured; the recorder has the numbers.
    pub(super) backlogs: Measured,
    mac: hmac::Key,
}

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub fn new(node: Arc<Node>, document: Bytes) -> Self {
        let bootstrap = node
            .config
            .bootstrap_api_key
            .as_ref()
            .filter(|k| !k.expose_secret().is_empty());
        let bootstrap = bootstrap.map(|k| digest::digest(&digest::SHA256, k.expose_secret().as_bytes()));
        let mac = hmac::Key::new(hmac::HMAC_SHA256, node.secrets.idempotency_secret.expose());
        Self(Arc::new(Shared {
            registrations: Throttle::new(REGISTRATIONS, NETWORKS_REMEMBERED),
            choices: Throttle::new(CHOICES, NETWORKS_REMEMBERED),
            polls: Arc::new(Semaphore::new(POLLS)),
            bootstrap,
            document,
            backlogs: Measured::default(),
            mac,
            node,
        }))
    }
}

impl Shared {
    pub fn tenant(&self) -> &TenantId {
        &self.node.config.tenant
    }

    /// HMAC-SHA-256 over a label and parts, each with its length before it, under the idempotency secret.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.mac);
        for part in std::iter::once(&label.as_bytes()).chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}
