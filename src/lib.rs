//! The server of Gatelog. See ARCHITECTURE.md for the way of the data.

pub mod auth;
