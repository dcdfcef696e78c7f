//! Numbers for Prometheus. No label holds anything of a person.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gatelog_events::clock;
use gatelog_projections::store::StoreError;
use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::app::App;
use super::lag;
use crate::feeds::backlog;
use crate::node::Node;
use crate::spool::Spool;

/// Upper bounds in seconds: a point read takes some 100 µs, a login one hash, a full queue two seconds.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's recorder, installed at the first call.
pub fn recorder() -> &'static PrometheusHandle {
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        let recorder = builder
            .set_buckets(BUCKETS)
            .unwrap_or_else(|_| PrometheusBuilder::new())
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder of metrics was installed before; /metrics stays empty");
        }
        describe();
        handle
    })
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(
        "gatelog_http_request_duration_seconds",
        Unit::Seconds,
        "Requests by method, route and status, and how long they took."
    );
    describe_histogram!(
        "gatelog_commit_duration_seconds",
        Unit::Seconds,
        "From the decision on a command until it is durable, folded and answered."
    );
    describe_gauge!("gatelog_log_reachable", "1 while the log can be reached.");
    describe_gauge!(
        "gatelog_log_unwritable_partitions",
        "Partitions in Kafka without leader, or with fewer copies in sync than min.insync.replicas."
    );
    describe_gauge!(
        "gatelog_clock_skew_seconds",
        Unit::Seconds,
        "How far this node's clock is ahead of that of Kafka's brokers, at least."
    );
    describe_gauge!(
        "gatelog_owned_partitions",
        "Partitions that this node writes, of each stream."
    );
    describe_gauge!(
        "gatelog_unclaimed_partitions",
        "Of these, counted by stream, the ones that took no claim, and are refused until they do."
    );
    describe_counter!(
        "gatelog_rebalances_total",
        "How often the nodes shared the partitions out anew."
    );
    describe_gauge!(
        "gatelog_projection_lag_records",
        "Records in the log that a read model has not folded yet."
    );
    describe_gauge!(
        "gatelog_projection_stopped",
        "Partitions in which a read model stands still."
    );
    describe_gauge!(
        "gatelog_writer_queue_commands",
        "Commands that wait for the writer."
    );
    describe_gauge!(
        "gatelog_writer_queue_limit_commands",
        "Commands that may wait for the writer."
    );
    describe_counter!(
        "gatelog_forwarded_commands_total",
        Unit::Count,
        "Commands of partitions that another node owns, by what came of asking it."
    );
    describe_gauge!(
        "gatelog_password_queue_jobs",
        "Passwords that wait to be hashed or verified."
    );
    describe_gauge!(
        "gatelog_password_queue_limit_jobs",
        "Passwords that may wait at present."
    );
    describe_gauge!(
        "gatelog_password_in_flight_jobs",
        "Passwords being hashed or verified."
    );
    describe_gauge!(
        "gatelog_password_cost_seconds",
        "Moving average of what one password costs a thread."
    );
    describe_gauge!(
        "gatelog_spool_entries",
        "Logins that are kept until the log can be reached, and are not recorded yet."
    );
    describe_gauge!("gatelog_spool_bytes", Unit::Bytes, "Their bytes.");
    describe_counter!("gatelog_spool_drained_total", "Spooled logins that are recorded.");
    describe_counter!(
        "gatelog_spool_rejected_total",
        "Spooled logins that became no session, by reason."
    );
    describe_counter!(
        "gatelog_spool_refused_total",
        "Logins that were refused while the log was away, as the spool was full or failed."
    );
    describe_counter!(
        "gatelog_login_failures_unrecorded_total",
        "Failed logins that are not in the log: it was away, or the node was behind it."
    );
    describe_gauge!(
        "gatelog_feed_lag",
        "Records that a feed's consumer does not have yet, of the partitions that this node serves."
    );
    describe_gauge!(
        "gatelog_feed_lag_seconds",
        Unit::Seconds,
        "Age of the oldest change that a feed's consumer does not have yet, of the partitions that this node serves."
    );
    describe_counter!(
        "gatelog_feed_records_total",
        "Records of feeds that were settled: taken by the consumer, dead-lettered, or withheld as nobody might see them any more."
    );
    describe_counter!(
        "gatelog_webhook_attempts_total",
        "Attempts to post records to webhooks, by outcome."
    );
    describe_gauge!(
        "gatelog_throttled_keys",
        "Accounts and networks whose failures are remembered."
    );
}

