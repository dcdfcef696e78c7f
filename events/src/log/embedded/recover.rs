//! Opening a log: finds its segments, checks that they fit together, repairs a torn tail, refuses other damage.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand;
use uuid::Uuid;

use super::appender::{Tail, create_segment};
use super::files::{self, damaged, io_error, mismatch};
use super::format::{GroupSeal, STREAMS, SegmentHeader, Slots};
use super::index;
use super::marker::Marker;
use super::segment::{self, Broken, Groups, find_group};
use super::state::{Segment, State};
use crate::failpoint;
use crate::ids::Offset;
use crate::log::LogError;

/// A log as it was found, or created.
pub struct Found {
    pub log_id: Uuid,
    pub slots: Slots,
    pub state: State,
    pub ends: Vec<Offset>,
    pub next_group: u64,
}

/// Finds or creates the log, repairs it, and gives the file to append to. The caller holds the lock.
pub fn for_appending(dir: &Path, partitions: u16) -> Result<(Found, Tail), LogError> {
    let listing = files::list(dir)?;
    for path in &listing.temporary {
        files::remove_durably(path).map_err(|e| io_error(path, e))?;
    }
    let marker = Marker::read(dir)?;
    if listing.segments.is_empty() {
        if marker.is_some() || !listing.indexes.is_empty() {
            return Err(damaged(
                &files::segment_path(dir, 1),
                0,
                "all segments are missing",
            ));
        }
        create(dir, partitions)?;
    }
    let headers = headers(dir)?;
    let last = &headers[headers.len() - 1];
    if last.partitions != partitions {
        return Err(mismatch(
            dir,
            format!(
                "it has {} partitions, {partitions} are configured; configure {}, or copy it to a new log with {partitions}",
                last.partitions, last.partitions
            ),
        ));
    }
    let sealed = seal_all(dir, &headers)?;
    let found = scan_last(dir, &headers, sealed, |file, groups, broken| {
        cut_torn_tail(file, groups, broken, last, marker)
    })?;
    check_marker(dir, marker, &found)?;
    let tail = tail(dir, &found)?;
    Ok((found, tail))
}

/// Makes what was found durable and takes away what would no longer be true after the first append.
pub fn begin_appending(dir: &Path, tail: &Tail) -> Result<(), LogError> {
    // What a killed process wrote may not be on the disk yet; from here on it counts as durable.
    let path = files::segment_path(dir, tail.segment);
    tail.file.sync_all().map_err(|e| io_error(&path, e))?;
    let stale = files::index_path(dir, tail.segment);
    files::remove_durably(&stale).map_err(|e| io_error(&stale, e))?;
    let clean = dir.join(files::CLEAN);
    files::remove_durably(&clean).map_err(|e| io_error(&clean, e))?;
    failpoint::hit("log.clean_removed");
    Ok(())
}

/// Finds the log as it is at this moment, changing nothing. Another process may be appending.
pub fn for_reading(dir: &Path) -> Result<Found, LogError> {
    if files::list(dir)?.segments.is_empty() {
        return Err(mismatch(dir, "there is no log here"));
    }
    let headers = headers(dir)?;
    let sealed = headers
        .windows(2)
        .map(|w| sealed_len(dir, &w[0], &w[1]))
        .collect::<Result<Vec<_>, _>>()?;
    // Read before the segment: an owner that opens the log meanwhile only makes it longer.
    let marker = Marker::read(dir)?;
    let mut given_up = None;
    let found = scan_last(dir, &headers, sealed, |file, groups, broken| {
        let Broken::Bad { at: place, .. } = broken else {
            return Err(broken.at(groups.path()));
        };
        let (at, ..) = groups.reached();
        let len = file.metadata().map_err(|e| io_error(groups.path(), e))?.len();
        let last = &headers[headers.len() - 1];
        let after =
            find_group(file, last.log_id, last.segment, at, len).map_err(|e| io_error(groups.path(), e))?;
        if after.is_none() {
            // The group that is being written right now, or a torn tail: the end for this reader.
            return Ok(Next::Stop);
        }
        if given_up == Some(at) {
            return Err(damaged(groups.path(), place, "intact records follow broken ones"));
        }
        // The group was whole by the time the one after it was begun: look again, once.
        given_up = Some(at);
        groups.refresh(len);
        Ok(Next::Again)
    })?;
    check_not_shorter(dir, marker, &found)?;
    Ok(found)
}

