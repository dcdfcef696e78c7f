//! Set-ups that cannot work: each is told in one sentence that names what is wrong and what to do, with an exit status of
//! its kind. Real Kafka, the real binary.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[allow(dead_code)]
#[path = "../events/tests/log_kafka/broker.rs"]
mod broker;
#[path = "setups/connection.rs"]
mod connection;
#[path = "setups/data.rs"]
mod data;
#[path = "setups/running.rs"]
mod running;
#[path = "setups/setup.rs"]
mod setup;