/// How far each consumer of a feed is behind, in the partitions that this node serves: so the nodes' numbers add up, and none
/// needs to know what only another one does. Reads the store; blocks.
fn refresh_feeds(node: &Node) -> Result<(), StoreError> {
    let settings = node.views.settings(&node.config.tenant)?;
    let serves = node.observed.serves();
    let now = clock::now();
    let mut measured = BTreeSet::new();
    for (name, feed) in settings.feeds.iter().filter(|(_, f)| f.retired_at.is_none()) {
        for consumer in backlog::consumers(feed) {
            let seen = node.observed.seen(name, consumer.name);
            let partitions = serves.iter().copied();
            let waits = backlog::measure(node, &settings, name, consumer, &seen, partitions)?;
            let age = waits.oldest.map(|oldest| now.since(oldest));
            set_lag(name, consumer.name, waits.records, age.unwrap_or_default());
            measured.insert((name.clone(), consumer.name.to_owned()));
        }
    }
    // The recorder keeps a series for as long as the process runs.
    for (feed, consumer) in node.observed.measured(measured) {
        set_lag(&feed, &consumer, 0, Duration::ZERO);
    }
    Ok(())
}

fn set_lag(feed: &str, consumer: &str, records: u64, age: Duration) {
    let labels = [("feed", feed.to_owned()), ("consumer", consumer.to_owned())];
    gauge!("gatelog_feed_lag", &labels).set(records as f64);
    gauge!("gatelog_feed_lag_seconds", &labels).set(age.as_secs_f64());
}

/// Measures in a thread that may wait for the disk how far the consumers of feeds are behind.
async fn measure_feeds(node: Arc<Node>) {
    let measured = tokio::task::spawn_blocking(move || refresh_feeds(&node)).await;
    if let Ok(Err(e)) = measured {
        tracing::warn!(error = %e, "it cannot be measured how far the consumers of feeds are behind");
    }
}

/// Sets the gauges that are measured when they are asked for; what costs much is measured once a second at most.
pub async fn refresh(app: &App) {
    let node = &app.node;
    app.backlogs.again(measure_feeds(node.clone())).await;
    let lag::Known {
        log_reachable, lags, ..
    } = lag::known(node);
    gauge!("gatelog_log_reachable").set(f64::from(u8::from(log_reachable)));
    gauge!("gatelog_log_unwritable_partitions").set(node.backend.unwritable_partitions() as f64);
    gauge!("gatelog_clock_skew_seconds").set(node.backend.clock_ahead() as f64 / 1000.0);
    for lag in lags {
        if log_reachable {
            gauge!("gatelog_projection_lag_records", "projection" => lag.projection).set(lag.records as f64);
        }
        gauge!("gatelog_projection_stopped", "projection" => lag.projection).set(lag.stopped.len() as f64);
    }
    let limit = node.config.queue;
    gauge!("gatelog_writer_queue_commands").set(limit.saturating_sub(node.router.room()) as f64);
    gauge!("gatelog_writer_queue_limit_commands").set(limit as f64);
    let spool = node.spool.as_deref();
    gauge!("gatelog_spool_entries").set(spool.map_or(0, Spool::len) as f64);
    gauge!("gatelog_spool_bytes").set(spool.map_or(0, Spool::bytes) as f64);
    let pool = &node.passwords;
    gauge!("gatelog_password_queue_jobs").set(pool.queued() as f64);
    gauge!("gatelog_password_queue_limit_jobs").set(pool.queue_limit() as f64);
    gauge!("gatelog_password_in_flight_jobs").set(pool.in_flight() as f64);
    gauge!("gatelog_password_cost_seconds").set(pool.mean_cost().as_secs_f64());
    gauge!("gatelog_throttled_keys", "of" => "accounts").set(node.account_limits.len() as f64);
    gauge!("gatelog_throttled_keys", "of" => "networks").set(node.network_limits.len() as f64);
}
