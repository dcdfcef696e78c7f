//! One receiver, as all lanes of this node know it: what is spoken there, and whether it answers.

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::domain::feed::Definition;
use gatelog_events::domain::webhook::Webhook;
use metrics::{Counter, counter};
use tokio::sync::{Semaphore, watch};

use super::door::Door;
use super::post::Post;
use super::vendor::{NoVendor, Vendor};
use crate::feeds::observed::{self, Delivery, Meter};
use crate::feeds::record::Record;
use crate::feeds::webhook::breaker::{Breaker, Limits};
use crate::feeds::webhook::client::{NoClient, WebhookClient};
use crate::feeds::webhook::schedule::{Verdict, judge};
use crate::feeds::webhook::signature::InvalidSecret;
use crate::feeds::webhook::target::TargetError;
use crate::node::Node;

/// Withdrawals that may be on their way beside what else is: they wait for nobody.
const URGENT: usize = 4;

pub(super) struct Endpoint {
    pub feed: String,
    pub name: String,
    speech: Speech,
    limits: Limits,
    door: Door,
    attempts: Attempts,
    /// Attempts that may be on their way at once, from all lanes.
    pub slots: Arc<Semaphore>,
    /// Beside them, those with withdrawals.
    pub urgent: Arc<Semaphore>,
    /// Records at once, at the most.
    pub batch: usize,
    pub meter: Arc<Meter>,
}

/// What is spoken there.
enum Speech {
    Post(Box<Post>),
    Vendor(Vendor),
}

/// `gatelog_webhook_attempts_total`, by outcome.
struct Attempts {
    taken: Counter,
    gone: Counter,
    asked_to_wait: Counter,
    failed: Counter,
    rejected: Counter,
}

