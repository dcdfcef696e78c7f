//! One receiver, as all lanes of this node know it: its address, what it wants to see, and whether it answers.

use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::domain::signals::Push;
use metrics::counter;
use tokio::sync::Semaphore;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::answer::{MAX_ERROR, Verdict, judge};
use crate::feeds::push::door::Door;
use crate::feeds::webhook::breaker::{Breaker, Limits};
use crate::feeds::webhook::client::{NoClient, WebhookClient};
use crate::feeds::webhook::target::{Target, TargetError};
use crate::node::Node;

/// RFC 8935, section 2.1.
const CONTENT_TYPE: (&str, &str) = ("content-type", "application/secevent+jwt");
const ACCEPT: (&str, &str) = ("accept", "application/json");

/// Requests at a time to one receiver from one node.
pub(super) const CONCURRENCY: usize = 8;

pub(super) struct Endpoint {
    pub stream_id: Uuid,
    target: Target,
    client: WebhookClient,
    authorization: Option<Zeroizing<String>>,
    limits: Limits,
    pub door: Door,
    permits: Semaphore,
}

/// Why nothing can be posted at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{0}")]
    Client(#[from] NoClient),
    #[error("the header that the receiver wants cannot be decrypted: this node has another routing secret")]
    Authorization,
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// It will never be taken.
    Rejected(&'static str),
    Failed {
        status: Option<u16>,
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl Endpoint {
    pub fn new(node: &Node, stream_id: Uuid, push: &Push) -> Result<Self, Unusable> {
        let config = &node.config.webhooks;
        let authorization = match &push.authorization {
            Some(wrapped) => {
                let opened = node
                    .signal_keys
                    .authorization(&node.config.tenant, stream_id, wrapped);
                Some(opened.ok_or(Unusable::Authorization)?)
            }
            None => None,
        };
        Ok(Self {
            stream_id,
            target: Target::parse(&push.url, &config.policy)?,
            client: WebhookClient::new(config.policy.clone(), config.timeouts)?,
            authorization,
            limits: config.breaker,
            door: Door::new(config.breaker),
            permits: Semaphore::new(CONCURRENCY),
        })
    }

    /// Posts what `say` says once it is its turn; nothing is posted if it says nothing then. `None` if nothing was said.
    pub async fn send<E>(
        &self,
        say: impl FnOnce() -> Result<Option<String>, E>,
    ) -> Result<Option<Outcome>, E> {
        let _permit = self.permits.acquire().await;
        self.door.pass().await;
        let said = say();
        let Ok(Some(token)) = said else {
            self.door.learn(Breaker::released);
            return said.map(|_| None);
        };
        Ok(Some(self.post(token).await))
    }

    async fn post(&self, token: String) -> Outcome {
        let mut headers = vec![CONTENT_TYPE, ACCEPT];
        headers.extend(self.authorization.as_ref().map(|h| ("authorization", h.as_str())));
        let now = clock::now();
        let reply = self
            .client
            .post_for_error(&self.target, &headers, token, now, MAX_ERROR)
            .await;
        let (status, retry_after, error, reason) = match reply {
            Ok((reply, error)) => (
                Some(reply.status),
                reply.retry_after,
                error,
                format!("the receiver answered {}", reply.status),
            ),
            Err(e) => (None, None, Vec::new(), e.to_string()),
        };
        let verdict = judge(status, retry_after, &error);
        let outcome = match verdict {
            Verdict::Taken => "taken",
            Verdict::Rejected(_) => "rejected",
            Verdict::Wait(_) => "asked_to_wait",
            Verdict::Retry => "failed",
        };
        let stream = self.stream_id.simple().to_string();
        counter!("gatelog_signal_attempts_total", "stream" => stream, "outcome" => outcome).increment(1);
        let (now, limits) = (clock::now(), &self.limits);
        self.door.learn(|breaker| match verdict {
            // Who rejects is there.
            Verdict::Taken | Verdict::Rejected(_) => breaker.succeeded(),
            Verdict::Wait(wait) => breaker.told_to_wait(now, wait),
            Verdict::Retry => breaker.failed(now, limits),
        });
        match verdict {
            Verdict::Taken => Outcome::Taken,
            Verdict::Rejected(code) => Outcome::Rejected(code),
            Verdict::Wait(_) | Verdict::Retry => Outcome::Failed {
                status,
                reason,
                retry_after,
            },
        }
    }
}