fn create(dir: &Path, partitions: u16) -> Result<(), LogError> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| io_error(dir, std::io::Error::other("no random bytes")))?;
    let header = SegmentHeader {
        streams: STREAMS,
        partitions,
        segment: 1,
        log_id: uuid::Builder::from_random_bytes(id).into_uuid(),
        first_group: 0,
        starts: vec![0; Slots { partitions }.count()],
    };
    create_segment(dir, &header).map_err(|e| io_error(&files::segment_path(dir, 1), e))?;
    // The directory's own name must last as well.
    dir.canonicalize()
        .and_then(|d| d.parent().map_or(Ok(()), files::sync_dir))
        .map_err(|e| io_error(dir, e))
}

/// The headers of all segments; they fit together, and none is missing.
fn headers(dir: &Path) -> Result<Vec<SegmentHeader>, LogError> {
    let mut headers: Vec<SegmentHeader> = Vec::new();
    for (number, expected) in files::list(dir)?.segments.into_iter().zip(1..) {
        let path = files::segment_path(dir, expected);
        if number != expected {
            return Err(damaged(&path, 0, "the segment is missing"));
        }
        let (_, header) = segment::open(dir, number)?;
        if let Some(before) = headers.last() {
            if (before.log_id, before.partitions) != (header.log_id, header.partitions) {
                return Err(damaged(&path, 0, "the segment is of another log"));
            }
            let grows = before.starts.iter().zip(&header.starts).all(|(a, b)| a <= b);
            if !grows || before.first_group >= header.first_group {
                return Err(damaged(&path, 0, "the segment does not follow the one before"));
            }
        }
        headers.push(header);
    }
    Ok(headers)
}

/// The length of a sealed segment, if its index and size are right.
fn sealed_len(dir: &Path, header: &SegmentHeader, after: &SegmentHeader) -> Result<u64, LogError> {
    let slots = Slots {
        partitions: header.partitions,
    }
    .count();
    let (_, summary) = index::open(dir, header.segment, slots)?;
    let counts_fit = (0..slots).all(|s| header.starts[s] + u64::from(summary.count(s)) == after.starts[s]);
    if summary.log_id != header.log_id || summary.next_group != after.first_group || !counts_fit {
        let path = files::index_path(dir, header.segment);
        return Err(damaged(&path, 0, "the index does not fit its segment"));
    }
    let path = files::segment_path(dir, header.segment);
    let len = fs::metadata(&path).map_err(|e| io_error(&path, e))?.len();
    if len != summary.len {
        return Err(damaged(
            &path,
            len.min(summary.len),
            format!("it has {len} bytes and should have {}", summary.len),
        ));
    }
    Ok(len)
}

/// The lengths of all sealed segments. An index that is missing or wrong is made again from its segment.
fn seal_all(dir: &Path, headers: &[SegmentHeader]) -> Result<Vec<u64>, LogError> {
    let mut lens = Vec::new();
    for pair in headers.windows(2) {
        let (header, after) = (&pair[0], &pair[1]);
        let index = files::index_path(dir, header.segment);
        let len = match sealed_len(dir, header, after) {
            Ok(len) => len,
            Err(why) => {
                // Fails, with the right place, where it is the segment that is damaged.
                rebuild_index(dir, header, after)?;
                tracing::warn!(index = %index.display(), reason = %why, "the index was made again from its segment");
                sealed_len(dir, header, after)?
            }
        };
        lens.push(len);
    }
    Ok(lens)
}

fn rebuild_index(dir: &Path, header: &SegmentHeader, after: &SegmentHeader) -> Result<(), LogError> {
    let (file, _) = segment::open(dir, header.segment)?;
    let path = files::segment_path(dir, header.segment);
    let len = file.metadata().map_err(|e| io_error(&path, e))?.len();
    let mut groups = Groups::new(dir, Arc::new(file), header, len);
    let mut places = vec![Vec::new(); header.starts.len()];
    groups
        .finish(|r| places[r.slot].push(r.at as u32))
        .map_err(|b| b.at(&path))?;
    let (at, next_group, tally) = groups.reached();
    if next_group != after.first_group || tally.ends != after.starts {
        return Err(damaged(
            &path,
            at,
            "the next segment does not go on where this one ends",
        ));
    }
    index::write(dir, (header.segment, header.log_id), (len, next_group), &places)
        .map_err(|e| io_error(&files::index_path(dir, header.segment), e))
}

/// What to do about bytes that are not a whole group.
enum Next {
    /// The log ends before them.
    Stop,
    /// They may have changed since.
    Again,
}

