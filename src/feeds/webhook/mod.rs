//! Webhook deliveries by Standard Webhooks: signing, sending to where nothing inside can be reached, and when to try again.

pub mod address;
pub mod breaker;
pub mod client;
pub mod network;
pub mod schedule;
pub mod signature;
pub mod target;

use std::time::Duration;

use self::breaker::Limits;
use self::client::Timeouts;
use self::network::IpNetwork;
use self::target::Policy;

/// How webhooks are sent.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where they may be sent.
    pub policy: Policy,
    pub timeouts: Timeouts,
    pub breaker: Limits,
    /// How long a record is tried, from its first attempt. Then it is a dead letter.
    pub lifetime: Duration,
}

impl WebhookConfig {
    /// What an operator can choose; the rest is as it is best for most.
    pub fn new(allow_http: bool, allowed_private: Vec<IpNetwork>, lifetime: Duration) -> Self {
        Self {
            policy: Policy {
                allow_http,
                allowed_private,
            },
            lifetime,
            ..Self::default()
        }
    }
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            timeouts: Timeouts::default(),
            breaker: Limits::ENDPOINT,
            lifetime: schedule::LIFETIME,
        }
    }
}
