//! The process ends at each write point of the embedded log; what was acknowledged is there, and nothing is there twice.
//! Run with `--features failpoints`: the test starts itself as the process that ends.
#![cfg(feature = "failpoints")]
#![allow(clippy::unwrap_used, reason = "a test; clippy does not see that of helpers")]

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use futures::future;
use gatelog_events::ids::{CommitId, Partition, Stream};
use gatelog_events::log::embedded::{EmbeddedLog, EmbeddedOptions, FAILPOINTS};
use gatelog_events::log::{EventLog, Record, RecordHeader, RecordKind};
use uuid::Uuid;

const DIR: &str = "GATELOG_TEST_LOG";
const SIGABRT: i32 = 6;
const IN_FLIGHT: u64 = 3;

fn options() -> EmbeddedOptions {
    EmbeddedOptions {
        partitions: 2,
        segment_bytes: 1500,
        ..Default::default()
    }
}

fn record(number: u64) -> Record {
    let header = RecordHeader {
        kind: RecordKind::Commit,
        commit_id: CommitId(Uuid::from_u128(number.into())),
        epoch: 0,
        seq: number,
        aggregate_version: 1,
    };
    Record {
        header,
        value: vec![number as u8; 50].into(),
    }
}

/// Numbers of all records, in the order in which they were written. Each is as it was sent.
fn stored(log: &EmbeddedLog) -> Vec<u64> {
    let entries = log.read_all(&[]).unwrap().map(Result::unwrap);
    entries
        .map(|e| {
            assert_eq!(e.record, record(e.record.header.seq));
            e.record.header.seq
        })
        .collect()
}

/// Not a test of its own: the process that ends. Goes on where the log ended; notes what was acknowledged.
#[test]
fn appends_until_the_process_ends() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut notes = fs::File::options()
        .append(true)
        .create(true)
        .open(Path::new(&dir).join("notes"))
        .unwrap();
    for _ in 0..2 {
        let log = EmbeddedLog::open(Path::new(&dir).join("log"), options()).unwrap();
        let first = stored(&log).len() as u64;
        for at in (first..first + 60).step_by(IN_FLIGHT as usize) {
            let answers = (at..at + IN_FLIGHT).map(|n| {
                log.append(
                    Stream::ALL[n as usize % 2],
                    Partition((n / 2 % 2) as u16),
                    record(n),
                )
            });
            let answers: Vec<_> = answers.collect();
            assert!(
                runtime
                    .block_on(future::join_all(answers))
                    .iter()
                    .all(Result::is_ok)
            );
            writeln!(notes, "{}", at + IN_FLIGHT).unwrap();
        }
        runtime.block_on(log.close()).unwrap();
    }
}

/// Runs the process; whether the fail point ended it.
fn run(dir: &Path, failpoint: &str) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "appends_until_the_process_ends"])
        .env(DIR, dir)
        .env("GATELOG_FAILPOINT", failpoint)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(
        status.success() || status.signal() == Some(SIGABRT),
        "{failpoint}: {status}"
    );
    !status.success()
}

#[test]
fn a_crash_at_any_write_point_loses_nothing_that_was_acknowledged() {
    for failpoint in FAILPOINTS {
        let mut ended = false;
        for nth in [1, 2, 5] {
            let dir = tempfile::tempdir().unwrap();
            // A torn tail to begin with.
            assert!(run(dir.path(), "log.mid_write:9"));
            ended |= run(dir.path(), &format!("{failpoint}:{nth}"));
            run(dir.path(), "log.before_sync:4");

            let notes = fs::read_to_string(dir.path().join("notes")).unwrap();
            let acknowledged: u64 = notes.lines().map(|l| l.parse().unwrap()).max().unwrap();
            let log = EmbeddedLog::open(dir.path().join("log"), options()).unwrap();
            let stored = stored(&log);
            let place = format!("{failpoint}:{nth}");
            assert_eq!(stored, (0..stored.len() as u64).collect::<Vec<_>>(), "{place}");
            assert!(
                stored.len() as u64 >= acknowledged,
                "{place}: {} of {acknowledged}",
                stored.len()
            );
            assert_eq!(log.scrub().unwrap().records, stored.len() as u64, "{place}");
        }
        assert!(ended, "{failpoint} is never passed");
    }
}
