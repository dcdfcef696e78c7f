//! The Kafka log against real brokers: the contract, and what can go wrong with Kafka.
//!
//! The brokers are those of `KAFKA_BOOTSTRAP`, or started by `scripts/kafka` (Java and Maven). Where neither is there the
//! tests say so and pass; with `GATELOG_REQUIRE_KAFKA=1` they fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; clippy does not see that of helpers"
)]

mod broker;
mod faults;
mod fenced;
mod keys;
mod members;
mod reading;
mod security;
mod throughput;
mod topics;

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use gatelog_events::conformance;
use gatelog_events::log::EventLog;
use gatelog_events::log::conformance::Subject;
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog};

struct Lab {
    config: KafkaConfig,
    log: Arc<KafkaLog>,
}

impl Lab {
    async fn new() -> Option<Self> {
        let (config, log) = broker::log().await?;
        Some(Self { config, log })
    }
}

impl Subject for Lab {
    fn log(&self) -> Arc<dyn EventLog> {
        self.log.clone()
    }
    fn reopen(&mut self) -> BoxFuture<'_, ()> {
        async {
            self.log.close().await;
            self.log = KafkaLog::open(self.config.clone()).await.unwrap();
        }
        .boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, ()> {
        async { self.log.close().await }.boxed()
    }
    fn max_record_bytes(&self) -> usize {
        self.config.max_record_bytes
    }
}

mod contract {
    use super::*;
    conformance!(match Lab::new().await {
        Some(lab) => lab,
        None => return,
    });
}
