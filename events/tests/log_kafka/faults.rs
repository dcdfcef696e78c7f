//! Kafka is away, comes back, or hangs; and two owners of one partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures::{StreamExt, future};
use gatelog_events::clock;
use gatelog_events::ids::{CommitId, Offset, Partition, Position, Stream};
use gatelog_events::log::conformance::record;
use gatelog_events::log::fence::{Fence, Verdict};
use gatelog_events::log::kafka::{KafkaConfig, KafkaLog};
use gatelog_events::log::{AppendError, Entry, EventLog, LogError, Record, RecordHeader, RecordKind};
use tokio::time::timeout;
use uuid::Uuid;

use crate::broker::{self, Broker};

const ID: Stream = Stream::Identity;
const P0: Partition = Partition(0);
/// Number of the last record of a test.
const LAST: u64 = 1_000_000_000;

fn short(servers: String) -> KafkaConfig {
    KafkaConfig {
        delivery_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(2),
        probe_interval: Duration::from_millis(500),
        ..broker::config(servers)
    }
}

/// Appends until it is acknowledged; where. Each try is a record.
async fn append_at_last(log: &KafkaLog, number: u64) -> Position {
    let begun = clock::monotonic();
    loop {
        match log.append(ID, P0, record(number, "at last")).await {
            Ok(position) => return position,
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(60), "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads on until a record has this number.
async fn read_up_to(
    tail: &mut (impl futures::Stream<Item = Result<Entry, LogError>> + Unpin),
    seen: &mut Vec<(Offset, u64)>,
    number: u64,
) {
    loop {
        let entry = timeout(Duration::from_secs(60), tail.next())
            .await
            .expect("a record in time")
            .unwrap()
            .unwrap();
        let found = entry.record.header.aggregate_version / 3;
        seen.push((entry.position.offset, found));
        if found == number {
            return;
        }
    }
}

/// What an appender noted: offsets of what was acknowledged by number, how many are unknown, and the next number.
struct Notes {
    acknowledged: BTreeMap<u64, Offset>,
    unknown: u64,
    number: u64,
}

/// Appends twenty records at a time until it is told to stop.
async fn keep_appending(log: Arc<KafkaLog>, stop: Arc<AtomicBool>) -> Notes {
    let mut notes = Notes {
        acknowledged: BTreeMap::new(),
        unknown: 0,
        number: 0,
    };
    while !stop.load(Relaxed) {
        let numbers: Vec<_> = (notes.number..notes.number + 20).collect();
        notes.number += 20;
        let answers: Vec<_> = numbers
            .iter()
            .map(|n| log.append(ID, P0, record(*n, vec![1; 100])))
            .collect();
        for (n, answer) in numbers.into_iter().zip(future::join_all(answers).await) {
            match answer {
                Ok(position) => drop(notes.acknowledged.insert(n, position.offset)),
                Err(AppendError::Unknown(_)) => notes.unknown += 1,
                // Not written: another producer is being made.
                Err(AppendError::Full(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        // The end, also as a leader sees it who has just become one.
        match log.end(ID, P0).await {
            Ok(end) => assert!(notes.acknowledged.values().max().is_none_or(|last| *last < end)),
            Err(LogError::Io { .. } | LogError::Unreachable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    notes
}

/// What was acknowledged was read once, in order, with nothing left out.
fn check(log: &KafkaLog, notes: &Notes, seen: &[(Offset, u64)]) {
    eprintln!(
        "{} appended, {} acknowledged, {} unknown, {} read",
        notes.number,
        notes.acknowledged.len(),
        notes.unknown,
        seen.len()
    );
    assert!(
        seen.windows(2).all(|w| w[0].0 + 1 == w[1].0),
        "in order, nothing left out, nothing twice"
    );
    let mut by_number: BTreeMap<u64, Vec<Offset>> = BTreeMap::new();
    for (offset, n) in seen {
        by_number.entry(*n).or_default().push(*offset);
    }
    for (n, offset) in &notes.acknowledged {
        assert_eq!(by_number.get(n).map(Vec::as_slice), Some(&[*offset][..]), "{n}");
    }
    // What the tests themselves append until it is acknowledged may be there more often: each try is a record.
    let (once, tried): (Vec<_>, Vec<_>) = by_number
        .iter()
        .filter(|(_, offsets)| offsets.len() > 1)
        .partition(|(n, _)| **n < notes.number);
    eprintln!("written more than once: {once:?}, tried again: {tried:?}");
    assert!(
        once.is_empty(),
        "the idempotent producer doubles nothing: {once:?}"
    );
    let again: Vec<_> = log
        .read_to_end(&[])
        .unwrap()
        .map(|e| e.unwrap().position.offset)
        .collect();
    assert_eq!(again, seen.iter().map(|(offset, _)| *offset).collect::<Vec<_>>());
    assert!(log.health().reachable, "{:?}", log.health());
}

/// Killed and started again several times while records are appended and read: what was acknowledged is there once.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_loses_and_doubles_nothing_acknowledged() {
    let Some(broker) = Broker::start(&[]) else { return };
    let log = KafkaLog::open(short(broker.bootstrap())).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let appender = tokio::spawn(keep_appending(log.clone(), stop.clone()));
    let mut tail = log.read(ID, P0, 0);
    let mut seen = Vec::new();
    for away in [0u64, 4, 1] {
        tokio::time::sleep(Duration::from_millis(700)).await;
        broker.kill(1);
        tokio::time::sleep(Duration::from_secs(away)).await;
        if away == 4 {
            let health = log.health();
            assert!(!health.reachable && health.last_error.is_some(), "{health:?}");
        }
        broker.restart();
        let back = clock::monotonic();
        while log.append(ID, P0, record(LAST - 1 - away, "x")).await.is_err() {
            assert!(back.elapsed() < Duration::from_secs(30), "{:?}", log.health());
        }
        eprintln!("appends again {:?} after the broker is back", back.elapsed());
        read_up_to(&mut tail, &mut seen, LAST - 1 - away).await;
    }
    stop.store(true, Relaxed);
    let notes = appender.await.unwrap();
    while log.append(ID, P0, record(LAST, "end")).await.is_err() {}
    read_up_to(&mut tail, &mut seen, LAST).await;
    check(&log, &notes, &seen);
    log.close().await;
}

/// Three copies, of which two must be there: each broker is killed once, and appending goes on with the others.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_are_killed_lose_and_double_nothing_acknowledged() {
    let Some(brokers) = Broker::start_some(3, &[]) else {
        return;
    };
    let config = KafkaConfig {
        replication_factor: 3,
        min_insync_replicas: 2,
        delivery_timeout: Duration::from_secs(20),
        ..broker::config(brokers.bootstrap())
    };
    let log = KafkaLog::open(config).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let appender = tokio::spawn(keep_appending(log.clone(), stop.clone()));
    let mut tail = log.read(ID, P0, 0);
    let mut seen = Vec::new();
    for number in 1..=3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        brokers.kill(number);
        let killed = clock::monotonic();
        while log
            .append(ID, P0, record(LAST - number as u64, "x"))
            .await
            .is_err()
        {}
        eprintln!("appends {:?} after broker {number} was killed", killed.elapsed());
        read_up_to(&mut tail, &mut seen, LAST - number as u64).await;
        brokers.restart();
        // The one that is back must have caught up before the next goes.
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    stop.store(true, Relaxed);
    let notes = appender.await.unwrap();
    while log.append(ID, P0, record(LAST, "end")).await.is_err() {}
    read_up_to(&mut tail, &mut seen, LAST).await;
    check(&log, &notes, &seen);
    log.close().await;
}

/// A broker that takes connections and answers nothing: writers learn of it within seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_makes_appends_unknown_in_time() {
    let Some(broker) = Broker::start(&[]) else { return };
    let config = short(broker.bootstrap());
    let log = KafkaLog::open(config.clone()).await.unwrap();
    append_at_last(&log, 0).await;
    broker.signal("STOP");
    let begun = clock::monotonic();
    let answer = log.append(ID, P0, record(1, "meanwhile")).await;
    let took = begun.elapsed();
    assert!(matches!(answer, Err(AppendError::Unknown(_))), "{answer:?}");
    eprintln!("unknown after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(matches!(log.end(ID, P0).await, Err(LogError::Unreachable { .. })));
    broker.signal("CONT");
    let begun = clock::monotonic();
    while log.append(ID, P0, record(2, "after")).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    eprintln!("appends again after {:?}", begun.elapsed());
    // By one that is as patient as usual.
    let patient = KafkaConfig {
        request_timeout: KafkaConfig::default().request_timeout,
        ..config
    };
    let mut numbers: Vec<_> = KafkaLog::open(patient)
        .await
        .unwrap()
        .read_to_end(&[])
        .unwrap()
        .map(|e| e.unwrap().record.header.aggregate_version / 3)
        .collect();
    // What was tried again may be there more often.
    numbers.dedup();
    assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&2)));
    assert!(numbers.len() <= 3, "{numbers:?}");
}

/// Closing delivers what is queued; what cannot be is answered in time.
#[tokio::test(flavor = "multi_thread")]
async fn closing_answers_everyone() {
    let Some(broker) = Broker::start(&[]) else { return };
    let log = KafkaLog::open(broker::config(broker.bootstrap())).await.unwrap();
    let answers: Vec<_> = (0..500)
        .map(|i| log.append(ID, P0, record(i, vec![1; 1000])))
        .collect();
    log.close().await;
    assert!(future::join_all(answers).await.iter().all(Result::is_ok));

    let log = KafkaLog::open(short(broker.bootstrap())).await.unwrap();
    let before = append_at_last(&log, 0).await;
    let mut reader = log.read(ID, P0, before.offset + 1);
    broker.signal("STOP");
    let answers: Vec<_> = (0..5).map(|i| log.append(ID, P0, record(i, "lost"))).collect();
    let begun = clock::monotonic();
    log.close().await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let answers = future::join_all(answers).await;
    assert!(
        answers.iter().all(|a| matches!(a, Err(AppendError::Unknown(_)))),
        "{answers:?}"
    );
    let last = timeout(Duration::from_secs(20), reader.next()).await.unwrap();
    assert!(matches!(last, Some(Err(LogError::Closed))), "{last:?}");
    broker.signal("CONT");
}

/// A writer as small as can be: claims, folds, appends a few commits at once, and counts those that it may answer.
struct Owner {
    log: Arc<KafkaLog>,
    fence: Fence,
    next: Offset,
    commits: u64,
    id: u64,
}

impl Owner {
    fn record(&mut self, kind: RecordKind, epoch: u64, seq: u64) -> Record {
        self.commits += 1;
        let header = RecordHeader {
            kind,
            commit_id: CommitId(Uuid::from_u64_pair(self.id, self.commits)),
            epoch,
            seq,
            aggregate_version: 1,
        };
        Record {
            header,
            value: "{}".into(),
        }
    }

    /// Folds up to and with an offset.
    async fn fold(&mut self, last: Offset) -> Vec<CommitId> {
        let mut admitted = Vec::new();
        let mut entries = self.log.read(ID, P0, self.next);
        while self.next <= last {
            let entry = entries.next().await.unwrap().unwrap();
            self.next = entry.position.offset + 1;
            if self.fence.admit(entry.position.offset, &entry.record.header) == Verdict::Commit {
                admitted.push(entry.record.header.commit_id);
            }
        }
        admitted
    }

    /// Commits that were acknowledged and count.
    async fn reign(&mut self, rounds: u64) -> Vec<CommitId> {
        let claim = self.record(RecordKind::Claim, 0, 0);
        let claimed = self.log.append(ID, P0, claim).await.unwrap().offset;
        self.fold(claimed).await;
        let mut answered = Vec::new();
        for _ in 0..rounds {
            if self.fence.epoch != Some(claimed) {
                return answered;
            }
            let seq = self.fence.next_seq;
            let records: Vec<_> = (seq..seq + 4)
                .map(|seq| self.record(RecordKind::Commit, claimed, seq))
                .collect();
            let answers: Vec<_> = records
                .iter()
                .map(|r| self.log.append(ID, P0, r.clone()))
                .collect();
            let positions: Vec<Position> = future::join_all(answers)
                .await
                .into_iter()
                .map(Result::unwrap)
                .collect();
            // Always read, contiguous or not: what is admitted may be answered.
            let admitted = self.fold(positions[3].offset).await;
            let own = records.iter().map(|r| r.header.commit_id);
            answered.extend(own.filter(|id| admitted.contains(id)));
        }
        answered
    }
}

/// Two owners claim against each other through two logs: everyone agrees on what counts.
#[tokio::test(flavor = "multi_thread")]
async fn two_owners_of_one_partition_agree_on_what_counts() {
    let Some((config, log)) = broker::log().await else {
        return;
    };
    let other = KafkaLog::open(config).await.unwrap();
    let owners = [log.clone(), other.clone()]
        .into_iter()
        .enumerate()
        .map(|(id, log)| {
            tokio::spawn(async move {
                let mut owner = Owner {
                    log,
                    fence: Fence::default(),
                    next: 0,
                    commits: 0,
                    id: id as u64,
                };
                let mut answered = Vec::new();
                for reign in 0..10 {
                    answered.extend(owner.reign(3 + reign % 4).await);
                }
                answered
            })
        });
    let mut answered = Vec::new();
    for owner in owners.collect::<Vec<_>>() {
        answered.extend(owner.await.unwrap());
    }
    for log in [&log, &other] {
        let mut fence = Fence::default();
        let mut counts = Vec::new();
        for entry in log.read_to_end(&[]).unwrap() {
            let entry = entry.unwrap();
            if fence.admit(entry.position.offset, &entry.record.header) == Verdict::Commit {
                counts.push(entry.record.header.commit_id);
            }
        }
        assert!(
            answered.iter().all(|id| counts.contains(id)),
            "what was answered counts"
        );
        eprintln!(
            "{} of {} commits that count were answered",
            answered.len(),
            counts.len()
        );
        assert!(answered.len() > 20);
        let distinct: std::collections::BTreeSet<_> = counts.iter().map(|id| id.0).collect();
        assert_eq!(distinct.len(), counts.len());
    }
}
