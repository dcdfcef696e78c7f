//! Folding the log from where the tables were left, up to its end.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use futures::executor::block_on;
use futures::future::join_all;
use gatelog_events::ids::{Offset, Partition, Position, Stream};
use gatelog_events::log::{Entry, EntryIter, EventLog, LogError};
use gatelog_events::seal::{KeySource, KeySourceError};

use crate::folder::{Decoded, Folder, Share, Touched};
use crate::projection::{Checkpoint, Projection};
use crate::store::{Store, StoreError};

/// Records folded between two writes.
pub const BATCH: usize = 16_384;

/// Why a catch-up ended early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatchUpError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Store(#[from] StoreError),
    /// What was folded once is not in the log any more.
    #[error(
        "the log is shorter than what was read of it: the read model {view} has folded {stream}:{partition} up to offset \
         {folded}, and that partition now ends at {end}. Records were lost, or the log was replaced: bring it back from a \
         backup, or, if it is right as it is, remove {place}, and the read models are built from it"
    )]
    Ahead {
        view: &'static str,
        stream: Stream,
        partition: Partition,
        folded: Offset,
        end: Offset,
        place: String,
    },
    /// Folded without it, the record would stop the read models of its partition for good.
    #[error("what {position} says cannot be read without its subject's key: {source}")]
    Key {
        position: Position,
        source: KeySourceError,
    },
}

/// Refuses where a read model has folded more than the log holds. Says of which partitions the log does not tell the end at
/// present, if it tells any: of one whose leader is new, Kafka may not know it before the next record comes. Blocks.
pub fn check_ends(
    store: &Store,
    projections: &[Arc<dyn Projection>],
    log: &dyn EventLog,
) -> Result<Vec<(Stream, Partition)>, CatchUpError> {
    let (ends, silent) = ends(log)?;
    for projection in projections {
        let Some(table) = store.active(projection.name()) else {
            continue;
        };
        let checkpoint = Checkpoint::load(store, &table)?;
        for ((stream, partition), end) in &ends {
            let (stream, partition) = (*stream, *partition);
            let folded = checkpoint.get(stream, partition).next;
            if folded > *end {
                return Err(CatchUpError::Ahead {
                    view: projection.name(),
                    stream,
                    partition,
                    folded,
                    end: *end,
                    place: store.place().display().to_string(),
                });
            }
        }
    }
    Ok(silent)
}

type Place = (Stream, Partition);
type Ends = Vec<(Place, Offset)>;

