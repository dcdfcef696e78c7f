//! What no real broker does on demand, on librdkafka's mock cluster. Everything else is in `tests/log_kafka`.

use std::time::Duration;

use futures::{StreamExt, future};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::log::conformance::{record, take};

const ID: Stream = Stream::Identity;
const P0: Partition = Partition(0);

type Cluster = MockCluster<'static, DefaultProducerContext>;

/// A log on a mock cluster, which knows no settings of topics: they are not checked.
fn open() -> (Cluster, Arc<KafkaLog>) {
    open_with(KafkaConfig::default())
}

fn open_with(more: KafkaConfig) -> (Cluster, Arc<KafkaLog>) {
    let cluster = MockCluster::new(1).unwrap();
    let config = KafkaConfig {
        bootstrap_servers: cluster.bootstrap_servers(),
        partitions: 2,
        replication_factor: 1,
        min_insync_replicas: 1,
        ..more
    };
    let topics = Arc::new(Topics::new(&config));
    for topic in Topic::ALL {
        cluster.create_topic(topics.name(topic), 2, 1).unwrap();
    }
    let monitor = Monitor::new(config.probe_interval);
    let query = Arc::new(Query::new(&config, topics.clone(), monitor.clone()).unwrap());
    query.connect(config.connect_timeout).unwrap();
    let log = KafkaLog::assemble(config, topics, monitor, query).unwrap();
    (cluster, log)
}

