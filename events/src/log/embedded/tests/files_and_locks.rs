//! One owner per directory, options that fit, readers beside the owner, and what ends a log.

use futures::StreamExt;

use super::*;
use crate::ids::Position;

#[tokio::test]
async fn a_directory_has_one_owner_at_a_time() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), two()).unwrap();
    let Err(LogError::Locked(place)) = open(dir.path(), two()) else {
        panic!("opened twice")
    };
    assert_eq!(place, dir.path().display().to_string());
    log.close().await.unwrap();
    log.close().await.unwrap();
    open(dir.path(), two()).unwrap();
}

#[tokio::test]
async fn another_number_of_partitions_is_refused_naming_both() {
    let dir = written(two(), 1).await;
    let wanted = EmbeddedOptions {
        partitions: 16,
        ..two()
    };
    let Err(LogError::Mismatch { what, .. }) = open(dir.path(), wanted) else {
        panic!("opened")
    };
    assert!(what.contains("it has 2 partitions, 16 are configured"), "{what}");
    assert_eq!(numbers(&open(dir.path(), two()).unwrap()), [0]);
}

#[test]
fn options_out_of_bounds_are_refused() {
    let dir = TempDir::new().unwrap();
    for bad in [
        EmbeddedOptions {
            partitions: 0,
            ..two()
        },
        EmbeddedOptions {
            segment_bytes: u32::MAX,
            ..two()
        },
        EmbeddedOptions {
            group_records: 0,
            ..two()
        },
        EmbeddedOptions {
            max_record_bytes: 1 << 30,
            ..two()
        },
    ] {
        assert!(matches!(open(dir.path(), bad), Err(LogError::Mismatch { .. })));
    }
}

