//! Whatever is appended, in whatever groups, however often the log ends: what was acknowledged is what is read.

use std::collections::BTreeMap;

use futures::future;
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    /// Appends in flight together: stream, partition, size.
    Append(Vec<(usize, u16, usize)>),
    Close,
    /// The process ends without closing, and leaves this much of a group that was never acknowledged.
    Crash(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let append = prop::collection::vec((0..2usize, 0..2u16, 0..600usize), 1..12).prop_map(Act::Append);
    let crash = (0..40usize).prop_map(Act::Crash);
    prop::collection::vec(prop_oneof![6 => append, 1 => Just(Act::Close), 1 => crash], 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_was_acknowledged_is_what_is_read(acts in acts(), segment_bytes in 200u32..6000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(acts, EmbeddedOptions { segment_bytes, ..two() }));
    }
}

async fn check(acts: Vec<Act>, options: EmbeddedOptions) {
    let mut dir = TempDir::new().unwrap();
    let mut log = open(dir.path(), options.clone()).unwrap();
    let mut expected = Vec::new();
    for act in acts {
        match act {
            Act::Append(records) => {
                let sent = records.iter().map(|(stream, partition, size)| {
                    let record = record(expected.len() as u64, vec![*size as u8; *size]);
                    (
                        log.append(Stream::ALL[*stream], Partition(*partition), record.clone()),
                        record,
                    )
                });
                let (answers, records): (Vec<_>, Vec<_>) = sent.unzip();
                let positions = future::join_all(answers).await;
                expected.extend(positions.into_iter().zip(records).map(|(p, record)| Entry {
                    position: p.unwrap(),
                    record,
                }));
            }
            Act::Close => {
                log.close().await.unwrap();
                drop(log);
                log = open(dir.path(), options.clone()).unwrap();
            }
            Act::Crash(torn) => {
                let crashed = copy(dir.path(), true);
                drop(log);
                let last = *files::list(crashed.path()).unwrap().segments.last().unwrap();
                let path = files::segment_path(crashed.path(), last);
                let torn = [&format::GROUP_MAGIC[..], &[9; 36]].concat()[..torn].to_vec();
                std::fs::write(&path, [std::fs::read(&path).unwrap(), torn].concat()).unwrap();
                dir = crashed;
                log = open(dir.path(), options.clone()).unwrap();
            }
        }
        assert_eq!(all(&log), expected);
    }
    let mut by_partition: BTreeMap<_, Vec<Entry>> = BTreeMap::new();
    for entry in &expected {
        by_partition
            .entry((entry.position.stream, entry.position.partition))
            .or_default()
            .push(entry.clone());
    }
    for ((stream, partition), entries) in by_partition {
        assert_eq!(log.end(stream, partition).await.unwrap(), entries.len() as u64);
        let from = entries.len() / 2;
        assert_eq!(
            take(&*log, stream, partition, from as u64, entries.len() - from).await,
            entries[from..]
        );
    }
    assert_eq!(log.scrub().unwrap().records, expected.len() as u64);
}