impl Attempts {
    fn new(feed: &str, webhook: &str) -> Self {
        let of = |outcome: &'static str| {
            let (feed, webhook) = (feed.to_owned(), webhook.to_owned());
            counter!("gatelog_webhook_attempts_total", "feed" => feed, "webhook" => webhook, "outcome" => outcome)
        };
        Self {
            taken: of("taken"),
            gone: of("gone"),
            asked_to_wait: of("asked_to_wait"),
            failed: of("failed"),
            rejected: of("rejected"),
        }
    }

    fn count(&self, outcome: &Outcome) {
        let counter = match (outcome, outcome.verdict()) {
            (Outcome::Rejected { .. }, _) => &self.rejected,
            (_, Some(Verdict::Delivered)) => &self.taken,
            (_, Some(Verdict::Gone)) => &self.gone,
            (_, Some(Verdict::Wait(_))) => &self.asked_to_wait,
            (_, Some(Verdict::Retry)) => &self.failed,
            (_, None) => return,
        };
        counter.increment(1);
    }
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
    #[error("{0}")]
    Vendor(#[from] NoVendor),
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With this status, if it has one.
    Taken(Option<u16>),
    /// The receiver wants nothing any more.
    Gone,
    /// It must be tried again. That is no fault of the record where the receiver asks for a pause.
    Failed {
        status: Option<u16>,
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The receiver will never take this record.
    Rejected { reason: String },
    /// It was not said to the end, as somebody in its batch has withdrawn meanwhile. It is said anew.
    Unsaid,
}

impl Outcome {
    /// What it says of the receiver, if anything.
    fn verdict(&self) -> Option<Verdict> {
        Some(match self {
            // Who rejects is there.
            Outcome::Taken(_) | Outcome::Rejected { .. } => Verdict::Delivered,
            Outcome::Gone => Verdict::Gone,
            Outcome::Failed {
                status, retry_after, ..
            } => judge(*status, *retry_after),
            Outcome::Unsaid => return None,
        })
    }

    /// As it is remembered, with the status of the answer.
    fn seen(&self) -> Option<(observed::Outcome, Option<u16>)> {
        Some(match self {
            Outcome::Taken(status) => (observed::Outcome::Taken, *status),
            Outcome::Gone => (observed::Outcome::Gone, None),
            Outcome::Failed { status, .. } => match self.verdict() {
                Some(Verdict::Wait(_)) => (observed::Outcome::AskedToWait, *status),
                _ => (observed::Outcome::Failed, *status),
            },
            Outcome::Rejected { .. } => (observed::Outcome::Failed, None),
            Outcome::Unsaid => return None,
        })
    }
}

/// Whether a record, by its number, may still be said: its subject may have withdrawn since it was made.
pub(super) type Holds<'a> = &'a (dyn Fn(usize) -> bool + Sync);

impl Endpoint {
    pub fn new(
        node: &Node,
        feed: &str,
        name: &str,
        webhook: &Webhook,
        definition: &Definition,
    ) -> Result<Self, Unusable> {
        let config = &node.config.webhooks;
        let client = WebhookClient::new(config.policy.clone(), config.timeouts)?;
        let speech = match &webhook.connector {
            Some(connector) => {
                let vendor = Vendor::new(node, client, (feed, name), connector, definition)?;
                Speech::Vendor(vendor)
            }
            None => Speech::Post(Box::new(Post::new(node, client, (feed, name), webhook)?)),
        };
        let concurrency = usize::from(webhook.concurrency.max(1));
        Ok(Self {
            feed: feed.to_owned(),
            name: name.to_owned(),
            batch: match &speech {
                Speech::Post(_) => 1,
                Speech::Vendor(vendor) => vendor.batch(),
            },
            speech,
            limits: config.breaker,
            door: Door::new(config.breaker),
            attempts: Attempts::new(feed, name),
            slots: Arc::new(Semaphore::new(concurrency)),
            urgent: Arc::new(Semaphore::new(URGENT)),
            meter: node.observed.meter(feed, name),
        })
    }

    /// Waits until the receiver is not known to be away. What becomes of what is sent then must be told by
    /// [`deliver`](Self::deliver).
    pub async fn turn(&self) {
        self.door.pass().await;
    }

    /// Changes each time the receiver is back that was away.
    pub fn back(&self) -> watch::Receiver<u64> {
        self.door.back()
    }

    /// Sends records whose [`turn`](Self::turn) it is: what became of each. Where that takes several calls, it ends once one
    /// of them does not hold any more.
    pub async fn deliver(&self, records: &[&Record], holds: Holds<'_>) -> Vec<Outcome> {
        if records.is_empty() {
            self.door.learn(Breaker::released);
            return Vec::new();
        }
        let began = clock::monotonic();
        let outcomes = match &self.speech {
            // Apart, or every post would be as large.
            Speech::Vendor(vendor) => Box::pin(vendor.deliver(records, holds)).await,
            Speech::Post(post) => {
                let mut outcomes = Vec::with_capacity(records.len());
                for record in records {
                    outcomes.push(post.deliver(record).await);
                }
                outcomes
            }
        };
        let took = began.elapsed();
        for (record, outcome) in records.iter().zip(&outcomes) {
            if let Some((seen, status)) = outcome.seen() {
                self.meter.delivered(Delivery::of(record, seen, status, took));
            }
        }
        self.learn(&outcomes);
        outcomes
    }

    /// One record that is taken shows that the receiver is there, and a pause that it asks for concerns all.
    fn learn(&self, outcomes: &[Outcome]) {
        let weight = |verdict: &Verdict| match verdict {
            Verdict::Retry => 0,
            Verdict::Delivered | Verdict::Gone => 1,
            Verdict::Wait(_) => 2,
        };
        outcomes.iter().for_each(|outcome| self.attempts.count(outcome));
        let verdict = outcomes.iter().filter_map(Outcome::verdict).max_by_key(weight);
        let (now, limits) = (clock::now(), &self.limits);
        self.door.learn(|breaker| match verdict {
            None => breaker.released(),
            Some(Verdict::Delivered | Verdict::Gone) => breaker.succeeded(),
            Some(Verdict::Wait(wait)) => breaker.told_to_wait(now, wait),
            Some(Verdict::Retry) => breaker.failed(now, limits),
        });
    }
}
