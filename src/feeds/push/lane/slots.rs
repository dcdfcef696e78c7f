//! A lane's share of the attempts that may be on their way to one receiver at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use gatelog_events::clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a slot serves one attempt after another before it is another lane's turn. To hand it on at once would wake
/// another lane for every record.
const TURN: Duration = Duration::from_millis(5);

/// The right to have one attempt on its way.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    until: Instant,
}

/// See the module.
pub(super) struct Slots {
    all: Arc<Semaphore>,
    free: Vec<Slot>,
    /// For the next one, once there was none.
    waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
}

impl Slots {
    /// `all` are those of all lanes to the receiver. It must never be closed.
    pub fn new(all: Arc<Semaphore>) -> Self {
        Self {
            all,
            free: Vec::new(),
            waiting: None,
        }
    }

    /// A slot, if there is one now; else [`came`](Self::came) says when.
    pub fn take(&mut self) -> Option<Slot> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        if self.waiting.is_some() {
            return None;
        }
        match self.all.clone().try_acquire_owned() {
            Ok(permit) => Some(Slot::new(permit)),
            Err(_) => {
                let next = self.all.clone().acquire_owned();
                self.waiting = Some(next.map(Result::ok).boxed());
                None
            }
        }
    }

    /// Waits until a slot is there that was waited for; for ever if none was.
    pub async fn came(&mut self) {
        let Some(waiting) = &mut self.waiting else {
            return std::future::pending().await;
        };
        let permit = waiting.await;
        self.waiting = None;
        self.free.extend(permit.map(Slot::new));
    }

    /// Takes a slot back whose attempt has landed.
    pub fn give_back(&mut self, slot: Slot) {
        if clock::monotonic() < slot.until {
            self.free.push(slot);
        }
    }

    /// Leaves to other lanes what this one does not need now.
    pub fn rest(&mut self) {
        self.free.clear();
        self.waiting = None;
    }
}

impl Slot {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: permit,
            until: clock::monotonic() + TURN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_is_kept_for_its_turn_and_left_to_who_waits() {
        let all = Arc::new(Semaphore::new(1));
        let (mut one, mut other) = (Slots::new(all.clone()), Slots::new(all));
        let slot = one.take().unwrap();
        assert!(other.take().is_none());
        assert!(other.came().now_or_never().is_none());
        one.give_back(slot);
        assert!(other.came().now_or_never().is_none(), "it is kept");
        let slot = Slot {
            until: clock::monotonic(),
            ..one.take().unwrap()
        };
        one.give_back(slot);
        assert!(one.take().is_none(), "its turn is over, and another waits");
        other.came().await;
        assert!(other.take().is_some(), "and is dropped here");
        one.came().await;
        assert!(one.take().is_some());
    }

    #[tokio::test]
    async fn who_needs_nothing_keeps_nothing() {
        let all = Arc::new(Semaphore::new(1));
        let (mut one, mut other) = (Slots::new(all.clone()), Slots::new(all.clone()));
        let slot = one.take().unwrap();
        assert!(other.take().is_none());
        one.give_back(slot);
        other.rest();
        one.rest();
        assert_eq!(all.available_permits(), 1);
        assert!(one.came().now_or_never().is_none());
    }
}
