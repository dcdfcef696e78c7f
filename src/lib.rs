//! The server of Gatelog. See ARCHITECTURE.md for the way of the data.

pub mod auth;
pub mod backend;
pub mod bench;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod error;
pub mod feeds;
pub mod http;
pub mod node;
pub mod spool;
pub mod telemetry;
mod upkeep;
pub mod views;
pub mod writer;
