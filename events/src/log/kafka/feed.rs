//! Between the thread that fetches and one reader: a buffer that is bounded, and a stream that reads from it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;
use parking_lot::Mutex;

use super::lane::LaneHandle;
use super::places::Topics;
use crate::log::LogError;
use rdkafka::message::BorrowedMessage;

/// Makes what a reader wants of a message, or says what is wrong with it.
pub(super) type Decode<T> = fn(&Topics, usize, &BorrowedMessage<'_>) -> Result<T, LogError>;

struct State<T> {
    /// Each with its size in bytes.
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// The fetching side holds the partition back.
    paused: bool,
    /// Nothing more will come; the error is yet to be told.
    ended: bool,
    error: Option<LogError>,
    waker: Option<Waker>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    limit: usize,
}

/// The fetching side. Dropping it ends the reader's stream with an error.
pub(super) struct Source<T> {
    shared: Arc<Shared<T>>,
    decode: Decode<T>,
}

/// What the thread that fetches sees of a reader.
pub(super) trait Sink: Send {
    /// Takes a message. `true`: that is enough for now, until the reader asks for more.
    fn take(&self, topics: &Topics, slot: usize, message: &BorrowedMessage<'_>) -> Result<bool, LogError>;
    /// Nothing more will come.
    fn end(&self, error: LogError);
}

/// What one record costs beside its bytes.
const RECORD: usize = 128;

impl<T: Send> Sink for Source<T> {
    fn take(&self, topics: &Topics, slot: usize, message: &BorrowedMessage<'_>) -> Result<bool, LogError> {
        let item = (self.decode)(topics, slot, message)?;
        let size = RECORD + message.key_len() + message.payload_len();
        let (full, waker) = {
            let mut state = self.shared.state.lock();
            state.items.push_back((item, size));
            state.bytes += size;
            state.paused = state.bytes >= self.shared.limit;
            (state.paused, state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(full)
    }

    fn end(&self, error: LogError) {
        let waker = {
            let mut state = self.shared.state.lock();
            if !state.ended {
                state.ended = true;
                state.error = Some(error);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Source<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.shared.state.lock();
            if !state.ended {
                state.ended = true;
                state.error = Some(LogError::Closed);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A buffer and its reader. `limit` is in bytes.
pub(super) fn feed<T>(limit: usize, decode: Decode<T>) -> (Source<T>, Buffer<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            items: VecDeque::new(),
            bytes: 0,
            paused: false,
            ended: false,
            error: None,
            waker: None,
        }),
        limit,
    });
    (
        Source {
            shared: shared.clone(),
            decode,
        },
        Buffer(shared),
    )
}

/// The reader's side, before it knows who fetches for it.
pub(super) struct Buffer<T>(Arc<Shared<T>>);

impl<T> Buffer<T> {
    pub fn reader(self, lane: Arc<LaneHandle>, slot: usize, id: u64) -> Reader<T> {
        Reader {
            shared: self.0,
            lane,
            slot,
            id,
        }
    }
}

/// The stream of one reader. Dropping it ends the fetching.
pub(super) struct Reader<T> {
    shared: Arc<Shared<T>>,
    lane: Arc<LaneHandle>,
    slot: usize,
    id: u64,
}

impl<T> Stream for Reader<T> {
    type Item = Result<T, LogError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.state.lock();
        let Some((item, size)) = state.items.pop_front() else {
            if state.ended {
                return Poll::Ready(state.error.take().map(Err));
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= size;
        let resume = state.paused && state.bytes <= self.shared.limit / 2;
        if resume {
            state.paused = false;
        }
        drop(state);
        if resume {
            self.lane.resume(self.slot, self.id);
        }
        Poll::Ready(Some(Ok(item)))
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.lane.unsubscribe(self.slot, self.id);
    }
}
