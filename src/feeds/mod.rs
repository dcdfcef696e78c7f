//! Feeds: what a consumer may see of the log, as it may be seen at the moment of delivery.
//!
//! ```text
//!  changes (in the log's order) ─┐
//!  withdrawals (apart, first) ───┼─▶ engine ─▶ records ─▶ a shape: HTTP page, SSE, webhook
//!  users (as they are now) ──────┘      │ cursor
//!                                       └─▶ handover: who was told of a withdrawal when
//! ```
//!
//! A record never carries what was true when its event happened, but the granted fields as they are now: whoever withdrew
//! or was erased since has none, whatever position is read. Two consumers cannot join their data: subjects and records
//! have other ids in each feed.

pub mod asyncapi;
pub mod backlog;
pub mod connectors;
pub mod cursor;
pub mod engine;
pub mod gate;
pub mod handover;
pub mod keys;
pub mod links;
pub mod observed;
mod own;
pub mod push;
pub mod record;
pub mod schema;
pub mod seal;
pub mod signals;
pub mod webhook;