/// Reads the last segment in full. `on_broken` decides about what is not intact.
fn scan_last(
    dir: &Path,
    headers: &[SegmentHeader],
    sealed: Vec<u64>,
    mut on_broken: impl FnMut(&File, &mut Groups, Broken) -> Result<Next, LogError>,
) -> Result<Found, LogError> {
    let last = &headers[headers.len() - 1];
    let slots = Slots {
        partitions: last.partitions,
    };
    let path = files::segment_path(dir, last.segment);
    let file = Arc::new(File::open(&path).map_err(|e| io_error(&path, e))?);
    let len = file.metadata().map_err(|e| io_error(&path, e))?.len();
    let mut groups = Groups::new(dir, file.clone(), last, len);
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); slots.count()];
    while let Err(broken) = groups.finish(|r| places[r.slot].push(r.at as u32)) {
        match on_broken(&file, &mut groups, broken)? {
            Next::Stop => break,
            Next::Again => {}
        }
    }
    let (len, next_group, tally) = groups.reached();
    let mut segments: Vec<Segment> = headers.iter().map(Segment::new).collect();
    for (segment, len) in segments.iter_mut().zip(sealed) {
        segment.len = len;
    }
    Ok(Found {
        log_id: last.log_id,
        slots,
        ends: tally.ends.clone(),
        next_group,
        state: State {
            segments,
            places,
            len,
        },
    })
}

/// Cuts off what a crash left of the group that was being written. All else is damage.
fn cut_torn_tail(
    file: &File,
    groups: &Groups,
    broken: Broken,
    last: &SegmentHeader,
    marker: Option<Marker>,
) -> Result<Next, LogError> {
    let path = groups.path();
    let Broken::Bad { at: place, what } = broken else {
        return Err(broken.at(path));
    };
    if marker.is_some() {
        return Err(damaged(
            path,
            place,
            format!("{what}, although the log was closed cleanly"),
        ));
    }
    let (keep, ..) = groups.reached();
    let len = file.metadata().map_err(|e| io_error(path, e))?.len();
    if let Some(after) =
        find_group(file, last.log_id, last.segment, keep, len).map_err(|e| io_error(path, e))?
    {
        return Err(damaged(
            path,
            place,
            format!("{what}, and intact records follow at byte {after}"),
        ));
    }
    tracing::warn!(
        segment = %path.display(),
        kept_bytes = keep,
        cut_bytes = len - keep,
        reason = what,
        "the log ended in a record that was never acknowledged; cut off"
    );
    let writable = File::options()
        .write(true)
        .open(path)
        .map_err(|e| io_error(path, e))?;
    writable
        .set_len(keep)
        .and_then(|()| writable.sync_all())
        .map_err(|e| io_error(path, e))?;
    failpoint::hit("log.tail_cut");
    Ok(Next::Stop)
}

/// A log that was closed cleanly must end where it ended then.
fn check_marker(dir: &Path, marker: Option<Marker>, found: &Found) -> Result<(), LogError> {
    match marker {
        Some(marker) if marker != end_of(found) => Err(not_the_clean_end(dir, marker, found)),
        _ => Ok(()),
    }
}

/// For a reader, whom an owner may have overtaken: the log must not end before its clean end.
fn check_not_shorter(dir: &Path, marker: Option<Marker>, found: &Found) -> Result<(), LogError> {
    let end = end_of(found);
    match marker {
        Some(m) if m.log_id != end.log_id || (end.segment, end.len) < (m.segment, m.len) => {
            Err(not_the_clean_end(dir, m, found))
        }
        _ => Ok(()),
    }
}

fn end_of(found: &Found) -> Marker {
    let segment = found.state.segments.last().map_or(0, |s| s.header.segment);
    Marker {
        log_id: found.log_id,
        segment,
        len: found.state.len,
        next_group: found.next_group,
    }
}

fn not_the_clean_end(dir: &Path, marker: Marker, found: &Found) -> LogError {
    let what = format!(
        "the log ends here, but when it was closed it ended in segment {} at byte {}",
        marker.segment, marker.len
    );
    damaged(
        &files::segment_path(dir, end_of(found).segment),
        found.state.len,
        what,
    )
}

fn tail(dir: &Path, found: &Found) -> Result<Tail, LogError> {
    let (segment, first_group) = found
        .state
        .segments
        .last()
        .map_or((0, 0), |s| (s.header.segment, s.header.first_group));
    let path = files::segment_path(dir, segment);
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| io_error(&path, e))?;
    Ok(Tail {
        file,
        segment,
        at: found.state.len,
        first_group,
        next_group: found.next_group,
        offsets: found.ends.clone(),
        seal: GroupSeal::new(found.log_id, segment),
    })
}
