//! How fast: run by hand with `--release --ignored --nocapture throughput`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gatelog_events::clock;
use gatelog_events::ids::{Partition, Stream};
use gatelog_events::log::EventLog;
use gatelog_events::log::conformance::record;
use gatelog_events::log::kafka::{Compression, KafkaConfig, KafkaLog};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::broker;

const RECORDS: u64 = 100_000;
const IN_FLIGHT: usize = 256;

/// Bytes that do not compress.
fn noise(n: u64) -> Vec<u8> {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..1024).map(|_| next()).collect()
}

fn rate(n: u64, begun: Instant) -> u64 {
    (n as f64 / begun.elapsed().as_secs_f64()) as u64
}

fn percentile(mut times: Vec<Duration>, p: usize) -> Duration {
    times.sort();
    times[times.len() * p / 100]
}

async fn appended(log: &KafkaLog, partitions: u16) -> (u64, Vec<Duration>) {
    let begun = clock::monotonic();
    let mut flying = FuturesUnordered::new();
    let (mut times, mut n) = (Vec::new(), 0);
    while n < RECORDS || !flying.is_empty() {
        while n < RECORDS && flying.len() < IN_FLIGHT {
            let partition = Partition((n % u64::from(partitions)) as u16);
            let (sent, answer) = (
                clock::monotonic(),
                log.append(Stream::Identity, partition, record(n, noise(n))),
            );
            flying.push(async move { answer.await.map(|_| sent.elapsed()) });
            n += 1;
        }
        times.push(flying.next().await.unwrap().unwrap());
    }
    (rate(RECORDS, begun), times)
}

/// As `appended`, with nothing of ours.
async fn bare(config: &KafkaConfig, topic: &str) -> u64 {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .create()
        .unwrap();
    let begun = clock::monotonic();
    let mut flying = VecDeque::new();
    for n in 0..RECORDS {
        let value = noise(n);
        let partition = (n % u64::from(config.partitions)) as i32;
        let record = FutureRecord::<(), _>::to(topic)
            .partition(partition)
            .payload(&value);
        flying.push_back(producer.send_result(record).unwrap());
        if flying.len() == IN_FLIGHT {
            flying.pop_front().unwrap().await.unwrap().unwrap();
        }
    }
    for answer in flying {
        answer.await.unwrap().unwrap();
    }
    rate(RECORDS, begun)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn throughput() {
    let Some(servers) = broker::shared() else { return };
    for (partitions, compression) in [
        (8, Compression::Lz4),
        (8, Compression::None),
        (64, Compression::Lz4),
        (64, Compression::None),
    ] {
        let config = KafkaConfig {
            partitions,
            compression,
            ..broker::config(servers.clone())
        };
        let log = KafkaLog::open(config.clone()).await.unwrap();
        appended(&log, partitions).await;
        let (appends, times) = appended(&log, partitions).await;
        let (p50, p99) = (percentile(times.clone(), 50), percentile(times, 99));
        let begun = clock::monotonic();
        let n = log.read_to_end(&[]).unwrap().map(Result::unwrap).count() as u64;
        let reads = rate(n, begun);
        let begun = clock::monotonic();
        let tails = (0..partitions).map(|p| log.read(Stream::Identity, Partition(p), 0));
        let tailed = futures::stream::select_all(tails).take(n as usize).count().await as u64;
        let tails = rate(tailed, begun);
        let bare = bare(&config, &format!("{}activity", config.topic_prefix)).await;
        eprintln!(
            "{partitions} partitions, {compression:?}: {appends} appends/s (p50 {p50:?}, p99 {p99:?}), bare {bare}/s; \
             read_to_end {reads}/s, tails {tails}/s"
        );
        log.close().await;
    }
}
