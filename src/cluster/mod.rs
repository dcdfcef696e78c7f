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

use std::time::Duration;

use gatelog_events::ids::{Partition, Stream};

pub use auth::{ClusterSecret, Gate};
pub use forward::Forwarder;
pub use owners::{ClaimNote, NodeAddress, NodeId, NodeUrl, Owners};
pub use router::{Here, Router};

/// Where a command's aggregate lives.
pub type Place = (Stream, Partition);

/// Where nodes take each other's commands.
pub const COMMANDS: &str = "/internal/v1/commands";

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