/// Where each partition ends, and those of which that is not told.
fn ends(log: &dyn EventLog) -> Result<(Ends, Vec<Place>), LogError> {
    let places = Stream::ALL
        .into_iter()
        .flat_map(|s| (0..log.partitions()).map(move |p| (s, Partition(p))));
    // Who did not say so a moment ago is not asked: all others would wait until that question is given up.
    let speaks =
        |(s, p): &Place| log.is_writable(*s, *p) || log.heard_end(*s, *p).is_some_and(|h| h.is_current);
    let (asked, mut silent): (Vec<_>, Vec<_>) = places.partition(speaks);
    let answers = block_on(join_all(asked.iter().map(|(s, p)| log.end(*s, *p))));
    let (mut ends, mut failed) = (Vec::with_capacity(asked.len()), None);
    for (place, answer) in asked.into_iter().zip(answers) {
        match answer {
            Ok(end) => ends.push((place, end)),
            Err(e @ (LogError::Io { .. } | LogError::Unreachable { .. })) => {
                silent.push(place);
                failed.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    match failed {
        Some(e) if ends.is_empty() => Err(e),
        _ => Ok((ends, silent)),
    }
}

/// Records that are handed over at once, and how many such groups may wait for a thread that folds: as many as it folds
/// between two writes, so that reading goes on while it writes. Some tens of megabytes in all.
const GROUP: usize = 256;
const GROUPS: usize = BATCH / GROUP;

/// Folds everything up to the present end of the log, and says how many records that were. `seen` is shown each
/// record, and what was read in it, after some of the members folded it, in memory but perhaps not in the store.
///
/// Reading, checking and opening go on in a thread of their own, ahead of the folds, and half of the members are folded in
/// another one.
pub fn catch_up(
    folder: &mut Folder,
    log: &dyn EventLog,
    keys: &dyn KeySource,
    seen: impl FnMut(&Entry, &Decoded),
) -> Result<u64, CatchUpError> {
    catch_up_but(&[], folder, log, keys, seen)
}

/// The same, without some partitions.
pub fn catch_up_but(
    left_out: &[(Stream, Partition)],
    folder: &mut Folder,
    log: &dyn EventLog,
    keys: &dyn KeySource,
    mut seen: impl FnMut(&Entry, &Decoded),
) -> Result<u64, CatchUpError> {
    let mut starts = folder.starts(log.partitions());
    for start in &mut starts {
        if left_out.contains(&(start.stream, start.partition)) {
            start.offset = Offset::MAX;
        }
    }
    let entries = log.read_to_end(&starts)?;
    let (mut here, mut there) = folder.shares();
    std::thread::scope(|scope| {
        let (to_here, groups) = mpsc::sync_channel(GROUPS);
        let mut outs = vec![to_here];
        let mut beside = None;
        if !there.is_empty() {
            let (to_there, others) = mpsc::sync_channel(GROUPS);
            outs.push(to_there);
            let thread = std::thread::Builder::new()
                .name("folder".to_owned())
                .spawn_scoped(scope, move || fold(&mut there, &others, |_, _| {}))
                .map_err(no_thread)?;
            beside = Some(thread);
        }
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn_scoped(scope, move || read(entries, keys, &outs))
            .map_err(no_thread)?;
        let mut folded = 0;
        let mine = fold(&mut here, &groups, |entry, record| {
            seen(entry, record);
            folded += 1;
        });
        // The reader waits for nobody who has given up.
        drop(groups);
        if let Some(thread) = beside {
            thread.join().unwrap_or_else(|_| Err(LogError::Closed.into()))?;
        }
        mine.map(|()| folded)
    })
}

fn no_thread(e: std::io::Error) -> LogError {
    LogError::Io {
        place: "a thread that reads the log".to_owned(),
        source: Arc::new(e),
    }
}

/// Folds what comes, in order, and writes from time to time.
fn fold(
    share: &mut Share<'_>,
    groups: &mpsc::Receiver<Group>,
    mut seen: impl FnMut(&Entry, &Decoded),
) -> Result<(), CatchUpError> {
    let mut pending = 0;
    let mut touched = Touched::new();
    for group in groups {
        let group = group?;
        share.fold(group.iter().map(|(_, record)| record));
        touched.extend(group.iter().map(|(_, record)| record.place()));
        group.iter().for_each(|(entry, record)| seen(entry, record));
        pending += group.len();
        if pending >= BATCH {
            share.write(&std::mem::take(&mut touched))?;
            pending = 0;
        }
    }
    share.write(&touched)?;
    Ok(())
}

/// How often a key store that cannot answer is asked for a key, and the time between.
const ASKED: usize = 5;
const BETWEEN: Duration = Duration::from_secs(1);

fn read_one(entry: &Entry, keys: &dyn KeySource) -> Result<Decoded, CatchUpError> {
    let mut asked = 1;
    loop {
        let record = Decoded::read(entry, keys);
        match record.lacks_key() {
            None => return Ok(record),
            Some(source) if asked == ASKED => {
                return Err(CatchUpError::Key {
                    position: entry.position,
                    source: source.clone(),
                });
            }
            Some(_) => asked += 1,
        }
        std::thread::sleep(BETWEEN);
    }
}

type Group = Result<Arc<Vec<(Entry, Decoded)>>, CatchUpError>;

/// Reads until the end, an error, or until somebody does not fold any more.
fn read(entries: EntryIter, keys: &dyn KeySource, outs: &[mpsc::SyncSender<Group>]) {
    let send = |group: Group| outs.iter().all(|out| out.send(group.clone()).is_ok());
    let mut group = Vec::with_capacity(GROUP);
    for entry in entries {
        let read = entry.map_err(CatchUpError::from).and_then(|entry| {
            let record = read_one(&entry, keys)?;
            Ok((entry, record))
        });
        match read {
            Ok(one) => group.push(one),
            Err(e) => {
                let _ = send(Ok(Arc::new(group))) && send(Err(e));
                return;
            }
        }
        if group.len() == GROUP {
            let full = std::mem::replace(&mut group, Vec::with_capacity(GROUP));
            if !send(Ok(Arc::new(full))) {
                return;
            }
        }
    }
    send(Ok(Arc::new(group)));
}
