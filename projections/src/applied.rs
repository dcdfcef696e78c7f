//! How far each projection has come, for those who wait for a position, for readiness and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatelog_events::ids::{Offset, Partition, Position, Stream};
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// One projection's progress. Shared by the one who folds and those who wait.
#[derive(Debug)]
pub struct Applied {
    projection: &'static str,
    partitions: u16,
    /// Offset of the next record to fold, per stream and partition.
    next: Vec<AtomicU64>,
    stopped: RwLock<BTreeMap<(Stream, Partition), Stopped>>,
    moved: Arc<Notify>,
}

/// Why a projection stands still in a partition. It never skips what it cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    pub position: Position,
    pub reason: String,
}

/// The projection did not reach the position in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{projection} has folded {stream}:{partition} up to, but not including, offset {next}")]
pub struct Behind {
    pub projection: &'static str,
    pub stream: Stream,
    pub partition: Partition,
    pub next: Offset,
}

impl Applied {
    pub fn new(projection: &'static str, partitions: u16) -> Self {
        Self {
            projection,
            partitions,
            next: (0..Stream::ALL.len() * usize::from(partitions))
                .map(|_| AtomicU64::new(0))
                .collect(),
            stopped: RwLock::default(),
            moved: Arc::default(),
        }
    }

    pub fn projection(&self) -> &'static str {
        self.projection
    }

    fn slot(&self, stream: Stream, partition: Partition) -> Option<&AtomicU64> {
        let row = Stream::ALL.iter().position(|s| *s == stream)?;
        if partition.0 >= self.partitions {
            return None;
        }
        self.next
            .get(row * usize::from(self.partitions) + usize::from(partition.0))
    }

    /// Offset of the next record to fold.
    pub fn next(&self, stream: Stream, partition: Partition) -> Offset {
        self.slot(stream, partition)
            .map_or(0, |n| n.load(Ordering::Acquire))
    }

    /// Says that everything below `next` is folded and can be read. Wakes those who wait with [`wake`](Self::wake).
    pub fn set(&self, stream: Stream, partition: Partition, next: Offset) {
        if let Some(slot) = self.slot(stream, partition) {
            slot.store(next, Ordering::Release);
        }
    }

    pub fn wake(&self) {
        self.moved.notify_waiters();
    }

    /// Completes when more is folded after the call, also before it is first polled: what is looked at in between misses
    /// nothing.
    pub fn moved(&self) -> OwnedNotified {
        self.moved.clone().notified_owned()
    }

    pub fn stop(&self, at: Stopped) {
        self.stopped
            .write()
            .insert((at.position.stream, at.position.partition), at);
    }

    /// Where it stands still, if anywhere.
    pub fn stopped(&self) -> Vec<Stopped> {
        self.stopped.read().values().cloned().collect()
    }

    /// Whether it stands still before it has folded the record at `position`.
    pub fn is_stopped_before(&self, position: Position) -> bool {
        let stopped = self.stopped.read();
        stopped
            .get(&(position.stream, position.partition))
            .is_some_and(|s| s.position.offset <= position.offset)
    }

    pub fn is_stopped(&self, stream: Stream, partition: Partition) -> bool {
        self.stopped.read().contains_key(&(stream, partition))
    }

    /// Waits until the record at `position` is folded.
    pub async fn wait_for(&self, position: Position, at_most: Duration) -> Result<(), Behind> {
        let (stream, partition) = (position.stream, position.partition);
        let reached = async {
            loop {
                let moved = self.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if self.next(stream, partition) > position.offset {
                    return;
                }
                moved.await;
            }
        };
        let next = |()| self.next(stream, partition);
        if self.slot(stream, partition).is_some() && tokio::time::timeout(at_most, reached).await.is_ok() {
            return Ok(());
        }
        Err(Behind {
            projection: self.projection,
            stream,
            partition,
            next: next(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position {
            stream: Stream::Identity,
            partition: Partition(1),
            offset,
        }
    }

    #[tokio::test]
    async fn a_waiter_wakes_when_the_position_is_folded() {
        let applied = Arc::new(Applied::new("p", 2));
        let waiting = {
            let applied = applied.clone();
            tokio::spawn(async move { applied.wait_for(at(5), Duration::from_secs(10)).await })
        };
        tokio::task::yield_now().await;
        for next in [5, 6] {
            applied.set(Stream::Identity, Partition(1), next);
            applied.wake();
        }
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn what_is_folded_before_anybody_waits_is_not_missed() {
        let applied = Applied::new("p", 2);
        let moved = applied.moved();
        applied.wake();
        let waited = tokio::time::timeout(Duration::from_secs(10), moved).await;
        assert!(waited.is_ok());
        let again = tokio::time::timeout(Duration::ZERO, applied.moved()).await;
        assert!(again.is_err(), "nothing was folded since");
    }

    #[tokio::test]
    async fn a_waiter_learns_how_far_it_is() {
        let applied = Applied::new("p", 2);
        applied.set(Stream::Identity, Partition(1), 3);
        let behind = applied
            .wait_for(at(3), Duration::from_millis(5))
            .await
            .unwrap_err();
        assert_eq!(behind.next, 3);
        let nowhere = Position {
            partition: Partition(9),
            ..at(0)
        };
        assert!(applied.wait_for(nowhere, Duration::from_millis(5)).await.is_err());
    }
}
