//! Clients of librdkafka that take the place of others.
//!
//! When brokers that stood still go on, the cluster's metadata name no broker, or no leader, for a moment. A client of
//! librdkafka that hears that may forget all that it knew and never come back, while others of the same process do
//! (confluentinc/librdkafka#5430). Nothing says so but that it gets nowhere: then it is replaced.

use std::thread;
use std::time::Duration;

use super::monitor::{Monitor, count};

/// A consumer that gives a reader nothing for this long, although there is more, will give nothing any more. Longer than a
/// fetch may take (`socket.timeout.ms`): over a slow line each would be broken off otherwise.
pub(super) const STUCK: Duration = Duration::from_secs(15);

/// Notes that a client is replaced, and drops it in a thread of its own: that takes as long as its connections need to
/// end.
pub(super) fn replaced<T: Send + 'static>(monitor: &Monitor, what: &'static str, client: T) {
    tracing::warn!(client = what, "a client of Kafka gets nowhere and is replaced");
    count(&monitor.counts.clients_replaced);
    // Without a thread it is dropped here.
    let _ = thread::Builder::new()
        .name("kafka-closer".into())
        .spawn(move || drop(client));
}
