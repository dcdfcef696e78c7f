//! One receiver, as all lanes of this node know it: its address, its secrets, and whether it answers.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::domain::webhook::Webhook;
use gatelog_events::ids::TenantId;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::feeds::keys::Scope;
use crate::feeds::observed::{self, Delivery, Meter};
use crate::feeds::record::{Envelope, Record};
use crate::feeds::webhook::WebhookConfig;
use crate::feeds::webhook::breaker::Breaker;
use crate::feeds::webhook::client::{NoClient, WebhookClient};
use crate::feeds::webhook::schedule::{Verdict, judge};
use crate::feeds::webhook::signature::{InvalidSecret, Signer};
use crate::feeds::webhook::target::{Target, TargetError};
use crate::node::Node;

const CONTENT_TYPE: (&str, &str) = ("content-type", "application/cloudevents+json");

/// Withdrawals that may be on their way beside what else is: they wait for nobody.
pub(super) const URGENT: usize = 4;

pub(super) struct Endpoint {
    pub feed: String,
    pub name: String,
    target: Target,
    client: WebhookClient,
    envelope: Envelope,
    newest: Signer,
    /// Signs as well with the secret before, until then.
    rotating: Option<(Signer, clock::Timestamp)>,
    config: WebhookConfig,
    breaker: Mutex<Breaker>,
    permits: Semaphore,
    urgent: Semaphore,
    /// At a time from one lane.
    pub concurrency: usize,
    pub meter: Arc<Meter>,
}

/// Why a webhook cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("{0}")]
    Client(#[from] NoClient),
    #[error("{0}")]
    Secret(#[from] InvalidSecret),
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    /// The receiver wants nothing any more.
    Gone,
    /// It must be tried again. That is no fault of the record where the receiver asks for a pause.
    Failed {
        status: Option<u16>,
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl Endpoint {
    pub fn new(node: &Node, feed: &str, name: &str, webhook: &Webhook) -> Result<Self, Unusable> {
        let config = node.config.webhooks.clone();
        let tenant: &TenantId = &node.config.tenant;
        let scope = Scope { tenant, feed };
        let newest = node.feed_keys.webhook_secret(scope, name, webhook.secret)?;
        let rotating = match webhook.former_until {
            Some(until) => {
                let former = node
                    .feed_keys
                    .webhook_secret(scope, name, webhook.secret.saturating_sub(1))?;
                Some((Signer::new(&newest, &[former]), until))
            }
            None => None,
        };
        let concurrency = usize::from(webhook.concurrency.max(1));
        Ok(Self {
            feed: feed.to_owned(),
            name: name.to_owned(),
            target: Target::parse(&webhook.url, &config.policy)?,
            client: WebhookClient::new(config.policy.clone(), config.timeouts)?,
            envelope: Envelope::new(&node.config.issuer, tenant, feed, webhook.version),
            newest: Signer::new(&newest, &[]),
            rotating,
            config,
            breaker: Mutex::new(Breaker::default()),
            permits: Semaphore::new(concurrency),
            urgent: Semaphore::new(URGENT),
            concurrency,
            meter: node.observed.meter(feed, name),
        })
    }

    /// Waits until the receiver may be asked: it is not known to be away, and not too much is on its way there.
    async fn turn(&self, urgent: bool) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let permits = if urgent { &self.urgent } else { &self.permits };
        let permit = permits.acquire().await.ok()?;
        loop {
            let paused = {
                let mut breaker = self.breaker.lock();
                match breaker.admit(clock::now(), &self.config.breaker) {
                    Ok(admitted) => {
                        *breaker = admitted;
                        return Some(permit);
                    }
                    Err(paused) => paused.0,
                }
            };
            tokio::time::sleep(paused.max(Duration::from_millis(1))).await;
        }
    }

    /// Posts what `say` says once it is the record's turn; nothing is posted if it says nothing then. `None` if nothing
    /// was said.
    pub async fn send<E>(
        self: Arc<Self>,
        urgent: bool,
        say: impl FnOnce() -> Result<Option<Record>, E>,
    ) -> Result<Option<Outcome>, E> {
        let _permit = self.turn(urgent).await;
        let Some(record) = say()? else {
            let mut breaker = self.breaker.lock();
            *breaker = breaker.released();
            return Ok(None);
        };
        Ok(Some(self.post(&record).await))
    }

    fn count(&self, verdict: Verdict, record: &Record, status: Option<u16>, took: Duration) {
        let outcome = match verdict {
            Verdict::Delivered => observed::Outcome::Taken,
            Verdict::Gone => observed::Outcome::Gone,
            Verdict::Wait(_) => observed::Outcome::AskedToWait,
            Verdict::Retry => observed::Outcome::Failed,
        };
        self.meter.delivered(Delivery::of(record, outcome, status, took));
        let (feed, webhook, outcome) = (self.feed.clone(), self.name.clone(), outcome.name());
        counter!("gatelog_webhook_attempts_total", "feed" => feed, "webhook" => webhook, "outcome" => outcome).increment(1);
    }

    async fn post(&self, record: &Record) -> Outcome {
        let failed = |reason: String| Outcome::Failed {
            status: None,
            reason,
            retry_after: None,
        };
        let Ok(body) = serde_json::to_vec(&self.envelope.event(record)) else {
            return failed("the record cannot be written as JSON".to_owned());
        };
        let Ok(id) = record.id.to_string().parse() else {
            return failed("the record's id is no id of a message".to_owned());
        };
        let (now, began) = (clock::now(), clock::monotonic());
        let signer = match &self.rotating {
            Some((signer, until)) if now < *until => signer,
            _ => &self.newest,
        };
        let signed = signer.sign(&id, now, &body);
        let mut headers = vec![CONTENT_TYPE];
        headers.extend(signed.headers());
        let reply = self.client.post(&self.target, &headers, body, now).await;
        let (status, retry_after, reason) = match reply {
            Ok(reply) => (
                Some(reply.status),
                reply.retry_after,
                format!("the receiver answered {}", reply.status),
            ),
            Err(e) => (None, None, e.to_string()),
        };
        let verdict = judge(status, retry_after);
        self.count(verdict, record, status, began.elapsed());
        let now = clock::now();
        let mut breaker = self.breaker.lock();
        match verdict {
            Verdict::Delivered | Verdict::Gone => *breaker = breaker.succeeded(),
            Verdict::Wait(wait) => *breaker = breaker.told_to_wait(now, wait, &self.config.breaker),
            Verdict::Retry => *breaker = breaker.failed(now, &self.config.breaker),
        }
        match verdict {
            Verdict::Delivered => Outcome::Taken,
            Verdict::Gone => Outcome::Gone,
            Verdict::Wait(_) | Verdict::Retry => Outcome::Failed {
                status,
                reason,
                retry_after,
            },
        }
    }
}
