//! Reading one partition: what is there in large pieces, then what comes as it comes.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::runtime::Handle;

use super::format;
use super::state::Shared;
use super::{files, index};
use crate::ids::{Offset, Partition, Position, Stream};
use crate::log::{Entry, LogError};

/// The first piece is small, for readers of a single record; each further one is twice as large.
const FIRST_PIECE: usize = 32 << 10;
const LARGEST_PIECE: usize = 1 << 20;
/// Records with more than this between them are read apart.
const LARGEST_GAP: u32 = 64 << 10;
/// Room for the last record of a piece, whose length is not known before it is read.
const LAST_RECORD: usize = 4 << 10;
/// Places taken from the last segment's index at once.
const WINDOW: usize = 16 << 10;

/// All records of a partition from `from` on, then those to come, then [`LogError::Closed`].
pub fn stream(
    shared: Arc<Shared>,
    slot: usize,
    (stream, partition): (Stream, Partition),
    from: Offset,
) -> BoxStream<'static, Result<Entry, LogError>> {
    let end = shared.ends[slot].clone();
    let cursor = Cursor {
        shared,
        slot,
        next: Position {
            stream,
            partition,
            offset: from,
        },
        piece: FIRST_PIECE,
        window: None,
    };
    stream::unfold(Some((cursor, end)), |reading| async move {
        let (cursor, mut end) = reading?;
        let next = cursor.next.offset;
        if end.wait_for(|end| *end > next).await.is_err() {
            return Some((vec![Err(LogError::Closed)], None));
        }
        // A thread that belongs to no runtime may wait for the disk itself.
        let read = match Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(move || cursor.read()).await,
            Err(_) => Ok(cursor.read()),
        };
        match read {
            Ok((Ok(entries), cursor)) => Some((
                entries.into_iter().map(Ok).collect::<Vec<_>>(),
                Some((cursor, end)),
            )),
            Ok((Err(e), _)) => Some((vec![Err(e)], None)),
            // The runtime shuts down.
            Err(_) => Some((vec![Err(LogError::Closed)], None)),
        }
    })
    .flat_map(stream::iter)
    .boxed()
}

/// Where a reader stands.
struct Cursor {
    shared: Arc<Shared>,
    slot: usize,
    next: Position,
    /// Bytes to read at once.
    piece: usize,
    window: Option<Window>,
}

/// Places of consecutive records in one segment.
struct Window {
    segment: u64,
    file: Arc<File>,
    /// Offset of the first record of `places`.
    first: Offset,
    places: Vec<u32>,
    /// No byte from here on belongs to these records.
    end: u64,
}

impl Window {
    fn index(&self, offset: Offset) -> Option<usize> {
        let index = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        (index < self.places.len()).then_some(index)
    }
}

impl Cursor {
    /// Reads some records, at least one. Blocks. Must be called only if the next record is durable.
    fn read(mut self) -> (Result<Vec<Entry>, LogError>, Self) {
        let entries = self.read_piece();
        (entries, self)
    }

    fn read_piece(&mut self) -> Result<Vec<Entry>, LogError> {
        let window = match self.window.take() {
            Some(w) if w.index(self.next.offset).is_some() => w,
            old => self.locate(old)?,
        };
        let entries = self.read_from(&window);
        self.window = Some(window);
        self.piece = LARGEST_PIECE.min(self.piece * 2);
        entries
    }

    /// Finds the places of the next records.
    fn locate(&self, old: Option<Window>) -> Result<Window, LogError> {
        let (shared, slot, next) = (&self.shared, self.slot, self.next.offset);
        let (segment, end, first, recent) = {
            let state = shared.state.read();
            let i = state.segment_of(slot, next);
            let start = state.segments[i].header.starts[slot];
            let number = state.segments[i].header.segment;
            if i + 1 == state.segments.len() {
                let known = &state.places[slot];
                let from = known.len().min((next - start) as usize);
                let to = known.len().min(from + WINDOW);
                (number, state.len, next, Some(known[from..to].to_vec()))
            } else {
                (number, state.len_of(i), start, None)
            }
        };
        let places = match recent {
            Some(places) => places,
            None => index::places(&shared.dir, segment, shared.slots.count(), slot)?,
        };
        let file = match old {
            Some(w) if w.segment == segment => w.file,
            _ => {
                let path = files::segment_path(&shared.dir, segment);
                Arc::new(File::open(&path).map_err(|e| files::io_error(&path, e))?)
            }
        };
        Ok(Window {
            segment,
            file,
            first,
            places,
            end,
        })
    }

    /// Reads the next records of the window that stand close together.
    fn read_from(&mut self, window: &Window) -> Result<Vec<Entry>, LogError> {
        let path = files::segment_path(&self.shared.dir, window.segment);
        let bad = |at: u64, what: &str| files::damaged(&path, at, what);
        let Some(i) = window.index(self.next.offset) else {
            return Err(bad(0, "a record is missing from the index"));
        };
        let places = self.close_together(&window.places[i..]);
        let start = places[0];
        let span = (places[places.len() - 1] - start) as usize + LAST_RECORD;
        let read = |len: usize| {
            let len = len.min(window.end.saturating_sub(u64::from(start)) as usize);
            let mut bytes = vec![0; len];
            let got = files::read_full(&window.file, u64::from(start), &mut bytes);
            bytes.truncate(got.map_err(|e| files::io_error(&path, e))?);
            Ok(Bytes::from(bytes))
        };
        let mut bytes = read(span)?;
        let mut entries = Vec::with_capacity(places.len());
        for place in places {
            let at = (place - start) as usize;
            let len = bytes.get(at..).and_then(format::record_len);
            let whole = len.is_some_and(|len| at + len <= bytes.len());
            if !whole && !entries.is_empty() {
                break;
            }
            if !whole {
                bytes = read(len.unwrap_or(LAST_RECORD))?;
            }
            let entry = format::get_record(&bytes, at).map_err(|what| bad(u64::from(*place), what))?;
            if entry.position != self.next {
                return Err(bad(
                    u64::from(*place),
                    "another record stands where the index says",
                ));
            }
            self.next.offset += 1;
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The first of these places that are worth reading at once. Not empty if `places` is not.
    fn close_together<'p>(&self, places: &'p [u32]) -> &'p [u32] {
        let more = places
            .windows(2)
            .take_while(|w| {
                let fits = (w[1].saturating_sub(places[0]) as usize) < self.piece;
                w[0] < w[1] && w[1] - w[0] <= LARGEST_GAP && fits
            })
            .count();
        &places[..=more]
    }
}
