//! Many nodes, one store: who owns which partition, and how a command comes to its owner.
//!
//! ```text
//!  HTTP ─▶ router ── ours ───────────────────────────────▶ writer
//!             │ another's                                     ▲
//!             ▼                                               │ never forwarded again
//!         forwarder ── signed, POST /internal/v1/commands ──▶ gate ─▶ here
//! ```
//!
//! Which node owns what is learned from the claims in the log ([`owners`]), so all nodes agree in the end, and a node that
//! errs is corrected by the writer it asks: only the owner writes. A command travels in a frozen form ([`wire`]), and
//! sender and receiver prove to each other that they know the cluster's secret ([`auth`]).

pub mod auth;
pub mod forward;
pub mod owners;
pub mod router;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use gatelog_events::directory::Directory;
use gatelog_events::ids::{Partition, Stream};

pub use auth::{ClusterSecret, Gate};
pub use forward::{Forwarder, Greeting};
pub use owners::{ClaimNote, NodeAddress, NodeId, NodeUrl, Owners};
pub use router::{Here, Router};

use self::forward::NoClient;
use self::router::{Bounds, RouterParts};
use crate::auth::NoRandomness;
use crate::config::Config;
use crate::views::Views;
use crate::writer::{Claims, Writer};

/// Where a command's aggregate lives.
pub type Place = (Stream, Partition);

/// Where nodes take each other's commands.
pub const COMMANDS: &str = "/internal/v1/commands";

/// Where a node says whether it is the one that is meant.
pub const HELLO: &str = "/internal/v1/hello";

/// Largest command that travels, in bytes: more than any body of a request makes of itself.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;

/// Largest answer that is read, in bytes: an outcome or a rejection.
pub const MAX_ANSWER_BYTES: usize = 256 << 10;

/// How this node works with others.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Proves that a node belongs to the cluster.
    pub secret: ClusterSecret,
    /// Where other nodes reach this one; without it they cannot.
    pub advertise: Option<NodeUrl>,
    /// Longest time that a command may take on its way to another node and back, retries included.
    pub forward_timeout: Duration,
    /// Longest wait until what another node wrote can be read here, before its writer's caller is answered.
    pub view_wait: Duration,
}

/// Why a node cannot work with others.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error(transparent)]
    NoClient(#[from] NoClient),
}

/// This run of the node among the others.
pub struct Cluster {
    me: NodeId,
    note: Option<ClaimNote>,
    owners: Arc<Owners>,
    forwarder: Option<Forwarder>,
    gate: Option<Arc<Gate>>,
    bounds: Bounds,
    patience: Duration,
}

impl Cluster {
    /// On a log that has one owner only: this node. Nothing is forwarded.
    pub fn of_one(config: &Config) -> Result<Self, ClusterError> {
        let me = NodeId::random()?;
        let cluster = config.cluster.as_ref();
        let view = cluster.map_or(config.min_position_wait, |c| c.view_wait);
        Ok(Self {
            me,
            note: None,
            owners: Arc::default(),
            forwarder: None,
            gate: cluster.map(|c| Arc::new(Gate::new(me, &c.secret))),
            bounds: Bounds {
                forward: cluster.map_or(Duration::ZERO, |c| c.forward_timeout),
                view,
            },
            patience: view,
        })
    }

    /// On a log that nodes share. `secrets`: what tells this node's [secrets](ClaimNote::secrets) from others.
    pub fn of_many(config: &Config, secrets: String) -> Result<Self, ClusterError> {
        let alone = Self::of_one(config)?;
        let Some(cluster) = &config.cluster else {
            return Ok(alone);
        };
        Ok(Self {
            note: cluster.advertise.clone().map(|url| ClaimNote {
                node: alone.me,
                url,
                secrets: Some(secrets),
            }),
            forwarder: Some(Forwarder::new(&cluster.secret)?),
            ..alone
        })
    }

    /// What the writer puts into its claims, and tells of those it reads.
    pub fn claims(&self) -> Claims {
        self.owners.claims(self.note.as_ref())
    }

    /// Where others are told to reach this run, and what to ask there with; none where they are told nothing.
    pub fn advertised(&self) -> Option<(Forwarder, NodeAddress)> {
        let ClaimNote { node, url, secrets } = self.note.clone()?;
        let id = node;
        Some((self.forwarder.clone()?, NodeAddress { id, url, secrets }))
    }

    /// What lets other nodes in, if this one has the cluster's secret.
    pub fn gate(&self) -> Option<Arc<Gate>> {
        self.gate.clone()
    }

    /// Routes commands to this node's writer and to other nodes.
    pub fn router(
        &self,
        writer: Writer,
        views: Arc<Views>,
        directory: Arc<Directory>,
        partitions: u16,
    ) -> Router {
        Router::new(RouterParts {
            here: Here::new(writer, views, self.patience),
            owners: self.owners.clone(),
            forwarder: self.forwarder.clone(),
            me: self.me,
            secrets: self.note.as_ref().and_then(|note| note.secrets.clone()),
            directory,
            partitions,
            bounds: self.bounds,
        })
    }
}
