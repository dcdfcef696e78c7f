//! The contract of [`EventLog`] as tests, written once and run against every backend.
//!
//! A backend brings a [`Subject`] and the macro [`conformance!`](crate::conformance) makes the tests. They assume no
//! more than the contract: offsets ascend, with gaps or without.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests; a failure is meant to end them"
)]

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{self, BoxFuture};
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use super::{AppendError, Entry, EventLog, LogError, Record, RecordHeader, RecordKind};
use crate::ids::{CommitId, Offset, Partition, Position, Stream};

/// A backend under test.
pub trait Subject: Send {
    /// The log as it is open now. It has at least two partitions.
    fn log(&self) -> Arc<dyn EventLog>;
    /// Ends the log as a restart would, and opens it again.
    fn reopen(&mut self) -> BoxFuture<'_, ()>;
    /// Shuts the log down.
    fn close(&mut self) -> BoxFuture<'_, ()>;
    /// Largest value that the log takes, in bytes.
    fn max_record_bytes(&self) -> usize;
}

/// Makes one test of each function of the suite. `$subject` is an expression that gives a fresh, empty [`Subject`].
#[macro_export]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance!(@each $subject;
            offsets_ascend_in_the_order_of_the_calls
            what_was_acknowledged_outlives_a_restart
            records_come_back_whole
            many_appends_are_in_flight_together
            a_thread_may_block_on_many_appends
            reading_begins_at_any_offset
            a_waiting_reader_is_woken
            the_end_lies_above_what_was_acknowledged
            too_large_is_refused_and_not_written
            a_closed_log_takes_nothing
            partitions_and_streams_are_apart
            ten_thousand_records
        );
    };
    (@each $subject:expr; $($name:ident)*) => { $(
        #[tokio::test]
        async fn $name() {
            let mut subject = $subject;
            $crate::log::conformance::$name(&mut subject).await;
        }
    )* };
}

const P0: Partition = Partition(0);
const P1: Partition = Partition(1);
const ID: Stream = Stream::Identity;

/// A commit of which the number can be told again.
pub fn record(number: u64, value: impl Into<Bytes>) -> Record {
    let header = RecordHeader {
        kind: if number.is_multiple_of(7) {
            RecordKind::Claim
        } else {
            RecordKind::Commit
        },
        commit_id: CommitId(Uuid::from_u128(u128::from(number) << 64 | 1)),
        epoch: number / 7,
        seq: number % 7,
        aggregate_version: number * 3,
    };
    Record {
        header,
        value: value.into(),
    }
}

fn text(number: u64) -> Record {
    record(number, format!("value {number}"))
}

/// Reads `n` records from `from` on.
pub async fn take(
    log: &dyn EventLog,
    stream: Stream,
    partition: Partition,
    from: Offset,
    n: usize,
) -> Vec<Entry> {
    let entries = log
        .read(stream, partition, from)
        .take(n)
        .collect::<Vec<_>>()
        .await;
    entries.into_iter().map(Result::unwrap).collect()
}

async fn append(log: &dyn EventLog, record: Record) -> Position {
    log.append(ID, P0, record).await.unwrap()
}

