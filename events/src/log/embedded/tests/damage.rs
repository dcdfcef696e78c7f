//! Torn tails are repaired; all other damage is refused with its place.

use super::*;

/// Three groups of one record each; the bytes of the file and where the groups begin.
async fn three_groups() -> (TempDir, Vec<u8>, Vec<usize>) {
    let dir = written(two(), 3).await;
    let bytes = std::fs::read(first_segment(dir.path())).unwrap();
    let places = group_places(&first_segment(dir.path()));
    assert_eq!(places.len(), 4);
    (dir, bytes, places)
}

/// The log after a crash that left these bytes in its only segment.
fn crashed_with(dir: &TempDir, bytes: &[u8]) -> TempDir {
    let copy = copy(dir.path(), true);
    std::fs::write(first_segment(copy.path()), bytes).unwrap();
    copy
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_off_and_writing_goes_on() {
    let (dir, bytes, places) = three_groups().await;
    for len in places[2]..bytes.len() {
        let copy = crashed_with(&dir, &bytes[..len]);
        let log = open(copy.path(), two()).unwrap();
        assert_eq!(numbers(&log), [0, 1], "cut to {len}");
        let position = log.append(ID, P0, record(9, "next")).await.unwrap();
        assert_eq!(position.offset, 2);
        log.close().await.unwrap();
        drop(log);
        assert_eq!(numbers(&open(copy.path(), two()).unwrap()), [0, 1, 9]);
    }
}

#[tokio::test]
async fn pages_that_were_not_written_are_cut_off() {
    let (dir, bytes, places) = three_groups().await;
    for at in places[2]..bytes.len() {
        let mut zeroed = bytes.clone();
        zeroed[at..].fill(0);
        if zeroed != bytes {
            let copy = crashed_with(&dir, &zeroed);
            assert_eq!(
                numbers(&open(copy.path(), two()).unwrap()),
                [0, 1],
                "zeros from {at}"
            );
        }
    }
    for rubbish in [vec![0; 5000], vec![0xff; 3], b"\xff\xfeGG\xff\xfeGG".repeat(40)] {
        let copy = crashed_with(&dir, &[bytes.as_slice(), &rubbish].concat());
        assert_eq!(numbers(&open(copy.path(), two()).unwrap()), [0, 1, 2]);
        assert_eq!(
            std::fs::read(first_segment(copy.path())).unwrap(),
            bytes,
            "cut back"
        );
    }
}

#[tokio::test]
async fn a_flipped_bit_before_the_last_group_is_refused_with_its_place() {
    let (dir, bytes, places) = three_groups().await;
    for at in 0..places[2] {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let copy = crashed_with(&dir, &bad);
        match open(copy.path(), two()) {
            Err(LogError::Damaged { place, .. }) => {
                assert!(place.contains("0000000001.log, byte "), "{place}");
                let byte: usize = place.rsplit(' ').next().unwrap().parse().unwrap();
                assert!(byte <= at, "byte {at}: {place}");
            }
            // The version in the header: a file from elsewhere rather than a broken one.
            Err(LogError::Mismatch { .. }) if (8..10).contains(&at) => {}
            other => panic!("byte {at}: {other:?}"),
        }
        assert_eq!(
            std::fs::read(first_segment(copy.path())).unwrap(),
            bad,
            "nothing was changed"
        );
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_last_group_is_a_torn_tail_after_a_crash_and_damage_after_a_clean_end() {
    let (dir, bytes, places) = three_groups().await;
    for at in places[2]..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let copy_of_crash = crashed_with(&dir, &bad);
        assert_eq!(
            numbers(&open(copy_of_crash.path(), two()).unwrap()),
            [0, 1],
            "byte {at}"
        );
        let clean = copy(dir.path(), false);
        std::fs::write(first_segment(clean.path()), &bad).unwrap();
        damage(clean.path(), two());
        damage(clean.path(), two());
    }
}

#[tokio::test]
async fn after_a_clean_end_no_byte_may_be_missing_or_added() {
    let (dir, bytes, places) = three_groups().await;
    for len in [places[1], places[2], places[2] + 1, bytes.len() - 1] {
        let copy = copy(dir.path(), false);
        std::fs::write(first_segment(copy.path()), &bytes[..len]).unwrap();
        assert!(matches!(
            EmbeddedLog::open_read_only(copy.path()),
            Err(LogError::Damaged { .. })
        ));
        damage(copy.path(), two());
    }
    let longer = copy(dir.path(), false);
    std::fs::write(first_segment(longer.path()), [bytes.as_slice(), &[0]].concat()).unwrap();
    damage(longer.path(), two());
    let unreadable = copy(dir.path(), false);
    std::fs::write(unreadable.path().join(files::CLEAN), "x").unwrap();
    assert!(damage(unreadable.path(), two()).contains("clean"));
}

#[tokio::test]
async fn a_group_that_is_missing_is_refused() {
    let (dir, bytes, places) = three_groups().await;
    let gap = [&bytes[..places[1]], &bytes[places[2]..]].concat();
    damage(crashed_with(&dir, &gap).path(), two());
}

#[tokio::test]
async fn sealed_segments_are_checked_at_start_or_by_scrub() {
    let dir = written(small(), 40).await;
    let sealed = files::segment_path(dir.path(), 2);
    let bytes = std::fs::read(&sealed).unwrap();
    let unchecked = EmbeddedOptions {
        check_at_start: Duration::ZERO,
        ..small()
    };
    for at in (200..bytes.len()).step_by(37) {
        let copy = copy(dir.path(), at % 2 == 0);
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        std::fs::write(files::segment_path(copy.path(), 2), &bad).unwrap();
        assert!(
            damage(copy.path(), small()).contains("0000000002.log"),
            "byte {at}"
        );
        let log = open(copy.path(), unchecked.clone()).unwrap();
        let Err(LogError::Damaged { place, .. }) = log.scrub() else {
            panic!("byte {at}")
        };
        assert!(place.contains("0000000002.log"), "{place}");
        assert!(
            log.read_all(&[])
                .unwrap()
                .any(|r| matches!(r, Err(LogError::Damaged { .. })))
        );
        let read: Vec<_> = log.read(ID, P0, 0).take(40).collect().await;
        assert!(matches!(read.last(), Some(Err(LogError::Damaged { .. }) | Ok(_))));
    }
    let log = open(dir.path(), small()).unwrap();
    let scrubbed = log.scrub().unwrap();
    assert_eq!(scrubbed.records, 40);
    assert!(scrubbed.segments > 3);
}

#[tokio::test]
async fn a_segment_that_is_missing_or_short_is_refused() {
    let dir = written(small(), 40).await;
    for crashed in [false, true] {
        for (number, cut) in [(1, None), (2, None), (2, Some(300)), (3, Some(0))] {
            let copy = copy(dir.path(), crashed);
            let path = files::segment_path(copy.path(), number);
            match cut {
                None => std::fs::remove_file(&path).unwrap(),
                Some(len) => File::options()
                    .write(true)
                    .open(&path)
                    .unwrap()
                    .set_len(len)
                    .unwrap(),
            }
            let place = damage(copy.path(), small());
            assert!(place.contains(&format!("{number:010}.log")), "{place}");
        }
    }
    let copy = copy(dir.path(), true);
    for number in files::list(copy.path()).unwrap().segments {
        std::fs::remove_file(files::segment_path(copy.path(), number)).unwrap();
    }
    damage(copy.path(), small());
}

#[tokio::test]
async fn a_segment_of_another_log_is_refused() {
    let (one, other) = (written(small(), 40).await, written(small(), 40).await);
    let path = files::segment_path(other.path(), 2);
    std::fs::copy(path, files::segment_path(one.path(), 2)).unwrap();
    assert!(damage(one.path(), small()).contains("0000000002.log"));
}

#[tokio::test]
async fn an_index_that_is_missing_or_wrong_is_made_again() {
    let dir = written(small(), 40).await;
    let expected = numbers(&EmbeddedLog::open_read_only(dir.path()).unwrap());
    let index = std::fs::read(files::index_path(dir.path(), 2)).unwrap();
    let harmed: [Option<Vec<u8>>; 4] = [
        None,
        Some(Vec::new()),
        Some(index[..index.len() - 1].to_vec()),
        Some([&index[..20], &[0xff], &index[21..]].concat()),
    ];
    for bytes in harmed {
        let copy = copy(dir.path(), false);
        let path = files::index_path(copy.path(), 2);
        match bytes {
            None => std::fs::remove_file(&path).unwrap(),
            Some(b) => std::fs::write(&path, b).unwrap(),
        }
        let log = open(copy.path(), small()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), index);
        let read = take(&*log, ID, P0, 0, 40).await;
        assert_eq!(
            read.iter()
                .map(|e| e.record.header.aggregate_version / 3)
                .collect::<Vec<_>>(),
            expected
        );
    }
}
