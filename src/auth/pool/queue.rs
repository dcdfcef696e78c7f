//! A first-in, first-out queue between async callers and the pool's threads. A lock held for nanoseconds is all that
//! hashes of milliseconds need; under load no thread sleeps, so a push wakes nobody.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Why nothing was queued.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Full,
    Closed,
}

/// The queue. Items go in order of arrival to whichever thread is free.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                closed: false,
            }),
            ready: Condvar::new(),
        }
    }

    /// Adds an item unless `limit` are waiting; abandoned ones make room before anybody is refused.
    pub fn push(&self, item: T, limit: usize, is_abandoned: impl Fn(&T) -> bool) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        if state.items.len() >= limit {
            state.items.retain(|i| !is_abandoned(i));
        }
        if state.items.len() >= limit {
            return Err(Refusal::Full);
        }
        state.items.push_back(item);
        drop(state);
        self.ready.notify_one();
        Ok(())
    }

    /// The next item, or `None` when the queue is closed. `when_idle` is called once after waiting for `idle`.
    pub fn pop(&self, idle: Duration, when_idle: impl FnOnce()) -> Option<T> {
        let mut state = self.state.lock();
        let mut when_idle = Some(when_idle);
        loop {
            if state.closed {
                return None;
            }
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if when_idle.is_none() {
                self.ready.wait(&mut state);
            } else if self.ready.wait_for(&mut state, idle).timed_out()
                && state.items.is_empty()
                && let Some(when_idle) = when_idle.take()
            {
                drop(state);
                when_idle();
                state = self.state.lock();
            }
        }
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    /// Drops what waits and lets every `pop` return `None`.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.items.clear();
        drop(state);
        self.ready.notify_all();
    }
}
