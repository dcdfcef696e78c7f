//! Readers: many at once, slow ones, from where records no longer are, and records of others.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future};
use gatelog_events::clock;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::conformance::{record, take};
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog};
use gatelog_events::log::{EventLog, LogError};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};

use crate::broker;

const ID: Stream = Stream::Identity;
const ACT: Stream = Stream::Activity;
const P0: Partition = Partition(0);
const P1: Partition = Partition(1);

/// Appends `n` records with values of `size` bytes.
pub async fn fill(log: &KafkaLog, stream: Stream, partition: Partition, n: u64, size: usize) {
    let answers: Vec<_> = (0..n)
        .map(|i| log.append(stream, partition, record(i, vec![7; size])))
        .collect();
    for answer in future::join_all(answers).await {
        answer.unwrap();
    }
}

fn all(log: &KafkaLog, from: &[Position]) -> Vec<Position> {
    log.read_to_end(from)
        .unwrap()
        .map(|e| e.unwrap().position)
        .collect()
}

fn at(stream: Stream, partition: Partition, offset: Offset) -> Position {
    Position {
        stream,
        partition,
        offset,
    }
}

#[tokio::test]
async fn readers_of_one_partition_do_not_disturb_each_other() {
    let Some((_, log)) = broker::log().await else {
        return;
    };
    fill(&log, ID, P0, 300, 100).await;
    let mut tail = log.read(ID, P0, 290);
    for offset in 290..300 {
        assert_eq!(tail.next().await.unwrap().unwrap().position.offset, offset);
    }
    let readers = (0..4u64).map(|i| {
        let log = log.clone();
        async move {
            let read = take(&*log, ID, P0, i * 10, 300 - i as usize * 10).await;
            let offsets: Vec<_> = read.iter().map(|e| e.position.offset).collect();
            assert_eq!(offsets, (i * 10..300).collect::<Vec<_>>());
        }
    });
    future::join_all(readers).await;
    fill(&log, ID, P0, 1, 1).await;
    assert_eq!(tail.next().await.unwrap().unwrap().position.offset, 300);
    assert!(log.counters().consumers > 1);
    assert_eq!(log.counters().offset_gaps, 0);
}