async fn append_all(log: &dyn EventLog, records: &[Record]) -> Vec<Position> {
    let answers: Vec<_> = records.iter().map(|r| log.append(ID, P0, r.clone())).collect();
    future::join_all(answers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

fn entries(positions: &[Position], records: &[Record]) -> Vec<Entry> {
    let pairs = positions.iter().zip(records);
    pairs
        .map(|(p, r)| Entry {
            position: *p,
            record: r.clone(),
        })
        .collect()
}

/// *In order*, as far as one caller can see.
pub async fn offsets_ascend_in_the_order_of_the_calls(subject: &mut dyn Subject) {
    let log = subject.log();
    let records: Vec<_> = (0..100).map(text).collect();
    let positions = append_all(&*log, &records).await;
    assert!(positions.windows(2).all(|w| w[0].offset < w[1].offset));
    assert!(positions.iter().all(|p| (p.stream, p.partition) == (ID, P0)));
    assert_eq!(take(&*log, ID, P0, 0, 100).await, entries(&positions, &records));
}

/// *Durable*, over several restarts, with offsets that go on.
pub async fn what_was_acknowledged_outlives_a_restart(subject: &mut dyn Subject) {
    let mut written = (Vec::new(), Vec::new());
    for round in 0..4u64 {
        let records: Vec<_> = (round * 10..round * 10 + 10).map(text).collect();
        written.0.extend(append_all(&*subject.log(), &records).await);
        written.1.extend(records);
        subject.reopen().await;
        let log = subject.log();
        assert_eq!(
            take(&*log, ID, P0, 0, written.0.len()).await,
            entries(&written.0, &written.1)
        );
        assert!(log.end(ID, P0).await.unwrap() > written.0.last().unwrap().offset);
    }
    assert!(written.0.windows(2).all(|w| w[0].offset < w[1].offset));
}

/// *All or nothing*: every size up to the limit, every field.
pub async fn records_come_back_whole(subject: &mut dyn Subject) {
    let log = subject.log();
    let largest = subject.max_record_bytes();
    for (i, size) in [0, 1, 4095, 4096, 4097, 70_000, largest].into_iter().enumerate() {
        let value: Vec<u8> = (0..size).map(|b| (b * 31 + i) as u8).collect();
        let sent = record(i as u64 + 1, value);
        let position = append(&*log, sent.clone()).await;
        assert_eq!(
            take(&*log, ID, P0, position.offset, 1).await,
            [Entry {
                position,
                record: sent
            }],
            "{size}"
        );
    }
}

/// *In order* with several callers at once.
pub async fn many_appends_are_in_flight_together(subject: &mut dyn Subject) {
    let log = subject.log();
    let tasks: Vec<_> = (0..8u64)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                let answers: Vec<_> = (0..50)
                    .map(|i| log.append(ID, Partition((i % 2) as u16), text(task * 50 + i)))
                    .collect();
                future::join_all(answers)
                    .await
                    .into_iter()
                    .map(Result::unwrap)
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut seen = Vec::new();
    for task in tasks {
        let positions = task.await.unwrap();
        for partition in [P0, P1] {
            let own: Vec<_> = positions.iter().filter(|p| p.partition == partition).collect();
            assert!(
                own.windows(2).all(|w| w[0].offset < w[1].offset),
                "each caller's order is kept"
            );
        }
        seen.extend(positions);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 400, "no offset is given twice");
}

/// Whoever waits may do so in any way, and in a task of a runtime that allows each task only so many steps at once.
pub async fn a_thread_may_block_on_many_appends(subject: &mut dyn Subject) {
    let log = subject.log();
    let answers: Vec<_> = (0..1000).map(|n| log.append(ID, P0, text(n))).collect();
    let positions = futures::executor::block_on(future::join_all(answers));
    assert!(positions.iter().all(Result::is_ok));
}

/// *Reading* from each offset, and from beyond the end.
pub async fn reading_begins_at_any_offset(subject: &mut dyn Subject) {
    let log = subject.log();
    let records: Vec<_> = (0..50).map(text).collect();
    let positions = append_all(&*log, &records).await;
    let all = entries(&positions, &records);
    for (i, position) in positions.iter().enumerate() {
        assert_eq!(take(&*log, ID, P0, position.offset, 50 - i).await, all[i..]);
    }
    let end = log.end(ID, P0).await.unwrap();
    let mut beyond = log.read(ID, P0, end + 5);
    assert!(beyond.next().now_or_never().is_none(), "nothing is there yet");
    let mut last = None;
    while last.is_none_or(|p: Position| p.offset < end + 5) {
        last = Some(append(&*log, text(99)).await);
    }
    assert_eq!(beyond.next().await.unwrap().unwrap().position, last.unwrap());
}

/// *Reading*: what comes later arrives without being asked for again.
pub async fn a_waiting_reader_is_woken(subject: &mut dyn Subject) {
    let log = subject.log();
    let tail = {
        let log = log.clone();
        tokio::spawn(async move { take(&*log, ID, P1, 0, 20).await })
    };
    let mut sent = (Vec::new(), Vec::new());
    for i in 0..20 {
        tokio::task::yield_now().await;
        sent.0.push(log.append(ID, P1, text(i)).await.unwrap());
        sent.1.push(text(i));
    }
    assert_eq!(tail.await.unwrap(), entries(&sent.0, &sent.1));
}

/// `end` at every moment, and `ends` in the order that is asked for.
pub async fn the_end_lies_above_what_was_acknowledged(subject: &mut dyn Subject) {
    let log = subject.log();
    assert_eq!(log.end(ID, P0).await.unwrap(), 0);
    for i in 0..20 {
        let position = append(&*log, text(i)).await;
        assert!(log.end(ID, P0).await.unwrap() > position.offset);
    }
    assert_eq!(log.end(ID, P1).await.unwrap(), 0);
    let ends = log.ends(&[(ID, P1), (ID, P0)]).await.unwrap();
    assert_eq!(ends, [0, log.end(ID, P0).await.unwrap()]);
}

/// `TooLarge` names size and limit.
pub async fn too_large_is_refused_and_not_written(subject: &mut dyn Subject) {
    let log = subject.log();
    let limit = subject.max_record_bytes();
    let refused = log.append(ID, P0, record(1, vec![0; limit + 1])).await;
    assert_eq!(
        refused,
        Err(AppendError::TooLarge {
            size: limit + 1,
            limit
        })
    );
    let position = append(&*log, text(2)).await;
    assert_eq!(
        take(&*log, ID, P0, 0, 1).await,
        [Entry {
            position,
            record: text(2)
        }]
    );
}

/// `Closed`, for appends and, after what is durable, for readers.
pub async fn a_closed_log_takes_nothing(subject: &mut dyn Subject) {
    let log = subject.log();
    let position = append(&*log, text(1)).await;
    let mut reader = log.read(ID, P0, 0);
    subject.close().await;
    assert_eq!(log.append(ID, P0, text(2)).await, Err(AppendError::Closed));
    assert_eq!(
        reader.next().await.unwrap().unwrap().position,
        position,
        "what is durable can still be read"
    );
    assert!(matches!(reader.next().await, Some(Err(LogError::Closed))));
    assert!(reader.next().await.is_none());
}

/// Each pair of stream and partition has its own offsets; others are refused.
pub async fn partitions_and_streams_are_apart(subject: &mut dyn Subject) {
    let log = subject.log();
    let all: Vec<_> = Stream::ALL
        .iter()
        .flat_map(|s| (0..log.partitions()).map(|p| (*s, Partition(p))))
        .collect();
    let mut answers = Vec::new();
    for i in 0..20u64 {
        for (slot, (stream, partition)) in all.iter().enumerate() {
            answers.push(log.append(*stream, *partition, text(slot as u64 * 1000 + i)));
        }
    }
    let positions: Vec<_> = future::join_all(answers)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for (slot, (stream, partition)) in all.iter().enumerate() {
        let own: Vec<_> = positions.iter().skip(slot).step_by(all.len()).copied().collect();
        let records: Vec<_> = (0..20).map(|i| text(slot as u64 * 1000 + i)).collect();
        assert_eq!(
            take(&*log, *stream, *partition, 0, 20).await,
            entries(&own, &records)
        );
    }
    let outside = Partition(log.partitions());
    assert!(log.append(ID, outside, text(1)).await.is_err());
    assert!(log.end(ID, outside).await.is_err());
    assert!(log.ends(&[(ID, P0), (ID, outside)]).await.is_err());
    assert!(matches!(
        log.read(ID, outside, 0).next().await,
        Some(Err(LogError::Mismatch { .. }))
    ));
}

/// More than one piece, group and buffer, before and after a restart.
pub async fn ten_thousand_records(subject: &mut dyn Subject) {
    let log = subject.log();
    let records: Vec<_> = (0..10_000).map(text).collect();
    let positions = append_all(&*log, &records).await;
    assert!(take(&*log, ID, P0, 0, 10_000).await == entries(&positions, &records));
    subject.reopen().await;
    assert!(take(&*subject.log(), ID, P0, 0, 10_000).await == entries(&positions, &records));
}
