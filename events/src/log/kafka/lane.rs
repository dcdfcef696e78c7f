//! One consumer on one thread, told what to read, that feeds at most one reader of each partition.
//!
//! A message goes from librdkafka's one queue into its reader's buffer; a full buffer pauses its partition and no other.
//! There is no group, no rebalance and no queue per partition. The thread sleeps until librdkafka has something or a
//! reader wants something; both ring the same bell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::feed::Sink;
use crate::ids::Offset;
use crate::log::LogError;

/// What a reader wants.
pub(super) enum Command {
    Subscribe(Subscription),
    /// The reader is gone.
    Unsubscribe {
        slot: usize,
        id: u64,
    },
    /// The reader has made room.
    Resume {
        slot: usize,
        id: u64,
    },
}

/// A reader to be fed.
pub(super) struct Subscription {
    pub slot: usize,
    pub id: u64,
    pub from: Offset,
    pub sink: Box<dyn Sink>,
}

/// Wakes the thread.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }

    /// Waits until it rings, if it has not since the last time.
    pub fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.changed.wait_for(&mut rung, timeout);
        }
        *rung = false;
    }
}

struct Desk {
    /// Per slot: a reader is being fed, or will be.
    taken: Vec<bool>,
    commands: Vec<Command>,
    /// The thread takes commands.
    open: bool,
    /// When the last reader left.
    unused_since: Option<Instant>,
    /// What is durable is still read, then all end.
    closing: bool,
}

/// What others hold of a lane.
pub(super) struct LaneHandle {
    desk: Mutex<Desk>,
    pub bell: Arc<Bell>,
}

impl LaneHandle {
    pub fn new(slots: usize) -> Self {
        Self {
            desk: Mutex::new(Desk {
                taken: vec![false; slots],
                commands: Vec::new(),
                open: true,
                unused_since: None,
                closing: false,
            }),
            bell: Arc::default(),
        }
    }

    /// Takes a reader, unless the partition has one already or the lane has ended.
    pub fn subscribe(&self, subscription: Subscription) -> Result<(), Subscription> {
        {
            let mut desk = self.desk.lock();
            let slot = subscription.slot;
            if !desk.open || desk.taken.get(slot).copied().unwrap_or(true) {
                return Err(subscription);
            }
            desk.taken[slot] = true;
            desk.unused_since = None;
            desk.commands.push(Command::Subscribe(subscription));
        }
        self.bell.ring();
        Ok(())
    }

    /// The reader is gone: the partition is free for the next at once, as commands are carried out in order.
    pub fn unsubscribe(&self, slot: usize, id: u64) {
        {
            let mut desk = self.desk.lock();
            if let Some(taken) = desk.taken.get_mut(slot) {
                *taken = false;
            }
            desk.commands.push(Command::Unsubscribe { slot, id });
        }
        self.bell.ring();
    }

    pub fn resume(&self, slot: usize, id: u64) {
        self.desk.lock().commands.push(Command::Resume { slot, id });
        self.bell.ring();
    }

    pub fn close(&self) {
        self.desk.lock().closing = true;
        self.bell.ring();
    }

    pub fn has_ended(&self) -> bool {
        !self.desk.lock().open
    }

    pub fn is_closing(&self) -> bool {
        self.desk.lock().closing
    }

    /// What there is to do, in order.
    pub fn commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.desk.lock().commands)
    }

    /// Ends the lane if it has had no reader for `patience`. `true`: it has ended.
    pub fn end_if_unused(&self, now: Instant, patience: Duration) -> bool {
        let mut desk = self.desk.lock();
        if desk.taken.contains(&true) || !desk.commands.is_empty() {
            desk.unused_since = None;
            return false;
        }
        let since = *desk.unused_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= patience {
            desk.open = false;
        }
        !desk.open
    }

    /// However the thread ends: nobody waits for it.
    pub fn end(&self, error: &LogError) {
        let commands = {
            let mut desk = self.desk.lock();
            desk.open = false;
            std::mem::take(&mut desk.commands)
        };
        for command in commands {
            if let Command::Subscribe(subscription) = command {
                subscription.sink.end(error.clone());
            }
        }
    }
}
