//! Bringing records to a vendor by a connector: its calls are made here, one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gatelog_events::clock;
use gatelog_events::domain::feed::Definition;
use gatelog_events::domain::webhook;
use parking_lot::RwLock;
use reqwest::Method;
use serde_json::Map;

use super::endpoint::{Holds, Outcome};
use crate::feeds::connectors::run::{Go, Run};
use crate::feeds::connectors::{self, Answer, Call, Connector, Given, Said, Verdict};
use crate::feeds::record::{Data, Reason, Record};
use crate::feeds::webhook::client::{Answered, DeliveryError, WebhookClient};
use crate::feeds::webhook::target::{Policy, Target};
use crate::node::Node;

/// Records at once, whatever the vendor takes: what fails is tried again by its own.
const BATCH: usize = 100;
const TOO_MANY_REQUESTS: u16 = 429;
const UNAUTHORIZED: u16 = 401;

pub(super) struct Vendor {
    client: WebhookClient,
    policy: Policy,
    /// With the token it has now, where its vendor gives one.
    connector: RwLock<Arc<Connector>>,
    login: tokio::sync::Mutex<()>,
}

/// The connector cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoVendor {
    #[error("its credential was sealed with another secret; set it again")]
    Credential,
    #[error("{0}")]
    Definition(#[from] connectors::DefinitionError),
    #[error("its settings cannot be read: {0}")]
    Settings(#[from] serde_json::Error),
}

/// Why a batch ends before all its calls were made.
enum Ended {
    /// Somebody in it has withdrawn since the calls were made up.
    Outdated,
    Failed {
        status: Option<u16>,
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl Ended {
    fn unauthorized() -> Self {
        Self::Failed {
            status: Some(UNAUTHORIZED),
            reason: "the vendor refuses the credential; set the connector with one that may use its API"
                .to_owned(),
            retry_after: None,
        }
    }
}

impl From<DeliveryError> for Ended {
    fn from(e: DeliveryError) -> Self {
        Self::Failed {
            status: None,
            reason: e.to_string(),
            retry_after: None,
        }
    }
}

/// The names of the fields that a definition grants.
pub fn granted(definition: &Definition) -> BTreeSet<String> {
    let names = definition.fields.iter().map(|field| field.name());
    names.map(str::to_owned).collect()
}

impl Vendor {
    pub fn new(
        node: &Node,
        client: WebhookClient,
        (feed, name): (&str, &str),
        connector: &webhook::Connector,
        definition: &Definition,
    ) -> Result<Self, NoVendor> {
        let place = [node.config.tenant.as_str(), feed, name];
        let credential = node.credentials.open(&place, &connector.credential);
        let credential = serde_json::from_slice(&credential.ok_or(NoVendor::Credential)?)?;
        let settings: connectors::Definition = serde_json::from_str(&connector.settings)?;
        let connector = settings.connect(&granted(definition), credential)?;
        Ok(Self {
            client,
            policy: node.config.webhooks.policy.clone(),
            connector: RwLock::new(Arc::new(connector)),
            login: tokio::sync::Mutex::default(),
        })
    }

    pub fn batch(&self) -> usize {
        self.connector.read().max_batch().min(BATCH)
    }

    /// Makes the calls for records of a subject each.
    pub async fn deliver(&self, records: &[&Record], holds: Holds<'_>) -> Vec<Outcome> {
        let given: Vec<_> = records.iter().map(|record| given(record)).collect();
        let connector = self.connector.read().clone();
        let mut run = Run::new(connector.calls(&given), given.len());
        let ended = self.run(connector, &mut run, holds).await.err();
        let outcome = |verdict| match verdict {
            Verdict::Delivered => Outcome::Taken(None),
            Verdict::Rejected { reason } => Outcome::Rejected { reason },
            Verdict::Retry { after } => match &ended {
                Some(Ended::Outdated) if after.is_none() => Outcome::Unsaid,
                Some(Ended::Failed {
                    status,
                    reason,
                    retry_after,
                }) => Outcome::Failed {
                    status: *status,
                    reason: reason.clone(),
                    retry_after: (*retry_after).max(after),
                },
                Some(Ended::Outdated) | None => Outcome::Failed {
                    status: None,
                    reason: "the vendor asks to try it again".to_owned(),
                    retry_after: after,
                },
            },
        };
        run.finish().into_iter().map(outcome).collect()
    }

    async fn run(&self, mut connector: Arc<Connector>, run: &mut Run, holds: Holds<'_>) -> Result<(), Ended> {
        let (mut renewed, mut begun) = (false, false);
        while let Some(call) = run.call() {
            tokio::time::sleep(call.delay).await;
            // The bodies were made before the first call, which may be minutes ago.
            if begun && !call.body.is_empty() && !call.records.iter().all(|n| holds(*n)) {
                return Err(Ended::Outdated);
            }
            begun = true;
            let answered = self.call(&connector, call).await?;
            let outcome = connector.verdicts(call, &answer(&answered));
            match run.answered(outcome) {
                Go::On => {}
                Go::Wait(pause) => {
                    return Err(Ended::Failed {
                        status: Some(TOO_MANY_REQUESTS),
                        reason: "the vendor asks for a pause".to_owned(),
                        retry_after: Some(pause),
                    });
                }
                Go::Unauthorized if renewed => return Err(Ended::unauthorized()),
                Go::Unauthorized => {
                    connector = self.renewed(&connector).await?;
                    run.renew(&connector);
                    renewed = true;
                }
            }
        }
        Ok(())
    }

    /// The connector with another token than it had.
    async fn renewed(&self, before: &Arc<Connector>) -> Result<Arc<Connector>, Ended> {
        let _one = self.login.lock().await;
        let now = self.connector.read().clone();
        if !Arc::ptr_eq(&now, before) {
            return Ok(now);
        }
        let login = now.login().ok_or_else(Ended::unauthorized)?;
        let answered = self.call(&now, &login).await?;
        let mut connector = Connector::clone(&now);
        connector
            .logged_in(&answer(&answered))
            .map_err(|e| Ended::Failed {
                status: Some(answered.status),
                reason: e.to_string(),
                retry_after: answered.retry_after,
            })?;
        let connector = Arc::new(connector);
        *self.connector.write() = connector.clone();
        Ok(connector)
    }

    async fn call(&self, connector: &Connector, call: &Call) -> Result<Answered, DeliveryError> {
        let url = format!("{}{}", connector.base_url(call.base), call.path);
        let target = Target::parse(&url, &self.policy)?;
        let headers = call.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<_> = headers.collect();
        let method = match call.method {
            connectors::Method::Get => Method::GET,
            connectors::Method::Post => Method::POST,
            connectors::Method::Patch => Method::PATCH,
            connectors::Method::Delete => Method::DELETE,
        };
        let body = call.body.clone();
        self.client
            .call(method, &target, &headers, body, clock::now())
            .await
    }
}

fn answer(answered: &Answered) -> Answer<'_> {
    Answer {
        status: answered.status,
        headers: &answered.headers,
        retry_after: answered.retry_after,
        now: u64::try_from(clock::now().seconds()).unwrap_or(0),
        body: &answered.body,
    }
}

fn given(record: &Record) -> Given {
    Given {
        id: record.id,
        kind: record.kind.clone().into_owned(),
        subject: record.subject,
        time: record.time.map(|time| time.to_string()),
        sequence: record.sequence,
        granted: record.granted,
        details: match &record.data {
            Data::State { details, .. } => details.clone(),
            Data::Withdrawn { .. } => Map::new(),
        },
        said: match &record.data {
            Data::State { fields, .. } => Said::State(fields.clone()),
            Data::Withdrawn { reason } => Said::Withdrawn(match reason {
                Reason::ConsentWithdrawn => connectors::Reason::ConsentWithdrawn,
                Reason::Disabled => connectors::Reason::Disabled,
                Reason::Erased => connectors::Reason::Erased,
            }),
        },
    }
}