/// 20 MB wait for a reader that does not read; others go on, and the slow one loses nothing.
#[tokio::test]
async fn a_slow_reader_stops_nobody_and_loses_nothing() {
    let Some(servers) = broker::shared() else { return };
    let config = KafkaConfig {
        read_buffer_bytes: 100_000,
        ..broker::config(servers)
    };
    let log = KafkaLog::open(config).await.unwrap();
    let mut slow = log.read(ID, P0, 0);
    fill(&log, ID, P0, 2000, 10_000).await;
    fill(&log, ID, P1, 2000, 1000).await;
    assert_eq!(take(&*log, ID, P1, 0, 2000).await.len(), 2000);
    let paused = log.counters();
    assert!(paused.pauses >= 1 && paused.records_read < 2300, "{paused:?}");
    for offset in 0..2000 {
        let entry = slow.next().await.unwrap().unwrap();
        assert_eq!(
            (entry.position.offset, entry.record.value.len()),
            (offset, 10_000)
        );
    }
    assert!(slow.next().now_or_never().is_none());
    assert_eq!(log.counters().offset_gaps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_to_the_end_reads_all_of_both_streams_in_order() {
    let Some((_, log)) = broker::log().await else {
        return;
    };
    assert_eq!(all(&log, &[]), []);
    for (stream, partition, n) in [(ID, P0, 2000), (ID, P1, 30), (ACT, P1, 1000)] {
        fill(&log, stream, partition, n, 50).await;
    }
    let positions = all(&log, &[]);
    assert_eq!(positions.len(), 3030);
    for (stream, partition, n) in [(ID, P0, 2000), (ID, P1, 30), (ACT, P0, 0), (ACT, P1, 1000)] {
        let own = positions
            .iter()
            .filter(|p| (p.stream, p.partition) == (stream, partition));
        assert_eq!(
            own.map(|p| p.offset).collect::<Vec<_>>(),
            (0..n).collect::<Vec<_>>()
        );
    }
    let rest = all(&log, &[at(ID, P0, 1999), at(ID, P1, 30), at(ACT, P1, 998)]);
    assert_eq!(rest, [at(ID, P0, 1999), at(ACT, P1, 998), at(ACT, P1, 999)]);
    // A position that cannot be means that records are lost.
    assert!(matches!(
        log.read_to_end(&[at(ID, P1, 31)]),
        Err(LogError::Damaged { .. })
    ));
    assert!(matches!(
        log.read_to_end(&[at(ID, Partition(2), 0)]),
        Err(LogError::Mismatch { .. })
    ));
    log.close().await;
    assert!(matches!(log.read_to_end(&[]), Err(LogError::Closed)));
}

/// Deletes the records below an offset, as retention does.
async fn cut(config: &KafkaConfig, topic: &str, below: Offset) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    let name = format!("{}{topic}", config.topic_prefix);
    list.add_partition_offset(&name, 0, At::Offset(below as i64))
        .unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    admin.delete_records(&list, &options).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_may_be_cut_and_identity_may_not() {
    let Some((config, log)) = broker::log().await else {
        return;
    };
    for stream in [ID, ACT] {
        fill(&log, stream, P0, 10, 10).await;
        fill(&log, stream, P1, 10, 10).await;
    }
    let mut elsewhere = log.read(ID, P1, 0);
    cut(&config, "activity", 4).await;
    let first = log.read(ACT, P0, 0).next().await.unwrap().unwrap();
    assert_eq!(first.position, at(ACT, P0, 4));
    assert_eq!(all(&log, &[]).len(), 36);

    cut(&config, "identity", 4).await;
    let lost = log.read(ID, P0, 0).next().await.unwrap();
    let Err(LogError::Damaged { place, what }) = lost else {
        panic!("{lost:?}")
    };
    assert!(place.contains("identity, partition 0, offset 0"), "{place}");
    assert!(what.contains("begins at 4"), "{what}");
    assert!(matches!(log.read_to_end(&[]), Err(LogError::Damaged { .. })));
    assert_eq!(
        take(&*log, ID, P0, 4, 6).await.len(),
        6,
        "what is left can be read"
    );
    for offset in 0..10 {
        assert_eq!(
            elsewhere.next().await.unwrap().unwrap().position,
            at(ID, P1, offset)
        );
    }
}

/// Deleting and creating a topic is the plainest way to lose records.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_what_was_read_is_damaged() {
    let Some((config, log)) = broker::log().await else {
        return;
    };
    fill(&log, ID, P0, 10, 10).await;
    let mut tail = log.read(ID, P0, 0);
    for _ in 0..10 {
        tail.next().await.unwrap().unwrap();
    }
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .create()
        .unwrap();
    let name = format!("{}identity", config.topic_prefix);
    admin.delete_topics(&[&name], &AdminOptions::new()).await.unwrap();
    let begun = clock::monotonic();
    let is_there = || {
        let all = admin.inner().fetch_metadata(None, Duration::from_secs(5));
        all.unwrap().topics().iter().any(|t| t.name() == name)
    };
    while is_there() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{name} stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let another = KafkaLog::open(config.clone()).await.unwrap();
    fill(&another, ID, P0, 3, 10).await;
    assert!(matches!(log.end(ID, P0).await, Err(LogError::Damaged { .. })));
    let ended = tokio::time::timeout(Duration::from_secs(60), tail.next())
        .await
        .expect("an error in time");
    let Some(Err(LogError::Damaged { place, .. })) = ended else {
        panic!("{ended:?}")
    };
    assert!(place.contains(&name), "{place}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_others_is_an_error_that_names_it() {
    let Some((config, log)) = broker::log().await else {
        return;
    };
    fill(&log, ID, P0, 2, 10).await;
    let foreign: rdkafka::producer::FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .create()
        .unwrap();
    let name = format!("{}identity", config.topic_prefix);
    let record = rdkafka::producer::FutureRecord::<(), _>::to(&name)
        .partition(0)
        .payload("hello");
    foreign.send(record, Duration::from_secs(10)).await.unwrap();
    fill(&log, ID, P0, 1, 10).await;
    let mut reader = log.read(ID, P0, 0);
    for offset in 0..2 {
        assert_eq!(reader.next().await.unwrap().unwrap().position.offset, offset);
    }
    let Some(Err(LogError::Damaged { place, what })) = reader.next().await else {
        panic!("no error")
    };
    assert!(
        place.contains(&format!("topic {name}, partition 0, offset 2")),
        "{place}"
    );
    assert!(what.contains("not one of this log"), "{what}");
    assert!(reader.next().await.is_none());
    let last = log.read_to_end(&[]).unwrap().last().unwrap();
    assert!(matches!(last, Err(LogError::Damaged { .. })));
}
