//! Nodes that carry each other's commands: two of them on one log, owners that do not behave, and what stands at the door.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod forwarding {
    pub mod door;
    pub mod owners;
    pub mod pair;
    pub mod two_nodes;
}
mod support;