fn fatal(cluster: &Cluster) {
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_fatal_error_another_producer_goes_on() {
    let (cluster, log) = open();
    for i in 0..10 {
        log.append(ID, P0, record(i, "before")).await.unwrap();
    }
    for round in 1..=2 {
        fatal(&cluster);
        let answers: Vec<_> = (0..20)
            .map(|i| log.append(ID, P0, record(100 + i, "meanwhile")))
            .collect();
        let answers = future::join_all(answers).await;
        // None hangs; what was outstanding is unknown, what came later not written.
        let expected = |a: &Result<Position, AppendError>| {
            matches!(a, Ok(_) | Err(AppendError::Unknown(_) | AppendError::Full(_)))
        };
        assert!(answers.iter().all(expected), "{answers:?}");
        assert!(
            answers.iter().any(|a| matches!(a, Err(AppendError::Unknown(_)))),
            "{answers:?}"
        );
        let begun = crate::clock::monotonic();
        let position = loop {
            match log.append(ID, P0, record(200 + round, "after")).await {
                Ok(position) => break position,
                Err(AppendError::Full(_) | AppendError::Unknown(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(other) => panic!("{other}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(20));
        };
        assert!(log.counters().producers_replaced >= round, "{:?}", log.counters());
        let read = take(&*log, ID, P0, position.offset, 1).await;
        assert_eq!(read[0].record, record(200 + round, "after"));
        assert!(log.end(ID, P0).await.unwrap() > position.offset);
    }
    let acknowledged = log.counters().acknowledged;
    let read: Vec<_> = log
        .read_to_end(&[])
        .unwrap()
        .map(|e| e.unwrap().position.offset)
        .collect();
    assert!(
        read.len() as u64 >= acknowledged && read.windows(2).all(|w| w[0] < w[1]),
        "{read:?}"
    );
    log.close().await;
    assert_eq!(log.append(ID, P0, record(1, "x")).await, Err(AppendError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_answered_at_once() {
    let (cluster, log) = open();
    cluster.broker_round_trip_time(1, Duration::from_secs(3)).unwrap();
    let sent: Vec<_> = (0..100)
        .map(|i| log.append(ID, P0, record(i, vec![0; 1 << 20])))
        .collect();
    assert!(log.counters().full > 0, "{:?}", log.counters());
    assert!(log.counters().appends < 70);
    drop(sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_waits_for_a_broker_that_is_away_for_a_moment() {
    let (cluster, log) = open();
    log.append(ID, P0, record(1, "one")).await.unwrap();
    cluster.broker_down(1).unwrap();
    let waiting = log.append(ID, P0, record(2, "two"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.broker_up(1).unwrap();
    waiting.await.unwrap();
    assert_eq!(take(&*log, ID, P0, 0, 2).await.len(), 2);
}

/// For as many requests of this kind the brokers say that they do not lead the partition; all others they answer.
fn refuse(cluster: &Cluster, requests: RDKafkaApiKey, many: usize) {
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    cluster.request_errors(requests, &vec![error; many]);
}

/// As if the clients had lost their partitions' leaders while brokers answer others (see `clients`).
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_get_nowhere_while_brokers_answer_are_replaced() {
    let (cluster, log) = open_with(KafkaConfig {
        delivery_timeout: Duration::from_secs(2),
        probe_interval: Duration::from_millis(200),
        ..Default::default()
    });
    // On a busy machine even the first may take longer than that.
    while log.append(ID, P0, record(0, "before")).await.is_err() {}
    let before = log.counters().producers_replaced;
    refuse(&cluster, RDKafkaApiKey::Produce, 70);
    let mut number = 1;
    while log.append(ID, P0, record(number, "after")).await.is_err() {
        number += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(log.counters().producers_replaced > before, "{:?}", log.counters());

    let before = log.counters().clients_replaced;
    refuse(&cluster, RDKafkaApiKey::ListOffsets, 200);
    while log.end(ID, P0).await.is_err() {}
    assert!(log.counters().clients_replaced > before, "{:?}", log.counters());

    let mut tail = log.read(ID, P0, 0);
    tail.next().await.unwrap().unwrap();
    let before = log.counters().clients_replaced;
    refuse(&cluster, RDKafkaApiKey::Fetch, 200);
    while log.append(ID, P0, record(900, "late")).await.is_err() {}
    let mut found = Vec::new();
    while found.last() != Some(&900) {
        let entry = tokio::time::timeout(Duration::from_secs(60), tail.next()).await;
        found.push(entry.unwrap().unwrap().unwrap().record.header.aggregate_version / 3);
    }
    assert!(found.is_sorted(), "{found:?}");
    assert!(log.counters().clients_replaced > before, "{:?}", log.counters());
}

/// The same of the producer of a feed's topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_feeds_producer_that_gets_nowhere_is_replaced() {
    let config = KafkaConfig {
        delivery_timeout: Duration::from_secs(2),
        probe_interval: Duration::from_millis(200),
        ..Default::default()
    };
    let (cluster, log) = open_with(config.clone());
    let config = KafkaConfig {
        bootstrap_servers: cluster.bootstrap_servers(),
        ..config
    };
    cluster.create_topic("feed.crm", 2, 1).unwrap();
    let outlet = Outlet::on(&config, "feed.crm".into(), &log.source.monitor).unwrap();
    let message = OutletMessage {
        key: "somebody".into(),
        value: Some(b"{}".to_vec()),
        headers: Vec::new(),
    };
    while outlet.send(P0, &message).await.is_err() {}
    let before = log.counters().clients_replaced;
    refuse(&cluster, RDKafkaApiKey::Produce, 70);
    while outlet.send(P0, &message).await.is_err() {}
    assert!(log.counters().clients_replaced > before, "{:?}", log.counters());
}

/// Whoever takes over from another waits for that, however long the log's own messages may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_feeds_message_is_given_up_before_others_go_on() {
    let (cluster, log) = open();
    let config = KafkaConfig {
        bootstrap_servers: cluster.bootstrap_servers(),
        delivery_timeout: Duration::from_secs(600),
        ..Default::default()
    };
    cluster.create_topic("feed.crm", 2, 1).unwrap();
    let outlet = Outlet::on(&config, "feed.crm".into(), &log.source.monitor).unwrap();
    let message = OutletMessage {
        key: "somebody".into(),
        value: Some(b"{}".to_vec()),
        headers: Vec::new(),
    };
    while outlet.send(P0, &message).await.is_err() {}
    refuse(&cluster, RDKafkaApiKey::Produce, 10_000);
    let begun = crate::clock::monotonic();
    outlet.send(P0, &message).await.unwrap_err();
    // A busy machine may wake this late.
    assert!(begun.elapsed() < 2 * Outlet::LANDING, "{:?}", begun.elapsed());
}
