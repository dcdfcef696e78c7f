//! Posting records as they are, signed by Standard Webhooks.

use gatelog_events::clock;
use gatelog_events::domain::webhook::Webhook;

use super::endpoint::{Outcome, Unusable};
use crate::feeds::keys::Scope;
use crate::feeds::record::{Envelope, Record};
use crate::feeds::webhook::client::WebhookClient;
use crate::feeds::webhook::schedule::{Verdict, judge};
use crate::feeds::webhook::signature::Signer;
use crate::feeds::webhook::target::Target;
use crate::node::Node;

const CONTENT_TYPE: (&str, &str) = ("content-type", "application/cloudevents+json");
/// Room for most records, in bytes.
const BODY: usize = 1024;

pub(super) struct Post {
    client: WebhookClient,
    target: Target,
    envelope: Envelope,
    newest: Signer,
    /// Signs as well with the secret before, until then.
    rotating: Option<(Signer, clock::Timestamp)>,
}

impl Post {
    pub fn new(
        node: &Node,
        client: WebhookClient,
        (feed, name): (&str, &str),
        webhook: &Webhook,
    ) -> Result<Self, Unusable> {
        let tenant = &node.config.tenant;
        let scope = Scope { tenant, feed };
        let secret = |number| node.feed_keys.webhook_secret(scope, name, number);
        let newest = secret(webhook.secret)?;
        let rotating = match webhook.former_until {
            Some(until) => {
                let former = secret(webhook.secret.saturating_sub(1))?;
                Some((Signer::new(&newest, &[former]), until))
            }
            None => None,
        };
        Ok(Self {
            client,
            target: Target::parse(&webhook.url, &node.config.webhooks.policy)?,
            envelope: Envelope::new(&node.config.issuer, tenant, feed, webhook.version),
            newest: Signer::new(&newest, &[]),
            rotating,
        })
    }

    /// Posts a record once.
    pub async fn deliver(&self, record: &Record) -> Outcome {
        let failed = |reason: String| Outcome::Failed {
            status: None,
            reason,
            retry_after: None,
        };
        let mut body = Vec::with_capacity(BODY);
        if serde_json::to_writer(&mut body, &self.envelope.event(record)).is_err() {
            return failed("the record cannot be written as JSON".to_owned());
        }
        let Ok(id) = record.id.to_string().parse() else {
            return failed("the record's id is no id of a message".to_owned());
        };
        let now = clock::now();
        let signer = match &self.rotating {
            Some((signer, until)) if now < *until => signer,
            _ => &self.newest,
        };
        let signed = signer.sign(&id, now, &body);
        let [id, time, signature] = signed.headers();
        let headers = [CONTENT_TYPE, id, time, signature];
        let reply = match self.client.post(&self.target, &headers, body, now).await {
            Ok(reply) => reply,
            Err(e) => return failed(e.to_string()),
        };
        match judge(Some(reply.status), reply.retry_after) {
            Verdict::Delivered => Outcome::Taken(Some(reply.status)),
            Verdict::Gone => Outcome::Gone,
            Verdict::Wait(_) | Verdict::Retry => Outcome::Failed {
                status: Some(reply.status),
                reason: format!("the receiver answered {}", reply.status),
                retry_after: reply.retry_after,
            },
        }
    }
}
