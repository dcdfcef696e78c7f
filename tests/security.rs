//! What went wrong in other identity systems, tried on the real program over HTTP. Each test is named after its line.
//!
//! "No event" means that no byte of the log's files has changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "security/bodies.rs"]
mod bodies;
#[path = "security/callers.rs"]
mod callers;
#[path = "security/disclosure.rs"]
mod disclosure;
#[path = "security/guessing.rs"]
mod guessing;
#[path = "security/identifiers.rs"]
mod identifiers;
#[path = "security/node.rs"]
mod node;
#[path = "security/sessions.rs"]
mod sessions;
#[path = "security/tokens.rs"]
mod tokens;
