//! What several test files share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod browser;
pub mod cluster;
pub mod ports;
pub mod process;
pub mod receiver;
pub mod server;
pub mod world;