#[tokio::test]
async fn identity_and_offsets_outlive_a_restart() {
    let dir = written(small(), 30).await;
    let log = open(dir.path(), small()).unwrap();
    let id = log.log_id();
    assert_eq!(log.append(ID, P0, record(30, "x")).await.unwrap().offset, 30);
    assert_eq!(
        log.append(Stream::Activity, P0, record(31, "x"))
            .await
            .unwrap()
            .offset,
        0
    );
    drop(log);
    let log = open(dir.path(), small()).unwrap();
    assert_eq!(log.log_id(), id);
    assert_eq!(numbers(&log), (0..32).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unused_log_and_an_unused_segment_can_be_opened() {
    let dir = written(two(), 0).await;
    assert_eq!(numbers(&open(dir.path(), two()).unwrap()), [0u64; 0]);
    let full = EmbeddedOptions {
        segment_bytes: 1,
        ..two()
    };
    let dir = written(full.clone(), 3).await;
    let last = *files::list(dir.path()).unwrap().segments.last().unwrap();
    let copy = copy(dir.path(), true);
    let (_, header) = segment::open(copy.path(), last).unwrap();
    let path = files::segment_path(copy.path(), last);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(header.len() as u64)
        .unwrap();
    let log = open(copy.path(), full).unwrap();
    assert_eq!(numbers(&log), [0, 1]);
    assert_eq!(log.append(ID, P0, record(2, "x")).await.unwrap().offset, 2);
}

#[tokio::test]
async fn everything_can_be_read_in_the_order_of_writing() {
    let dir = TempDir::new().unwrap();
    let log = open(dir.path(), small()).unwrap();
    for i in 0..60u64 {
        log.append(
            Stream::ALL[i as usize % 2],
            Partition((i / 2 % 2) as u16),
            record(i, "v"),
        )
        .await
        .unwrap();
    }
    assert_eq!(numbers(&log), (0..60).collect::<Vec<_>>());
    let everywhere: Vec<_> = Stream::ALL
        .iter()
        .flat_map(|s| {
            [0, 1].map(|p| Position {
                stream: *s,
                partition: Partition(p),
                offset: 13,
            })
        })
        .collect();
    let rest: Vec<_> = log.read_all(&everywhere).unwrap().map(Result::unwrap).collect();
    assert_eq!(rest.len(), 60 - 4 * 13);
    assert!(rest.iter().all(|e| e.position.offset >= 13));
    let foreign = Position {
        stream: ID,
        partition: Partition(2),
        offset: 0,
    };
    assert!(matches!(log.read_all(&[foreign]), Err(LogError::Mismatch { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_the_owner_sees_whole_records_in_order() {
    let dir = TempDir::new().unwrap();
    let log = open(
        dir.path(),
        EmbeddedOptions {
            segment_bytes: 200_000,
            ..two()
        },
    )
    .unwrap();
    let writing = tokio::spawn({
        let log = log.clone();
        async move {
            for round in 0..60u64 {
                let answers: Vec<_> = (0..50)
                    .map(|i| log.append(ID, P0, record(round * 50 + i, vec![7; 300])))
                    .collect();
                for answer in answers {
                    answer.await.unwrap();
                }
            }
        }
    });
    let mut seen = 0;
    while !writing.is_finished() {
        let known = log.end(ID, P0).await.unwrap();
        let path = dir.path().to_owned();
        let read = tokio::task::spawn_blocking(move || numbers(&EmbeddedLog::open_read_only(path).unwrap()));
        let read = read.await.unwrap();
        assert!(read.len() as u64 >= known && read.len() >= seen);
        assert_eq!(read, (0..read.len() as u64).collect::<Vec<_>>());
        seen = read.len();
    }
    writing.await.unwrap();
    let beside = EmbeddedLog::open_read_only(dir.path()).unwrap();
    assert_eq!(
        beside.append(ID, P0, record(1, "x")).await,
        Err(AppendError::Closed)
    );
    let read: Vec<_> = beside.read(ID, P0, 2990).collect().await;
    assert_eq!(read.len(), 11);
    assert!(matches!(read[10], Err(LogError::Closed)));
}

#[test]
fn reading_where_there_is_no_log_changes_nothing() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(
        EmbeddedLog::open_read_only(dir.path()),
        Err(LogError::Mismatch { .. })
    ));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn appends_in_flight_share_groups_of_bounded_size() {
    let dir = TempDir::new().unwrap();
    let log = open(
        dir.path(),
        EmbeddedOptions {
            group_records: 100,
            ..two()
        },
    )
    .unwrap();
    let answers: Vec<_> = (0..3000).map(|i| log.append(ID, P0, record(i, "v"))).collect();
    for answer in answers {
        answer.await.unwrap();
    }
    let groups = group_places(&first_segment(dir.path())).len() - 1;
    assert!((30..1500).contains(&groups), "{groups} groups");
}

#[test]
fn a_full_queue_is_told_at_once_and_takes_at_least_one() {
    let queue = Queue::new(100);
    let position = Position {
        stream: ID,
        partition: P0,
        offset: 0,
    };
    let _first = queue.push(0, position, record(1, vec![0; 500])).unwrap();
    let refused = queue
        .push(0, position, record(2, vec![0; 1]))
        .map(drop)
        .unwrap_err();
    assert!(matches!(refused, AppendError::Full(_)));
    assert!(refused.retryable());
    queue.close();
    assert_eq!(
        queue.push(0, position, record(3, "")).map(drop),
        Err(AppendError::Closed)
    );
}

#[tokio::test]
async fn a_disk_that_fails_ends_the_log() {
    let dir = written(two(), 2).await;
    let (found, mut tail) = recover::for_appending(dir.path(), 2).unwrap();
    recover::begin_appending(dir.path(), &tail).unwrap();
    // Not open for writing: each write fails.
    tail.file = File::open(first_segment(dir.path())).unwrap();
    let (ends, shared) = share(dir.path(), found);
    let log = EmbeddedLog::start(shared, ends, tail, lock(dir.path()).unwrap(), two()).unwrap();
    assert!(matches!(
        log.append(ID, P0, record(2, "x")).await,
        Err(AppendError::Unknown(_))
    ));
    assert_eq!(log.append(ID, P0, record(3, "x")).await, Err(AppendError::Closed));
    assert!(matches!(log.close().await, Err(LogError::Io { .. })));
    let read: Vec<_> = log.read(ID, P0, 0).collect().await;
    assert_eq!(read.len(), 3);
    assert!(matches!(read[2], Err(LogError::Closed)));
    assert!(!dir.path().join(files::CLEAN).exists());
    drop(log);
    assert_eq!(numbers(&open(dir.path(), two()).unwrap()), [0, 1]);
}
