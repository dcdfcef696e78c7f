//! Brokers that stood still until the controller gave them up: when they go on, all are gone from the cluster's metadata for
//! a moment, and librdkafka's clients may forget every broker they knew for good (confluentinc/librdkafka#5430).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, future};
use gatelog_events::clock;
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::EventLog;
use gatelog_events::log::conformance::record;
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog, Membership, MembershipOptions};

use crate::broker::{self, Broker};

const ID: Stream = Stream::Identity;
const P0: Partition = Partition(0);
const LOGS: u64 = 6;
/// A broker that the controller has not heard of for 9 s is given up.
const FENCED: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(45);
/// Number of the last record.
const LAST: u64 = 1_000_000;

/// Appends until it is told to stop, whatever becomes of it.
async fn keep_busy(log: Arc<KafkaLog>, until: Instant) {
    let mut number = 0;
    while clock::monotonic() < until {
        let _ = log.append(ID, P0, record(number, "busy")).await;
        let _ = log.end(ID, P0).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How long it takes until everything that one log does is done again: appending, asking, and hearing of what others append.
async fn recovered(log: &Arc<KafkaLog>, number: u64) -> Result<(), String> {
    let append = async {
        while log.append(ID, P0, record(LAST + number, "after")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ask = async {
        while log.end(ID, P0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let late = |what: &'static str| move |_| format!("log {number} cannot {what} again");
    let append = tokio::time::timeout(PATIENCE, append);
    let ask = tokio::time::timeout(PATIENCE, ask);
    let (append, ask) = future::join(append, ask).await;
    append.map_err(late("append"))?;
    ask.map_err(late("say where the log ends"))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_broker_was_given_up_and_came_back_every_client_goes_on() {
    let Some(broker) = Broker::start(&[]) else { return };
    let config = KafkaConfig {
        delivery_timeout: Duration::from_secs(3),
        ..broker::config(broker.bootstrap())
    };
    let options = MembershipOptions {
        group: format!("{}writers", config.topic_prefix),
        session_timeout: Duration::from_secs(6),
    };
    let mut logs: Vec<Arc<KafkaLog>> = Vec::new();
    for _ in 0..LOGS {
        logs.push(KafkaLog::open(config.clone()).await.unwrap());
    }
    let members: Vec<Membership> = logs.iter().map(|log| log.join(&options).unwrap()).collect();
    let tails: Vec<_> = logs.iter().map(|log| log.read(ID, P0, 0)).collect();

    let busy_until = clock::monotonic() + FENCED + Duration::from_secs(3);
    let busy: Vec<_> = logs
        .iter()
        .map(|log| tokio::spawn(keep_busy(log.clone(), busy_until)))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.signal("STOP");
    tokio::time::sleep(FENCED).await;
    broker.signal("CONT");

    let found = future::join_all(logs.iter().zip(0..).map(|(log, n)| recovered(log, n))).await;
    let mut stuck: Vec<String> = found.into_iter().filter_map(Result::err).collect();
    for end in future::join_all(busy).await {
        end.unwrap();
    }
    // Each reader hears of what the last log appended.
    if stuck.is_empty() {
        let last = LAST + LOGS;
        let append = async {
            while logs[0].append(ID, P0, record(last, "the last")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let appended = tokio::time::timeout(PATIENCE, append).await;
        appended.expect("the last record is taken");
        let heard = tails
            .into_iter()
            .zip(0..)
            .map(|(mut tail, n): (_, u64)| async move {
                let until = async {
                    while let Some(entry) = tail.next().await {
                        if entry.unwrap().record.header.aggregate_version / 3 == last {
                            return;
                        }
                    }
                };
                let heard = tokio::time::timeout(PATIENCE, until).await;
                heard.err().map(|_| format!("log {n} hears nothing any more"))
            });
        stuck.extend(future::join_all(heard).await.into_iter().flatten());
    }
    // Whoever lost its partitions meanwhile comes back, and every partition has an owner.
    let begun = clock::monotonic();
    let all: BTreeSet<Partition> = (0..config.partitions).map(Partition).collect();
    loop {
        let owned: BTreeSet<Partition> = members.iter().flat_map(|m| m.owned().borrow().clone()).collect();
        if owned == all {
            break;
        }
        if begun.elapsed() > PATIENCE {
            stuck.push(format!("only {owned:?} have owners: {members:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stuck.is_empty(), "{stuck:#?}");
}
