//! Asking another node to carry a command out.

use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use gatelog_events::clock;
use gatelog_events::ids::Position;

use super::auth::{ANSWER, ClusterKeys, ClusterSecret, Sent};
use super::owners::NodeAddress;
use super::wire::{self, Refused, Reply};
use super::{COMMANDS, HELLO, MAX_ANSWER_BYTES, MAX_COMMAND_BYTES};
use crate::writer::{Outcome, Request, WriteError};

/// A node that does not answer the first packet within this is away.
const CONNECT: Duration = Duration::from_secs(1);

/// Connections that nobody used for this are closed, well before a node between would cut them off silently.
const IDLE: Duration = Duration::from_secs(20);

/// What came of asking another node.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Its own answer.
    #[error(transparent)]
    Answered(#[from] WriteError),
    /// It was not asked, or is not the node that was meant: nothing was written. Ask whoever owns the partition now.
    #[error("the owner was not reached: {0}")]
    Unreached(String),
    /// It was asked, and what became of it is not known.
    #[error("the owner's answer is not known: {0}")]
    Unknown(String),
}

/// Longest wait for the answer to a greeting.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Who answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// The run that was meant.
    Itself,
    /// Another node of this cluster, or another run.
    Another,
    /// That is not known, and why.
    Unclear(String),
}

/// Talks to other nodes. Keeps its connections.
#[derive(Clone)]
pub struct Forwarder {
    client: reqwest::Client,
    keys: ClusterKeys,
}

/// There is no HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("other nodes cannot be called: {0}")]
pub struct NoClient(#[from] reqwest::Error);

impl Forwarder {
    pub fn new(secret: &ClusterSecret) -> Result<Self, NoClient> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            // Commands go to the node that is meant and to nobody else, whatever the environment says.
            .no_proxy()
            // A command is sent once; who may send it again is decided by the router.
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            client,
            keys: ClusterKeys::new(secret),
        })
    }

    /// Asks the owner once, and waits for its answer.
    pub async fn submit(
        &self,
        owner: &NodeAddress,
        request: &Request,
        seen: &[Position],
        at_most: Duration,
    ) -> Result<Outcome, ForwardError> {
        let body = wire::encode_command(request, seen).map_err(internal)?;
        if body.len() > MAX_COMMAND_BYTES {
            let too_large = WriteError::TooLarge {
                size: body.len(),
                limit: MAX_COMMAND_BYTES,
            };
            return Err(too_large.into());
        }
        let (sent, answer) = self.send(owner, COMMANDS, body, at_most).await?;
        self.understand(owner, &sent, answer).await
    }

    /// Asks whether the node that answers at this address is the run that is meant.
    pub async fn greet(&self, node: &NodeAddress) -> Greeting {
        let answer = match self.send(node, HELLO, Vec::new(), HELLO_TIMEOUT).await {
            Ok((sent, answer)) => {
                let status = answer.status().as_u16();
                let mac = mac(&answer);
                read(answer).await.map(|body| {
                    (
                        self.keys.is_answer(&sent, status, mac.as_deref(), &body),
                        status,
                        body,
                    )
                })
            }
            Err(e) => Err(e.to_string()),
        };
        match answer {
            Ok((true, 200, _)) => Greeting::Itself,
            Ok((true, _, body)) => match wire::decode_reply(&body) {
                Ok(Reply::Refused(Refused::NotAddressed)) => Greeting::Another,
                Ok(Reply::Refused(refused)) => Greeting::Unclear(refused.to_string()),
                _ => Greeting::Unclear("its answer is not understood".to_owned()),
            },
            Ok((false, status, _)) => Greeting::Unclear(format!(
                "what answers there, with status {status}, is not a node of this cluster"
            )),
            Err(reason) => Greeting::Unclear(reason),
        }
    }

    async fn send(
        &self,
        to: &NodeAddress,
        path: &str,
        body: Vec<u8>,
        at_most: Duration,
    ) -> Result<(Sent, reqwest::Response), ForwardError> {
        let (authorization, sent) = self
            .keys
            .sign(to.id, "POST", path, &body, clock::now())
            .map_err(internal)?;
        let answer = self
            .client
            .post(format!("{}{path}", to.url))
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(body)
            .timeout(at_most)
            .send()
            .await;
        match answer {
            Ok(answer) => Ok((sent, answer)),
            // No connection, so nothing was sent.
            Err(e) if e.is_connect() => Err(ForwardError::Unreached(plain(e))),
            Err(e) => Err(ForwardError::Unknown(plain(e))),
        }
    }

    async fn understand(
        &self,
        owner: &NodeAddress,
        sent: &Sent,
        answer: reqwest::Response,
    ) -> Result<Outcome, ForwardError> {
        let status = answer.status().as_u16();
        let mac = mac(&answer);
        let body = read(answer).await.map_err(ForwardError::Unknown)?;
        if !self.keys.is_answer(sent, status, mac.as_deref(), &body) {
            // Whoever says this may have nothing to do with what the owner did.
            return Err(ForwardError::Unknown(format!(
                "an answer with status {status} is not signed; do all nodes have the same cluster secret?"
            )));
        }
        match wire::decode_reply(&body) {
            Ok(Reply::Done(outcome)) => Ok(outcome),
            Ok(Reply::Failed(e)) => Err(e.into()),
            Ok(Reply::Refused(Refused::NotAddressed)) => {
                Err(ForwardError::Unreached(Refused::NotAddressed.to_string()))
            }
            Ok(Reply::Refused(Refused::Busy)) => Err(WriteError::Overloaded {
                retry_after: Duration::from_secs(1),
            }
            .into()),
            Ok(Reply::Refused(refused)) => Err(WriteError::Unavailable {
                reason: format!("{} refuses a command: {refused}", owner.url),
            }
            .into()),
            Err(e) => Err(ForwardError::Unknown(e.to_string())),
        }
    }
}

fn mac(answer: &reqwest::Response) -> Option<String> {
    let mac = answer.headers().get(ANSWER)?;
    mac.to_str().ok().map(str::to_owned)
}

fn internal(e: impl std::fmt::Display) -> ForwardError {
    WriteError::Internal(e.to_string()).into()
}

/// What went wrong, with its causes: reqwest's own text leaves them out.
fn plain(e: reqwest::Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(&e);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(plain)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            return Err("it is too long".to_owned());
        }
    }
    Ok(body)
}
