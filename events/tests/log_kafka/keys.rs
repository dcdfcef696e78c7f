//! The topic of subject keys.

use std::time::Duration;

use futures::StreamExt;
use gatelog_events::ids::Partition;
use gatelog_events::log::kafka::{KafkaLog, KeyRecord};
use gatelog_events::log::{AppendError, LogError};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::broker;

const P0: Partition = Partition(0);
const P1: Partition = Partition(1);

fn told(record: &KeyRecord) -> (u16, Vec<u8>, Option<Vec<u8>>) {
    (
        record.partition.0,
        record.key.to_vec(),
        record.value.as_ref().map(|v| v.to_vec()),
    )
}

fn is(p: Partition, key: &[u8], value: Option<&[u8]>) -> (u16, Vec<u8>, Option<Vec<u8>>) {
    (p.0, key.to_vec(), value.map(<[u8]>::to_vec))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_tombstones_come_back_and_are_followed() {
    let Some((config, log)) = broker::log().await else {
        return;
    };
    let keys = log.subject_keys();
    assert_eq!(keys.read_all().unwrap().count(), 0);
    assert_eq!(keys.put(P0, b"anna", b"wrapped 1").await, Ok(0));
    assert_eq!(keys.put(P1, b"bert", b"wrapped 2").await, Ok(0));
    assert_eq!(keys.put(P0, b"carl", b"").await, Ok(1));
    assert_eq!(keys.delete(P0, b"anna").await, Ok(2));

    let read: Vec<_> = keys.read_all().unwrap().map(|r| told(&r.unwrap())).collect();
    let own = |p: Partition| read.iter().filter(|r| r.0 == p.0).cloned().collect::<Vec<_>>();
    let expected = [
        is(P0, b"anna", Some(b"wrapped 1")),
        is(P0, b"carl", Some(b"")),
        is(P0, b"anna", None),
    ];
    assert_eq!(own(P0), expected);
    assert_eq!(own(P1), [is(P1, b"bert", Some(b"wrapped 2"))]);
    let last: Vec<_> = keys
        .read_partition(P0, 2)
        .unwrap()
        .map(|r| told(&r.unwrap()))
        .collect();
    assert_eq!(last, [is(P0, b"anna", None)]);

    let mut follower = keys.follow(&[2, 1]);
    assert_eq!(
        told(&follower.next().await.unwrap().unwrap()),
        is(P0, b"anna", None)
    );
    keys.put(P1, b"dora", b"wrapped 3").await.unwrap();
    assert_eq!(
        told(&follower.next().await.unwrap().unwrap()),
        is(P1, b"dora", Some(b"wrapped 3"))
    );

    assert!(matches!(
        keys.follow(&[0]).next().await,
        Some(Err(LogError::Mismatch { .. }))
    ));
    assert!(matches!(
        keys.read_partition(Partition(2), 0),
        Err(LogError::Mismatch { .. })
    ));
    assert_eq!(keys.put(Partition(2), b"x", b"y").await, Err(AppendError::Closed));
    log.close().await;
    assert_eq!(keys.put(P0, b"x", b"y").await, Err(AppendError::Closed));

    let log = KafkaLog::open(config).await.unwrap();
    assert_eq!(log.subject_keys().read_all().unwrap().count(), 5);
}

/// After compaction, or with a transaction's marks, the last offsets may stand for nothing: the end is found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_reached_where_the_last_offsets_are_empty() {
    let Some((config, log)) = broker::log().await else {
        return;
    };
    let keys = log.subject_keys();
    keys.put(P0, b"anna", b"1").await.unwrap();
    let transactional: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("transactional.id", &config.topic_prefix)
        .create()
        .unwrap();
    let topic = format!("{}subject-keys", config.topic_prefix);
    let long = Duration::from_secs(30);
    transactional.init_transactions(long).unwrap();
    for round in 0..2u64 {
        transactional.begin_transaction().unwrap();
        let record = FutureRecord::to(&topic).partition(0).key("bert").payload("2");
        let sent = transactional.send(record, long).await.unwrap();
        assert_eq!(sent.offset, 1 + 2 * round as i64);
        transactional.commit_transaction(long).unwrap();
        let begun = gatelog_events::clock::monotonic();
        let offsets: Vec<_> = keys.read_all().unwrap().map(|r| r.unwrap().offset).collect();
        assert_eq!(offsets.len() as u64, 2 + round, "{offsets:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        // Beyond the last record, where there is only the mark.
        let rest: Vec<_> = keys.read_partition(P0, 2 + 2 * round).unwrap().collect();
        assert!(rest.is_empty(), "{rest:?}");
    }
    let mut follower = keys.follow(&[0, 0]);
    for offset in [0, 1, 3] {
        assert_eq!(follower.next().await.unwrap().unwrap().offset, offset);
    }
    assert_eq!(log.counters().offset_gaps, 1, "the follower's");
}
