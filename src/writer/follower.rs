//! The follower: one thread that reads what other nodes write to the partitions that this node does not own.

use std::sync::Arc;
use std::thread::JoinHandle;

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::select_all;
use gatelog_events::ids::Position;
use gatelog_events::log::LogError;
use gatelog_projections::folder::Decoded;
use tokio::sync::{mpsc, oneshot};

use super::takeover::{Parts, TakeoverError, spawn};

/// Records that are read ahead of the decider.
const AHEAD: usize = 1024;

type Read = Result<Decoded, LogError>;

/// Records of other nodes, as they come. Stops when it is dropped.
pub(super) struct Follower {
    records: mpsc::Receiver<Read>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Reads each of these partitions from its position on.
    pub fn start(parts: &Arc<Parts>, from: Vec<Position>) -> Result<Self, TakeoverError> {
        let (out, records) = mpsc::channel(AHEAD);
        let (stop, stopped) = oneshot::channel();
        let parts = parts.clone();
        let thread = spawn("follower", move || {
            block_on(async {
                tokio::select! {
                    () = follow(&parts, from, out) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self {
            records,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The next record; an error is the last. Nothing once it has ended.
    pub async fn next(&mut self) -> Option<Read> {
        self.records.recv().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn follow(parts: &Parts, from: Vec<Position>, out: mpsc::Sender<Read>) {
    let read = |p: &Position| parts.log.read(p.stream, p.partition, p.offset);
    let mut all = select_all(from.iter().map(read));
    while let Some(entry) = all.next().await {
        let record = entry.map(|entry| {
            parts.claims.learn(&entry);
            Decoded::read(&entry, parts.keys.as_ref())
        });
        let failed = record.is_err();
        if out.send(record).await.is_err() || failed {
            return;
        }
    }
}
